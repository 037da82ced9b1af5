"""Two drivers on one run, and drivers whose clocks jump."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cryoscale import lease
from cryoscale.errors import DrivenError, LeaseLostError, OutputError
from cryoscale.write.objects import Objects
from tests.integration.conftest import Calm
from tests.integration.faults import Command, bytes_that_differ, done, here, run_here, until
from tests.tables import Table


def test_a_second_driver_on_the_same_output_is_refused_and_the_first_is_named(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out = tmp_path / "run"
    first = Command.start("run", calm.config, "--out", out)
    assert until(lambda: done(out) >= 1, first)
    code, _, complained = Command.start("run", calm.config, "--out", out).end()
    assert code == 2
    (line,) = complained.splitlines()
    assert f"process {first.process.pid} on" in line
    assert first.end()[0] == 0
    differ = bytes_that_differ(out, calm.out)
    faults.add("a second driver on the same output", 1, 0, differ)
    assert differ == 0


def test_a_dead_drivers_lease_holds_nobody_up(calm: Calm, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = Command.start("run", calm.config, "--out", out)
    assert until(lambda: done(out) >= 1, first)
    first.kill_all()
    first.end()
    assert run_here(calm.config, out)["skipped"] >= 1


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "SILENCE_S", 1.2)
    monkeypatch.setattr(lease, "POLL_S", 0.05)


def _from_elsewhere(out: Path) -> None:
    """The newest lease as if a driver on another machine had written it."""
    objects = Objects(str(out))
    found = lease.newest(objects)
    assert found is not None
    generation, document = found
    objects.put(
        f"{lease.FOLDER}/{generation:08d}.json", json.dumps({**document, "place": "elsewhere"}).encode()
    )


@pytest.mark.usefixtures("_quick")
def test_a_driver_elsewhere_that_beats_is_left_its_run_and_one_that_is_silent_is_followed(
    tmp_path: Path,
) -> None:
    with lease.held(str(tmp_path)) as first:
        first.holder = {**first.holder, "place": "elsewhere"}
        first.beat()
        with pytest.raises(OutputError, match=str(os.getpid())), lease.held(str(tmp_path)):
            pass
        first._over.set()  # it falls silent without a word
        start = time.monotonic()
        with lease.held(str(tmp_path)) as second:
            assert time.monotonic() - start >= 1.0
            assert second.generation == first.generation + 1
            first.beat()  # and wakes up again: it finds that it is followed, and takes nothing back
            assert first.lost.is_set()
            with pytest.raises(LeaseLostError, match="taken over"):
                first.require()
            second.require()


@pytest.mark.parametrize(("job", "exit_code"), [("", 2), ("its-uid", 75)])
def test_a_job_whose_former_pod_still_drives_is_to_start_another_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, exit_code: int
) -> None:
    monkeypatch.setenv("CRYOSCALE_JOB_UID", job)
    with lease.held(str(tmp_path)), pytest.raises(DrivenError) as refused, lease.held(str(tmp_path)):
        pass
    assert refused.value.exit_code == exit_code


@pytest.mark.usefixtures("_quick")
def test_of_many_drivers_that_follow_a_dead_one_exactly_one_drives(tmp_path: Path) -> None:
    with lease.held(str(tmp_path)):
        pass
    holding, refused, gate = [], [], threading.Barrier(8)

    def drive() -> None:
        gate.wait()
        try:
            with lease.held(str(tmp_path)):
                holding.append(1)
                time.sleep(1.0)
        except (OutputError, LeaseLostError) as error:
            refused.append(error)

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(holding), len(refused)) == (1, 7)


@pytest.mark.usefixtures("_quick")
def test_a_lease_is_lost_to_nobody_while_the_clock_of_the_day_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    with lease.held(str(tmp_path)) as first:
        first.holder = {**first.holder, "place": "elsewhere"}
        for jump_s in (-86_400.0, 86_400.0 * 365):
            monkeypatch.setattr(time, "time", lambda jump=jump_s: now() + jump)
            first.beat()
            with pytest.raises(OutputError), lease.held(str(tmp_path)):
                pass
            first.require()


def test_a_driver_that_is_frozen_and_followed_stops_when_it_wakes(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out = tmp_path / "run"
    first = Command.start("run", calm.config, "--out", out)
    assert until(lambda: done(out) >= 1, first)
    first.kill(signal.SIGSTOP)
    # the next driver is on another machine as far as it can see, and waits for the silence
    _from_elsewhere(out)
    told = run_here(calm.config, out)
    first.kill(signal.SIGCONT)
    code, _, complained = first.end()
    assert code == 75, complained
    assert "taken over" in complained
    differ = bytes_that_differ(out, calm.out)
    faults.add("a driver frozen, followed, and woken", 1, told["computed"], differ)
    assert differ == 0
    assert here("verify", out)[0] == 0


JUMPING = """
import time
from pathlib import Path
true_time, offset = time.time, Path(__file__).with_name("offset")
time.time = lambda: true_time() + float(offset.read_text() or 0)
"""
"""Read by every Python process before anything else, workers among them: Dask takes its clock from here."""


def test_a_run_outlives_a_clock_that_jumps_a_day_forward_and_back(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out, offset = tmp_path / "run", tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {"PYTHONPATH": path}
    command = Command.start("run", calm.config, "--out", out, env=env)
    assert until(lambda: done(out) >= 1, command)
    for jump_s in (86_400, -86_400):
        offset.write_text(str(jump_s))
        before = done(out)
        until(lambda n=before: done(out) > n, command)
    code, _, complained = command.end()
    assert code == 0, complained
    differ = bytes_that_differ(out, calm.out)
    faults.add("the clock jumps a day forward, then two back", 2, 0, differ)
    assert differ == 0
