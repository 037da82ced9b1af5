"""The same work on one thing after another, by several processes of this machine, answers in order.

It is used like :func:`map`, and its answers are those of ``map``: a process that dies is made up for by doing
alone what is left. What is short is done alone from the beginning, since processes have to import first.

Processes are forked by a server that holds nothing of a run (or started anew where systems cannot fork), so
that neither the threads nor the open files of this process are theirs:
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, set_forkserver_preload
from typing import Any, Protocol, TypeVar

log = logging.getLogger("cryoscale")

T = TypeVar("T")
R = TypeVar("R")

SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Numerical libraries would otherwise start a thread a core in every process."""

ALONE_S = 5.0
"""How long the work is done alone: processes import and load kernels for two or three seconds each time."""

AHEAD = 3
"""Things a process that are on their way: more would not be quicker, and all of them are in memory."""


class Each(Protocol):
    """What :func:`map` and :meth:`Crew.each` are."""

    def __call__(self, work: Callable[[T], R], things: Iterable[T], /) -> Iterator[R]:
        """The answers to all things, in their order."""


def in_pairs(each: Each, work: Callable[[T], R], things: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Every thing with the answer to it, in order."""
    taken: deque[T] = deque()

    def noted() -> Iterator[T]:
        for thing in things:
            taken.append(thing)
            yield thing

    for answer in each(work, noted()):
        yield taken.popleft(), answer


@dataclass(frozen=True)
class Crew:
    """Up to so many processes, which are started when there is enough to do and gone when it is done.

    Attributes:
        processes: how many at most; with 1 there are none beside this one.
        alone_s: see :data:`ALONE_S`.
    """

    processes: int
    alone_s: float = ALONE_S

    def each(self, work: Callable[[T], R], things: Iterable[T], /) -> Iterator[R]:
        """The answers of ``work`` to all things, in their order; where others help, all three can be pickled.

        Things are taken from their iterator in this process, a few ahead of the answer that is asked for.
        What ``work`` raises comes through as it is.
        """
        things, begun = iter(things), time.monotonic()
        for thing in things:
            yield work(thing)
            if self.processes > 1 and time.monotonic() - begun >= self.alone_s:
                break
        yield from self._by_all(work, things)

    def _by_all(self, work: Callable[[T], R], things: Iterator[T]) -> Iterator[R]:
        underway: deque[tuple[T, Future[R] | None]] = deque()
        pool: ProcessPoolExecutor | None = None
        try:
            for thing in things:
                underway.append((thing, None))  # it is not lost if it cannot be sent
                with _as_no_help(BrokenProcessPool, OSError, NotImplementedError):
                    pool = pool or self._started(work)
                    underway[-1] = thing, pool.submit(_do, thing)
                if len(underway) >= AHEAD * self.processes:
                    yield _first(underway)
            while underway:
                yield _first(underway)
        except _NoHelpError as error:
            log.warning("what is left is done by one process alone: %s", error)
            yield from map(work, [thing for thing, _ in underway])
            yield from map(work, things)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _started(self, work: Callable[[T], R]) -> ProcessPoolExecutor:
        if sys.platform != "linux":
            return ProcessPoolExecutor(self.processes, get_context("spawn"), _begin, (work,))
        # of use where the server is not running yet, as it is after a run with workers of this machine
        set_forkserver_preload([type(work).__module__])
        return ProcessPoolExecutor(self.processes, get_context("forkserver"), _begin, (work,))


class _NoHelpError(Exception):
    """One of the other processes has died, or a machine has no more processes to give."""


@contextmanager
def _as_no_help(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise _NoHelpError(" ".join(str(error).split()) or type(error).__name__) from error


def _first(underway: deque[tuple[T, Future[R] | None]]) -> R:
    """The answer to the thing that was sent first, which is then no longer on its way."""
    future = underway[0][1]
    assert future is not None  # only the last may not have been sent
    with _as_no_help(BrokenProcessPool):
        answer = future.result()
    underway.popleft()
    return answer


# --- in a process of the crew -----------------------------------------------------------------------

_work: Callable[[Any], Any]
"""What this process does with each thing."""


def _begin(work: Callable[[Any], Any]) -> None:
    """Leave the signals of a terminal and of a pod's end to whom this process works for, and end with it."""
    global _work
    _work = work
    os.environ.update(SINGLE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(thing: Any) -> Any:
    return _work(thing)
