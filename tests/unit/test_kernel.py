"""Kernels compile wherever they are started, and once a machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cryoscale.kernel import LOCK

SCRIPT = """
import sys
from cryoscale.kernel import kernel
source = "def double(x):\\n    return 2 * x\\n"
scope = {}
exec(compile(source, sys.argv[1], "exec"), scope)
print(kernel(scope["double"])(21))
"""


def test_a_kernel_compiles_where_nothing_can_be_cached(tmp_path: Path) -> None:
    # Folders "below" a plain file can be neither made nor written, even by root.
    file = tmp_path / "file"
    file.write_text("")
    nowhere = str(file / "nowhere")
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env |= {"HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    command = [sys.executable, "-c", SCRIPT, f"{nowhere}/double.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "42", done.stderr


TWO = """
from cryoscale.kernel import kernel

@kernel
def inner(x):
    return 2 * x

@kernel
def outer(x):
    total = 0
    for n in range(x):
        total += inner(n)
    return total
"""

CALL = """
import sys, time
from pathlib import Path
import cryoscale.kernel as ours
import two

how, home = sys.argv[1], Path(sys.argv[2])
if how == "hangs":
    def compile_(args, return_type):
        (home / "compiling").touch()
        time.sleep(600)
    two.inner._compiler.compile = compile_
if how == "impatient":
    ours.WAIT_S = 0.5
    slept = []
    ours._POLL_S = 0.01
    sleep = time.sleep
    ours.time.sleep = lambda seconds: (slept.append(seconds), sleep(seconds))
if how == "with the others":
    (home / f"ready-{sys.argv[3]}").touch()
    while not (home / "go").exists():
        time.sleep(0.001)
answer = two.outer(7)
print(answer, sum(sum(k.stats.cache_misses.values()) for k in (two.inner, two.outer)))
if how == "impatient":
    waited = len(slept)
    two.inner(1.5)
    print(waited > 0, len(slept) - waited)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two kernels, of which one calls the other."""
    (tmp_path / "two.py").write_text(TWO)
    return tmp_path


@contextmanager
def calling(home: Path, *how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that calls them."""
    env = {**os.environ, "PYTHONPATH": str(home), "NUMBA_CACHE_DIR": str(home / "cache")}
    command = [sys.executable, "-c", CALL, how[0], str(home), *how[1:]]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def answer_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(word) for word in process.communicate(timeout=50)[0].split()]


def wait_for(*paths: Path) -> None:
    begun = time.monotonic()
    while not all(path.exists() for path in paths):
        assert time.monotonic() < begun + 60
        time.sleep(0.001)


def test_processes_that_begin_at_once_compile_each_kernel_once(home: Path) -> None:
    with (
        calling(home, "with the others", "0") as one,
        calling(home, "with the others", "1") as other,
        calling(home, "with the others", "2") as third,
    ):
        wait_for(*(home / f"ready-{n}" for n in range(3)))
        (home / "go").touch()
        answers = [answer_of(process) for process in (one, other, third)]
    assert [answer for answer, _ in answers] == [42] * 3
    assert sum(compiled for _, compiled in answers) == 2
    with calling(home, "alone") as later:
        assert answer_of(later) == [42, 0]


def test_one_that_is_killed_while_it_compiles_leaves_its_turn_to_the_next(home: Path) -> None:
    with calling(home, "hangs") as first:
        wait_for(home / "compiling")
        with calling(home, "alone") as second:
            time.sleep(3.0)
            assert second.poll() is None, "it waits for its turn"
            first.kill()
            assert answer_of(second) == [42, 2]


def test_one_that_is_frozen_while_it_compiles_holds_nobody_up_for_long(home: Path) -> None:
    with calling(home, "hangs"):
        wait_for(home / "compiling")
        with calling(home, "impatient") as second:
            words = second.communicate(timeout=50)[0].split()
    assert words == ["42", "2", "True", "0"], "the next kernel is not waited for again"


def test_what_cannot_be_compiled_leaves_the_turn_as_well(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(home / "cache"))
    monkeypatch.syspath_prepend(home)
    import two  # type: ignore[import-not-found]

    for _ in range(2):
        with pytest.raises(numba.errors.TypingError):
            two.outer("seven")
        turn = two.outer._cache.turn
        assert turn.depth == 0
        with (Path(two.outer._cache.cache_path) / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert two.outer(7) == 42
