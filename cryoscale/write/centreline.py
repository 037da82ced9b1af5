"""The main centre line of a glacier, and so its length, as the RGI 7 measures it.

The method is that of Kienholz et al. (2014, https://doi.org/10.5194/tc-8-503-2014), which the RGI 7
follows too: heads are local maxima of elevation along the outer ring, and the line from each runs to the
one terminus, the ring's lowest point, over the cheapest cells, where it costs to be high up and to
leave the middle. The longest of these lines is the main one; its length is that on the map, not along
the slope. Parameters are those of OGGM, which made the RGI's lines
(https://github.com/OGGM/oggm/blob/master/oggm/params.cfg).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from shapely.geometry import LineString, Polygon

from cryoscale.write.polygons import burned
from cryoscale.write.zonal import affine_of

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_CELLS = 200_000
"""Of the grid around a glacier, which is coarser where it would have more: the routes of the largest
take a second and 100 MB."""

_SMOOTH_M = 100.0
"""Standard deviation of the smoothing of elevations: what is finer steers no glacier."""
_HEAD_WINDOW_M = 500.0
"""A head is the highest point of the ring within so much of it to either side."""
_HEAD_PERCENTILE = 100 / 3
"""Nor is it among the lowest third of the ice."""
_MIDDLE, _MIDDLE_POWER = 1000.0, 4.25
_HEIGHT, _HEIGHT_POWER = 3000.0, 3.7
_RIM_COST = 50.0
"""How much dearer the rim is than its dearest cell, so that no line takes a short cut from lobe to lobe."""
_LINE_SMOOTH_CELLS = 2.0
"""Standard deviation of the smoothing of a line of cells, whose corners would make it 5 % too long."""


@dataclass(frozen=True)
class Centreline:
    """The main centre line.

    Attributes:
        line: from the head to the terminus, both on the outer ring, in the coordinates of the outline.
        length_m: its length on the map.
    """

    line: LineString
    length_m: float


def centreline(outline: Polygon, elevation: xr.DataArray) -> Centreline | None:
    """The main centre line inside ``outline``; None where there is no elevation at all.

    The grid is the RGI's, 14 m times the root of the area in km2 and 10 m more, at most 100 m, and
    coarser only for a box of more than :data:`MOST_CELLS` such cells. Voids take the elevation of the
    nearest cell that has one.

    Args:
        outline: with its holes, in metres of a projected CRS.
        elevation: (y, x) in m of the same CRS, north up, NaN for no data; may be lazy.
    """
    grid = _Grid.around(outline, elevation)
    if grid is None:
        return None
    ring = _evenly(outline, grid.step_m)
    z_ring = grid.at(ring)
    end = ring[int(np.argmin(z_ring))]
    heads = _heads(ring, z_ring, grid, outline.area)
    lines = [line for line in _routes(grid, heads, end) if line.length > 0]
    if not lines:
        return None
    longest = max(lines, key=lambda line: line.length)
    return Centreline(longest, float(longest.length))


@dataclass(frozen=True)
class _Grid:
    """The cells of a glacier.

    Attributes:
        inside: cells (y, x) that the outline touches.
        z: smoothed elevation (y, x), everywhere.
        affine: of the cells.
    """

    inside: Mask
    z: Floats
    affine: Affine

    @property
    def step_m(self) -> float:
        return float(self.affine.a)

    @classmethod
    def around(cls, outline: Polygon, elevation: xr.DataArray) -> _Grid | None:
        west, south, east, north = outline.bounds
        step_m = min(14.0 * math.sqrt(outline.area / 1e6) + 10.0, 100.0)
        step_m = max(step_m, math.sqrt((east - west) * (north - south) / MOST_CELLS))
        affine = Affine(step_m, 0.0, west - step_m, 0.0, -step_m, north + step_m)
        shape = math.ceil((north - south) / step_m) + 2, math.ceil((east - west) / step_m) + 2
        z = _elevation_on(affine, shape, elevation)
        if z is None:
            return None
        inside = burned(_without_small_holes(outline, step_m**2), affine, shape, all_touched=True)
        return cls(inside, ndimage.gaussian_filter(z, _SMOOTH_M / step_m), affine)

    def places(self, points: Floats) -> Floats:
        """Row and column (2, n) of points (n, 2), 0 at the centre of the first cell."""
        col, row = ~self.affine * points.T
        return np.array([row - 0.5, col - 0.5])

    def at(self, points: Floats) -> Floats:
        """Elevation at points (n, 2)."""
        found = ndimage.map_coordinates(self.z, self.places(points), order=1, mode="nearest")
        return np.asarray(found, np.float64)

    def cost(self) -> Floats:
        """What a metre costs in each cell (Kienholz et al. 2014, equation 2)."""
        distance = ndimage.distance_transform_edt(self.inside)
        z = self.z[self.inside]
        far, low, high = float(distance.max()), float(z.min()), float(z.max())
        cost = ((far - distance) / far * _MIDDLE) ** _MIDDLE_POWER
        if high > low:
            cost += (np.clip((self.z - low) / (high - low), 0.0, 1.0) * _HEIGHT) ** _HEIGHT_POWER
        rim = self.inside & ~ndimage.binary_erosion(self.inside)
        cost[rim] = _RIM_COST * max(float(cost[rim].max()), 1.0)
        return np.asarray(cost + 1.0, np.float64)  # something everywhere, or the graph had no edge there


def _without_small_holes(outline: Polygon, least_m2: float) -> Polygon:
    """The outline without holes that no cell would lie in: a mapped one may have 100,000 of them."""
    holes = shapely.get_rings(outline)[1:]
    large = shapely.area(shapely.polygons(holes)) >= least_m2 if holes.size else slice(0)
    return shapely.polygons(outline.exterior, holes[large])


def _elevation_on(affine: Affine, shape: tuple[int, int], elevation: xr.DataArray) -> Floats | None:
    """Elevation at the centres of cells, linear between those that are known; None where none is."""
    source = affine_of(elevation)
    every = max(int(affine.a / abs(source.a)), 1)
    corners = [affine * (0, 0), affine * (shape[1], shape[0])]
    (left, top), (right, bottom) = (~source * corner for corner in corners)
    y = slice(max(math.floor(top) - 1, 0), max(math.ceil(bottom) + 2, 0), every)
    x = slice(max(math.floor(left) - 1, 0), max(math.ceil(right) + 2, 0), every)
    part = elevation.isel(y=y, x=x)
    read = np.asarray(part.values, np.float64)
    void = ~np.isfinite(read)
    if void.all():
        return None
    if void.any():
        nearest = ndimage.distance_transform_edt(void, return_distances=False, return_indices=True)
        read = read[tuple(nearest)]
    first = source * (x.start + 0.5, y.start + 0.5)
    x_m = affine.c + (np.arange(shape[1]) + 0.5) * affine.a
    y_m = affine.f + (np.arange(shape[0]) + 0.5) * affine.e
    rows, cols = (y_m - first[1]) / (source.e * every), (x_m - first[0]) / (source.a * every)
    places = np.meshgrid(rows, cols, indexing="ij")
    return np.asarray(ndimage.map_coordinates(read, places, order=1, mode="nearest"), np.float64)


def _evenly(outline: Polygon, step_m: float) -> Floats:
    """Points (n, 2) along the outer ring, a step apart."""
    corners = np.asarray(shapely.get_coordinates(outline.exterior), np.float64)
    walked = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    count = max(math.ceil(walked[-1] / step_m), 8)
    # shapely's own interpolation begins at the first corner for every point
    at = np.linspace(0.0, walked[-1], count, endpoint=False)
    return np.column_stack([np.interp(at, walked, corners[:, axis]) for axis in (0, 1)])


def _heads(ring: Floats, z: Floats, grid: _Grid, area_m2: float) -> Floats:
    """Points (n, 2) of the ring where lines begin; of some that are close together the highest.

    Its highest point is always one of them.
    """
    reach = int(np.clip(round(_HEAD_WINDOW_M / grid.step_m), 5, max(len(z) // 5, 1)))
    highest = ndimage.maximum_filter1d(z, 2 * reach + 1, mode="wrap")
    least = np.percentile(grid.z[grid.inside], _HEAD_PERCENTILE)
    found = np.flatnonzero((z == highest) & (z > least))
    found = np.union1d(found, [int(np.argmax(z))])
    apart_m = min(2e-6 * area_m2 + 500.0, 1000.0)
    kept: list[int] = []
    for at in found[np.argsort(-z[found], kind="stable")].tolist():
        if all(math.dist(ring[at], ring[other]) > apart_m for other in kept):
            kept.append(at)
    return ring[kept]


def _routes(grid: _Grid, heads: Floats, end: Floats) -> list[LineString]:
    """The cheapest line from each head to the terminus, where there is one."""
    number = np.full(grid.inside.shape, -1, np.int64)
    number[grid.inside] = np.arange(np.count_nonzero(grid.inside))
    cells = np.argwhere(grid.inside)
    nearest = ndimage.distance_transform_edt(~grid.inside, return_distances=False, return_indices=True)

    def cell(point: Floats) -> int:
        row, col = np.rint(grid.places(point[np.newaxis])[:, 0]).astype(int)
        row, col = np.clip((row, col), 0, np.array(grid.inside.shape) - 1)
        return int(number[tuple(nearest[:, row, col])])

    first = cell(end)
    cost, before = csgraph.dijkstra(
        _graph(grid.cost(), number), directed=False, indices=first, return_predecessors=True
    )
    lines = []
    for head in heads:
        at = cell(head)
        if not np.isfinite(cost[at]):
            continue
        path = [at]
        while path[-1] != first:
            path.append(int(before[path[-1]]))
        row, col = cells[path].T + 0.5
        walked = np.column_stack(grid.affine * np.array([col, row]))
        smooth = ndimage.gaussian_filter1d(walked, _LINE_SMOOTH_CELLS, axis=0, mode="nearest")
        lines.append(LineString(np.concatenate([head[np.newaxis], smooth, end[np.newaxis]])))
    return lines


def _graph(cost: Floats, number: NDArray[np.int64]) -> sparse.csr_matrix:
    """Numbered cells, each joined to its eight neighbours at the mean cost times the distance."""
    height, width = number.shape
    ends, others, weights = [], [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: height - down, max(-right, 0) : width - max(right, 0)]
        there = np.s_[down:, max(right, 0) : width + min(right, 0)]
        joined = (number[here] >= 0) & (number[there] >= 0)
        ends.append(number[here][joined])
        others.append(number[there][joined])
        weights.append((cost[here] + cost[there])[joined] / 2 * math.hypot(down, right))
    count = int(number.max()) + 1
    edges = np.concatenate(weights), (np.concatenate(ends), np.concatenate(others))
    return sparse.csr_matrix(edges, shape=(count, count))
