"""GLCM dissimilarity against scikit-image, whose co-occurrence matrix is built window by window."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from cryoscale.features.texture import glcm_dissimilarity

ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]


def with_skimage(band, levels, window_px):
    grey = np.clip(np.floor(band.astype(float) * levels), 0, levels - 1).astype(np.uint8)
    half = window_px // 2
    result = np.empty(band.shape)
    for y in range(band.shape[0]):
        for x in range(band.shape[1]):
            # At the rim the window keeps what lies in the image.
            window = grey[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            matrix = graycomatrix(window, [1], ANGLES, levels=levels)
            result[y, x] = graycoprops(matrix, "dissimilarity").mean()
    return result


@pytest.mark.parametrize(("levels", "window_px"), [(32, 7), (16, 5), (64, 3)])
def test_dissimilarity_equals_scikit_image_window_by_window(levels, window_px):
    rng = np.random.default_rng(levels)
    y, x = np.mgrid[:24, :31]
    band = (0.5 + 0.3 * np.sin(x / 3) * np.cos(y / 4) + rng.normal(0, 0.15, (24, 31))).astype(np.float32)
    result = glcm_dissimilarity(band, levels=levels, window_px=window_px)
    np.testing.assert_allclose(result, with_skimage(band, levels, window_px), atol=1e-5, rtol=0)
