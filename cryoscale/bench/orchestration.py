"""What the driver, its fleet, lease and ledger cost a block, with no work in it, beside plain Dask."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from distributed import as_completed
from shapely.geometry import MultiPolygon

from cryoscale import lease
from cryoscale.bench import idle, processes
from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.blocktask import ACTOR_DEADLINE_S, Task
from cryoscale.cluster import workers
from cryoscale.drive import Driver
from cryoscale.fleet import Fleet
from cryoscale.flights import AHEAD
from cryoscale.infer.actor import ModelActor
from cryoscale.ledger import Ledger, Marker, Work
from cryoscale.outcome import Outcome, Progress, Watch
from cryoscale.roster import CPU, Workers
from cryoscale.settings import ClusterSpec, ModelSpec, Season, Settings

IDENTITY = "none"
WHOLE, PLAIN = "whole", "client.map"
TASKS: Mapping[str, Task] = {
    "returns": idle.returns,
    "asks": idle.asks,
    "marks": idle.marks,
    WHOLE: idle.whole,
}

AT = (0.05, 0.25, 0.5, 0.75, 1.0)
"""When memory is looked at, as a share of the blocks."""


@dataclass
class Account:
    """Seconds, CPU and memory of the driver's process, and of a scheduler's where that is another."""

    scheduler: int | None = None
    mib: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _began: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Start the clocks."""
        self._began = self._now()

    def end(self, count: int) -> dict[str, float]:
        """Milliseconds a block by each clock, and what the tasks say they waited for."""
        now = self._now()
        found = {f"{name}_ms": 1000 * (now[name] - self._began[name]) / count for name in now}
        waited = {f"in_task_{name}_ms": 1000 * value / count for name, value in self.seconds.items()}
        return {name: round(value, 3) for name, value in {**found, **waited}.items()}

    def look(self, share: float) -> None:
        """Note the memory now."""
        pids = {"driver": os.getpid(), **({"scheduler": self.scheduler} if self.scheduler else {})}
        self.mib[f"{share:.0%}"] = {name: round(processes.rss_mib(pid), 1) for name, pid in pids.items()}

    def _now(self) -> dict[str, float]:
        found = {"wall": time.perf_counter(), "cpu_driver": processes.cpu_s(os.getpid())}
        if self.scheduler:
            found["cpu_scheduler"] = processes.cpu_s(self.scheduler)
        return {**found, "cpu_all": processes.family_cpu_s(os.getpid())}


def settings(kind: str = "local") -> Settings:
    """Two workers and the model that costs least, on tiles of a pixel."""
    model, season = ModelSpec(name="band-ratio", overlap=0.0), Season("10-01", "10-31")
    cluster = ClusterSpec(kind, cpu_workers=2)
    nowhere = MultiPolygon()
    return Settings("none", nowhere, (2018,), season, (), {}, model, tile_px=1, block_px=1, cluster=cluster)


def drive(found: Workers, kind: str, way: str, works: Sequence[Work], account: Account) -> dict[str, float]:
    """Drive blocks as a run does, under its lease and with a listener; milliseconds a block."""
    shares = {max(1, round(share * len(works))): share for share in AT}

    def on_event(name: str, facts: Mapping[str, Any]) -> None:
        for part in ("actor", "marker") if name == "block" else ():
            account.seconds[part] = account.seconds.get(part, 0.0) + facts["seconds"].get(part, 0.0)

    def on_progress(progress: Progress) -> None:
        if progress.done in shares:
            account.look(shares[progress.done])

    class Timed(Driver):
        """Its tasks do no work; the clock starts with the first, when the models are loaded."""

        task = staticmethod(TASKS[way])

        def _set_out(self) -> None:
            super()._set_out()
            account.begin()

    driving: list[Driver] = []
    with tempfile.TemporaryDirectory() as out:
        with lease.held(out, lambda: driving[-1].facts() if driving else {}) as held:
            outcome = Outcome(out)
            watch = Watch(on_progress, on_event, check=held.require)
            driving.append(Timed(settings(kind), out, IDENTITY, found, outcome, watch))
            driving[-1].drive(works)
            measured = account.end(len(works))
        assert outcome.computed == len(works), outcome
    return measured


def plain(found: Workers, kind: str, works: Sequence[Work], account: Account) -> dict[str, float]:
    """The same tasks by ``client.map`` over all of them and ``as_completed``."""
    fleet = Fleet(found.client, settings(kind))
    while not fleet.ready:
        fleet.look()
        time.sleep(0.05)
    seat = fleet.choose(AHEAD)
    assert seat is not None
    with tempfile.TemporaryDirectory() as out:
        account.begin()
        futures = found.client.map(
            lambda work, out=out, ref=seat.ref: idle.whole(out, IDENTITY, work, ref, 1, ACTOR_DEADLINE_S),
            list(works),
            pure=False,
            resources={CPU: 1},
        )
        done = 0
        for _, document in as_completed(futures, with_results=True):
            Marker.model_validate_json(document)
            done += 1
        measured = account.end(done)
        account.look(1.0)
    fleet.close()
    return measured


def measure(count: int) -> Figure:
    """Blocks a second of the driver; limit: the same pieces of work called by threads, without Dask."""
    works = idle.works(count)
    with workers(settings().cluster) as found:
        drive(found, "local", WHOLE, works[:8], Account())  # what is imported once is imported now
        ours = drive(found, "local", WHOLE, works, Account())
        theirs = plain(found, "local", works, Account())
        threads = found.tasks
    alone_s = _alone_s(works, threads)
    return Figure(
        "orchestration",
        1000 / ours["wall_ms"],
        "blocks/s",
        count / alone_s,
        f"asking a model and putting a marker by {threads} threads of one process, without Dask",
        Rival(
            "dask client.map",
            1000 / theirs["wall_ms"],
            "no repeats, no lease, all blocks in the graph at once",
        ),
        {"blocks": count, "ms_a_block": rounded(ours["wall_ms"])},
    )


def _alone_s(works: Sequence[Work], threads: int) -> float:
    actor = ModelActor({"name": "band-ratio"}, tile_px=idle.BLOCK_PX, overlap=0.0)

    def one(work: Work) -> None:
        window = work[1].window
        actor.predict(idle.FEATURES, window.row, window.col, window)
        Ledger(out).mark(idle.marker_of(work))

    with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        list(pool.map(one, works))
        return time.perf_counter() - begun
