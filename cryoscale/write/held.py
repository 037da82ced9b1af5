"""A store over a network that nobody writes, of which a process holds what it read last.

A glacier's outline is laid over the map and the elevation time and again, and so are those beside it: each
asks for the same few chunks, and over a network every request takes as long as much reckoning. zarr's own
cache (``zarr.experimental.cache_store``) is no help here: it does not go to another process, where outlines
are described, and has no bound in common for the many stores that a run's end opens.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

HELD_BYTES = 64 * 2**20
"""Held by a process, of all its stores: some 60 chunks of elevation, or 300 of a map."""

_ABSENT_BYTES = 200
"""What it takes to know that there is no such object."""


class _Held:
    """Answers by what was asked, as many as ``HELD_BYTES`` have room for, those that were used last."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Any, Buffer | None] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def find(self, asked: Any) -> tuple[bool, Buffer | None]:
        """Whether it is held, and the answer: None of an object that does not exist."""
        with self._lock:
            if asked not in self._answers:
                return False, None
            self._answers.move_to_end(asked)
            return True, self._answers[asked]

    def hold(self, asked: Any, answer: Buffer | None) -> None:
        """Keep it, in the place of those that were not used for longest."""
        with self._lock:
            if asked not in self._answers:
                self._bytes += _size(answer)
            self._answers[asked] = answer
            while self._bytes > HELD_BYTES:
                self._bytes -= _size(self._answers.popitem(last=False)[1])


def _size(answer: Buffer | None) -> int:
    return _ABSENT_BYTES if answer is None else len(answer)


_held = _Held()
_opened = itertools.count()


class HeldStore(WrapperStore[Store]):
    """A store as it is when it is opened; opened again it is asked again.

    Args:
        store: that is asked for what is not held; what is held does not go along to another process.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._number = next(_opened)

    def __reduce__(self) -> tuple[type[HeldStore], tuple[Store]]:
        return type(self), (self._store,)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As of any store."""
        asked = self._number, key, byte_range
        there, answer = _held.find(asked)
        if not there:
            answer = await self._store.get(key, prototype, byte_range)
            _held.hold(asked, answer)
        return answer
