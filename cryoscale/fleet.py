"""The actors of a run: one on every worker that offers a GPU, whoever starts or ends these workers.

Workers come and go: preempted, restarted under another address, added by an autoscaler. The fleet asks the
scheduler who is there, gives each new GPU worker its actor, by name, since Dask would happily put two on one
device, and forgets those whose worker is gone. Models load while blocks go on elsewhere. A worker that drains
(:mod:`cryoscale.preload`) gets no more blocks, and is let go of once it has answered those it was given.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryoscale.cluster import ACTOR_THREADS, own
from cryoscale.errors import ActorLostError, ActorSilentError, ClusterLostError, CryoscaleError, OperatorError
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.calling import ActorRef, call_actor
from cryoscale.machines import LEAVING, Machines, machine_of
from cryoscale.roster import CPU, GPU, scheduler_gone, workers_at
from cryoscale.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("cryoscale")

LOOK_S = 2.0
"""How often the scheduler is asked who is there."""

START_S = 600.0
"""How long a run does without any actor, while models load or workers come back, before it gives up."""

GONE_S = 120.0
"""How long all workers of a kind may be gone from a cluster that was started here, before it is started anew:
their nannies bring them back in seconds, or, where one has given up, never."""

REFUSALS = 3
"""How often a worker may fail to start its actor before no more is asked of it."""

ASK_S = 5.0
"""How long all actors together may take to say what they have done, for which coroutines beside their work
answer: the beat of the lease waits for them, and a driver without beats counts as dead."""


@dataclass
class Seat:
    """A GPU worker and its actor; ``ref`` is None while the model loads."""

    address: str
    name: str
    future: Any
    ref: ActorRef | None = None
    load: int = 0
    """Blocks whose tasks are under way for this actor."""
    metrics: str | None = None
    """Where its worker shows metrics for Prometheus, if that library is there."""
    draining: bool = False
    """Its worker is to go: no more blocks for it."""
    tasks: int = 0
    """Block tasks that its own worker runs at once."""

    @property
    def machine(self) -> str:
        """Where its worker is."""
        return machine_of(self.address)

    @property
    def takes_blocks(self) -> bool:
        """Whether it may be given a block."""
        return self.ref is not None and not self.draining


@dataclass
class Fleet:
    """The actors of a run on the workers of one scheduler."""

    client: Client
    settings: Settings
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda name, facts: None
    """Told of actors that start, are refused and are lost."""
    sha256: str | None = None
    """Of the weights that the run was begun with."""
    seats: dict[str, Seat] = field(default_factory=dict)
    machines: Machines = field(default_factory=Machines)
    """Where blocks are done."""
    near: bool = False
    """Whether blocks are best done where their actor is: every worker for blocks holds one."""
    started: int = 0
    lost: int = 0
    _refusals: dict[str, int] = field(default_factory=dict)
    _looked: float = float("-inf")
    _without_since: float | None = None
    _gone_since: float | None = None
    _known: Mapping[str, Any] = field(default_factory=dict)
    _last_error: BaseException | None = None

    def look(self) -> bool:
        """See who is there; start actors on new GPU workers, and forget those that are gone.

        Returns whether it was time to ask.

        Raises:
            ClusterLostError: the scheduler is gone, or all workers of a kind, or no actor could be had for
                :data:`START_S`.
            CryoscaleError: no worker can load the model; the error of the last that tried.
        """
        self._settle_all()  # asks nobody: the client knows what has come of its futures
        if time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        workers = self._workers()
        staying = {a: info for a, info in workers.items() if info.get("status") not in LEAVING}
        self.machines = Machines.of(workers)
        offers = {a: str(info["name"]) for a, info in staying.items() if info["resources"].get(GPU, 0) >= 1}
        for address in self.seats.keys() - offers.keys():
            self._leave(self.seats[address], gone=address not in workers)
        for address in self.seats.keys() & offers.keys():
            self.seats[address].draining = False  # Dask may take a retirement back
        for address, name in offers.items():
            if address not in self.seats and self._refusals.get(address, 0) < REFUSALS:
                self._seat(address, name, _metrics(address, workers[address]))
        for address, seat in self.seats.items():
            seat.tasks = int(staying[address]["resources"].get(CPU, 0)) if address in staying else 0
        for_blocks = {a: info for a, info in staying.items() if info["resources"].get(CPU, 0)}
        self.near = bool(for_blocks) and all(
            a in self.seats and own(str(info["name"])) in info["resources"] for a, info in for_blocks.items()
        )
        self._settle_all()
        self._require_workers(offers)
        self._require_some(offers)
        return True

    def choose(self, ahead: int) -> Seat | None:
        """The ready actor with least to do, or None; where blocks are done beside it, one that has room.

        There is room for ``ahead`` blocks to each task that its worker runs at once.
        """
        ready = [seat for seat in self.seats.values() if seat.takes_blocks]
        if self.near:
            ready = [seat for seat in ready if seat.load < ahead * seat.tasks]
        return min(ready, key=lambda seat: seat.load) if ready else None

    @property
    def tasks(self) -> int:
        """Block tasks that the CPU workers which are there run at once."""
        return self.machines.at_once

    @property
    def ready(self) -> int:
        """Actors that have loaded their model and stay."""
        return sum(seat.takes_blocks for seat in self.seats.values())

    def report(self, ref: ActorRef, error: ActorLostError) -> None:
        """Take note that a task lost its actor; a silent one's process is ended."""
        seat = next((seat for seat in self.seats.values() if seat.ref == ref), None)
        if seat is None:
            return
        log.warning("actor on %s was lost and is replaced: %s", seat.name, error)
        self._forget(seat, str(error))
        if isinstance(error, ActorSilentError):
            self._end(seat)
        self._looked = float("-inf")

    def counts(self) -> dict[str, int]:
        """How many actors are ready, how many are loading their model, how many are to go."""
        seats = list(self.seats.values())
        draining = sum(seat.draining for seat in seats)
        ready = sum(seat.takes_blocks for seat in seats)
        return {"ready": ready, "loading": len(seats) - ready - draining, "draining": draining}

    def metrics(self) -> dict[str, str]:
        """Where the actors' workers show their metrics, by the worker's name."""
        return {seat.name: seat.metrics for seat in list(self.seats.values()) if seat.metrics}

    def stats(self) -> dict[str, dict[str, float]]:
        """What each ready actor has done, by its worker's name; those that do not answer are left out."""
        found: dict[str, dict[str, float]] = {}
        until = time.monotonic() + ASK_S
        for seat in list(self.seats.values()):
            left_s = until - time.monotonic()
            if seat.ref is None or left_s <= 0:
                continue
            try:
                found[seat.name] = dict(call_actor(seat.ref, "progress", deadline_s=left_s))
            except (ActorLostError, OSError) as error:
                log.debug("actor on %s does not say how it does: %s", seat.name, error)
        return found

    def see_off(self) -> None:
        """Take note of actors whose workers began to go since the last look, where no other look follows."""
        try:
            workers = self._workers()
        except ClusterLostError:  # whatever is left to do is done without it
            return
        for address, seat in list(self.seats.items()):
            if address in workers and workers[address].get("status") in LEAVING:
                self._leave(seat, gone=False)

    def close(self) -> None:
        """Let the actors go."""
        for seat in self.seats.values():
            seat.future.release()
        self.seats.clear()

    def _workers(self) -> Mapping[str, Any]:
        if self.client.status != "running":
            raise scheduler_gone()
        try:
            self._known = workers_at(self.client)
        except OSError as error:  # once it is gone for good, the client's status says so
            log.debug("the scheduler does not say who is there: %s", error)
        return self._known

    def _seat(self, address: str, name: str, metrics: str | None) -> None:
        model = self.settings.model
        future: Any = self.client.submit(
            ModelActor,
            model.keywords,
            tile_px=self.settings.tile_px,
            overlap=model.overlap,
            threads=ACTOR_THREADS,
            confidence=model.confidence,
            sha256=self.sha256,
            actor=True,
            pure=False,
            resources={GPU: 1},
            workers=[address],
            allow_other_workers=False,
        )
        self.seats[address] = Seat(address, name, future, metrics=metrics)

    def _settle_all(self) -> None:
        for seat in [seat for seat in self.seats.values() if seat.ref is None]:
            self._settle(seat)

    def _settle(self, seat: Seat) -> None:
        """See whether a model has loaded by now."""
        if seat.future.status == "finished":
            try:
                seat.ref = ActorRef.of(seat.future.result(timeout=ASK_S))
            except TimeoutError:  # a machine with more work than cores; the next look asks again
                return
            self.started += 1
            self.on_event("actor_started", {"actor": seat.name, "metrics": seat.metrics})
        elif seat.future.status in ("error", "cancelled", "lost"):
            error = seat.future.exception() if seat.future.status == "error" else None
            self._last_error = error or ActorLostError("the worker went away")
            self._refusals[seat.address] = self._refusals.get(seat.address, 0) + 1
            log.warning("no actor on %s: %s", seat.name, self._last_error)
            self.on_event("actor_refused", {"actor": seat.name, "reason": str(self._last_error)})
            self._forget(seat)

    def _leave(self, seat: Seat, *, gone: bool) -> None:
        """Take note that a seat's worker drains or is gone; it is lost only with blocks that it was given."""
        if gone and (seat.load or not seat.draining):
            self._forget(seat)
            return
        if not seat.draining:
            seat.draining = True
            log.info("actor on %s gets no more blocks: its worker is to go", seat.name)
        if not seat.load:
            seat.future.release()
            self.seats.pop(seat.address)
            self.on_event("actor_drained", {"actor": seat.name})

    def _forget(self, seat: Seat, reason: str = "its worker went away") -> None:
        seat.future.release()
        self.seats.pop(seat.address, None)
        if seat.ref is not None:
            self.lost += 1
            self.on_event("actor_lost", {"actor": seat.name, "reason": reason})

    def _end(self, seat: Seat) -> None:
        """End the process of an actor that hangs, which its nanny or Kubernetes starts anew.

        A worker that has neither is left where it is.
        """
        if self.settings.cluster.kind == "kubernetes":  # where workers have no nanny
            asked = {"workers": [seat.address], "on_error": "ignore"}
            # aside, as one that hangs with all its threads never answers; its liveness probe ends that one
            threading.Thread(target=self.client.run, args=(os._exit, 1), kwargs=asked, daemon=True).start()
            return
        try:
            self.client.restart_workers([seat.address], timeout=60, raise_for_error=False)
        except Exception as error:  # a worker without a nanny is a ValueError, one that is gone another
            log.warning("%s could not be restarted and is left alone: %s", seat.name, error)
            self._refusals[seat.address] = REFUSALS

    def _require_workers(self, offers: Mapping[str, str]) -> None:
        """Blocks in flight would otherwise be waited for in silence where nobody is left to do them."""
        if offers and self.tasks:
            self._gone_since = None
            return
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        patience_s = GONE_S if self.settings.cluster.kind == "local" else START_S
        if now - self._gone_since > patience_s:
            raise ClusterLostError(
                f"no worker with the resource {CPU if offers else GPU} for {patience_s:.0f} s; what is done "
                "is kept, start the same command again"
            )

    def _require_some(self, offers: Mapping[str, str]) -> None:
        if self.ready:
            self._without_since = None
            return
        now = time.monotonic()
        self._without_since = self._without_since or now
        error = self._last_error
        refused = bool(offers) and all(self._refusals.get(address, 0) >= REFUSALS for address in offers)
        if refused and isinstance(error, CryoscaleError) and not error.retry:
            raise error
        if refused and error is not None and not isinstance(error, CryoscaleError):
            raise OperatorError(f"no GPU worker can start the model: {error}") from error
        if now - self._without_since > START_S:
            raise ClusterLostError(
                f"no GPU worker had its model ready for {START_S:.0f} s"
                f"{f' ({error})' if error else ''}; what is done is kept, start the same command again"
            )


def _metrics(address: str, info: Mapping[str, Any]) -> str | None:
    """Where a worker serves HTTP, which Dask has every worker do, its dashboard on or off."""
    port = info.get("services", {}).get("dashboard")
    host = address.split("://", 1)[-1].rsplit(":", 1)[0]
    return f"http://{host}:{port}/metrics" if port else None
