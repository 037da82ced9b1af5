"""The drive: blocks kept in flight, failures repeated, hopeless blocks set aside.

Dask holds no state of the run: a block counts as done when its marker lies in the ledger, and what
the driver knows beside that dies with it and is not missed. Nothing here grows with the region but the
queue of blocks to do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryoscale.blame import Blame, is_loss
from cryoscale.blocktask import ACTOR_DEADLINE_S, Task, block_task
from cryoscale.cluster import own
from cryoscale.errors import (
    ActorLostError,
    BlockFailedError,
    ClusterLostError,
    CryoscaleError,
    NoRoomError,
    StoppedError,
)
from cryoscale.fleet import Fleet, Seat
from cryoscale.flights import AHEAD, Flight, Flights, Landing
from cryoscale.infer.calling import ActorRef
from cryoscale.kube.scaling import Load
from cryoscale.ledger import DONE, ROLL_AT, Ledger, Marker, SetAside, Work, name_of
from cryoscale.outcome import Outcome, Progress, Watch
from cryoscale.pace import Pace, Sample
from cryoscale.roster import Workers, scheduler_gone
from cryoscale.settings import Settings
from cryoscale.task import run_context
from cryoscale.waiting import Waiting, put_off_s

log = logging.getLogger("cryoscale")

STALL_S = 2 * ACTOR_DEADLINE_S
"""How long no block at all may come back before the run gives up."""

DRAIN_S = 270.0
"""How long a driver of pods that is told to stop waits for the blocks in work: the rest of the grace period
of its own pod is for taking the cluster down, which would else run on."""

SET_BACK_S = 5.0
"""By how much the time of the day may go back at once, before the cluster is started or joined anew."""

UNHEARD_S = 30.0
"""After how long a silence the ledger is asked whether blocks in flight are done."""

PATIENCE_S = 1.0
"""How long the driver waits for a block before it looks around: for a signal, for new workers."""

SCENES_TOLD = 50
"""So many of the scenes that could not be read are named with every beat."""


@dataclass(frozen=True)
class _Sent:
    """A block under way: on which actor, and whether with nothing beside it."""

    work: Work
    seat: Seat
    ref: ActorRef
    alone: bool


class Driver:
    """Keeps workers busy with blocks until none is left that could still succeed."""

    task: Task = staticmethod(block_task)

    def __init__(
        self, settings: Settings, out: str, identity: str, found: Workers, outcome: Outcome, watch: Watch
    ) -> None:
        self.out, self.identity = out, identity
        self.ledger = Ledger(out)
        begun = (self.ledger.manifest() or {}).get("identity", {}).get("model", {}).get("sha256")
        self.fleet = Fleet(found.client, settings, watch.on_event, begun)
        self.pace = Pace()
        self.busy_shares: Mapping[str, float] = {}
        self.outcome, self.watch = outcome, watch
        self.queue: Waiting[Work] = Waiting()
        self.suspects: deque[Work] = deque()
        self.blame = Blame()
        self.rolling: threading.Thread | None = None
        self.flights: Flights[_Sent] = Flights(found.client, type(self).task, self._left)
        self.total = 0
        self.ahead = 0.0
        self.started = time.perf_counter()
        self.ended: float | None = None

    def drive(self, work: Sequence[Work]) -> None:
        """Run all of ``work``; returns when each block is done or set aside.

        Raises:
            StoppedError: it was told to stop; what was in work is done.
            NoRoomError: the output takes no more.
            ClusterLostError: the scheduler or all workers of a kind are gone.
        """
        from distributed.comm.core import CommClosedError

        self.queue = Waiting(work)
        before = self.outcome.skipped + self.outcome.computed + len(self.outcome.set_aside)
        self.total = before + len(work)
        heard = asked = time.monotonic()
        self.ahead = time.time() - time.monotonic()
        try:
            while self.queue or self.flights or self.suspects:
                self.watch.check()
                if self.watch.stop.is_set():
                    self._drain()
                    raise StoppedError(f"stopped with {self._told()}; the same command goes on")
                self._heed_clock()
                if self.fleet.look():
                    self._deal_again()
                self._fill()
                if self._gather() or not self.flights:
                    heard = asked = time.monotonic()
                elif time.monotonic() - asked > UNHEARD_S:
                    asked = time.monotonic()
                    if self._look_up():
                        heard = asked
                elif time.monotonic() - heard > STALL_S:
                    raise ClusterLostError(
                        f"no block came back for {STALL_S:.0f} s; look for lost workers, and start the same "
                        "command again"
                    )
            self.fleet.see_off()
        except CommClosedError as error:  # what was asked of the scheduler found no answer
            raise scheduler_gone() from error
        finally:
            self.ended = time.perf_counter()
            self.fleet.close()

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            done=self.outcome.skipped + self.outcome.computed,
            skipped=self.outcome.skipped,
            set_aside=len(self.outcome.set_aside),
            total=self.total,
            pixels=self.outcome.pixels,
            elapsed_s=(self.ended or time.perf_counter()) - self.started,
        )

    def load(self) -> Load:
        """What the number of CPU workers is chosen by."""
        state, shares = self.progress(), list(self.busy_shares.values())
        undone = state.total - state.done - state.set_aside
        return Load(sum(shares) / len(shares) if shares else None, undone)

    def facts(self) -> dict[str, Any]:
        """What the run is doing, for whoever looks from another terminal; nothing before it began."""
        if not self.total:
            return {}
        state, actors = self.progress(), self.fleet.stats()
        busy_s = {name: stats["busy_s"] for name, stats in actors.items()}
        self.pace.note(Sample(time.monotonic(), self.outcome.computed, state.pixels, busy_s))
        told: dict[str, dict[str, Any]] = {name: dict(stats) for name, stats in actors.items()}
        self.busy_shares = self.pace.busy_shares()
        for name, share in self.busy_shares.items():
            told[name]["busy_share"] = share
        for name, address in self.fleet.metrics().items():
            told.setdefault(name, {})["metrics"] = address
        failed = list(self.outcome.scenes_failed)
        return {
            "done": state.done,
            "skipped": state.skipped,
            "total": state.total,
            "set_aside": state.set_aside,
            "in_flight": len(self.flights),
            "repeated": self.outcome.repeated,
            "elapsed_s": round(state.elapsed_s, 1),
            "computed": self.outcome.computed,
            "pixels": state.pixels,
            "recent": self.pace.rates(),
            "actors": told,
            "actors_by_state": self.fleet.counts(),
            "actors_lost": self.fleet.lost,
            "scenes_failed": [list(scene) for scene in sorted(failed)[:SCENES_TOLD]],
            "scenes_failed_count": len(failed),
        }

    # --- blocks out, blocks in ------------------------------------------------------------------

    def _fill(self) -> None:
        """Hand out as many blocks as there is room for."""
        before = len(self.flights)
        while len(self.flights) < AHEAD * self.fleet.tasks:
            seat = self.fleet.choose(AHEAD)
            if seat is None or seat.ref is None:
                break
            machine = self._machine(seat)
            work = self.queue.take(machine)
            alone = work is None and bool(self.suspects) and not (self.queue or self.flights)
            if alone:
                work = self.suspects.popleft()
            if work is None:
                break
            self._line_up(_Sent(work, seat, seat.ref, alone), machine)
        if len(self.flights) > before:
            if not before and not self.outcome.computed:
                self._set_out()
            self.flights.begin()

    def _line_up(self, sent: _Sent, machine: str | None) -> None:
        near = self.fleet.near
        attempt = self.blame.attempt(sent.work)
        self.flights.line_up(
            Flight(
                sent,
                (self.out, self.identity, sent.work, sent.ref, attempt, ACTOR_DEADLINE_S),
                machine=None if sent.alone or near else machine,
                place=own(sent.seat.name) if near else None,
            )
        )
        sent.seat.load += 1

    def _left(self, sent: _Sent) -> None:
        """A block is under way no more."""
        sent.seat.load -= 1

    def _set_out(self) -> None:
        """A model is loaded: from here on blocks are done."""
        self.started = time.perf_counter()

    def _gather(self) -> bool:
        """Take in what has come back, waiting a little for the first; whether there was any."""
        patience_s = PATIENCE_S if self.flights else max(min(self.queue.next_s(), PATIENCE_S), 0.01)
        landings = self.flights.land(patience_s)
        for landing in landings:
            if landing.result is None:
                self._give_up(landing)
            else:
                self._done(Marker.model_validate_json(landing.result))
        return bool(landings)

    def _machine(self, seat: Seat) -> str | None:
        """The machine that a block is for whose actor is ``seat``; None where any may do it."""
        machines = self.fleet.machines
        if self.fleet.near:
            return seat.machine if len(machines.tasks) > 1 else None
        return machines.roomiest(self.flights.dealt, len(self.queue), AHEAD)

    def _deal_again(self) -> None:
        """Have blocks done elsewhere whose machine is gone, or goes and has given them back."""
        machines = self.fleet.machines
        self.queue.keep(machines.tasks)
        for flight in self.flights.strayed(machines.tasks):
            if flight.machine in machines.leaving:
                self.queue.put(flight.block.work)
            else:
                self._failed(flight.block, ActorLostError(f"its machine {flight.machine} is gone"), [])

    def _heed_clock(self) -> None:
        """Leave a cluster whose messages a clock that was set back holds up.

        Dask sends no message before a deadline that it keeps in the time of the day (distributed 2026.8,
        ``BatchedSend``): set back by a day, it is silent for a day.
        """
        ahead = time.time() - time.monotonic()
        back_s, self.ahead = self.ahead - ahead, ahead
        if back_s > SET_BACK_S:
            self._look_up()
            raise ClusterLostError(
                f"the clock was set back by {back_s:.0f} s, which holds up Dask's messages"
            )

    def _look_up(self) -> bool:
        """Take in the blocks that are done without Dask's having said so; whether there are any."""
        landings = self.flights.land_by(self._marked)
        for landing in landings:
            self._done(landing.result)
        return bool(landings)

    def _marked(self, sent: _Sent) -> Marker | None:
        content = self.ledger.objects.get(name_of(DONE, sent.work))
        marker = Marker.from_bytes(content) if content is not None else None
        return marker if marker is not None and marker.is_of(self.identity) else None

    def _done(self, marker: Marker) -> None:
        self.outcome.computed += 1
        self.outcome.pixels += marker.pixels
        self.outcome.scenes_failed.update(marker.scenes_failed)
        self.blame.forget(marker.key)
        self.watch.on_event("block", marker.model_dump(mode="json", exclude={"scene_choice", "shards"}))
        if self.outcome.computed % ROLL_AT == 0 and (self.rolling is None or not self.rolling.is_alive()):
            self.rolling = threading.Thread(target=self._roll, name="cryoscale-roll", daemon=True)
            self.rolling.start()
        self._tell()

    def _roll(self) -> None:
        """Copy markers together beside the drive; without it a later resume is slower, and nothing else."""
        try:
            self.ledger.roll()
        except OSError as error:
            log.debug("markers could not be copied together: %s", error)

    # --- what goes wrong ------------------------------------------------------------------------

    def _give_up(self, landing: Landing[_Sent]) -> None:
        """Take note of a task that came to nothing."""
        sent, error, lines = landing.flight.block, landing.error(), landing.traceback()
        if isinstance(error, ActorLostError):
            self.fleet.report(sent.ref, error)
        elif self.fleet.near and is_loss(error):
            # The actor died with the task's process. Nothing more for it until another is there with its
            # model: a block that is there first may kill the new process too, and a nanny whose process dies
            # before it has fully started starts no other (distributed 2026.8, ``Nanny.instantiate``).
            self.fleet.report(sent.ref, ActorLostError(f"its process died: {error}"))
        self._failed(sent, error, lines)

    def _failed(self, sent: _Sent, error: BaseException, lines: list[str]) -> None:
        if isinstance(error, NoRoomError):
            self._drain()
            raise error
        year, block = work = sent.work
        verdict = self.blame.judge(work, error, alone=sent.alone)
        if verdict.then != "aside":
            self.outcome.repeated += 1
            self.watch.on_event(
                "lost" if verdict.lost else "failed",
                {
                    "year": year,
                    "epsg": block.epsg,
                    "row": block.row,
                    "col": block.col,
                    "attempt": verdict.attempts,
                    "error": type(error).__name__,
                    "reason": verdict.reason,
                },
            )
            if verdict.then == "alone":
                self.suspects.append(work)
            else:
                self.queue.put(work, put_off_s(error))
            return
        record = SetAside(
            year=year,
            epsg=block.epsg,
            row=block.row,
            col=block.col,
            size_px=block.size_px,
            error=type(error).__name__,
            reason=verdict.reason,
            attempts=verdict.attempts,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            may_pass=isinstance(error, CryoscaleError) and error.retry,
            traceback=lines,
            scenes=run_context(self.out, self.identity).scenes_over(year, block.window),
        )
        self.ledger.set_aside(record)
        self.outcome.set_aside.append(record)
        log.warning("%s", BlockFailedError(f"block {block.key} of {year} is set aside: {record.reason}"))
        self.watch.on_event("set_aside", record.model_dump(mode="json"))
        self._tell()

    def _drain(self) -> None:
        """Let the blocks that are being computed come to their end, and call the others back."""
        self.flights.recall()
        on_pods = self.fleet.settings.cluster.kind == "kubernetes"
        deadline = time.monotonic() + (DRAIN_S if on_pods else ACTOR_DEADLINE_S)
        while self.flights and time.monotonic() < deadline:
            for landing in self.flights.land(PATIENCE_S):
                if landing.result is not None:
                    self._done(Marker.model_validate_json(landing.result))

    def _told(self) -> str:
        state = self.progress()
        return f"{state.done} of {state.total} blocks done"

    def _tell(self) -> None:
        if self.watch.on_progress is not None:
            self.watch.on_progress(self.progress())
