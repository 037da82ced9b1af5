"""Small maps where grids are odd: at the poles' rim, the antimeridian, the equator, and Norway's zones.

Each has a disc of ice on the border of zones. Where it is, how large it is and that no place is mapped
twice or not at all is worked out from longitudes and latitudes alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import Geod, Proj, Transformer
from pystac import Item
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from cryoscale.config import load_config
from cryoscale.finish import finish
from cryoscale.grid import Window, window_over_bounds
from cryoscale.read.assets import S2_BANDS
from cryoscale.results import Run
from tests.integration.conftest import map_here
from tests.integration.test_read_inputs import write

GEOD = Geod(ellps="WGS84")
RADIUS_M = 700.0
ICE = {"B11": 0.05, "B12": 0.04}


@dataclass(frozen=True)
class Place:
    """Where the disc lies, the zones that map it, the grids of its scenes, how their footprints are told."""

    lon: float
    lat: float
    zones: tuple[int, ...]
    grids: tuple[int, ...]
    footprint: str = "plain"

    @property
    def half_deg(self) -> tuple[float, float]:
        """Half the region's width and height: about 1 km each."""
        return 1000.0 / (111_320.0 * np.cos(np.radians(self.lat))), 1000.0 / 111_000.0

    @property
    def bbox(self) -> list[float]:
        """West is greater than east over the antimeridian."""
        dx, dy = self.half_deg
        west, east = ((lon + 180.0) % 360.0 - 180.0 for lon in (self.lon - dx, self.lon + dx))
        return [west, self.lat - dy, east, self.lat + dy]

    def area_km2(self) -> float:
        """Of the region, on the ellipsoid."""
        dx, dy = self.half_deg
        # parallels are no geodesics: follow them in small steps
        x = np.linspace(-dx, dx, 200)
        ring = [*zip(x, np.full(200, -dy), strict=True), *zip(x[::-1], np.full(200, dy), strict=True)]
        lons, lats = zip(*((self.lon + a, self.lat + b) for a, b in ring), strict=True)
        return abs(GEOD.polygon_area_perimeter(lons, lats)[0]) / 1e6


PLACES = {
    "84 north, a scene of 35X over zones 34 and 35": Place(24.0, 83.85, (32634, 32635), (32635,)),
    "Svalbard, a scene of 33X over zones 32 and 33": Place(12.0, 79.0, (32632, 32633), (32633,)),
    "Norway, a scene of 32V over zones 31 and 32": Place(6.0, 61.7, (32631, 32632), (32632,)),
    "the equator, scenes of 17N and 18S over four zones": Place(
        -78.0, 0.0, (32617, 32618, 32717, 32718), (32617, 32718)
    ),
    "Fiji, scenes told west over east": Place(180.0, -17.0, (32701, 32760), (32760, 32701), "crossing"),
    "Chukotka, a scene told in two parts": Place(180.0, 66.0, (32601, 32660), (32601,), "split"),
    "Wrangel, a scene told beyond 180": Place(180.0, 71.2, (32601, 32660), (32660,), "beyond"),
}


def in_disc(place: Place, lon: Any, lat: Any, radius_m: float = RADIUS_M) -> NDArray[np.bool_]:
    lon, lat = np.asarray(lon, float), np.asarray(lat, float)
    middle = np.broadcast_to(place.lon, lon.shape), np.broadcast_to(place.lat, lon.shape)
    return np.asarray(GEOD.inv(*middle, lon, lat)[2]) < radius_m


def told(place: Place, west: float, south: float, east: float, north: float) -> tuple[Any, list[float]]:
    """Geometry and bbox of a footprint whose longitudes go on beyond 180, in the provider's manner."""
    if place.footprint == "split":
        parts = MultiPolygon([box(west, south, 180, north), box(-180, south, east - 360, north)])
        return mapping(parts), [-180.0, south, 180.0, north]
    if place.footprint == "crossing":
        ring = [(west, south), (east - 360, south), (east - 360, north), (west, north), (west, south)]
        return mapping(Polygon(ring)), [west, south, east - 360, north]
    return mapping(box(west, south, east, north)), [west, south, east, north]


