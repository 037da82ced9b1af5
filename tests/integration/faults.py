"""What the tests of faults share: the command as a user starts it, the undisturbed run, and the table."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale.cli import main
from cryoscale.cluster import FROZEN_S
from cryoscale.ledger import Ledger
from cryoscale.write.objects import Objects
from tests.forked import Forked
from tests.integration.conftest import TinyRange

DEADLINE_S = 2 * FROZEN_S + 60.0
"""Longer than the longest silence after which a run promises to go on, so that what is waited for in vain is
a fault; the 900 s of a whole test are longer still."""


def few_blocks(tiny: TinyRange, **changes: Any) -> dict[str, Any]:
    """A run of some blocks in two zones, by the band ratio: most of its time is Dask's and the disk's."""
    few = {
        "sources": {"optical": {"collection": "sentinel-2-l2a"}, "terrain": {"collection": "cop-dem-glo-30"}},
        "season": {"start": "10-01", "end": "10-09"},  # one of its dates
        "model": {"name": "band-ratio"},
    }
    return tiny.config(**{**few, **changes})


def few_by_network(tiny: TinyRange, **changes: Any) -> dict[str, Any]:
    """The same blocks by a small network, which actors hold; with a quarter of overlap, as is cheapest."""
    return few_blocks(tiny, model={"weights": str(tiny.weights), "overlap": 0.25}, **changes)


@dataclass
class Command:
    """``cryoscale`` in a process group of its own, as a user starts it."""

    process: Forked | subprocess.Popen[str]

    @classmethod
    def start(cls, *arguments: str | Path, env: dict[str, str] | None = None) -> Command:
        """Starts it; what it says is kept. With an environment of its own it is an interpreter of its own."""
        if env is None:
            return cls(Forked("cryoscale", *arguments))
        process = subprocess.Popen(
            [sys.executable, "-m", "cryoscale", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **env},
        )
        return cls(process)

    def end(self, timeout_s: float = DEADLINE_S) -> tuple[int, str, str]:
        """Waits for it: exit code, what it said, what it complained of."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise
        return self.process.returncode, out, err

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """The driver alone."""
        self.process.send_signal(by)

    def kill_all(self) -> None:
        """The driver and every process that it started, at once."""
        for pid in [*_family(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stacks(self) -> str:
        """Ends all of it and says where each thread of each process stood."""
        pids = [self.process.pid, *self.children()]
        for pid in reversed(pids):  # the driver last, lest it starts others anew
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.communicate(timeout=10)[1]
        self.kill_all()
        return "it does not even abort"

    def children(self) -> list[int]:
        """Every process that it started, and theirs."""
        return _family(self.process.pid)


def _family(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def write_config(path: Path, document: dict[str, Any]) -> Path:
    """The configuration as a file."""
    path.write_text(yaml.safe_dump(document))
    return path


def run_to_end(config: Path, out: str | Path, *more: str) -> dict[str, Any]:
    """The whole run in one go; what ``--json`` says of it."""
    code, said, complained = Command.start("run", config, "--out", out, "--json", *more).end()
    assert code == 0, complained
    document: dict[str, Any] = json.loads(said)
    return document


def here(*arguments: str | Path) -> tuple[int, str, str]:
    """The command in this process: exit code, what it said, what it complained of.

    A process of its own imports for two processor seconds before it does anything, and the fork server of
    its workers for another: that is for commands that are to be killed, frozen, or met at their work.
    """
    said, complained, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complained):
        patch.setattr(sys, "argv", ["cryoscale", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, said.getvalue(), complained.getvalue()


def run_here(config: Path, out: str | Path, *more: str) -> dict[str, Any]:
    """As :func:`run_to_end`, in this process: how a run is completed that another began."""
    code, said, complained = here("run", config, "--out", out, "--json", *more)
    assert code == 0, complained
    document: dict[str, Any] = json.loads(said)
    return document


def until(condition: Callable[[], bool], command: Command | None = None, *, every_s: float = 0.02) -> bool:
    """Waits for a condition; False where the command ended first."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        if command is not None and command.process.poll() is not None:
            return condition()
        time.sleep(every_s)
    raise AssertionError(f"waited in vain{f'; it stands here: {command.stacks()}' if command else ''}")


def wait_or_end(command: Command, seconds: float) -> None:
    """So many seconds, or until the command ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.process.wait(seconds)


def done(out: str | Path) -> int:
    """Blocks with a marker."""
    return sum(1 for _ in Objects(str(out)).list("ledger/done"))


def checksums(out: str | Path) -> dict[Any, str]:
    """What each block's shards are."""
    return {marker.key: marker.checksum for marker in Ledger(str(out)).markers()}


def bytes_that_differ(out: str | Path, other: str | Path) -> int:
    """Bytes of the map, its levels and its metadata that two runs do not have alike; absent ones count."""
    ours, theirs = (dict(_content(str(place))) for place in (out, other))
    total = 0
    for name in {*ours, *theirs}:
        a, b = ours.get(name, b""), theirs.get(name, b"")
        if a != b:
            total += abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False))
    return total


def _content(out: str) -> Iterator[tuple[str, bytes]]:
    objects = Objects(out)
    for entry in objects.list("mosaic.zarr"):
        yield entry.key, objects.get(entry.key) or b""
