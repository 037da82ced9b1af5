"""Work shared among processes: the answers of ``map`` in its order, whatever happens to those who help."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest

from cryoscale import finish
from cryoscale.crew import AHEAD, SINGLE, Crew, in_pairs
from cryoscale.errors import InputError
from cryoscale.settings import ClusterSpec
from tests import crews
from tests.crews import crew_of


def squared(number: int) -> int:
    return number * number


def by_whom(number: int) -> tuple[int, int]:
    return number, os.getpid()


def by_two(number: int, *, meeting: Path) -> tuple[int, int]:
    """No helper gets on before there are two; then earlier ones take longer: answers come out of order."""
    if number:
        (meeting / str(os.getpid())).touch()
        until = time.monotonic() + 120
        while len(list(meeting.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    time.sleep(0.05 * (number % 3 == 0))
    return by_whom(number)


def told_to_die(number: int, *, at: int, once: Path) -> int:
    """The process that gets this number dies of it, the first time."""
    if number == at and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return squared(number)


def refusing(number: int) -> int:
    if number == 7:
        raise InputError("the seventh", "any other", "leave it out")
    return squared(number)


@pytest.fixture
def two() -> Iterator[Crew]:
    """A crew of two that are there."""
    with crew_of(2) as crew:
        yield crew


def test_answers_come_in_order_and_from_several_processes(two: Crew, tmp_path: Path) -> None:
    found = list(two.each(functools.partial(by_two, meeting=tmp_path), range(20)))
    assert [number for number, _ in found] == list(range(20))
    helpers = {process for _, process in found}
    assert len(helpers) == 2
    assert os.getpid() not in helpers


def test_the_same_processes_do_one_work_after_the_other(two: Crew) -> None:
    first, then = ({process for _, process in two.each(by_whom, range(40))} for _ in range(2))
    assert os.getpid() not in first | then
    assert len(first | then) <= 2
    between = two.each(squared, range(12))
    assert [next(between), next(between)] == [0, 1]
    assert list(two.each(str, [7, 8])) == ["7", "8"]  # whatever else is under way
    assert list(between) == [n * n for n in range(2, 12)]


def test_work_goes_on_alone_until_the_others_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon they come on a machine: they are let in once there are answers without them."""
    door = tmp_path / "open"
    monkeypatch.setattr("cryoscale.crew._arrive", functools.partial(arriving_at, door))
    with Crew(2, alone_s=0.0) as crew:
        assert dict(crew.each(by_whom, range(50))) == dict.fromkeys(range(50), os.getpid())
        door.touch()
        crews.called(crew)
        assert os.getpid() not in dict(crew.each(by_whom, range(3))).values()


def arriving_at(door: Path, module: str) -> None:
    """What a helper does first, once it is let in."""
    until = time.monotonic() + 120
    while not door.exists() and time.monotonic() < until:
        time.sleep(0.01)
    importlib.import_module(module)


def test_what_several_works_take_together_is_what_counts() -> None:
    """Each of them is short, as a tiny range's are; all of them together are not."""
    with Crew(2, alone_s=0.3) as crew:
        until = time.monotonic() + 120
        while not crew.is_ready() and time.monotonic() < until:
            assert list(crew.each(busy, [0.05])) == [0.05]
        assert crew.is_ready()


def busy(seconds: float) -> float:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return seconds


def test_things_come_with_their_answers(two: Crew) -> None:
    assert list(in_pairs(two.each, squared, range(9))) == [(n, n * n) for n in range(9)]
    assert list(in_pairs(two.each, str, iter([3, 4, 5]))) == [(3, "3"), (4, "4"), (5, "5")]
    assert list(two.each(squared, [])) == []


def test_few_things_are_taken_ahead_of_the_answers(two: Crew) -> None:
    taken = []

    def things() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    answers = two.each(squared, things())
    for _ in range(3):
        next(answers)
    assert len(taken) <= 3 + 2 * AHEAD
    answers.close()  # type: ignore[attr-defined]


def test_what_is_short_starts_no_process() -> None:
    for crew in (Crew(2, alone_s=60.0), Crew(1, alone_s=0.0)):
        assert {process for _, process in crew.each(by_whom, range(5))} == {os.getpid()}
        assert not crew.is_ready()


def test_an_error_comes_through_as_it_is(two: Crew) -> None:
    found: list[int] = []
    answers = two.each(refusing, range(20))
    with pytest.raises(InputError, match="the seventh"):
        found.extend(next(answers) for _ in range(20))
    assert found == [squared(n) for n in range(7)]


def test_a_helper_that_dies_while_it_imports_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    with Crew(2, "tests.unit.suicidal", alone_s=0.0) as crew:
        assert list(crew.each(slowly, range(40))) == list(range(40))
        until = time.monotonic() + 120
        while not caplog.records and time.monotonic() < until:
            assert not crew.is_ready()
            time.sleep(0.01)
    assert ["by one process alone" in record.message for record in caplog.records] == [True]


