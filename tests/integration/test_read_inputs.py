"""From items on disk to the inputs of a block, every modality, and what happens to broken files."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pystac import Asset, Item
from shapely.geometry import box, mapping

from cryoscale.errors import AssetReadError, ExtraError, SourceError
from cryoscale.grid import Window, transformer, window_of, window_over_bounds
from cryoscale.read import catalog, http
from cryoscale.read.assets import S2_BANDS
from cryoscale.read.composite import composite
from cryoscale.read.cube import open_cube
from cryoscale.read.inputs import read_inputs
from cryoscale.read.raster import UnreadableError

EPSG = 32645
WINDOW = Window(EPSG, -310_000, 48_000, 120, 130)
WIDER = WINDOW.pad(12)
RES = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60}


def degrees(window: Window) -> tuple[float, float, float, float]:
    found = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform_bounds(*window.bounds_m)
    return tuple(float(side) for side in found)  # type: ignore[return-value]


def write(path: Path, values: NDArray[Any], res: float, window: Window, nodata: float | None = None) -> Asset:
    """A GeoTIFF whose first pixel begins at the window's north-west corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    west, _, _, north = window.bounds_m
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    transform = Affine(res, 0, west, 0, -res, north)
    tiling = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    with rasterio.open(
        path, "w", **profile, **tiling, crs=f"EPSG:{window.epsg}", transform=transform, nodata=nodata
    ) as file:
        file.write(values, 1)
    return Asset(str(path))


def cells(window: Window, res: float) -> tuple[int, int]:
    return math.ceil(window.height * 10 / res), math.ceil(window.width * 10 / res)


def item(name: str, day: str, window: Window, collection: str, **properties: Any) -> Item:
    bounds = degrees(window)
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return Item(name, mapping(box(*bounds)), list(bounds), moment, properties, collection=collection)


def optical(
    folder: Path,
    name: str,
    day: str = "2018-10-13",
    reflectance: float | NDArray[np.float64] = 0.2,
    scl: int | NDArray[np.uint8] = 4,
    baseline: str = "02.12",
    window: Window = WIDER,
    cloud: float = 10.0,
) -> Item:
    """A Sentinel-2 scene as Planetary Computer keeps it; ``reflectance`` on 60 m cells, or everywhere."""
    made = item(
        name, day, window, "sentinel-2-l2a", **{"s2:processing_baseline": baseline, "eo:cloud_cover": cloud}
    )
    raised = 1000 if baseline >= "04.00" else 0
    coarse = np.broadcast_to(reflectance, cells(window, 60))
    for number, band in enumerate(S2_BANDS):
        res = RES.get(band, 20)
        fine = coarse.repeat(60 // res, 0).repeat(60 // res, 1)[
            : cells(window, res)[0], : cells(window, res)[1]
        ]
        digital = np.round((fine + 0.01 * number) * 10_000) + raised
        # no no-data tag in the file, as some archives have it
        made.add_asset(band, write(folder / name / f"{band}.tif", digital.astype(np.uint16), res, window))
    classes = np.broadcast_to(scl, cells(window, 20)).astype(np.uint8)
    made.add_asset("SCL", write(folder / name / "SCL.tif", classes, 20, window))
    return made


def broken(made: Item, key: str) -> Item:
    """The item with one of its files cut in half."""
    path = Path(made.assets[key].href)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return made


def test_scenes_of_both_baselines_give_the_same_reflectance_and_the_older_date_stays(tmp_path: Path) -> None:
    old = optical(tmp_path, "old", "2018-10-03", baseline="02.12", cloud=5.0)
    new = optical(tmp_path, "new", "2022-10-03", baseline="04.00", cloud=9.0)
    for scene in (old, new):
        data, report = read_inputs({"optical": [scene]}, WINDOW)
        for number, band in enumerate(S2_BANDS):
            assert data[band].dtype == np.float32
            np.testing.assert_allclose(data[band], 0.2 + 0.01 * number, atol=1e-6)
        assert report.scenes_read == (scene.id,)
        assert window_of(data, EPSG) == WINDOW
        assert data.attrs["crs"] == "EPSG:32645"
    both, _ = read_inputs({"optical": [new, old]}, WINDOW, composite="best_scene")
    assert (both["source_date"] == np.datetime64("2018-10-03").astype(int)).all()
    assert (both["n_clear"] == 2).all()


