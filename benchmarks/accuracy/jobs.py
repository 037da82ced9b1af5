"""Jobs that wait for one another, each done once: what is done lies in a file and is not done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cryoscale.errors import OperatorError
from cryoscale.infer.actor import BATCH_VARIABLE

Tell = Callable[[str], None]

LOOK_S = 0.1
"""How often jobs under way are looked at."""

PATIENCE_S = 2.0
"""How long a process that is ended may take to go by itself."""


class JobError(OperatorError):
    """A job of the benchmark that failed, in one line."""


@dataclass(frozen=True)
class Job:
    """A step with a name that is fit for a file, what it needs, and what it does.

    ``work`` gives plain values for JSON: all that the tables know of the job. A job counts as ``slots``
    workers, and one that is ``heavy`` fills a GPU or a good part of it.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[], Mapping[str, Any]]
    slots: int = 1
    heavy: bool = False


@dataclass(frozen=True)
class Room:
    """How much is done at once: ``workers`` slots, ``heavy`` jobs on a GPU, and for how many seconds.

    Jobs under way at ``until_s`` are ended, and none begins after it; None does all.
    """

    workers: int
    heavy: int | None = None
    until_s: float | None = None


def done_path(out: Path, name: str) -> Path:
    """Where a finished job's outcome lies."""
    return out / "done" / f"{name}.json"


def log_path(out: Path, name: str) -> Path:
    """Where a job's words lie."""
    return out / "logs" / f"{name}.txt"


def outcome(out: Path, name: str) -> dict[str, Any]:
    """What a finished job found."""
    found: dict[str, Any] = json.loads(done_path(out, name).read_text())
    return found


def missing(jobs: Sequence[Job], out: Path) -> list[str]:
    """The names of those that are not done."""
    return [job.name for job in jobs if not done_path(out, job.name).exists()]


def do(job: Job, out: Path) -> None:
    """Does a job in this process, and notes its outcome and its seconds."""
    began = time.perf_counter()
    found = job.work()
    path = done_path(out, job.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**found, "seconds": round(time.perf_counter() - began, 1)}, indent=1) + "\n")
    part.replace(path)


def run_all(jobs: Sequence[Job], out: Path, *, room: Room, command: Sequence[str], tell: Tell) -> None:
    """Does what is not done yet, in its order as far as there is room (0 workers: in this process).

    What a GPU had no memory for is tried once more, since it is shared.

    Raises:
        JobError: if a job failed; all that can be done without it is done first, and stays done.
    """
    waiting = [job for job in jobs if not done_path(out, job.name).exists()]
    if room.workers == 0:
        for job in waiting:
            tell(job.name)
            do(job, out)
        return
    failed: list[str] = []
    again: set[str] = set()
    running: dict[subprocess.Popen[bytes], Job] = {}
    began = time.perf_counter()
    try:
        while waiting or running:
            spent_s = time.perf_counter() - began
            if room.until_s is not None and spent_s > room.until_s:
                tell(f"{spent_s:6.0f} s  the time is over; ended: {_names(running.values())}")
                break
            for job in _startable(waiting, list(running.values()), room, out):
                waiting.remove(job)
                tell(f"{spent_s:6.0f} s  {job.name}")
                running[_started(job, out, command)] = job
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                if process.returncode and job.name not in again and _had_no_room(job, out):
                    again.add(job.name)
                    waiting.insert(0, job)
                    tell(f"{time.perf_counter() - began:6.0f} s  {job.name} ran out of memory: once more")
                elif process.returncode:
                    failed.append(_why(job, out))
                    tell(f"{time.perf_counter() - began:6.0f} s  {failed[-1]}")
            if not running and waiting and not _startable(waiting, [], room, out):
                break  # what they need has failed
            time.sleep(LOOK_S)
    finally:
        _end(running)
    if failed:
        raise JobError(f"{'; '.join(failed)}; then start again: what is done is kept")


def _startable(waiting: Sequence[Job], running: Sequence[Job], room: Room, out: Path) -> list[Job]:
    """Those that may start now, first come first served as far as they fit."""
    found: list[Job] = []
    for job in waiting:
        busy = [*running, *found]
        used = sum(min(one.slots, room.workers) for one in busy)
        full = job.heavy and room.heavy is not None and sum(one.heavy for one in busy) >= room.heavy
        fits = used + min(job.slots, room.workers) <= room.workers
        if fits and not full and all(done_path(out, need).exists() for need in job.needs):
            found.append(job)
    return found


def _started(job: Job, out: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A job in a process of its own with one thread, which writes its outcome; its words go to a log."""
    log = log_path(out, job.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # scikit-learn's threads, which are not OpenMP's
    more = {"LOKY_MAX_CPU_COUNT": str(job.slots)} if job.slots > 1 else {}
    # a dozen maps share a GPU with the trainings
    more[BATCH_VARIABLE] = os.environ.get(BATCH_VARIABLE, "8")
    with log.open("w") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *command, "--job", job.name],
            env={**os.environ, **one, **more},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def _had_no_room(job: Job, out: Path) -> bool:
    """Whether a job failed for want of a device's memory, which others of that moment may have had."""
    return "out of memory" in log_path(out, job.name).read_text(errors="replace")


def _why(job: Job, out: Path) -> str:
    log = log_path(out, job.name)
    last = (log.read_text(errors="replace").strip().splitlines() or ["no words"])[-1]
    return f"job {job.name} failed ({last}); read {log}"


def _end(running: Mapping[subprocess.Popen[bytes], Job]) -> None:
    """Ends processes and all that they have started."""
    tree: list[psutil.Process] = []
    for process in running:
        try:
            found = psutil.Process(process.pid)
            tree += [*found.children(recursive=True), found]
        except psutil.NoSuchProcess:
            continue
    for one in tree:
        _signal(one.terminate)
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE_S)
    for one in alive:
        _signal(one.kill)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def _names(jobs: Any) -> str:
    return ", ".join(job.name for job in jobs) or "none"
