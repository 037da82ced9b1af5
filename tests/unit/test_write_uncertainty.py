"""Intervals of areas: expected errors on constructed maps, however cut, and totals against closed forms."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cryoscale.write.bootstrap import Z, block_of, region_interval, region_of
from cryoscale.write.outlines import polygonise
from cryoscale.write.uncertainty import MEASURED, REACH_PX, UNITS, AreaRule, expected_errors
from cryoscale.write.zonal import Tally, count_pixels, part_of

GLACIER_KM2 = st.floats(0.01, 100.0)


def a_map(ice: NDArray[np.int64]) -> xr.Dataset:
    """A map with the given probability of ice (0-250) and a label to match, the ice clean."""
    probability = np.zeros((5, *ice.shape), np.uint8)
    probability[0], probability[1] = 250 - ice, ice
    y, x = 5_100_000.0 - 10.0 * np.arange(ice.shape[0]), 500_000.0 + 10.0 * np.arange(ice.shape[1])
    return xr.Dataset(
        {
            "label": (("y", "x"), (ice > 125).astype(np.uint8)),
            "probability": (("class", "y", "x"), probability),
        },
        coords={"y": y, "x": x},
        attrs={"proj:code": "EPSG:32632"},
    )


def counted(dataset: xr.Dataset, owner: NDArray[np.int64], outlines: int, step_px: int) -> Tally:
    tally = Tally(outlines)
    for row, col in product(*(range(0, size, step_px) for size in owner.shape)):
        y, x = slice(row, row + step_px), slice(col, col + step_px)
        part = part_of(dataset, y, x)
        count_pixels(tally, part, part["label"].values, owner[y, x])
    return tally


def test_a_square_with_a_doubtful_rim_has_the_errors_counted_by_hand() -> None:
    ice = np.zeros((30, 30), np.int64)
    ice[9:21, 9:21] = 25  # a rim of 10 % around a core of 80 %
    ice[10:20, 10:20] = 200
    tally = counted(a_map(ice), np.where(ice > 125, 0, -1), 1, 30)
    false, missed = tally.expected_errors()
    assert tally.ice_px[0] == 100
    assert false[0] == pytest.approx(0.2)
    assert missed[0] == pytest.approx(44 * 0.1 / 100, rel=1e-2)


def test_missed_ice_between_two_outlines_is_shared_and_counted_once() -> None:
    ice = np.zeros((21, 23), np.int64)
    ice[:, :10], ice[:, 10:13], ice[:, 13:] = 250, 100, 250
    owner = np.where(ice == 250, np.arange(23) // 12, -1)
    tally = counted(a_map(ice), owner, 2, 21)
    false, missed = tally.expected_errors()
    assert false.tolist() == [0.0, 0.0]
    assert missed[0] == missed[1]
    assert missed.sum() * 210 == pytest.approx(3 * 21 * 0.4, rel=1e-2)


def test_ice_beyond_the_reach_is_no_error_of_the_outline() -> None:
    ice = np.zeros((5, 20), np.int64)
    ice[:, 0], ice[:, 1 + REACH_PX :] = 250, 100
    _, missed = counted(a_map(ice), np.where(ice == 250, 0, -1), 1, 20).expected_errors()
    assert not missed[0] > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 40))
def test_however_the_map_is_cut_the_expected_errors_are_the_same_and_brute_force_finds_them(
    seed: int, step_px: int
) -> None:
    rng = np.random.default_rng(seed)
    ice = rng.integers(0, 251, (33, 37))
    owner = np.where(ice > 125, rng.integers(0, 3, ice.shape), -1)
    whole, parts = (counted(a_map(ice), owner, 3, step) for step in (40, step_px))
    for name in ("false_sum", "missed_sum", "probable_px", "ice_px"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
    expected = np.zeros(3)
    for y, x in np.argwhere(ice <= 125):
        near = owner[max(y - REACH_PX, 0) : y + REACH_PX + 1, max(x - REACH_PX, 0) : x + REACH_PX + 1]
        near = near[near >= 0]
        expected += np.bincount(near, minlength=3) * ice[y, x] / 250 / max(near.size, 1)
    np.testing.assert_allclose(whole.missed_sum / UNITS, expected, rtol=1e-3)
    np.testing.assert_allclose(
        whole.false_sum / UNITS, np.bincount(owner[owner >= 0], (250 - ice[owner >= 0]) / 250, 3)
    )


def test_the_expected_errors_of_many_rows_do_not_show_how_many_are_worked_on_at_a_time() -> None:
    rng = np.random.default_rng(3)
    probability = rng.integers(0, 251, (600, 9)).astype(np.uint8)
    whole = expected_errors(probability > 125, probability)[1]
    for row in (250, 256, 511, 512):
        around = slice(row - 10, row + 10)
        part = expected_errors(probability[around] > 125, probability[around])[1]
        assert part[10].tolist() == whole[row].tolist()


@given(GLACIER_KM2, st.floats(0, 1), st.floats(0, 1), st.floats(0, 5), st.floats(0, 5), st.floats(0.5, 1))
def test_an_interval_holds_the_area_and_grows_with_the_factors(
    area: float, false: float, missed: float, factor: float, more: float, exponent: float
) -> None:
    errors = np.array([false * area]), np.array([missed * area])
    low, high = AreaRule(factor, factor, exponent).interval(np.array([area]), *errors)
    lower, higher = AreaRule(factor + more, factor + more, exponent).interval(np.array([area]), *errors)
    assert 0 <= lower <= low <= area <= high <= higher


def test_outlines_come_with_the_interval_of_the_rule_and_without_one_where_the_map_has_no_doubt() -> None:
    ice = np.zeros((60, 60), np.int64)
    ice[10:50, 10:50] = 225
    dataset = a_map(ice)
    (row,) = polygonise(dataset, year=2018).to_dict("records")
    area = row["area_km2"]
    assert row["area_low_km2"] == pytest.approx(area - MEASURED.low * (0.1 * area) ** MEASURED.exponent)
    assert row["area_high_km2"] == pytest.approx(area)
    for mute in (dataset.drop_vars("probability"), a_map(np.where(ice > 0, 250, 0))):
        frame = polygonise(mute, year=2018)
        assert frame[["area_low_km2", "area_high_km2"]].isna().all(axis=None)


def test_the_two_rounded_probabilities_of_ice_and_no_data_beside_it_are_no_more_than_certain() -> None:
    ice = np.full((8, 8), 250)
    dataset = a_map(ice)
    dataset["probability"][2] = 1
    dataset["label"][0], dataset["probability"][:, 0] = 255, 255
    tally = counted(dataset, np.where(dataset["label"].values == 1, 0, -1), 1, 8)
    assert (tally.false_sum[0], tally.missed_sum[0]) == (0, 0)


@pytest.mark.parametrize("common", [0.0, 0.3, 1.0])
def test_the_interval_of_equal_blocks_is_that_of_the_closed_form(common: float) -> None:
    n, width = 400, 0.5
    low, high = region_interval(1000.0, np.full(n, width), np.full(n, 2 * width), common=common)
    sd = width / Z
    reach = Z * sd * np.sqrt(common * n**2 + (1 - common) * n)
    assert 1000 - low == pytest.approx(reach, rel=0.05)
    assert high - 1000 == pytest.approx(2 * reach, rel=0.05)


def test_blocks_that_differ_make_the_root_of_the_sum_of_their_squares() -> None:
    widths = np.random.default_rng(5).gamma(1.0, 2.0, 2000)
    low, high = region_interval(1e6, widths, widths, common=0.0)
    assert (high - low) / 2 == pytest.approx(np.sqrt((widths**2).sum()), rel=0.05)


def test_a_region_is_told_from_the_parts_of_its_inventory() -> None:
    rng = np.random.default_rng(7)
    area = rng.uniform(0.1, 5.0, 300)
    frame = pd.DataFrame(
        {
            "cenlon": rng.uniform(86, 87, 300),
            "cenlat": rng.uniform(27, 28, 300),
            "area_km2": area,
            "area_low_km2": 0.9 * area,
            "area_high_km2": 1.2 * area,
        }
    )
    frame.loc[0, ["area_low_km2", "area_high_km2"]] = np.nan
    told = region_of([frame])
    assert region_of([frame[:100], frame[100:]]) == pytest.approx(told)
    assert told["area_km2"] == pytest.approx(area.sum())
    assert (told["glaciers"], told["glaciers_without_interval"]) == (300, 1)
    places = block_of(frame["cenlon"].to_numpy()[1:], frame["cenlat"].to_numpy()[1:])
    assert told["blocks"] == len(np.unique(places, axis=0))
    assert 0.9 * area.sum() < told["area_low_km2"] < area.sum() < told["area_high_km2"] < 1.2 * area.sum()
    nothing = region_of([frame[:1]])
    assert (nothing["area_low_km2"], nothing["area_high_km2"]) == (None, None)
    assert region_of([frame[:0]])["area_km2"] == 0.0


def test_rows_of_blocks_are_five_km_apart_along_a_meridian() -> None:
    rows = block_of(np.array([60.0, 60.0, 60.0]), np.array([60.0, 60.0 + 5 / 111.195, 60.0 + 50 / 111.195]))
    assert np.diff(rows[:, 0]).tolist() == [1, 9]
