"""Patch sets on disk, their shards, their quality and their statistics."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import zarr

from cryoscale.errors import InputError, NoRoomError, OutputError, SourceError
from cryoscale.features.channels import CHANNELS as ALL_CHANNELS
from cryoscale.features.channels import MODALITIES
from cryoscale.learn import patches as module
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.learn.quality import FLAGS, flags_of, quality_of
from tests.integration.disks import cramped

CHANNELS = ("B02", "elevation", "absent", "constant")


def place(i, split="train"):
    composite = ("median", "least_snow")[i % 2]
    return Place(32645 + i % 2, -300 - i, 40 + i, 100 + i, composite, split, 2018 + i % 2, 17_000 + i)


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


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_set_is_known_by_what_it_holds_and_not_by_where_it_lies_or_how_it_is_cut(
    tmp_path, monkeypatch, dtype
):
    rng = np.random.default_rng(0)
    x = rng.random((5, len(CHANNELS), 32, 32)).astype(np.float32)
    y = rng.integers(0, 5, (5, 32, 32)).astype(np.uint8)
    nudged, mirrored = x.copy(), y.copy()
    nudged[3, 0, 5, 5] += 0.1
    mirrored[2] = y[2, :, ::-1]

    def identity(name, x, y, **attributes):
        writer = PatchWriter(tmp_path / name, channels=CHANNELS, patch_px=32, dtype=dtype)
        for number in range(5):
            writer.add(x[number], y[number], Place(32645, 0, 32 * number, 0, "median", "train"))
        made = writer.finish(**attributes)
        assert Patches.open(tmp_path / name).identity == made.identity
        return made.identity

    first = identity("a.zarr", x, y)
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * x[0].nbytes)
    assert identity("b.zarr", np.asfortranarray(x), np.asfortranarray(y)) == first
    others = [
        identity("c.zarr", nudged, y),
        identity("d.zarr", x, mirrored),
        identity("e.zarr", x, y, source=1),
    ]
    assert len({first, *others}) == 4


def test_class_counts_leave_no_data_out(patches):
    labels = np.stack([patches.read(i)[1] for i in range(6)])
    assert patches.class_counts(range(6), 5).tolist() == [(labels == k).sum() for k in range(5)]


def test_an_interrupted_set_and_an_absent_one_are_told_apart_from_a_finished_one(tmp_path):
    PatchWriter(tmp_path / "half.zarr", channels=CHANNELS, patch_px=32)
    with pytest.raises(SourceError, match="interrupted"):
        Patches.open(tmp_path / "half.zarr")
    with pytest.raises(SourceError, match="make the patches first"):
        Patches.open(tmp_path / "none.zarr")


def test_patches_lie_in_whole_shards_many_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 4 * 4 * 32 * 32 * 4)  # four patches
    writer = PatchWriter(tmp_path / "s.zarr", channels=CHANNELS, patch_px=32, dtype="float32")
    rng = np.random.default_rng(1)
    made = [
        (rng.normal(size=(4, 32, 32)).astype("f4"), rng.integers(0, 5, (32, 32)).astype("u1"))
        for _ in range(10)
    ]
    for i, (x, y) in enumerate(made):
        writer.add(x, y, place(i))
        # what is on disk grows by whole shards: none is written twice
        assert writer._arrays["x"].shape[0] == 4 * ((i + 1) // 4)
    again = writer.finish(pca=None)
    for i in (9, 0, 3, 4):
        x, y = again.read(i)
        np.testing.assert_array_equal(x, made[i][0])
        np.testing.assert_array_equal(y, made[i][1])
    for name in "xy":
        files = [p for p in (tmp_path / "s.zarr" / name / "c").rglob("*") if p.is_file()]
        assert len(files) == 3, "ten patches, four a shard"


def test_a_writer_that_is_killed_leaves_no_set_that_opens(tmp_path):
    script = """
        import os, signal, sys
        import numpy as np
        from cryoscale.learn import patches
        patches.SHARD_BYTES = 1
        writer = patches.PatchWriter(sys.argv[1], channels=("B02",), patch_px=32)
        for i in range(100):
            place = patches.Place(32645, i, 0, 0, "median", "train")
            writer.add(np.ones((1, 32, 32), "f4"), np.ones((32, 32), "u1"), place)
            if i == 5:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "k.zarr")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert zarr.open_group(tmp_path / "k.zarr", mode="r")["x"].shape[0] == 6, "it did write"
    with pytest.raises(SourceError, match="interrupted"):
        Patches.open(tmp_path / "k.zarr")


def test_a_full_disk_is_told_with_the_set_that_it_has_no_room_for(tmp_path):
    noise = np.random.default_rng(0).normal(size=(4, 96, 96)).astype("f4")
    path = tmp_path / "disk" / "p.zarr"
    with cramped(path.parent, "limit"):
        writer = PatchWriter(path, channels=CHANNELS, patch_px=96, dtype="float32")
        writer.add(noise, np.ones((96, 96), "u1"), place(0))
        with pytest.raises(NoRoomError, match=f"^{path} takes no more .*which makes the patches anew$"):
            writer.finish(pca=None)
    with pytest.raises(SourceError, match="interrupted"):
        Patches.open(path)


