"""Killed at any moment, by anybody: the same command ends in the bytes of the undisturbed run."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryoscale.ledger import MADE
from tests.forked import Forked
from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import (
    Command,
    bytes_that_differ,
    done,
    few_blocks,
    run_here,
    until,
    wait_or_end,
    write_config,
)
from tests.ports import free_port
from tests.tables import Table

KILLS = 20


def test_a_driver_killed_at_twenty_random_moments_loses_nothing(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    draw, killed, differ, round_, repeated = random.Random(1), 0, 0, 0, 0
    while killed < KILLS:
        round_ += 1
        out = tmp_path / f"run-{round_}"
        computed = 0
        for _ in range(7):  # some kills in a row on one folder, then it is completed and compared
            before = done(out)
            command = Command.start("run", calm.config, "--out", out)
            # from the first import to the last file; where the calm run compiled its kernels it took longer
            wait_or_end(command, draw.uniform(0.5, max(2.0, min(calm.took_s, 12.0))))
            killed += command.process.poll() is None
            command.kill()
            command.end()
            computed += done(out) - before
        told = run_here(calm.config, out)
        assert told["computed"] + told["skipped"] == calm.blocks
        repeated += told["computed"] + computed - calm.blocks
        differ += bytes_that_differ(out, calm.out)
        assert not [path for name in MADE for path in (out / name).rglob("*.partial")]
    faults.add("SIGKILL of the driver, at random moments", killed, repeated, differ)
    assert differ == 0


def test_everything_killed_at_once_is_completed_by_the_same_command(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out, wanted = tmp_path / "run", (1, calm.blocks // 2)
    for least in wanted:
        command = Command.start("run", calm.config, "--out", out)
        assert until(lambda n=least: done(out) >= n, command)
        command.kill_all()
        command.end()
    kept = done(out)
    told = run_here(calm.config, out)
    differ = bytes_that_differ(out, calm.out)
    faults.add(
        "SIGKILL of driver, scheduler and workers at once", 2, calm.blocks - kept - told["computed"], differ
    )
    assert told["skipped"] == kept
    assert differ == 0


def test_workers_killed_over_and_over_are_replaced_in_the_same_run(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out, killed = tmp_path / "run", 0
    command = Command.start("run", calm.config, "--out", out, "--json")
    assert until(lambda: done(out) >= 1, command)
    while killed < 3 and command.process.poll() is None:
        before = done(out)
        for pid in _workers(command):
            with suppress(ProcessLookupError):  # it ended with another that was killed before it
                os.kill(pid, signal.SIGKILL)
                killed += 1
        until(lambda n=before: done(out) > n, command)
    code, said, complained = command.end()
    assert code == 0, complained
    differ = bytes_that_differ(out, calm.out)
    repeated = int(re.findall(r'"repeated": (\d+)', said)[0])
    faults.add("SIGKILL of CPU workers and of actors", killed, repeated, differ)
    assert killed >= 2
    assert differ == 0


def test_the_process_that_forks_the_workers_may_die_too(calm: Calm, tmp_path: Path, faults: Table) -> None:
    out = tmp_path / "run"
    command = Command.start("run", calm.config, "--out", out, "--json")
    assert until(lambda: done(out) >= 1, command)
    (server,) = _servers(command)
    os.kill(server, signal.SIGKILL)  # Python takes the workers for dead with it, and ends them
    code, said, complained = command.end()
    assert code == 0, complained
    differ = bytes_that_differ(out, calm.out)
    repeated = int(re.findall(r'"repeated": (\d+)', said)[0])
    faults.add("SIGKILL of the workers' fork server", 1, repeated, differ)
    assert differ == 0


def test_sigterm_finishes_what_is_in_work_and_says_that_it_can_be_resumed(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out = tmp_path / "run"
    command = Command.start("run", calm.config, "--out", out)
    assert until(lambda: done(out) >= 1, command)
    command.kill(signal.SIGTERM)
    code, _, complained = command.end()
    kept = done(out)
    assert code == 75, complained
    assert "the same command goes on" in complained
    assert "Traceback" not in complained
    assert not command.children()
    told = run_here(calm.config, out)
    differ = bytes_that_differ(out, calm.out)
    faults.add("SIGTERM of the driver", 1, told["computed"] + kept - calm.blocks, differ)
    assert told["skipped"] == kept
    assert differ == 0


def test_a_run_waits_for_a_scheduler_that_dies_and_goes_on_when_it_is_back(
    tiny_range: TinyRange, calm: Calm, tmp_path: Path, faults: Table
) -> None:
    port = free_port()
    address, out = f"tcp://127.0.0.1:{port}", tmp_path / "run"
    config = write_config(tmp_path / "run.yaml", few_blocks(tiny_range, cluster={"kind": address}))
    with _cluster(port):
        command = Command.start("run", config, "--out", out, "--json")
        assert until(lambda: done(out) >= 1, command)
    kept = done(out)  # scheduler and workers are dead now, by SIGKILL
    with _cluster(port):
        code, said, complained = command.end()
        assert code == 0, complained
    differ = bytes_that_differ(out, calm.out)
    computed = int(re.findall(r'"computed": (\d+)', said)[0])
    faults.add("SIGKILL of the scheduler and its workers", 1, max(computed - calm.blocks, 0), differ)
    assert kept < calm.blocks
    assert differ == 0


@contextmanager
def _cluster(port: int) -> Iterator[None]:
    """A scheduler on that port and a worker of either kind, all killed at the end."""
    quiet = ("--no-dashboard", "--host", "127.0.0.1")
    worker = ["worker", f"tcp://127.0.0.1:{port}", *quiet, "--no-nanny", "--nthreads", "2"]
    commands = [
        ["scheduler", *quiet, "--port", str(port), "--no-show"],
        [*worker, "--resources", "CPU=2"],
        [*worker, "--resources", "GPU=1"],
    ]
    nowhere = subprocess.DEVNULL
    processes = [Forked("dask", *line, stdout=nowhere, stderr=nowhere) for line in commands]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _workers(command: Command) -> list[int]:
    """Processes that work for a driver: the forks of its fork server."""
    import psutil

    found: list[int] = []
    for server in _servers(command):
        with suppress(psutil.NoSuchProcess):
            found += [child.pid for child in psutil.Process(server).children()]
    return found


def _servers(command: Command) -> list[int]:
    import psutil

    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(command.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "multiprocessing.forkserver" in " ".join(child.cmdline()):
                    found.append(child.pid)
    return found
