"""Arrays that another process maps where they lie, and what happens where it cannot, or somebody dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoscale.infer import handover
from cryoscale.infer.handover import Handed, Lent

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd")

SENDER = """
import sys, numpy as np
from cryoscale.infer.handover import Lent
memory = Lent()
array, handed = memory.array((3, 1000, 1000), np.dtype(np.uint16))
array[:] = np.arange(array.size, dtype=np.uint16).reshape(array.shape)
print(handed.process, handed.file, handed.token.hex(), flush=True)
sys.stdin.read()
"""


def filled(memory: Lent, value: int, shape: tuple[int, ...] = (4, 5)) -> Handed:
    array, handed = memory.array(shape, np.dtype(np.float32))
    array[:] = value
    return handed


def start() -> tuple[subprocess.Popen[str], Handed]:
    sender = subprocess.Popen(
        [sys.executable, "-c", SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert sender.stdout is not None
    process, file, token = sender.stdout.readline().split()
    return sender, Handed(int(process), int(file), bytes.fromhex(token), (3, 1000, 1000), "<u2")


def test_another_process_reads_what_was_written_and_keeps_it_when_the_writer_is_killed() -> None:
    sender, handed = start()
    found = handed.taken()
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    wanted = np.arange(3_000_000, dtype=np.uint16).reshape(3, 1000, 1000)
    np.testing.assert_array_equal(found, wanted)
    assert not found.flags.writeable
    with pytest.raises(OSError, match=r"No such file|No such process"):
        handed.taken()


def test_nothing_is_left_in_any_file_system_when_the_writer_is_killed() -> None:
    shared = Path("/dev/shm")
    before = set(os.listdir(shared))
    sender, _ = start()
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    assert {name for name in os.listdir(shared) if "cryoscale" in name} <= before


def test_memory_that_only_looks_the_same_is_not_taken_for_it() -> None:
    mine, other = Lent(), Lent()
    handed, wrong = filled(mine, 1), filled(other, 2)
    with pytest.raises(OSError, match="is another one here"):
        replace(handed, file=wrong.file).taken()
    with pytest.raises(OSError, match="is another one here"):
        replace(handed, shape=(4000, 5000)).taken()


def test_memory_is_used_again_for_less_and_made_anew_for_more() -> None:
    memory = Lent()
    first = filled(memory, 1, (100, 100))
    kept = first.taken()
    second = filled(memory, 2, (10, 10))
    assert (second.file, second.token) == (first.file, first.token)
    np.testing.assert_array_equal(second.taken(), np.full((10, 10), 2, np.float32))
    third = filled(memory, 3, (200, 100))
    assert third.token != first.token
    np.testing.assert_array_equal(third.taken(), np.full((200, 100), 3, np.float32))
    # what was mapped before stays what it was, but for the part that was written over
    assert (kept.ravel()[:100] == 2).all()
    assert (kept.ravel()[100:] == 1).all()


def test_memory_that_was_dropped_is_not_written_over_by_the_next_array() -> None:
    memory = Lent()
    late = filled(memory, 1).taken()
    memory.drop()
    filled(memory, 2)
    assert (late == 1).all()


def test_every_thread_has_its_own_memory_and_a_system_without_it_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    here = handover.lent()
    assert here is handover.lent()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handover.lent).result() is not here
    monkeypatch.delattr(os, "memfd_create")
    assert handover.lent() is None
