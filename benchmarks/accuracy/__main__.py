"""The command: ``python -m benchmarks.accuracy --scale tiny|cpu|full [--out DIR] [--models …]``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.accuracy.jobs import JobError, Room, do, run_all
from benchmarks.accuracy.plan import plan
from benchmarks.accuracy.record import cpu_s, line, machine
from benchmarks.accuracy.scales import MODELS, SCALES, Scale, scale_named
from benchmarks.accuracy.steps import Bench
from benchmarks.accuracy.tables import page, save
from benchmarks.command import Parser, at_least, command, positive
from cryoscale.bench.record import append, require_writable
from cryoscale.errors import InputError, OutputError


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, or completes the one that lies in the folder."""
    parser = Parser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--scale", default="tiny", help=f"one of {', '.join(SCALES)}")
    parser.add_argument("--out", type=Path, help="folder for everything (default: build/accuracy-SCALE)")
    parser.add_argument("--models", nargs="+", default=None, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument(
        "--seeds",
        type=at_least(1),
        default=1,
        metavar="N",
        help="trainings of every learner, each from other weights; the tables say how far they differ",
    )
    parser.add_argument(
        "--workers", type=at_least(0), help="jobs at once, each a process; 0: all in this one"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS / "accuracy.jsonl",
        help="JSON lines that the record is added to",
    )
    parser.add_argument(
        "--deadline",
        type=positive,
        metavar="SECONDS",
        help="end after so many seconds; the tables hold what is done by then",
    )
    parser.add_argument("--report", action="store_true", help="do nothing more: tables of what is done")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    run(parser.parse_args(arguments))


def run(given: argparse.Namespace) -> None:
    """What :func:`main` does once its arguments are read."""
    scale = scale_named(given.scale)
    models = chosen(given.models, scale)
    out = (given.out or Path("build") / f"accuracy-{scale.name}").resolve()
    if not given.job:
        require_writable(given.results)
    claim(out, scale)
    bench = Bench(scale, out)
    jobs = plan(bench, models, given.seeds)
    if given.job:
        do(next(job for job in jobs if job.name == given.job), out)
        return
    room = Room(
        workers=scale.workers if given.workers is None else given.workers,
        heavy=heavy(scale),
        until_s=given.deadline,
    )
    command = ["benchmarks.accuracy", "--scale", scale.name, "--out", str(out)]
    command += ["--seeds", str(given.seeds), "--models", *models]
    began, used_s = time.perf_counter(), cpu_s()
    failure: JobError | None = None
    if not given.report:
        try:
            run_all(jobs, out, room=room, command=command, tell=lambda text: print(text, flush=True))
        except JobError as error:
            failure = error
    spent = None if given.report else (time.perf_counter() - began, cpu_s() - used_s)
    record = line(bench, jobs, spent)
    on = ", ".join(f"{key} {value}" for key, value in machine().items() if value is not None)
    took = "" if spent is None else f" in {spent[0]:.1f} s"
    text = f"Measured at {record['results']['commit']}{took} on: {on}."
    path = save(bench, text, jobs)
    if failure is None or given.deadline is not None:  # who gives one takes what there is
        append(given.results, record)
    print(page(bench, text, jobs))
    print(f"written to {path}")
    if failure is not None:
        raise failure


HEAVY_BYTES = 20_000_000_000
"""What a training of the full size may take of a GPU, what its allocator keeps for later included."""


def heavy(scale: Scale) -> int | None:
    """How many trainings and the like at once: as many as the scale allows and the GPU has memory for."""
    if scale.heavy is None or not torch.cuda.is_available():
        return None
    return max(1, min(scale.heavy, torch.cuda.get_device_properties(0).total_memory // HEAVY_BYTES))


def chosen(models: Sequence[str] | None, scale: Scale) -> list[str]:
    """The models to compare: by default those that the scale has arguments for, and the band ratio."""
    wanted = [m for m in MODELS if m in scale.arguments or m == "band-ratio"] if models is None else models
    unknown = sorted(set(wanted) - set(MODELS))
    if unknown:
        raise InputError(f"models {', '.join(unknown)}", f"some of {', '.join(MODELS)}", "correct the names")
    return list(dict.fromkeys(wanted))


def claim(out: Path, scale: Scale) -> None:
    """Notes in ``out`` what is made there.

    Raises:
        InputError: if another benchmark lies there, or it can be no folder.
    """
    note = out / "scale.txt"
    if note.exists() and note.read_text().strip() != scale.fingerprint:
        raise OutputError(f"{out}, which holds another benchmark", "an empty folder", "give another --out")
    require_writable(note)
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(scale.fingerprint + "\n")


if __name__ == "__main__":
    main()
