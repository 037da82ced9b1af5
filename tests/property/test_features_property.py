"""What holds of the channels for any data: ranges, invariances, and the part equal to the whole."""

from __future__ import annotations

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cryoscale.features.insar import coherence_phase
from cryoscale.features.pca import Moments
from cryoscale.features.spectral import normalized_difference
from cryoscale.features.stack import BANDS, HALO_PX, PcaBasis, build_stack
from cryoscale.features.terrain import slope_aspect
from cryoscale.features.texture import glcm_dissimilarity

RNG = np.random.default_rng(0)
BASIS = PcaBasis(RNG.random(12), RNG.normal(size=(3, 12)))

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))
seeds = st.integers(0, 2**32 - 1)


def rasters(low, high, shape=shapes):
    """float32 rasters (y, x) with values in [low, high] and some NaN."""
    return npst.arrays(
        np.float32, shape, elements=st.floats(low, high, width=32) | st.just(np.float32(np.nan))
    )


def random_inputs(seed, height, width, holes):
    """Every input of the stack, with no coordinates, its values drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    shape = height, width
    planes = {name: rng.uniform(-0.1, 1.3, shape).astype(np.float32) for name in BANDS}
    planes |= {
        name: rng.normal(300, 20, shape).astype(np.float32) for name in ("LST", "elevation", "velocity")
    }
    for name in ("slc1", "slc2"):
        planes[name] = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    for plane in planes.values():
        plane[rng.random(shape) < holes] = np.nan
    return xr.Dataset({name: (("y", "x"), plane) for name, plane in planes.items()})


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=seeds, holes=st.sampled_from([0.0, 0.02, 0.3, 0.9]))
def test_the_stack_of_any_part_equals_the_part_of_the_stack_bit_for_bit(data, seed, holes):
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    dataset = random_inputs(seed, height, width, holes)
    whole = build_stack(dataset, pca=BASIS).values
    # The part is read with its halo as far as there are data, as a block at the rim of a region is.
    y0, x0 = max(0, top - HALO_PX), max(0, left - HALO_PX)
    read = dataset.isel(y=slice(y0, min(height, bottom + HALO_PX)), x=slice(x0, min(width, right + HALO_PX)))
    part = build_stack(read, pca=BASIS).values[:, top - y0 : bottom - y0, left - x0 : right - x0]
    expected = whole[:, top:bottom, left:right]
    # As integers, so that signs of zeros and of NaN count too.
    np.testing.assert_array_equal(part.view(np.uint32), expected.view(np.uint32))


@settings(max_examples=15, deadline=None)
@given(seed=seeds, shape=st.tuples(st.integers(2, 18), st.integers(2, 18)), chunks=shapes)
def test_the_lazy_stack_equals_the_eager_one_for_any_chunks(seed, shape, chunks):
    dataset = random_inputs(seed, *shape, 0.1)
    lazy = build_stack(dataset.chunk({"y": chunks[0], "x": chunks[1]}), pca=BASIS)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), build_stack(dataset, pca=BASIS))


@settings(deadline=None)
@given(data=st.data(), shape=shapes)
def test_normalised_differences_lie_between_minus_one_and_one_and_swap_sign_with_the_bands(data, shape):
    a, b = data.draw(rasters(-1, 16, st.just(shape))), data.draw(rasters(-1, 16, st.just(shape)))
    ratio = normalized_difference(a, b)
    np.testing.assert_array_equal(np.isnan(ratio), np.isnan(a) | np.isnan(b))
    assert (np.abs(ratio[np.isfinite(ratio)]) <= 1).all()
    np.testing.assert_array_equal(normalized_difference(b, a), -ratio)


@settings(deadline=None)
@given(rasters(-500, 9000))
def test_slope_lies_in_0_to_90_and_aspect_in_0_to_360(z):
    slope, aspect = slope_aspect(z)
    np.testing.assert_array_equal(np.isnan(slope), np.isnan(aspect))
    assert ((slope >= 0) & (slope < 90) | np.isnan(slope)).all()
    assert ((aspect >= 0) & (aspect < 360) | np.isnan(aspect)).all()


@settings(deadline=None)
@given(rasters(-500, 9000))
def test_turning_the_ground_by_a_quarter_turns_the_aspect_by_90_degrees_and_keeps_the_slope(z):
    slope, aspect = slope_aspect(z)
    turned_slope, turned_aspect = slope_aspect(np.ascontiguousarray(np.rot90(z, -1)))  # clockwise
    np.testing.assert_allclose(np.rot90(turned_slope, 1), slope, atol=1e-4)
    difference = np.rot90(turned_aspect, 1) - aspect - 90
    sloping = slope > 0
    assert (np.abs((difference[sloping] + 180) % 360 - 180) < 1e-3).all()


@settings(deadline=None)
@given(slope_deg=st.floats(0.5, 80), azimuth_deg=st.floats(0, 359.99), turn_deg=st.floats(0, 360))
def test_a_plane_turned_by_any_angle_turns_its_aspect_by_that_angle(slope_deg, azimuth_deg, turn_deg):
    def aspect_of(azimuth):
        fall = np.tan(np.radians(slope_deg))
        y, x = np.mgrid[:3, :3] * 10.0
        z = -fall * (np.sin(np.radians(azimuth)) * x - np.cos(np.radians(azimuth)) * y)
        return slope_aspect(z.astype(np.float32))[1][1, 1]

    turned = aspect_of(azimuth_deg + turn_deg) - aspect_of(azimuth_deg) - turn_deg
    assert abs((turned + 180) % 360 - 180) < 1e-2


@settings(deadline=None)
@given(value=st.floats(-0.5, 2, width=32), shape=shapes)
def test_a_constant_image_has_no_dissimilarity(value, shape):
    result = glcm_dissimilarity(np.full(shape, value, np.float32))
    assert (result == 0).all() or shape == (1, 1)


@settings(deadline=None)
@given(rasters(-0.5, 1.5))
def test_dissimilarity_lies_within_the_levels_and_ignores_mirrors_and_quarter_turns(band):
    result = glcm_dissimilarity(band)
    assert ((result >= 0) & (result <= 31) | np.isnan(result)).all()
    assert np.isnan(result[np.isnan(band)]).all()
    for turn in (np.fliplr, np.flipud, np.rot90):
        turned = glcm_dissimilarity(np.ascontiguousarray(turn(band)))
        np.testing.assert_allclose(turned, turn(result), rtol=1e-6)


@settings(deadline=None)
@given(seed=seeds, shape=shapes, holes=st.sampled_from([0.0, 0.2]), gain=st.floats(-12, 12))
def test_coherence_lies_in_0_to_1_phase_in_minus_pi_to_pi_and_gain_does_not_matter(seed, shape, holes, gain):
    rng = np.random.default_rng(seed)
    s1, s2 = (rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))).astype(np.complex64)
    s1[rng.random(shape) < holes] = np.nan
    coherence, phase = coherence_phase(s1, s2)
    seen = np.isfinite(s1)
    np.testing.assert_array_equal(np.isfinite(coherence), seen)
    assert ((coherence[seen] >= 0) & (coherence[seen] <= 1)).all()
    assert ((phase[seen].astype(float) > -np.pi) & (phase[seen].astype(float) <= np.pi)).all()
    louder, same_phase = coherence_phase(s1, (s2 * np.float32(10.0**gain)).astype(np.complex64))
    np.testing.assert_allclose(louder, coherence, atol=1e-5)
    # Where the sum all but cancels, its direction is that of rounding.
    clear = seen & (coherence > 1e-2)
    assert (np.abs(np.angle(np.exp(1j * (same_phase - phase)[clear]))) < 1e-3).all()


@settings(deadline=None)
@given(seed=seeds, shape=shapes)
def test_swapping_the_images_keeps_coherence_and_turns_the_phase_round(seed, shape):
    rng = np.random.default_rng(seed)
    s1, s2 = (rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))).astype(np.complex64)
    coherence, phase = coherence_phase(s1, s2)
    swapped, turned = coherence_phase(s2, s1)
    np.testing.assert_array_equal(swapped, coherence)
    np.testing.assert_array_equal(turned, -phase)


@settings(deadline=None)
@given(seed=seeds, cuts=st.lists(st.integers(0, 200), max_size=6))
def test_moments_do_not_depend_on_how_the_pixels_are_cut(seed, cuts):
    pixels = np.random.default_rng(seed).normal(0.3, 0.1, (200, 12))
    whole, merged = Moments.of(pixels), Moments.of(pixels[:0])
    for piece in np.split(pixels, sorted(cuts)):
        merged = merged.merge(Moments.of(piece))
    assert merged.n_px == whole.n_px
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-12)