def random_season(folder: Path) -> list[Item]:
    rng = np.random.default_rng(5)
    size = cells(WIDER, 60), cells(WIDER, 20)
    return [
        optical(
            folder,
            name,
            day,
            rng.uniform(0.0, 0.7, size[0]),
            rng.choice([4, 5, 9, 11, 3, 0], size[1]).astype(np.uint8),
            cloud=cloud,
        )
        for name, day, cloud in (
            ("a", "2018-10-03", 30.0),
            ("b", "2018-10-13", 20.0),
            ("c", "2018-10-13", 20.0),
        )
    ]


@pytest.mark.parametrize("method", ["best_scene", "median", "least_snow"])
def test_the_block_reads_what_the_lazy_cube_and_its_composite_hold(tmp_path: Path, method: str) -> None:
    scenes = random_season(tmp_path)
    data, _ = read_inputs({"optical": scenes}, WINDOW, composite=method, rank_locally=False)
    cube = open_cube(scenes, geobox=WINDOW.geobox, bands=[*S2_BANDS, "SCL"], chunks={"x": 50, "y": 70})
    assert cube["B02"].chunks == ((1, 1, 1), (70, 50), (50, 50, 30))
    assert list(cube["scene"].values) == ["a", "b", "c"]
    assert list(cube["cloud_cover"].values) == [30.0, 20.0, 20.0]
    lazy = composite(cube, method).compute(scheduler="threads", num_workers=2)
    for name in (*S2_BANDS, "source_date", "n_clear"):
        np.testing.assert_array_equal(data[name].values, lazy[name].values, err_msg=name)


def test_a_part_of_a_block_reads_the_part_of_the_block(tmp_path: Path) -> None:
    items = {
        "optical": random_season(tmp_path),
        "terrain": elevation_tiles(tmp_path)[0],
        "thermal": [thermal(tmp_path, "t")],
    }
    whole, _ = read_inputs(items, WINDOW)
    for part in (Window(EPSG, -309_970, 48_031, 40, 33), Window(EPSG, -310_000, 48_000, 1, 1)):
        got, _ = read_inputs(items, part)
        rows, columns = part.slices_in(WINDOW)
        xr.testing.assert_identical(got, whole.isel(y=rows, x=columns))


def test_cloud_and_gaps_are_no_data(tmp_path: Path) -> None:
    window = WIDER
    scl = np.full(cells(window, 20), 4, np.uint8)
    scl[:, :20] = 9
    scene = optical(tmp_path, "a", scl=scl)
    with rasterio.open(scene.assets["B11"].href, "r+") as file:
        band = file.read(1)
        band[:10] = 0
        file.write(band, 1)
    data, _ = read_inputs({"optical": [scene]}, WINDOW)
    hidden = np.zeros(WINDOW.shape, bool)
    hidden[:, : 40 - 12] = True
    hidden[: 20 - 12] = True
    for band in S2_BANDS:
        np.testing.assert_array_equal(np.isnan(data[band]), hidden)
    np.testing.assert_array_equal(data["n_clear"], (~hidden).astype(int))


