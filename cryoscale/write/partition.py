"""Cutting polygons along lines into pieces that share their borders vertex by vertex.

All lines are noded with the outline first, so that what comes out is a coverage by construction: no
gap, no overlap, and the outline keeps its own vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

from cryoscale.write.flowsheds import absorb
from cryoscale.write.polygons import PolygonArray, explode

_ROUNDS = 8
"""Of averaging each vertex with its neighbours: a Gaussian of two vertices' standard deviation."""
_STRAY_CELLS = 0.1
"""Vertices are left out of a divide that stray from it by no more."""


@dataclass(frozen=True, eq=False)
class Borders:
    """What neighbours have in common.

    Attributes:
        pairs: indices ``(pair, 2)`` of polygons, the smaller first.
        lines: one a pair, of one or several parts.
        length: of each, in the units of the coordinates.
    """

    pairs: NDArray[np.int64]
    lines: NDArray[np.object_]
    length: NDArray[np.float64]


def dividing_lines(
    numbers: NDArray[np.int32], where: NDArray[np.bool_], affine: Affine
) -> NDArray[np.object_]:
    """Lines between cells ``(y, x)`` of different numbers, without the staircase of the cells.

    Args:
        numbers: of each cell.
        where: cells at which lines are wanted; each line has one on at least one of its sides.
        affine: of the grid.
    """
    across, down = _changes(numbers, where), _changes(numbers.T, where.T)
    y, x = np.nonzero(across)
    upright = np.column_stack([x + 1, y, x + 1, y + 1])
    x, y = np.nonzero(down)
    level = np.column_stack([x, y + 1, x + 1, y + 1])
    ends = np.concatenate([upright, level]).reshape(-1, 2, 2)
    if not ends.size:
        return np.empty(0, object)
    lines = shapely.get_parts(shapely.line_merge(shapely.multilinestrings(shapely.linestrings(ends))))
    smooth = shapely.simplify(_smooth(lines), _STRAY_CELLS)
    scale, corner = np.array([affine.a, affine.e]), np.array([affine.c, affine.f])
    return np.asarray(shapely.transform(smooth, lambda xy: corner + scale * xy), object)


def _changes(numbers: NDArray[np.int32], where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray((numbers[:, :-1] != numbers[:, 1:]) & (where[:, :-1] | where[:, 1:]), bool)


def _smooth(lines: NDArray[np.object_]) -> NDArray[np.object_]:
    """Lines through averages of their vertices; the ends, where several may meet, stay."""
    xy, line = shapely.get_coordinates(lines, return_index=True)
    inner = np.flatnonzero((line[1:-1] == line[:-2]) & (line[1:-1] == line[2:])) + 1
    for _ in range(_ROUNDS):
        xy[inner] = (xy[inner - 1] + 2.0 * xy[inner] + xy[inner + 1]) / 4.0
    return np.asarray(shapely.set_coordinates(lines.copy(), xy), object)


def faces(outline: shapely.Polygon, lines: Sequence[BaseGeometry] | NDArray[np.object_]) -> PolygonArray:
    """The parts into which lines cut a polygon."""
    shapely.prepare(outline)
    touching = [line for line in lines if outline.intersects(line)]
    if not touching:
        return np.array([outline], object)
    noded = shapely.union_all([outline.boundary, *touching])
    found = explode(shapely.polygonize(shapely.get_parts(noded)))
    return np.asarray(found[shapely.contains_xy(outline, *_inside(found).T)], object)


def at_points(polygons: PolygonArray, numbers: NDArray[np.int32], affine: Affine) -> NDArray[np.int32]:
    """The number of the cell under a point inside of each polygon, of the nearest cell beyond the grid."""
    x, y = (~affine) * _inside(polygons).T
    row = np.clip(np.floor(y).astype(np.int64), 0, numbers.shape[0] - 1)
    column = np.clip(np.floor(x).astype(np.int64), 0, numbers.shape[1] - 1)
    return np.asarray(numbers[row, column], np.int32)


def _inside(polygons: PolygonArray) -> NDArray[np.float64]:
    return np.asarray(shapely.get_coordinates(shapely.point_on_surface(polygons)), float).reshape(-1, 2)


def united(
    parts: PolygonArray,
    numbers: NDArray[np.int64],
    least_m2: NDArray[np.float64],
    area_m2: NDArray[np.float64],
) -> tuple[PolygonArray, NDArray[np.int64]]:
    """Connected parts of one number as one polygon; where that is too small, it goes to a neighbour.

    Args:
        parts: a coverage of polygons, m.
        numbers: of each.
        least_m2: that a polygon of each number must have to stay.
        area_m2: of each part.

    Returns:
        The polygons and their numbers; several polygons may have one number, the largest first.
    """
    borders = borders_of(parts)
    same = numbers[borders.pairs[:, 0]] == numbers[borders.pairs[:, 1]]
    group = _connected(parts.size, borders.pairs[same])
    area = np.bincount(group, area_m2).astype(np.float64)
    number_of = np.zeros(area.size, np.int64)
    number_of[group] = numbers
    meet = group[borders.pairs[~same]].reshape(-1, 2)
    goes_to = absorb(area, least_m2[number_of], meet, borders.length[~same])
    numbers = number_of[goes_to[group]]
    # what went to a neighbour may have joined parts of that number which lay apart
    same = numbers[borders.pairs[:, 0]] == numbers[borders.pairs[:, 1]]
    group = _connected(parts.size, borders.pairs[same])
    _, first = np.unique(group, return_index=True)
    order = np.lexsort((-np.bincount(group, area_m2), numbers[first]))
    whole = [_union(parts[group == one]) for one in order.tolist()]
    return np.array(whole, object), numbers[first][order]


def _union(parts: PolygonArray) -> BaseGeometry:
    return parts[0] if parts.size == 1 else shapely.coverage_union_all(parts)


def _connected(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, group = connected_components(links, directed=False)
    return np.asarray(group, np.int64)


def borders_of(polygons: PolygonArray) -> Borders:
    """The borders that polygons of a coverage share, edge by edge; touching in a point is none."""
    parts, owner = shapely.get_parts(polygons, return_index=True)
    rings, ring_of = shapely.get_rings(parts, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    goes_on = ring[1:] == ring[:-1]
    edges = np.stack([xy[:-1][goes_on], xy[1:][goes_on]], axis=1)
    owner = owner[ring_of[ring[:-1][goes_on]]]
    flip = (edges[:, 0, 0] > edges[:, 1, 0]) | (
        (edges[:, 0, 0] == edges[:, 1, 0]) & (edges[:, 0, 1] > edges[:, 1, 1])
    )
    edges[flip] = edges[flip, ::-1]
    order = np.lexsort((owner, *edges.reshape(-1, 4).T))
    edges, owner = edges[order], owner[order]
    twin = np.flatnonzero((edges[1:] == edges[:-1]).all(axis=(1, 2)) & (owner[1:] != owner[:-1]))
    pairs, which = np.unique(np.column_stack([owner[twin], owner[twin + 1]]), axis=0, return_inverse=True)
    segments = shapely.linestrings(edges[twin])
    by_pair = np.argsort(which.ravel(), kind="stable")
    lines = shapely.line_merge(shapely.multilinestrings(segments[by_pair], indices=which.ravel()[by_pair]))
    lines = np.atleast_1d(np.asarray(lines, object))[: len(pairs)]
    return Borders(pairs.reshape(-1, 2).astype(np.int64), lines, shapely.length(lines))
