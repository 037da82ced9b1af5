"""The drive: blocks kept in flight, failures repeated, lost actors replaced, hopeless blocks set aside.

Dask holds no state of the run: a block counts as done when its marker lies in the ledger, and what
the driver knows beside that dies with it and is not missed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryoscale.cluster import ACTOR_THREADS, CPU, GPU, Workers
from cryoscale.errors import ActorLostError, BlockFailedError, CryoscaleError, OperatorError
from cryoscale.grid import Block, Window
from cryoscale.infer.actor import ActorRef, ModelActor, call_actor
from cryoscale.ledger import Ledger, Marker, SetAside
from cryoscale.settings import Settings
from cryoscale.task import ATTEMPTS, process_block
from cryoscale.waiting import Waiting, put_off_s

log = logging.getLogger("cryoscale")

LOSSES = 10
"""How many actors may die under a block before it is set aside: one that is preempted is not to blame
on the block, one that dies each time is."""

ACTOR_DEADLINE_S = 1800.0
"""How long a block may take on its actor before the actor counts as hung."""

ACTOR_START_S = 600.0
"""How long an actor may take to load its model."""

STALL_S = 2 * ACTOR_DEADLINE_S
"""How long no block at all may come back before the run gives up."""

Work = tuple[int, Block]


@dataclass(frozen=True)
class Progress:
    """How far a run is; given to ``on_progress`` after every block."""

    done: int
    skipped: int
    """Of those, blocks that an earlier session had done."""
    set_aside: int
    total: int
    pixels: int
    """Pixels finished in this session."""
    elapsed_s: float

    @property
    def pixels_per_s(self) -> float:
        """Pixels a second in this session."""
        return self.pixels / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass
class Outcome:
    """What a session of a run did."""

    out: str
    computed: list[Marker] = field(default_factory=list)
    skipped: int = 0
    set_aside: list[SetAside] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 where blocks are set aside."""
        return 1 if self.set_aside else 0

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        failed = sorted({tuple(scene) for marker in self.computed for scene in marker.scenes_failed})
        return {
            "out": self.out,
            "computed": len(self.computed),
            "skipped": self.skipped,
            "set_aside": [record.model_dump(mode="json") for record in self.set_aside],
            "scenes_failed": [list(scene) for scene in failed],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


OnProgress = Callable[[Progress], None]


def block_task(
    out: str, identity: str, year: int, block: Block, actor: ActorRef, attempt: int, deadline_s: float
) -> dict[str, Any]:
    """What a CPU worker runs: the block, with the actor asked for its probabilities."""
    from distributed import get_worker

    def predict(array: Any, window: Window, wanted: Block) -> Mapping[str, Any]:
        place = (window.row, window.col, wanted)
        answer: Mapping[str, Any] = call_actor(actor, "predict", array, *place, deadline_s=deadline_s)
        return answer

    marker = process_block(
        out, identity, year, block, predict, attempt=attempt, worker=str(get_worker().name)
    )
    return marker.model_dump(mode="json")


class Driver:
    """Keeps workers busy with blocks until none is left that could still succeed."""

    def __init__(
        self,
        settings: Settings,
        out: str,
        identity: str,
        found: Workers,
        outcome: Outcome,
        on_progress: OnProgress | None,
        total: int,
    ) -> None:
        self.settings, self.out, self.identity = settings, out, identity
        self.workers, self.outcome = found, outcome
        self.on_progress, self.total = on_progress, total
        self.ledger = Ledger(out)
        self.queue: Waiting[Work] = Waiting()
        self.failures: dict[Work, int] = {}
        self.losses: dict[Work, int] = {}
        self.flying: dict[Any, tuple[Work, int, int]] = {}
        self.actors: list[Any] = [None] * found.actors
        self.refs: dict[int, ActorRef] = {}
        self.generation = [0] * found.actors
        self.started = time.perf_counter()

    def drive(self, work: Sequence[Work]) -> None:
        """Run all of ``work``; returns when each block is done or set aside."""
        from distributed import wait

        self.queue = Waiting(work)
        for number in range(len(self.actors)):
            self._start_actor(number)
        limit = 2 * self.workers.tasks
        self.started = time.perf_counter()  # the models are loaded: from here on blocks are done
        heard = time.monotonic()
        while self.queue or self.flying:
            while len(self.flying) < limit and (block := self.queue.take()) is not None:
                self._submit(block)
            if not self.flying:
                time.sleep(min(self.queue.next_s(), 1.0))  # all are put off
                heard = time.monotonic()
                continue
            try:
                patience_s = min(60.0, self.queue.next_s() + 0.1) if len(self.flying) < limit else 60.0
                finished = wait(list(self.flying), timeout=patience_s, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if time.monotonic() - heard > STALL_S:
                    raise OperatorError(
                        f"no block came back for {STALL_S:.0f} s; look for lost workers and run again"
                    ) from None
                continue
            heard = time.monotonic()
            for future in finished:
                self._collect(future)
        for future in self.actors:
            future.release()

    def _start_actor(self, number: int) -> None:
        """Place actor ``number`` on a worker that offers a GPU; its weights are loaded there once."""
        model = self.settings.model
        future: Any = self.workers.client.submit(
            ModelActor,
            model.keywords,
            tile_px=self.settings.tile_px,
            overlap=model.overlap,
            threads=ACTOR_THREADS,
            confidence=model.confidence,
            actor=True,
            pure=False,
            resources={GPU: 1},
        )
        self.refs[number] = ActorRef.of(future.result(timeout=ACTOR_START_S))
        self.actors[number] = future

    def _submit(self, work: Work) -> None:
        year, block = work
        number = min(range(len(self.actors)), key=lambda n: sum(1 for f in self.flying.values() if f[1] == n))
        future = self.workers.client.submit(
            block_task,
            self.out,
            self.identity,
            year,
            block,
            self.refs[number],
            self.failures.get(work, 0) + 1,
            ACTOR_DEADLINE_S,
            pure=False,
            resources={CPU: 1},
        )
        self.flying[future] = (work, number, self.generation[number])

    def _collect(self, future: Any) -> None:
        """Take a finished task in; a block that has to be done again is lined up."""
        work, number, generation = self.flying.pop(future)
        error = None if future.status == "finished" else (future.exception() or ActorLostError("cancelled"))
        if error is None:
            self.outcome.computed.append(Marker.model_validate(future.result()))
        elif isinstance(error, ActorLostError) and generation == self.generation[number]:
            log.warning("actor %d was lost and is replaced: %s", number, error)
            self.generation[number] += 1
            self._start_actor(number)
        future.release()
        if error is not None:
            self._failed(work, error)
        else:
            self._tell()

    def _failed(self, work: Work, error: BaseException) -> None:
        lost = isinstance(error, ActorLostError)
        counts, most = (self.losses, LOSSES) if lost else (self.failures, ATTEMPTS)
        counts[work] = counts.get(work, 0) + 1
        hopeless = isinstance(error, CryoscaleError) and not error.retry
        if counts[work] < most and not hopeless:
            self.queue.put(work, put_off_s(error))
            return
        year, block = work
        record = SetAside(
            year=year,
            epsg=block.epsg,
            row=block.row,
            col=block.col,
            size_px=block.size_px,
            error=type(error).__name__,
            reason=" ".join(str(error).split())[:500],
            attempts=counts[work],
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.ledger.set_aside(record)
        self.outcome.set_aside.append(record)
        log.warning("%s", BlockFailedError(f"block {block.key} of {year} is set aside: {record.reason}"))
        self._tell()

    def _tell(self) -> None:
        if self.on_progress is None:
            return
        computed = self.outcome.computed
        self.on_progress(
            Progress(
                done=self.outcome.skipped + len(computed),
                skipped=self.outcome.skipped,
                set_aside=len(self.outcome.set_aside),
                total=self.total,
                pixels=sum(marker.pixels for marker in computed),
                elapsed_s=time.perf_counter() - self.started,
            )
        )