def slowly(number: int) -> int:
    time.sleep(0.01)
    return number


def test_what_is_under_way_beside_a_work_whose_helper_dies_is_done_too(two: Crew, tmp_path: Path) -> None:
    beside = two.each(squared, range(30))
    assert next(beside) == 0
    work = functools.partial(told_to_die, at=3, once=tmp_path / "died")
    assert list(two.each(work, range(12))) == [squared(n) for n in range(12)]
    assert (tmp_path / "died").exists()
    assert list(beside) == [squared(n) for n in range(1, 30)]


@pytest.mark.parametrize("at", [0, 4, 11])
def test_a_helper_that_is_killed_costs_no_answer(
    at: int, two: Crew, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = functools.partial(told_to_die, at=at, once=tmp_path / "died")
    with caplog.at_level(logging.WARNING, "cryoscale"):
        assert list(two.each(work, range(12))) == [squared(n) for n in range(12)]
        assert dict(two.each(by_whom, range(12))) == dict.fromkeys(range(12), os.getpid())
    assert (tmp_path / "died").exists()
    assert ["by one process alone" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("which", [0, 1])
def test_a_helper_that_is_killed_while_it_waits_for_work_holds_nobody_up(which: int) -> None:
    """One of two has the lock of the queue then, for which the other waits: that one has to be ended too."""
    with crew_of(2) as crew:
        assert list(crew.each(squared, range(12))) == [squared(n) for n in range(12)]
        assert crew._pool is not None
        time.sleep(0.3)
        waiting = list(crew._pool._processes)
        os.kill(waiting[which], signal.SIGKILL)
        assert list(crew.each(slowly, range(40))) == list(range(40))
    assert not any(psutil.pid_exists(pid) for pid in waiting)


def test_a_machine_that_gives_no_processes_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As without ``/dev/shm``, where locks between processes would lie, or at a limit of processes."""
    monkeypatch.setattr(ProcessPoolExecutor, "submit", no_processes)
    with Crew(2, alone_s=0.0) as crew:
        assert list(crew.each(squared, range(12))) == [squared(n) for n in range(12)]
    (record,) = caplog.records
    assert "by one process alone: [Errno 11] no more processes" in record.message


@pytest.mark.parametrize(
    ("kind", "out", "script", "expected"),
    [
        ("local", "/data/run", "/home/me/mine.py", 3),  # whose workers import it too: it is guarded
        ("local", "memory://run", "/home/me/mine.py", 1),  # which others do not see
        ("tcp://10.0.0.1:8786", "s3://data/run", "/home/me/mine.py", 1),
        ("tcp://10.0.0.1:8786", "s3://data/run", "/venv/bin/cryoscale", 8),
        ("kubernetes", "s3://data/run", str(Path(finish.__file__).with_name("__main__.py")), 8),
        ("kubernetes", "s3://data/run", None, 1),
    ],
)
def test_a_script_that_needs_no_guard_is_not_imported_by_others(
    kind: str, out: str, script: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "CPU_COUNT", 8)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    assert finish._processes(ClusterSpec(kind, cpu_workers=2, gpu_workers=1), out) == expected


def no_processes(*given: object) -> None:
    raise BlockingIOError(11, "no more processes")


LONG = """
import os, time
from cryoscale.crew import Crew
from tests.crews import crew_of

def told(number):
    threads = os.environ.get("OMP_NUM_THREADS", "")
    os.write(1, f"{os.getpid()} {threads}\\n".encode())  # in one piece, as others write too
    time.sleep(number)
    return number

if __name__ == "__main__":
    told(0)
    with crew_of(2) as crew:
        list(crew.each(told, [300, 300]))
"""


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_helpers_end_with_whom_they_work_for(death: signal.Signals, tmp_path: Path) -> None:
    """At a kill at once. The terminal's Ctrl-C goes to all of them, and is for the one that they work for."""
    (tmp_path / "long.py").write_text(LONG)
    env = {name: value for name, value in os.environ.items() if name not in SINGLE}
    env["PYTHONPATH"] = str(Path(crews.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "long.py")],
        stdout=subprocess.PIPE,
        env=env,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        first, *helpers = [process.stdout.readline().split() for _ in range(3)]
        assert int(first[0]) == process.pid
        assert [threads for _, threads in helpers] == ["1", "1"]
        numbers = [int(number) for number, _ in helpers]
        if death is signal.SIGINT:
            for number in numbers:
                os.kill(number, death)
            time.sleep(0.5)
            assert all(map(alive, numbers))  # they leave it to the first
    finally:
        process.kill()
        process.wait()
    until = time.monotonic() + 30
    while any(map(alive, numbers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, numbers))


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
