"""Flowsheds of an ice body, merged to glaciers, as numbers on the elevation model's grid.

After Kienholz, Hock and Arendt (2013), "A new semi-automatic approach for dividing glacier complexes into
individual glaciers", Journal of Glaciology 59(217), 925-937, https://doi.org/10.3189/2013JoG12J138: flowsheds
of the smoothed surface end at pour points on the rim of the ice; those that the surroundings of one
pour point reach are one glacier; slivers go to the neighbour with the longest common border. Where they carve
a gutter along the rim to lead the water of a tongue's flanks to its end, flowsheds are merged here over
passes that stand low above the higher of two pour points, which needs no gutter and does not depend on
the width of a cell.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from cryoscale.errors import InputError
from cryoscale.kernel import kernel
from cryoscale.write.flow import Flow, drain

_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Rules:
    """When flowsheds are one glacier.

    Attributes:
        smoothing_m: standard deviation of the Gaussian that takes relief off the surface which ice of some
            100 m does not follow.
        pass_m: flowsheds are merged over a pass that stands less than this above the higher of
            their pour points: about the thickness of the ice. A hole that is deeper below its rim is a
            valley, to which ice flows, and not a nunatak.
        reach: radius of a pour point's surroundings by the square root of the area that drains through it:
            14.3 m by the root of the number of cells of 40 m, as https://github.com/OGGM/partitioning has it
            from Kienholz and others.
        reach_most_m: largest such radius.
        reach_up_m: how far the surroundings rise above the pour point, so that those of a glacier that is
            wide and short do not reach over its ridge.
        least_km2: flowsheds of a smaller area are slivers.
    """

    smoothing_m: float = 60.0
    pass_m: float = 100.0
    reach: float = 14.3 / 40.0
    reach_most_m: float = 3500.0
    reach_up_m: float = 200.0
    least_km2: float = 0.1


@dataclass(frozen=True, eq=False)
class Terrain:
    """An elevation model ``(y, x)`` in m, NaN where it knows nothing, north up on square cells in m.

    Cells should not be larger than 40 m: a coarser model is to be resampled to such cells (cubic) first.
    """

    elevation: NDArray[np.float32]
    affine: Affine

    def __post_init__(self) -> None:
        at = self.affine
        if not (at.b == at.d == 0.0 and at.a > 0.0 and math.isclose(at.a, -at.e, rel_tol=1e-3)):
            raise InputError(
                f"an elevation model with the transform {tuple(at)[:6]}",
                "north up and square cells in metres",
                "reproject it to the UTM zone of the ice",
            )

    @property
    def cell_m(self) -> float:
        """Edge of a cell."""
        return float(self.affine.a)

    def around(self, bounds: tuple[float, float, float, float], margin_m: float) -> Terrain:
        """The part with these bounds (west, south, east, north) and a margin, NaN beyond the model."""
        west, south, east, north = bounds
        left, top = ~self.affine * (west - margin_m, north + margin_m)
        right, bottom = ~self.affine * (east + margin_m, south - margin_m)
        x0, y0 = math.floor(left), math.floor(top)
        wanted = np.full((math.ceil(bottom) - y0, math.ceil(right) - x0), np.nan, np.float32)
        rows, columns = (
            slice(max(start, 0), max(min(start + size, of), 0))
            for start, size, of in zip((y0, x0), wanted.shape, self.elevation.shape, strict=True)
        )
        part = self.elevation[rows, columns]
        if part.size:
            y, x = rows.start - y0, columns.start - x0
            wanted[y : y + part.shape[0], x : x + part.shape[1]] = part
        return Terrain(wanted, self.affine * Affine.translation(x0, y0))


@dataclass(frozen=True, eq=False)
class Flowsheds:
    """Glaciers on a grid.

    Attributes:
        numbers: of the glacier of each cell ``(y, x)``, from 0 on; outside the ice that of the nearest.
        affine: of the grid.
    """

    numbers: NDArray[np.int32]
    affine: Affine


def flowsheds(outline: shapely.Polygon, terrain: Terrain, rules: Rules) -> Flowsheds | None:
    """The glaciers of one ice body by the terrain alone; None where no elevation around it is known.

    Cells without elevation take that of the nearest cell that has one, so that they belong with what
    lies next to them.
    """
    cell_m = terrain.cell_m
    grid = terrain.around(outline.bounds, margin_m=4 * rules.smoothing_m + 3 * cell_m)
    unknown = ~np.isfinite(grid.elevation)
    if unknown.all():
        return None
    surface = _surface(grid.elevation, unknown, rules.smoothing_m / cell_m)
    # every cell touched, so that the ice of one polygon is of one piece on the grid
    ice = rasterized([outline], surface.shape, grid.affine, all_touched=True) >= 0
    body, flow = _flow(outline, surface, grid.affine, rules.pass_m)
    sheds = _Sheds.of(flow, ice & body, cell_m)
    sheds.merge_over_passes(rules.pass_m)
    sheds.merge_around_pour_points(rules)
    sheds.merge_slivers(rules.least_km2)
    nearest = ndimage.distance_transform_edt(~body, return_distances=False, return_indices=True)
    numbers = sheds.numbers[tuple(nearest)]
    return Flowsheds(numbers.astype(np.int32), grid.affine)


def _surface(
    elevation: NDArray[np.float32], unknown: NDArray[np.bool_], sigma_px: float
) -> NDArray[np.float32]:
    if unknown.any():
        nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
        elevation = elevation[tuple(nearest)]
    return np.asarray(ndimage.gaussian_filter(elevation, sigma_px, mode="nearest"), np.float32)


def _flow(
    outline: shapely.Polygon, surface: NDArray[np.float32], affine: Affine, pass_m: float
) -> tuple[NDArray[np.bool_], Flow]:
    """The ice with its nunataks ``(y, x)`` and where it drains; ice flows around them, and into valleys."""
    holes = [shapely.Polygon(ring) for ring in outline.interiors]
    whole = shapely.Polygon(outline.exterior)
    body = rasterized([whole], surface.shape, affine, all_touched=True) >= 0
    flow = drain(surface, body, _rim(body))
    if holes:
        number = rasterized(holes, surface.shape, affine, all_touched=False)
        depth_m = ndimage.maximum(flow.filled - surface, number, np.arange(len(holes)))
        valleys = np.flatnonzero(np.asarray(depth_m) > pass_m)
        if valleys.size:
            body &= ~np.isin(number, valleys)
            flow = drain(surface, body, _rim(body))
    return body, flow


def _rim(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(body, _EIGHT) & ~body, bool)


def rasterized(
    polygons: Iterable[BaseGeometry], shape: tuple[int, ...], affine: Affine, *, all_touched: bool
) -> NDArray[np.int32]:
    """Index ``(y, x)`` of the polygon on each cell, the last one's where several are; -1 where none is."""
    shapes = [(polygon, number) for number, polygon in enumerate(polygons)]
    drawn = rasterize(shapes, shape, fill=-1, transform=affine, all_touched=all_touched, dtype="int32")
    return np.asarray(drawn, np.int32)


