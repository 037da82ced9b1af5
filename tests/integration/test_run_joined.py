"""A run on workers that somebody else started, told apart by their resources alone."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client

from cryoscale.cluster import Site, require_reachable
from cryoscale.errors import InputError, StoppedError
from cryoscale.ledger import Ledger
from cryoscale.pipeline import run as run_pipeline
from cryoscale.read.kept import KEEP_GIB
from cryoscale.settings import ClusterSpec
from tests.forked import Forked
from tests.integration.conftest import TinyRange, map_here
from tests.integration.faults import Command, few_blocks, write_config
from tests.integration.misbehave import by_content, misbehaving, remote_catalogue
from tests.integration.test_read_kept import is_shared


def start(*arguments: str) -> Forked:
    """A process of Dask's own command line on loopback."""
    return Forked("dask", *arguments, stdout=subprocess.DEVNULL)


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


@contextmanager
def worker(scheduler: str, kind: str, *more: str, host: str = "127.0.0.1") -> Iterator[Forked]:
    """A worker with that resource, not yet joined; another host is another machine."""
    quiet = ("--no-nanny", "--no-dashboard", "--host", host, "--nthreads", "2")
    process = start("worker", scheduler, "--resources", kind, *quiet, *more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def workers(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A worker of either kind; the scheduler's address."""
    monkeypatch.setenv(KEEP_GIB, "1")
    scratch = ("--local-directory", str(tmp_path / "scratch"))
    with worker(scheduler, "CPU=2", *scratch), worker(scheduler, "GPU=1", *scratch):
        yield scheduler


def test_a_joined_cluster_gives_the_map_of_one_process_and_is_sent_little_twice(
    tiny_range: TinyRange, tmp_path: Path, workers: str
) -> None:
    map_here(tiny_range.settings(), tmp_path / "here")
    with misbehaving(tiny_range.folder, marks=by_content) as host:
        remote_catalogue(tiny_range.folder, tmp_path / "remote", host.url)
        catalogs = [{"url": str(tmp_path / "remote")}]
        settings = tiny_range.settings(cluster={"kind": workers}, catalogs=catalogs)
        outcome = run_pipeline(settings, str(tmp_path / "there"))
    assert outcome.exit_code == 0
    assert list((tmp_path / "scratch").iterdir())
    assert not list((tmp_path / "scratch").rglob("cryoscale-ranges*"))
    found, expected = (Ledger(str(tmp_path / name)).done() for name in ("there", "here"))
    assert {k: m.checksum for k, m in found.items()} == {k: m.checksum for k, m in expected.items()}
    assert {m.worker for m in found.values()}
    assert is_shared(found.values())


def test_a_scheduler_without_workers_or_none_at_all_is_told_in_one_line(
    tiny_range: TinyRange, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.roster.CONNECT_TIMEOUT_S", 2.0)
    for address, words in ((scheduler, "without workers"), ("tcp://127.0.0.1:9", "does not answer")):
        with pytest.raises(InputError, match=words) as caught:
            run_pipeline(tiny_range.settings(cluster={"kind": address}), str(tmp_path / "run"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("first", "then"), [("CPU=2", "GPU=1"), ("GPU=1", "CPU=2")])
def test_workers_of_the_other_kind_may_join_later(scheduler: str, first: str, then: str) -> None:
    with worker(scheduler, first), ThreadPoolExecutor(1) as beside:
        with Client(scheduler, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)

        def joined() -> tuple[int, int]:
            with Site(ClusterSpec(kind=scheduler)).workers() as found:
                return found.tasks, found.actors

        waiting = beside.submit(joined)
        with pytest.raises(TimeoutError):
            waiting.result(1.0)
        with worker(scheduler, then):
            assert waiting.result(60) == (2, 1)


def test_workers_of_one_kind_alone_are_refused_in_one_line(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.roster.CONNECT_TIMEOUT_S", 5.0)
    with worker(scheduler, "CPU=2"):
        with Client(scheduler, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
        site = Site(ClusterSpec(kind=scheduler))
        with pytest.raises(InputError, match="no worker offers the resource GPU") as caught, site.workers():
            pass
    assert "\n" not in str(caught.value)


def test_a_run_that_is_told_to_stop_waits_for_workers_no_longer(scheduler: str) -> None:
    stop = threading.Event()
    stop.set()
    told: list[str] = []
    spec = ClusterSpec(kind=scheduler)
    with pytest.raises(StoppedError), Site(spec, stop=stop, tell=told.append).workers():
        pass
    with pytest.raises(StoppedError):
        require_reachable(spec, "run", stop, told.append)
    assert told == [f"waiting for workers that offer CPU and GPU at {scheduler}"] * 2


def test_the_command_says_what_it_waits_for_and_leaves_at_sigterm(
    tiny_range: TinyRange, tmp_path: Path, scheduler: str
) -> None:
    config = write_config(tmp_path / "run.yaml", few_blocks(tiny_range, cluster={"kind": scheduler}))
    command = Command.start("run", config, "--out", tmp_path / "run")
    assert command.process.stdout is not None
    line = ""
    while "waiting for workers" not in line:
        line = command.process.stdout.readline()
        assert line, "it ended before"
    command.kill(signal.SIGTERM)
    code, _, complained = command.end(timeout_s=20.0)
    assert code == 75, complained
    assert "the same command goes on" in complained
    assert not (tmp_path / "run").exists()
