"""Blocks that wait for their turn, some of them for a host to come back."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Container, Iterable
from itertools import count
from typing import Generic, TypeVar

from cryoscale.dealing import Dealing
from cryoscale.errors import HostDownError
from cryoscale.read import hosts

T = TypeVar("T")


def put_off_s(error: BaseException) -> float:
    """How long to leave a block alone that failed with ``error``, in seconds.

    The attempts of a block would otherwise be over before a host that is down has been given a minute.
    """
    return hosts.COOLING_S if isinstance(error, HostDownError) else 0.0


class Waiting(Generic[T]):
    """First come, first served, as :class:`Dealing` deals it; what is lined up again comes after that."""

    def __init__(self, work: Iterable[T] = ()) -> None:
        self._dealing = Dealing(work)
        self._again: deque[T] = deque()
        self._later: list[tuple[float, int, T]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._dealing) + len(self._again) + len(self._later)

    def put(self, work: T, after_s: float = 0.0) -> None:
        """Line ``work`` up again, not to be taken before ``after_s`` seconds are over."""
        if after_s > 0:
            heapq.heappush(self._later, (time.monotonic() + after_s, next(self._number), work))
        else:
            self._again.append(work)

    def take(self, machine: str | None = None) -> T | None:
        """The next for ``machine``, or for any, whose time has come; None where there is none."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._again.append(heapq.heappop(self._later)[2])
        if (found := self._dealing.take(machine)) is not None:
            return found
        return self._again.popleft() if self._again else None

    def keep(self, machines: Container[str]) -> None:
        """Take note of which machines are there: what others were to do is for these."""
        self._dealing.keep(machines)

    def next_s(self) -> float:
        """Seconds until there is something to take; infinite where nothing waits."""
        if self._again or len(self._dealing):
            return 0.0
        return max(self._later[0][0] - time.monotonic(), 0.0) if self._later else float("inf")