@pytest.mark.parametrize("tag", [None, 0])
@pytest.mark.parametrize("rank_locally", [True, False])
def test_class_0_and_what_lies_beyond_the_classification_are_hidden_whatever_its_file_says_of_no_data(
    tmp_path: Path, tag: int | None, rank_locally: bool
) -> None:
    classes = np.full(cells(WIDER, 20), 4, np.uint8)
    classes[:, :20] = 0
    scene = optical(tmp_path, "a")
    write(tmp_path / "a" / "SCL.tif", classes[:-10], 20, WIDER, nodata=tag)
    shown = np.ones(WINDOW.shape, bool)
    shown[:, : 40 - 12] = False
    shown[WIDER.height - 20 - 12 :] = False
    data, _ = read_inputs({"optical": [scene]}, WINDOW, rank_locally=rank_locally)
    np.testing.assert_array_equal(data["n_clear"], shown.astype(int))
    cube = open_cube([scene], geobox=WINDOW.geobox, bands=[*S2_BANDS, "SCL"])
    np.testing.assert_array_equal(composite(cube)["n_clear"], shown.astype(int))
    beyond = Window(EPSG, WIDER.row + WIDER.height - 10, WINDOW.col, 8, 8)
    data, _ = read_inputs({"optical": [scene]}, beyond, rank_locally=rank_locally)
    assert "n_clear" not in data or not data["n_clear"].any()


def test_a_scene_without_a_classification_is_clear_wherever_it_holds_data(tmp_path: Path) -> None:
    scene = optical(tmp_path, "a")
    del scene.assets["SCL"]
    data, _ = read_inputs({"optical": [scene]}, WINDOW)
    assert (data["n_clear"] == 1).all()
    cube = open_cube([scene, optical(tmp_path, "b", scl=9)], geobox=WINDOW.geobox, bands=[*S2_BANDS, "SCL"])
    assert (composite(cube)["n_clear"] == 1).all()


def test_a_broken_scene_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    good, bad, gone = (optical(tmp_path, name) for name in ("good", "bad", "gone"))
    broken(bad, "B08")
    Path(gone.assets["SCL"].href).unlink()
    data, report = read_inputs({"optical": [good, bad, gone]}, WINDOW)
    assert report.scenes_read == ("good",)
    causes = dict(report.scenes_failed)
    assert set(causes) == {"bad", "gone"}
    assert causes["bad"].startswith("B08: ")
    assert causes["gone"].startswith("SCL: ")
    with pytest.raises(UnreadableError, match="bad B08: "):
        open_cube([bad], geobox=WINDOW.geobox, bands=["B08"]).compute(scheduler="synchronous")
    assert (data["n_clear"] == 1).all()


def test_a_scene_without_one_of_the_twelve_bands_is_named(tmp_path: Path) -> None:
    whole, poor = optical(tmp_path, "whole"), optical(tmp_path, "poor")
    del poor.assets["B09"]
    _, report = read_inputs({"optical": [whole, poor]}, WINDOW)
    assert report.scenes_failed == (("poor", "no asset for B09"),)


@pytest.mark.parametrize(
    "listed", [[{"scale": 0}], [{"scale": "nan"}], [{"offset": "inf"}], [{"scale": [1]}], ["x"], [None], "x"]
)
def test_a_scene_whose_numbers_mean_nothing_is_named_and_not_taken_for_a_bright_one(
    tmp_path: Path, listed: Any
) -> None:
    odd, good = optical(tmp_path, "odd"), optical(tmp_path, "good")
    odd.assets["B04"].extra_fields["raster:bands"] = listed
    data, report = read_inputs({"optical": [odd, good]}, WINDOW)
    assert [name for name, _ in report.scenes_failed] == ["odd"]
    assert report.scenes_failed[0][1].startswith("B04: ")
    assert (data["n_clear"] == 1).all()


def test_a_scale_that_stands_in_the_file_alone_is_used_and_that_of_the_item_comes_before_it(
    tmp_path: Path,
) -> None:
    values = np.full(WINDOW.shape, 5000, np.int16)
    made = item("dem", "2018-10-10", WINDOW, "dem")
    made.add_asset("data", write(tmp_path / "dem.tif", values, 10, WINDOW))
    with rasterio.open(tmp_path / "dem.tif", "r+") as file:
        file.scales, file.offsets = (0.5,), (100.0,)
    for given, want in (([], 2600.0), ([{"unit": "m"}], 2600.0), ([{"scale": 2.0}], 10_000.0)):
        made.assets["data"].extra_fields["raster:bands"] = given
        data, _ = read_inputs({"terrain": [made]}, WINDOW)
        np.testing.assert_array_equal(data["elevation"], want)
    with rasterio.open(tmp_path / "dem.tif", "r+") as file:
        file.scales = (math.nan,)
    made.assets["data"].extra_fields["raster:bands"] = []
    with pytest.raises(AssetReadError, match="scale nan"):
        read_inputs({"terrain": [made]}, WINDOW)


