"""A raster to polygons in parts, with the same result as all at once.

Pixels are joined over edges and not over corners (4-connectivity): two glaciers that touch only at
a pixel corner stay two, and a hole may touch the rim of its polygon at a point, which OGC simple
features allow. All vertices are pixel corners, whole numbers in pixel coordinates, and so the union
over the borders of parts is exact; vertices in the middle of a straight line, which that union
leaves behind, are taken out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from shapely.geometry.base import BaseGeometry

PolygonArray = NDArray[np.object_]


@dataclass(frozen=True)
class Place:
    """Where a part of a raster lies in it: its pixels ``(y, x)``, and the shape of the whole."""

    y: slice
    x: slice
    shape: tuple[int, int]

    def on_border(self, polygons: PolygonArray) -> NDArray[np.bool_]:
        """Which polygons reach a side of the part behind which the raster goes on."""
        left, top, right, bottom = shapely.bounds(polygons).T
        return np.asarray(
            ((left == self.x.start) & (self.x.start > 0))
            | ((top == self.y.start) & (self.y.start > 0))
            | ((right == self.x.stop) & (self.x.stop < self.shape[1]))
            | ((bottom == self.y.stop) & (self.y.stop < self.shape[0]))
        )

    def numbers_on_border(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Which numbers ``(y, x)`` occur along such a side."""
        sides = [np.zeros(1, np.int32)]
        if self.y.start > 0:
            sides.append(numbers[0])
        if self.y.stop < self.shape[0]:
            sides.append(numbers[-1])
        if self.x.start > 0:
            sides.append(numbers[:, 0])
        if self.x.stop < self.shape[1]:
            sides.append(numbers[:, -1])
        found = np.unique(np.concatenate(sides))
        return found[found > 0]


@dataclass
class Pieces:
    """Polygons of one body from several parts, to be united once all are there.

    Attributes:
        whole: polygons that reach no border of their part.
        border: the others, with only those of their holes that reach a border.
        holes: of each of those the other holes. They stay out of the union, which they cannot change but
            would slow down by a factor of ten on a noisy map, and are put back afterwards.
    """

    whole: list[PolygonArray] = field(default_factory=list)
    border: list[BaseGeometry] = field(default_factory=list)
    holes: list[PolygonArray] = field(default_factory=list)

    def add(self, polygons: PolygonArray, place: Place) -> None:
        """Take up polygons of one part."""
        touches = place.on_border(polygons)
        if not touches.all():
            self.whole.append(polygons[~touches])
        for polygon in polygons[touches]:
            rings = shapely.get_rings(polygon)
            open_holes = place.on_border(rings[1:])
            self.border.append(shapely.polygons(rings[0], holes=rings[1:][open_holes]))
            self.holes.append(rings[1:][~open_holes])

    def take(self, other: Pieces) -> None:
        """Take up what another body has, which turned out to be the same."""
        self.whole += other.whole
        self.border += other.border
        self.holes += other.holes

    def united(self) -> PolygonArray:
        """The polygons, over all borders."""
        stitched = _stitch(self.border, self.holes)
        return np.asarray(shapely.normalize(np.concatenate([*self.whole, stitched])), object)


def polygons_of(numbers: NDArray[np.int32], place: Place) -> tuple[PolygonArray, NDArray[np.int64]]:
    """The 4-connected polygons of equal numbers ``(y, x)``, 0 outside, and the number of each.

    In pixel coordinates of the whole raster, x right and y down.
    """
    found, values = [], []
    for shape, value in shapes(numbers, mask=numbers > 0, connectivity=4):
        rings = shape["coordinates"]
        found.append(shapely.Polygon(rings[0], rings[1:]))
        values.append(int(value))
    corner = np.array([place.x.start, place.y.start], float)
    moved = shapely.transform(np.array(found, object), lambda xy: xy + corner)
    return np.asarray(shapely.normalize(moved), object), np.array(values, np.int64)


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


def without_straight_vertices(polygon: BaseGeometry) -> BaseGeometry:
    """A polygon of horizontal and vertical edges without the vertices inside its straight lines."""
    exterior, *holes = (_corners(shapely.get_coordinates(ring)) for ring in _rings(polygon))
    return shapely.Polygon(exterior, holes)


def _stitch(pieces: list[BaseGeometry], holes: list[PolygonArray]) -> PolygonArray:
    """Unites pieces over the borders of their parts, and puts the holes of each back."""
    if not pieces:
        return np.empty(0, object)
    united = explode(shapely.disjoint_subset_union_all(np.array(pieces, object)))
    united = np.array([without_straight_vertices(polygon) for polygon in united], object)
    owner = np.zeros(len(pieces), np.int64)
    if united.size > 1:
        owner = owners_of_points(united, shapely.point_on_surface(np.array(pieces, object)))
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(united.size + 1))
    for index, (start, stop) in enumerate(pairwise(starts)):
        inside = np.concatenate([holes[piece] for piece in order[start:stop]])
        if inside.size:
            rings = shapely.get_rings(united[index])
            united[index] = shapely.polygons(rings[0], holes=np.concatenate([rings[1:], inside]))
    return united


def _rings(polygon: BaseGeometry) -> list[BaseGeometry]:
    return list(shapely.get_rings(polygon))


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    open_ring = ring[:-1]
    before = open_ring - np.roll(open_ring, 1, axis=0)
    after = np.roll(open_ring, -1, axis=0) - open_ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = open_ring[turns]
    return corners