@dataclass(eq=False)
class _Sheds:
    """Flowsheds by number, merged step by step.

    Attributes:
        numbers: ``(y, x)``, -1 where neither ice nor rim is.
        surface: ``(y, x)`` without depressions, m.
        ice: ``(y, x)``.
        pour_cell: the lowest cell of the rim of each, by its index in the flattened ``(y, x)``.
    """

    numbers: NDArray[np.int64]
    surface: NDArray[np.float32]
    ice: NDArray[np.bool_]
    pour_cell: NDArray[np.int64]
    cell_m: float

    @classmethod
    def of(cls, flow: Flow, ice: NDArray[np.bool_], cell_m: float) -> _Sheds:
        outlet = flow.outlet()
        cells, numbers = np.unique(outlet, return_inverse=True)
        first = int(cells[0] < 0)
        return cls(numbers.reshape(outlet.shape) - first, flow.filled, ice, cells[first:], cell_m)

    @property
    def pour_m(self) -> NDArray[np.float32]:
        return self.surface.ravel()[self.pour_cell]

    def area_km2(self) -> NDArray[np.float64]:
        count = np.bincount(self.numbers[self.ice], minlength=self.pour_cell.size)
        return np.asarray(count * (self.cell_m / 1000.0) ** 2, np.float64)

    def merge_over_passes(self, pass_m: float) -> None:
        """The lowest pass first, so that a flowshed is part of what it would flow over to."""
        pairs, height_m, _ = self._borders()
        by_height = np.argsort(height_m, kind="stable")
        parent = np.arange(self.pour_cell.size)
        _join_over_passes(pairs[by_height], height_m[by_height], self.pour_m.copy(), pass_m, parent)
        self._become(parent)

    def merge_around_pour_points(self, rules: Rules) -> None:
        """Flowsheds that the ice around a pour point reaches, in one go and not anew for what has grown."""
        area_km2 = self.area_km2()
        parent = np.arange(self.pour_cell.size)
        for number in np.flatnonzero(area_km2 > 0).tolist():
            radius_m = min(rules.reach * 1000.0 * math.sqrt(area_km2[number]), rules.reach_most_m)
            for other in self._around(number, radius_m / self.cell_m, rules.reach_up_m).tolist():
                _join(parent, number, other)
        self._become(parent)

    def _around(self, number: int, radius_px: float, up_m: float) -> NDArray[np.int64]:
        """The flowsheds on the ice around a pour point, as far as it is connected with its own."""
        y, x = divmod(int(self.pour_cell[number]), self.ice.shape[1])
        reach = math.ceil(radius_px)
        top, left = max(y - reach, 0), max(x - reach, 0)
        part = np.s_[top : y + reach + 1, left : x + reach + 1]
        ice = self.ice[part]
        away = np.add.outer(
            (np.arange(ice.shape[0]) + top - y) ** 2, (np.arange(ice.shape[1]) + left - x) ** 2
        )
        near = ice & (away <= radius_px**2) & (self.surface[part] < self.pour_m[number] + up_m)
        pieces, _ = ndimage.label(near, _EIGHT)
        mine = near & (self.numbers[part] == number)
        if not mine.any():
            return np.empty(0, np.int64)
        own = pieces.flat[np.argmin(np.where(mine, away, np.iinfo(np.int64).max))]
        return np.unique(self.numbers[part][pieces == own])

    def merge_slivers(self, least_km2: float) -> None:
        """The smallest first, each to the neighbour with the longest common border."""
        pairs, _, length = self._borders()
        area_km2 = self.area_km2()
        least = np.full(area_km2.size, least_km2)
        self._become(absorb(area_km2, least, pairs, length))

    def _borders(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
        """Pairs of neighbours ``(pair, 2)``, their lowest pass in m, and along how many cells they meet."""
        found, over = [], []
        for here, there in _NEIGHBOURS:
            a, b = self.numbers[here], self.numbers[there]
            meet = (a != b) & (a >= 0) & (b >= 0)
            found.append(np.sort(np.column_stack([a[meet], b[meet]]), axis=1))
            over.append(np.maximum(self.surface[here], self.surface[there])[meet])
        each, height_m = np.concatenate(found), np.concatenate(over)
        key = each[:, 0] * self.pour_cell.size + each[:, 1]
        order = np.lexsort((height_m, key))
        _, first, length = np.unique(key[order], return_index=True, return_counts=True)
        return each[order][first], height_m[order][first], length.astype(np.float64)

    def _become(self, parent: NDArray[np.int64]) -> None:
        """Number the flowsheds anew after they were joined; the lowest pour point stays."""
        roots = np.array([_root(parent, number) for number in range(parent.size)], np.int64)
        _, merged = np.unique(roots, return_inverse=True)
        order = np.lexsort((self.pour_m, merged))
        _, first = np.unique(merged[order], return_index=True)
        self.numbers = np.where(self.numbers >= 0, merged[self.numbers], -1)
        self.pour_cell = self.pour_cell[order[first]]


_NEIGHBOURS = (
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:-1, :], np.s_[1:, :]),
    (np.s_[:-1, :-1], np.s_[1:, 1:]),
    (np.s_[:-1, 1:], np.s_[1:, :-1]),
)