def test_a_modality_of_which_nothing_can_be_read_fails_the_block_by_name(tmp_path: Path) -> None:
    bad = broken(optical(tmp_path, "bad"), "B08")
    with pytest.raises(AssetReadError, match=r"optical.*bad.*B08"):
        read_inputs({"optical": [bad]}, WINDOW)
    elsewhere = Window(EPSG, -310_000, 50_000, 20, 20)
    data, report = read_inputs({"optical": [bad]}, elsewhere)
    assert not data.data_vars
    assert report.scenes_read == ()


def test_an_address_that_does_not_answer_is_transient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ASSETS", http.Patience(attempts=2, first_s=0.05))
    good, away = optical(tmp_path, "good"), optical(tmp_path, "away")
    away.assets["B02"].href = "http://127.0.0.1:9/B02.tif?token=secret"
    with pytest.raises(AssetReadError, match=r"away B02: http://127\.0\.0\.1:9/B02\.tif") as caught:
        read_inputs({"optical": [away, good]}, WINDOW)
    assert caught.value.retry
    assert "secret" not in str(caught.value)


# --- terrain ------------------------------------------------------------------------------------------


def elevation_tiles(folder: Path) -> tuple[list[Item], NDArray[np.float32], Affine]:
    """Two tiles at one arc second that meet inside the window, and the terrain they were cut from."""
    west, south, east, north = degrees(WINDOW.pad(40))
    step = 1 / 3600
    left, top = round(west / step) * step, round(north / step) * step
    shape = int((north - south) / step), int((east - west) / step)
    column, row = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    terrain = (5000 + 300 * np.sin(column / 9.0) + 200 * np.cos(row / 7.0)).astype(np.float32)
    made, cut = [], shape[1] // 2
    for name, part, begin in (("w", terrain[:, :cut], left), ("e", terrain[:, cut:], left + cut * step)):
        path = folder / f"dem_{name}.tif"
        profile = {"driver": "GTiff", "height": part.shape[0], "width": part.shape[1], "count": 1}
        transform = Affine(step, 0, begin, 0, -step, top)
        with rasterio.open(
            path, "w", **profile, dtype="float32", crs="EPSG:4326", transform=transform
        ) as file:
            file.write(part, 1)
        tile = item(f"dem_{name}", "2021-04-22", WINDOW, "cop-dem-glo-30")
        tile.add_asset("data", Asset(str(path)))
        made.append(tile)
    return made, terrain, Affine(step, 0, left, 0, -step, top)


def test_tiles_of_elevation_meet_without_a_step(tmp_path: Path) -> None:
    tiles, terrain, transform = elevation_tiles(tmp_path)
    data, report = read_inputs({"terrain": tiles}, WINDOW)
    y, x = WINDOW.coordinates()
    lon, lat = transformer("EPSG:32645", "EPSG:4326").transform(*np.meshgrid(x, y))
    column, row = (lon - transform.c) / transform.a - 0.5, (lat - transform.f) / transform.e - 0.5
    want = 5000 + 300 * np.sin(column / 9.0) + 200 * np.cos(row / 7.0)
    assert terrain.std() > 100
    np.testing.assert_allclose(data["elevation"], want, atol=0.1)
    assert report.scenes_read == ("dem_e", "dem_w")


# --- thermal ------------------------------------------------------------------------------------------


def thermal(folder: Path, name: str, kelvin: float = 270.0, hidden: Sequence[int] = ()) -> Item:
    window = WIDER
    made = item(name, "2018-10-10", window, "landsat-c2-l2")
    digital = np.full(cells(window, 30), round((kelvin - 149.0) / 0.00341802), np.uint16)
    made.add_asset("lwir11", write(folder / name / "st.tif", digital, 30, window))
    quality = np.full(cells(window, 30), 21824, np.uint16)  # clear land
    for bit in hidden:
        quality[10:20] |= 1 << bit
    made.add_asset("qa_pixel", write(folder / name / "qa.tif", quality, 30, window, nodata=1))
    return made


