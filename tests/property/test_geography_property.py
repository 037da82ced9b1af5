"""Regions anywhere on the globe: what is found, and which pixel a place belongs to, by brute force."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from pystac import Item
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from cryoscale.grid import RESOLUTION_M, Window, utm_epsg
from cryoscale.read import catalog
from cryoscale.region import RegionSpec, ZoneRegion, grown_bbox, read_region, zones_of
from cryoscale.write.zones import cuts

GEOD = Geod(ellps="WGS84")
MANNERS = ("plain", "crossing", "split", "beyond")
Extent = tuple[float, float, float, float]


def footprints(count: int = 240) -> dict[str, Extent]:
    """Extents all over the globe, longitudes going on beyond 180; half of them by the antimeridian."""
    rng = np.random.default_rng(11)
    found = {}
    for number in range(count):
        middle = rng.uniform(-180, 180) if number % 2 else 180.0 + rng.normal(0, 2)
        south = rng.uniform(-84, 83) if number % 3 else rng.uniform(70, 83)
        width, height = rng.uniform(0.5, 6), rng.uniform(0.3, 1.0)
        found[f"i{number:03d}"] = (middle - width / 2, south, middle + width / 2, south + height)
    return found


def told(name: str, extent: Extent) -> Item:
    """An item in the manner of one of four providers, where its footprint crosses the antimeridian."""
    west, south, east, north = extent
    if west < -180.0:
        west, east = west + 360.0, east + 360.0
    if west >= 180.0:
        west, east = west - 360.0, east - 360.0
    geometry: Any = box(west, south, east, north)
    bbox = [west, south, east, north]
    manner = MANNERS[int(name[1:]) // 2 % 4] if east > 180.0 else "plain"
    if manner in ("crossing", "plain") and east > 180.0:
        geometry = Polygon([(west, south), (east - 360, south), (east - 360, north), (west, north)])
        bbox = [west, south, east - 360.0, north]
    elif manner == "split":
        geometry = MultiPolygon([box(west, south, 180, north), box(-180, south, east - 360, north)])
        bbox = [-180.0, south, 180.0, north]
    moment = datetime(2020, 8, 1, tzinfo=UTC)
    return Item(name, mapping(geometry), bbox, moment, {}, collection="made-up")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items")
    features = [told(name, extent).to_dict() for name, extent in footprints().items()]
    manners = [feature["bbox"] for feature in features]
    assert sum(b[0] > b[2] for b in manners) > 10
    assert sum(b[2] > 180 for b in manners) > 5
    assert sum(feature["geometry"]["type"] == "MultiPolygon" for feature in features) > 5
    (path / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@st.composite
def regions(
    draw: st.DrawFn, widest_deg: float = 20.0, highest_deg: float = 1.0, north: float = 84.0
) -> Extent:
    """A bbox as a person writes it: west is greater than east over the antimeridian."""
    near = draw(st.booleans())
    west = draw(st.floats(174.0, 179.9) if near else st.floats(-180.0, 180.0 - widest_deg))
    south = draw(st.one_of(st.floats(-80.0, north - 1.0), st.floats(78.0, north - 1.0), st.floats(-1.0, 0.5)))
    east = west + draw(st.floats(0.01, widest_deg))
    return west, south, east if east <= 180.0 else east - 360.0, south + draw(st.floats(0.01, highest_deg))


def unwrapped(extent: Extent) -> Extent:
    west, south, east, north = extent
    return west, south, east + 360.0 if west > east else east, north


def meet(a: Extent, b: Extent) -> bool:
    """Whether two extents share a point on the globe."""
    if a[1] > b[3] or b[1] > a[3]:
        return False
    return any(a[0] + turn <= b[2] and b[0] <= a[2] + turn for turn in (-720, -360, 0, 360, 720))


@settings(max_examples=60)
@given(extent=regions())
def test_a_search_finds_exactly_the_items_that_share_a_point_with_the_grown_region(
    folder: Path, extent: Extent
) -> None:
    region = read_region(RegionSpec(bbox=extent))
    bbox = grown_bbox(region, 15_000.0)
    found = {item.id for item in catalog.search([{"url": str(folder)}], collection="made-up", bbox=bbox)}
    assert found == {name for name, other in footprints().items() if meet(unwrapped(bbox), other)}


@settings(max_examples=40)
@given(extent=regions(widest_deg=3.0))
def test_no_item_within_the_margin_of_a_region_is_missed_and_none_far_away_is_taken(
    folder: Path, extent: Extent
) -> None:
    margin_m = 40_000.0
    region = read_region(RegionSpec(bbox=extent))
    bbox = grown_bbox(region, margin_m)
    found = {item.id for item in catalog.search([{"url": str(folder)}], collection="made-up", bbox=bbox)}
    west, south, east, north = unwrapped(extent)
    lon, lat = (v.ravel() for v in np.meshgrid(np.linspace(west, east, 15), np.linspace(south, north, 9)))
    for name, (w, s, e, n) in footprints().items():
        # the point of the footprint nearest to each of the region, in degrees: no nearer than the nearest
        near = (w + e) / 2 + (lon - (w + e) / 2 + 180.0) % 360.0 - 180.0
        distance = GEOD.inv(near, lat, np.clip(near, w, e), np.clip(lat, s, n))[2].min()
        if distance < margin_m:
            assert name in found
        # a bbox is wider than the margin in the south of a high region, and has corners
        if distance > 400_000.0 and north < 80.0 and south > -80.0:
            assert name not in found


@settings(max_examples=40)
@given(extent=regions(widest_deg=0.2, highest_deg=0.1), u=st.floats(0.05, 0.95), v=st.floats(0.05, 0.95))
def test_every_place_of_a_region_is_a_pixel_of_just_its_zone(extent: Extent, u: float, v: float) -> None:
    region = read_region(RegionSpec(bbox=extent))
    west, south, east, north = unwrapped(extent)
    lon, lat = west + u * (east - west), south + v * (north - south)
    lon = (lon + 180.0) % 360.0 - 180.0
    zones = zones_of(region)
    assert utm_epsg(lon, lat) in zones
    border_m = abs((lon + 3.0) % 6.0 - 3.0) * 111_320.0 * np.cos(np.radians(lat))
    for epsg in zones:
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        window = Window(epsg, int(np.floor(-y / RESOLUTION_M)), int(np.floor(x / RESOLUTION_M)), 1, 1)
        zone = ZoneRegion(epsg, region)
        held = bool(zone.pixels(window)[0, 0])
        if epsg == utm_epsg(lon, lat):
            assert held
            block = next(b for b in zone.blocks(512) if b.window.intersect(window) is not None)
            assert zone.pixels(block.window)[window.slices_in(block.window)].item()
        elif epsg // 100 == utm_epsg(lon, lat) // 100 and border_m > 115.0:
            assert not held  # beyond the collar


@settings(max_examples=15)
@given(
    lon=st.one_of(st.floats(179.0, 181.0), st.floats(-170.0, 170.0)),
    lat=st.floats(-80.0, 83.0),
    bearing=st.floats(0.0, 360.0),
)
def test_a_buffer_reaches_as_far_as_it_says_also_over_the_antimeridian(
    tmp_path_factory: pytest.TempPathFactory, lon: float, lat: float, bearing: float
) -> None:
    path = tmp_path_factory.mktemp("rgi") / "outlines.geojson"
    ring = GEOD.fwd(*np.broadcast_arrays(lon, lat, np.arange(0.0, 360.0, 6.0)), np.full(60, 1000.0))
    lons = lon + (np.asarray(ring[0]) - lon + 180.0) % 360.0 - 180.0
    outline = Polygon(np.column_stack([lons, ring[1]]))
    geopandas.GeoDataFrame(geometry=[outline], crs=4326).to_file(path)
    grown = read_region(RegionSpec(rgi=str(path), buffer_m=3000.0))
    assert grown.is_valid
    assert grown.bounds[0] >= -180.0
    assert grown.bounds[2] <= 180.0
    for metres, inside in ((3900.0, True), (4100.0, False)):
        x, y, _ = GEOD.fwd(lon, lat, bearing, metres)
        assert shapely.contains_xy(grown, (x + 180.0) % 360.0 - 180.0, y) == inside
    area = sum(abs(GEOD.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(grown))
    assert area == pytest.approx(np.pi * 4000.0**2, rel=0.02)


@settings(max_examples=300)
@given(
    zones=st.sets(
        st.tuples(
            st.sampled_from([32600, 32700]), st.one_of(st.sampled_from([1, 2, 59, 60]), st.integers(1, 60))
        ),
        min_size=2,
        max_size=5,
    ),
    lon=st.floats(-180, 180),
    lat=st.floats(-80, 84),
)
def test_a_place_lies_on_the_side_of_one_zone_of_a_run(
    zones: set[tuple[int, int]], lon: float, lat: float
) -> None:
    """Its own, if that is one of them; whichever zones there are, and wherever on the globe."""
    epsgs = sorted(base + number for base, number in zones)
    rows: dict[int, list[int]] = {}
    holding = []
    for epsg, cut in cuts(epsgs).items():
        west, south, east, north = cut.box_deg
        turned = west + (lon - west) % 360.0
        if min(abs(lon - side) % 360.0 for side in (west, east)) < 1e-9 or abs(lat) < 1e-9:
            return  # on a side that two share
        if turned < east and south < lat < north:
            holding.append(epsg)
        rows.setdefault(epsg % 100, []).append(epsg)
    own = utm_epsg(lon, lat)
    if own in epsgs:
        assert own in holding
    # of two hemispheres' zones that do not lie above one another, both may hold a place that neither maps
    numbers = {epsg % 100 for epsg in holding}
    assert len(numbers) == 1
    if len(rows[numbers.pop()]) == 1:
        assert len(holding) == 1
