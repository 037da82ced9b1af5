"""Indices and tasselled cap against hand values and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from cryoscale.features.channels import BANDS
from cryoscale.features.spectral import TASSELLED_CAP, normalized_difference, project, tasselled_cap


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0.6, 0.2, 0.5),
        (0.2, 0.6, -0.5),
        (0.3, 0.0, 1.0),
        (0.0, 0.0, 0.0),
        (-0.05, 0.2, -1.0),  # clipped to 0 first; unclipped it would be -1.67
        (-0.05, -0.01, 0.0),
        (np.nan, 0.2, np.nan),
        (0.2, np.nan, np.nan),
        (np.nan, np.nan, np.nan),
        (np.nan, -1.0, np.nan),
    ],
)
def test_normalised_difference_gives_the_values_worked_out_by_hand(a, b, expected):
    result = normalized_difference(np.full((2, 3), a, np.float32), np.full((2, 3), b, np.float32))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_normalised_difference_equals_numpy_on_many_pixels():
    rng = np.random.default_rng(3)
    a, b = rng.uniform(-0.1, 1.2, (2, 60, 70)).astype(np.float32)
    p, q = np.clip(a, 0, None).astype(float), np.clip(b, 0, None).astype(float)
    expected = np.divide(p - q, p + q, out=np.zeros_like(p), where=p + q != 0)
    np.testing.assert_allclose(normalized_difference(a, b), expected, atol=1e-6)


def test_tasselled_cap_of_one_band_alone_is_its_column_of_nedkovs_table():
    # Values of the published table, typed here once more by band.
    table = {
        "B02": (0.0822, -0.1128, 0.1363),
        "B08": (0.3895, 0.3165, -0.0807),
        "B11": (0.3882, -0.4578, -0.4064),
        "B12": (0.1366, -0.4064, -0.5602),
        "B07": (0.3877, 0.3302, -0.0001),
    }
    for name, column in table.items():
        bands = np.zeros((12, 1, 1), np.float32)
        bands[BANDS.index(name)] = 1.0
        np.testing.assert_allclose(tasselled_cap(bands)[:, 0, 0], column, rtol=1e-6)


def test_nedkovs_axes_are_orthonormal_to_the_digits_printed():
    # A property of the transformation that nearly any slip in typing breaks.
    np.testing.assert_allclose(TASSELLED_CAP @ TASSELLED_CAP.T, np.eye(3), atol=3e-4)


@pytest.mark.parametrize("shape", [(40, 33), (9, 256), (8, 700)])
def test_projection_equals_the_matrix_product_and_is_nan_where_any_band_is(shape):
    rng = np.random.default_rng(4)
    bands = rng.random((12, *shape)).astype(np.float32)
    mean, axes = rng.random(12), rng.normal(size=(3, 12))
    bands[5, 7, 8] = np.nan
    expected = np.tensordot(axes, bands.astype(float) - mean[:, None, None], axes=1)
    result = project(bands, mean, axes)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-6)
    assert np.isnan(result[:, 7, 8]).all()
    assert np.isnan(result).sum() == 3
