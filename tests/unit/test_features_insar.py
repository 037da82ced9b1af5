"""Coherence and phase against a brute-force loop, and phase resampled as a complex number."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from cryoscale.errors import InputError
from cryoscale.features.insar import coherence_phase


def speckle(rng, shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def by_loop(s1, s2, half):
    """The defining sums of channels 23 and 24, pixel by pixel in Python's own complex numbers."""
    height, width = s1.shape
    coherence, phase = np.full(s1.shape, np.nan), np.full(s1.shape, np.nan)
    for y in range(height):
        for x in range(width):
            if not good(s1[y, x], s2[y, x]):
                continue
            cross, power1, power2 = 0j, 0.0, 0.0
            for r in range(max(0, y - half), min(height, y + half + 1)):
                for c in range(max(0, x - half), min(width, x + half + 1)):
                    a, b = complex(s1[r, c]), complex(s2[r, c])
                    if good(a, b):
                        cross += a * b.conjugate()
                        power1 += abs(a) ** 2
                        power2 += abs(b) ** 2
            coherence[y, x] = abs(cross) / math.sqrt(power1 * power2)
            phase[y, x] = cmath.phase(cross)
    return coherence, phase


def good(a, b):
    return not (cmath.isnan(a) or cmath.isnan(b)) and a != 0 and b != 0


@pytest.mark.parametrize("window_px", [1, 3, 5, 9])
def test_coherence_and_phase_equal_the_loop_over_the_window_with_holes(window_px):
    rng = np.random.default_rng(window_px)
    s1, noise = speckle(rng, (14, 17)), speckle(rng, (14, 17))
    s2 = (0.8 * s1 * np.exp(-1.1j) + 0.6 * noise).astype(np.complex64)
    s1[3:6, 4] = np.nan
    s2[9, 9:12] = 0
    expected = by_loop(s1, s2, window_px // 2)
    coherence, phase = coherence_phase(s1, s2, window_px=window_px)
    assert coherence.dtype == phase.dtype == np.float32
    np.testing.assert_allclose(coherence, expected[0], atol=1e-6)
    np.testing.assert_allclose(phase, expected[1], atol=2e-6)


def test_one_image_turned_by_an_angle_is_fully_coherent_and_has_that_phase():
    s1 = speckle(np.random.default_rng(0), (12, 12))
    for angle in (-3.0, -1.0, 0.0, 0.5, 3.1):
        coherence, phase = coherence_phase(s1, (s1 * np.exp(-1j * angle)).astype(np.complex64))
        np.testing.assert_allclose(coherence, 1.0, atol=1e-6)
        np.testing.assert_allclose(phase, angle, atol=1e-5)


def test_independent_speckle_has_the_low_coherence_that_theory_gives():
    # E[coherence] of L independent looks without correlation: sqrt(pi)/2 * Gamma(L) / Gamma(L + 1/2).
    # Touzi et al. (1999), equation for D = 0.
    rng = np.random.default_rng(5)
    coherence, _ = coherence_phase(speckle(rng, (300, 300)), speckle(rng, (300, 300)), window_px=5)
    looks = 25
    theory = math.gamma(1.5) * math.gamma(looks) / math.gamma(looks + 0.5)
    assert coherence[2:-2, 2:-2].mean() == pytest.approx(theory, rel=0.01)


def test_opposite_images_have_phase_pi_and_never_minus_pi():
    s1 = np.full((5, 5), 1 + 0j, np.complex64)
    for s2 in (-s1, -s1.conj()):
        _, phase = coherence_phase(s1, s2)
        np.testing.assert_allclose(phase, np.pi, atol=3e-7)
        assert (phase.astype(float) <= np.pi).all()


def test_an_even_window_or_images_of_two_shapes_are_refused():
    s1 = np.ones((4, 4), np.complex64)
    with pytest.raises(InputError, match="odd"):
        coherence_phase(s1, s1, window_px=4)
    with pytest.raises(InputError, match="one shape"):
        coherence_phase(s1, s1[:3])
