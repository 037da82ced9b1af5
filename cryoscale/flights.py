"""The blocks under way on a cluster: handed out, some of them for one machine alone, and taken in.

What came of a block is told and not judged here: that is for whoever handed it out.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cryoscale.errors import ActorLostError
from cryoscale.roster import CPU, scheduler_gone

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("cryoscale")

B = TypeVar("B")

AHEAD = 2
"""Blocks handed out for each task that can run at once, so that no worker waits for the driver."""

TRACEBACK_LINES = 30


@dataclass(frozen=True, eq=False)
class Flight(Generic[B]):
    """A block under way.

    Attributes:
        block: what its sender knows it by.
        arguments: what its task is called with.
        machine: where alone it may be done; None: anywhere.
        place: what its worker has to offer beside a CPU; None: nothing.
    """

    block: B
    arguments: tuple[Any, ...]
    machine: str | None = None
    place: str | None = None


@dataclass(frozen=True, eq=False)
class Landing(Generic[B]):
    """What came of a flight: the task's result, or None and an error."""

    flight: Flight[B]
    future: Any
    result: Any = None

    def error(self) -> BaseException:
        """Why there is no result.

        Raises:
            ClusterLostError: the scheduler is gone.
        """
        if self.future.client.status != "running":
            raise scheduler_gone()
        error: BaseException | None = self.future.exception() if self.future.status == "error" else None
        return error or ActorLostError("its task was lost with its worker")

    def traceback(self) -> list[str]:
        """The end of the error's traceback, a line each."""
        if self.future.status != "error":
            return []
        try:
            lines = traceback.format_tb(self.future.traceback())
        except Exception:  # a traceback that does not travel is no reason to lose the block's own error
            return []
        return [line.rstrip() for line in lines][-TRACEBACK_LINES:]


@dataclass
class Flights(Generic[B]):
    """Of one task, whose result is never None, on the workers of one scheduler."""

    client: Client
    task: Callable[..., Any]
    ended: Callable[[B], None] = lambda block: None
    """Told of each block that is under way no more."""
    dealt: Counter[str | None] = field(default_factory=Counter)
    """Blocks under way for each machine alone; None: for any."""
    _lined_up: list[Flight[B]] = field(default_factory=list)
    _flying: dict[Any, Flight[B]] = field(default_factory=dict)
    _landed: SimpleQueue[Any] = field(default_factory=SimpleQueue)

    def __len__(self) -> int:
        """How many blocks are under way or lined up."""
        return len(self._flying) + len(self._lined_up)

    def line_up(self, flight: Flight[B]) -> None:
        """Count a block as under way; :meth:`begin` hands it out."""
        self._lined_up.append(flight)
        self.dealt[flight.machine] += 1

    def begin(self) -> None:
        """Hand out what is lined up, for each place in one message: each costs the scheduler some ms."""
        beside: dict[tuple[str | None, str | None], list[Flight[B]]] = {}
        for flight in self._lined_up:
            beside.setdefault((flight.place, flight.machine), []).append(flight)
        self._lined_up = []
        for (place, machine), group in beside.items():
            futures = self.client.map(
                self.task,
                *zip(*(flight.arguments for flight in group), strict=True),
                pure=False,
                resources={CPU: 1} if place is None else {CPU: 1, place: 1},
                workers=None if machine is None else [machine],
            )
            for future, flight in zip(futures, group, strict=True):
                self._flying[future] = flight
                future.add_done_callback(self._landed.put)

    def land(self, patience_s: float) -> list[Landing[B]]:
        """Take in what has come back, those with a result first, waiting a little for the first of all."""
        landed: list[Any] = []
        try:
            landed.append(self._landed.get(timeout=patience_s))
            while True:
                landed.append(self._landed.get_nowait())
        except Empty:
            return self._take_in([future for future in landed if future in self._flying])

    def land_by(self, result_of: Callable[[B], Any]) -> list[Landing[B]]:
        """Take in the blocks that have a result without Dask's having said that they are done."""
        found = []
        for future, flight in list(self._flying.items()):
            if (result := result_of(flight.block)) is not None:
                found.append(Landing(self._end(future), future, result))
                future.release()
        return found

    def strayed(self, machines: Iterable[str]) -> list[Flight[B]]:
        """Call back the blocks that wait for a machine which is none of ``machines``.

        Dask would keep them until a worker comes to that machine.
        """
        there = {None, *machines}
        waiting = [future for future, flight in self._flying.items() if flight.machine not in there]
        if not waiting:
            return []
        try:
            at_work = {key for keys in self.client.processing().values() for key in keys}
        except OSError as error:  # once it is gone for good, the client's status says so
            log.debug("the scheduler does not say what is at work: %s", error)
            return []
        return self._call_back(f for f in waiting if f.key not in at_work and f.status == "pending")

    def recall(self) -> None:
        """Call back the blocks that no worker has begun."""
        # a worker that is gone has nothing at work
        asked = self.client.run(_executing, on_error="ignore")
        at_work = {key for keys in asked.values() for key in keys}
        self._call_back(future for future in list(self._flying) if future.key not in at_work)

    def _take_in(self, landed: Sequence[Any]) -> list[Landing[B]]:
        finished = {future.key: future for future in landed if future.status == "finished"}
        # what was lost meanwhile is None; all in one, since each asking goes to the scheduler and to a worker
        results = self.client.gather(finished, errors="skip") if finished else {}
        done, lost = [], []
        for future in landed:
            flight, result = self._end(future), results.get(future.key)
            if result is None:
                lost.append(Landing(flight, future))
            else:
                done.append(Landing(flight, future, result))
                future.release()
        return done + lost

    def _call_back(self, futures: Iterable[Any]) -> list[Flight[B]]:
        ended = []
        for future in futures:
            ended.append(self._end(future))
            future.cancel()
        return ended

    def _end(self, future: Any) -> Flight[B]:
        """The flight of a task that is under way no more."""
        flight = self._flying.pop(future)
        self.dealt[flight.machine] -= 1
        self.ended(flight.block)
        return flight


def _executing(dask_worker: Any) -> list[str]:
    """The keys of the tasks that a worker is running, as opposed to those that wait there for a thread."""
    return [str(key) for key, task in dask_worker.state.tasks.items() if task.state == "executing"]
