"""A run's blocks on several machines, each with what lies side by side; one dies, one is told to go."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed import get_worker

from cryoscale import featurise
from cryoscale.bench.idle import marker_of, works
from cryoscale.bench.orchestration import IDENTITY, settings
from cryoscale.cluster import Site
from cryoscale.drive import Driver
from cryoscale.grid import Block
from cryoscale.infer.calling import ActorRef
from cryoscale.ledger import Ledger, Work
from cryoscale.machines import machine_of
from cryoscale.outcome import Outcome, Watch
from cryoscale.settings import ClusterSpec
from tests.forked import Forked
from tests.integration.faults import until
from tests.integration.test_run_joined import scheduler, worker

__all__ = ["scheduler"]

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
"""Two machines, as a scheduler tells them apart."""

WORK = works(48)
"""Along a line."""


def noted(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """A task that notes its machine; it ends there once no file forbids it."""
    machine = machine_of(get_worker().address)
    begun = Path(out) / f"begun-{machine}"
    begun.touch()
    while (Path(out) / f"hold-{machine}").exists():
        time.sleep(0.02)
    time.sleep(0.02)
    marker = marker_of(work, attempt).model_copy(update={"worker": machine})
    Ledger(out).mark(marker)
    return marker.model_dump_json()


def featured(out: str, year: int, block: Block, attempt: int) -> tuple[tuple[str, str], ...]:
    """A block of ``cryoscale features`` without its work, likewise."""
    machine = machine_of(get_worker().address)
    Path(out, f"begun-{machine}").touch()
    while Path(out, f"hold-{machine}").exists():
        time.sleep(0.02)
    time.sleep(0.02)
    Path(out, f"{year}-{block.key}").write_text(machine)
    return ()


class Noting(Driver):
    """Of tasks that do no work."""

    task = staticmethod(noted)


@dataclass
class Drive:
    """A run that is driven in a thread."""

    out: Path
    outcome: Outcome
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def done(self) -> dict[Work, str]:
        """The machine of each block that is done."""
        found = Ledger(str(self.out)).done()
        return {(marker.year, marker.block): marker.worker for marker in found.values()}

    def hold(self, host: str) -> None:
        """Keep a machine at its first block."""
        (self.out / f"hold-{host}").touch()

    def let_go(self, host: str) -> None:
        """Have it go on."""
        (self.out / f"hold-{host}").unlink()

    def has_begun(self, host: str) -> bool:
        """Whether a machine has begun a block."""
        return (self.out / f"begun-{host}").exists()


@contextmanager
def driven(scheduler: str, out: Path, prepare: Callable[[Drive], object]) -> Iterator[Drive]:
    """All blocks, driven while the body runs and to their end."""
    out.mkdir()
    drive = Drive(out, Outcome(str(out)))
    prepare(drive)
    with Site(ClusterSpec(kind=scheduler)).workers() as found:
        watch = Watch(on_event=lambda name, facts: drive.events.append((name, facts)))
        driver = Noting(settings(scheduler), str(out), IDENTITY, found, drive.outcome, watch)
        thread = threading.Thread(target=driver.drive, args=(WORK,))
        thread.start()
        try:
            yield drive
        finally:
            thread.join(120)
        assert not thread.is_alive()


@pytest.fixture
def two(scheduler: str) -> Iterator[tuple[str, Forked]]:
    """The scheduler of two machines that do blocks and one that has an actor; and the second one's worker."""
    with (
        worker(scheduler, "CPU=1", host=FIRST),
        worker(scheduler, "CPU=1", "--preload", "cryoscale.preload", host=SECOND) as second,
        worker(scheduler, "GPU=1"),
    ):
        with Site(ClusterSpec(kind=scheduler)).workers() as found:
            found.client.wait_for_workers(3, timeout=60)
        yield scheduler, second


def test_each_machine_does_what_lies_side_by_side(two: tuple[str, Forked], tmp_path: Path) -> None:
    with driven(two[0], tmp_path / "run", lambda drive: (drive.hold(FIRST), drive.hold(SECOND))) as drive:
        for host in (FIRST, SECOND):
            until(lambda host=host: drive.has_begun(host))
        for host in (FIRST, SECOND):
            drive.let_go(host)
    owners = drive.done()
    line = [owners[work] for work in WORK]
    # where one has done with its half it takes over half of the other's rest, and the last 4 are for any
    assert sum(a != b for a, b in pairwise(line)) <= 10
    assert min(Counter(line)[host] for host in (FIRST, SECOND)) >= 12
    assert drive.outcome.repeated == 0


def test_what_a_dead_machine_was_to_do_is_done_by_the_other(two: tuple[str, Forked], tmp_path: Path) -> None:
    scheduler, second = two
    with driven(scheduler, tmp_path / "run", lambda drive: drive.hold(SECOND)) as drive:
        until(lambda: drive.has_begun(SECOND))
        second.kill()
    assert drive.done() == dict.fromkeys(WORK, FIRST)
    assert drive.outcome.computed == len(WORK)
    assert not drive.outcome.set_aside
    assert {facts["error"] for name, facts in drive.events if name == "lost"} == {"ActorLostError"}


def test_what_a_machine_that_drains_has_given_back_is_done_before_it_is_gone(
    two: tuple[str, Forked], tmp_path: Path
) -> None:
    scheduler, second = two
    with driven(scheduler, tmp_path / "run", lambda drive: drive.hold(SECOND)) as drive:
        until(lambda: drive.has_begun(SECOND))
        second.send_signal(signal.SIGTERM)
        until(lambda: len(drive.done()) == len(WORK) - 1)
        drive.let_go(SECOND)
    assert Counter(drive.done().values()) == {FIRST: len(WORK) - 1, SECOND: 1}
    assert drive.outcome.repeated == 0


@pytest.mark.parametrize("dies", [False, True], ids=["both stay", "one dies"])
def test_features_are_made_side_by_side_too_and_by_the_other_where_a_machine_dies(
    two: tuple[str, Forked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    scheduler, second = two
    monkeypatch.setattr(featurise, "write_feature_block", featured)
    drive = Drive(tmp_path, Outcome(str(tmp_path)))
    for host in (FIRST, SECOND):
        drive.hold(host)
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(featurise._write_all, settings(scheduler), str(tmp_path), WORK)
        for host in (FIRST, SECOND):
            until(lambda host=host: drive.has_begun(host))
        drive.let_go(FIRST)
        if dies:
            second.kill()
        else:
            drive.let_go(SECOND)
        assert made.result(120) == ([], {(2018, WORK[0][1].epsg): set()})
    line = [(tmp_path / f"{year}-{block.key}").read_text() for year, block in WORK]
    if dies:
        assert set(line) == {FIRST}
        return
    assert sum(a != b for a, b in pairwise(line)) <= 10
    assert min(Counter(line)[host] for host in (FIRST, SECOND)) >= 12
