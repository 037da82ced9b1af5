"""Memory of stacks: used again once nobody holds them, never before, and the system's if it wants it."""

from __future__ import annotations

import mmap
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoscale.features import memory

SHAPE = (8, 1024, 1024)

pytestmark = pytest.mark.skipif(
    not memory._KEEPS, reason="the system cannot be told of memory in use no more"
)


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_the_memory_of_a_stack_that_is_gone_is_the_next_ones() -> None:
    first = memory.empty(SHAPE)
    assert (first.shape, first.dtype, first.flags.c_contiguous, first.flags.writeable) == (
        SHAPE,
        np.float32,
        True,
        True,
    )
    was = place(first)
    del first
    assert place(memory.empty(SHAPE)) == was


@pytest.mark.parametrize(
    "part_of",
    [
        lambda stack: stack[3],
        lambda stack: stack.reshape(8, -1)[:, ::7],
        lambda stack: stack[::-1, 5:9].transpose(2, 0, 1),
        lambda stack: stack.view(np.uint32).view(np.float32),
    ],
    ids=["plane", "pixels", "turned", "other type"],
)
def test_a_stack_of_which_somebody_holds_a_part_is_not_gone(
    part_of: Callable[[np.ndarray], np.ndarray],
) -> None:
    first = memory.empty(SHAPE)
    first[:] = 7.0
    was, part = place(first), part_of(first)
    del first
    memory.empty(SHAPE)[:] = 1.0
    second = memory.empty(SHAPE)
    assert place(second) != was
    second[:] = 2.0
    assert (part == 7.0).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from([8, 9])), max_size=20))
def test_no_stack_is_written_over_while_it_is_held(moves: list[tuple[bool, int, int]]) -> None:
    held: list[tuple[int, np.ndarray]] = []
    for number, (drops, which, planes) in enumerate(moves):
        if drops and held:
            held.pop(which % len(held))
        elif len(held) < 4:
            made = memory.empty((planes, *SHAPE[1:]))
            made[:, ::64] = number
            held.append((number, made))
        assert all((array[:, ::64] == value).all() for value, array in held)


def test_stacks_that_are_made_at_once_lie_apart() -> None:
    memory.empty(SHAPE)
    at, begin = [], threading.Barrier(4)

    def make() -> None:
        begin.wait()
        made = memory.empty(SHAPE)
        at.append((place(made), made))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({where for where, _ in at}) == 4


def lazily_free_kib() -> int:
    found = re.search(r"^LazyFree:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it there")
def test_what_is_kept_is_the_systems_when_it_is_short_of_memory() -> None:
    before, made = lazily_free_kib(), memory.empty(SHAPE)
    made[:] = 1.0
    assert lazily_free_kib() <= before
    del made
    assert lazily_free_kib() > 0.9 * np.prod(SHAPE) * 4 / 1024


def test_one_is_kept_and_no_more_and_none_of_another_size() -> None:
    stacks = [memory.empty(SHAPE) for _ in range(3)]
    for stack in stacks:
        stack[:] = 1.0
    del stack
    stacks.clear()
    assert lazily_free_kib() < 1.1 * np.prod(SHAPE) * 4 / 1024
    memory.empty((9, *SHAPE[1:]))
    (kept,) = memory._SPARE
    assert len(kept) == 9 * 4 * 2**20


def test_a_system_that_knows_nothing_of_advice_keeps_nothing_and_complains_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory.empty((9, *SHAPE[1:]))  # what was kept is of another size
    advised: list[int] = []

    class Sandboxed(mmap.mmap):
        def madvise(self, advice: int) -> None:  # type: ignore[override]
            advised.append(advice)
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(memory.mmap, "mmap", Sandboxed)
    made = memory.empty(SHAPE)
    made[:] = 1.0
    del made
    assert advised == [mmap.MADV_HUGEPAGE, mmap.MADV_FREE]
    assert not memory._SPARE


def test_small_ones_and_those_of_other_systems_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.empty((3, 4)).base is None
    monkeypatch.setattr(memory, "_KEEPS", False)
    assert memory.empty(SHAPE).base is None
