"""What a run costs beside its blocks: driver, scheduler, actor calls and markers, with no work in a block.

``python -m benchmarks.orchestration [--scale tiny|moderate|full] [--out FILE]`` drives blocks through the
real driver, fleet, lease and ledger. First in parts: tasks that return at once, that ask the actor, that put
their marker, that do both, and the same tasks by ``client.map`` and ``as_completed``, in turns. Then all the
blocks, on a local cluster, where the scheduler lives in the driver's process, and on a scheduler that is a
process of its own, with the memory of both as the blocks go by.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import as_completed
from shapely.geometry import MultiPolygon

from benchmarks import RESULTS, blocks, processes
from cryoscale import lease
from cryoscale.bench import record
from cryoscale.cluster import CPU, Workers, workers
from cryoscale.drive import ACTOR_DEADLINE_S, Driver
from cryoscale.fleet import Fleet
from cryoscale.ledger import Marker, Work
from cryoscale.outcome import Outcome, Progress, Watch
from cryoscale.settings import ClusterSpec, ModelSpec, Season, Settings

PACKAGES = ("cryoscale", "dask", "distributed", "pydantic")
IDENTITY = "none"
WHOLE, PLAIN = "whole", "client.map"
TASKS: Mapping[str, Callable[..., str]] = {
    "returns": blocks.returns,
    "asks": blocks.asks,
    "marks": blocks.marks,
    WHOLE: blocks.whole,
}
AT = (0.05, 0.25, 0.5, 0.75, 1.0)
"""When memory is looked at, as a share of the blocks."""


@dataclass(frozen=True)
class Scale:
    """Blocks of the long runs, blocks of a part in a turn, and turns."""

    blocks: int
    part_blocks: int
    turns: int
    own_scheduler: bool = True


SCALES = {
    "tiny": Scale(200, 50, 1, own_scheduler=False),
    "moderate": Scale(10_000, 1_000, 3),
    "full": Scale(100_000, 1_000, 3),
}


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

        def _submit(self, flights: Any) -> None:
            if not self.flying and not self.outcome.computed:
                account.begin()
            super()._submit(flights)

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
    seat = fleet.choose()
    assert seat is not None
    with tempfile.TemporaryDirectory() as out:
        account.begin()
        futures = found.client.map(
            lambda work, out=out, ref=seat.ref: blocks.whole(out, IDENTITY, work, ref, 1, ACTOR_DEADLINE_S),
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


def parts(scale: Scale) -> dict[str, Any]:
    """Milliseconds a block of each kind of task, and of the whole one by ``client.map``; in turns."""
    rows: dict[str, list[dict[str, float]]] = {}
    works = blocks.works(scale.part_blocks)
    with workers(settings().cluster) as found:
        drive(found, "local", WHOLE, works[:8], Account())  # what is imported once is imported now
        for turn in range(scale.turns):
            order = [*TASKS, PLAIN]
            for name in order if turn % 2 == 0 else order[::-1]:
                account = Account()
                if name == PLAIN:
                    row = plain(found, "local", works, account)
                else:
                    row = drive(found, "local", name, works, account)
                rows.setdefault(name, []).append(row)
    ratios = [ours["wall_ms"] / base["wall_ms"] for ours, base in zip(rows[WHOLE], rows[PLAIN], strict=True)]
    return {
        "ways": {
            name: {key: _spread([row[key] for row in turns]) for key in turns[0]}
            for name, turns in rows.items()
        },
        "whole_over_client_map": _spread(ratios),
    }


def long_run(scale: Scale, own_scheduler: bool) -> dict[str, Any]:
    """All blocks in one go: milliseconds a block, and memory as they go by."""
    works = blocks.works(scale.blocks)
    with ExitStack() as stack:
        kind, account = "local", Account()
        if own_scheduler:
            cluster = stack.enter_context(processes.cluster(cpu_workers=2, actors=1))
            kind, account = cluster.address, Account(cluster.scheduler_pid)
        found = stack.enter_context(workers(settings(kind).cluster))
        row: dict[str, Any] = drive(found, kind, WHOLE, works, account)
    quarter, end = account.mib[f"{0.25:.0%}"], account.mib[f"{1.0:.0%}"]
    growth = {name: (end[name] - quarter[name]) / (0.75 * len(works)) * 100_000 for name in end}
    return {
        **row,
        "mib": account.mib,
        "mib_per_100000_blocks": {name: round(value, 1) for name, value in growth.items()},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def part_lines(results: Mapping[str, Any]) -> str:
    """Milliseconds of the parts as lines of text."""
    lines = [f"{'ms a block':24}{'wall':>8}{'min':>8}{'max':>8}{'CPU driver':>12}{'CPU all':>9}"]
    for name, row in results["ways"].items():
        wall, own, total = row["wall_ms"], row["cpu_driver_ms"], row["cpu_all_ms"]
        lines.append(
            f"{name:24}{wall['median']:8.2f}{wall['min']:8.2f}{wall['max']:8.2f}"
            f"{own['median']:12.2f}{total['median']:9.2f}"
        )
    ratio = results["whole_over_client_map"]
    told = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    return "\n".join([*lines, f"whole by the driver to whole by client.map: {told}"])


def long_lines(name: str, row: Mapping[str, Any]) -> str:
    """A long run as lines of text."""
    told = ", ".join(f"{key.removesuffix('_ms')} {row[key]:.2f}" for key in row if key.endswith("_ms"))
    return (
        f"{name}: ms a block: {told}\n"
        f"  MiB by share of the blocks: {row['mib']}\n"
        f"  MiB more a 100,000 blocks, from a quarter on: {row['mib_per_100000_blocks']}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "orchestration.jsonl")
    given = parser.parse_args(arguments)
    scale = SCALES[given.scale]
    results: dict[str, Any] = {"parts": parts(scale), "long": {}}
    print(part_lines(results["parts"]), flush=True)
    for own_scheduler in (False, True) if scale.own_scheduler else (False,):
        name = "scheduler of its own" if own_scheduler else "scheduler in the driver"
        results["long"][name] = long_run(scale, own_scheduler) | {"load": record.machine()["load"]}
        print(long_lines(name, results["long"][name]), flush=True)
    method = (
        "cryoscale.drive.Driver with its fleet, lease and ledger over blocks whose task does nothing "
        "(returns), asks the actor for a place and for the bands of one pixel without data (asks), puts a "
        "marker of five scenes with fsync (marks), or both (whole); on 2 workers of 2 threads; client.map is "
        "the task whole over all blocks of a part at once, with as_completed; parts in turns; wall and CPU "
        "from the first block's submission to the last one's return; memory is RSS"
    )
    sizes = {"scale": given.scale, **vars(scale)}
    document = record.line("orchestration", method=method, sizes=sizes, results=results, packages=PACKAGES)
    record.append(given.out, document)


if __name__ == "__main__":
    main()
