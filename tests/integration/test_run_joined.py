"""A run on workers that somebody else started, told apart by their resources alone."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryoscale.errors import InputError
from cryoscale.ledger import Ledger
from cryoscale.pipeline import run as run_pipeline
from tests.integration.conftest import TinyRange, map_here

DASK = [sys.executable, "-m", "dask"]


def start(*arguments: str) -> subprocess.Popen[str]:
    """A process of Dask's own command line on loopback."""
    command = [*DASK, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a scheduler without workers."""
    process = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
    try:
        assert process.stderr is not None
        deadline = time.monotonic() + 60
        address = None
        while address is None and time.monotonic() < deadline:
            found = re.search(r"tcp://127\.0\.0\.1:\d+", process.stderr.readline())
            address = found.group(0) if found else None
        assert address, "the scheduler did not say where it listens"
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def workers(scheduler: str) -> Iterator[str]:
    """A worker of either kind; the scheduler's address."""
    quiet = ("--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--nthreads", "2")
    processes = [start("worker", scheduler, "--resources", kind, *quiet) for kind in ("CPU=2", "GPU=1")]
    try:
        from distributed import Client

        with Client(scheduler, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        yield scheduler
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_joined_cluster_gives_the_map_of_one_process(
    tiny_range: TinyRange, tmp_path: Path, workers: str
) -> None:
    map_here(tiny_range.settings(), tmp_path / "here")
    outcome = run_pipeline(tiny_range.settings(cluster={"kind": workers}), str(tmp_path / "there"))
    assert outcome.exit_code == 0
    found, expected = (Ledger(str(tmp_path / name)).done() for name in ("there", "here"))
    assert {k: m.checksum for k, m in found.items()} == {k: m.checksum for k, m in expected.items()}
    assert {m.worker for m in found.values()}


def test_a_scheduler_without_workers_or_none_at_all_is_told_in_one_line(
    tiny_range: TinyRange, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.cluster.CONNECT_TIMEOUT_S", 2.0)
    for address, words in ((scheduler, "without workers"), ("tcp://127.0.0.1:9", "does not answer")):
        with pytest.raises(InputError, match=words) as caught:
            run_pipeline(tiny_range.settings(cluster={"kind": address}), str(tmp_path / "run"))
        assert "\n" not in str(caught.value)
