"""Arrays of polygons, and parts of a raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

PolygonArray = NDArray[np.object_]

_Number = TypeVar("_Number", np.int32, np.int64)

_BURNED_ROWS = 256
"""GDAL fills a polygon in rows times vertices: few rows at a time, each with its own few vertices."""


@dataclass(frozen=True, eq=False)
class Sides:
    """What a part of a raster has along its sides, from north to south and from west to east."""

    north: NDArray[np.int64]
    south: NDArray[np.int64]
    west: NDArray[np.int64]
    east: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: NDArray[np.int32]) -> Sides:
        """Those of a part (y, x), of which nothing else is kept."""
        return cls(
            *(side.astype(np.int64) for side in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]))
        )

    def renamed(self, given: NDArray[np.int64]) -> Sides:
        """The same with another number for each."""
        return Sides(*(given[side] for side in (self.north, self.south, self.west, self.east)))

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Which there are, but 0."""
        return _found([self.north, self.south, self.west, self.east])


@dataclass(frozen=True)
class Place:
    """Where a part of a raster lies in it: its pixels ``(y, x)``, and the shape of the whole."""

    y: slice
    x: slice
    shape: tuple[int, int]

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


def burned(
    outline: Polygon, affine: Affine, shape: tuple[int, int], *, all_touched: bool = False
) -> NDArray[np.bool_]:
    """Cells ``(y, x)`` of a north-up grid with their centre in a polygon, or all that it touches."""
    inside = np.zeros(shape, bool)
    west, _ = affine * (0, 0)
    east, _ = affine * (shape[1], 0)
    for top in range(0, shape[0], _BURNED_ROWS):
        part = inside[top : top + _BURNED_ROWS]
        own = affine * Affine.translation(0, top)
        near = shapely.clip_by_rect(outline, west, (own * (0, len(part)))[1], east, (own * (0, 0))[1])
        if not near.is_empty:
            part[:] = rasterize([near], part.shape, transform=own, all_touched=all_touched, dtype="uint8")
    return inside


def explode(geometry: BaseGeometry | PolygonArray) -> PolygonArray:
    """The polygons among the parts of one or several geometries, as a flat array."""
    parts = shapely.get_parts(np.atleast_1d(np.asarray(geometry, object)))
    parts = shapely.get_parts(parts)  # a collection may hold multi-polygons
    return np.asarray(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON], object)


def _found(sides: list[NDArray[_Number]]) -> NDArray[_Number]:
    found = np.unique(np.concatenate(sides))
    return found[found > 0]