def scene(folder: Path, place: Place, epsg: int) -> Item:
    """A scene on one grid over all of the region and 2 km more, ice in the disc and rock around."""
    to_grid = Transformer.from_crs(4326, epsg, always_xy=True)
    dx, dy = (3.0 * half for half in place.half_deg)
    x, y = to_grid.transform(
        *np.meshgrid(np.linspace(-dx, dx, 9) + place.lon, np.linspace(-dy, dy, 9) + place.lat)
    )
    near = window_over_bounds(epsg, (x.min(), y.min(), x.max(), y.max()))
    window = Window(epsg, near.row // 6 * 6, near.col // 6 * 6, near.height // 6 * 6, near.width // 6 * 6)
    west, _, _, north = window.bounds_m
    eastings = west + 20.0 * (np.arange(window.width // 2) + 0.5)
    northings = north - 20.0 * (np.arange(window.height // 2) + 0.5)
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(*np.meshgrid(eastings, northings))
    ice = in_disc(place, lon, lat)
    continuous = place.lon + (lon - place.lon + 180.0) % 360.0 - 180.0
    geometry, bbox = told(
        place, *(float(v) for v in (continuous.min(), lat.min(), continuous.max(), lat.max()))
    )
    made = Item(
        f"scene-{epsg}",
        geometry,
        bbox,
        datetime(2020, 2, 1, tzinfo=UTC),
        {"s2:processing_baseline": "02.12", "eo:cloud_cover": 1.0},
        collection="sentinel-2-l2a",
    )
    for number, band in enumerate(S2_BANDS):
        values = np.where(ice, ICE.get(band, 0.4), 0.15 + 0.01 * number)
        made.add_asset(
            band,
            write(folder / f"{epsg}-{band}.tif", np.round(values * 1e4).astype(np.uint16), 20, window),
        )
    made.add_asset("SCL", write(folder / f"{epsg}-SCL.tif", np.full(ice.shape, 5, np.uint8), 20, window))
    made.save_object(include_self_link=False, dest_href=str(folder / f"{epsg}.json"))
    return made


@pytest.mark.parametrize("name", list(PLACES))
def test_every_place_is_mapped_once_and_the_ice_lies_where_it_is(name: str, tmp_path: Path) -> None:
    place = PLACES[name]
    folder = tmp_path / "scenes"
    folder.mkdir()
    scenes = [scene(folder, place, epsg) for epsg in place.grids]
    settings = load_config(
        {
            "name": "odd",
            "region": {"bbox": place.bbox},
            "years": [2020],
            "season": {"start": "01-01", "end": "03-31"},
            "catalogs": [{"url": str(folder)}],
            "sources": {"optical": {"collection": "sentinel-2-l2a"}},
            "model": {"name": "band-ratio"},
            "tiling": {"tile_px": 64, "block_px": 256},
        }
    )
    markers = map_here(settings, tmp_path / "run")
    assert {scene for marker in markers for scene in marker.scenes_read} == {item.id for item in scenes}
    run = Run(str(tmp_path / "run"))
    assert tuple(run.zones(2020)) == place.zones

    rng = np.random.default_rng(8)
    dx, dy = place.half_deg
    lons = place.lon + rng.uniform(-dx, dx, 3000) * 0.985
    lats = place.lat + rng.uniform(-dy, dy, 3000) * 0.985
    times, area_m2, ice_m2 = np.zeros(3000, int), 0.0, 0.0
    for epsg in place.zones:
        label = run.mosaic(2020, epsg)["label"].load()
        west = -180.0 + 6.0 * (epsg % 100 - 1)
        x, y = np.meshgrid(label["x"].values, label["y"].values)
        lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
        strip = (lon - west) % 360.0 < 6.0
        own = strip & (label.values != 255)
        scale = Proj(f"EPSG:{epsg}").get_factors(lon[own], lat[own]).areal_scale
        area_m2 += (100.0 / scale).sum()
        ice_m2 += (100.0 / scale)[label.values[own] == 1].sum()

        px, py = Transformer.from_crs(4326, epsg, always_xy=True).transform(lons, lats)
        i = np.floor((label["y"].values[0] + 5.0 - py) / 10.0).astype(int)
        j = np.floor((px - label["x"].values[0] + 5.0) / 10.0).astype(int)
        there = (i >= 0) & (i < label.sizes["y"]) & (j >= 0) & (j < label.sizes["x"])
        i, j = np.where(there, i, 0), np.where(there, j, 0)
        times += there & own[i, j]
        # whatever zone a place is mapped in, it is mapped right
        seen = there & (label.values[i, j] != 255)
        core, far = in_disc(place, lons, lats, RADIUS_M - 45.0), ~in_disc(place, lons, lats, RADIUS_M + 45.0)
        assert (label.values[i, j][seen & core] == 1).all()
        assert (label.values[i, j][seen & far] == 0).all()
    # a pixel of 10 m belongs by its centre: only places a pixel from the border may be seen otherwise
    edge_m = np.abs(lons - place.lon) * 111_320.0 * np.cos(np.radians(place.lat))
    away = (edge_m > 20.0) & ((np.abs(lats * 111_000.0) > 20.0) | (place.lat != 0.0))
    assert (times[away] == 1).all()
    assert area_m2 / 1e6 == pytest.approx(place.area_km2(), rel=4e-3)
    assert ice_m2 == pytest.approx(np.pi * RADIUS_M**2, rel=0.03)

    finish(settings, str(tmp_path / "run"), lambda _: None)
    glaciers = run.outlines(2020)
    assert glaciers["area_km2"].sum() * 1e6 == pytest.approx(np.pi * RADIUS_M**2, rel=0.03)
    np.testing.assert_allclose(glaciers["clean_area_km2"], glaciers["area_km2"])
    assert set(glaciers["src_date"].dt.strftime("%Y-%m-%d")) == {"2020-02-01"}
    (outline,) = glaciers.geometry  # also over the antimeridian, where longitudes go on beyond 180
    assert outline.bounds[0] < place.lon < outline.bounds[2] or place.lon != 180.0
    dx, dy = place.half_deg
    for path in (tmp_path / "run" / "stac").glob("*.json"):
        west, south, east, north = json.loads(path.read_text())["bbox"]
        assert (east - west) % 360.0 < 20 * dx
        assert south < place.lat < north or place.lat == 0.0
