"""The simulated satellites: sun, shadow, spectra, digital numbers, temperature, speckle."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import transformer
from cryoscale.simulate.ground import MATERIALS, Ground, smooth_step, standard_noise, survey_ground
from cryoscale.simulate.illumination import Sun, sun_position, sunlit_share, utc_of_solar_time
from cryoscale.simulate.lattice import Lattice, block_mean, granules, locate, zone_lattice
from cryoscale.simulate.radar import COHERENCE, RadarPair, observe_radar, pair_on
from cryoscale.simulate.regime import HIMALAYA, OPTICAL_DATES, THERMAL_DATES, OpticalDate, Regime
from cryoscale.simulate.sensors import (
    band_on,
    blend_spectra,
    classify,
    observe,
    to_digital,
)
from cryoscale.simulate.spectra import BANDS, SPECTRA, shade_ratio
from cryoscale.simulate.survey import elevation_tile, grid_north_deg, velocity_mosaic
from cryoscale.simulate.terrain import MountainRange
from cryoscale.simulate.thermal import (
    FREEZING_K,
    OFFSET_K,
    QA_CLOUD,
    QA_FILL,
    SCALE_K,
    observe_thermal,
    surface_temperature,
    thermal_on,
)
from cryoscale.simulate.weather import clouds

FRAME = "+proj=tmerc +lat_0=0 +lon_0=84 +k=0.9996 +x_0=500000 +y_0=0 +datum=WGS84 +units=m +no_defs"
MORNING = Sun(47.0, 146.0)


def made_up_range(rows: int = 240, cols: int = 360, regime: Regime = HIMALAYA) -> MountainRange:
    """A ridge across the map, a glacier down its north side, stony on its lower half, a lake, a meadow."""
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float32)
    ridge = 1400.0 * np.exp(-(((y - 0.75 * rows) / (0.25 * rows)) ** 2))
    height = (4300.0 + ridge + 60.0 * np.sin(x / 17.0) * np.sin(y / 13.0)).astype(np.float32)
    ice = (np.abs(x - cols / 2) < 30) & (y > 0.25 * rows) & (y < 0.7 * rows)
    stony = ice & (y < 0.5 * rows)
    water = (np.hypot(y - 0.15 * rows, x - cols / 2) < 15) & ~ice
    meadow = (y < 0.12 * rows) & (x < cols / 3)
    debris = np.where(stony, 0.4 * (0.5 * rows - y) / (0.25 * rows), 0.0).astype(np.float32)
    truth = np.select([water, stony & (debris > 0.02), ice, meadow], [3, 2, 1, 4], 0).astype(np.uint8)
    fields = {
        "elevation_m": height,
        "bed_m": height - np.float32(80.0) * ice,
        "ice_thickness_m": np.float32(80.0) * ice,
        "velocity_east_m_yr": np.zeros_like(height),
        "velocity_north_m_yr": np.where(ice, 12.0, 0.0).astype(np.float32),
        "debris_thickness_m": debris,
        "glacier_id": ice.astype(np.int32),
        "water": water,
        "vegetation_fraction": np.where(meadow, 0.9, 0.0).astype(np.float32),
        "truth": truth,
    }
    north = round(28.3 * 110_860 / 10) * 10.0
    return MountainRange(
        seed=3,
        size="made-up",
        crs=FRAME,
        west_m=500_000.0 - cols * 5.0,
        north_m=north,
        ela_m=5200.0,
        treeline_m=4200.0,
        regime=regime,
        **fields,
    )


@pytest.fixture(scope="module")
def ground() -> Ground:
    return survey_ground(made_up_range(), 2018)


@pytest.fixture(scope="module")
def lattice(ground: Ground) -> Lattice:
    return zone_lattice(ground.range, granules(ground.range)[1])


# --- sun and shadow -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "landsat-c2-l2__planetarycomputer.microsoft.com__LC09_L2SP_084068_20250722_02_T2.json",
        "landsat-c2-l2__earth-search.aws.element84.com__LC08_L2SP_033032_20231008_02_T1.json",
        "stactools-landsat__LC08_L2SP_047027_20201204_02_T1.json",
        "odc-stac__LC08_L2SP_028030_20200114_20200824_02_T1_SR.json",
    ],
)
def test_the_sun_stands_where_recorded_landsat_scenes_say(shared_data: Path, name: str) -> None:
    item = json.loads((shared_data / "stac" / name).read_text())
    properties, centre = item["properties"], shapely.geometry.shape(item["geometry"]).centroid
    sun = sun_position(datetime.fromisoformat(properties["datetime"]), centre.x, centre.y)
    assert sun.elevation_deg == pytest.approx(properties["view:sun_elevation"], abs=0.3)
    assert sun.azimuth_deg == pytest.approx(properties["view:sun_azimuth"], abs=0.4)


@pytest.mark.parametrize(("day", "declination_deg"), [("06-21", 23.44), ("12-21", -23.44), ("03-20", 0.0)])
def test_at_solar_noon_the_sun_stands_south_at_the_seasons_height(day: str, declination_deg: float) -> None:
    noon = utc_of_solar_time(date.fromisoformat(f"2018-{day}"), 12.0, 84.0)
    sun = sun_position(noon, 84.0, 45.0)
    assert sun.azimuth_deg == pytest.approx(180.0, abs=0.3)
    assert sun.elevation_deg == pytest.approx(45.0 + declination_deg, abs=0.4)


def ray_by_ray(height: NDArray[np.float32], pixel_m: float, sun: Sun) -> NDArray[np.bool_]:
    """Shadow found by walking each ray in tenths of a pixel over the bilinear surface."""
    east, north, up = sun.toward
    rows, cols = height.shape
    out = np.zeros(height.shape, bool)
    for r in range(rows):
        for c in range(cols):
            for k in range(1, 4000):
                y, x = r - north * k * 0.1, c + east * k * 0.1
                if not (0 <= y <= rows - 1 and 0 <= x <= cols - 1):
                    break
                ray = height[r, c] + k * 0.1 * up * pixel_m
                j, i = min(int(y), rows - 2), min(int(x), cols - 2)
                v, u = y - j, x - i
                surface = (height[j, i] * (1 - u) + height[j, i + 1] * u) * (1 - v)
                surface += (height[j + 1, i] * (1 - u) + height[j + 1, i + 1] * u) * v
                if surface > ray:
                    out[r, c] = True
                    break
    return out


@pytest.mark.parametrize("azimuth_deg", [20.0, 110.0, 146.0, 180.0, 225.0, 300.0])
def test_cast_shadow_agrees_with_a_walk_along_every_ray(azimuth_deg: float) -> None:
    height = 55.0 * standard_noise((48, 48), 14.0, 1, 5, 0.25)
    sun = Sun(24.0, azimuth_deg)
    expected = ray_by_ray(height, 10.0, sun)
    # Shade begins where the first of the penumbra falls.
    found = sunlit_share(height, 10.0, sun) < 0.95
    assert 0.1 < expected.mean() < 0.7
    # Along the shadow's edge the two interpolate a 10 m grid in their own ways; hardly elsewhere.
    square = np.ones((3, 3))
    edge = ndimage.binary_dilation(expected, square) & ~ndimage.binary_erosion(
        expected, square, border_value=1
    )
    inner = (slice(2, -2), slice(2, -2))
    wrong = (found != expected)[inner]
    assert wrong.mean() < 0.04
    assert (wrong & ~edge[inner]).mean() < 0.003


def test_in_the_morning_a_peak_throws_its_shadow_to_the_north_west() -> None:
    y, x = np.mgrid[0:161, 0:161]
    peak = np.maximum(0.0, 400.0 - 25.0 * np.hypot(y - 80, x - 80)).astype(np.float32)
    rows, cols = np.nonzero(sunlit_share(peak, 10.0, Sun(25.0, 135.0)) < 0.5)
    assert rows.mean() < 76
    assert cols.mean() < 76
    reach_m = 10.0 * math.hypot(80 - rows.min(), 80 - cols.min())
    assert reach_m == pytest.approx(400.0 / math.tan(math.radians(25.0)), rel=0.06)


def test_a_cloud_throws_its_shadow_away_from_the_sun() -> None:
    sky = clouds((300, 300), 0.1, MORNING, 4)
    shift = 900.0 / math.tan(math.radians(47.0)) / 10.0
    move = (
        round(
            math.cos(math.radians(146.0)) * shift
        ),  # north is up the rows: the sun is south, the shadow north
        round(-math.sin(math.radians(146.0)) * shift),
    )
    moved = np.roll(ndimage.gaussian_filter(sky.opacity, 2.0, mode="wrap"), move, (0, 1))
    assert np.corrcoef(moved.ravel(), sky.shadow.ravel())[0, 1] > 0.99
    assert 0.05 < (sky.opacity > 0.3).mean() < 0.15


# --- spectra and digital numbers ----------------------------------------------------------------


@pytest.mark.parametrize("name", list(SPECTRA))
def test_every_spectrum_has_a_positive_covariance_that_four_axes_hold(name: str) -> None:
    spectrum = SPECTRA[name]
    values = np.linalg.eigvalsh(spectrum.covariance)
    # The table is rounded to 1e-5.
    assert values.min() > -2.5e-5
    axes = spectrum.axes(4)
    assert np.trace(axes @ axes.T) > 0.96 * np.trace(spectrum.covariance)


def test_the_table_is_that_of_the_labelled_pixels(shared_data: Path) -> None:
    classes = {"shadowed_snow": "2", "ice": "3", "rock": "4", "water": "5"}
    with (shared_data / "spectra" / "s2_l2a_labelled_pixels.csv").open() as file:
        rows = [
            r for r in csv.DictReader(file) if (r["site_name"], r["image_date"]) != ("Wolverine", "20210615")
        ]
    columns = [band.replace("B0", "B") for band in BANDS]
    for name, code in classes.items():
        pixels = np.array([[float(r[c] or "nan") for c in columns] for r in rows if r["class"] == code])
        spread = np.sqrt(np.diag(SPECTRA[name].covariance))
        # The robust mean is not the median, but lies within half a standard deviation of it.
        assert np.all(np.abs(np.nanmedian(pixels, axis=0) - SPECTRA[name].mean) < 0.5 * spread + 0.01), name


def test_a_scene_of_one_material_has_its_mean_and_the_colours_of_its_covariance() -> None:
    shape = (96, 160)
    shares = np.zeros((len(MATERIALS), *shape), np.float32)
    shares[MATERIALS.index("rock")] = 1.0
    patterns = np.stack([standard_noise(shape, 6.0, 3, k) for k in range(4)])
    image = blend_spectra(shares, patterns, 1).reshape(len(BANDS), -1)
    assert np.allclose(image.mean(axis=1), SPECTRA["rock"].mean, atol=0.004)
    expected = SPECTRA["rock"].covariance
    found = np.corrcoef(image)
    spread = np.sqrt(np.diag(expected))
    assert np.abs(found - expected / np.outer(spread, spread)).max() < 0.15


def test_debris_looks_like_rock_while_ice_does_not(ground: Ground) -> None:
    place = ground.range
    rock, debris, ice = (place.truth == 0), (place.debris_thickness_m > 0.2), (place.truth == 1)
    shares = ground.mixture(np.zeros(ground.shape, np.float32))
    image = blend_spectra(shares, ground.patterns, 1)
    means = [image[:, where].mean(axis=1) for where in (rock, debris, ice)]
    spread = np.sqrt(np.diag(SPECTRA["rock"].covariance))
    assert np.all(np.abs(means[1] - means[0]) < 0.7 * spread)
    assert np.abs(means[2] - means[0]).max() > 1.5 * spread.max()


@given(
    value=st.floats(0.0, 1.5, allow_nan=False, width=32),
    baseline=st.sampled_from(["02.14", "03.01", "04.00", "05.00"]),
)
def test_digital_numbers_of_both_baselines_give_the_reflectance_back(value: float, baseline: str) -> None:
    offset = OpticalDate("10-15", baseline, 0.0, 0.0).offset
    assert offset == (-0.1 if baseline in ("04.00", "05.00") else 0.0)
    digital = to_digital(np.full((1, 1), value, np.float32), offset)
    assert digital.dtype == np.uint16
    assert digital[0, 0] >= 1
    assert digital[0, 0] * 1e-4 + offset == pytest.approx(value, abs=1.01e-4)


def test_only_no_data_becomes_digital_number_zero() -> None:
    values = np.array([[np.nan, -0.5, 0.0, 9.9]], np.float32)
    assert to_digital(values, 0.0).tolist() == [[0, 1, 1, 65535]]
    assert to_digital(values, -0.1).tolist() == [[0, 1, 1000, 65535]]


def test_both_kinds_of_processing_baseline_are_in_a_season_and_one_date_is_snowy() -> None:
    assert {date.offset for date in OPTICAL_DATES} == {0.0, -0.1}
    assert min(date.snow_line_m for date in OPTICAL_DATES) < -300.0 < 0.0 < OPTICAL_DATES[0].snow_line_m


def test_shadow_is_bluer_than_sunlit_ground() -> None:
    ratio = shade_ratio()
    assert np.all(np.diff(ratio[:8]) < 0.01)
    assert np.all((ratio > 0.0) & (ratio < 1.0))


# --- the ground ---------------------------------------------------------------------------------


def test_shares_of_materials_sum_to_one_under_any_snow(ground: Ground) -> None:
    for line_m in (-2000.0, 0.0, 2000.0):
        shares = ground.mixture(ground.snow(line_m, 1))
        assert shares.min() >= 0.0
        assert np.allclose(shares.sum(axis=0), 1.0, atol=1e-5)


def test_snow_comes_lower_with_its_line_and_lies_longer_on_shaded_faces(ground: Ground) -> None:
    little, much = ground.snow(100.0, 1), ground.snow(-400.0, 1)
    assert much.mean() > 1.4 * little.mean()
    assert np.all(much >= little - 1e-6)
    smooth = ndimage.gaussian_filter(ground.range.elevation_m, 3.0)
    northward = np.gradient(smooth, axis=0) > 0.0  # height grows down the rows: the face looks north
    # Averaged over the same heights on both sides of the ridge.
    band = (ground.range.glacier_id == 0) & (np.abs(smooth - 4900.0) < 150.0)
    middle = ground.snow(-250.0, 1)
    assert middle[band & northward].mean() > middle[band & ~northward].mean() + 0.1


def test_south_of_the_equator_snow_keeps_to_the_faces_to_the_south(ground: Ground) -> None:
    """The noon sun stands in the north there, and warms the faces to the north."""
    southern = replace(ground.range, regime=replace(HIMALAYA, latitude_deg=-44.0))
    other = survey_ground(southern, 2018)
    northward = np.gradient(ndimage.gaussian_filter(ground.range.elevation_m, 15.0), 10.0, axis=0)
    for name in ("snow_bias_m", "snow_held"):
        more = getattr(ground, name) - getattr(other, name)
        assert more[northward > 0.2].mean() > 0.0 > more[northward < -0.2].mean(), name


@given(cell_px=st.floats(3.0, 60.0), key=st.integers(0, 1000))
def test_noise_is_standard_and_the_same_for_the_same_key(cell_px: float, key: int) -> None:
    field = standard_noise((48, 64), cell_px, 3, key)
    assert field.dtype == np.float32
    assert abs(float(field.mean())) < 1e-4
    assert float(field.std()) == pytest.approx(1.0, abs=1e-3)
    assert np.array_equal(field, standard_noise((48, 64), cell_px, 3, key))


def test_a_smooth_step_goes_from_nought_to_one() -> None:
    values = smooth_step(np.array([-1.0, 0.0, 0.5, 1.0, 2.0], np.float32), 0.0, 1.0)
    assert values.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


# --- grids --------------------------------------------------------------------------------------


def test_pixels_lie_where_the_map_projection_puts_them(ground: Ground) -> None:
    place = ground.range
    for window in granules(place):
        found = zone_lattice(place, window)
        y, x = window.coordinates()
        rows, cols = np.array([0, 7, 100, window.height - 1]), np.array([0, 33, 50, window.width - 1])
        east, north = transformer(f"EPSG:{window.epsg}", FRAME).transform(x[cols], y[rows])
        assert np.allclose(found.col[rows, cols], (east - place.west_m) / 10.0 - 0.5, atol=2e-3)
        assert np.allclose(found.row[rows, cols], (place.north_m - north) / 10.0 - 0.5, atol=2e-3)


def test_granules_of_two_zones_overlap_and_begin_at_multiples_of_all_pixel_sizes(ground: Ground) -> None:
    west, east = granules(ground.range)
    assert (west.epsg, east.epsg) == (32644, 32645)
    for window in (west, east):
        assert window.bounds_m[0] % 120 == 0
        assert window.bounds_m[3] % 120 == 0
        assert window.height % 12 == 0
        assert window.width % 12 == 0
    ends = transformer("EPSG:32644", "EPSG:4326").transform(west.bounds_m[2], west.bounds_m[1])
    begins = transformer("EPSG:32645", "EPSG:4326").transform(east.bounds_m[0], east.bounds_m[3])
    assert begins[0] < 84.0 < ends[0]


def test_a_block_mean_is_the_mean_of_its_pixels_and_no_data_where_one_is() -> None:
    field = np.arange(36, dtype=np.float32).reshape(6, 6)
    assert np.allclose(block_mean(field, 3), field.reshape(2, 3, 2, 3).mean(axis=(1, 3)))
    field[0, 0] = np.nan
    assert np.isnan(block_mean(field, 2)[0, 0])
    assert np.isfinite(block_mean(field, 2)[1:]).all()


def test_a_plane_is_sampled_exactly_and_is_no_data_outside(ground: Ground, lattice: Lattice) -> None:
    y, x = np.mgrid[0 : ground.shape[0], 0 : ground.shape[1]].astype(np.float32)
    found = lattice.sample(2.0 * x - y)
    inside = (lattice.row > 0) & (lattice.row < ground.shape[0] - 1)
    inside &= (lattice.col > 0) & (lattice.col < ground.shape[1] - 1)
    assert np.allclose(found[inside], (2.0 * lattice.col - lattice.row)[inside], atol=2e-3)
    assert np.isnan(found[(lattice.row < -0.5) | (lattice.col < -0.5)]).all()


# --- what the sensors see -----------------------------------------------------------------------


def test_both_zones_see_the_same_ground_where_they_overlap(ground: Ground) -> None:
    scene = observe(ground, OPTICAL_DATES[1])
    windows = granules(ground.range)
    images = [band_on(scene, zone_lattice(ground.range, window), "B03") for window in windows]
    y, x = windows[0].coordinates()
    rows, cols = np.mgrid[100:180:10, windows[0].width - 60 : windows[0].width - 20 : 8]
    to_other = transformer("EPSG:32644", "EPSG:32645").transform(x[cols], y[rows])
    j = -to_other[1] / 10.0 - 0.5 - windows[1].row
    i = to_other[0] / 10.0 - 0.5 - windows[1].col
    there = ndimage.map_coordinates(images[1], [j, i], order=1)
    assert np.corrcoef(images[0][rows, cols].ravel(), there.ravel())[0, 1] > 0.95


def test_scene_classification_knows_snow_water_cloud_and_what_is_outside(
    ground: Ground, lattice: Lattice
) -> None:
    scene = observe(ground, OPTICAL_DATES[2])
    bands = {b: band_on(scene, lattice, b) for b in ("B03", "B04", "B8A", "B11")}
    bands |= {b: block_mean(bands[b], 2) for b in ("B03", "B04")}
    code = classify(scene, lattice, bands)
    assert set(np.unique(code)) <= {0, 2, 3, 4, 5, 6, 8, 9, 10, 11}
    assert np.array_equal(code == 0, ~np.isfinite(bands["B03"]))
    cloud = block_mean(lattice.sample(scene.cloud), 2)
    assert np.all(code[cloud > 0.55] == 9)
    clear = (cloud < 0.05) & (block_mean(lattice.sample(scene.cloud_shadow), 2) < 0.05)
    white = clear & (block_mean(lattice.sample(ground.snow(-420.0, 1)), 2) > 0.95)
    assert np.mean(np.isin(code[white], (11, 2))) > 0.95


def test_the_same_seed_gives_the_same_scene_to_the_bit(ground: Ground) -> None:
    again = survey_ground(made_up_range(), 2018)
    first, second = (observe(each, OPTICAL_DATES[0]).reflectance for each in (ground, again))
    assert np.array_equal(first, second)
    other = observe(survey_ground(made_up_range(), 2019), OPTICAL_DATES[0]).reflectance
    assert not np.array_equal(first, other)


def test_debris_warms_with_its_thickness_and_ice_never_thaws(ground: Ground) -> None:
    none = np.zeros(ground.shape, np.float32)
    kelvin = surface_temperature(ground, none, np.ones(ground.shape, np.float32))
    place = ground.range
    bare = (place.glacier_id > 0) & (place.debris_thickness_m == 0.0)
    assert kelvin[bare].max() <= FREEZING_K + 0.01
    column = np.arange(int(0.27 * 240), int(0.48 * 240))
    profile = kelvin[column, 180]
    # Up the tongue the debris thins, and with it the warmth.
    assert profile[0] - profile[-1] > 5.0
    thick, thin = (
        kelvin[place.debris_thickness_m > 0.3],
        kelvin[(place.debris_thickness_m > 0) & (place.debris_thickness_m < 0.05)],
    )
    assert thick.mean() > thin.mean() + 5.0


def test_landsat_digital_numbers_give_temperature_back_and_clouds_are_flagged(
    ground: Ground, lattice: Lattice
) -> None:
    scene = observe_thermal(ground, THERMAL_DATES[0])
    digital, quality = thermal_on(scene, lattice)
    expected = block_mean(lattice.sample(scene.temperature_k), 3)
    valid = np.isfinite(expected)
    assert np.array_equal(quality == QA_FILL, ~valid)
    assert np.all(digital[~valid] == 0)
    assert np.allclose(digital[valid] * SCALE_K + OFFSET_K, expected[valid], atol=SCALE_K)
    cloudy = block_mean(lattice.sample(scene.cloud), 3) > 0.35
    assert cloudy.any()
    assert np.all(quality[cloudy] == QA_CLOUD)


def multilook(first: NDArray[np.complex64], second: NDArray[np.complex64]) -> complex:
    """Complex coherence of two sets of pixels."""
    product = np.vdot(second, first)
    return complex(product / np.sqrt(np.vdot(first, first).real * np.vdot(second, second).real))


def test_coherence_and_phase_of_the_pair_are_those_of_the_model() -> None:
    shape = (200, 200)
    flat = np.ones(shape, np.float32)
    rows, cols = np.mgrid[0.0:200.0, 0.0:200.0].astype(np.float32)
    for coherence, phase in ((0.8, 1.1), (0.4, -2.0), (0.05, 0.3)):
        pair = RadarPair(0.1 * flat, coherence * flat, phase * flat)
        first, second = pair_on(pair, Lattice(rows, cols), 9)
        found = multilook(first.ravel(), second.ravel())
        assert abs(found) == pytest.approx(coherence, abs=0.02)
        if coherence > 0.1:
            assert np.angle(found) == pytest.approx(phase, abs=0.03)
        # Circular Gaussian speckle: the power of single pixels is exponential.
        power = np.abs(first.ravel()) ** 2
        assert power.mean() == pytest.approx(0.1, rel=0.03)
        assert power.std() / power.mean() == pytest.approx(1.0, abs=0.03)


def test_still_rock_stays_coherent_and_moving_ice_does_not(ground: Ground, lattice: Lattice) -> None:
    pair = observe_radar(ground, snow_line_m=3000.0)
    first, second = pair_on(pair, lattice, 5)
    number = lattice.nearest(ground.range.truth, 255)
    model, phase = lattice.sample(pair.coherence, 0.0), lattice.sample(pair.phase_rad, 0.0)
    flattened = second * np.exp(1j * phase)
    found = {}
    for name, code in (("rock", 0), ("ice", 1), ("debris", 2), ("water", 3)):
        where = (number == code) & (model > 0.0)
        power = lattice.sample(pair.power, 0.0)[where]
        found[name] = abs(multilook(first[where], flattened[where]))
        expected = float((model[where] * power).sum() / power.sum())
        assert found[name] == pytest.approx(expected, abs=0.05), name
    assert 0.6 < found["rock"] <= COHERENCE["rock"]
    assert found["ice"] < 0.25
    assert found["debris"] < 0.3
    assert found["water"] < 0.2


def test_the_elevation_tile_lies_on_whole_arc_seconds_and_keeps_the_heights(ground: Ground) -> None:
    tile = elevation_tile(ground.range)
    assert tile.data.dtype == np.float32
    centre = (tile.west * 3600.0 + 0.5, tile.north * 3600.0 - 0.5)
    assert centre == pytest.approx((round(centre[0]), round(centre[1])), abs=1e-6)
    lattice = locate(ground.range, "EPSG:4326", (tile.west, tile.north), tile.step, tile.data.shape)
    exact = lattice.sample(ground.range.elevation_m)
    inside = np.isfinite(exact)
    error = tile.data[inside] - exact[inside]
    assert abs(float(error.mean())) < 1.0
    assert float(error.std()) < 6.0
    assert np.isfinite(tile.data).all()


@pytest.mark.parametrize("epsg", [32644, 32645])
def test_velocity_follows_the_axes_of_its_map_grid(ground: Ground, epsg: int) -> None:
    place = ground.range
    x, y = place.west_m + 1800.0, place.north_m - 1200.0
    to_grid = transformer(FRAME, f"EPSG:{epsg}")
    (x0, y0), (x1, y1) = to_grid.transform(x, y), to_grid.transform(x, y + 100.0)
    mosaic = velocity_mosaic([place], epsg)
    # The ice of this range flows due north in its own frame at 12 m/yr.
    fast = np.nan_to_num(mosaic.v.values) > 9.0
    assert fast.sum() > 10
    direction = math.atan2(float(mosaic.vx.values[fast].mean()), float(mosaic.vy.values[fast].mean()))
    assert direction == pytest.approx(math.atan2(x1 - x0, y1 - y0), abs=0.08)
    assert abs(grid_north_deg(place, epsg)) == pytest.approx(3.0 * math.sin(math.radians(28.3)), abs=0.05)
    still = np.nan_to_num(mosaic.v.values, nan=99.0) < 5.0
    assert 0.5 < float(mosaic.vx.values[still].std()) < 2.5


def test_a_scene_is_taken_at_half_past_ten_solar_time(ground: Ground) -> None:
    scene = observe(ground, OPTICAL_DATES[1])
    noon = utc_of_solar_time(date(2018, 10, 15), 12.0, ground.centre_deg()[0])
    assert (noon - scene.when).total_seconds() == pytest.approx(90 * 60, abs=5)
    assert scene.when.tzinfo is UTC
    assert 130.0 < scene.sun.azimuth_deg < 160.0
