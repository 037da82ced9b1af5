"""Patch sets on disk, their statistics and their splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoscale.errors import SourceError
from cryoscale.learn.patches import Patches, PatchWriter, Place, blocked_split, random_split

CHANNELS = ("B02", "elevation", "absent", "constant")


def place(i, split="train"):
    return Place(32645 + i % 2, -300 - i, 40 + i, 100 + i, ("median", "least_snow")[i % 2], split)


@pytest.fixture
def patches(tmp_path):
    rng = np.random.default_rng(0)
    writer = PatchWriter(tmp_path / "p.zarr", channels=CHANNELS, patch_px=32, dtype="float32")
    for i in range(6):
        x = rng.normal(
            [[[0.3]], [[5000.0]], [[0.0]], [[7.0]]], [[[0.1]], [[400.0]], [[1.0]], [[0.0]]], (4, 32, 32)
        )
        x[2] = np.nan
        x[:2, :, :i] = np.nan
        y = rng.choice([0, 1, 2, 255], (32, 32)).astype(np.uint8)
        writer.add(x.astype(np.float32), y, place(i, "validation" if i > 3 else "train"))
    return writer.finish(pca=None, source="a test")


def test_a_set_reads_back_what_was_written(patches, tmp_path):
    again = Patches.open(tmp_path / "p.zarr")
    assert len(again) == 6
    assert again.patch_px == 32
    assert again.channels == CHANNELS
    assert again.place(3) == place(3)
    assert again.place(5) == place(5, "validation")
    assert again.attrs["source"] == "a test"
    assert again.indices("train").tolist() == [0, 1, 2, 3]
    assert again.indices("validation").tolist() == [4, 5]
    assert not len(again.indices("test"))
    x, y = again.read(2)
    assert x.dtype == np.float32
    assert y.dtype == np.uint8
    assert np.isnan(x[0, :, :2]).all()
    (first, labels), (second, _) = again.batches([2, 0, 1], 2)
    np.testing.assert_array_equal(first[0], x)
    assert first.shape == (2, 4, 32, 32)
    assert second.shape == (1, 4, 32, 32)
    assert labels.shape == (2, 32, 32)


def test_statistics_equal_those_of_all_finite_pixels_at_once(patches):
    mean, std = patches.statistics([0, 1, 2, 3])
    together = np.stack([patches.read(i)[0] for i in range(4)]).astype(np.float64)
    for c in (0, 1, 3):
        assert mean[c] == pytest.approx(np.nanmean(together[:, c]), rel=1e-12)
    for c in (0, 1):
        assert std[c] == pytest.approx(np.nanstd(together[:, c]), rel=1e-10)
    assert (mean[2], std[2]) == (0, 1), "a channel without data standardises to 0"
    assert std[3] == 1, "a channel that never varies is not divided by 0"


def test_class_counts_leave_no_data_out(patches):
    labels = np.stack([patches.read(i)[1] for i in range(6)])
    assert patches.class_counts(range(6), 5).tolist() == [(labels == k).sum() for k in range(5)]


def test_an_interrupted_set_and_an_absent_one_are_told_apart_from_a_finished_one(tmp_path):
    PatchWriter(tmp_path / "half.zarr", channels=CHANNELS, patch_px=32)
    with pytest.raises(SourceError, match="interrupted"):
        Patches.open(tmp_path / "half.zarr")
    with pytest.raises(SourceError, match="make the patches first"):
        Patches.open(tmp_path / "none.zarr")


def test_a_random_split_holds_back_the_fraction_asked_for():
    split = random_split(50, fraction=0.2, seed=3)
    assert (split == "validation").sum() == 10
    assert (split == "train").sum() == 40
    assert (split == random_split(50, fraction=0.2, seed=3)).all()
    assert (split != random_split(50, fraction=0.2, seed=4)).any()


@given(
    patch_px=st.integers(1, 40),
    block_px=st.integers(1, 90),
    stride=st.integers(3, 25),
    seed=st.integers(0, 99),
    fraction=st.floats(0.05, 0.6),
)
def test_a_blocked_split_shares_no_pixel_between_training_and_validation(
    patch_px, block_px, stride, seed, fraction
):
    rows, cols = (a.ravel() for a in np.mgrid[-100:60:stride, -37:90:stride])
    regions = np.arange(rows.size) % 2
    split = blocked_split(
        rows, cols, regions, patch_px=patch_px, block_px=block_px, fraction=fraction, seed=seed
    )
    seen = {name: np.zeros((2, 240, 240), bool) for name in ("train", "validation", "unused")}
    for r, c, g, s in zip(rows + 100, cols + 100, regions, split, strict=True):
        seen[s][g, r : r + patch_px, c : c + patch_px] = True
    assert not (seen["train"] & seen["validation"]).any()


def test_a_blocked_split_of_patches_as_large_as_the_blocks_uses_all_of_them():
    rows, cols = (a.ravel() for a in np.mgrid[-128:128:32, 0:256:32])
    split = blocked_split(rows, cols, np.zeros_like(rows), patch_px=32, block_px=64, fraction=0.25, seed=0)
    assert (split == "validation").sum() == 16
    assert (split == "train").sum() == 48
