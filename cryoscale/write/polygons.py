"""Arrays of polygons, and parts of a raster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

PolygonArray = NDArray[np.object_]


@dataclass(frozen=True)
class Place:
    """Where a part of a raster lies in it: its pixels ``(y, x)``, and the shape of the whole."""

    y: slice
    x: slice
    shape: tuple[int, int]

    def numbers_on_sides(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Which numbers ``(y, x)``, but 0, occur along any of its sides."""
        return _found([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])

    def numbers_on_border(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Which numbers ``(y, x)``, but 0, occur along a side behind which the raster goes on."""
        sides = [np.zeros(1, np.int32)]
        if self.y.start > 0:
            sides.append(numbers[0])
        if self.y.stop < self.shape[0]:
            sides.append(numbers[-1])
        if self.x.start > 0:
            sides.append(numbers[:, 0])
        if self.x.stop < self.shape[1]:
            sides.append(numbers[:, -1])
        return _found(sides)


def owners_of_points(outlines: PolygonArray, points: PolygonArray) -> NDArray[np.int64]:
    """Index of the polygon around each point, -1 where there is none; polygons must not overlap."""
    # asked from the polygons' side, which GEOS indexes, and not point by point
    polygon, point = shapely.STRtree(points).query(outlines, predicate="contains")
    owner = np.full(len(points), -1, np.int64)
    owner[point] = polygon
    return owner


def explode(geometry: BaseGeometry | PolygonArray) -> PolygonArray:
    """The polygons among the parts of one or several geometries, as a flat array."""
    parts = shapely.get_parts(np.atleast_1d(np.asarray(geometry, object)))
    parts = shapely.get_parts(parts)  # a collection may hold multi-polygons
    return np.asarray(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON], object)


def _found(sides: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    found = np.unique(np.concatenate(sides))
    return found[found > 0]
