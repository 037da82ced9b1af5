"""Workers of a scheduler as pods have them: when they say that they are ready, and how they go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cryoscale.ledger import Ledger
from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import Command, bytes_that_differ, done, few_blocks, until, write_config

TAP = """
import os, time
from pathlib import Path
import cryoscale.drive, cryoscale.infer.actor

folder = Path(__file__).parent

def note(kind, what):
    with open(folder / kind, "a") as file:
        file.write(f"{os.getpid()} {what}\\n")
    while (folder / f"hold-{kind}").exists():
        time.sleep(0.02)

process_block = cryoscale.drive.process_block
def tapped(out, identity, year, block, *more, **options):
    note("blocks", f"{block.epsg}/{block.key}")
    return process_block(out, identity, year, block, *more, **options)
cryoscale.drive.process_block = tapped

predict = cryoscale.infer.actor.ModelActor.predict
def held(self, *arguments):
    note("predictions", arguments[3].key)
    return predict(self, *arguments)
cryoscale.infer.actor.ModelActor.predict = held
"""
"""Notes each block that a worker begins, and holds it there while the test wants it to."""


@dataclass
class Worker:
    """A process ``dask worker`` as a pod runs it."""

    process: subprocess.Popen[str]
    http: int

    def ready(self) -> tuple[int, str]:
        """Status and text of ``/ready``; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/ready", timeout=5) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().strip()
        except OSError:
            return 0, ""

    def terminate(self) -> None:
        """SIGTERM, as a kubelet sends it."""
        self.process.send_signal(signal.SIGTERM)

    def end(self, timeout_s: float = 60) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)


@dataclass
class Site:
    """A scheduler, workers that come and go, and what the tap noted of them."""

    folder: Path
    port: int
    workers: list[Worker]

    @property
    def address(self) -> str:
        """The scheduler's."""
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, resources: str, env: Mapping[str, str] | None = None) -> Worker:
        """A worker that offers ``resources``."""
        http = _free_port()
        line = [sys.executable, "-m", "dask", "worker", self.address, "--no-dashboard", "--no-nanny"]
        line += ["--host", "127.0.0.1", "--dashboard-address", f"127.0.0.1:{http}"]
        line += ["--nthreads", "1", "--resources", resources, "--local-directory", str(self.folder)]
        line += ["--preload", "tap", "--preload", "cryoscale.preload"]
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with (self.folder / f"{resources}-{http}.log").open("w") as log:
            more = {"PYTHONPATH": path, **(env or {})}
            process = subprocess.Popen(line, stdout=log, stderr=log, text=True, env={**os.environ, **more})
        self.workers.append(Worker(process, http))
        return self.workers[-1]

    def hold(self, kind: str) -> None:
        """Blocks that begin stand still."""
        (self.folder / f"hold-{kind}").touch()

    def let_go(self, kind: str) -> None:
        """They go on."""
        (self.folder / f"hold-{kind}").unlink()

    def noted(self, kind: str) -> list[tuple[int, str]]:
        """Process and block, each time that one was begun."""
        path = self.folder / kind
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), what) for pid, what in (line.split() for line in lines)]


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A scheduler without workers."""
    (tmp_path / "tap.py").write_text(TAP)
    made = Site(tmp_path, _free_port(), [])
    line = [sys.executable, "-m", "dask", "scheduler", "--no-dashboard", "--no-show"]
    line += ["--host", "127.0.0.1", "--port", str(made.port)]
    env = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    scheduler = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        yield made
    finally:
        for process in [*(worker.process for worker in made.workers), scheduler]:
            process.kill()
            process.wait()


def _told(out: Path) -> Counter[str]:
    """What the run's only session told, by the kind of event."""
    (log,) = (out / "ledger" / "log").iterdir()
    return Counter(json.loads(line)["event"] for line in log.read_text().splitlines())


def test_sigterm_drains_a_worker_of_either_kind_and_no_block_is_done_twice(
    site: Site, tiny_range: TinyRange, calm: Calm, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = write_config(tmp_path / "run.yaml", few_blocks(tiny_range, cluster={"kind": site.address}))
    cpus, gpus = [site.start("CPU=1") for _ in range(2)], [site.start("GPU=1") for _ in range(2)]
    assert until(lambda: all(worker.ready()[0] == 200 for worker in site.workers))
    site.hold("blocks")
    site.hold("predictions")
    command = Command.start("run", config, "--out", out, "--json")
    # one block stands in each CPU worker, and as many wait there for a thread
    assert until(lambda: len({pid for pid, _ in site.noted("blocks")}) == 2, command)
    cpus[0].terminate()
    assert until(lambda: cpus[0].ready() == (503, "draining: it finishes its blocks and leaves"))
    site.let_go("blocks")
    assert until(lambda: bool(site.noted("predictions")), command)
    first, _ = site.noted("predictions")[0]
    gpus.sort(key=lambda worker: worker.process.pid != first)
    gpus[0].terminate()
    assert until(lambda: gpus[0].ready()[0] == 503)
    site.let_go("predictions")
    assert [cpus[0].end(), gpus[0].end()] == [0, 0]
    code, said, complained = command.end()
    assert code == 0, complained
    told = json.loads(said)
    assert (told["computed"], told["repeated"]) == (calm.blocks, 0)
    begun = Counter(what for _, what in site.noted("blocks"))
    assert set(begun.values()) == {1}, begun
    assert bytes_that_differ(out, calm.out) == 0
    events = _told(out)
    assert (events["actor_drained"], events["actor_lost"]) == (1, 0)
    # nothing runs: they leave at once
    for worker in (cpus[1], gpus[1]):
        worker.terminate()
    assert [cpus[1].end(), gpus[1].end()] == [0, 0]


def test_a_drain_that_takes_too_long_is_left_to_others_who_do_the_block_again(
    site: Site, tiny_range: TinyRange, calm: Calm, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = write_config(tmp_path / "run.yaml", few_blocks(tiny_range, cluster={"kind": site.address}))
    stuck = site.start("CPU=1", {"CRYOSCALE_DRAIN_S": "0.5"})
    site.start("GPU=1")
    assert until(lambda: all(worker.ready()[0] == 200 for worker in site.workers))
    site.hold("blocks")
    command = Command.start("run", config, "--out", out, "--json")
    assert until(lambda: len(site.noted("blocks")) == 1, command)
    stuck.terminate()
    assert stuck.end() == 0
    assert done(out) == 0
    site.let_go("blocks")
    site.start("CPU=1")
    code, said, complained = command.end()
    assert code == 0, complained
    told = json.loads(said)
    assert (told["computed"], told["repeated"]) == (calm.blocks, 0)  # Dask itself gave it to another
    begun = Counter(what for _, what in site.noted("blocks"))
    assert sorted(begun.values())[-2:] == [1, 2], begun
    assert bytes_that_differ(out, calm.out) == 0
    assert all(marker.attempt == 1 for marker in Ledger(str(out)).markers())