def test_temperature_is_the_median_of_what_the_quality_bits_leave(tmp_path: Path) -> None:
    scenes = [
        thermal(tmp_path, "a", 260.0),
        thermal(tmp_path, "b", 270.0, [3]),
        thermal(tmp_path, "c", 290.0),
    ]
    data, _ = read_inputs({"thermal": scenes}, WINDOW)
    lst = data["LST"].values
    np.testing.assert_allclose(lst[:17], 270.0, atol=0.01)
    np.testing.assert_allclose(lst[20:45], 275.0, atol=0.01)
    np.testing.assert_allclose(lst[50:], 270.0, atol=0.01)
    for bit in (0, 1, 2, 3, 4):
        alone, _ = read_inputs({"thermal": [thermal(tmp_path / str(bit), "d", hidden=[bit])]}, WINDOW)
        np.testing.assert_array_equal(
            np.isnan(alone["LST"]).all(axis=1).values.nonzero()[0], np.arange(18, 48)
        )


# --- radar and interferometry -------------------------------------------------------------------------


def pair(folder: Path, name: str, **assets: NDArray[Any]) -> Item:
    made = item(name, "2018-10-10", WINDOW, "pairs")
    for key, values in assets.items():
        made.add_asset(key, write(folder / name / f"{key}.tif", values, 10, WINDOW))
    return made


def test_a_pair_on_the_same_pixels_is_read_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    one, two = ((rng.normal(size=(2, *WINDOW.shape)) @ np.eye(130)).astype(np.float32) for _ in range(2))
    first, second = (part[0] + 1j * part[1] for part in (one, two))
    data, _ = read_inputs(
        {"insar": [pair(tmp_path, "p", slc1=first.astype(np.complex64), slc2=second.astype(np.complex64))]},
        WINDOW,
    )
    assert data["slc1"].dtype == np.complex64
    np.testing.assert_array_equal(data["slc1"], first.astype(np.complex64))
    np.testing.assert_array_equal(data["slc2"], second.astype(np.complex64))
    lazy = open_cube(
        [pair(tmp_path, "q", slc1=first.astype(np.complex64))], geobox=WINDOW.geobox, bands=["slc1"]
    )
    np.testing.assert_array_equal(lazy["slc1"].values[0], first.astype(np.complex64))


def test_phase_is_interpolated_as_a_vector_and_never_through_zero(tmp_path: Path) -> None:
    window = WIDER
    made = item("product", "2018-10-10", window, "my-coherence")
    phase = np.full(cells(window, 40), math.pi - 0.01, np.float32)
    phase[:, ::2] = -math.pi + 0.01
    coherence = np.full(cells(window, 40), 0.7, np.float32)
    made.add_asset("phase", write(tmp_path / "phase.tif", phase, 40, window))
    made.add_asset("coherence", write(tmp_path / "coherence.tif", coherence, 40, window))
    data, _ = read_inputs({"insar": [made]}, WINDOW)
    assert float(np.abs(data["phase"]).min()) > math.pi - 0.02
    np.testing.assert_allclose(data["coherence"], 0.7, atol=1e-6)


def test_where_products_overlap_all_that_a_pixel_has_comes_from_one_of_them(tmp_path: Path) -> None:
    half = np.full(WINDOW.shape, 0.9, np.float32)
    half[:, 65:] = np.nan
    first = pair(tmp_path, "a", coherence=half, phase=half)
    second = pair(tmp_path, "b", coherence=half * 0 + 0.2, phase=np.full(WINDOW.shape, 0.3, np.float32))
    second.assets["coherence"] = write(
        tmp_path / "b" / "c.tif", np.full(WINDOW.shape, 0.2, np.float32), 10, WINDOW
    )
    data, _ = read_inputs({"insar": [second, first]}, WINDOW)
    np.testing.assert_allclose(data["coherence"][:, :65], 0.9)
    np.testing.assert_allclose(data["phase"][:, :65], 0.9, rtol=1e-6)
    np.testing.assert_allclose(data["coherence"][:, 65:], 0.2)
    np.testing.assert_allclose(data["phase"][:, 65:], 0.3, rtol=1e-6)


