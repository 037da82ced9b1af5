"""Jobs that wait for one another, each done once: what is done lies in a file and is not done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tell = Callable[[str], None]


class JobError(RuntimeError):
    """A job of the benchmark that failed, in one line."""


@dataclass(frozen=True)
class Job:
    """A step with a name that is fit for a file, what it needs, and what it does.

    ``work`` gives plain values for JSON: all that the tables know of the job.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[], Mapping[str, Any]]


def done_path(out: Path, name: str) -> Path:
    """Where a finished job's outcome lies."""
    return out / "done" / f"{name}.json"


def outcome(out: Path, name: str) -> dict[str, Any]:
    """What a finished job found."""
    found: dict[str, Any] = json.loads(done_path(out, name).read_text())
    return found


def do(job: Job, out: Path) -> None:
    """Does a job in this process, and notes its outcome and its seconds."""
    began = time.perf_counter()
    found = job.work()
    path = done_path(out, job.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**found, "seconds": round(time.perf_counter() - began, 1)}, indent=1) + "\n")
    part.replace(path)


def do_apart(job: Job, out: Path, command: Sequence[str]) -> None:
    """Does a job in a process of its own with one thread, which writes its outcome; its words go to a log."""
    log = out / "logs" / f"{job.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-m", *command, "--job", job.name],
            env={**os.environ, **one},
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["no words"])[-1]
        raise JobError(f"job {job.name} failed ({last}); read {log}, then start again: what is done is kept")


def run_all(jobs: Sequence[Job], out: Path, *, workers: int, command: Sequence[str], tell: Tell) -> None:
    """Does what is not done yet, ``workers`` jobs at once (0: one by one in this process), in their order.

    Raises:
        JobError: if a job fails; those under way are waited for, and what is done stays done.
    """
    waiting = [job for job in jobs if not done_path(out, job.name).exists()]
    if workers == 0:
        for job in waiting:
            tell(job.name)
            do(job, out)
        return
    running: dict[Future[None], Job] = {}
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        while waiting or running:
            for job in list(waiting):
                if len(running) < workers and all(done_path(out, need).exists() for need in job.needs):
                    waiting.remove(job)
                    tell(f"{time.perf_counter() - began:6.0f} s  {job.name}")
                    running[pool.submit(do_apart, job, out, command)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                running.pop(future)
                future.result()
