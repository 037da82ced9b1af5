"""The region asked for: read from a bbox or a file, cut into UTM zones, and held to the pixel.

A pixel belongs to the run when its centre, taken back to longitude and latitude exactly, lies in
the region and in its zone's six degrees (with the collar of :data:`cryoscale.grid.ZONE_COLLAR_M`).
The test knows nothing of blocks, so that no block size can move the edge of a map.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, box

from cryoscale.errors import RegionError, SourceError
from cryoscale.grid import (
    RESOLUTION_M,
    ZONE_COLLAR_M,
    Block,
    Window,
    transformer,
    utm_epsg,
    window_over_bounds,
    zone_bounds_deg,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from geopandas import GeoSeries
    from numpy.typing import NDArray

_METRES_A_DEGREE = 111_320.0

_EDGE_M = 1000.0
"""Edges of a projection are followed in steps of so much: 2 cm off at 45 degrees, a metre at 89."""
_ON_EARTH_M = 1e8
"""No projection has coordinates as large."""

MAX_LATITUDE_DEG = 89.0
"""Where regions have to end, north and south."""
_FARTHEST_DEG = 540.0
"""A turn and a half: where longitudes are counted to 360, a region over Greenwich goes on beyond."""
_WITHIN = (
    f"a region within {MAX_LATITUDE_DEG:g} degrees of latitude, as UTM zones end in a point at the poles"
)


@dataclass(frozen=True)
class RegionSpec:
    """How a region was named: one of ``bbox``, ``file`` and ``rgi``, grown by ``buffer_m``."""

    bbox: tuple[float, float, float, float] | None = None
    file: str | None = None
    rgi: str | None = None
    buffer_m: float = 0.0
    what: str = "region file"
    """What a file is called where it is refused."""


def read_region(spec: RegionSpec) -> Polygon | MultiPolygon:
    """The region in longitude and latitude (WGS 84).

    A region over the antimeridian comes back in parts on either side of it (RFC 7946, 3.1.9), whether it was
    given so, with longitudes beyond 180, or in a projection. Sentinel-2 takes pictures up to 84 degrees
    north (https://sentiwiki.copernicus.eu/web/s2-mission); a region may reach further, and what lies there
    is searched for, found by none and no data. At 89 degrees zones become narrower than a block.

    Raises:
        RegionError: reversed or empty bbox, a file that is absent, unreadable or holds anything but polygons,
            or a region that reaches beyond 89 degrees.
        SourceError: a GeoJSON in a CRS that nobody knows, or a file of several layers of polygons.
    """
    geometry = _read(spec)
    _, south, _, north = geometry.bounds
    if max(-south, north) > MAX_LATITUDE_DEG:
        raise RegionError(
            f"a region that reaches to {north if north > MAX_LATITUDE_DEG else south:.3f} degrees",
            _WITHIN,
            "end it at 84 degrees, where the scenes end",
        )
    return geometry


def parse_region(text: str) -> Polygon | MultiPolygon:
    """The region that a person writes in a command: west,south,east,north in degrees, or a file of polygons.

    Raises:
        RegionError: as :func:`read_region`.
    """
    parts = text.split(",")
    if len(parts) != 4:
        return read_region(RegionSpec(file=text))
    try:
        west, south, east, north = (float(part) for part in parts)
    except ValueError:
        raise RegionError(
            f"region {text!r}", "west,south,east,north in degrees, or a file of polygons", "correct it"
        ) from None
    return read_region(RegionSpec(bbox=(west, south, east, north)))


def _read(spec: RegionSpec) -> Polygon | MultiPolygon:
    bbox, path = spec.bbox, Path(spec.file or spec.rgi or "")
    geometry = _from_bbox(bbox) if bbox is not None else _from_file(path, spec.what)
    return _buffered(geometry, spec.buffer_m) if spec.buffer_m else geometry


def _from_bbox(bbox: tuple[float, float, float, float]) -> Polygon | MultiPolygon:
    west, south, east, north = bbox
    given = f"region bbox [{', '.join(f'{v:g}' for v in bbox)}]"
    expected = "[west, south, east, north] in degrees with west < east and south < north"
    if not all(math.isfinite(v) for v in bbox) or abs(south) > 90 or abs(north) > 90:
        raise RegionError(given, expected, "give longitudes in -180..180 and latitudes in -90..90")
    if max(abs(west), abs(east)) > 180:
        raise RegionError(given, expected, "give longitudes in -180..180")
    if south >= north or west - east in (0, 360):
        raise RegionError(given, expected, "exchange south and north" if south > north else "give it an area")
    if west > east:
        # A bbox over the antimeridian is written with west > east (RFC 7946, 5.2); anything that
        # would then span more than half the globe is a slip of the pen.
        if (east - west) % 360 > 180:
            raise RegionError(given, expected, "exchange west and east")
        return on_globe(box(west, south, east + 360.0, north))
    return box(west, south, east, north)


def _from_file(path: Path, what: str) -> Polygon | MultiPolygon:
    import geopandas

    from cryoscale.write.around import layer_of, require_known_crs
    from cryoscale.write.rings import crossing, names_of

    given = f"{what} {path}"
    if not os.path.exists(path):  # which a name too long for a file does not end
        raise RegionError(f"{given} (absent)", "a vector file of polygons", "check the path")
    try:
        with np.errstate(invalid="ignore"):  # coordinates that are no numbers are told below
            if path.suffix in (".parquet", ".geoparquet"):
                frame = geopandas.read_parquet(path)
            else:
                frame = geopandas.read_file(path, layer=layer_of(path, given))
    except SourceError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RegionError(
            f"{given} ({reason})", "GeoJSON, GeoPackage, Shapefile or GeoParquet", "convert it"
        ) from error
    if "geometry" not in frame or frame.empty:
        raise RegionError(f"{given} without features", "polygons", "check its contents")
    if frame.crs is None:
        raise RegionError(f"{given} without a CRS", "polygons that name theirs", "set it in the file")
    require_known_crs(path, given)
    names, shapes = names_of(frame), _in_degrees(frame.geometry)
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise RegionError(
            f"{given} with coordinates that are not finite in longitude and latitude",
            "finite coordinates of the CRS that it declares",
            "mend them, or correct its CRS",
        )
    parts, owners = _polygons_in(shapes)
    # a feature without geometry names no place that could be left out
    left_out = np.setdiff1d(np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes))), owners)
    if left_out.size:
        which = f"{names[left_out[0]]} is a {shapes[left_out[0]].geom_type}"
        raise RegionError(f"{given}, in which {which}", "polygons", "take it out, or draw its area")
    if not parts.size:
        raise RegionError(f"{given}, of whose features none has a geometry", "polygons", "check its contents")
    bounds = tuple(shapely.total_bounds(parts).tolist())
    if max(map(abs, bounds[::2])) > _FARTHEST_DEG or max(map(abs, bounds[1::2])) > 90:
        raise RegionError(
            f"{given} with coordinates {bounds}", "coordinates of the CRS that it declares", "correct its CRS"
        )
    if any(_tears(part).sum() for part in parts):
        raise RegionError(
            f"{given}, in which a ring goes round a pole",
            _WITHIN,
            "end it at 84 degrees, where the scenes end, and cut what is left along a meridian",
        )
    whole = [_unwrapped(part) for part in parts]
    crossed = crossing(np.asarray(whole, object), [names[owner] for owner in owners])
    if crossed is not None:
        raise RegionError(f"{given}, whose rings cross ({crossed})", "valid polygons", "mend it in the file")
    merged = shapely.union_all(shapely.make_valid(np.asarray(whole, object)))
    if merged.is_empty or merged.area == 0:
        raise RegionError(f"{given} without an area", "polygons", "check its contents")
    return on_globe(merged)


def _in_degrees(drawn: GeoSeries) -> NDArray[np.object_]:
    """The shapes in longitude and latitude, straight edges of a projection followed to about a metre.

    Between two vertices alone, an edge of 300 km in UTM would run a kilometre off at 28 degrees.
    """
    if drawn.crs.is_projected:
        metres = drawn.crs.axis_info[0].unit_conversion_factor
        reach = np.abs(shapely.get_coordinates(drawn.to_numpy())).max(initial=0.0) * metres
        if reach < _ON_EARTH_M:  # else they are no places, which is told by whoever asked
            drawn = drawn.segmentize(_EDGE_M / metres)
    return np.asarray(drawn.to_crs(4326).to_numpy(), object)


def _polygons_in(shapes: NDArray[np.object_]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """The polygons of geometries, those in their collections as well, and the index of the one of each.

    Lines and points beside polygons in a collection are what an intersection leaves where borders touch.
    """
    parts, owners = shapely.get_parts(shapes, return_index=True)
    while (shapely.get_type_id(parts) >= shapely.GeometryType.MULTIPOINT).any():  # one within another
        parts, of = shapely.get_parts(parts, return_index=True)
        owners = owners[of]
    polygons = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    return parts[polygons], owners[polygons]


def _tears(polygon: Polygon) -> NDArray[np.float64]:
    """Edges of a polygon's rim that cross the antimeridian: 1 to the west, -1 to the east, 0 for any other.

    An edge over more than half the globe is one that goes the other way round; where all such are over the
    whole of it, they are those of a band around it. A rim around a pole crosses once more to the one side.
    """
    steps = np.diff(shapely.get_coordinates(polygon.exterior)[:, 0])
    far = np.abs(steps) > 180.0
    band = (np.abs(steps[far]) >= 360.0).all()
    return np.zeros(steps.size) if band else np.where(far, np.sign(steps), 0.0)


def _unwrapped(polygon: Polygon) -> Polygon:
    """A polygon torn at the antimeridian made whole again; its longitudes may then go beyond 180."""
    if not _tears(polygon).any():
        return polygon
    return _around(polygon, float(polygon.exterior.coords[0][0]))


def _around(geometry: Any, lon_deg: float) -> Any:
    """The geometry with longitudes within half a turn of ``lon_deg``."""

    def turn(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        lon = coordinates[:, 0]
        return np.column_stack([lon + 360.0 * np.round((lon_deg - lon) / 360.0), coordinates[:, 1]])

    return shapely.transform(geometry, turn)


def _turned(geometry: Any, turn_deg: float) -> Any:
    return shapely.transform(geometry, lambda xy: xy + np.array([turn_deg, 0.0])) if turn_deg else geometry


def on_globe(geometry: Any) -> Polygon | MultiPolygon:
    """The geometry cut at the antimeridian, its longitudes in -180..180."""
    west, _, east, _ = geometry.bounds
    if west >= -180.0 and east <= 180.0:
        return _polygons(geometry)
    globe = box(-180.0, -90.0, 180.0, 90.0)
    parts = [_turned(geometry, turn).intersection(globe) for turn in (-360.0, 0.0, 360.0)]
    return _polygons(shapely.union_all(parts))


def _polygons(geometry: Any) -> Polygon | MultiPolygon:
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon)]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _buffered(geometry: Polygon | MultiPolygon, buffer_m: float) -> Polygon | MultiPolygon:
    """Grown by metres in an azimuthal projection of each part's own, since degrees are not metres."""
    from pyproj import Proj

    grown = []
    for part in shapely.get_parts(geometry):
        lon, lat = part.representative_point().coords[0]
        # a bare projection: a Transformer gives the same bits and takes 8 ms to make, 20,000 outlines minutes
        local = Proj(f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m")
        metric = _through(part, local).buffer(buffer_m)
        grown.append(on_globe(_around(_through(metric, partial(local, inverse=True)), lon)))
    return _polygons(shapely.union_all(grown))


def _project(geometry: Any, source: str, target: str) -> Any:
    return _through(geometry, transformer(source, target).transform)


def _through(geometry: Any, forward: Callable[..., Any]) -> Any:
    """The geometry with its coordinates through a function of arrays x and y."""

    def apply(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = forward(coordinates[:, 0], coordinates[:, 1])
        return np.column_stack([x, y])

    return shapely.transform(geometry, apply)


def grown_bbox(region: Polygon | MultiPolygon, margin_m: float) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees of the region grown by at least ``margin_m``.

    A catalogue is searched with it, so that tiles at the region's edge read the same scenes as they
    would in a larger run. West is greater than east where the region lies over the antimeridian.
    """
    west, south, east, north = _bounds_over_antimeridian(region)
    lat = margin_m / _METRES_A_DEGREE * 1.01
    widest = min(max(abs(south), abs(north)) + lat, 89.9)
    lon = lat / math.cos(math.radians(widest))
    if east - west + 2 * lon >= 360.0:
        return -180.0, max(south - lat, -90.0), 180.0, min(north + lat, 90.0)
    return _wrap(west - lon), max(south - lat, -90.0), _wrap(east + lon), min(north + lat, 90.0)


def _wrap(lon_deg: float) -> float:
    return lon_deg if -180.0 <= lon_deg <= 180.0 else (lon_deg + 180.0) % 360.0 - 180.0


def _bounds_over_antimeridian(region: Polygon | MultiPolygon) -> tuple[float, float, float, float]:
    west, south, east, north = region.bounds
    if west <= -179.999 and east >= 179.999:
        parts = [part.bounds for part in shapely.get_parts(region)]
        eastern = [b for b in parts if b[0] >= 0]
        western = [b for b in parts if b[0] < 0]
        if eastern and western and max(b[2] for b in western) < min(b[0] for b in eastern):
            return min(b[0] for b in eastern), south, max(b[2] for b in western) + 360.0, north
    return west, south, east, north


def zones_of(region: Polygon | MultiPolygon) -> list[int]:
    """EPSG codes of the UTM zones that the region shares an area with, in ascending order."""
    west, _, east, _ = region.bounds
    codes = set()
    first, last = math.floor((west + 180.0) / 6.0), math.ceil((east + 180.0) / 6.0)
    for zone in range(max(first, 0), min(last, 60)):
        for lat in (-1.0, 1.0):
            epsg = utm_epsg(-180.0 + 6.0 * zone + 3.0, lat)
            if shapely.intersects(region, box(*zone_bounds_deg(epsg))):
                codes.add(epsg)
    return sorted(code for code in codes if region.intersection(box(*zone_bounds_deg(code))).area > 0)


@dataclass(frozen=True)
class ZoneRegion:
    """The part of a region that one UTM zone maps; tells which blocks and which pixels belong to it."""

    epsg: int
    region: Polygon | MultiPolygon

    def _strip(self) -> Polygon:
        west, south, east, north = zone_bounds_deg(self.epsg)
        _, region_south, _, region_north = self.region.bounds
        widest = min(max(abs(region_south), abs(region_north)) + 0.1, 89.0)
        lon = 1.1 * ZONE_COLLAR_M / (_METRES_A_DEGREE * math.cos(math.radians(widest)))
        # The equator needs no collar: no run cuts a glacier there.
        return box(west - lon, south, east + lon, north)

    def projected(self) -> Polygon | MultiPolygon:
        """The zone's part in metres, its edges followed to a few centimetres; empty where none."""
        return self._projected

    @cached_property
    def _projected(self) -> Polygon | MultiPolygon:
        strip = self._strip()
        # the strip of the first and of the last zone reaches over the antimeridian by its collar
        turns = [0.0]
        turns += [-360.0] if strip.bounds[0] < -180.0 else []
        turns += [360.0] if strip.bounds[2] > 180.0 else []
        parts = [_turned(self.region, turn).intersection(strip) for turn in turns]
        whole = parts[0] if len(parts) == 1 else shapely.union_all(parts)
        part = shapely.segmentize(whole, 0.01)
        polygons = [p for p in shapely.get_parts(part) if isinstance(p, Polygon)]
        return _project(MultiPolygon(polygons), "EPSG:4326", f"EPSG:{self.epsg}")

    def window(self) -> Window:
        """The smallest window over the zone's part of the region."""
        return window_over_bounds(self.epsg, self.projected().bounds)

    def pixels(self, window: Window) -> NDArray[np.bool_]:
        """(y, x) mask of the window's pixels whose centres belong to the region and the zone."""
        y, x = window.coordinates()
        inverse = transformer(f"EPSG:{self.epsg}", "EPSG:4326")
        if self._holds(window):
            return np.ones(window.shape, bool)
        mask = np.empty(window.shape, bool)
        west, south, east, north = zone_bounds_deg(self.epsg)
        shapely.prepare(self.region)
        # A hundred rows at a time bounds the memory that the coordinates take.
        for top in range(0, window.height, 128):
            rows = y[top : top + 128]
            lon, lat = inverse.transform(*np.meshgrid(x, rows))
            # UTM of a far pixel comes back wrapped; a zone's longitudes are counted from its middle.
            lon = (lon - (west + 3.0) + 180.0) % 360.0 - 180.0 + (west + 3.0)
            collar = ZONE_COLLAR_M / (_METRES_A_DEGREE * np.cos(np.radians(lat)))
            inside = (lon >= west - collar) & (lon < east + collar) & (lat >= south) & (lat < north)
            inside &= shapely.contains_xy(self.region, _wrap_array(lon), lat)
            mask[top : top + 128] = inside
        return mask

    def _holds(self, window: Window) -> bool:
        """Whether the window lies wholly inside, judged by its outline with a pixel to spare."""
        west, south, east, north = window.pad(2).bounds_m
        along = np.linspace(0.0, 1.0, 33)
        xs = np.concatenate(
            [west + along * (east - west), np.full(33, east), east - along * (east - west), np.full(33, west)]
        )
        ys = np.concatenate(
            [
                np.full(33, south),
                south + along * (north - south),
                np.full(33, north),
                north - along * (north - south),
            ]
        )
        lon, lat = transformer(f"EPSG:{self.epsg}", "EPSG:4326").transform(xs, ys)
        ring = Polygon(np.column_stack([lon, lat]))
        core = self.region.intersection(box(*zone_bounds_deg(self.epsg)))
        return bool(ring.is_valid and core.contains(ring))

    def blocks(self, size_px: int) -> list[Block]:
        """The blocks that share an area with the zone's part of the region, row by row."""
        edge_m, found = size_px * RESOLUTION_M, set[tuple[int, int]]()
        for part in shapely.get_parts(self.projected()):
            window = window_over_bounds(self.epsg, part.bounds)
            rows = np.arange(window.row // size_px, -(-(window.row + window.height) // size_px))
            cols = np.arange(window.col // size_px, -(-(window.col + window.width) // size_px))
            row, col = (places.ravel() for places in np.meshgrid(rows, cols, indexing="ij"))
            shapely.prepare(part)
            boxes = shapely.box(col * edge_m, -(row + 1) * edge_m, (col + 1) * edge_m, -row * edge_m)
            hit = shapely.intersects(part, boxes)
            found.update(zip(row[hit].tolist(), col[hit].tolist(), strict=True))
        return [Block(self.epsg, row, col, size_px) for row, col in sorted(found)]


def _wrap_array(lon_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(lon_deg) > 180.0, (lon_deg + 180.0) % 360.0 - 180.0, lon_deg)
