"""Two processes that train one network, started by torch's own launcher on loopback."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cryoscale.errors import ConfigError
from cryoscale.learn.train import train
from cryoscale.models import weights
from tests.forked import Forked
from tests.ports import free_port
from tests.toy_training import make_patches, recipe, toy_networks  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # 7 patches to judge by: the last batch of 3 leaves the processes unequal shares
    return make_patches(tmp_path_factory.mktemp("patches") / "p.zarr", count=21)


def launch(config: Any, folder: Path) -> Forked:
    """``torchrun -m tests.toy_training train``: the command line, with the toy networks."""
    given = ("--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    command = [*given, "-m", "tests.toy_training", *training(config, folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    return Forked("torch.distributed.run", *command, env=env)


def beside_each_other(config: Any, folder: Path) -> list[Forked]:
    """The two processes that the launcher starts, told as it tells them, without its imports and theirs."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env = {**os.environ, **group, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return [
        Forked(
            "tests.toy_training",
            *training(config, folder),
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]


def training(config: Any, folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    return ["train", str(path), "--out", str(folder / "w.safetensors")]


def finish(*processes: Forked) -> str:
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told
    return "".join(out for out, _ in told)


def curve(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "w.training" / "curves.json").read_text())


def test_two_processes_learn_what_one_learns_from_the_same_batches(patches: Path, tmp_path: Path) -> None:
    """Up to rounding, without batch norm and dropout, which on CPUs see the share and not the batch.

    Tversky is no sum over pixels, so shares that kept to themselves would show; and weight decay is strong,
    since Adam alone would not tell a gradient from its double.
    """
    config = recipe(patches, loss={"kind": "tversky"}, weight_decay=0.05, epochs=4)
    alone = train(config, out=tmp_path / "w.safetensors")
    together = tmp_path / "together"
    out = finish(launch(config, together))
    assert out.count("epoch   4/4") == 1, "one process talks"
    assert out.count("wrote ") == 1
    for one, two in zip(curve(tmp_path), curve(together), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=2e-5)
        # A pixel on the edge between two classes may fall to either side.
        assert two["validation_accuracy"] == pytest.approx(one["validation_accuracy"], abs=2e-3)
    assert curve(together)[-1]["loss"] < curve(together)[0]["loss"] - 0.01, "it learns"
    a, b = (load_file(folder / "w.safetensors") for folder in (tmp_path, together))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    assert torch.equal(b["idle"], torch.ones(3))
    card = weights.read_card(together / "w.safetensors")
    assert card.training["processes"] == 2
    assert card.metrics["validation"]["pixels"] == alone.metrics["validation"]["pixels"]


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    own = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [*own, *(grandchild for child in own for grandchild in children(child))]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_a_group_that_is_killed_as_a_whole_goes_on_to_the_same_weights(patches: Path, tmp_path: Path) -> None:
    """With batch norm, dropout and a second head; two addends sum alike in either order, so to the bit."""
    config = recipe(patches, model={"name": "toy-normed"}, epochs=40)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = launch(config, killed)
    deadline = time.monotonic() + 120
    curves = killed / "w.training" / "curves.json"
    while not curves.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    done = len(curve(killed))
    assert 1 <= done < 40
    assert not (killed / "w.safetensors").exists()
    finish(*beside_each_other(config, killed))
    finish(*beside_each_other(config, straight))
    assert [row["epoch"] for row in curve(killed)] == list(range(1, 41))
    assert [row["loss"] for row in curve(killed)] == [row["loss"] for row in curve(straight)]
    assert (killed / "w.safetensors").read_bytes() == (straight / "w.safetensors").read_bytes()


def test_a_batch_that_cannot_be_shared_evenly_is_refused_before_anything_is_written(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="batch 5 on 2 processes; expected a multiple of 2"):
        train(recipe(patches, batch=5), out=tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_shares_of_a_batch_are_the_batch() -> None:
    from cryoscale.learn.ranks import Ranks

    for size in range(1, 6):
        for length in range(12):
            parts = [Ranks(rank, size).share(range(length)) for rank in range(size)]
            np.testing.assert_array_equal(np.concatenate(parts), np.arange(length))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
