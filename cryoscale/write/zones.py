"""Polygons of several UTM zones to one set in degrees, joined by an exact cut at the meridian.

Each zone's map reaches a little over the meridian where the next zone begins
(:data:`cryoscale.grid.ZONE_COLLAR_M`), so that both sides have ice up to the meridian itself. Each
side is cut there, on the same line to the last bit, and what meets along the line is united. The
pixel staircases of the two zones need not fit each other; the union is a valid polygon all the same,
without gap or overlap.

What meets at 180 degrees is united as well: its longitudes go on beyond 180, as those of an outline that one
zone's map has on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod

from cryoscale.grid import central_meridian_deg, transformer, zone_bounds_deg
from cryoscale.write.polygons import PolygonArray, explode, owners_of_points

_GEOD = Geod(ellps="WGS84")
_LONGEST_EDGE_M = 1000.0
"""Longest edge to be drawn straight in degrees: at 60 degrees north 1 km then strays by 3 cm."""
_SNAP_DEG = 1e-9


@dataclass(frozen=True)
class Cut:
    """The part of the world that a zone keeps, and which of its sides are cuts to a neighbour.

    Attributes:
        box_deg: west, south, east, north. Where nobody joins on it ends at a pole, and half-way to the next
            zone around the globe, maybe beyond 180: boxes share their sides and no more, so that a place
            lies in one of them, whole turns left out.
        lons_deg: meridians at which this zone is cut.
        lats_deg: parallels (the equator) at which it is cut.
    """

    box_deg: tuple[float, float, float, float]
    lons_deg: tuple[float, ...]
    lats_deg: tuple[float, ...]


def cuts(zones: list[int]) -> dict[int, Cut]:
    """Where each of the given UTM zones (EPSG codes) is cut; only sides with a given neighbour are."""
    if len(zones) == 1:
        return {zones[0]: Cut((-180.0, -90.0, 180.0, 90.0), (), ())}
    bounds = {epsg: zone_bounds_deg(epsg) for epsg in zones}
    halves = _half_ways(sorted({(west + east) / 2 for west, _, east, _ in bounds.values()}))
    found = {}
    for epsg, (west, south, east, north) in bounds.items():
        others = [box for other, box in bounds.items() if other != epsg]
        lons = tuple(
            lon
            for lon, side in ((west, 2), (east, 0))
            # whole turns: the last zone ends at 180 where the first begins at -180
            if any((box[side] - lon) % 360.0 == 0.0 and box[1] == south for box in others)
        )
        lats = tuple(
            lat
            for lat, side in ((south, 3), (north, 1))
            if any(box[side] == lat and box[0] == west for box in others)
        )
        before, after = halves[(west + east) / 2]
        box = (
            west if west in lons else before,
            south if south in lats else -90.0,
            east if east in lons else after,
            north if north in lats else 90.0,
        )
        found[epsg] = Cut(box, lons, lats)
    return found


def _half_ways(centres: Sequence[float]) -> dict[float, tuple[float, float]]:
    """Of some meridians in order, each with the longitudes half-way to the next ones, west and east."""
    after = [*centres[1:], centres[0] + 360.0]
    before = [centres[-1] - 360.0, *centres[:-1]]
    return {
        centre: ((west + centre) / 2, (centre + east) / 2)
        for west, centre, east in zip(before, centres, after, strict=True)
    }


def to_degrees(polygons: PolygonArray, crs: str) -> PolygonArray:
    """Polygons of a projected CRS in WGS 84 degrees, long edges bent as the projection bends them.

    Longitudes go on beyond 180 where a zone's map crosses the antimeridian.
    """
    if polygons.size == 0:
        return polygons
    centre = central_meridian_deg(crs)
    to_lonlat = transformer(crs, "EPSG:4326")

    def convert(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = to_lonlat.transform(xy[:, 0], xy[:, 1])
        return np.column_stack([(lon - centre + 180.0) % 360.0 - 180.0 + centre, lat])

    return np.asarray(shapely.transform(shapely.segmentize(polygons, _LONGEST_EDGE_M), convert), object)


def cut_at_antimeridian(geometry: shapely.Geometry) -> shapely.Geometry:
    """A geometry whose longitudes may go beyond 180, in parts on either side (RFC 7946, 3.1.9)."""
    globe = shapely.box(-180.0, -90.0, 180.0, 90.0)
    parts = [
        shapely.transform(geometry, lambda xy, by=by_deg: xy + np.array([by, 0.0])).intersection(globe)
        for by_deg in (-360.0, 0.0, 360.0)
    ]
    if shapely.get_dimensions(geometry) < 2:
        return shapely.union_all(parts)
    pieces = explode(np.array(parts, object))
    pieces = pieces[~shapely.is_empty(pieces)]
    return shapely.orient_polygons(pieces[0] if len(pieces) == 1 else shapely.MultiPolygon(list(pieces)))


def join(by_zone: Mapping[int, PolygonArray], where: Mapping[int, Cut]) -> PolygonArray:
    """Cuts the polygons (degrees) of each zone at its borders and unites those that meet there.

    Longitudes of what was united over 180 degrees go on beyond.
    """
    whole: list[PolygonArray] = [np.empty(0, object)]
    meeting: list[PolygonArray] = []
    for epsg, polygons in by_zone.items():
        cut = where[epsg]
        pieces = clip(polygons, cut)
        touches = _touches(pieces, cut)
        whole.append(pieces[~touches])
        meeting.append(pieces[touches])
    at_border = np.concatenate([*meeting, np.empty(0, object)])
    if at_border.size:
        whole.append(_over_180(_united(at_border)))
    return np.concatenate(whole)


def _united(polygons: PolygonArray) -> PolygonArray:
    return explode(shapely.make_valid(explode(shapely.disjoint_subset_union_all(polygons))))


def _over_180(polygons: PolygonArray) -> PolygonArray:
    """Polygons that end at 180 degrees united with those that begin at -180, which are turned to it."""
    west, _, east, _ = shapely.bounds(polygons).T
    around = (west == -180.0) & (east == 180.0)  # a whole turn about a pole stays cut
    ends, begins = (east == 180.0) & ~around, (west == -180.0) & ~around
    if not (ends.any() and begins.any()):
        return polygons
    united = _united(np.concatenate([polygons[ends], turn(polygons[begins], 360.0)]))
    alone = shapely.bounds(united)[:, 0] == 180.0
    return np.concatenate([polygons[~ends & ~begins], united[~alone], turn(united[alone], -360.0)])


def turn(shapes: PolygonArray, by_deg: float) -> PolygonArray:
    """Shapes (degrees) whose longitudes are counted on by whole turns."""
    return np.asarray(shapely.transform(shapes, lambda xy: xy + np.array([by_deg, 0.0])), object)


def turned_into(polygons: PolygonArray, outlines: PolygonArray) -> PolygonArray:
    """Polygons (degrees), those turned that lie in the part of an outline beyond 180 degrees."""
    beyond = outlines[shapely.bounds(outlines).reshape(-1, 4)[:, 2] > 180.0]
    if not beyond.size or not polygons.size:
        return polygons
    turned = turn(polygons, 360.0)
    return np.where(owners_of_points(beyond, shapely.point_on_surface(turned)) >= 0, turned, polygons)


def clip(polygons: PolygonArray, cut: Cut) -> PolygonArray:
    """The parts of polygons (degrees) inside a zone's box, their new edges exactly on its sides."""
    if polygons.size == 0:
        return polygons
    west, south, east, north = cut.box_deg
    inside, outside = _sides(polygons, cut)
    crossing = polygons[~inside & ~outside]
    if crossing.size == 0:
        return np.asarray(polygons[inside], object)
    parts = explode(shapely.intersection(crossing, shapely.box(west, south, east, north)))

    def snap(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        snapped = xy.copy()
        for axis, lines in ((0, cut.lons_deg), (1, cut.lats_deg)):
            for line in lines:
                snapped[np.abs(xy[:, axis] - line) < _SNAP_DEG, axis] = line
        return snapped

    parts = explode(shapely.make_valid(shapely.transform(parts, snap)))
    return np.concatenate([polygons[inside], parts[shapely.area(parts) > 0]])


def share_vertices(several: Sequence[PolygonArray], cuts_made: Iterable[Cut]) -> list[PolygonArray]:
    """Polygons (degrees) with each vertex that any of them has on a cut, wherever one has an edge along it.

    Outlines and their debris end there each at its own vertices: without those of the other, their edges
    would lie on one another and yet not be the same.
    """
    lines = {(0, lon) for cut in cuts_made for lon in cut.lons_deg}
    lines |= {(1, lat) for cut in cuts_made for lat in cut.lats_deg}
    shared = list(several)
    for axis, line in sorted(lines):
        xy = np.concatenate([shapely.get_coordinates(polygons) for polygons in shared])
        places = np.unique(xy[xy[:, axis] == line, 1 - axis])
        shared = [_with_vertices(polygons, axis, line, places) for polygons in shared]
    return shared


def _with_vertices(
    polygons: PolygonArray, axis: int, line: float, places: NDArray[np.float64]
) -> PolygonArray:
    """Polygons with vertices at all of the places within their edges along a meridian or parallel."""
    if not polygons.size or not places.size:
        return polygons
    kind, xy, (rings, parts) = shapely.to_ragged_array(polygons)
    along = (xy[:-1, axis] == line) & (xy[1:, axis] == line)
    along[rings[1:-1] - 1] = False  # from one ring to the next
    edges = np.flatnonzero(along)
    ends = np.column_stack([xy[edges, 1 - axis], xy[edges + 1, 1 - axis]])
    first = np.searchsorted(places, ends.min(axis=1), side="right")
    stop = np.maximum(np.searchsorted(places, ends.max(axis=1), side="left"), first)
    wanted = [np.empty(0, np.int64)]
    for begin, end, (before, after) in zip(first.tolist(), stop.tolist(), ends.tolist(), strict=True):
        wanted.append(np.arange(begin, end)[:: 1 if before < after else -1])
    added = np.full((int((stop - first).sum()), 2), line)
    added[:, 1 - axis] = places[np.concatenate(wanted)]
    at = np.repeat(edges + 1, stop - first)
    moved = rings + np.searchsorted(at, rings, side="left")
    return np.asarray(
        shapely.from_ragged_array(kind, np.insert(xy, at, added, axis=0), (moved, parts)), object
    )


def straddles(polygons: PolygonArray, cut: Cut) -> NDArray[np.bool_]:
    """Which polygons (degrees) :func:`join` has to see: at a cut, or over a side of the zone's box."""
    inside, outside = _sides(polygons, cut)
    return crosses_cut(polygons, cut) | ~(inside | outside)


def lies_in(polygons: PolygonArray, cut: Cut) -> NDArray[np.bool_]:
    """Which polygons (degrees) lie wholly in a zone's box."""
    return _sides(polygons, cut)[0]


def _sides(polygons: PolygonArray, cut: Cut) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    west, south, east, north = cut.box_deg
    left, bottom, right, top = shapely.bounds(polygons).T
    inside = (left >= west) & (bottom >= south) & (right <= east) & (top <= north)
    outside = (right <= west) | (top <= south) | (left >= east) | (bottom >= north)
    return inside, outside


def area_km2(polygons: PolygonArray) -> NDArray[np.float64]:
    """Areas of polygons in WGS 84 degrees on the ellipsoid, km2, holes taken off, whichever way rings run."""
    # the areas of rings are signed by the way that they run, and files have holes that run as their rims do
    turned = shapely.orient_polygons(polygons)
    return np.array([abs(_GEOD.geometry_area_perimeter(polygon)[0]) / 1e6 for polygon in turned], float)


def crosses_cut(polygons: PolygonArray, cut: Cut) -> NDArray[np.bool_]:
    """Which polygons (degrees) reach a side at which their zone is cut."""
    left, bottom, right, top = shapely.bounds(polygons).T
    reaches = np.zeros(polygons.size, bool)
    for lon in cut.lons_deg:
        reaches |= (left <= lon) & (right >= lon)
    for lat in cut.lats_deg:
        reaches |= (bottom <= lat) & (top >= lat)
    return reaches


def _touches(pieces: PolygonArray, cut: Cut) -> NDArray[np.bool_]:
    return crosses_cut(pieces, cut) if pieces.size else np.zeros(0, bool)
