"""Classes set by hand, held against every pixel's own longitude and latitude."""

from __future__ import annotations

import pickle
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry import Polygon, box

from cryoscale.errors import InputError, SourceError
from cryoscale.grid import Window, transformer
from cryoscale.learn.labels import LabelRules, corrected
from cryoscale.learn.outlines import Outlines, read_outlines
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.sources import LabelSource
from cryoscale.write import corrections
from cryoscale.write.corrections import Corrections
from cryoscale.write.outlines import polygonise
from cryoscale.write.zones import area_km2

EPSG = 32645
WINDOW = Window(EPSG, -310_000, 45_000, 90, 110)
WEST, SOUTH, EAST, NORTH = WINDOW.bounds_m


def a_map(seed: int = 1) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), WINDOW.shape)
    probability = rng.integers(0, 250, (5, *WINDOW.shape), np.uint8)
    confidence = rng.integers(0, 250, WINDOW.shape, np.uint8)
    probability[:, label == 255], confidence[label == 255] = 255, 255
    y, x = WINDOW.coordinates()
    arrays = {"label": label, "confidence": confidence}
    return xr.Dataset(
        {
            "probability": (("class", "y", "x"), probability),
            **{name: (("y", "x"), values) for name, values in arrays.items()},
        },
        coords={"y": y, "x": x},
        attrs={"crs": f"EPSG:{EPSG}"},
    )


def star(east: float, north: float, radius_m: float, points: int = 7) -> Polygon:
    """In degrees, around a place of the window that is given by its shares."""
    turn = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False) + 0.3
    reach = np.where(np.arange(2 * points) % 2, 0.45, 1.0) * radius_m
    x = WEST + east * (EAST - WEST) + reach * np.cos(turn)
    y = SOUTH + north * (NORTH - SOUTH) + reach * np.sin(turn)
    lon, lat = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform(x, y)
    return Polygon(np.column_stack([lon, lat]))


def table(
    *rows: tuple[object, ...], columns: tuple[str, ...] = ("class",), crs: int = 4326
) -> gpd.GeoDataFrame:
    told = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
    return gpd.GeoDataFrame(told, geometry=[row[-1] for row in rows], crs=4326).to_crs(crs)


def made(*rows: tuple[object, ...], **more: object) -> Corrections:
    return Corrections.of_frame(table(*rows, **more), CLASS_NAMES, "corrections x.gpkg")  # type: ignore[arg-type]


FOUR = (
    ("clean_ice", star(0.3, 0.4, 420.0)),
    (255, star(0.7, 0.7, 300.0)),
    (2.0, star(0.45, 0.5, 350.0)),  # over a part of the first
    ("0", star(1.0, 0.0, 400.0)),  # half of it beyond the map
)


def set_at(rows: tuple[tuple[object, Polygon], ...]) -> NDArray[np.int64]:
    """The class that is set at every pixel of the window, -1 where none is, from where its centre lies."""
    y, x = WINDOW.coordinates()
    lon, lat = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform(*np.meshgrid(x, y))
    found = np.full(WINDOW.shape, -1)
    for value, shape in rows:
        code = CLASS_NAMES.index(value) if value in CLASS_NAMES else int(value)  # type: ignore[call-overload]
        found[shapely.contains_xy(shape, lon, lat)] = code
    return found


def expected(dataset: xr.Dataset, rows: tuple[tuple[object, Polygon], ...]) -> xr.Dataset:
    wanted, codes = dataset.copy(deep=True), set_at(rows)
    seen = (codes >= 0) & (dataset["label"].values != 255)
    wanted["label"].values[seen] = codes[seen]
    wanted["confidence"].values[seen] = 255
    for k in range(5):
        plane = wanted["probability"].values[k]
        plane[seen] = np.where(codes[seen] == 255, 255, np.where(codes[seen] == k, 250, 0))
    return wanted


def test_a_pixel_has_the_class_of_the_last_polygon_around_its_centre_where_the_map_has_data() -> None:
    found, wanted = made(*FOUR).over(a_map(), EPSG), expected(a_map(), FOUR)
    xr.testing.assert_identical(found.load(), wanted)
    codes = set_at(FOUR)
    assert {-1, 0, 1, 2, 255} == set(np.unique(codes))
    assert ((codes >= 0) & (a_map()["label"].values == 255)).any(), "some of it on no data, which stays so"


