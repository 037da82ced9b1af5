"""Patch sets and cards that were damaged or changed by hand: one line that says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

from cryoscale.errors import InputError, SourceError, WeightsError
from cryoscale.learn.calibrate import calibrate
from cryoscale.learn.patches import Patches
from cryoscale.learn.train import train
from cryoscale.manifest import model_record
from cryoscale.models import weights
from cryoscale.models.bandratio import CLASSES
from tests.toy_training import PCA, recipe, toy_networks, trained  # noqa: F401


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that nothing is wrong with, and weights trained on it."""
    return trained(tmp_path_factory.mktemp("sound"))


def _label_seven(group: Any) -> None:
    labels = group["y"][:]
    labels[:, 30, 30] = 7
    group["y"][:] = labels


def _another_label(group: Any) -> None:
    labels = group["y"][:]
    labels[:, 30, 30] = (labels[:, 30, 30] + 1) % 5
    group["y"][:] = labels


def _labels_nan(group: Any) -> None:
    shape = group["y"].shape
    del group["y"]
    group.create_array("y", shape=shape, dtype="f4")[:] = np.nan


def _fewer_labels(group: Any) -> None:
    group["y"].resize((5, *group["y"].shape[1:]))


def _strange_split(group: Any) -> None:
    group["split"][0] = 9


def _no_channels(group: Any) -> None:
    left = {name: value for name, value in group.attrs.asdict().items() if name != "channels"}
    group.attrs.put(left)


def _no_basis(group: Any) -> None:
    left = {name: value for name, value in group.attrs.asdict().items() if name != "pca"}
    group.attrs.put(left)


def _no_basis_told(group: Any) -> None:
    group.attrs["pca"] = None


def _shorter_basis(group: Any) -> None:
    group.attrs["pca"] = {**PCA, "mean": PCA["mean"][:11]}


def _basis_of_words(group: Any) -> None:
    group.attrs["pca"] = "the usual one"


def _split_by_number(group: Any) -> None:
    group.attrs["split"] = 5


def _composites_by_number(group: Any) -> None:
    group.attrs["composites"] = 5


def _nothing_seen(group: Any) -> None:
    group["x"][:] = np.full(group["x"].shape, np.nan, np.float16)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (_label_seven, "other labels than were counted"),
        (_another_label, "other labels than were counted"),
        (_labels_nan, "labels of type float32"),
        (_fewer_labels, r"y of shape \(5,"),
        (_strange_split, "a number in split that stands for nothing"),
        (_no_channels, "without the attribute channels"),
        (_no_basis, "without the attribute pca"),
        (_no_basis_told, "without the attribute pca"),
        (_shorter_basis, "the attribute pca.mean: Tuple should have at least 12 items"),
        (_basis_of_words, "the attribute pca: Input should be"),
        (_split_by_number, "the attribute split: Input should be a valid string"),
        (_composites_by_number, "the attribute composites: Input should be a valid list"),
        (_nothing_seen, "without a single value"),
    ],
)
def test_an_altered_set_is_refused_before_anything_is_learnt(
    sound: Path, tmp_path: Path, alter: Callable[[Any], None], words: str
) -> None:
    shutil.copytree(sound / "patches.zarr", tmp_path / "p.zarr")
    alter(zarr.open_group(tmp_path / "p.zarr", mode="a"))
    with pytest.raises(SourceError, match=words):
        train(recipe(tmp_path / "p.zarr", epochs=1), out=tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("x.*"))


