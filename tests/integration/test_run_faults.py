"""Faults that are caused, not imagined: whatever dies, the finished map is that of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale.grid import Block
from cryoscale.ledger import Ledger
from cryoscale.outcome import Progress
from cryoscale.pipeline import run as run_pipeline
from tests.integration.conftest import TinyRange, map_here


def checksums(out: Path) -> dict[tuple[int, Block], str]:
    """What each block's shards are."""
    return {key: marker.checksum for key, marker in Ledger(str(out)).done().items()}


@pytest.fixture(scope="module")
def undisturbed(
    tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, Block], str]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    map_here(tiny_range.settings(), out)
    return checksums(out)


def kill_workers(kind: str, by: signal.Signals = signal.SIGKILL) -> int:
    """Signals the processes of all workers whose name begins with ``kind``; how many there were."""
    from distributed import default_client

    client: Any = default_client()
    pids = client.run(os.getpid)
    names = {
        address: info["name"] for address, info in client.scheduler_info(n_workers=-1)["workers"].items()
    }
    doomed = [pid for address, pid in pids.items() if str(names.get(address, "")).startswith(kind)]
    for pid in doomed:
        os.kill(pid, by)
    return len(doomed)


@pytest.mark.parametrize("kind", ["actor", "cpu"])
def test_a_run_outlives_the_death_of_its_workers(
    tiny_range: TinyRange, tmp_path: Path, undisturbed: dict[tuple[int, Block], str], kind: str
) -> None:
    killed: list[int] = []

    def strike(_: Progress) -> None:
        if not killed:
            killed.append(kill_workers(kind))

    outcome = run_pipeline(tiny_range.settings(), str(tmp_path / "run"), on_progress=strike)
    assert killed
    assert killed[0] >= 1
    assert outcome.exit_code == 0
    assert checksums(tmp_path / "run") == undisturbed


def test_a_run_outlives_a_worker_that_freezes(
    tiny_range: TinyRange,
    tmp_path: Path,
    undisturbed: dict[tuple[int, Block], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cryoscale import cluster

    monkeypatch.setattr(cluster, "FROZEN_S", 8)
    frozen: list[int] = []

    def strike(_: Progress) -> None:
        if not frozen:
            frozen.append(kill_workers("cpu", signal.SIGSTOP))

    outcome = run_pipeline(tiny_range.settings(), str(tmp_path / "run"), on_progress=strike)
    assert frozen
    assert frozen[0] >= 1
    assert outcome.exit_code == 0
    assert checksums(tmp_path / "run") == undisturbed


def test_a_killed_driver_loses_nothing_that_was_done(
    tiny_range: TinyRange, tmp_path: Path, undisturbed: dict[tuple[int, Block], str]
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(tiny_range.config()))
    command = [sys.executable, "-m", "cryoscale.cli", "run", str(config), "--out", str(out)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not Ledger(str(out)).done() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = checksums(out)
    assert before, "killed before the first block was done: nothing was tested"
    assert before.items() <= undisturbed.items()
    outcome = run_pipeline(tiny_range.settings(), str(out))
    assert outcome.skipped >= len(before)
    assert checksums(out) == undisturbed


def test_a_full_disk_sets_blocks_aside_and_a_later_run_completes_them(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoscale.write import mosaic

    settings = tiny_range.settings(model={"name": "band-ratio"})
    whole = map_here(settings, tmp_path / "whole")
    written: list[int] = []
    write_block = mosaic.write_block

    def full(*arguments: Any, **named: Any) -> Any:
        if len(written) >= 2:
            raise OSError(28, "No space left on device")
        written.append(1)
        return write_block(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("cryoscale.task.mosaic.write_block", full)
        with pytest.raises(OSError, match="No space"):
            map_here(settings, tmp_path / "run")
    assert len(checksums(tmp_path / "run")) == 2
    outcome = run_pipeline(settings, str(tmp_path / "run"))
    assert outcome.computed == len(whole) - 2
    assert checksums(tmp_path / "run") == checksums(tmp_path / "whole")