def absorb(
    area: NDArray[np.float64],
    least: NDArray[np.float64],
    pairs: NDArray[np.int64],
    length: NDArray[np.float64],
) -> NDArray[np.int64]:
    """To which each region goes: itself, or where it is too small its neighbour with the longest border.

    The smallest goes first, and what it goes to grows by it; one without neighbours stays.

    Args:
        area: of each region.
        least: that each must have to stay.
        pairs: neighbours ``(pair, 2)``.
        length: of the border of each pair.
    """
    area, parent = area.copy(), np.arange(area.size)
    borders: list[dict[int, float]] = [{} for _ in range(area.size)]
    for (a, b), along in zip(pairs.tolist(), length.tolist(), strict=True):
        borders[a][b] = borders[a].get(b, 0.0) + along
        borders[b][a] = borders[b].get(a, 0.0) + along
    small = [(area[number], number) for number in np.flatnonzero(area < least).tolist()]
    heapq.heapify(small)
    while small:
        then, number = heapq.heappop(small)
        if then != area[number] or parent[number] != number or not borders[number]:
            continue  # it has grown, is gone or has nowhere to go
        to = min(borders[number].items(), key=lambda item: (-item[1], item[0]))[0]
        for other, along in borders[number].items():
            del borders[other][number]
            if other != to:
                borders[to][other] = borders[other][to] = borders[to].get(other, 0.0) + along
        parent[number] = to
        area[to] += area[number]
        if area[to] < least[to]:
            heapq.heappush(small, (area[to], to))
    return np.array([_root(parent, number) for number in range(area.size)], np.int64)


@kernel
def _root(parent: NDArray[np.int64], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


@kernel
def _join(parent: NDArray[np.int64], a: int, b: int) -> None:
    parent[_root(parent, b)] = _root(parent, a)


@kernel
def _join_over_passes(
    pairs: NDArray[np.int64],
    height_m: NDArray[np.float32],
    lowest_m: NDArray[np.float32],
    pass_m: float,
    parent: NDArray[np.int64],
) -> None:
    """Pairs from the lowest pass upwards; ``lowest_m`` is of the pour points joined so far."""
    for place in range(height_m.size):
        low, high = _root(parent, pairs[place, 0]), _root(parent, pairs[place, 1])
        if lowest_m[low] > lowest_m[high]:
            low, high = high, low
        if low != high and height_m[place] - lowest_m[high] < pass_m:
            parent[high] = low
