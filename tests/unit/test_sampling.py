"""What patches are written over, by how many at once, and what is said of them; nothing is cut."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoscale import sampling
from cryoscale.errors import InputError, OutputError
from cryoscale.features.channels import CHANNELS
from cryoscale.learn.patches import PatchWriter, Place
from cryoscale.learn.sampleset import SampleConfig, require_learnable, summarise
from cryoscale.learn.splits import SplitRule

CONFIG = SampleConfig(truth=Path("truth"))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are found, and blocks that are not worth cutting."""
    for name in ("open_regions", "label_source", "_require_names", "_require_patches", "notes_on"):
        monkeypatch.setattr(sampling, name, lambda *_: [])
    monkeypatch.setattr(sampling, "_basis", lambda *_: (None, ""))
    monkeypatch.setattr(sampling, "_cut_all", lambda *_: ([], []))
    monkeypatch.setattr(sampling, "_finish", lambda writer, *_: writer.finish())
    monkeypatch.setattr(sampling, "summarise", lambda *_, **__: {"split_rule": {}, "class_pixels": {}})
    monkeypatch.setattr(sampling, "draw_sheet", lambda path, _: Path(path).write_text("new"))


@pytest.mark.usefixtures("unread")
def test_the_card_of_weights_beside_the_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"architecture": "unet"}')
    with pytest.raises(OutputError, match=r"x\.json, which is no summary of a patch set.*another --out"):
        sampling.make_samples([], f"{tmp_path}/x.zarr", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    (tmp_path / "x.json").write_text('{"split_rule": {}, "class_pixels": {}}')
    sampling.make_samples([], f"{tmp_path}/x.zarr", CONFIG)
    assert json.loads((tmp_path / "x.json").read_text())["split_rule"] == {}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("pictured", [True, False])
def test_a_summary_that_cannot_be_written_takes_away_no_picture_of_before(
    tmp_path: Path, pictured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pictured:
        (tmp_path / "x.png").write_text("old")

    def full(*_: object) -> None:
        raise OutputError("x.json", "a path that can be written", "make room")

    monkeypatch.setattr(sampling.store, "put", full)
    with pytest.raises(OutputError, match="make room"):
        sampling.make_samples([], f"{tmp_path}/x.zarr", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"] * pictured


@pytest.mark.usefixtures("unread")
def test_a_set_that_another_process_writes_is_left_to_it_as_long_as_it_lives(tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.zarr"
    code = (
        "import sys, time; from pathlib import Path; from cryoscale.learn.alone import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        first = PatchWriter(out, channels=CHANNELS, patch_px=32)
        with pytest.raises(OutputError, match="another process cuts patches"):
            sampling.make_samples([], str(out), CONFIG)
        assert first.is_mine
        other.kill()
    sampling.make_samples([], str(out), CONFIG)
    assert not first.is_mine


@pytest.mark.usefixtures("unread")
def test_what_fails_leaves_no_folder_that_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise InputError("runs", "others", "correct them")

    for name in ("open_regions", "_cut_all"):
        with monkeypatch.context() as patch:
            patch.setattr(sampling, name, fails)
            with pytest.raises(InputError):
                sampling.make_samples([], f"{tmp_path}/new/x.zarr", CONFIG)
        assert list(tmp_path.iterdir()) == []


def test_a_file_at_the_output_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").touch()
    with pytest.raises(OutputError, match="which exists"):
        sampling.make_samples([], f"{tmp_path}/x.zarr", CONFIG)


def test_a_class_that_only_a_region_left_out_has_is_noted_and_no_fault() -> None:
    splits = np.array(["train", "train", "validation", "validation", "test", "test", "unused"])
    pixels = np.ones((7, 5), np.int64)
    pixels[:4, 3] = 0
    rule = SplitRule("leave-one-out", 0.2, 0.0, 64, 8, 0)
    require_learnable(splits, pixels, rule)
    with pytest.raises(InputError, match="without a pixel of water"):
        require_learnable(splits, pixels, replace(rule, kind="blocked", test_fraction=0.2))
    pixels[3, 3] = 1
    with pytest.raises(InputError, match="without a pixel of water"):
        require_learnable(splits, pixels, rule)


def test_the_notes_name_the_classes_that_training_lacks(tmp_path: Path) -> None:
    writer = PatchWriter(tmp_path / "p.zarr", channels=CHANNELS, patch_px=32)
    for split, highest in (("train", 2), ("validation", 2), ("test", 3)):
        labels = np.resize(np.arange(highest + 1, dtype=np.uint8), (32, 32))
        writer.add(np.ones((30, 32, 32), np.float32), labels, Place(32645, 0, 0, 1, "median", split))
    patches = writer.finish(regions={}, split="", split_rule={}, source={})
    assert summarise(patches, "p.zarr")["notes"] == [
        "no pixel of water in training, of which there are 256: allow_absent: [water] trains without",
        "no pixel of vegetation anywhere: it cannot be learnt from this",
    ]