@pytest.mark.parametrize("seed", range(4))
def test_a_part_however_it_is_cut_is_the_part_of_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, wanted = made(*FOUR).over(a_map(), EPSG), expected(a_map(), FOUR)
    for _ in range(40):
        key = {}
        for name, size in zip(("y", "x"), WINDOW.shape, strict=True):
            first, last = np.sort(rng.integers(0, size + 1, 2)).tolist()
            step = int(rng.choice([1, 1, 2, 3, 7]))
            kinds = [
                slice(first, last, step),
                slice(last - 1 if last else None, None, -step),
                int(rng.integers(size)),
            ]
            key[name] = kinds[int(rng.choice([0, 0, 1, 2]))]
        for name in ("label", "confidence", "probability"):
            np.testing.assert_array_equal(found[name].isel(key).values, wanted[name].isel(key).values)
        one = int(rng.integers(5))
        np.testing.assert_array_equal(
            found["probability"][one].isel(key), wanted["probability"][one].isel(key)
        )
    rows = rng.integers(0, WINDOW.height, 30)
    np.testing.assert_array_equal(found["label"][rows, :].values, wanted["label"][rows, :].values)


def test_nothing_is_read_before_it_is_asked_for_and_another_process_may_ask(tmp_path: Path) -> None:
    a_map().to_zarr(tmp_path / "map.zarr", consolidated=False)
    stored = xr.open_zarr(tmp_path / "map.zarr", consolidated=False, chunks=None)
    found = pickle.loads(pickle.dumps(made(*FOUR).over(stored, EPSG)))
    (tmp_path / "map.zarr" / "label" / "c" / "0" / "0").rename(tmp_path / "away")
    gone = found["label"].values[set_at(FOUR) < 0]
    assert (gone == 0).all(), "zarr's fill value, since the chunk is not there when it is asked for"
    (tmp_path / "away").rename(tmp_path / "map.zarr" / "label" / "c" / "0" / "0")
    np.testing.assert_array_equal(found["label"].values, expected(a_map(), FOUR)["label"].values)


def test_outlines_are_those_of_a_map_with_these_classes() -> None:
    y, x = np.mgrid[: WINDOW.height, : WINDOW.width]
    dataset = a_map()
    dataset["label"].values[:] = np.where(np.hypot(y - 45, x - 50) < 30, 1, 0)
    dataset["probability"].values[:] = np.random.default_rng(2).integers(0, 120, (5, *WINDOW.shape), np.uint8)
    rows = (
        ("debris_covered_ice", star(0.75, 0.5, 250.0)),  # beside it and on it
        ("background", star(0.4, 0.6, 150.0)),  # a hole
    )
    found = polygonise(made(*rows).over(dataset, EPSG))
    wanted = polygonise(expected(dataset, rows))
    pd.testing.assert_frame_equal(found.drop(columns="geometry"), wanted.drop(columns="geometry"))
    assert found.geometry.geom_equals(wanted.geometry).all()
    assert found["debris_area_km2"].sum() > 0


def test_what_a_run_keeps_corrects_labels_for_training_in_the_same_pixels(tmp_path: Path) -> None:
    dataset = a_map()
    dataset["label"].values[dataset["label"].values == 255] = 4
    corrections.keep(str(tmp_path), made(*FOUR))
    read = read_outlines([tmp_path / corrections.FILE], "corrections", [box(80.0, 20.0, 90.0, 30.0)])
    learnt = corrected(dataset["label"].values, WINDOW, read.in_zone(EPSG))
    np.testing.assert_array_equal(learnt, made(*FOUR).over(dataset, EPSG)["label"].values)


def test_labels_for_training_are_corrected_by_what_is_about_their_year(tmp_path: Path) -> None:
    profile = {
        "driver": "GTiff",
        "width": WINDOW.width,
        "height": WINDOW.height,
        "count": 1,
        "dtype": "uint8",
    }
    profile |= {"crs": f"EPSG:{EPSG}", "transform": WINDOW.geobox.affine}
    with rasterio.open(tmp_path / f"{EPSG}.tif", "w", **profile) as file:
        file.write(np.zeros(WINDOW.shape, np.uint8), 1)
    here, there = star(0.3, 0.3, 200.0), star(0.7, 0.7, 200.0)
    given = Outlines("corrections", table((1, 2018, here), (2, None, there), columns=("class", "year")), ())
    source = LabelSource(LabelRules(), None, None, given, tmp_path, False)
    for year, rows in ((2018, ((1, here), (2, there))), (2019, ((2, there),))):
        labels, _ = source.labels(
            box(80.0, 20.0, 90.0, 30.0), year, WINDOW, np.zeros((30, *WINDOW.shape), np.float32)
        )
        np.testing.assert_array_equal(labels, np.maximum(set_at(rows), 0))


