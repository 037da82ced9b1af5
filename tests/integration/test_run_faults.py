"""Faults that are caused, not imagined: whatever dies, the finished map is that of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale.config import load_config
from cryoscale.grid import Block
from cryoscale.ledger import Ledger
from cryoscale.outcome import Progress
from cryoscale.pipeline import run as run_pipeline
from cryoscale.roster import workers_at
from tests.forked import Forked
from tests.integration.conftest import TinyRange, map_here
from tests.integration.faults import few_by_network


def checksums(out: Path) -> dict[tuple[int, Block], str]:
    """What each block's shards are."""
    return {key: marker.checksum for key, marker in Ledger(str(out)).done().items()}


@pytest.fixture(scope="module")
def undisturbed(
    tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, Block], str]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    map_here(load_config(few_by_network(tiny_range)), out)
    return checksums(out)


def kill_workers(kind: str, by: signal.Signals = signal.SIGKILL) -> int:
    """Signals the processes of all workers whose name begins with ``kind``; how many there were."""
    from distributed import default_client

    client: Any = default_client()
    pids = client.run(os.getpid)
    names = {address: info["name"] for address, info in workers_at(client).items()}
    doomed = [pid for address, pid in pids.items() if str(names.get(address, "")).startswith(kind)]
    for pid in doomed:
        os.kill(pid, by)
    return len(doomed)


APART = {"cluster": {"kind": "local", "cpu_workers": 1, "gpu_workers": 1}}
"""Actors in processes of their own, as on a machine with a GPU; else they are in those of the block tasks."""

WORKERS = [("actor", APART), ("cpu", APART), ("cpu", {})]
IDS = ["actor", "cpu", "both in one"]


@pytest.mark.parametrize(("kind", "changes"), WORKERS, ids=IDS)
def test_a_run_outlives_the_death_of_its_workers(
    tiny_range: TinyRange,
    tmp_path: Path,
    undisturbed: dict[tuple[int, Block], str],
    kind: str,
    changes: dict[str, Any],
) -> None:
    killed: list[int] = []

    def strike(_: Progress) -> None:
        if not killed:
            killed.append(kill_workers(kind))

    outcome = run_pipeline(
        load_config(few_by_network(tiny_range, **changes)), str(tmp_path / "run"), on_progress=strike
    )
    assert killed
    assert killed[0] >= 1
    assert outcome.exit_code == 0
    assert checksums(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(("kind", "changes"), [WORKERS[0], WORKERS[2]], ids=[IDS[0], IDS[2]])
def test_a_run_outlives_a_worker_that_freezes(
    tiny_range: TinyRange,
    tmp_path: Path,
    undisturbed: dict[tuple[int, Block], str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: dict[str, Any],
) -> None:
    from cryoscale import cluster

    monkeypatch.setattr(cluster, "FROZEN_S", 8)
    frozen: list[int] = []

    def strike(_: Progress) -> None:
        if not frozen:
            frozen.append(kill_workers(kind, signal.SIGSTOP))

    outcome = run_pipeline(
        load_config(few_by_network(tiny_range, **changes)), str(tmp_path / "run"), on_progress=strike
    )
    assert frozen
    assert frozen[0] >= 1
    assert outcome.exit_code == 0
    assert checksums(tmp_path / "run") == undisturbed


HANGS = """
import os, time

def dask_setup(worker):
    from cryoscale.infer.actor import ModelActor
    honest = ModelActor._predict
    def hangs(self, *arguments):
        if os.path.exists("{switch}"):
            os.unlink("{switch}")
            time.sleep(600)
        return honest(self, *arguments)
    ModelActor._predict = hangs
"""
"""Loaded by every worker: the first block of an actor never ends, though its process answers."""


def test_an_actor_that_hangs_is_noticed_by_its_deadline_ended_and_replaced(
    tiny_range: TinyRange,
    tmp_path: Path,
    undisturbed: dict[tuple[int, Block], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dask

    switch, preload = tmp_path / "switch", tmp_path / "hangs.py"
    switch.touch()
    preload.write_text(HANGS.format(switch=switch))
    monkeypatch.setattr("cryoscale.drive.ACTOR_DEADLINE_S", 15.0)
    events: list[str] = []
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        outcome = run_pipeline(
            load_config(few_by_network(tiny_range)),
            str(tmp_path / "run"),
            on_event=lambda name, _: events.append(name),
        )
    assert not switch.exists(), "nothing hung: nothing was tested"
    assert "actor_lost" in events
    assert (outcome.exit_code, outcome.set_aside) == (0, [])
    assert outcome.repeated >= 1
    assert checksums(tmp_path / "run") == undisturbed


def test_a_killed_driver_loses_nothing_that_was_done(
    tiny_range: TinyRange, tmp_path: Path, undisturbed: dict[tuple[int, Block], str]
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(few_by_network(tiny_range)))
    nowhere = subprocess.DEVNULL
    driver = Forked("cryoscale", "run", config, "--out", out, stdout=nowhere, stderr=nowhere)
    deadline = time.monotonic() + 240
    while not Ledger(str(out)).done() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = checksums(out)
    assert before, "killed before the first block was done: nothing was tested"
    assert before.items() <= undisturbed.items()
    outcome = run_pipeline(load_config(few_by_network(tiny_range)), str(out))
    assert outcome.skipped >= len(before)
    assert checksums(out) == undisturbed
