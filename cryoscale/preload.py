"""What a worker in a pod does beyond Dask: it says when it is ready, and ends its blocks before it goes.

For ``dask worker ... --no-nanny --preload cryoscale.preload``. Before the worker joins its scheduler it
loads the model of ``CRYOSCALE_WEIGHTS``, if it is one for actors, so that a driver which sees it finds it
warm. Its HTTP port answers ``/ready``: 503 with the reason until then and again while it drains, else 200.

On SIGTERM (a node that is reclaimed, ``kubectl drain``, a Deployment that is deleted) it takes no more tasks,
gives back those that wait for a thread, finishes what it is at, and leaves when nothing of it is needed any
more, after ``CRYOSCALE_DRAIN_S`` seconds at the latest. A second SIGTERM ends it as if nobody listened. What
Kubernetes does meanwhile: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.http.utils import RequestHandler
from distributed.worker import WORKER_ANY_RUNNING
from distributed.worker_state_machine import FreeKeysEvent

from cryoscale.models.loading import keep
from cryoscale.roster import GPU

if TYPE_CHECKING:
    from distributed import Worker

log = logging.getLogger("distributed.cryoscale")  # below Dask's own, which the command shows on stderr

WEIGHTS = "CRYOSCALE_WEIGHTS"
PRECISION = "CRYOSCALE_PRECISION"
"""As ``model.precision`` of the runs to come; another one than theirs costs them the loading."""

DRAIN = "CRYOSCALE_DRAIN_S"
DRAIN_S = 300.0
"""How long a drain may take unless told otherwise: a few blocks."""

POLL_S = 0.1

NAMESAKE_S = 2.0
"""How often the scheduler is asked whether it still has a namesake: it answers with all its workers."""


@dataclass
class Readiness:
    """Whether a worker can be given blocks, and if not, why."""

    worker: Worker
    loading: str = ""
    """The weights that are being loaded."""
    failed: str = ""
    follows: str = ""
    """The worker of the same name that the scheduler still has."""
    draining: bool = False

    def lacks(self) -> str:
        """What is still to come, in one line; nothing where it is ready."""
        if self.draining:
            return "draining: it finishes its blocks and leaves"
        if self.loading:
            return f"loading the model of {self.loading}"
        if self.follows:
            return f"waiting for {self.follows}, which has the same name, to leave"
        if self.failed and not self.worker.state.actors:
            return self.failed
        if self.worker.status != Status.running:
            return f"not joined to its scheduler {self.worker.scheduler.address}"
        return ""

    async def load(self, weights: str) -> None:
        """Load a model for the actors to come; one that cannot be had is their driver's to tell."""
        self.loading = weights
        loop, loaded = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            try:
                keep(weights=weights, precision=os.environ.get(PRECISION, "auto"))
            except Exception as error:
                self.failed = f"the model of {weights} cannot be loaded: {' '.join(str(error).split())}"
                log.error("%s", self.failed)
            finally:
                loop.call_soon_threadsafe(loaded.set)

        threading.Thread(target=work, name="cryoscale-load", daemon=True).start()
        await loaded.wait()
        self.loading = ""

    async def have_name(self) -> None:
        """Wait until no other worker has this one's name, which the scheduler takes once.

        A pod that replaces another has its name, that of their Deployment, and comes while the other drains,
        or before the loss of its node is noticed. Refused, it would be started anew by the kubelet, after
        10 s, 20 s ... 5 min.
        """
        while (other := await self._namesake()) is not None:
            if not self.follows:
                log.info("waiting for %s, which has the same name, to leave", other)
            self.follows = other
            await asyncio.sleep(NAMESAKE_S)
        self.follows = ""

    async def _namesake(self) -> str | None:
        try:
            found = await self.worker.scheduler.identity()
        except OSError:  # a scheduler that is away is for Dask to wait for
            return None
        return next((at for at, one in found["workers"].items() if one["name"] == self.worker.name), None)


class Ready(RequestHandler):
    """Answers ``/ready``."""

    def initialize(self, readiness: Readiness) -> None:  # type: ignore[override]
        """Whose readiness it is."""
        self._readiness = readiness

    def get(self) -> None:
        """200, or 503 and the reason."""
        lacks = self._readiness.lacks()
        self.set_status(503 if lacks else 200)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(f"{lacks or 'ready'}\n")


