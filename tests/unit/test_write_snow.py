from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cryoscale.write.evidence import LAYERS, Cells
from cryoscale.write.snow import DOUBTFUL, LIKELY, NO, Signs, columns_of, judge, signs_of, snow_fraction

PATCH = Signs(
    area_km2=0.05,
    slope_deg=42.0,
    debris_fraction=0.0,
    snow_fraction=1.0,
    persistence=0.4,
    dates=5.0,
    ndsi=0.9,
    velocity_m_yr=1.2,
    coherence=0.7,
)
"""A snow patch by every test."""
GLACIER = Signs(
    area_km2=3.0,
    slope_deg=18.0,
    debris_fraction=0.15,
    snow_fraction=0.3,
    persistence=0.97,
    dates=5.0,
    ndsi=0.55,
    velocity_m_yr=22.0,
    coherence=0.2,
)
"""A glacier by every test."""


def cells(count: int = 100, weight: np.ndarray | float = 1.0, **layers: np.ndarray | float) -> Cells:
    """Level cells, of which nothing is known but what is given."""
    rises = {name: np.full(count, layers.pop(name, 0.0), np.float32) for name in ("rise_east", "rise_north")}
    values = np.full((len(LAYERS), count), np.nan, np.float32)
    for name, layer in layers.items():
        values[LAYERS.index(name)] = layer
    return Cells(1.0, np.full(count, weight, np.float32), values, **rises)


def test_what_is_snow_or_ice_by_every_test_is_told_so_with_what_was_measured() -> None:
    assert judge(PATCH).word == LIKELY
    assert judge(GLACIER).word == NO
    assert judge(PATCH).evidence == (
        "snow: not persistent 0.40 of 5 dates, still 1.2 m/yr, coherent 0.70, no debris, no bare ice 1.00, "
        "steep 42 deg, small 0.05 km2, NDSI 0.90; ice: -; unknown: -"
    )
    assert judge(GLACIER).evidence == (
        "snow: -; ice: moves 22.0 m/yr, decorrelated 0.20, debris 0.15, bare ice 0.70; unknown: -"
    )


@pytest.mark.parametrize(
    ("sign", "values", "told"),
    [
        ("persistence", (0.74, 0.75), "not persistent"),
        ("velocity_m_yr", (2.4, 2.5), "still"),
        ("coherence", (0.4, 0.39), "coherent"),
        ("debris_fraction", (0.019, 0.02), "no debris"),
        ("snow_fraction", (0.9, 0.89), "no bare ice"),
        ("slope_deg", (35.0, 34.9), "steep"),
        ("area_km2", (0.49, 0.5), "small"),
        ("ndsi", (0.6, 0.59), "NDSI"),
    ],
)
def test_each_test_speaks_for_snow_on_its_own_side_of_its_limit(
    sign: str, values: tuple[float, float], told: str
) -> None:
    snow, other = (judge(replace(GLACIER, **{sign: value})).evidence.split("; ") for value in values)
    assert snow[0].startswith(f"snow: {told}")
    assert other[0] == "snow: -"


@pytest.mark.parametrize(
    ("sign", "values", "told"),
    [
        ("velocity_m_yr", (4.0, 3.9), "moves"),
        ("coherence", (0.29, 0.3), "decorrelated"),
        ("debris_fraction", (0.02, 0.019), "debris"),
        ("snow_fraction", (0.49, 0.5), "bare ice"),
    ],
)
def test_each_test_speaks_for_ice_on_its_own_side_of_its_limit(
    sign: str, values: tuple[float, float], told: str
) -> None:
    ice, other = (judge(replace(PATCH, **{sign: value})).evidence.split("; ") for value in values)
    assert ice[1].startswith(f"ice: {told}")
    assert other[1] == "ice: -"


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({"persistence": 0.4, "dates": 3.0}, LIKELY),
        ({"persistence": 0.4, "dates": 1.0}, None),  # of one date nothing is known
        ({"persistence": 0.9, "dates": 3.0}, DOUBTFUL),  # snow may lie all season
        ({"persistence": 0.9, "dates": 3.0, "area_km2": 2.0}, NO),
        ({"coherence": 0.7}, LIKELY),
        ({"coherence": 0.2}, NO),
        ({"velocity_m_yr": 1.0}, DOUBTFUL),  # glacierets stand still, too
        ({"velocity_m_yr": 9.0}, NO),
        ({"velocity_m_yr": 9.0, "coherence": 0.7}, DOUBTFUL),
        ({"velocity_m_yr": 9.0, "coherence": 0.2, "persistence": 0.4, "dates": 3.0}, NO),
        ({"velocity_m_yr": 1.0, "coherence": 0.2}, DOUBTFUL),  # fresh snow takes coherence, too
        ({"velocity_m_yr": 3.0, "coherence": 0.35}, NO),
        ({"velocity_m_yr": 1.0, "area_km2": 2.0}, NO),
        ({"velocity_m_yr": 1.0, "snow_fraction": 0.2}, NO),
        ({"coherence": 0.7, "debris_fraction": 0.3}, DOUBTFUL),
        ({"coherence": 0.7, "area_km2": 2.0, "slope_deg": 20.0, "snow_fraction": 0.7}, LIKELY),
        ({"coherence": 0.7, "area_km2": 2.0, "slope_deg": 20.0, "snow_fraction": 0.7, "ndsi": 0.5}, DOUBTFUL),
    ],
)
def test_a_small_steep_patch_is_judged_by_what_is_known_of_it(
    known: dict[str, float], word: str | None
) -> None:
    nothing = replace(PATCH, persistence=math.nan, dates=math.nan, velocity_m_yr=math.nan, coherence=math.nan)
    assert judge(replace(nothing, **known)).word == word