def test_a_product_of_coherence_alone_hides_no_whole_pair_and_fills_what_is_left(tmp_path: Path) -> None:
    ones = np.full(WINDOW.shape, 1.0, np.float32)
    half = ones.copy()
    half[:, 65:] = np.nan
    lone = pair(tmp_path, "a", coherence=0.9 * ones)
    torn = pair(tmp_path, "b", coherence=0.5 * ones, phase=0.5 * half)
    data, _ = read_inputs({"insar": [lone, torn]}, WINDOW)
    np.testing.assert_allclose(data["coherence"][:, :65], 0.5)
    np.testing.assert_allclose(data["phase"][:, :65], 0.5, rtol=1e-6)
    np.testing.assert_allclose(data["coherence"][:, 65:], 0.9)
    assert np.isnan(data["phase"][:, 65:]).all()
    images = pair(tmp_path, "c", slc1=(1 + 1j) * ones, slc2=(1 - 1j) * ones)
    data, _ = read_inputs({"insar": [lone, images]}, WINDOW)
    assert set(data.data_vars) == {"slc1", "slc2"}


def test_a_pair_that_is_filled_with_0_gives_way_to_one_that_holds_data(tmp_path: Path) -> None:
    image = np.full(WINDOW.shape, 1 + 1j, np.complex64)
    empty = image.copy()
    empty[:, :65] = 0
    data, _ = read_inputs(
        {"insar": [pair(tmp_path, "a", slc1=empty, slc2=empty), pair(tmp_path, "b", slc1=image, slc2=image)]},
        WINDOW,
    )
    np.testing.assert_array_equal(data["slc1"], image)


def test_backscatter_in_power_becomes_decibel_and_decibel_stays(tmp_path: Path) -> None:
    power = pair(tmp_path, "p", vv=np.full(WINDOW.shape, 0.01, np.float32))
    level = pair(tmp_path, "d", vv=np.full(WINDOW.shape, -20.0, np.float32))
    level.assets["vv"].extra_fields["raster:bands"] = [{"unit": "dB"}]
    for made in (power, level):
        data, _ = read_inputs({"radar": [made]}, WINDOW)
        np.testing.assert_allclose(data["backscatter_vv"], -20.0, atol=1e-5)
        assert "backscatter_vh" not in data


# --- velocity -----------------------------------------------------------------------------------------


