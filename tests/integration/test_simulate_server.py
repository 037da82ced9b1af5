"""The published range as others meet it: files, static STAC, and a STAC API that clients search."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import odc.stac
import pystac
import pystac_client
import pytest
import rasterio
import shapely
import stac_pydantic
import xarray as xr

from cryoscale.errors import OutputError, SourceError
from cryoscale.grid import utm_epsg
from cryoscale.simulate.catalog import Published, Season, publish
from cryoscale.simulate.regime import OPTICAL_DATES
from cryoscale.simulate.sensors import BAND_RESOLUTION_M
from cryoscale.simulate.server import serve
from cryoscale.simulate.terrain import MountainRange, make_range

YEARS = (2018, 2019)


@pytest.fixture(scope="module")
def tiny() -> MountainRange:
    return make_range(11, "tiny")


@pytest.fixture(scope="module")
def published(tiny: MountainRange, tmp_path_factory: pytest.TempPathFactory) -> Published:
    later = make_range(11, "tiny", ela_shift_m=60.0)
    return publish(dict(zip(YEARS, (tiny, later), strict=True)), tmp_path_factory.mktemp("range"))


@pytest.fixture(scope="module")
def items(published: Published) -> list[pystac.Item]:
    found = list(pystac.Catalog.from_file(str(published.catalog)).get_items(recursive=True))
    for item in found:
        item.make_asset_hrefs_absolute()
    return found


@pytest.fixture(scope="module")
def url(published: Published) -> Iterator[str]:
    with serve(published.folder) as base:
        yield base


def of(items: list[pystac.Item], collection: str, epsg: int | None = None) -> list[pystac.Item]:
    return [
        item
        for item in items
        if item.collection_id == collection and epsg in (None, int(item.properties["proj:code"][5:]))
    ]


# --- what lies in the folder --------------------------------------------------------------------


def test_every_year_has_three_optical_and_two_thermal_dates_and_a_radar_pair_in_both_zones(
    published: Published, items: list[pystac.Item]
) -> None:
    assert published.epsgs == (32644, 32645)
    assert published.years == YEARS
    assert published.items == len(items)
    for epsg in published.epsgs:
        for year in YEARS:
            for collection, count in (
                ("sentinel-2-l2a", 3),
                ("landsat-c2-l2", 2),
                ("sentinel-1-slc-pair", 1),
            ):
                assert sum(i.datetime.year == year for i in of(items, collection, epsg)) == count
    assert len(of(items, "cop-dem-glo-30")) == 1


def test_the_static_catalogue_is_whole_and_says_that_it_is_simulated(
    published: Published, items: list[pystac.Item]
) -> None:
    root = pystac.Catalog.from_file(str(published.catalog))
    for folder, _, found in root.walk():
        for item in found:
            assert item.get_collection().id == item.collection_id == folder.id
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert item.properties["cryoscale:simulated"] is True
        assert "simulated" in item.properties["description"].lower()
        assert shapely.box(*item.bbox).buffer(1e-9).contains(shapely.geometry.shape(item.geometry))
    for path in published.folder.rglob("*.json"):
        for link in json.loads(path.read_text())["links"]:
            assert not link["href"].startswith(("/", "http", "file")), (path, link)


def test_items_and_collections_satisfy_an_independent_model_of_stac(
    published: Published, items: list[pystac.Item]
) -> None:
    for item in items:
        stac_pydantic.Item.model_validate(item.to_dict())
    for path in published.folder.glob("*/collection.json"):
        stac_pydantic.Collection.model_validate_json(path.read_text())
    stac_pydantic.Catalog.model_validate_json(published.catalog.read_text())


def test_every_asset_is_what_its_item_promises(items: list[pystac.Item]) -> None:
    for item in items:
        for key, asset in item.assets.items():
            with rasterio.open(asset.href) as source:
                assert source.crs.to_epsg() == int(item.properties["proj:code"][5:])
                assert [source.height, source.width] == asset.extra_fields["proj:shape"], (item.id, key)
                assert list(source.transform)[:6] == pytest.approx(asset.extra_fields["proj:transform"])
                band = asset.extra_fields["raster:bands"][0]
                declared = {"cfloat32": "complex64"}.get(band["data_type"], band["data_type"])
                assert source.dtypes[0] == declared
                assert source.nodata == band.get("nodata")
                if item.collection_id != "cop-dem-glo-30":
                    west, north, step = source.transform.c, source.transform.f, source.transform.a
                    assert west % step == 0
                    assert north % step == 0
                assert source.is_tiled or max(source.shape) <= 512


def test_sentinel_bands_have_their_native_resolution_and_each_baseline_its_offset(
    items: list[pystac.Item],
) -> None:
    offsets = {}
    for item in of(items, "sentinel-2-l2a"):
        assert set(item.assets) == {*BAND_RESOLUTION_M, "SCL"}
        for band, resolution_m in BAND_RESOLUTION_M.items():
            assert item.assets[band].extra_fields["proj:transform"][0] == resolution_m
        offsets[item.properties["s2:processing_baseline"]] = item.assets["B04"].extra_fields["raster:bands"][
            0
        ]["offset"]
    assert offsets == {"02.14": 0.0, "05.00": -0.1}


def test_reflectance_is_the_same_ground_with_and_without_the_offset(items: list[pystac.Item]) -> None:
    dates = sorted(of(items, "sentinel-2-l2a", 32645), key=lambda item: item.datetime)[:2]
    cubes = []
    for item in dates:
        raster = item.assets["B8A"].extra_fields["raster:bands"][0]
        data = odc.stac.load([item], bands=["B8A", "SCL"], crs="EPSG:32645", resolution=20).isel(time=0)
        bare = data.SCL.values == 5
        cubes.append((data.B8A.values * raster["scale"] + raster["offset"], bare))
    both = cubes[0][1] & cubes[1][1]
    assert both.sum() > 200
    assert abs(float(np.median(cubes[0][0][both] - cubes[1][0][both]))) < 0.02


def test_cloud_cover_is_that_of_the_classification(items: list[pystac.Item]) -> None:
    for item in of(items, "sentinel-2-l2a"):
        with rasterio.open(item.assets["SCL"].href) as source:
            code = source.read(1)
        share = 100.0 * np.isin(code, (8, 9, 10)).sum() / (code > 0).sum()
        assert item.properties["eo:cloud_cover"] == pytest.approx(share, abs=0.01)
        with rasterio.open(item.assets["B11"].href) as source:
            assert np.array_equal(source.read(1) == 0, code == 0)


def test_the_complex_pair_reads_through_odc_stac_and_rasterio_alike(items: list[pystac.Item]) -> None:
    item = of(items, "sentinel-1-slc-pair", 32645)[0]
    cube = odc.stac.load(
        [item], bands=["slc1", "slc2"], crs="EPSG:32645", resolution=10, dtype="complex64", chunks={}
    )
    with rasterio.open(item.assets["slc2"].href) as source:
        assert np.array_equal(cube.slc2.isel(time=0).values, source.read(1))


def test_the_velocity_mosaic_opens_with_xarray_like_the_real_one(published: Published) -> None:
    mosaic = xr.open_zarr(published.velocity)
    raw = xr.open_zarr(published.velocity, mask_and_scale=False)
    assert mosaic.mapping.attrs["spatial_epsg"] in published.epsgs
    assert np.all(np.diff(mosaic.x) == 120.0)
    assert np.all(np.diff(mosaic.y) == -120.0)
    assert raw.vx.dtype == np.int16
    assert (raw.vx.values == -32767).any()
    speed = np.hypot(mosaic.vx.values, mosaic.vy.values)
    valid = np.isfinite(speed)
    assert np.allclose(speed[valid], mosaic.v.values[valid], atol=1.2)


def test_truth_lies_on_the_world_lattice_and_its_outlines_hold_its_ice(
    published: Published, tiny: MountainRange
) -> None:
    areas = {}
    for epsg in published.epsgs:
        with rasterio.open(published.truth(epsg)) as source:
            label = source.read(1)
            assert source.transform.c % 10 == 0
            assert source.transform.f % 10 == 0
            assert source.nodata == 255
            assert set(np.unique(label)) <= {0, 1, 2, 3, 4, 255}
            x, _ = rasterio.transform.xy(source.transform, *np.nonzero(label < 255))
        areas[epsg] = np.bincount(label[label < 255], minlength=5)
        assert np.ptp(np.asarray(x)) > 1000
    outlines = gpd.read_parquet(published.outlines)
    assert set(outlines.year) == set(YEARS)
    assert outlines.crs.to_epsg() == 4326
    share = (tiny.truth == 1).mean()
    together = sum(areas.values())
    # The zones overlap by 4 km of a range 4 km wide: both hold most of it.
    assert together[1] / together.sum() == pytest.approx(share, abs=0.06)
    assert published.truth(32645, 2019) != published.truth(32645)
    assert published.truth(32645, 2019).exists()


def test_a_folder_that_holds_a_catalogue_is_left_alone(published: Published, tiny: MountainRange) -> None:
    before = published.catalog.read_bytes()
    with pytest.raises(OutputError, match="catalogue"):
        publish(tiny, published.folder)
    assert published.catalog.read_bytes() == before


def test_publishing_twice_gives_the_same_bytes(tiny: MountainRange, tmp_path: Path) -> None:
    season = Season(optical=OPTICAL_DATES[:1], thermal=(), radar=True)
    first, second = (
        publish(tiny, tmp_path / name, season=season, threads=n) for name, n in (("a", 1), ("b", 3))
    )
    files = sorted(p.relative_to(first.folder) for p in first.folder.rglob("*.tif"))
    assert len(files) > 20
    for name in files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


# --- the API ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(url: str) -> pystac_client.Client:
    return pystac_client.Client.open(url)


def ids(search: pystac_client.ItemSearch) -> set[str]:
    return {item.id for item in search.items()}


def test_the_client_sees_all_collections(client: pystac_client.Client) -> None:
    found = {collection.id for collection in client.get_collections()}
    assert found == {"sentinel-2-l2a", "landsat-c2-l2", "cop-dem-glo-30", "sentinel-1-slc-pair"}
    assert client.get_collection("landsat-c2-l2").extra_fields["cryoscale:simulated"] is True


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("limit", [1, 4, 5, 100])
def test_pages_of_any_size_hold_every_item_once(
    client: pystac_client.Client, items: list[pystac.Item], method: str, limit: int
) -> None:
    search = client.search(method=method, limit=limit)
    pages = [[item.id for item in page] for page in search.pages()]
    assert all(0 < len(page) <= limit for page in pages)
    assert len(pages) == -(-len(items) // limit)
    assert sorted(name for page in pages for name in page) == sorted(item.id for item in items)
    assert search.matched() == len(items)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_searches_by_place_time_collection_and_cloud_agree_with_a_filter_by_hand(
    client: pystac_client.Client, items: list[pystac.Item], method: str
) -> None:
    optical = of(items, "sentinel-2-l2a")
    box = (83.9, 28.0, 83.995, 28.6)
    found = ids(client.search(method=method, collections=["sentinel-2-l2a"], bbox=box))
    expected = {i.id for i in optical if shapely.geometry.shape(i.geometry).intersects(shapely.box(*box))}
    assert found == expected
    assert found
    assert not ids(client.search(method=method, bbox=(10.0, 45.0, 11.0, 46.0)))
    assert not ids(client.search(method=method, bbox=(170.0, -10.0, -170.0, 10.0)))

    place = {"type": "Point", "coordinates": [84.0, 28.3]}
    found = ids(client.search(method=method, intersects=place, collections=["landsat-c2-l2"], limit=3))
    inside = {
        i.id
        for i in of(items, "landsat-c2-l2")
        if shapely.geometry.shape(i.geometry).intersects(shapely.Point(84.0, 28.3))
    }
    assert found == inside

    found = ids(
        client.search(method=method, collections=["sentinel-2-l2a"], datetime="2019-10-10/2019-10-31")
    )
    assert found == {i.id for i in optical if i.datetime.year == 2019 and i.datetime.day >= 10}
    found = ids(client.search(method=method, collections=["sentinel-2-l2a"], datetime="../2018-12-31"))
    assert found == {i.id for i in optical if i.datetime.year == 2018}

    limit_pct = float(np.median([i.properties["eo:cloud_cover"] for i in optical]))
    search = client.search(
        method=method, collections=["sentinel-2-l2a"], query={"eo:cloud_cover": {"lt": limit_pct}}, limit=2
    )
    assert ids(search) == {i.id for i in optical if i.properties["eo:cloud_cover"] < limit_pct}

    wanted = [optical[0].id, optical[1].id]
    assert ids(client.search(method=method, ids=wanted)) == set(wanted)


def test_a_radar_pair_is_found_at_both_of_its_dates(client: pystac_client.Client) -> None:
    for day in ("2018-09-21", "2018-10-01", "2018-10-15"):
        assert len(ids(client.search(collections=["sentinel-1-slc-pair"], datetime=day))) == 2
    assert not ids(client.search(collections=["sentinel-1-slc-pair"], datetime="2018-10-16"))


def test_assets_open_from_what_the_api_answers(client: pystac_client.Client) -> None:
    item = next(client.search(collections=["sentinel-2-l2a"], max_items=1).items())
    lon, lat = np.mean(item.bbox[::2]), np.mean(item.bbox[1::2])
    data = odc.stac.load([item], bands=["B03", "B11"], crs=f"EPSG:{utm_epsg(lon, lat)}", resolution=10)
    assert int(data.B03.max()) > 1000
    again = client.get_collection("sentinel-2-l2a").get_item(item.id)
    assert again is not None
    assert again.id == item.id


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/collections/nothing", 404),
        ("/collections/sentinel-2-l2a/items/nothing", 404),
        ("/collections/nothing/items", 404),
        ("/search?query=%7Bnot-json", 400),
        ("/search?query=%7B%22eo:cloud_cover%22:%7B%22almost%22:1%7D%7D", 400),
        ("/search?bbox=1,2,3", 400),
        ("/search?datetime=yesterday", 400),
    ],
)
def test_a_bad_request_is_answered_with_its_status(url: str, path: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url + path, timeout=10)
    assert caught.value.code == status


def test_the_server_starts_quickly_and_leaves_nothing_behind(published: Published) -> None:
    before = threading.active_count()
    start = time.monotonic()
    with serve(published.folder) as base:
        assert time.monotonic() - start < 10.0
        assert base.startswith("http://127.0.0.1:")
        urllib.request.urlopen(base, timeout=10).read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(base, timeout=2)
    assert threading.active_count() <= before + 1


def test_a_folder_without_a_catalogue_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="static STAC catalogue"), serve(tmp_path):
        pass
