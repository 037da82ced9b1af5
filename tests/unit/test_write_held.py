"""A store over a network that nobody writes: asked once for what is cut out of it over and over."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from cryoscale.write import held
from cryoscale.write.held import HeldStore
from cryoscale.write.store import open_resting

ASKED: list[tuple[str, Any]] = []
PROTOTYPE = default_buffer_prototype()


class Counted(WrapperStore[MemoryStore]):
    """A store that notes what it is asked for."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        ASKED.append((key, byte_range))
        return await super().get(key, prototype, byte_range)


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_held", held._Held())
    ASKED.clear()


def counted(**content: bytes) -> Counted:
    objects = {key: PROTOTYPE.buffer.from_bytes(value) for key, value in content.items()}
    return Counted(MemoryStore(objects))


def read(store: HeldStore, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
    found = asyncio.run(store.get(key, PROTOTYPE, byte_range))
    return None if found is None else found.to_bytes()


def test_chunks_of_shards_are_asked_for_once_however_often_they_are_cut() -> None:
    memory = MemoryStore()
    array = zarr.create_array(memory, shape=(64, 64), shards=(32, 32), chunks=(16, 16), dtype="f4")
    array[:] = values = np.arange(64.0 * 64).reshape(64, 64).astype("f4")
    cut = zarr.open_array(HeldStore(Counted(memory.with_read_only(True))), mode="r")
    first = len(ASKED)
    for top in range(0, 60, 5):
        for left in range(0, 60, 5):
            np.testing.assert_array_equal(
                cut[top : top + 8, left : left + 8], values[top : top + 8, left : left + 8]
            )
    of_chunks = ASKED[first:]
    assert len(set(of_chunks)) == len(of_chunks)
    # the index of each shard, every chunk, and each shard as a whole for a cut that meets all its chunks
    assert len(of_chunks) == 4 + 16 + 4


def test_a_store_that_is_opened_again_is_asked_again() -> None:
    store = counted(a=b"old")
    resting = HeldStore(store)
    assert read(resting, "a") == b"old"
    asyncio.run(store.set("a", PROTOTYPE.buffer.from_bytes(b"new")))
    assert read(resting, "a") == b"old"
    assert read(HeldStore(store), "a") == b"new"


def test_parts_of_an_object_and_objects_that_do_not_exist_are_told_apart() -> None:
    resting = HeldStore(counted(a=b"0123456789"))
    for _ in range(2):
        assert read(resting, "a", RangeByteRequest(2, 5)) == b"234"
        assert read(resting, "a", SuffixByteRequest(3)) == b"789"
        assert read(resting, "a") == b"0123456789"
        assert read(resting, "b") is None
    assert len(ASKED) == 4


def test_another_process_begins_with_nothing_and_reads_the_same(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(8,), chunks=(4,), dtype="i4")
    array[:] = np.arange(8)
    resting = HeldStore(LocalStore(tmp_path / "a.zarr", read_only=True))
    assert read(resting, "c/0") is not None
    sent = pickle.loads(pickle.dumps(resting))
    assert len(pickle.dumps(resting)) < 2000
    assert sent._number != resting._number
    np.testing.assert_array_equal(zarr.open_array(sent, mode="r")[:], np.arange(8))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=60))
def test_what_is_held_has_room_and_is_what_was_used_last(asked: list[tuple[int, int]]) -> None:
    """Against a list of all that was ever used, last first."""
    kept, used = held._Held(), list[tuple[int, int]]()
    before, held.HELD_BYTES = held.HELD_BYTES, 100
    try:
        for key, size in asked:
            one = key, size
            there, answer = kept.find(one)
            wanted, room = set(), 100
            for other in used:  # those that fit, up to the first that does not
                room -= other[1]
                if room < 0:
                    break
                wanted.add(other)
            assert there == (one in wanted)
            if not there:
                answer = PROTOTYPE.buffer.from_bytes(bytes(size))
                kept.hold(one, answer)
            assert answer is not None
            assert len(answer) == size
            used = [one, *(other for other in used if other != one)]
    finally:
        held.HELD_BYTES = before


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    assert isinstance(open_resting(tmp_path), LocalStore)
    assert isinstance(open_resting("memory://run/mosaic.zarr"), HeldStore)
