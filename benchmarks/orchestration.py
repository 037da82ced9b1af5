"""What a run costs beside its blocks: driver, scheduler, actor calls and markers, with no work in a block.

``python -m benchmarks.orchestration [--scale tiny|moderate|full] [--out FILE]`` drives blocks through the
real driver, fleet, lease and ledger. First in parts: tasks that return at once, that ask the actor, that put
their marker, that do both, and the same tasks by ``client.map`` and ``as_completed``, in turns. Then all the
blocks, on a local cluster, where the scheduler lives in the driver's process, and on a scheduler that is a
process of its own, with the memory of both as the blocks go by.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from cryoscale.bench import idle, processes, record
from cryoscale.bench.orchestration import PLAIN, TASKS, WHOLE, Account, drive, plain, settings
from cryoscale.cluster import workers

PACKAGES = ("cryoscale", "dask", "distributed", "pydantic")


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


def parts(scale: Scale) -> dict[str, Any]:
    """Milliseconds a block of each kind of task, and of the whole one by ``client.map``; in turns."""
    rows: dict[str, list[dict[str, float]]] = {}
    works = idle.works(scale.part_blocks)
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
    works = idle.works(scale.blocks)
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


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "orchestration.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
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
