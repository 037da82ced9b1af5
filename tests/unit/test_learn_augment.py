"""Changing a patch and then deriving its terrain must equal deriving and then changing."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from cryoscale.features.insar import coherence_phase
from cryoscale.features.terrain import slope_aspect
from cryoscale.features.texture import glcm_dissimilarity
from cryoscale.learn.augment import DROPPABLE, AugmentConfig, Variant, augment, drop_modalities, turn

CHANNELS = ("B02", "LST", "elevation", "slope", "aspect", "velocity", "coherence", "phase")
SIZE = 32


def stack_of(elevation):
    slope, aspect = slope_aspect(elevation)
    rng = np.random.default_rng(5)
    other = {name: rng.random(elevation.shape, np.float32) for name in CHANNELS}
    other |= {"elevation": elevation, "slope": slope, "aspect": aspect}
    return np.stack([other[name] for name in CHANNELS]).astype(np.float32)


def rough_ground(seed=0):
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    rng = np.random.default_rng(seed)
    hills = 300 * np.sin(x / 5) + 200 * np.cos(y / 7 + x / 11) + 10 * rng.random((SIZE, SIZE))
    hills[:, 20:26] = 1000.0  # a lake: flat ground, whose aspect is 0 by definition
    return hills.astype(np.float32)


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_turning_the_ground_and_deriving_aspect_equals_turning_the_stack(quarters, mirror):
    ground = rough_ground()
    labels = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE)
    turned, turned_labels = turn(stack_of(ground), labels, CHANNELS, quarters=quarters, mirror=mirror)
    turned_ground = np.rot90(ground[:, ::-1] if mirror else ground, quarters)
    slope, aspect = slope_aspect(np.ascontiguousarray(turned_ground))
    inside = (slice(1, -1), slice(1, -1))  # a 3 x 3 window has no full neighbourhood on the rim
    np.testing.assert_array_equal(turned[2], turned_ground)
    np.testing.assert_allclose(turned[3][inside], slope[inside], atol=1e-3)
    difference = (turned[4][inside] - aspect[inside] + 180) % 360 - 180
    assert np.abs(difference).max() < 0.01
    assert (turned[4][np.isfinite(turned[4])] >= 0).all()
    assert (turned[4][np.isfinite(turned[4])] < 360).all()
    flat = slope == 0
    assert flat[inside].sum() > 50
    assert (turned[4][flat] == 0).all()
    expected = np.rot90(labels[:, ::-1] if mirror else labels, quarters)
    np.testing.assert_array_equal(turned_labels, expected)


def test_a_slope_to_the_north_faces_west_after_a_quarter_turn_counter_clockwise():
    north = np.repeat(np.arange(SIZE, dtype=np.float32)[:, np.newaxis] * 5, SIZE, axis=1)  # rises southwards
    stack = stack_of(north)
    assert np.allclose(stack[4, 4, 4], 0)
    turned, _ = turn(stack, np.zeros((SIZE, SIZE), np.uint8), CHANNELS, quarters=1, mirror=False)
    assert turned[4, 4, 4] == pytest.approx(270)


def test_dropping_modalities_empties_their_channels_alone_and_leaves_the_original():
    stack = stack_of(rough_ground())
    for modality, names in DROPPABLE.items():
        dropped = drop_modalities(stack, CHANNELS, [modality])
        for i, name in enumerate(CHANNELS):
            if name in names:
                assert np.isnan(dropped[i]).all()
                assert np.isfinite(stack[i]).any()
            else:
                np.testing.assert_array_equal(dropped[i], stack[i])
    assert np.isnan(drop_modalities(np.stack([stack, stack]), CHANNELS, ["thermal"])[:, 1]).all()


def test_dropout_comes_as_often_as_it_is_told():
    config = AugmentConfig(flips=False, drop={"thermal": 0.3}, drop_together=0.2)
    stack, labels = stack_of(rough_ground()), np.zeros((SIZE, SIZE), np.uint8)
    rng = np.random.default_rng(1)
    absent = np.zeros(len(CHANNELS))
    for _ in range(2000):
        x, _ = augment(stack, labels, CHANNELS, config, rng)
        absent += np.isnan(x[:, 5, 5])
    share = dict(zip(CHANNELS, absent / 2000, strict=True))
    assert share["LST"] == pytest.approx(0.3 + 0.7 * 0.2, abs=0.04)
    for name in ("velocity", "coherence", "phase"):
        assert share[name] == pytest.approx(0.2, abs=0.03)
    assert share["B02"] == share["elevation"] == 0


def test_nothing_is_dropped_by_a_recipe_that_drops_nothing():
    config = AugmentConfig(flips=False, drop={})
    rng = np.random.default_rng(1)
    assert {Variant.draw(config, rng).dropped for _ in range(200)} == {()}


def test_raising_the_ground_changes_no_slope():
    config = AugmentConfig(flips=False, drop={}, drop_together=0, elevation_jitter_m=500)
    stack, labels = stack_of(rough_ground()), np.zeros((SIZE, SIZE), np.uint8)
    x, _ = augment(stack, labels, CHANNELS, config, np.random.default_rng(0))
    offset = x[2] - stack[2]
    assert offset.std() < 1e-3
    assert abs(offset.mean()) > 1
    np.testing.assert_array_equal(np.delete(x, 2, axis=0), np.delete(stack, 2, axis=0))


def test_the_same_generator_gives_the_same_variant():
    stack, labels = stack_of(rough_ground()), np.zeros((SIZE, SIZE), np.uint8)
    first, second = (
        augment(stack, labels, CHANNELS, AugmentConfig(), np.random.default_rng(9))[0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_unknown_modalities_and_impossible_probabilities_are_refused():
    with pytest.raises(ValidationError, match="sonar"):
        AugmentConfig(drop={"sonar": 0.1})
    with pytest.raises(ValidationError):
        AugmentConfig(drop={"thermal": 1.5})
    with pytest.raises(ValidationError):
        AugmentConfig(rotate=True)


ALL_TURNS = [(quarters, mirror) for quarters in range(4) for mirror in (False, True)]


@pytest.mark.parametrize(("quarters", "mirror"), ALL_TURNS)
def test_texture_of_the_turned_image_is_the_turned_texture(quarters, mirror):
    """The mean over four offsets, 45 and 135 degrees among them, has no direction."""
    rng = np.random.default_rng(2)
    band = np.cumsum(rng.normal(0, 0.05, (SIZE, SIZE)), axis=1).astype(np.float32) % 1  # streaked east-west
    names = ("B08", "GLCM_dissimilarity")
    stack = np.stack([band, glcm_dissimilarity(band)])
    turned, _ = turn(stack, np.zeros((SIZE, SIZE), np.uint8), names, quarters=quarters, mirror=mirror)
    again = glcm_dissimilarity(np.ascontiguousarray(turned[0]))
    inside = np.isfinite(again) & np.isfinite(turned[1])
    assert inside.sum() > 0.5 * SIZE * SIZE
    np.testing.assert_allclose(turned[1][inside], again[inside], atol=1e-4)
    assert np.ptp(again[inside]) > 1


@pytest.mark.parametrize(("quarters", "mirror"), ALL_TURNS)
def test_phase_and_coherence_of_turned_radar_images_are_the_turned_ones(quarters, mirror):
    """Both are numbers of a pixel along the line of sight, not angles on the ground."""
    rng = np.random.default_rng(3)
    s1, noise = (
        (rng.normal(size=(SIZE, SIZE)) + 1j * rng.normal(size=(SIZE, SIZE))).astype(np.complex64)
        for _ in range(2)
    )
    ramp = np.exp(1j * np.mgrid[:SIZE, :SIZE][1] / 3).astype(np.complex64)
    s2 = (s1 * ramp + 0.3 * noise).astype(np.complex64)
    names = ("coherence", "phase")
    stack = np.stack(coherence_phase(s1, s2))
    turned, _ = turn(stack, np.zeros((SIZE, SIZE), np.uint8), names, quarters=quarters, mirror=mirror)
    images = [np.ascontiguousarray(np.rot90(s[:, ::-1] if mirror else s, quarters)) for s in (s1, s2)]
    coherence, phase = coherence_phase(*images)
    inside = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(turned[0][inside], coherence[inside], atol=1e-4)
    difference = np.angle(np.exp(1j * (turned[1][inside] - phase[inside])))
    np.testing.assert_allclose(difference, 0, atol=1e-3)


def test_turning_four_times_and_mirroring_twice_gives_back_every_channel():
    stack, labels = stack_of(rough_ground()), np.arange(SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint8)
    stack[CHANNELS.index("velocity")][3:7] = np.nan
    for quarters, mirror, times in ((1, False, 4), (0, True, 2), (3, True, 2)):
        x, y = stack, labels
        for _ in range(times):
            x, y = turn(x, y, CHANNELS, quarters=quarters, mirror=mirror)
        np.testing.assert_allclose(x, stack, atol=1e-3)
        np.testing.assert_array_equal(y, labels)


def test_the_zero_and_the_sign_of_phase_change_whole_patches_and_nothing_else():
    config = AugmentConfig(flips=False, drop={}, drop_together=0, phase_offset=True, phase_sign=True)
    stack, labels = stack_of(rough_ground()), np.zeros((SIZE, SIZE), np.uint8)
    index = CHANNELS.index("phase")
    stack[index] = np.random.default_rng(1).uniform(-np.pi, np.pi, (SIZE, SIZE))
    stack[index][:2] = np.nan
    rng, signs, offsets = np.random.default_rng(0), set(), []
    for _ in range(200):
        x, _ = augment(stack, labels, CHANNELS, config, rng)
        np.testing.assert_array_equal(np.delete(x, index, 0), np.delete(stack, index, 0))
        assert np.isnan(x[index][:2]).all()
        assert (x[index][2:] > -np.pi).all()
        assert (x[index][2:] <= np.pi).all()
        same, other = (np.exp(1j * (x[index][2:] - sign * stack[index][2:])) for sign in (1, -1))
        sign = 1 if np.abs(same - same.mean()).max() < 1e-4 else -1
        kept = same if sign == 1 else other
        assert np.abs(kept - kept.mean()).max() < 1e-4, "one offset for the whole patch"
        signs.add(sign)
        offsets.append(float(np.angle(kept.mean())))
    assert signs == {1, -1}
    assert np.abs(np.mean(np.exp(1j * np.array(offsets)))) < 0.2, "any zero is equally likely"


def test_switching_the_phase_on_changes_no_other_draw_of_the_first_patch():
    stack, labels = stack_of(rough_ground()), np.zeros((SIZE, SIZE), np.uint8)
    plain = augment(stack, labels, CHANNELS, AugmentConfig(), np.random.default_rng(9))[0]
    config = AugmentConfig(phase_offset=True)
    shifted = augment(stack, labels, CHANNELS, config, np.random.default_rng(9))[0]
    index = CHANNELS.index("phase")
    np.testing.assert_array_equal(np.delete(plain, index, 0), np.delete(shifted, index, 0))
