"""What processes have used so far, and a Dask cluster of processes of its own on loopback."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from distributed import Client

_DASK = [sys.executable, "-m", "dask"]
START_S = 120.0
_COUNTS = 20


def rss_mib(pid: int) -> float:
    """Memory of a process, MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def cpu_s(pid: int) -> float:
    """Seconds of processor time of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def family_cpu_s(pid: int) -> float:
    """The same, of a process and all below it, those that have ended and were waited for among them.

    They are counted again where one of them ended meanwhile: it would be counted nowhere, its parent's time
    being read by then.
    """
    for _ in range(_COUNTS):
        family, total = _family(pid), 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in family:
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
            if _family(pid) == family:
                break
    return total


def _family(pid: int) -> list[psutil.Process]:
    head = psutil.Process(pid)
    return [head, *head.children(recursive=True)]


@dataclass(frozen=True)
class Cluster:
    """A scheduler in a process of its own, with workers."""

    address: str
    scheduler_pid: int


@contextlib.contextmanager
def cluster(cpu_workers: int, actors: int) -> Iterator[Cluster]:
    """A scheduler and workers as ``dask scheduler`` and ``dask worker`` start them."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        file = Path(folder) / "scheduler.json"
        common = ["--host", "127.0.0.1", "--no-dashboard"]
        scheduler = started.enter_context(
            _running([*_DASK, "scheduler", *common, "--port", "0", "--scheduler-file", str(file)])
        )
        address = _address(file, scheduler)
        for number in range(cpu_workers + actors):
            kind, threads = ("CPU", 2) if number < cpu_workers else ("GPU", 1)
            command = [*_DASK, "worker", address, *common, "--nthreads", str(threads)]
            command += ["--resources", f"{kind}={threads}", "--local-directory", folder]
            started.enter_context(_running(command))
        with Client(address) as client:
            client.wait_for_workers(cpu_workers + actors, timeout=START_S)
        yield Cluster(address, scheduler.pid)


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _address(file: Path, scheduler: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and scheduler.poll() is None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return str(json.loads(file.read_text("utf-8"))["address"])
        time.sleep(0.1)
    raise RuntimeError(f"no scheduler within {START_S:.0f} s")
