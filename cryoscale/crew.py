"""The same work on one thing after another, by several processes of this machine, answers in order.

It is used like :func:`map`, and its answers are those of ``map``: a process that dies is made up for by doing
alone what is left. What is short is done alone, since processes have to import first; while they do, this one
goes on alone, and once they are there they stay for whatever else is to be done.

Processes are forked by a server that holds nothing of a run (or started anew where systems cannot fork), so
that neither the threads nor the open files of this process are theirs:
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, parent_process, set_forkserver_preload
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Protocol, TypeVar

log = logging.getLogger("cryoscale")

if sys.platform == "linux":
    from multiprocessing.context import ForkServerContext as _Starts
    from multiprocessing.context import ForkServerProcess as _Process
else:
    from multiprocessing.context import SpawnContext as _Starts
    from multiprocessing.context import SpawnProcess as _Process

T = TypeVar("T")
R = TypeVar("R")

SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Numerical libraries would otherwise start a thread a core in every process."""

ALONE_S = 5.0
"""Processor seconds of work that is done before others are called, who import and load kernels for one or two
seconds each. It is the sum of all works of a crew."""

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


class Crew:
    """Up to so many processes, called when there turns out to be enough to do and gone when the context ends.

    Args:
        processes: how many at most; with 1 there are none beside this one.
        imports: the module that they import while this process goes on alone.
        alone_s: see :data:`ALONE_S`.
    """

    def __init__(self, processes: int, imports: str = __name__, *, alone_s: float = ALONE_S) -> None:
        self._processes, self._imports, self._alone_s = processes, imports, alone_s
        self._pool: ProcessPoolExecutor | None = None
        self._arrivals: list[Future[None]] = []
        self._spent_s, self._works = 0.0, 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        self._dismiss()
        self._processes = 1

    def each(self, work: Callable[[T], R], things: Iterable[T], /) -> Iterator[R]:
        """The answers of ``work`` to all things, in their order; where others help, all three can be pickled.

        Things are taken from their iterator in this process, a few ahead of the answer that is asked for.
        What ``work`` raises comes through as it is.
        """
        things = iter(things)
        for thing in things:
            if self.is_ready():
                yield from self._by_all(work, itertools.chain([thing], things))
                return
            begun = time.process_time()
            answer = work(thing)
            self._spent_s += time.process_time() - begun
            if self._spent_s >= self._alone_s:
                self.call()
            yield answer

    def call(self) -> None:
        """Have the others come and import, if they were not called before; returns at once."""
        if self._processes > 1 and not self._arrivals:
            with self._or_alone():
                self._start()

    def is_ready(self) -> bool:
        """Whether the others are there and have imported."""
        if not self._arrivals or not all(arrival.done() for arrival in self._arrivals):
            return False
        with self._or_alone():
            for arrival in self._arrivals:
                with _as_no_help(Exception):  # whatever keeps them from importing what this process has
                    arrival.result()
        return bool(self._arrivals)

    def _start(self) -> None:
        with _as_no_help(OSError, NotImplementedError):
            if sys.platform == "linux":
                # of use where no server is running yet, as one is after a run with workers of this machine
                set_forkserver_preload(["cryoscale.collecting", self._imports])
            self._folder = tempfile.TemporaryDirectory(prefix="cryoscale-")
            self._pool = ProcessPoolExecutor(self._processes, _Context(), _begin)
            self._arrivals = [self._pool.submit(_arrive, self._imports) for _ in range(self._processes)]

    def _by_all(self, work: Callable[[T], R], things: Iterator[T]) -> Iterator[R]:
        underway: deque[tuple[T, Future[R] | None]] = deque()
        try:
            path = self._written(work)
            for thing in things:
                underway.append((thing, None))  # it is not lost if it cannot be sent
                underway[-1] = thing, self._sent(path, thing)
                if len(underway) >= AHEAD * self._processes:
                    yield _first(underway)
            while underway:
                yield _first(underway)
            Path(path).unlink(missing_ok=True)
        except _NoHelpError as error:
            self._give_up(error)
            yield from map(work, [thing for thing, _ in underway])
            yield from map(work, things)
        finally:
            for _, future in underway:  # of what nobody wants any more
                if future is not None:
                    future.cancel()

    def _written(self, work: Callable[[T], R]) -> str:
        """Where the others find what they are to do: once for each, however many the things."""
        if self._folder is None:
            raise _NoHelpError("the others are gone")
        self._works += 1
        path = f"{self._folder.name}/{self._works}"
        with _as_no_help(OSError):
            Path(path).write_bytes(ForkingPickler.dumps(work))
        return path

    def _sent(self, path: str, thing: T) -> Future[Any]:
        if self._pool is None:  # given up by another work that is under way
            raise _NoHelpError("the others are gone")
        with _as_no_help(BrokenProcessPool, OSError, NotImplementedError):
            return self._pool.submit(_do, path, thing)

    @contextmanager
    def _or_alone(self) -> Iterator[None]:
        try:
            yield
        except _NoHelpError as error:
            self._give_up(error)

    def _give_up(self, error: _NoHelpError) -> None:
        log.warning("what is left is done by one process alone: %s", error)
        self._dismiss()
        self._processes = 1

    def _dismiss(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()
        self._pool, self._folder, self._arrivals = None, None, []


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
    with _as_no_help(BrokenProcessPool, CancelledError):
        answer = future.result()
    underway.popleft()
    return answer


class _Helper(_Process):
    """A process of the crew, which ignores SIGTERM: with that the pool ends the others when one has died, and
    waits for them.
    """

    def terminate(self) -> None:
        self.kill()


class _Context(_Starts):
    Process = _Helper


# --- in a process of the crew -----------------------------------------------------------------------

_work: tuple[str, Callable[[Any], Any]] = "", lambda thing: thing
"""What this process does with each thing, and where it was read from."""


def _begin() -> None:
    """Leave the signals of a terminal and of a pod's end to whom this process works for, and end with it."""
    os.environ.update(SINGLE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _arrive(module: str) -> None:
    importlib.import_module(module)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(path: str, thing: Any) -> Any:
    global _work
    if _work[0] != path:
        # written by this process's own parent into a folder of its own, as queues between processes are
        _work = path, ForkingPickler.loads(Path(path).read_bytes())
    return _work[1](thing)