async def dask_setup(worker: Worker) -> None:
    """Called by Dask once the worker's HTTP server answers, and before it joins its scheduler."""
    readiness = Readiness(worker)
    path = f"/{(worker._http_prefix or '').strip('/')}/ready".replace("//", "/")
    worker.http_application.add_handlers(".*$", [(path, Ready, {"readiness": readiness})])
    _heed_sigterm(readiness, _drain_s())
    weights = os.environ.get(WEIGHTS)
    if weights and worker.state.total_resources.get(GPU, 0) >= 1:
        await readiness.load(weights)
    await readiness.have_name()


def _drain_s() -> float:
    given = os.environ.get(DRAIN, "")
    try:
        return float(given) if given else DRAIN_S
    except ValueError:  # raised, it would cost the worker its draining: Dask goes on without a preload
        log.warning("given %s=%s; expected seconds; taking %.0f", DRAIN, given, DRAIN_S)
        return DRAIN_S


def _heed_sigterm(readiness: Readiness, drain_s: float) -> None:
    """Drain at the first SIGTERM, in place of Dask's handler, which without a nanny drops everything."""
    if threading.current_thread() is not threading.main_thread():
        log.warning("SIGTERM does not drain this worker, which is not its process's main thread's")
        return
    before, loop = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    def start() -> None:
        tasks.append(asyncio.ensure_future(drain(readiness, drain_s)))

    def heed(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        if readiness.loading:
            os._exit(0)  # nothing is held, and a thread that loads a network cannot be called back
        elif readiness.worker.status == Status.init:
            signal.raise_signal(number)
        else:
            loop.call_soon_threadsafe(start)

    signal.signal(signal.SIGTERM, heed)


# --- going ------------------------------------------------------------------------------------------


async def drain(readiness: Readiness, drain_s: float) -> None:
    """Finish what the worker is at, have the rest done elsewhere, and leave.

    Dask's own way (``Worker.close_gracefully``) waits neither for tasks that run nor for actors.
    """
    worker, deadline = readiness.worker, time.monotonic() + drain_s
    if worker.status not in WORKER_ANY_RUNNING:  # it goes already
        return
    readiness.draining = True
    log.info("draining: no new tasks; what is under way is finished, for %.0f s at most", drain_s)
    # not "paused", which Dask's memory monitor takes back
    worker.status = Status.closing_gracefully
    while worker.status == Status.closing_gracefully:
        _give_back(worker)
        if not _is_at_work(worker) and await _retire(worker, deadline):
            log.info("drained: nothing is left to do here")
            break
        if time.monotonic() > deadline:
            log.warning("not drained after %.0f s: what is under way is left to others", drain_s)
            await _unregister(worker)
            break
        await asyncio.sleep(POLL_S)
    await worker.close(executor_wait=False, reason="cryoscale-drain")


def _give_back(worker: Worker) -> None:
    """Have tasks that wait here for a thread or a resource done elsewhere; they count as never begun."""
    waiting = [key for key, task in worker.state.tasks.items() if task.state in ("ready", "constrained")]
    for key in waiting:
        stimulus = f"cryoscale-drain-{time.time()}"
        # the scheduler asks for this order: a task that is rescheduled must not be heard of again
        worker.handle_stimulus(FreeKeysEvent(keys=[key], stimulus_id=stimulus))
        worker.batched_send({"op": "reschedule", "key": key, "stimulus_id": stimulus})


def _is_at_work(worker: Worker) -> bool:
    """Whether a task runs, or an actor is not yet let go of by its driver."""
    state = worker.state
    return bool(state.executing or state.long_running or state.actors)


async def _retire(worker: Worker, deadline: float) -> bool:
    """Whether the scheduler has let the worker go, its results moved to others or fetched."""
    left_s = max(deadline - time.monotonic(), POLL_S)
    asked = worker.scheduler.retire_workers(
        workers=[worker.address],
        close_workers=False,
        remove=True,
        stimulus_id=f"cryoscale-drain-{time.time()}",
    )
    try:
        return bool(await asyncio.wait_for(asked, left_s))
    except TimeoutError:
        return False
    except OSError:  # without a scheduler there is nobody to finish anything for
        return True


async def _unregister(worker: Worker) -> None:
    """Leave the scheduler in the middle of tasks, in a way that counts against none of them."""
    try:
        await worker.scheduler.unregister(
            address=worker.address,
            expected=True,
            close=False,
            stimulus_id=f"cryoscale-drain-{time.time()}",
        )
    except OSError as error:
        log.info("the scheduler is gone: %s", error)
