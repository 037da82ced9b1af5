"""The blocks under way: handed to Dask with their actor and, where that matters, their machine; and taken in.

What came of a block is told and not judged here: that is the drive's.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from cryoscale.cluster import own
from cryoscale.errors import ActorLostError
from cryoscale.fleet import Fleet, Seat, scheduler_gone
from cryoscale.infer.calling import ActorRef, predict_on
from cryoscale.ledger import Marker, Work
from cryoscale.roster import CPU
from cryoscale.task import PREDICT_S, process_block

log = logging.getLogger("cryoscale")

Task = Callable[[str, str, Work, ActorRef, int, float], str]
"""What a CPU worker runs: output, identity, block, actor, attempt and deadline in, the marker's JSON out."""

ACTOR_DEADLINE_S = 1800.0
"""How long a block may take on its actor before the actor counts as hung."""

TRACEBACK_LINES = 30


def block_task(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """What a CPU worker runs: the block, with the actor asked for its probabilities; its marker as JSON.

    Dask walks through every document that it passes on, thrice; a text it takes as it is.
    """
    from distributed import get_worker

    def predict(array: Any, window: Any, wanted: Any) -> Mapping[str, Any]:
        bands, seconds = predict_on(actor, array, window, wanted, deadline_s=deadline_s)
        return {**bands, PREDICT_S: seconds}

    year, block = work
    marker = process_block(
        out, identity, year, block, predict, attempt=attempt, worker=str(get_worker().name)
    )
    return marker.model_dump_json()


@dataclass(frozen=True)
class Flight:
    """A block under way: on which actor, whether with nothing beside it, and on which machine alone."""

    work: Work
    seat: Seat
    ref: ActorRef
    alone: bool
    machine: str | None
    attempt: int


@dataclass(frozen=True)
class Landing:
    """What came of a flight: a marker, or the error in which it ended."""

    flight: Flight
    future: Any
    marker: Marker | None = None

    def error(self) -> BaseException:
        """Why there is no marker.

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
class Flights:
    """Of one run, on the workers of one scheduler."""

    fleet: Fleet
    out: str
    identity: str
    task: Task
    dealt: Counter[str | None] = field(default_factory=Counter)
    """Blocks under way for each machine alone; None: for any."""
    _lined_up: list[Flight] = field(default_factory=list)
    _flying: dict[Any, Flight] = field(default_factory=dict)
    _landed: SimpleQueue[Any] = field(default_factory=SimpleQueue)

    def __len__(self) -> int:
        """How many blocks are under way or lined up."""
        return len(self._flying) + len(self._lined_up)

    def line_up(self, flight: Flight) -> None:
        """Count a block as under way; :meth:`begin` hands it out."""
        self._lined_up.append(flight)
        self._count(flight, 1)

    def begin(self) -> None:
        """Hand out what is lined up; for each place in one message: each costs the scheduler some ms."""
        beside: dict[tuple[str | None, str | None], list[Flight]] = {}
        for flight in self._lined_up:
            place = own(flight.seat.name) if self.fleet.near else None
            beside.setdefault((place, flight.machine), []).append(flight)
        self._lined_up = []
        for (place, machine), group in beside.items():
            calls = [
                (self.out, self.identity, one.work, one.ref, one.attempt, ACTOR_DEADLINE_S) for one in group
            ]
            needs = {CPU: 1} if place is None else {CPU: 1, place: 1}
            where = None if machine is None else [machine]
            futures = self.fleet.client.map(
                self.task, *zip(*calls, strict=True), pure=False, resources=needs, workers=where
            )
            for future, flight in zip(futures, group, strict=True):
                self._flying[future] = flight
                future.add_done_callback(self._landed.put)

    def land(self, patience_s: float) -> list[Landing]:
        """Take in what has come back, those with a marker first, waiting a little for the first of all."""
        landed: list[Any] = []
        try:
            landed.append(self._landed.get(timeout=patience_s))
            while True:
                landed.append(self._landed.get_nowait())
        except Empty:
            return self._take_in([future for future in landed if future in self._flying])

    def land_by(self, marked: Callable[[Work], Marker | None]) -> list[Landing]:
        """Take in what has a marker without Dask's having said that it is done."""
        found = []
        for future, flight in list(self._flying.items()):
            if (marker := marked(flight.work)) is not None:
                found.append(Landing(self._end(future), future, marker))
                future.release()
        return found

    def strayed(self, machines: Iterable[str]) -> list[Flight]:
        """Call back the blocks that wait for a machine which is none of ``machines``.

        Dask would keep them until a worker comes to that machine.
        """
        there = {None, *machines}
        waiting = [future for future, flight in self._flying.items() if flight.machine not in there]
        if not waiting:
            return []
        try:
            at_work = {key for keys in self.fleet.client.processing().values() for key in keys}
        except OSError as error:  # once it is gone for good, the client's status says so
            log.debug("the scheduler does not say what is at work: %s", error)
            return []
        return self._call_back(f for f in waiting if f.key not in at_work and f.status == "pending")

    def recall(self) -> None:
        """Call back the blocks that no worker has begun."""
        # a worker that is gone has nothing at work
        asked = self.fleet.client.run(_executing, on_error="ignore")
        at_work = {key for keys in asked.values() for key in keys}
        self._call_back(future for future in list(self._flying) if future.key not in at_work)

    def _take_in(self, landed: Sequence[Any]) -> list[Landing]:
        finished = {future.key: future for future in landed if future.status == "finished"}
        # what was lost meanwhile is None; all in one, since each asking goes to the scheduler and to a worker
        documents = self.fleet.client.gather(finished, errors="skip") if finished else {}
        done, lost = [], []
        for future in landed:
            flight, document = self._end(future), documents.get(future.key)
            if document is None:
                lost.append(Landing(flight, future))
            else:
                done.append(Landing(flight, future, Marker.model_validate_json(document)))
                future.release()
        return done + lost

    def _call_back(self, futures: Iterable[Any]) -> list[Flight]:
        ended = []
        for future in futures:
            ended.append(self._end(future))
            future.cancel()
        return ended

    def _end(self, future: Any) -> Flight:
        """The flight of a task that is under way no more."""
        flight = self._flying.pop(future)
        self._count(flight, -1)
        return flight

    def _count(self, flight: Flight, more: int) -> None:
        flight.seat.load += more
        self.dealt[flight.machine] += more


def _executing(dask_worker: Any) -> list[str]:
    """The keys of the tasks that a worker is running, as opposed to those that wait there for a thread."""
    return [str(key) for key, task in dask_worker.state.tasks.items() if task.state == "executing"]
