"""Blocks that wait for their turn, some of them for a host to come back."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import Generic, TypeVar

from cryoscale.errors import HostDownError
from cryoscale.read import hosts

T = TypeVar("T")


def put_off_s(error: BaseException) -> float:
    """How long to leave a block alone that failed with ``error``, in seconds.

    The attempts of a block would otherwise be over before a host that is down has been given a minute.
    """
    return hosts.COOLING_S if isinstance(error, HostDownError) else 0.0


class Waiting(Generic[T]):
    """First come, first served, except for those that are put off."""

    def __init__(self, work: Iterable[T] = ()) -> None:
        self._ready = deque(work)
        self._later: list[tuple[float, int, T]] = []
        self._number = count()

    def __bool__(self) -> bool:
        return bool(self._ready or self._later)

    def put(self, work: T, after_s: float = 0.0) -> None:
        """Line ``work`` up again, not to be taken before ``after_s`` seconds are over."""
        if after_s > 0:
            heapq.heappush(self._later, (time.monotonic() + after_s, next(self._number), work))
        else:
            self._ready.append(work)

    def take(self) -> T | None:
        """The next whose time has come, or None."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._ready.append(heapq.heappop(self._later)[2])
        return self._ready.popleft() if self._ready else None

    def next_s(self) -> float:
        """Seconds until there is something to take; infinite where nothing waits."""
        if self._ready:
            return 0.0
        return max(self._later[0][0] - time.monotonic(), 0.0) if self._later else float("inf")