def test_a_set_may_lie_on_a_remote_store():
    url = f"memory://sets/{os.getpid()}.zarr"
    writer = PatchWriter(url, channels=CHANNELS, patch_px=32)
    writer.add(np.full((4, 32, 32), 0.25, "f4"), np.ones((32, 32), "u1"), place(1))
    writer.finish(pca=None)
    again = Patches.open(url)
    assert again.place(0) == place(1)
    assert (again.read(0)[0] == 0.25).all()
    with pytest.raises(SourceError, match="make the patches first"):
        Patches.open("memory://sets/none.zarr")


def test_the_columns_tell_the_quality_of_a_patch():
    x = np.ones((30, 10, 10), np.float32)
    y = np.zeros((10, 10), np.uint8)
    y[0], y[1], y[2] = 255, 1, 2
    ndsi = ALL_CHANNELS.index("NDSI")
    x[ndsi] = 0.3
    x[ndsi, 1, :4] = 0.1  # ice that is no ice to the eye
    x[ndsi, 2, :3] = 0.5  # debris that is as bright as snow
    x[ndsi, 5, :2] = 0.5  # snow, or ice that the outlines miss
    x[ndsi, 0] = 0.9  # nothing is said of what is not learnt
    x[ALL_CHANNELS.index("B11"), :3] = np.nan
    x[ALL_CHANNELS.index("phase"), :6] = np.nan
    x[ALL_CHANNELS.index("LST"), :5] = np.nan
    found = quality_of(x, y, flags_of(x, y, ALL_CHANNELS), ALL_CHANNELS)
    assert found["labelled"] == 0.9
    assert found["clear"] == 0.7
    assert found["class_pixels"].tolist() == [70, 10, 10, 0, 0]
    assert found["doubtful"] == pytest.approx(9 / 90)
    expected = {"optical", "thermal", "terrain", "velocity"}
    assert found["modalities"] == sum(MODALITIES[name] for name in expected)


def test_every_pixel_says_why_it_is_learnt_from_or_not(tmp_path):
    """By hand on a small patch; a set without the array says what its pixels tell by themselves."""
    names = ("B02", "B03", "NDSI", "slope")
    x, y = np.ones((4, 32, 32), np.float32), np.zeros((32, 32), np.uint8)
    x[2:] = 0
    x[1, 0], y[0] = np.nan, 255
    x[2, 1, :3] = 0.9  # snow that is called background
    y[2], y[3] = 255, 255
    why = np.zeros((32, 32), np.uint8)
    why[2], why[3], why[0, :5] = FLAGS["rim"], FLAGS["outside"], FLAGS["outside"]
    expected = np.full((32, 32), FLAGS["clear"] | FLAGS["labelled"], np.uint8)
    expected[0] = 0
    expected[1, :3] |= FLAGS["doubtful"]
    expected[2:4] = FLAGS["clear"]
    by_itself = expected.copy()
    expected |= why
    writer = PatchWriter(tmp_path / "q.zarr", channels=names, patch_px=32)
    writer.add(x, y, place(1), why)
    writer.finish()
    patches = Patches.open(tmp_path / "q.zarr")
    assert patches.attrs["quality_bits"] == FLAGS
    np.testing.assert_array_equal(patches.flags(0), expected)
    shutil.rmtree(tmp_path / "q.zarr" / "quality")
    older = Patches.open(tmp_path / "q.zarr")
    np.testing.assert_array_equal(older.flags(0), by_itself)
    np.testing.assert_array_equal(older.read(0)[1], y)
    zarr.open_group(tmp_path / "q.zarr", mode="r+").create_array("quality", shape=(2, 32, 32), dtype="u1")
    with pytest.raises(SourceError, match="quality of shape"):
        Patches.open(tmp_path / "q.zarr")


def test_water_on_a_slope_is_in_doubt():
    x = np.zeros((30, 4, 4), np.float32)
    x[ALL_CHANNELS.index("slope"), :2] = 16
    y = np.full((4, 4), 3, np.uint8)
    y[0] = 0
    assert quality_of(x, y, flags_of(x, y, ALL_CHANNELS), ALL_CHANNELS)["doubtful"] == 4 / 16


def test_a_label_that_is_no_class_is_refused(tmp_path):
    writer = PatchWriter(tmp_path / "l.zarr", channels=CHANNELS, patch_px=32)
    with pytest.raises(InputError, match="label 7"):
        writer.add(np.ones((4, 32, 32), "f4"), np.full((32, 32), 7, "u1"), place(0))


def test_a_writer_leaves_a_set_that_another_has_begun_in_its_place(tmp_path):
    first, second = (
        PatchWriter(tmp_path / "p.zarr", channels=ALL_CHANNELS, patch_px=32, dtype="float32")
        for _ in range(2)
    )
    assert not first.is_mine
    with pytest.raises(OutputError, match="another process has begun to write"):
        first.finish()
    assert second.is_mine
    assert len(second.finish()) == 0
    assert second.is_mine
    assert "writer" not in Patches.open(tmp_path / "p.zarr").attrs


def test_what_lay_at_the_path_goes_and_the_folder_with_its_lock_stays(tmp_path):
    (tmp_path / "p.zarr" / "y").mkdir(parents=True)
    (tmp_path / "p.zarr" / "old").touch()
    before = (tmp_path / "p.zarr").stat().st_ino
    PatchWriter(tmp_path / "p.zarr", channels=ALL_CHANNELS, patch_px=32).finish()
    assert (tmp_path / "p.zarr").stat().st_ino == before
    assert not (tmp_path / "p.zarr" / "old").exists()
