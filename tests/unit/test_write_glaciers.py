"""Complexes divided in an inventory: what lies on both sides of a ridge, also where two zones meet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from shapely.geometry import box

from cryoscale.grid import ZONE_COLLAR_M, Window, transformer, window_over_bounds
from cryoscale.write import outlines, zones
from cryoscale.write.carried import KnownGlaciers
from cryoscale.write.glaciers import Divider, divide_inventory
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Description, Inventory

LON, LAT = 84.0, 28.0
M_PER_DEG = 111_320.0
WIDE, HIGH = 3000.0, 2000.0
"""Half the ice, in m east and north of the place where two zones meet; the ridge runs from west to east."""


def east_north_m(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (lon - LON) * M_PER_DEG * np.cos(np.deg2rad(LAT)), (lat - LAT) * M_PER_DEG


def ice_of(epsg: int) -> xr.Dataset:
    """A rectangle of ice over the ridge, debris in a strip from north to south, two dates."""
    to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
    x, y = to_zone.transform(LON, LAT)
    window: Window = window_over_bounds(epsg, (x - 4000, y - 3000, x + 4000, y + 3000))
    y_m, x_m = window.coordinates()
    lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x_m, y_m))
    east, north = east_north_m(lon, lat)
    label = np.where((np.abs(east) < WIDE) & (np.abs(north) < HIGH), 1, 0)
    label[(label == 1) & (east > 1000) & (east < 1500)] = 2
    beyond_m = east * (1 if epsg % 100 == 44 else -1)
    label[beyond_m > ZONE_COLLAR_M] = 255
    date = np.where(north > 0, np.datetime64("2018-10-03"), np.datetime64("2018-10-20"))
    layers = {
        "label": label.astype(np.uint8),
        "confidence": np.where(north > 0, 200, 100).astype(np.uint8),
        "source_date": date.astype("datetime64[ns]"),
    }
    return xr.Dataset(
        {name: (("y", "x"), values) for name, values in layers.items()},
        coords={"y": y_m, "x": x_m},
        attrs={"crs": f"EPSG:{epsg}"},
    )


def roof(epsg: int) -> xr.DataArray:
    """Elevation at 40 m, which falls by one in five from the ridge to the north and to the south."""
    x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(LON, LAT)
    x, y = x // 40 * 40 + np.arange(-120, 120) * 40 + 20, y // 40 * 40 - np.arange(-90, 90) * 40 - 20
    lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x, y))
    _, north = east_north_m(lon, lat)
    z = (5500.0 - 0.2 * np.abs(north)).astype(np.float32)
    return xr.DataArray(z, dims=("y", "x"), coords={"y": y, "x": x})


MAPS = {epsg: ice_of(epsg) for epsg in (32644, 32645)}


def divided(
    maps: Mapping[int, xr.Dataset], ground: Ground | None, known: KnownGlaciers | None
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """Complexes, glaciers, their debris and their divides."""
    with outlines.survey(maps, year=2018) as complexes, Inventory({"year": 2018}) as parts:
        divide_inventory(complexes, parts, Divider(ground, known), maps, 256)
        found = [complexes.glaciers(), parts.glaciers(), parts.debris(), parts.divides()]
        whole, glaciers, debris, divides = (pd.concat(list(frames)) for frames in found)
    return whole, glaciers, debris, divides


@pytest.fixture(scope="module")
def by_dem() -> tuple[gpd.GeoDataFrame, ...]:
    return divided(MAPS, Ground({epsg: roof(epsg) for epsg in MAPS}, "SIMULATED"), None)


def test_ice_on_both_sides_of_a_ridge_is_two_glaciers_divided_along_it(
    by_dem: tuple[gpd.GeoDataFrame, ...],
) -> None:
    whole, glaciers, _, divides = by_dem
    assert len(whole) == 1
    assert sorted(glaciers["cenlat"] > LAT) == [False, True]
    assert (glaciers["divide_source"] == "dem").all()
    assert (glaciers["complex_id"] == whole["glac_id"].iloc[0]).all()
    (line,) = divides.geometry
    assert {divides["glac_id_1"].iloc[0], divides["glac_id_2"].iloc[0]} == set(glaciers["glac_id"])
    lat = shapely.get_coordinates(line)[:, 1]
    assert np.abs(lat - LAT).max() * M_PER_DEG < 60.0  # a cell and a half of the elevation model
    assert divides["length_m"].iloc[0] == pytest.approx(2 * WIDE, rel=0.03)


def test_glaciers_are_their_complex_vertex_by_vertex(by_dem: tuple[gpd.GeoDataFrame, ...]) -> None:
    whole, glaciers, _, _ = by_dem
    polygons = glaciers.geometry.to_numpy()
    assert shapely.coverage_is_valid(polygons)
    corners = {tuple(xy) for xy in shapely.get_coordinates(whole.geometry.to_numpy()).tolist()}
    assert corners <= {tuple(xy) for xy in shapely.get_coordinates(polygons).tolist()}
    assert glaciers["area_km2"].sum() == pytest.approx(whole["area_km2"].sum(), rel=1e-9)


def test_every_pixel_counts_for_the_glacier_that_it_lies_in(by_dem: tuple[gpd.GeoDataFrame, ...]) -> None:
    _, glaciers, debris, _ = by_dem
    north, south = (glaciers[(glaciers["cenlat"] > LAT) == side].iloc[0] for side in (True, False))
    for glacier, day, confidence in ((north, "2018-10-03", 0.8), (south, "2018-10-20", 0.4)):
        assert glacier["src_date"] == pd.Timestamp(day)
        assert glacier["confidence"] == pytest.approx(confidence, abs=0.02)
        assert glacier["debris_fraction"] == pytest.approx(500 / (2 * WIDE), rel=0.03)
        own = debris[debris["glac_id"] == glacier["glac_id"]]
        assert own["area_km2"].sum() == pytest.approx(glacier["debris_area_km2"], rel=0.01)
        outside = shapely.difference(shapely.union_all(own.geometry.to_numpy()), glacier.geometry)
        assert outside.area < 1e-12


def test_divides_of_older_glaciers_are_carried_forward_instead() -> None:
    west, east = (box(LON + a, LAT - 0.1, LON + b, LAT + 0.1) for a, b in ((-0.1, 0.01), (0.01, 0.1)))
    older = gpd.GeoDataFrame({"rgi_id": ["a", "b"]}, geometry=[west, east], crs="EPSG:4326")
    ground = Ground({epsg: roof(epsg) for epsg in MAPS}, "SIMULATED")
    _, glaciers, _, divides = divided(MAPS, ground, KnownGlaciers(older))
    assert (glaciers["divide_source"] == "rgi").all()
    assert len(glaciers) == 2
    lon = shapely.get_coordinates(divides.geometry.to_numpy())[:, 0]
    assert np.abs(lon - LON - 0.01).max() < 1e-5  # their long sides are straight in the zone, not in degrees


def test_the_least_area_of_divided_glaciers_is_one_on_the_ellipsoid() -> None:
    outline = box(LON + 0.01, LAT, LON + 0.03, LAT + 0.02)  # where a zone's map is 0.13 % too large
    sides = [box(LON, LAT - 0.1, LON + 0.012, LAT + 0.1), box(LON + 0.012, LAT - 0.1, LON + 0.1, LAT + 0.1)]
    older = KnownGlaciers(gpd.GeoDataFrame({"rgi_id": ["a", "b"]}, geometry=sides, crs="EPSG:4326"))
    least_km2 = zones.area_km2(Divider(None, older, 0.0).glaciers_of(outline).polygons).min()
    for least, expected in ((least_km2 * (1 - 1e-6), 2), (least_km2 * (1 + 1e-6), 1)):
        found = Divider(None, older, least).glaciers_of(outline).polygons
        assert found.size == expected
        assert zones.area_km2(found).sum() == pytest.approx(zones.area_km2(np.array([outline])).sum(), 1e-8)


def test_without_elevation_and_older_glaciers_a_complex_is_one_glacier_and_says_so(tmp_path: Path) -> None:
    whole, glaciers, debris, divides = divided(MAPS, None, None)
    assert glaciers["divide_source"].tolist() == ["none"]
    same = ["glac_id", "area_km2", "debris_fraction", "confidence", "src_date", "src_date_last", "is_part"]
    pd.testing.assert_frame_equal(pd.DataFrame(glaciers[same]), pd.DataFrame(whole[same]))
    assert glaciers.geometry.iloc[0].equals_exact(whole.geometry.iloc[0], 0.0)
    assert len(divides) == 0
    assert debris["area_km2"].sum() == pytest.approx(whole["debris_area_km2"].sum(), rel=0.01)


def test_who_describes_a_glacier_is_told_where_its_divides_come_from() -> None:
    # an older glacier in the north, and a strip of it over the ridge: the south is a glacier of its own
    older = gpd.GeoDataFrame(
        {"rgi_id": ["a"]}, geometry=[box(LON - 0.1, LAT - 0.0002, LON + 0.1, LAT + 0.1)], crs="EPSG:4326"
    )
    divider = Divider(Ground({epsg: roof(epsg) for epsg in MAPS}, "SIMULATED"), KnownGlaciers(older))
    with outlines.survey(MAPS, year=2018) as complexes, Inventory({"year": 2018}) as parts:
        divide_inventory(complexes, parts, divider, MAPS, 256)
        parts.describe(lambda outline, source: Description({"glac_name": source}))
        glaciers = pd.concat(list(parts.glaciers()))
    assert sorted(glaciers["divide_source"]) == ["dem", "rgi"]
    assert (glaciers["glac_name"] == glaciers["divide_source"]).all()