def test_a_shard_that_is_cut_short_is_told_with_its_patch(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound / "patches.zarr", tmp_path / "p.zarr")
    shard = next(path for path in (tmp_path / "p.zarr/x/c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(SourceError, match="damaged or were altered.*patch 0"):
        Patches.open(tmp_path / "p.zarr").read(0)


def test_infinite_values_enter_no_statistics(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound / "patches.zarr", tmp_path / "p.zarr")
    group: Any = zarr.open_group(tmp_path / "p.zarr", mode="a")
    stacks = group["x"][:]
    stacks[:, 0, 3, 3], stacks[:, 1, 4, 4] = np.inf, -np.inf
    group["x"][:] = stacks
    mean, std = Patches.open(tmp_path / "p.zarr").statistics(range(len(stacks)))
    known = np.where(np.isfinite(stacks), stacks, np.nan)[:, :2].astype(np.float64)
    np.testing.assert_allclose(mean[:2], np.nanmean(known, axis=(0, 2, 3)))
    np.testing.assert_allclose(std[:2], np.nanstd(known, axis=(0, 2, 3)))


def _with_card(sound: Path, folder: Path, **changes: Any) -> Path:
    """The sound weights with another card."""
    for ending in ("safetensors", "json"):
        shutil.copy(sound / f"toy.{ending}", folder / f"w.{ending}")
    card = json.loads((folder / "w.json").read_text())
    (folder / "w.json").write_text(json.dumps({**card, **changes}))
    return folder / "w.safetensors"


@pytest.mark.parametrize(
    "curve",
    [
        {"confidence": [], "accuracy": [], "count": []},
        {"confidence": [0.9, 0.1], "accuracy": [0.1, 0.9], "count": [1, 1]},
        {"confidence": [0.1, 0.9], "accuracy": [-3, 0.9], "count": [1, 1]},
        {"confidence": [0.1, 9], "accuracy": [0.1, 0.9], "count": [1, 1]},
    ],
)
def test_a_calibration_that_is_no_curve_is_refused(
    sound: Path, tmp_path: Path, curve: dict[str, Any]
) -> None:
    path = _with_card(sound, tmp_path, calibration=curve)
    with pytest.raises(WeightsError, match="calibration"):
        weights.read_card(path)


def test_weights_for_other_classes_are_refused_wherever_labels_are_numbers(
    sound: Path, tmp_path: Path
) -> None:
    names = list(reversed(CLASSES))
    path, patches = _with_card(sound, tmp_path, classes=names), sound / "patches.zarr"
    words = "class 0 is vegetation; expected background"
    with pytest.raises(WeightsError, match=words):
        calibrate(path, patches, out=tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match=words):
        train(recipe(patches, model=None, initial=path), out=tmp_path / "t.safetensors")
    with pytest.raises(WeightsError, match="for 2 classes"):
        weights.refuse_other_classes(("a", "b"))
    assert not list(tmp_path.glob("[ct].*"))


def test_a_run_refuses_weights_whose_classes_stand_in_another_order(sound: Path, tmp_path: Path) -> None:
    from cryoscale.config import load_config

    path = _with_card(sound, tmp_path, classes=list(reversed(CLASSES)))
    (tmp_path / "run.yaml").write_text(
        f"""
name: a
region: {{bbox: [86.70, 27.85, 86.72, 27.87]}}
years: [2018]
season: {{start: "10-01", end: "10-31"}}
catalogs: [{{url: "{tmp_path}"}}]
sources: {{optical: {{collection: sentinel-2-l2a}}}}
model: {{weights: {path}}}
"""
    )
    with pytest.raises(InputError, match="class 0 is vegetation"):
        model_record(load_config(tmp_path / "run.yaml"))


def test_a_patch_set_may_be_named_by_its_address_wherever_one_is_asked_for(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL went through a path, which takes one of its slashes away."""
    from cryoscale import cli
    from cryoscale.learn.recipe import load_config

    remote = fsspec.filesystem("memory")
    remote.put(str(sound / "patches.zarr"), "/altered/p.zarr", recursive=True)
    (tmp_path / "r.yaml").write_text(
        "{name: a, patches: 'memory://altered/p.zarr', model: {name: toy-plain}, epochs: 1, batch: 4}"
    )
    config = load_config(tmp_path / "r.yaml")
    assert config.patches == "memory://altered/p.zarr"
    here = weights.read_card(sound / "toy.safetensors")
    there = train(
        config.model_copy(update={"seed": 3, "learning_rate": 1e-2}), out=tmp_path / "r.safetensors"
    )
    assert there.sha256 == here.sha256
    for command in ("importance", "calibrate"):
        split = ["--split", "validation"]
        arguments = [str(sound / "toy.safetensors"), "--patches", "memory://altered/p.zarr", *split]
        monkeypatch.setattr("sys.argv", ["cryoscale", command, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
