"""GLCM dissimilarity against hand counts; scikit-image is the oracle in tests/reference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from cryoscale.errors import InputError
from cryoscale.features.texture import glcm_dissimilarity


def pairs_by_hand(band, y, x, levels=32, half=3):
    """Exact mean over four offsets of the mean |difference| of the pairs in the window, counted singly."""
    height, width = band.shape
    means = []
    for dy, dx in ((0, 1), (-1, 1), (-1, 0), (-1, -1)):
        found = []
        for py in range(y - half, y + half + 1):
            for px in range(x - half, x + half + 1):
                qy, qx = py + dy, px + dx
                inside = abs(qy - y) <= half and abs(qx - x) <= half
                if not inside or not all(0 <= r < height and 0 <= c < width for r, c in ((py, px), (qy, qx))):
                    continue
                p, q = band[py, px], band[qy, qx]
                if np.isnan(p) or np.isnan(q):
                    continue
                p, q = (min(max(int(np.floor(levels * v)), 0), levels - 1) for v in (p, q))
                found.append(abs(p - q))
        if found:
            means.append(Fraction(sum(found), len(found)))
    return np.nan if not means or np.isnan(band[y, x]) else float(sum(means) / len(means))


def test_dissimilarity_equals_pairs_counted_one_by_one_with_holes_and_at_the_rim():
    rng = np.random.default_rng(1)
    band = rng.uniform(-0.1, 1.2, (15, 18)).astype(np.float32)
    band[rng.random(band.shape) < 0.3] = np.nan
    expected = [[pairs_by_hand(band, y, x) for x in range(18)] for y in range(15)]
    result = glcm_dissimilarity(band)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


def test_a_step_of_one_level_between_columns_counts_in_three_of_four_offsets():
    band = np.tile((np.arange(9) / 32).astype(np.float32), (9, 1))
    assert glcm_dissimilarity(band)[4, 4] == pytest.approx(0.75)


def test_a_lone_pixel_has_no_pair_and_hence_no_dissimilarity():
    band = np.full((9, 9), np.nan, np.float32)
    band[4, 4] = 0.5
    assert np.isnan(glcm_dissimilarity(band)).all()
    band[4, 5] = 0.5 + 3 / 32
    result = glcm_dissimilarity(band)
    assert result[4, 4] == result[4, 5] == 3.0
    assert np.isfinite(result).sum() == 2


def test_values_beyond_the_range_are_clipped_to_the_outer_levels():
    band = np.array([[-5.0, 0.0, 40.0, 1.0, np.inf, -np.inf]], np.float32)
    expected = glcm_dissimilarity(np.array([[0, 0, 1, 1, 1, 0]], np.float32))
    np.testing.assert_array_equal(glcm_dissimilarity(band), expected)


@pytest.mark.parametrize(("window_px", "levels"), [(6, 32), (1, 32), (7, 1), (255, 32)])
def test_a_window_that_cannot_be_counted_is_refused(window_px, levels):
    with pytest.raises(InputError, match="window"):
        glcm_dissimilarity(np.zeros((9, 9), np.float32), window_px=window_px, levels=levels)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 9), (2, 2)])
def test_bands_smaller_than_the_window_are_taken(shape):
    result = glcm_dissimilarity(np.full(shape, 0.5, np.float32))
    assert result.shape == shape
    assert (result[np.isfinite(result)] == 0).all()
