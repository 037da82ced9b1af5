"""A gate before an actor: at most so many blocks are on their way into its process or in it.

Every CPU task of a run may have a block ready at the same moment, some hundred MB each. Sent at once, all
would lie in the memory of the one process that holds the GPU, so that each asks for a place first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count

PLACES = 2
"""Blocks in an actor's process: one that is predicted, and one that is ready when it is done."""

ARRIVAL_S = 60.0
"""How long a place is kept for a block that does not arrive, since its sender may be dead.

What lies here already, and waits for another to be done, arrives only then.
"""


class Gate:
    """Places, given in the order in which they were asked for; all of it lives on one event loop.

    Args:
        places: how many.
        busy_since: when what is being done was begun, None where nothing is; by any clock.
    """

    def __init__(self, places: int = PLACES, busy_since: Callable[[], float | None] = lambda: None) -> None:
        self._places, self._busy_since = places, busy_since
        self._inside: dict[int, asyncio.TimerHandle | None] = {}
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._tickets = count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.most = 0
        """The most blocks that were inside at once."""

    async def enter(self) -> int:
        """A ticket, once there is a place."""
        self._loop = asyncio.get_running_loop()
        if len(self._inside) < self._places:
            return self._admit()
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append(waiter)
        return await waiter

    def arrive(self, ticket: int) -> None:
        """The block is here: its place is kept until it leaves. From any thread."""
        self._from_thread(self._arrived, ticket)

    def leave(self, ticket: int) -> None:
        """The block is done, and another may come. From any thread."""
        self._from_thread(self._left, ticket)

    def _from_thread(self, what: Callable[[int], None], ticket: int) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(what, ticket)

    def _admit(self) -> int:
        assert self._loop is not None
        ticket = next(self._tickets)
        self._inside[ticket] = self._loop.call_later(ARRIVAL_S, self._missed, ticket, None)
        self.most = max(self.most, len(self._inside))
        return ticket

    def _missed(self, ticket: int, before: float | None) -> None:
        """It did not arrive in time. ``before`` is when that was begun which was being done the last time.

        While that goes on, the block may lie here and wait for it. Once something else was begun it does not:
        it would have come first.
        """
        since = self._busy_since()
        if since is None or before not in (None, since) or self._loop is None:
            self._left(ticket)
        elif ticket in self._inside:
            self._inside[ticket] = self._loop.call_later(ARRIVAL_S, self._missed, ticket, since)

    def _arrived(self, ticket: int) -> None:
        timer = self._inside.get(ticket)
        if timer is not None:
            timer.cancel()
            self._inside[ticket] = None

    def _left(self, ticket: int) -> None:
        timer = self._inside.pop(ticket, None)
        if timer is not None:
            timer.cancel()
        while self._waiting and len(self._inside) < self._places:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._admit())
