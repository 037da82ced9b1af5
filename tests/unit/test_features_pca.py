"""The basis as a value: what it refuses, how it is stored, how it is seeded."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import xarray as xr
from shapely.geometry import box

from cryoscale import basis as run_basis
from cryoscale.errors import InputError
from cryoscale.features.channels import BANDS
from cryoscale.features.pca import Moments, PcaBasis, fit_pca
from cryoscale.grid import Window
from cryoscale.read.inputs import ReadReport
from cryoscale.region import ZoneRegion
from cryoscale.settings import ModelSpec, Season, Settings, SourceSpec


def pixels(n_px=500, seed=0):
    return np.random.default_rng(seed).random((n_px, 12)) * np.arange(1, 13)


def test_a_basis_comes_back_from_json_bit_for_bit():
    basis = fit_pca([pixels()])
    again = PcaBasis.from_dict(json.loads(json.dumps(basis.to_dict())))
    assert again == basis
    assert hash(again) == hash(basis)
    assert again.mean.shape == (12,)
    assert again.components.shape == (3, 12)


def test_a_basis_travels_to_a_worker():
    basis = fit_pca([pixels()])
    assert pickle.loads(pickle.dumps(basis)) == basis


def test_a_basis_cannot_be_changed():
    basis = fit_pca([pixels()])
    with pytest.raises(ValueError, match="read-only"):
        basis.mean[0] = 1.0


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"mean": [0.0] * 12},
        {"mean": [0.0] * 11, "components": [[0.0] * 12] * 3},
        {"mean": [0.0] * 12, "components": [[0.0] * 12] * 2},
        {"mean": [float("nan")] * 12, "components": [[0.0] * 12] * 3},
        {"mean": ["x"] * 12, "components": [[0.0] * 12] * 3},
        {"mean": None, "components": 3},
    ],
)
def test_a_basis_of_the_wrong_shape_or_kind_is_refused_in_one_line(value):
    with pytest.raises(InputError) as caught:
        PcaBasis.from_dict(value)
    assert "\n" not in str(caught.value)


def test_rows_with_no_data_do_not_count():
    rows = pixels()
    holed = np.insert(rows, [3, 77], np.nan, axis=0)
    one_band = rows[:1].copy()
    one_band[0, 4] = np.nan
    assert fit_pca([holed, one_band, np.empty((0, 12))]) == fit_pca([rows])


def test_fewer_than_two_clear_pixels_are_refused():
    with pytest.raises(InputError, match="clear pixels"):
        fit_pca([])
    with pytest.raises(InputError, match="clear pixels"):
        fit_pca([pixels(1), np.full((5, 12), np.nan)])


def test_sampled_rows_follow_the_seed():
    batches = [pixels(400, seed) for seed in range(3)]
    assert fit_pca(batches, 7, batch_px=100) == fit_pca(batches, 7, batch_px=100)
    assert fit_pca(batches, 7, batch_px=100) != fit_pca(batches, 8, batch_px=100)
    assert fit_pca(batches, 7, batch_px=1000) == fit_pca(batches, 8)


def test_merged_moments_equal_those_of_all_pixels_where_the_mean_dwarfs_the_spread():
    rows = pixels(3000) * 1e-3 + 1e4
    merged = Moments.of(rows[:10]).merge(Moments.of(rows[10:2000])).merge(Moments.of(rows[2000:]))
    assert merged.n_px == 3000
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.scatter / 2999, np.cov(rows.T), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("hidden_px", [0, 400])
def test_the_basis_of_a_run_does_not_depend_on_the_size_of_its_blocks_and_needs_no_clear_middle(
    monkeypatch: pytest.MonkeyPatch, hidden_px: int
) -> None:
    region = box(86.50, 28.00, 86.60, 28.10)  # within one block of 2048 pixels
    window = ZoneRegion(32645, region).window()
    middle = window.row + window.height // 2, window.col + window.width // 2

    def optical(_context: object, _year: int, at: Window) -> tuple[xr.Dataset, ReadReport]:
        row, col = np.ogrid[at.row : at.row + at.height, at.col : at.col + at.width]
        hidden = (abs(row - middle[0]) < hidden_px) & (abs(col - middle[1]) < hidden_px)
        bands = {
            name: (
                ("y", "x"),
                np.where(hidden, np.nan, np.sin(row / (7 + n) + n) + np.cos(col / (5 + n * n))),
            )
            for n, name in enumerate(BANDS)
        }
        return xr.Dataset(bands), ReadReport()

    monkeypatch.setattr(run_basis, "_optical_of", optical)
    optics = {"optical": SourceSpec(composite="median")}
    fitted = [
        run_basis.fit_run_basis(
            Settings(
                "any", region, (2018,), Season("10-01", "10-31"), (), optics, ModelSpec(), block_px=size
            ),
            {},
        ).basis.to_dict()
        for size in (256, 2048)
    ]
    assert fitted[0] == fitted[1]
