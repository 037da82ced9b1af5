"""Polygons of several UTM zones to one set in degrees, joined by an exact cut at the meridian.

Each zone's map reaches a little over the meridian where the next zone begins
(:data:`cryoscale.grid.ZONE_COLLAR_M`), so that both sides have ice up to the meridian itself. Each
side is cut there, on the same line to the last bit, and what meets along the line is united. The
pixel staircases of the two zones need not fit each other; the union is a valid polygon all the same,
without gap or overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod

from cryoscale.grid import transformer, zone_bounds_deg
from cryoscale.write.polygons import PolygonArray, explode

_GEOD = Geod(ellps="WGS84")
_LONGEST_EDGE_M = 1000.0
"""Longest edge to be drawn straight in degrees: at 60 degrees north 1 km then strays by 3 cm."""
_SNAP_DEG = 1e-9


@dataclass(frozen=True)
class Cut:
    """The part of the world that a zone keeps, and which of its sides are cuts to a neighbour.

    Attributes:
        box_deg: west, south, east, north; infinite-like (the whole globe) where nobody joins on.
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
        box = (
            west if west in lons else -180.0,
            south if south in lats else -90.0,
            east if east in lons else 180.0,
            north if north in lats else 90.0,
        )
        found[epsg] = Cut(box, lons, lats)
    return found


def to_degrees(polygons: PolygonArray, crs: str) -> PolygonArray:
    """Polygons of a projected CRS in WGS 84 degrees, long edges bent as the projection bends them.

    Longitudes go on beyond 180 where a zone's map crosses the antimeridian.
    """
    if polygons.size == 0:
        return polygons
    centre = _central_meridian(crs)
    to_lonlat = transformer(crs, "EPSG:4326")

    def convert(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = to_lonlat.transform(xy[:, 0], xy[:, 1])
        return np.column_stack([(lon - centre + 180.0) % 360.0 - 180.0 + centre, lat])

    return np.asarray(shapely.transform(shapely.segmentize(polygons, _LONGEST_EDGE_M), convert), object)


def join(by_zone: Mapping[int, PolygonArray], where: Mapping[int, Cut]) -> PolygonArray:
    """Cuts the polygons (degrees) of each zone at its borders and unites those that meet there."""
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
        united = explode(shapely.disjoint_subset_union_all(at_border))
        whole.append(explode(shapely.make_valid(united)))
    return np.concatenate(whole)


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
    """Areas of polygons in WGS 84 degrees on the ellipsoid, km2, holes taken off."""
    return np.array([abs(_GEOD.geometry_area_perimeter(polygon)[0]) / 1e6 for polygon in polygons], float)


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


def _central_meridian(crs: str) -> float:
    operation = CRS.from_user_input(crs).coordinate_operation
    for parameter in operation.params if operation else ():
        if parameter.name == "Longitude of natural origin":
            return float(parameter.value)
    return 0.0
