"""Work shared among processes: the answers of ``map`` in its order, whatever happens to those who help."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from cryoscale import finish
from cryoscale.crew import AHEAD, SINGLE, Crew, in_pairs
from cryoscale.errors import InputError
from cryoscale.settings import ClusterSpec


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


TWO = Crew(2, alone_s=0.0)


def test_answers_come_in_order_and_from_several_processes(tmp_path: Path) -> None:
    found = list(TWO.each(functools.partial(by_two, meeting=tmp_path), range(20)))
    assert [number for number, _ in found] == list(range(20))
    helpers = {process for _, process in found} - {os.getpid()}
    assert found[0][1] == os.getpid()  # the first thing is always done alone
    assert len(helpers) == 2


def test_things_come_with_their_answers() -> None:
    assert list(in_pairs(TWO.each, squared, range(9))) == [(n, n * n) for n in range(9)]
    assert list(in_pairs(TWO.each, str, iter([3, 4, 5]))) == [(3, "3"), (4, "4"), (5, "5")]
    assert list(TWO.each(squared, [])) == []


def test_few_things_are_taken_ahead_of_the_answers() -> None:
    taken = []

    def things() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    answers = TWO.each(squared, things())
    for _ in range(3):
        next(answers)
    assert len(taken) <= 3 + 2 * AHEAD
    answers.close()  # type: ignore[attr-defined]


def test_what_is_short_starts_no_process() -> None:
    for crew in (Crew(2, alone_s=60.0), Crew(1, alone_s=0.0)):
        assert {process for _, process in crew.each(by_whom, range(5))} == {os.getpid()}


def test_an_error_comes_through_as_it_is() -> None:
    found = []
    answers = TWO.each(refusing, range(20))
    with pytest.raises(InputError, match="the seventh"):
        found.extend(next(answers) for _ in range(20))
    assert found == [squared(n) for n in range(7)]


@pytest.mark.parametrize("at", [1, 4, 11])
def test_a_helper_that_is_killed_costs_no_answer(
    at: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = functools.partial(told_to_die, at=at, once=tmp_path / "died")
    with caplog.at_level(logging.WARNING, "cryoscale"):
        assert list(TWO.each(work, range(12))) == [squared(n) for n in range(12)]
    assert (tmp_path / "died").exists()
    assert ["by one process alone" in record.message for record in caplog.records] == [True]


def test_a_machine_that_gives_no_processes_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As without ``/dev/shm``, where locks between processes would lie, or at a limit of processes."""
    monkeypatch.setattr(ProcessPoolExecutor, "submit", no_processes)
    assert list(TWO.each(squared, range(12))) == [squared(n) for n in range(12)]
    (record,) = caplog.records
    assert "by one process alone: [Errno 11] no more processes" in record.message


@pytest.mark.parametrize(
    ("kind", "script", "expected"),
    [
        ("local", "/home/me/mine.py", 3),  # whose workers import it too: it is guarded
        ("tcp://10.0.0.1:8786", "/home/me/mine.py", 1),
        ("tcp://10.0.0.1:8786", "/venv/bin/cryoscale", 8),
        ("kubernetes", str(Path(finish.__file__).with_name("__main__.py")), 8),
        ("kubernetes", None, 1),
    ],
)
def test_a_script_that_needs_no_guard_is_not_imported_by_others(
    kind: str, script: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "CPU_COUNT", 8)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    assert finish._processes(ClusterSpec(kind, cpu_workers=2, gpu_workers=1)) == expected


def no_processes(*given: object) -> None:
    raise BlockingIOError(11, "no more processes")


LONG = """
import os, time
from cryoscale.crew import Crew

def told(number):
    threads = os.environ["OMP_NUM_THREADS"] if number else ""
    os.write(1, f"{os.getpid()} {threads}\\n".encode())  # in one piece, as others write too
    time.sleep(number)
    return number

if __name__ == "__main__":
    list(Crew(2, alone_s=0.0).each(told, [0, 300, 300]))
"""


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_helpers_end_with_whom_they_work_for(death: signal.Signals, tmp_path: Path) -> None:
    """At a kill at once. The terminal's Ctrl-C goes to all of them, and is for the one that they work for."""
    (tmp_path / "long.py").write_text(LONG)
    env = {name: value for name, value in os.environ.items() if name not in SINGLE}
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
