"""A training that is killed, that runs out of disk, or whose loss leaves the numbers."""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cryoscale.errors import TrainingError
from cryoscale.learn.train import train
from cryoscale.models import weights
from tests.forked import Forked
from tests.toy_training import SMALL, make_patches, recipe, toy_networks  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_patches(tmp_path_factory.mktemp("patches") / "p.zarr", patch_px=64, count=24)


def cryonet(patches: Path, **changes: Any) -> Any:
    values = {"model": {"name": "cryonet", "arguments": SMALL}, "epochs": 8, "schedule": "cosine"}
    return recipe(patches, **{**values, **changes})


def start(config: Any, folder: Path, module: str = "cryoscale") -> Forked:
    """The command line in a process of its own, on one thread."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    return Forked(module, "train", path, "--out", folder / "w.safetensors")


def epochs_done(folder: Path) -> int:
    try:
        return len(json.loads((folder / "w.training" / "curves.json").read_text()))
    except FileNotFoundError:
        return 0


def test_a_training_killed_at_any_moment_ends_in_the_very_weights_of_an_undisturbed_one(
    patches: Path, tmp_path: Path
) -> None:
    config = cryonet(patches, epochs=6, crops=3)  # long enough to be met in the middle of an epoch
    straight = train(config, out=tmp_path / "straight.safetensors")
    chance = random.Random()  # another moment each time: whatever it is, the result must be the same
    seen = []
    for wanted in (1, 2):
        process = start(config, tmp_path)
        deadline = time.monotonic() + 120
        while epochs_done(tmp_path) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
        seen.append(epochs_done(tmp_path))
        assert not (tmp_path / "w.safetensors").exists(), "it had ended: nothing was tested"
    assert seen[0] >= 1
    assert seen[1] >= 2
    _, usable = weights.load(tmp_path / "w.training" / "best.safetensors")
    assert usable.training["epochs_done"] < 6
    process = start(config, tmp_path)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert f"epoch   {seen[1]}/6" not in out, "what was done is not done again"
    assert weights.read_card(tmp_path / "w.safetensors").sha256 == straight.sha256
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "straight.safetensors").read_bytes()
    assert not (tmp_path / "w.training" / "best.safetensors").exists()
    assert not list(tmp_path.rglob("*.part"))


class FullDisk:
    """No file may grow beyond a limit from an event on: what a full disk does, to this process alone."""

    def __init__(self, kind: str, epoch: int, limit_bytes: int) -> None:
        self.kind, self.epoch, self.limit_bytes = kind, epoch, limit_bytes
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def __enter__(self) -> Any:
        return self.show

    def __exit__(self, *_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    def show(self, event: dict[str, Any]) -> None:
        if event["kind"] == self.kind and event["epoch"] == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit_bytes, self.before[1]))


def test_a_full_disk_leaves_the_last_good_state_and_ends_in_one_line(patches: Path, tmp_path: Path) -> None:
    config = cryonet(patches, epochs=4)
    straight = train(config, out=tmp_path / "straight.safetensors")
    out, state = tmp_path / "w.safetensors", tmp_path / "w.training" / "state.safetensors"
    kept = []

    with (
        FullDisk("step", 3, 100_000) as fill,
        pytest.raises(TrainingError, match=r"state\.safetensors cannot be written .*goes on") as caught,
    ):
        train(config, out=out, progress=lambda e: (fill(e), kept.append(e)))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))
    before = state.read_bytes()
    weights.load(tmp_path / "w.training" / "best.safetensors")
    assert epochs_done(tmp_path) == 2

    with FullDisk("step", 3, 100_000) as fill, pytest.raises(TrainingError):
        train(config, out=out, progress=fill)
    assert state.read_bytes() == before, "a second attempt harms nothing either"
    epochs = []
    resumed = train(config, out=out, progress=lambda e: epochs.append(e.get("epoch", 9)))
    assert min(epochs) == 3
    assert resumed.sha256 == straight.sha256


def test_a_disk_that_fills_at_the_very_end_says_so_and_the_same_command_finishes(
    patches: Path, tmp_path: Path
) -> None:
    config, out = cryonet(patches, epochs=2), tmp_path / "w.safetensors"
    with FullDisk("epoch", 2, 10_000) as fill, pytest.raises(TrainingError, match="cannot be written"):
        train(config, out=out, progress=fill)
    assert not out.exists()
    assert train(config, out=out).training["epochs_done"] == 2


def test_a_loss_that_leaves_the_numbers_is_named_with_its_step_and_the_good_state_stays(
    patches: Path, tmp_path: Path
) -> None:
    model = {"name": "toy-plain", "arguments": {"sound_steps": 6}}  # 4 steps an epoch: the second breaks
    out = tmp_path / "w.safetensors"
    with pytest.raises(TrainingError, match=r"loss became (nan|inf) in epoch 2, step 3") as caught:
        train(recipe(patches, model=model), out=out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    state = load_file(tmp_path / "w.training" / "state.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    assert epochs_done(tmp_path) == 1
    weights.load(tmp_path / "w.training" / "best.safetensors")


def test_weights_that_are_lost_in_the_last_step_of_an_epoch_are_not_kept(
    patches: Path, tmp_path: Path
) -> None:
    # One step an epoch: its loss is sound, but the root of a zero is infinitely steep.
    model = {"name": "toy-plain", "arguments": {"steep": True}}
    config = recipe(patches, model=model, batch=16, epochs=2)
    with pytest.raises(TrainingError, match="no longer finite after epoch 1"):
        train(config, out=tmp_path / "w.safetensors")
    assert not (tmp_path / "w.training" / "state.safetensors").exists()


def test_from_the_command_line_it_is_one_line_and_exit_code_1(patches: Path, tmp_path: Path) -> None:
    model = {"name": "toy-plain", "arguments": {"sound_steps": 0}}
    process = start(recipe(patches, model=model), tmp_path, "tests.toy_training")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert len(error.strip().splitlines()) == 1
    assert "epoch 1, step 1" in error
