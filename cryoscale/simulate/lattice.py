"""From the range's own frame to the lattices of the products: UTM zones and degrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M, Window, transformer, utm_epsg, window_over_bounds, zone_bounds_deg
from cryoscale.kernel import kernel

if TYPE_CHECKING:
    from cryoscale.simulate.terrain import MountainRange

F32 = NDArray[np.float32]

OVERLAP_M = 2000.0
"""How far a zone's granule reaches over its meridian."""

ALIGN_PX = 12
"""Granules begin and end at multiples of 120 m, so that 10, 20, 30, 60 and 120 m pixels nest."""

_COARSE_PX = 32
"""Spacing of the nodes between which the map projection is taken as bilinear; its error is below 1 mm."""


@dataclass(frozen=True)
class Lattice:
    """Where the pixel centres (y, x) of a product lie in the range: fractional row and column."""

    row: F32
    col: F32

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the product."""
        return self.row.shape[0], self.row.shape[1]

    def sample(self, field: F32, fill: float = np.nan) -> F32:
        """``field`` (y, x) at the lattice's points, bilinear; ``fill`` outside the range."""
        out: F32 = np.empty(self.shape, np.float32)
        _bilinear(np.ascontiguousarray(field, np.float32), self.row, self.col, np.float32(fill), out)
        return out

    def nearest(self, field: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
        """``field`` (y, x) of the nearest pixel, in its own type; ``fill`` outside the range."""
        rows, cols = field.shape
        j, i = np.rint(self.row).astype(np.int64), np.rint(self.col).astype(np.int64)
        inside = (j >= 0) & (i >= 0) & (j < rows) & (i < cols)
        out = field[np.clip(j, 0, rows - 1), np.clip(i, 0, cols - 1)]
        out[~inside] = fill
        return out


@kernel
def _bilinear(field: F32, row: F32, col: F32, fill: np.float32, out: F32) -> None:
    rows, cols = field.shape
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            y, x = row[j, i], col[j, i]
            # The rim's pixels reach half a pixel beyond their centres.
            if not (-0.5 <= y <= rows - 0.5 and -0.5 <= x <= cols - 0.5):
                out[j, i] = fill
                continue
            y = min(max(y, np.float32(0.0)), np.float32(rows - 1))
            x = min(max(x, np.float32(0.0)), np.float32(cols - 1))
            r, c = min(int(y), rows - 2), min(int(x), cols - 2)
            v, u = y - np.float32(r), x - np.float32(c)
            top = field[r, c] * (1 - u) + field[r, c + 1] * u
            bottom = field[r + 1, c] * (1 - u) + field[r + 1, c + 1] * u
            out[j, i] = top * (1 - v) + bottom * v


@kernel
def _block_mean(field: F32, factor: int, out: F32) -> None:
    share = np.float32(1.0 / (factor * factor))
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            total = np.float32(0.0)
            for y in range(factor):
                for x in range(factor):
                    total += field[j * factor + y, i * factor + x]
            out[j, i] = total * share


def block_mean(field: F32, factor: int) -> F32:
    """Mean (y, x) of ``factor`` x ``factor`` pixels; NaN where any of them is."""
    out: F32 = np.empty((field.shape[0] // factor, field.shape[1] // factor), np.float32)
    _block_mean(field, factor, out)
    return out


def locate(
    mountain_range: MountainRange, crs: str, origin: tuple[float, float], step: float, shape: tuple[int, int]
) -> Lattice:
    """The lattice of a north-up raster in ``crs``: outer corner ``origin`` (x, y), pixels of ``step``."""
    rows, cols = shape
    j = np.minimum(np.arange(0, rows + _COARSE_PX, _COARSE_PX), max(rows - 1, 1)).astype(float)
    i = np.minimum(np.arange(0, cols + _COARSE_PX, _COARSE_PX), max(cols - 1, 1)).astype(float)
    x, y = np.meshgrid(origin[0] + (i + 0.5) * step, origin[1] - (j + 0.5) * step)
    east, north = transformer(crs, mountain_range.crs).transform(x, y)
    at_col = (np.asarray(east) - mountain_range.west_m) / RESOLUTION_M - 0.5
    at_row = (mountain_range.north_m - np.asarray(north)) / RESOLUTION_M - 0.5
    return Lattice(_spread(at_row, j, i, shape), _spread(at_col, j, i, shape))


def _spread(
    nodes: NDArray[np.float64], j: NDArray[np.float64], i: NDArray[np.float64], shape: tuple[int, int]
) -> F32:
    """Bilinear interpolation of ``nodes`` at rows ``j`` and columns ``i`` to every pixel."""
    j, first_j = np.unique(j, return_index=True)
    i, first_i = np.unique(i, return_index=True)
    nodes = nodes[np.ix_(first_j, first_i)]
    down = np.stack([np.interp(np.arange(shape[0]), j, nodes[:, k]) for k in range(i.size)], axis=1)
    at = np.arange(shape[1], dtype=float)
    k = np.clip(np.searchsorted(i, at, side="right") - 1, 0, i.size - 2)
    u = (at - i[k]) / (i[k + 1] - i[k])
    return np.asarray(down[:, k] * (1 - u) + down[:, k + 1] * u, np.float32)


def zone_lattice(mountain_range: MountainRange, window: Window) -> Lattice:
    """The lattice of a window of a UTM zone's 10 m grid."""
    west, _, _, north = window.bounds_m
    return locate(mountain_range, f"EPSG:{window.epsg}", (west, north), RESOLUTION_M, window.shape)


def rim(mountain_range: MountainRange, crs: str, points: int = 33) -> NDArray[np.float64]:
    """The outer edge of the range in ``crs``: a closed ring (n, 2) of x, y."""
    rows, cols = mountain_range.elevation_m.shape
    t = np.linspace(0.0, 1.0, points)[:-1]
    one, zero = np.ones_like(t), np.zeros_like(t)
    u = np.concatenate([t, one, 1 - t, zero, [0.0]]) * cols * RESOLUTION_M
    v = np.concatenate([zero, t, one, 1 - t, [0.0]]) * rows * RESOLUTION_M
    x, y = transformer(mountain_range.crs, crs).transform(
        mountain_range.west_m + u, mountain_range.north_m - v
    )
    return np.column_stack([x, y])


def granules(mountain_range: MountainRange) -> list[Window]:
    """One window a UTM zone that the range touches, each reaching 2 km over the zone's meridians."""
    lonlat = rim(mountain_range, "EPSG:4326")
    zones = sorted({utm_epsg(float(lon), float(lat)) for lon, lat in lonlat})
    return [_granule(mountain_range, epsg, lonlat) for epsg in zones]


def _granule(mountain_range: MountainRange, epsg: int, lonlat: NDArray[np.float64]) -> Window:
    ring = rim(mountain_range, f"EPSG:{epsg}")
    (west, south), (east, north) = ring.min(axis=0), ring.max(axis=0)
    lon_west, _, lon_east, _ = zone_bounds_deg(epsg)
    lats = np.linspace(lonlat[:, 1].min(), lonlat[:, 1].max(), 9)
    project = transformer("EPSG:4326", f"EPSG:{epsg}")
    left, _ = project.transform(np.full(9, lon_west), lats)
    right, _ = project.transform(np.full(9, lon_east), lats)
    bounds = (
        float(max(west, min(left) - OVERLAP_M)),
        float(south),
        float(min(east, max(right) + OVERLAP_M)),
        float(north),
    )
    exact = window_over_bounds(epsg, bounds)
    row, col = exact.row // ALIGN_PX * ALIGN_PX, exact.col // ALIGN_PX * ALIGN_PX
    bottom = -(-(exact.row + exact.height) // ALIGN_PX) * ALIGN_PX
    end = -(-(exact.col + exact.width) // ALIGN_PX) * ALIGN_PX
    return Window(epsg, row, col, bottom - row, end - col)
