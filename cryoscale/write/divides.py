"""Glacier complexes split into glaciers: by the flow of the terrain, or by divides carried forward.

A complex is divided by the watersheds of its surface (:mod:`cryoscale.write.flowsheds`). Where an
older inventory has glaciers, their divides are kept instead and their ids with them, so that a glacier's
change over the years is not one of the divides. Either way the glaciers of a complex are a coverage of it:
they share their borders vertex by vertex and leave nothing out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod
from scipy import ndimage
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

from cryoscale.write.flowsheds import Flowsheds, Rules, Terrain, flowsheds, rasterized
from cryoscale.write.partition import at_points, dividing_lines, faces, united
from cryoscale.write.polygons import PolygonArray, explode, owners_of_points

_GEOD = Geod(ellps="WGS84")
_LEAST_PART_M2 = 10_000.0
"""A smaller detached part of a glacier goes to its neighbour: the least area of an inventory (RGI 7)."""
_CELL_M = 30.0
"""Of the grid on which new ice is shared out where there is no elevation model."""
_OVERLAP_PX = 3
"""How far lines drawn on a grid go on beyond where they are needed, to meet lines that are not."""

DEM, RGI, NONE = "dem", "rgi", "none"


@dataclass(frozen=True, eq=False)
class Divided:
    """The glaciers of a complex.

    Attributes:
        polygons: a coverage of it.
        older: index of the older glacier that each goes on from, -1 where there is none.
        source: where its divides come from: ``"dem"``, ``"rgi"``, or ``"none"`` for a complex without
            elevation, which stays whole.
    """

    polygons: PolygonArray
    older: NDArray[np.int64]
    source: NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Least:
    """The least area of a glacier: what a divide would leave smaller stays with its neighbour.

    Attributes:
        km2: of new glaciers as well, for which :class:`Rules` may ask for more.
        areas_m2: by which polygons are measured.
    """

    km2: float = 0.0
    areas_m2: Callable[[PolygonArray], NDArray[np.float64]] = shapely.area


def divide(outline: BaseGeometry, terrain: Terrain | None, rules: Rules | None = None) -> Divided:
    """Split a complex by the terrain alone.

    Args:
        outline: polygon, or several that are taken one by one, in the CRS of the terrain (m).
        terrain: elevation around it, or None where there is none.
        rules: when flowsheds are one glacier.
    """
    return _by_body(outline, lambda body: _divide(body, terrain, rules or Rules(), Least()))


def carry(
    outline: BaseGeometry,
    older: PolygonArray,
    terrain: Terrain | None,
    rules: Rules | None = None,
    least: Least | None = None,
) -> Divided:
    """Split a complex by the divides of older glaciers where there were any.

    Ice of today belongs to the glacier that lay there. Ice where none lay goes to the nearest of those in its
    flowshed, or is a glacier of its own where they cover less than half of a flowshed. Without elevation
    it goes to the nearest.

    Args:
        outline: polygon, or several that are taken one by one, in the CRS of the terrain (m).
        older: glaciers in the same CRS that do not overlap; those elsewhere do no harm.
        terrain: elevation around it, or None where there is none.
        rules: when flowsheds are one glacier.
        least: the area below which a part of a complex is no glacier.
    """
    rules, floor = rules or Rules(), least or Least()
    rules = replace(rules, least_km2=max(rules.least_km2, floor.km2))
    return _by_body(outline, lambda body: _carry(body, older, terrain, rules, floor))


def _by_body(outline: BaseGeometry, one: Callable[[shapely.Polygon], Divided]) -> Divided:
    return _joined([one(body) for body in explode(shapely.force_2d(outline))])


def _joined(found: Sequence[Divided]) -> Divided:
    return Divided(
        np.concatenate([np.empty(0, object), *[part.polygons for part in found]]),
        np.concatenate([np.empty(0, np.int64), *[part.older for part in found]]),
        np.concatenate([np.empty(0, object), *[part.source for part in found]]),
    )


def _divide(body: shapely.Polygon, terrain: Terrain | None, rules: Rules, least: Least) -> Divided:
    sheds = flowsheds(body, terrain, rules) if terrain is not None else None
    if sheds is None:
        return Divided(np.array([body], object), np.array([-1]), np.array([NONE], object))
    ice = rasterized([body], sheds.numbers.shape, sheds.affine, all_touched=True) >= 0
    parts = faces(body, dividing_lines(sheds.numbers, _widened(ice), sheds.affine))
    numbers = at_points(parts, sheds.numbers, sheds.affine).astype(np.int64)
    least_m2 = np.full(int(sheds.numbers.max()) + 1, rules.least_km2 * 1e6)
    polygons, _ = united(parts, numbers, least_m2, least.areas_m2(parts))
    source = np.full(polygons.size, DEM, object)
    return Divided(polygons, np.full(polygons.size, -1), source)


def _carry(
    body: shapely.Polygon, older: PolygonArray, terrain: Terrain | None, rules: Rules, least: Least
) -> Divided:
    shapely.prepare(body)
    near = np.flatnonzero(shapely.intersects(body, older) & ~shapely.touches(body, older))
    if not near.size:
        return _divide(body, terrain, rules, least)
    glaciers = np.asarray(shapely.force_2d(older[near]), object)
    sheds = flowsheds(body, terrain, rules) if terrain is not None else None
    grid = sheds or _blank(body)
    shares = _share_out(body, glaciers, grid, math.inf if sheds is None else rules.least_km2)
    drawn = dividing_lines(shares.numbers, shares.where, grid.affine)
    parts = faces(body, [*drawn, *shapely.boundary(glaciers)])
    owner = owners_of_points(glaciers, shapely.point_on_surface(parts))
    owner = np.where(owner >= 0, owner, at_points(parts, shares.numbers, grid.affine))
    least_old_m2 = np.maximum(least.km2 * 1e6, np.minimum(_LEAST_PART_M2, shapely.area(glaciers) / 2))
    least_m2 = np.concatenate([least_old_m2, np.full(shares.new, rules.least_km2 * 1e6)])
    polygons, owner = united(parts, owner, least_m2, least.areas_m2(parts))
    is_old = owner < near.size
    source = np.where(is_old, RGI, DEM).astype(object)
    return Divided(polygons, np.where(is_old, near[np.minimum(owner, near.size - 1)], -1), source)


@dataclass(frozen=True, eq=False)
class _Shares:
    """To whom cells ``(y, x)`` go, older glaciers by index, then new ones; where to draw lines."""

    numbers: NDArray[np.int32]
    where: NDArray[np.bool_]
    new: int


def _share_out(body: shapely.Polygon, glaciers: PolygonArray, grid: Flowsheds, least_km2: float) -> _Shares:
    """Each cell on and around the ice to the older glacier on it, to a new one, or to the nearest.

    ``least_km2`` is the area that makes a new one; infinite where the flow is not known.
    """
    shape, affine, sheds = grid.numbers.shape, grid.affine, grid.numbers
    ice = rasterized([body], shape, affine, all_touched=True) >= 0
    near = _widened(ice)
    # touched cells below, so that no glacier is too small for the grid
    touched = rasterized(glaciers, shape, affine, all_touched=True)
    covered = rasterized(glaciers, shape, affine, all_touched=False)
    covered = np.where(covered >= 0, covered, touched)
    of_ice, count = sheds[ice], int(sheds.max()) + 1
    cells = np.bincount(of_ice, minlength=count)
    open_cells = np.bincount(of_ice, covered[ice] < 0, count)
    is_new = (open_cells > cells / 2) & (open_cells * affine.a**2 >= least_km2 * 1e6)
    numbers = np.where((covered < 0) & is_new[sheds], glaciers.size + sheds, covered).astype(np.int32)
    where = _widened(near & (covered < 0))
    _to_nearest(numbers, near, sheds)
    return _Shares(numbers, where, count)


def _to_nearest(numbers: NDArray[np.int32], near: NDArray[np.bool_], sheds: NDArray[np.int32]) -> None:
    """Cells without a number (-1) take that of the nearest that has one, of their flowshed if it has any."""
    left, given = np.argwhere(near & (numbers < 0)), np.argwhere(near & (numbers >= 0))
    shed_left, shed_given = sheds[tuple(left.T)], sheds[tuple(given.T)]
    for shed in np.unique(shed_left).tolist():
        there = given[shed_given == shed]
        there = there if len(there) else given
        here = left[shed_left == shed]
        _, nearest = cKDTree(there).query(here)
        numbers[tuple(here.T)] = numbers[tuple(there[nearest].T)]


def _blank(body: shapely.Polygon) -> Flowsheds:
    """A grid of one flowshed of which nothing is known."""
    west, south, east, north = body.bounds
    margin_m = (_OVERLAP_PX + 1) * _CELL_M
    shape = [math.ceil((size + 2 * margin_m) / _CELL_M) for size in (north - south, east - west)]
    affine = Affine(_CELL_M, 0.0, west - margin_m, 0.0, -_CELL_M, north + margin_m)
    return Flowsheds(np.zeros(shape, np.int32), affine)


def _widened(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(cells, np.ones((3, 3), bool), _OVERLAP_PX), bool)
