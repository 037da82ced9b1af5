"""Composites: which scene a pixel shows, against a plain loop over pixels."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from cryoscale.read.assets import S2_BANDS
from cryoscale.read.composite import Composer, clear_mask, composite, masked_median, scene_order

METHODS = ("best_scene", "median", "least_snow")
B03, B08, B11 = (S2_BANDS.index(name) for name in ("B03", "B08", "B11"))


def cube(scenes: int = 4, edge: int = 9, seed: int = 0) -> xr.Dataset:
    """Random scenes: some snow, some cloud, some gaps in single bands."""
    rng = np.random.default_rng(seed)
    shape = (scenes, edge, edge)
    data = {name: rng.uniform(0.0, 0.9, shape).astype(np.float32) for name in S2_BANDS}
    data["B11"] = (data["B11"] * 0.4).astype(np.float32)
    data["B05"][rng.random(shape) < 0.1] = np.nan
    data["SCL"] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], shape).astype(np.float32)
    days = np.array(["2018-10-03", "2018-10-13", "2018-10-13", "2018-10-28"], "datetime64[ns]")[:scenes]
    return xr.Dataset(
        {name: (("time", "y", "x"), values) for name, values in data.items()},
        coords={
            "time": days,
            "y": -10.0 * np.arange(edge),
            "x": 10.0 * np.arange(edge),
            "scene": ("time", np.array(["d", "c", "b", "a"], object)[:scenes]),
            "cloud_cover": ("time", np.array([40.0, 5.0, 5.0, np.nan])[:scenes]),
        },
    )


def by_hand(data: xr.Dataset, method: str) -> dict[str, Any]:
    """The definition, pixel by pixel."""
    order = [2, 1, 0, 3]  # 5 % twice, same day: id b before c; then 40 %; unknown cloud last
    days = data["time"].values.astype("datetime64[D]").astype(int)
    bands = np.stack([data[name].values for name in S2_BANDS])
    _, _, height, width = bands.shape
    out = np.full((*bands.shape[:1], height, width), np.nan, np.float32)
    date, count = np.zeros((height, width), np.int32), np.zeros((height, width), np.uint16)
    for i, j in itertools.product(range(height), range(width)):
        clear = [
            t
            for t in order
            if data["SCL"].values[t, i, j] in (2, 4, 5, 6, 7, 11) and not np.isnan(bands[:, t, i, j]).any()
        ]
        count[i, j] = len(clear)
        if not clear:
            continue
        if method == "median":
            out[:, i, j] = [np.median(bands[b, clear, i, j]) for b in range(len(S2_BANDS))]
            date[i, j] = int(np.floor(np.median(days[clear])))
            continue

        def snow(t: int, i: int = i, j: int = j) -> float:
            green, nir, swir = bands[[B03, B08, B11], t, i, j]
            return float(nir) if (green - swir) / (green + swir) > 0.4 and nir > 0.11 else 0.0

        best = clear[0] if method == "best_scene" else min(clear, key=snow)
        out[:, i, j], date[i, j] = bands[:, best, i, j], days[best]
    return {**dict(zip(S2_BANDS, out, strict=True)), "source_date": date, "n_clear": count}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_a_composite_is_what_its_definition_says_pixel_by_pixel(method: str, seed: int) -> None:
    data = cube(seed=seed)
    got, want = composite(data, method), by_hand(data, method)
    assert set(got) == set(want)
    for name, values in want.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_allclose(got[name].values, values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_a_composite_depends_neither_on_blocks_nor_on_the_order_of_scenes_and_stays_lazy(method: str) -> None:
    data = cube()
    whole = composite(data, method)
    lazy = composite(data.chunk({"time": 1, "y": 4, "x": 5}), method)
    assert all(dask.is_dask_collection(lazy[name].data) for name in lazy)
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), whole)
    xr.testing.assert_identical(composite(data.isel(time=[3, 1, 0, 2]), method), whole)
    part = {"y": slice(2, 7), "x": slice(0, 3)}
    xr.testing.assert_identical(composite(data.isel(part), method), whole.isel(part))


def test_a_pixel_that_no_scene_shows_is_no_data_and_has_no_date() -> None:
    data = cube()
    data["SCL"][:, 2, 3] = 9.0
    for method in METHODS:
        got = composite(data, method).isel(y=2, x=3)
        assert all(np.isnan(got[name]) for name in S2_BANDS)
        assert (int(got["source_date"]), int(got["n_clear"])) == (0, 0)


def test_scenes_without_a_classification_are_clear_wherever_they_hold_data() -> None:
    data = cube().drop_vars("SCL")
    got = composite(data, "best_scene")
    full = np.isfinite(np.stack([data[name].values for name in S2_BANDS])).all(axis=0)
    np.testing.assert_array_equal(got["n_clear"], full.sum(axis=0))


def test_in_a_cube_that_mixes_them_only_the_scenes_without_a_classification_are_not_masked() -> None:
    data = cube()
    data["SCL"][:2] = np.nan
    mixed = data.assign_coords(classified=("time", np.array([False, True, True, True])))
    full = np.isfinite(np.stack([data[name].values for name in S2_BANDS])).all(axis=0)
    want = full[0] + (full[2:] & clear_mask(data["SCL"].values[2:])).sum(axis=0)
    np.testing.assert_array_equal(composite(mixed, "best_scene")["n_clear"], want)


def test_a_cube_of_which_the_classification_was_dropped_is_not_masked() -> None:
    data = cube().assign_coords(classified=("time", np.array([True] * 4)))
    bare = data.drop_vars("SCL")
    full = np.isfinite(np.stack([data[name].values for name in S2_BANDS])).all(axis=0)
    np.testing.assert_array_equal(composite(bare, "best_scene")["n_clear"], full.sum(axis=0))


def test_where_a_classification_ends_or_says_no_data_the_ground_is_hidden() -> None:
    assert clear_mask(np.array([np.nan, 0.0, 4.0, 9.0])).tolist() == [False, False, True, False]


def test_scenes_are_ranked_by_cloud_then_date_then_id_and_unknown_cloud_comes_last() -> None:
    order = scene_order([np.nan, 20.0, 3.0, 3.0, 3.0], [1, 1, 2, 1, 1], ["a", "b", "c", "e", "d"])
    assert order == [4, 3, 2, 1, 0]


def test_a_method_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="least_snow"):
        composite(cube(), "prettiest")


def test_the_median_leaves_gaps_out() -> None:
    rng = np.random.default_rng(3)
    stack = rng.normal(size=(5, 30, 30)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.4] = np.nan
    stack[:, 0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the pixel without any value
        want = np.nanmedian(stack, axis=0)
    np.testing.assert_allclose(masked_median(stack), want, rtol=1e-6, atol=1e-7)


def scene(ndsi: float, nir: float, shape: tuple[int, int] = (3, 5)) -> np.ndarray:
    """A scene (12, y, x) of one index and near-infrared reflectance."""
    bands = np.full((len(S2_BANDS), *shape), 0.1, np.float32)
    bands[S2_BANDS.index("B03")], bands[S2_BANDS.index("B11")] = 0.1 * (1 + ndsi), 0.1 * (1 - ndsi)
    bands[S2_BANDS.index("B08")] = nir
    return bands


@pytest.mark.parametrize("method", ["best_scene", "least_snow", "median"])
def test_persistence_is_the_share_of_clear_days_with_snow_or_ice_and_a_day_counts_once(method: str) -> None:
    shape = (3, 5)
    everywhere, left = np.ones(shape, bool), np.zeros(shape, bool)
    left[:, :2] = True
    composer = Composer(method, shape)
    composer.add(scene(0.8, 0.7), everywhere, 100)
    composer.add(scene(0.0, 0.2), left, 103)
    composer.add(scene(0.8, 0.05), everywhere, 105)  # in shade
    composer.add(scene(0.8, 0.7), left, 100)  # the neighbour in the pass of the first day
    share, dates = composer.persistence()
    np.testing.assert_array_equal(dates, np.where(left, 3, 2))
    np.testing.assert_allclose(share, np.where(left, 2 / 3, 1.0))
    assert np.isnan(Composer(method, shape).persistence()[0]).all()