def velocity_store(folder: Path, units: str | None = None, **attrs: Any) -> str:
    """Two years in EPSG:3413, as ITS_LIVE cuts its mosaics, with a gap."""
    bounds = transformer("EPSG:32645", "EPSG:3413").transform_bounds(*WINDOW.pad(60).bounds_m)
    x = np.arange(bounds[0] // 120 * 120 + 60, bounds[2], 120.0)
    y = np.arange(bounds[3] // 120 * 120 + 60, bounds[1], -120.0)
    vx = np.full((2, y.size, x.size), 30, np.int16)
    vx[1] = 60
    vy = np.full((2, y.size, x.size), 40, np.int16)
    vy[1] = 80
    vx[:, y.size // 2, x.size // 2] = vy[:, y.size // 2, x.size // 2] = -32767
    given = {"grid_mapping": "mapping"} | ({} if units is None else {"units": units})
    store = xr.Dataset(
        {
            "vx": (("time", "y", "x"), vx, given),
            "vy": (("time", "y", "x"), vy, given),
            "mapping": ((), 0, attrs),
        },
        coords={"x": x, "y": y, "time": np.array(["2017-07-02", "2018-07-02"], "datetime64[ns]")},
    )
    path = folder / "velocity.zarr"
    store.to_zarr(path, consolidated=False)
    return str(path)


@pytest.mark.filterwarnings("ignore")
def test_speed_is_the_magnitude_of_the_year_asked_for_with_gaps_kept(tmp_path: Path) -> None:
    href = velocity_store(tmp_path, spatial_epsg=3413)
    for year, speed in ((2018, 100.0), (2017, 50.0), (2010, 50.0), (None, 100.0)):
        data, _ = read_inputs({}, WINDOW, velocity_href=href, year=year)
        found = data["velocity"].values
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[np.isfinite(found)], speed, rtol=1e-6)
        assert 0 < np.isnan(found).sum() < 600
    away, _ = read_inputs({}, Window(32633, -510_000, 50_000, 20, 20), velocity_href=href)
    assert "velocity" not in away
    part = Window(EPSG, -309_960, 48_050, 30, 30)
    cut, _ = read_inputs({}, part, velocity_href=href, year=2018)
    whole, _ = read_inputs({}, WINDOW, velocity_href=href, year=2018)
    np.testing.assert_array_equal(cut["velocity"], whole["velocity"].values[part.slices_in(WINDOW)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("units", "factor"),
    [
        ("meter/year", 1.0),
        ("m yr-1", 1.0),
        ("m a^-1", 1.0),
        ("[m yr⁻¹]", 1.0),
        ("m·yr^{\N{MINUS SIGN}1}", 1.0),
        ("metres per year", 1.0),
        ("meter/day", 365.25),
        ("m d-1", 365.25),
        ("cm/day", 3.6525),
        ("km/yr", 1000.0),
    ],
)
def test_a_velocity_in_other_units_becomes_metres_a_year(tmp_path: Path, units: str, factor: float) -> None:
    data, _ = read_inputs({}, WINDOW, velocity_href=velocity_store(tmp_path, units, spatial_epsg=3413))
    np.testing.assert_allclose(np.nanmean(data["velocity"]), 100.0 * factor, rtol=1e-6)


def test_units_of_velocity_rasters_are_heeded_and_such_as_are_none_name_the_item(tmp_path: Path) -> None:
    one = pair(tmp_path, "v", vx=np.full(WINDOW.shape, 3.0, "f4"), vy=np.full(WINDOW.shape, -4.0, "f4"))
    for units, speed in (("m/yr", 5.0), ("m/day", 5.0 * 365.25)):
        for asset in one.assets.values():
            asset.extra_fields["raster:bands"] = [{"unit": units}]
        data, _ = read_inputs({"velocity": [one]}, WINDOW)
        np.testing.assert_allclose(data["velocity"], speed, rtol=1e-6)
    one.assets["vx"].extra_fields["raster:bands"] = [{"unit": "furlong"}]
    data, report = read_inputs({"velocity": [one]}, WINDOW)
    assert "velocity" not in data
    ((name, why),) = report.scenes_failed
    assert (name, why.startswith("vx: unit 'furlong'")) == ("v", True)


@pytest.mark.filterwarnings("ignore")
def test_coordinates_in_single_precision_are_even(tmp_path: Path) -> None:
    href = velocity_store(tmp_path, spatial_epsg=3413)
    want, _ = read_inputs({}, WINDOW, velocity_href=href)
    with xr.open_zarr(href, consolidated=False, mask_and_scale=False) as store:
        # as far from 0 as single precision is coarse there
        moved = store.load().assign_coords(x=(store.x + 0.03).astype("f4"), y=(store.y - 0.03).astype("f4"))
    moved.to_zarr(tmp_path / "single.zarr", consolidated=False)
    got, _ = read_inputs({}, WINDOW, velocity_href=str(tmp_path / "single.zarr"))
    np.testing.assert_allclose(np.nanmean(got["velocity"]), np.nanmean(want["velocity"]), rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("units", ["m", "degrees", "furlong/fortnight", "m s-2"])
def test_a_velocity_in_units_that_are_none_is_refused_by_name(tmp_path: Path, units: str) -> None:
    href = velocity_store(tmp_path, units, spatial_epsg=3413)
    with pytest.raises(SourceError, match=f"vx has the units '{units}'"):
        read_inputs({}, WINDOW, velocity_href=href)


@pytest.mark.filterwarnings("ignore")
def test_a_velocity_store_whose_pixels_are_not_evenly_spaced_is_refused(tmp_path: Path) -> None:
    store = xr.open_zarr(velocity_store(tmp_path, spatial_epsg=3413), decode_coords=False).load()
    keep = [number for number in range(store.sizes["x"]) if number != 5]
    store.isel(x=keep).to_zarr(tmp_path / "uneven.zarr", consolidated=False)
    with pytest.raises(SourceError, match="whose x is not evenly spaced"):
        read_inputs({}, WINDOW, velocity_href=str(tmp_path / "uneven.zarr"))


@pytest.mark.filterwarnings("ignore")
def test_a_velocity_store_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    nameless = velocity_store(tmp_path, grid="unknown")
    other = tmp_path / "other.zarr"
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(other, consolidated=False)
    for href in (nameless, str(other), str(tmp_path / "absent.zarr")):
        with pytest.raises(SourceError) as caught:
            read_inputs({}, WINDOW, velocity_href=href)
        assert Path(href).name in str(caught.value)


def test_a_velocity_store_whose_library_is_absent_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ExtraError, match="velocity store gs://bucket/v.zarr.*gcsfs") as caught:
        read_inputs({}, WINDOW, velocity_href="gs://bucket/v.zarr")
    assert "\n" not in str(caught.value)


def test_velocity_may_come_as_items(tmp_path: Path) -> None:
    made = pair(
        tmp_path, "v", vx=np.full(WINDOW.shape, 3.0, np.float32), vy=np.full(WINDOW.shape, -4.0, np.float32)
    )
    data, _ = read_inputs({"velocity": [made]}, WINDOW)
    np.testing.assert_allclose(data["velocity"], 5.0)


# --- real places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["433D_629L_3_1", "609U_541L_3_0", "38D_378R_2_3"])
def test_real_places_are_read_from_a_folder(shared_data: Path, place: str) -> None:
    here = [{"url": str(shared_data / "chips")}]
    names = {"optical": "sentinel-2-l2a", "terrain": "cop-dem-glo-30", "radar": "sentinel-1-rtc"}
    items = {
        modality: [one for one in catalog.search(here, collection=name) if one.id.endswith(place)]
        for modality, name in names.items()
    }
    (scene,) = items["optical"]
    with rasterio.open(scene.assets["B02"].href) as file:
        window, digital = window_over_bounds(file.crs.to_epsg(), tuple(file.bounds)), file.read(1)
    data, report = read_inputs(items, window)
    assert report.scenes_failed == ()
    assert len(report.scenes_read) == 3
    # of the three, only the Chilean scene still carries the raise
    want = np.median(digital) * 1e-4 - (0.1 if place == "433D_629L_3_1" else 0.0)
    assert float(data["B02"].median()) == pytest.approx(want, abs=5e-3)
    assert {"elevation", "backscatter_vv", "backscatter_vh", "source_date"} <= set(data.data_vars)
    assert float(np.isnan(data["B02"]).mean()) < 0.02  # the rim: the chip is not on the lattice
    assert -40 < float(data["backscatter_vv"].mean()) < 5


def test_a_real_scene_with_a_broken_file_is_left_out(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "chips" / "sentinel-2-l2a", tmp_path / "s2", copy_function=shutil.copyfile)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
    (tmp_path / "s2" / "38D_378R_2_3" / "B04.tif").write_bytes(b"II*\0 no more")
    found = catalog.search([{"url": str(tmp_path)}], collection="sentinel-2-l2a")
    (scene,) = [one for one in found if one.id.endswith("38D_378R_2_3")]
    west, south, east, north = scene.bbox or ()
    epsg = int(str(scene.properties["proj:code"]).removeprefix("EPSG:"))
    bounds = transformer("EPSG:4326", f"EPSG:{epsg}").transform_bounds(west, south, east, north)
    with pytest.raises(AssetReadError, match="B04"):
        read_inputs({"optical": [scene]}, window_over_bounds(epsg, bounds))
