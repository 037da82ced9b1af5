"""Workers of a scheduler as pods have them: when they say that they are ready, and how they go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler, Worker
from tornado.httpclient import AsyncHTTPClient

from cryoscale import preload
from cryoscale.errors import WeightsError
from tests.forked import Forked
from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import Command, bytes_that_differ, done, few_blocks, until, write_config
from tests.ports import free_port
from tests.tables import Table

TAP = """
import os, time
from pathlib import Path
import cryoscale.blocktask, cryoscale.infer.actor

folder = Path(__file__).parent

def note(kind, what):
    with open(folder / kind, "a") as file:
        file.write(f"{os.getpid()} {what}\\n")
    while (folder / f"hold-{kind}").exists():
        time.sleep(0.02)

process_block = cryoscale.blocktask.process_block
def tapped(out, identity, year, block, *more, **options):
    note("blocks", f"{block.epsg}/{block.key}")
    return process_block(out, identity, year, block, *more, **options)
cryoscale.blocktask.process_block = tapped

predict = cryoscale.infer.actor.ModelActor.predict
def held(self, *arguments):
    note("predictions", arguments[3].key)
    return predict(self, *arguments)
cryoscale.infer.actor.ModelActor.predict = held
"""
"""Notes each block that a worker begins, and holds it there while the test wants it to."""


@dataclass
class Pod:
    """A process ``dask worker`` as a pod runs it."""

    process: Forked
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
    workers: list[Pod]

    @property
    def address(self) -> str:
        """The scheduler's."""
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, resources: str, env: Mapping[str, str] | None = None) -> Pod:
        """A worker that offers ``resources``."""
        http = free_port()
        line = ["worker", self.address, "--no-dashboard", "--no-nanny"]
        line += ["--host", "127.0.0.1", "--dashboard-address", f"127.0.0.1:{http}"]
        line += ["--nthreads", "1", "--resources", resources, "--local-directory", str(self.folder)]
        line += ["--preload", "tap", "--preload", "cryoscale.preload"]
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with (self.folder / f"{resources}-{http}.log").open("w") as log:
            more = {"PYTHONPATH": path, **(env or {})}
            process = Forked("dask", *line, stdout=log, stderr=log, env={**os.environ, **more})
        self.workers.append(Pod(process, http))
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


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A scheduler without workers."""
    (tmp_path / "tap.py").write_text(TAP)
    made = Site(tmp_path, free_port(), [])
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


def test_sigterm_drains_a_worker_of_either_kind_and_only_what_misses_the_deadline_is_done_twice(
    site: Site, tiny_range: TinyRange, calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out = tmp_path / "run"
    config = write_config(tmp_path / "run.yaml", few_blocks(tiny_range, cluster={"kind": site.address}))
    hasty = site.start("CPU=1", {"CRYOSCALE_DRAIN_S": "0.5"})
    cpus, gpus = [site.start("CPU=1") for _ in range(2)], [site.start("GPU=1") for _ in range(2)]
    assert until(lambda: all(worker.ready() == (200, "ready") for worker in site.workers))
    site.hold("blocks")
    site.hold("predictions")
    command = Command.start("run", config, "--out", out, "--json")
    # one block stands in each CPU worker, and as many wait there for a thread
    assert until(lambda: len({pid for pid, _ in site.noted("blocks")}) == 3, command)
    (missed,) = [what for pid, what in site.noted("blocks") if pid == hasty.process.pid]
    hasty.terminate()
    assert hasty.end() == 0
    assert done(out) == 0
    cpus[0].terminate()
    assert until(lambda: cpus[0].ready() == (503, "draining: it finishes its blocks and leaves"))
    site.let_go("blocks")
    assert until(lambda: bool(site.noted("predictions")), command)
    first, _ = site.noted("predictions")[0]
    gpus.sort(key=lambda worker: worker.process.pid != first)
    gpus[0].terminate()  # with a block under way, and others on the way to it
    assert until(lambda: gpus[0].ready()[0] == 503)
    site.let_go("predictions")
    assert [cpus[0].end(), gpus[0].end()] == [0, 0]
    code, said, complained = command.end()
    assert code == 0, complained
    told = json.loads(said)
    assert (told["computed"], told["repeated"]) == (calm.blocks, 0)  # Dask itself passes on what was missed
    begun = Counter(what for _, what in site.noted("blocks"))
    assert begun == Counter({what: 1 + (what == missed) for what in begun})
    assert len(begun) == calm.blocks
    differ = bytes_that_differ(out, calm.out)
    faults.add("SIGTERM of workers, one too short of time", 3, 1, differ)
    assert differ == 0
    events = _told(out)
    assert (events["actor_drained"], events["actor_lost"], events["lost"]) == (1, 0, 0)
    for worker in (cpus[1], gpus[1]):  # nothing runs
        worker.terminate()
    assert [cpus[1].end(), gpus[1].end()] == [0, 0]


# --- readiness --------------------------------------------------------------------------------------


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """A worker in this process heeds SIGTERM; the tests after this one do as before."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