def test_a_map_elsewhere_stays_what_it_is() -> None:
    far = a_map()
    assert made(("clean_ice", box(-70.0, -50.0, -69.9, -49.9))).over(far, EPSG) is far
    assert corrections.NONE.over(far, EPSG) is far


def test_each_is_about_its_year_or_about_all() -> None:
    here, there = star(0.3, 0.3, 100.0), star(0.6, 0.6, 100.0)
    both = made((1, 2018, here), (2, None, there), columns=("class", "year"))
    assert both.of(2018).classes.tolist() == [1, 2]
    assert both.of(2019).classes.tolist() == [2]
    assert shapely.equals(both.of(2019).shapes, [there]).all()


def test_the_share_of_an_outline_counts_each_place_once() -> None:
    shapes = [box(84.0, 28.0, 84.1, 28.1), box(84.05, 28.0, 84.15, 28.1), box(90.0, 28.0, 90.1, 28.1)]
    outline = box(84.0, 28.0, 84.2, 28.1)
    found = made(*((1, shape) for shape in shapes))
    parts = area_km2(np.array([box(84.0, 28.0, 84.15, 28.1), outline], object))
    assert found.share(outline) == pytest.approx(parts[0] / parts[1], abs=1e-6)
    assert found.share(box(10.0, 10.0, 10.1, 10.1)) == 0.0
    assert corrections.NONE.share(outline) == 0.0
    over = made((1, box(179.95, 60.0, 180.0, 60.1)), (1, box(-180.0, 60.0, -179.95, 60.1)))
    assert over.share(box(179.9, 60.0, 180.1, 60.1)) == pytest.approx(0.5, abs=1e-6)
    assert found.area_km2 == pytest.approx(parts[0] + area_km2(np.array([shapes[2]], object))[0], rel=1e-6)


@pytest.mark.parametrize("crs", [4326, EPSG, 3857])
def test_what_a_run_keeps_is_what_it_was_given(tmp_path: Path, crs: int) -> None:
    assert corrections.kept(str(tmp_path)) is None
    found = made((1, 2018, FOUR[0][1]), ("water", None, FOUR[1][1]), columns=("class", "year"), crs=crs)
    corrections.keep(str(tmp_path), found)
    again = corrections.kept(str(tmp_path))
    assert again is not None
    assert (again.classes.tolist(), again.years.tolist()) == ([1, 3], [2018, 0])
    assert all(shapely.equals(again.shapes, found.shapes))
    frame = gpd.read_parquet(tmp_path / corrections.FILE)
    assert frame.crs == "EPSG:4326"
    path = tmp_path / corrections.FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="--corrections"):
        corrections.kept(str(tmp_path))
    corrections.keep(str(tmp_path), None)
    assert not path.exists()


def test_a_polygon_that_crosses_itself_is_what_its_loops_hold() -> None:
    bow = Polygon([(84.0, 28.0), (84.1, 28.1), (84.1, 28.0), (84.0, 28.1)])
    found = made(("water", bow))
    assert len(found) == 1
    assert found.shapes[0].is_valid
    assert [found.share(box(lon, 28.01, lon + 0.01, 28.09)) > 0.5 for lon in (84.0, 84.09)] == [True, True]
    assert found.share(box(84.045, 28.0, 84.055, 28.04)) == 0.0


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (table((1, FOUR[0][1]), columns=("klass",)), "without a column 'class'"),
        (table(("glacier", FOUR[0][1])), "class 'glacier'; expected 0..4, 255 or one of background"),
        (table((7, FOUR[0][1])), "class 7"),
        (table((1, "soon", FOUR[0][1]), columns=("class", "year")), "year 'soon'"),
        (table((1, FOUR[0][1])).iloc[:0], "without a polygon"),
    ],
)
def test_what_corrects_nothing_is_told_in_one_line(frame: gpd.GeoDataFrame, words: str) -> None:
    with pytest.raises(InputError) as told:
        Corrections.of_frame(frame, CLASS_NAMES, "corrections x.gpkg")
    assert words in str(told.value)
    assert "\n" not in str(told.value)
