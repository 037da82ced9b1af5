"""Rasters by the lattice on which their pixels lie: one in memory, several that continue one lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cryoscale.read.globe import is_geographic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Lattice:
    """Where the pixels of a raster lie.

    ``affine`` (a, b, c, d, e, f) takes edges of the lattice to the map, ``x = a column + b row + c`` and
    ``y = d column + e row + f``; the raster is the lattice's ``height`` x ``width`` pixels from
    (``row``, ``column``) on.
    """

    crs: str
    affine: tuple[float, float, float, float, float, float]
    height: int
    width: int
    row: int = 0
    column: int = 0

    def pixels(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Any, Any]:
        """Columns and rows of the lattice (edge based, fractional) of map coordinates."""
        a, b, c, d, e, f = self.affine
        if b == 0.0 and d == 0.0:  # division keeps aligned lattices exactly on whole numbers
            return (x - c) / a, (y - f) / e
        determinant = a * e - b * d
        return (e * (x - c) - b * (y - f)) / determinant, (a * (y - f) - d * (x - c)) / determinant


class Source(Protocol):
    """A raster that can be cut: float or complex values, NaN where there is no data."""

    @property
    def lattice(self) -> Lattice:
        """Where its pixels lie."""

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Values (y, x) of lattice rows x columns, which lie inside the raster."""


@dataclass(frozen=True)
class ArraySource:
    """A raster in memory, (y, x); no data is NaN."""

    lattice: Lattice
    values: NDArray[Any]

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """The part, as a view."""
        top, left = self.lattice.row, self.lattice.column
        return self.values[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


@dataclass(frozen=True)
class MosaicSource:
    """Rasters of one lattice as one raster; the first that has a value wins.

    Tiles of an elevation model continue each other's lattice, so interpolating after the mosaic
    leaves no seam where two of them meet.
    """

    lattice: Lattice
    parts: tuple[tuple[Source, int, int], ...]
    """(source, mosaic row minus source row, mosaic column minus source column)."""

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """The part (y, x), pasted together."""
        out: NDArray[Any] = np.full((rows.stop - rows.start, columns.stop - columns.start), np.nan)
        for source, down, right in self.parts:
            own = source.lattice
            top, bottom = _overlap(rows, own.row + down, own.height)
            first, last = _overlap(columns, own.column + right, own.width)
            if top >= bottom or first >= last:
                continue
            values = source.cut(slice(top - down, bottom - down), slice(first - right, last - right))
            into = out[top - rows.start : bottom - rows.start, first - columns.start : last - columns.start]
            np.copyto(into, values, where=np.isnan(into))
        return out


def _overlap(wanted: slice, start: int, length: int) -> tuple[int, int]:
    return max(wanted.start, start), min(wanted.stop, start + length)


def mosaics(sources: Sequence[Source]) -> list[Source]:
    """Groups real-valued sources that continue one lattice into mosaics, in order of their first member.

    The common lattice is rounded (12 digits of the pixel, a millionth of a pixel of phase) rather than
    taken from one of its tiles, so that it is the same whichever of the tiles a block needs.
    """
    groups: dict[tuple[str, tuple[float, ...], bool], list[tuple[Source, int, int]]] = {}
    alone: list[Source] = []
    for source in sources:
        crs, (a, b, c, d, e, f) = source.lattice.crs, source.lattice.affine
        if b or d:
            alone.append(source)
            continue
        a, e = float(f"{a:.12g}"), float(f"{e:.12g}")
        phase_x, phase_y = round(c / a % 1.0, 6) % 1.0, round(f / e % 1.0, 6) % 1.0
        affine = (a, 0.0, phase_x * a, 0.0, e, phase_y * e)
        part = (source, round(f / e - phase_y), round(c / a - phase_x))
        # either side of the antimeridian is a far end of one lattice: a mosaic each
        side = is_geographic(crs) and abs(c) > 90.0 and c < 0.0
        groups.setdefault((crs, affine, side), []).append(part)
    return [_mosaic(crs, affine, parts) for (crs, affine, _), parts in groups.items()] + alone


def _mosaic(crs: str, affine: tuple[float, ...], parts: list[tuple[Source, int, int]]) -> MosaicSource:
    tops = [source.lattice.row + down for source, down, _ in parts]
    lefts = [source.lattice.column + right for source, _, right in parts]
    height = max(top + part[0].lattice.height for top, part in zip(tops, parts, strict=True)) - min(tops)
    width = max(left + part[0].lattice.width for left, part in zip(lefts, parts, strict=True)) - min(lefts)
    a, b, c, d, e, f = affine
    return MosaicSource(Lattice(crs, (a, b, c, d, e, f), height, width, min(tops), min(lefts)), tuple(parts))
