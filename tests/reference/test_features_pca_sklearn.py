"""The streamed PCA against scikit-learn's, which holds all pixels at once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cryoscale.features.pca import fit_pca
from cryoscale.features.spectral import project


def reflectances(n_px, seed=0):
    """Correlated bands with distinct variances, far from zero mean as reflectances are."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(12, 12)) * np.geomspace(1, 0.02, 12)[:, None]
    return (0.4 + 0.1 * rng.normal(size=(n_px, 12)) @ mixing).astype(np.float32)


@pytest.mark.parametrize("n_batches", [1, 7, 100])
def test_streamed_fit_equals_scikit_learn_however_the_pixels_are_cut_into_batches(n_batches):
    pixels = reflectances(5000)
    basis = fit_pca(np.array_split(pixels, n_batches))
    oracle = PCA(n_components=3, svd_solver="full").fit(pixels.astype(float))
    np.testing.assert_allclose(basis.mean, oracle.mean_, atol=1e-12)
    signs = np.sign((basis.components * oracle.components_).sum(axis=1))
    np.testing.assert_allclose(basis.components, oracle.components_ * signs[:, None], atol=1e-9)
    largest = np.abs(basis.components).argmax(axis=1)
    assert (basis.components[np.arange(3), largest] > 0).all()


def test_channels_equal_scikit_learns_transform():
    pixels = reflectances(1200, seed=2)
    basis = fit_pca([pixels])
    oracle = PCA(n_components=3, svd_solver="full").fit(pixels.astype(float))
    signs = np.sign((basis.components * oracle.components_).sum(axis=1))
    cube = np.ascontiguousarray(pixels.T.reshape(12, 30, 40))
    theirs = (oracle.transform(pixels.astype(float)) * signs).T.reshape(3, 30, 40)
    np.testing.assert_allclose(project(cube, basis.mean, basis.components), theirs, atol=1e-6)
