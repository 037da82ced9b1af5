"""What a run saw where it mapped, kept at 40 m, by which outlines can be doubted at its end.

``evidence`` (layer, y, x) float16 lies beside the picture in ``OUT/quicklook.zarr/<year>/<epsg>``, NaN where
nothing is known; a chunk a block. Each pixel is the mean of sixteen:

=========== ===========================================================================================
ice         share of the mapped pixels that are clean or debris-covered ice
debris      share of the mapped pixels that are debris-covered ice
nir         near-infrared reflectance (B08) of the composite
ndsi        (B03 - B11) / (B03 + B11) of the means of both bands of the composite
day         date of the composite's image, in days from the first of January of the year
persistence share of the dates with a clear look that showed snow or ice
dates       how many dates had a clear look
velocity    surface speed in m/yr
coherence   interferometric coherence
=========== ===========================================================================================

Like the picture it decides no pixel and may be deleted once a run is finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import Polygon

from cryoscale.grid import Block, transformer, zone_bounds_deg
from cryoscale.write import quicklook, store
from cryoscale.write.polygons import burned
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, affine_of, pixels_over

LAYERS = quicklook.EVIDENCE

_NODATA = 255
_FASTEST_M_YR = 6e4
"""Speed above which float16 has no number; no ice is as fast by a factor of three."""
_STRIP_ROWS = 256
_COLLAR_DEG = 0.1
"""That maps may reach over the border of their zone: more than they do, 100 m, as far as 89 degrees north."""
_MOST_CELLS = 400_000
"""Of one outline that are looked at, evenly spread: medians of more are no better."""

Plane = Callable[[str], NDArray[Any] | None]
"""Gives an input (y, x) of a block at 10 m by its name, None where there is none."""


def layers_of(
    plane: Plane, label: NDArray[np.uint8], source_date: NDArray[np.int32], year: int
) -> NDArray[np.float16]:
    """The evidence (layer, y/4, x/4) of a block, from its inputs and what its map says (y, x).

    Inputs are asked for one after the other, so that one of them is in memory at a time.
    """
    shape = (len(LAYERS), label.shape[0] // quicklook.FACTOR, label.shape[1] // quicklook.FACTOR)
    found = np.full(shape, np.nan, np.float16)

    def put(name: str, values: NDArray[np.floating] | None) -> None:
        if values is not None:
            found[LAYERS.index(name)] = quicklook.thinned(np.asarray(values, np.float32))

    mapped = label != _NODATA
    put("ice", np.where(mapped, (label == CLEAN_ICE) | (label == DEBRIS), np.float32(np.nan)))
    put("debris", np.where(mapped, label == DEBRIS, np.float32(np.nan)))
    first = int(np.datetime64(f"{year}-01-01", "D").astype(np.int64))
    put("day", np.where(source_date != 0, source_date - np.float32(first), np.float32(np.nan)))
    for name, source in (("nir", "B08"), ("persistence",) * 2, ("dates", "clear_dates"), ("coherence",) * 2):
        put(name, plane(source))
    speed = plane("velocity")
    put("velocity", None if speed is None else np.minimum(speed, _FASTEST_M_YR))
    green, swir = plane("B03"), plane("B11")
    if green is not None and swir is not None:
        found[LAYERS.index("ndsi")] = _ndsi(quicklook.thinned(green), quicklook.thinned(swir))
    return found


def _ndsi(green: NDArray[np.floating], swir: NDArray[np.floating]) -> NDArray[np.floating]:
    green, swir = np.maximum(green, 0.0), np.maximum(swir, 0.0)
    total = green + swir
    return np.asarray(np.divide(green - swir, total, out=np.full_like(total, np.nan), where=total > 0))


def write_block(out: str, year: int, block: Block, layers: NDArray[np.float16]) -> None:
    """Put the evidence (layer, y, x) of a block in its place; a run begun without any stays without."""
    group, place = quicklook.place_of(out, year, block)
    if "evidence" in group:
        group["evidence"][(slice(None), *place)] = layers  # type: ignore[index]


def open_evidence(out: str, year: int, epsg: int) -> xr.Dataset | None:
    """``evidence`` (layer, y, x) and ``elevation`` (y, x) of one year and zone, read where they are cut.

    None where the run kept none, or it was deleted.
    """
    root = store.open_resting(quicklook.url_of(out))
    try:
        opened = xr.open_zarr(root, group=f"{year}/{epsg}", consolidated=False, chunks=None, zarr_format=3)
    except (FileNotFoundError, KeyError):
        return None
    return opened[["evidence", "elevation"]] if "evidence" in opened else None


@dataclass(frozen=True)
class Cells:
    """The cells of 40 m under one outline, each once, in any order.

    Attributes:
        seen_fraction: share of the outline that was mapped; cells of which nothing was are not among these.
        weight: share of each that lies in the outline.
        layers: (layer, cell) of :data:`LAYERS`, NaN where nothing is known.
        rise_east, rise_north: of the surface, m/m; NaN beside a void.
    """

    seen_fraction: float
    weight: NDArray[np.float32]
    layers: NDArray[np.float32]
    rise_east: NDArray[np.float32]
    rise_north: NDArray[np.float32]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """One layer."""
        return np.asarray(self.layers[LAYERS.index(name)])

    def mean(self, name: str, where: NDArray[np.bool_] | None = None) -> float:
        """Mean of a layer, weighted; NaN where nothing is known."""
        values = self[name]
        known = np.isfinite(values) if where is None else np.isfinite(values) & where
        total = float(self.weight[known].sum())
        return float((values[known] * self.weight[known]).sum()) / total if total else math.nan

    def median(self, name: str, where: NDArray[np.bool_] | None = None) -> float:
        """Median of a layer, weighted; NaN where nothing is known."""
        values = self[name]
        known = np.isfinite(values) if where is None else np.isfinite(values) & where
        if not known.any():
            return math.nan
        order = np.argsort(values[known], kind="stable")
        passed = np.cumsum(self.weight[known][order], dtype=np.float64)
        return float(values[known][order][np.searchsorted(passed, passed[-1] / 2)])


class Evidence:
    """The evidence of a year's zones.

    Args:
        zones: by EPSG code, as :func:`open_evidence` gives them.
    """

    def __init__(self, zones: Mapping[int, xr.Dataset]) -> None:
        self._zones = dict(zones)

    def under(self, outline: Polygon) -> Cells:
        """The cells under an outline (degrees).

        Where maps of two zones reach under it, the cells of both count: they lie side by side but for a rim.
        """
        found = [_empty()]
        for epsg, seen in self._zones.items():
            if not _is_near(outline, epsg):
                continue
            to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
            shape = shapely.transform(outline, lambda xy, to=to_zone: np.column_stack(to.transform(*xy.T)))
            found += _cells(shape, seen)
        many = sum(part.weight.size for part in found)
        every = -(-many // _MOST_CELLS) if many else 1
        joined = Cells(
            min(sum(part.seen_fraction for part in found), 1.0),
            np.concatenate([part.weight for part in found]),
            np.concatenate([part.layers for part in found], axis=1),
            np.concatenate([part.rise_east for part in found]),
            np.concatenate([part.rise_north for part in found]),
        )
        return _every(joined, every)


def _is_near(outline: Polygon, epsg: int) -> bool:
    """Whether an outline (degrees) reaches where the map of a zone may."""
    west, south, east, north = zone_bounds_deg(epsg)
    left, bottom, right, top = outline.bounds
    apart = (left + right - west - east) / 2
    apart = abs(apart - 360.0 * round(apart / 360.0)) - (right - left + east - west) / 2
    return bool(apart < _COLLAR_DEG and bottom < north + _COLLAR_DEG and top > south - _COLLAR_DEG)


def _empty() -> Cells:
    none = np.empty(0, np.float32)
    return Cells(0.0, none, np.empty((len(LAYERS), 0), np.float32), none, none)


def _every(cells: Cells, step: int) -> Cells:
    """Each ``step``-th cell."""
    if step == 1:
        return cells
    return Cells(
        cells.seen_fraction,
        cells.weight[::step],
        cells.layers[:, ::step],
        cells.rise_east[::step],
        cells.rise_north[::step],
    )


def _cells(shape: Polygon, seen: xr.Dataset) -> Iterator[Cells]:
    """The cells under a shape (m) of the zone, some rows at a time; those with a mapped pixel in them."""
    affine = affine_of(seen)
    rows, cols = pixels_over(shape.bounds, affine, (seen.sizes["y"], seen.sizes["x"]))
    if not cols:
        return
    step = max(1, len(rows) * len(cols) // (4 * _MOST_CELLS))
    for first in rows[::_STRIP_ROWS]:
        last = min(first + _STRIP_ROWS, rows.stop)
        corner = affine * Affine.translation(cols.start, first)
        weight = _coverage(shape, corner, (last - first, len(cols)))
        if not weight.any():
            continue
        inner = (slice(first, last), slice(cols.start, cols.stop))
        layers = np.asarray(seen["evidence"][(slice(None), *inner)].values, np.float32)
        taken = (weight > 0) & np.isfinite(layers[LAYERS.index("ice")])
        rises = _rises(seen["elevation"], *inner, affine)
        seen_m2 = float(weight[taken].sum()) * abs(affine.determinant)
        part = Cells(seen_m2 / shape.area, weight[taken], layers[:, taken], *(rise[taken] for rise in rises))
        yield _every(part, step)


_FINER = 4


def _coverage(shape: Polygon, affine: Affine, size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each cell (y, x) that lies in a shape, by its 10 m pixels."""
    inside = burned(shape, affine * Affine.scale(1 / _FINER), (size[0] * _FINER, size[1] * _FINER))
    return np.asarray(inside.reshape(size[0], _FINER, size[1], _FINER).mean(axis=(1, 3)), np.float32)


def _rises(
    elevation: xr.DataArray, rows: slice, cols: slice, affine: Affine
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rise to the east and to the north (y, x) of a part, by central differences."""
    y, x = slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(cols.start - 1, 0), cols.stop + 1)
    z = np.asarray(elevation[y, x].values, np.float32)
    before = (int(rows.start == 0), int(cols.start == 0))
    after = (rows.stop + 1 - y.start - z.shape[0], cols.stop + 1 - x.start - z.shape[1])
    z = np.pad(z, tuple(zip(before, after, strict=True)), constant_values=np.nan)
    if rows.start == 0 or cols.start == 0:
        z = z[: rows.stop - rows.start + 2, : cols.stop - cols.start + 2]
    east = (z[1:-1, 2:] - z[1:-1, :-2]) / np.float32(2 * abs(affine.a))
    north = (z[:-2, 1:-1] - z[2:, 1:-1]) / np.float32(2 * abs(affine.e))
    return east, north
