"""Regimes differ in what they say they differ in, the demo's has not changed, and the strata are true."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cryoscale.errors import InputError
from cryoscale.simulate.catalog import Published, publish
from cryoscale.simulate.ground import MATERIALS, survey_ground
from cryoscale.simulate.illumination import sun_position, utc_of_solar_time
from cryoscale.simulate.radar import coherence_model
from cryoscale.simulate.regime import ALPS, HIMALAYA, HIMALAYA_EARLY, HIMALAYA_LATE, REGIMES, Season
from cryoscale.simulate.regime import regime_named as named
from cryoscale.simulate.sensors import BANDS, OVERPASS_SOLAR_HOUR, blend_spectra, observe
from cryoscale.simulate.strata import shadow
from cryoscale.simulate.terrain import MountainRange, make_range
from tests.unit.test_simulate_sensors import made_up_range, ray_by_ray

COUNTS, ELA_M = [65151, 24165, 8064, 460, 464], 5398.224
"""Pixels of each class, and the equilibrium line, of the tiny range of seed 6."""


@pytest.fixture(scope="module")
def ranges() -> dict[str, MountainRange]:
    return {name: make_range(6, "tiny", regime=regime) for name, regime in REGIMES.items()}


def test_the_demos_range_is_what_it_was_before_there_were_regimes(ranges: dict[str, MountainRange]) -> None:
    """Figures of the simulator before regimes, by which the demo's weights were trained."""
    plain = make_range(6, "tiny")
    assert plain.regime == HIMALAYA
    np.testing.assert_array_equal(plain.truth, ranges["himalaya"].truth)
    assert np.bincount(plain.truth.ravel()).tolist() == COUNTS
    assert plain.ela_m == pytest.approx(ELA_M, abs=0.01)
    assert plain.crs.startswith("+proj=tmerc +lat_0=0 +lon_0=84 +k=0.9996 ")
    assert [d.month_day for d in HIMALAYA.season.optical] == ["10-05", "10-15", "10-25"]


@pytest.mark.parametrize("name", list(REGIMES))
def test_a_range_lies_where_its_regime_says_with_the_debris_that_it_says(
    name: str, ranges: dict[str, MountainRange]
) -> None:
    regime, made = REGIMES[name], ranges[name]
    west, south, east, north = made.bounds_deg
    assert west < regime.meridian_deg < east
    assert south < regime.latitude_deg < north
    assert regime.meridian_deg % 6 == 0, "a range lies across a border of zones"
    assert regime.ela_m[0] <= made.ela_m <= regime.ela_m[1]
    ice = made.glacier_id > 0
    low, high = regime.debris_share
    # Ponds take some of it; the share is set before they are dug.
    assert low - 0.03 <= (made.debris_thickness_m[ice] > 0.02).mean() <= high + 0.01
    assert named(name) is regime


def test_the_same_seed_has_the_same_mountains_in_every_season_of_a_place(
    ranges: dict[str, MountainRange],
) -> None:
    for name in ("himalaya-early", "himalaya-late"):
        np.testing.assert_array_equal(ranges[name].glacier_id > 0, ranges["himalaya"].glacier_id > 0)
    # The Alps are lower by the difference of their equilibrium lines, and no less steep.
    relief = [np.ptp(ranges[name].elevation_m) for name in ("himalaya", "alps")]
    assert relief[1] == pytest.approx(relief[0], rel=0.05)
    assert ranges["alps"].elevation_m.max() < 5000


@pytest.mark.parametrize(
    ("regime", "declination_deg"), [(HIMALAYA, -8.5), (ALPS, -11.0), (HIMALAYA_LATE, -18.5)]
)
def test_the_sun_of_a_regime_stands_as_high_as_its_latitude_and_date_let_it(regime, declination_deg) -> None:
    """Declinations from an almanac; the height by the spherical triangle."""
    when = utc_of_solar_time(regime.season.clearest.day(2018), OVERPASS_SOLAR_HOUR, regime.meridian_deg)
    sun = sun_position(when, regime.meridian_deg, regime.latitude_deg)
    lat, declination = math.radians(regime.latitude_deg), math.radians(declination_deg)
    hour = math.radians(15.0 * (OVERPASS_SOLAR_HOUR - 12.0))
    height = math.sin(lat) * math.sin(declination) + math.cos(lat) * math.cos(declination) * math.cos(hour)
    assert sun.elevation_deg == pytest.approx(math.degrees(math.asin(height)), abs=0.7)