async def _asked(worker: Any, wanted: str) -> int:
    """The status of ``/ready`` as soon as it says what is wanted."""
    url = f"http://127.0.0.1:{worker.http_server.port}/ready"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(ConnectionError):
            answer = await AsyncHTTPClient().fetch(url, raise_error=False)
            if wanted in answer.body.decode():
                return int(answer.code)
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {wanted!r}")


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("fails", [False, True])
def test_a_gpu_worker_joins_once_its_model_is_loaded_and_says_meanwhile_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    go_on = threading.Event()

    def keep(**spec: object) -> None:
        assert spec == {"weights": "/models/net.safetensors", "precision": "bf16"}
        assert go_on.wait(30)
        if fails:
            raise WeightsError("weights /models/net.safetensors", "a file", "fetch it\nagain")

    monkeypatch.setattr(preload, "keep", keep)
    monkeypatch.setenv(preload.WEIGHTS, "/models/net.safetensors")
    monkeypatch.setenv(preload.PRECISION, "bf16")

    async def live() -> None:
        options: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "dashboard": False}
        async with Scheduler(host="127.0.0.1", port=0, **options) as scheduler:
            plain = Worker(scheduler.address, preload=["cryoscale.preload"], host="127.0.0.1", **options)
            async with plain:  # a worker without a GPU needs no model
                assert await _asked(plain, "ready\n") == 200
            worker = Worker(
                scheduler.address,
                preload=["cryoscale.preload"],
                host="127.0.0.1",
                resources={"GPU": 1},
                **options,
            )
            started = asyncio.ensure_future(worker.start())
            while not getattr(worker, "http_server", None):
                await asyncio.sleep(0.01)
            assert await _asked(worker, "loading the model of /models/net.safetensors") == 503
            assert not scheduler.workers
            go_on.set()
            await started
            if fails:  # it joins all the same: its driver tells the user why no actor starts
                assert await _asked(worker, "cannot be loaded: given weights /models/net.") == 503
            else:
                assert await _asked(worker, "ready\n") == 200
            assert list(scheduler.workers) == [worker.address]
            await worker.close()

    asyncio.run(live())


@pytest.mark.usefixtures("_own_signals")
def test_a_worker_waits_for_its_namesake_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "NAMESAKE_S", 0.05)

    async def live() -> None:
        options: dict[str, Any] = {
            "dashboard_address": "127.0.0.1:0",
            "dashboard": False,
            "host": "127.0.0.1",
        }
        async with Scheduler(port=0, **options) as scheduler:
            former = await Worker(scheduler.address, name="one", **options)
            worker = Worker(scheduler.address, name="one", preload=["cryoscale.preload"], **options)
            started = asyncio.ensure_future(worker.start())
            while not getattr(worker, "http_server", None):
                await asyncio.sleep(0.01)
            assert await _asked(worker, f"waiting for {former.address}, which has the same name") == 503
            assert list(scheduler.workers) == [former.address]
            await former.close()
            await started
            assert await _asked(worker, "ready\n") == 200
            assert list(scheduler.workers) == [worker.address]
            await worker.close()

    asyncio.run(live())
