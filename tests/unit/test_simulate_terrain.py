"""The simulated range holds together as a glaciologist expects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pyproj import Transformer
from rasterio.features import rasterize
from scipy import ndimage
from skimage.measure import label as pieces
from skimage.morphology import reconstruction

from cryoscale.errors import InputError
from cryoscale.simulate import glaciers, lakes, landscape, noise, surface
from cryoscale.simulate.regime import HIMALAYA
from cryoscale.simulate.terrain import SIZES, MountainRange, make_range, outlines

ARRAYS = (
    "elevation_m",
    "bed_m",
    "ice_thickness_m",
    "velocity_east_m_yr",
    "velocity_north_m_yr",
    "debris_thickness_m",
    "glacier_id",
    "water",
    "vegetation_fraction",
    "truth",
)


@pytest.fixture(scope="module")
def tiny() -> MountainRange:
    return make_range(6, "tiny")


@pytest.fixture(scope="module")
def small() -> MountainRange:
    return make_range(3, "small")


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others(tiny: MountainRange) -> None:
    again, other = make_range(6, "tiny"), make_range(7, "tiny")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(tiny, name), getattr(again, name), err_msg=name)
    assert not np.array_equal(tiny.elevation_m, other.elevation_m)


def test_arrays_have_the_promised_shapes_and_types(tiny: MountainRange) -> None:
    types = {"glacier_id": np.int32, "water": np.bool_, "truth": np.uint8}
    for name in ARRAYS:
        array = getattr(tiny, name)
        assert array.shape == SIZES["tiny"] == tiny.shape
        assert array.dtype == types.get(name, np.float32), name
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_even_a_tiny_range_has_every_class(seed: int) -> None:
    counts = np.bincount(make_range(seed, "tiny").truth.ravel(), minlength=5)
    assert counts.size == 5
    assert counts.min() > 0


def test_a_small_range_has_himalayan_shares_and_heights(small: MountainRange) -> None:
    ice = small.glacier_id > 0
    assert 0.20 <= ice.mean() <= 0.40
    assert 0.20 <= (small.truth == 2).sum() / ice.sum() <= 0.35
    assert np.bincount(small.truth.ravel(), minlength=5).min() > 500
    assert 3500 < small.elevation_m.min() < 4300
    assert 6400 < small.elevation_m.max() < 7500
    assert 5300 <= small.ela_m <= 5600
    assert 3900 <= small.treeline_m <= 4250


def test_ice_lies_on_the_boundary_of_the_utm_zones(small: MountainRange) -> None:
    west, _, east, _ = small.bounds_deg
    assert west < 84.0 < east
    x, _ = Transformer.from_crs("EPSG:4326", small.crs, always_xy=True).transform(84.0, 28.3)
    column = round((x - small.west_m) / 10.0)
    assert 0.3 < column / small.shape[1] < 0.7
    crossing = small.glacier_id[:, column - 1 : column + 1]
    assert ((crossing[:, 0] > 0) & (crossing[:, 0] == crossing[:, 1])).sum() > 100


def test_surface_is_bed_plus_ice_and_lakes_are_flat(small: MountainRange) -> None:
    ice = small.glacier_id > 0
    np.testing.assert_array_equal(ice, small.ice_thickness_m > 0.0)
    dry = ~small.water
    np.testing.assert_allclose(
        small.elevation_m[dry], (small.bed_m + small.ice_thickness_m)[dry], rtol=0, atol=2e-3
    )
    assert (small.elevation_m >= small.bed_m - 2e-3).all()
    label = pieces(small.water, connectivity=1)
    for number in range(1, label.max() + 1):
        assert np.ptp(small.elevation_m[label == number]) < 1e-3


def test_truth_follows_from_the_fields(small: MountainRange) -> None:
    ice = (small.glacier_id > 0) & ~small.water
    np.testing.assert_array_equal(small.truth == 3, small.water)
    np.testing.assert_array_equal((small.truth == 1) | (small.truth == 2), ice)
    np.testing.assert_array_equal(small.truth == 2, ice & (small.debris_thickness_m > 0.02))
    bare = ~ice & ~small.water
    np.testing.assert_array_equal(small.truth[bare] == 4, small.vegetation_fraction[bare] > 0.5)
    assert not small.vegetation_fraction[~bare].any()
    assert np.percentile(small.elevation_m[small.truth == 4], 99) < small.treeline_m + 150


def test_every_glacier_is_one_piece_of_at_least_a_hundredth_km2(small: MountainRange) -> None:
    together = pieces(small.glacier_id, connectivity=1, background=0)
    numbers = np.unique(small.glacier_id)
    assert together.max() == numbers.size - 1
    assert np.bincount(small.glacier_id.ravel())[1:].min() >= 100
    np.testing.assert_array_equal(numbers, np.arange(numbers.size))


def test_ice_flows_down_its_surface_at_himalayan_speeds(small: MountainRange) -> None:
    ice = small.glacier_id > 0
    east, north = small.velocity_east_m_yr, small.velocity_north_m_yr
    speed = np.hypot(east, north)
    assert not speed[~ice].any()
    assert speed.max() < 200
    assert 5 < np.median(speed[small.ice_thickness_m > 40]) < 120
    row, col = np.gradient(ndimage.gaussian_filter(small.elevation_m, 8.0), 10.0)
    descent = -(east * col - north * row)
    inside = ndimage.binary_erosion(ice, iterations=8) & (speed > 5)
    assert (descent[inside] > 0).mean() > 0.9


def test_debris_thickens_towards_the_terminus_and_only_lies_on_ice(small: MountainRange) -> None:
    assert not small.debris_thickness_m[small.glacier_id == 0].any()
    sizes = np.bincount(small.glacier_id.ravel())
    sizes[0] = 0
    thicker = []
    for number in np.argsort(sizes)[-8:]:
        mine = small.glacier_id == number
        height = small.elevation_m[mine]
        debris = small.debris_thickness_m[mine]
        low, middle = np.percentile(height, [10, 50])
        thicker.append(
            debris[height < low].mean() > 3 * debris[(height > low) & (height < middle)].mean() / 2
        )
    assert np.mean(thicker) > 0.7
    assert small.debris_thickness_m[small.elevation_m > small.ela_m + 150].max() < 0.02


def test_a_higher_equilibrium_line_shrinks_the_glaciers_of_the_same_range(tiny: MountainRange) -> None:
    later = make_range(6, "tiny", ela_shift_m=80.0)
    assert (later.west_m, later.north_m, later.treeline_m) == (tiny.west_m, tiny.north_m, tiny.treeline_m)
    assert later.ela_m == pytest.approx(tiny.ela_m + 80.0)
    before, after = tiny.glacier_id > 0, later.glacier_id > 0
    assert after.sum() < 0.95 * before.sum()
    assert (after & ~before).sum() < 0.02 * before.sum()


def test_south_of_the_equator_ice_and_plants_keep_to_the_faces_to_the_south() -> None:
    """The noon sun stands in the north there, and warms the faces to the north."""
    y, x = np.mgrid[0:160, 0:160].astype(np.float32)
    height = (5000.0 - 5.0 * np.abs(y - 80.0) + np.sin(x)).astype(np.float32)
    none = np.zeros(height.shape, bool)
    bare = lakes.Ground(height, height, none, np.zeros_like(height), none)
    regimes = (HIMALAYA, replace(HIMALAYA, latitude_deg=-44.0))
    plants = [surface.vegetation(bare, 4900.0, 1, regime) for regime in regimes]
    climates = [glaciers.Climate(5000.0, shady_side=regime.shady_side) for regime in regimes]
    line = [glaciers.local_ela_shift(height, 10.0, climate, 1) for climate in climates]
    northern, southern = (y > 5) & (y < 60), (y > 100) & (y < 155)
    for here, there in (plants, line[::-1]):
        assert (here - there)[northern].mean() > 0.0 > (here - there)[southern].mean()


def test_outlines_cover_the_ice_and_keep_nunataks(small: MountainRange) -> None:
    frame = outlines(small)
    assert frame.crs.to_epsg() == 4326
    assert frame.glacier_id.tolist() == list(range(1, small.glacier_id.max() + 1))
    assert set(frame.geom_type) == {"Polygon"}
    assert frame.is_valid.all()
    assert sum(len(g.interiors) for g in frame.geometry) > 0
    local = frame.to_crs(small.crs)
    drawn = rasterize(
        zip(local.geometry, local.glacier_id, strict=True),
        out_shape=small.shape,
        transform=small.affine,
        dtype="int32",
    )
    np.testing.assert_array_equal(drawn, small.glacier_id)
    # The frame's scale on its central meridian is 0.9996, so true areas are larger by 0.08 %.
    np.testing.assert_allclose(frame.area_km2, local.area / 1e6 / 0.9996**2, rtol=1e-4)
    assert frame.debris_area_km2.sum() == pytest.approx((small.truth == 2).sum() / 1e4, rel=2e-3)


@pytest.mark.parametrize(("seed", "size"), [(1, "huge"), (-1, "tiny")])
def test_bad_input_is_refused_in_one_line(seed: int, size: str) -> None:
    with pytest.raises(InputError) as caught:
        make_range(seed, size)
    assert "\n" not in str(caught.value)


def test_flooding_fills_hollows_as_morphological_reconstruction_does() -> None:
    z = np.random.default_rng(5).uniform(0, 100, (40, 50)).astype(np.float32)
    sea = np.zeros(z.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    filled, receiver, order = landscape.flood_order(z, sea)
    seed = np.where(sea, z, z.max())
    expected = reconstruction(seed, z, method="erosion", footprint=np.ones((3, 3)))
    # The flood rises by a hundredth of a metre a cell so that water runs on.
    assert (filled >= expected - 1e-4).all()
    assert (filled - expected).max() < 0.01 * 50
    area = landscape.drained_area(receiver, order, 1.0)
    assert area.reshape(z.shape)[sea].sum() == z.size


def test_flowing_ice_neither_appears_nor_vanishes_without_a_climate() -> None:
    y, x = np.mgrid[-30:31, -30:31].astype(np.float32)
    radius = np.hypot(x, y)
    for bed in (np.zeros_like(x), (400.0 + 20.0 * y).astype(np.float32)):
        thick = np.maximum(0.0, 150.0 * (1.0 - (radius / 9.0) ** 2)).astype(np.float32)
        before = float(thick.sum())
        level, still = np.full_like(bed, 5000.0), np.zeros_like(bed)
        glaciers._flow(bed, thick, (level, still, (0.0, 0.0, 0.0)), 80.0, 20.0)
        assert float(thick.sum()) == pytest.approx(before, rel=0.03)
        assert thick.max() < 150.0
    # On the tilted bed (rows run downhill towards row 0) the ice has moved down.
    assert (thick * y).sum() / thick.sum() < -0.5


def test_two_tongues_of_one_ice_cap_are_two_glaciers_and_a_tributary_is_none() -> None:
    x = np.linspace(-1.0, 1.0, 81, dtype=np.float32)[None, :].repeat(31, axis=0)
    ice = np.ones(x.shape, bool)
    divided = glaciers.divide(5000.0 - 600.0 * np.abs(x), ice)
    assert np.unique(divided).size == 2
    assert divided[15, 10] != divided[15, 70]
    slope = (5600.0 - 600.0 * x + 40.0 * np.abs(np.linspace(-1, 1, 31))[:, None]).astype(np.float32)
    assert np.unique(glaciers.divide(slope, ice)).size == 1


def test_refining_keeps_a_plane_a_plane() -> None:
    y, x = np.mgrid[0:20, 0:24].astype(np.float32)
    fine = noise.refine((3.0 * y - 2.0 * x).astype(np.float32), 4)
    v, u = (np.mgrid[0:80, 0:96] + 0.5) / 4.0 - 0.5
    inner = slice(8, -8)
    np.testing.assert_allclose(fine[inner, inner], (3.0 * v - 2.0 * u)[inner, inner], atol=1e-4)