def test_rock_plants_air_and_radar_differ_as_the_regimes_say() -> None:
    material = {name: k for k, name in enumerate(MATERIALS)}
    patterns = np.zeros((4, 40, 40), np.float32)

    def spectrum(name: str, regime) -> np.ndarray:
        shares = np.zeros((len(MATERIALS), 40, 40), np.float32)
        shares[material[name]] = 1.0
        return blend_spectra(shares, patterns, 1, regime).mean(axis=(1, 2))

    red, nir = BANDS.index("B04"), BANDS.index("B08")
    assert spectrum("rock", ALPS)[red] > 1.1 * spectrum("rock", HIMALAYA)[red]
    np.testing.assert_allclose(spectrum("snow", ALPS), spectrum("snow", HIMALAYA), atol=1e-6)
    green, brown = spectrum("vegetation", HIMALAYA), spectrum("vegetation", HIMALAYA_LATE)
    ndvi = [(s[nir] - s[red]) / (s[nir] + s[red]) for s in (green, brown)]
    assert ndvi[1] < ndvi[0] - 0.1
    here, there = (survey_ground(made_up_range(regime=regime), 2018) for regime in (HIMALAYA, ALPS))
    shares = np.zeros((len(MATERIALS), *here.shape), np.float32)
    shares[material["rock"]] = 1.0
    dry, wet = (coherence_model(ground, shares, 3).mean() for ground in (here, there))
    assert wet < dry - 0.05
    clear, hazy = (
        observe(survey_ground(made_up_range(regime=regime), 2018), HIMALAYA.season.optical[1])
        for regime in (HIMALAYA, HIMALAYA_EARLY)
    )
    added = [float(np.median(b - a)) for a, b in zip(clear.reflectance, hazy.reflectance, strict=True)]
    assert added[BANDS.index("B02")] == pytest.approx(HIMALAYA_EARLY.haze, rel=0.1)
    assert added[BANDS.index("B12")] < 0.3 * added[BANDS.index("B02")]


def test_an_unknown_regime_is_refused_in_one_line_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="himalaya-late, karakoram, alps") as caught:
        named("andes")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("regime", [HIMALAYA, ALPS])
def test_the_stratum_of_shadow_is_what_rays_to_the_sun_find(regime) -> None:
    made = made_up_range(60, 90, regime=regime)
    ground = survey_ground(made, 2018)
    overpass = regime.season.clearest
    lon, lat = ground.centre_deg()
    sun = sun_position(utc_of_solar_time(overpass.day(2018), OVERPASS_SOLAR_HOUR, lon), lon, lat)
    expected = ray_by_ray(made.elevation_m, 10.0, sun)
    found = shadow(ground, overpass) == 1
    assert 0.1 < expected.mean() < 0.9
    inner = slice(3, -3)
    assert (found == expected)[inner, inner].mean() > 0.95


@pytest.fixture(scope="module")
def published(ranges: dict[str, MountainRange], tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(ranges["alps"], tmp_path_factory.mktemp("alps"))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read(1)


def test_strata_are_published_on_the_grid_of_the_truth_and_agree_with_it(published: Published) -> None:
    assert published.epsgs == (32631, 32632)
    for epsg in published.epsgs:
        truth, paths = read(published.truth(epsg)), published.strata(epsg)
        assert set(paths) == {"debris_thickness_m", "shadow", "slope_deg"}
        assert all(path.name == f"{epsg}_{name}.tif" for name, path in paths.items())
        strata = {name: read(path) for name, path in paths.items()}
        assert {array.shape for array in strata.values()} == {truth.shape}
        outside = truth == 255
        np.testing.assert_array_equal(np.isnan(strata["debris_thickness_m"]), outside)
        np.testing.assert_array_equal(strata["shadow"] == 255, outside)
        debris = strata["debris_thickness_m"]
        assert (debris[truth == 2] > 0.02).all()
        assert (debris[truth == 1] <= 0.02).all()
        assert not debris[(truth == 0) | (truth == 4)].any()
        assert 0.1 < (strata["shadow"][~outside] == 1).mean() < 0.8, "low sun throws long shadows"
        level = strata["slope_deg"][truth == 3]
        assert np.nanmedian(level) < 2, "lakes are flat"


def test_without_an_optical_date_there_is_no_stratum_of_shadow(
    ranges: dict[str, MountainRange], tmp_path: Path
) -> None:
    season = Season(optical=(), thermal=(), radar=False)
    made = publish(ranges["himalaya"], tmp_path / "bare", season=season)
    assert set(made.strata(made.epsgs[0])) == {"debris_thickness_m", "slope_deg"}


def test_strata_of_later_years_lie_apart(tmp_path: Path) -> None:
    by_year = {year: make_range(6, "tiny", ela_shift_m=shift) for year, shift in ((2018, 0.0), (2019, 90.0))}
    made = publish(by_year, tmp_path / "two", season=Season(optical=(), thermal=(), radar=False))
    for year, mountain_range in by_year.items():
        debris = read(made.strata(made.epsgs[0], year)["debris_thickness_m"])
        truth = read(made.truth(made.epsgs[0], year))
        np.testing.assert_array_equal((debris > 0.02) & (truth != 3), truth == 2)
        assert mountain_range.debris_thickness_m.max() > 0.02
