"""A mask to polygons, streamed block by block, with the same result as all at once.

Pixels are joined over edges and not over corners (4-connectivity): two glaciers that touch only at
a pixel corner stay two, and a hole may touch the rim of its polygon at a point, which OGC simple
features allow. All vertices are pixel corners, whole numbers in pixel coordinates, and so the union
over block borders is exact; vertices in the middle of a straight line, which that union leaves
behind, are taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import pairwise, product

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from shapely.geometry.base import BaseGeometry

PolygonArray = NDArray[np.object_]
ReadLabel = Callable[[slice, slice], NDArray[np.uint8]]


def polygons_of(
    read: ReadLabel, shape: tuple[int, int], classes: Collection[int], step_px: int = 2048
) -> PolygonArray:
    """The 4-connected polygons of the pixels of ``classes``, in pixel coordinates (x right, y down).

    Args:
        read: gives the labels ``(y, x)`` of a part of the raster.
        shape: (height, width) of the raster, pixels.
        classes: the labels that count as inside.
        step_px: edge of the parts that are read one after the other; it bounds the memory and does
            not change the result.
    """
    inner: list[PolygonArray] = [np.empty(0, object)]
    border: list[BaseGeometry] = []
    holes: list[PolygonArray] = []
    for y, x in _parts(shape, step_px):
        mask = np.isin(read(y, x), list(classes))
        if mask.any():
            found = _polygons(mask, x.start, y.start)
            touches = _on_border(found, y, x, shape)
            inner.append(found[~touches])
            for polygon in found[touches]:
                rings = shapely.get_rings(polygon)
                open_holes = _on_border(rings[1:], y, x, shape)
                border.append(shapely.polygons(rings[0], holes=rings[1:][open_holes]))
                holes.append(rings[1:][~open_holes])
    return np.asarray(shapely.normalize(np.concatenate([*inner, _stitch(border, holes)])), object)


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


def _parts(shape: tuple[int, int], step_px: int) -> Iterator[tuple[slice, slice]]:
    for row, col in product(range(0, shape[0], step_px), range(0, shape[1], step_px)):
        yield slice(row, min(row + step_px, shape[0])), slice(col, min(col + step_px, shape[1]))


def _stitch(pieces: list[BaseGeometry], holes: list[PolygonArray]) -> PolygonArray:
    """Unites pieces over block borders; ``holes`` are each piece's holes away from every border.

    Those holes stay out of the union, which they cannot change but would slow down by a factor of
    ten on a noisy map, and are put back afterwards.
    """
    if not pieces:
        return np.empty(0, object)
    united = explode(shapely.disjoint_subset_union_all(np.array(pieces, object)))
    united = np.array([without_straight_vertices(polygon) for polygon in united], object)
    owner = owners_of_points(united, shapely.point_on_surface(np.array(pieces, object)))
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(united.size + 1))
    for index, (start, stop) in enumerate(pairwise(starts)):
        inside = np.concatenate([holes[piece] for piece in order[start:stop]])
        if inside.size:
            rings = shapely.get_rings(united[index])
            united[index] = shapely.polygons(rings[0], holes=np.concatenate([rings[1:], inside]))
    return united


def _polygons(mask: NDArray[np.bool_], left: int, top: int) -> PolygonArray:
    found = [
        shapely.Polygon(rings[0], rings[1:])
        for rings in (
            shape["coordinates"] for shape, _ in shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
        )
    ]
    moved = shapely.transform(np.array(found, object), lambda xy: xy + np.array([left, top], float))
    return np.asarray(moved, object)


def _on_border(polygons: PolygonArray, y: slice, x: slice, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which polygons reach a side of the part behind which the raster goes on."""
    left, top, right, bottom = shapely.bounds(polygons).T
    return np.asarray(
        ((left == x.start) & (x.start > 0))
        | ((top == y.start) & (y.start > 0))
        | ((right == x.stop) & (x.stop < shape[1]))
        | ((bottom == y.stop) & (y.stop < shape[0]))
    )


def _rings(polygon: BaseGeometry) -> list[BaseGeometry]:
    return list(shapely.get_rings(polygon))


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    open_ring = ring[:-1]
    before = open_ring - np.roll(open_ring, 1, axis=0)
    after = np.roll(open_ring, -1, axis=0) - open_ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = open_ring[turns]
    return corners