def test_without_persistence_speed_and_coherence_there_is_no_verdict_and_columns_stay_empty() -> None:
    told = columns_of(Signs(area_km2=0.05, slope_deg=40.0))
    assert told["seasonal_snow"] is None
    assert told["clear_dates"] is None
    assert all(math.isnan(told[name]) for name in ("snow_fraction", "ndsi", "velocity_m_yr", "coherence"))  # type: ignore[arg-type]
    assert str(told["snow_evidence"]).endswith(
        "ice: -; unknown: persistence, speed, coherence, debris, snow cover, NDSI"
    )


def test_debris_counts_neither_for_persistence_nor_for_the_index() -> None:
    debris = np.r_[np.ones(30), np.zeros(70)]
    seen = cells(
        ice=1.0,
        debris=debris,
        persistence=1 - debris,
        ndsi=0.8 * (1 - debris),
        dates=np.where(debris == 1, 9, 4),
    )
    signs = signs_of(seen, 1.0, 10.0, 28.0)
    assert signs.debris_fraction == pytest.approx(0.3)
    assert (signs.persistence, signs.dates) == (1.0, 4.0)
    assert signs.ndsi == pytest.approx(0.8)
    tongue = signs_of(
        cells(ice=1.0, debris=np.r_[np.ones(80), np.zeros(20)], persistence=0.1), 1.0, 10.0, 28.0
    )
    assert math.isnan(tongue.persistence)


def test_the_share_under_snow_weighs_cells_by_what_the_outline_covers_of_them() -> None:
    weight = np.r_[np.full(50, 1.0), np.full(50, 0.25)]
    nir = np.r_[np.full(50, 0.8), np.full(50, 0.25)]
    assert snow_fraction(cells(weight=weight, nir=nir, day=280.0), 28.0) == pytest.approx(0.8)


def lit(albedo: np.ndarray, rise_east: np.ndarray, sun: tuple[float, float], sky: float = 0.2) -> np.ndarray:
    """Reflectance of slopes that rise to the east, under a sun of this (east, up) and light of the sky."""
    facing = np.maximum((sun[1] - rise_east * sun[0]) / np.sqrt(1 + rise_east**2), 0.0)
    return np.asarray(albedo * (facing + sky) / (sun[1] + sky))


@pytest.mark.parametrize("lat_deg", [28.0, 60.0])
def test_snow_on_slopes_that_turn_from_the_sun_is_snow_and_ice_that_faces_it_is_ice(lat_deg: float) -> None:
    # at the equinox, day 81, and an hour angle of -22.5 degrees the sun is east by sin(22.5 deg)
    turn = math.radians(22.5)
    sun = math.sin(turn), math.cos(math.radians(lat_deg)) * math.cos(turn)
    rise = np.tile([-0.7, -0.35, 0.0, 0.35, 0.7], 20)  # those that rise to the east face west
    albedo = np.repeat([0.6, 0.25], 50)
    shown = lit(albedo, rise, sun)
    assert (shown[:50] < 0.4).any()  # without the normalisation some snow would be ice
    seen = cells(nir=shown, day=80.0, rise_east=rise)
    assert snow_fraction(seen, lat_deg) == pytest.approx(0.5)


def test_an_image_that_was_corrected_for_terrain_is_not_corrected_twice() -> None:
    rise = np.tile([-0.6, 0.0, 0.6], 30)
    albedo = np.repeat([0.45, 0.3], 45)
    # corrected a little too far, as such images are: brighter where the sun does not reach
    seen = cells(90, nir=albedo + 0.05 * rise, day=80.0, rise_east=rise)
    assert snow_fraction(seen, 28.0) == pytest.approx(0.5)


def test_the_share_under_snow_is_not_told_where_most_of_the_outline_is_not_known() -> None:
    nir = np.r_[np.full(49, 0.8), np.full(51, np.nan)]
    assert math.isnan(snow_fraction(cells(nir=nir, day=280.0), 28.0))
    assert math.isnan(snow_fraction(cells(nir=0.8), 28.0))  # no date, no sun
    assert math.isnan(snow_fraction(cells(0), 28.0))
