"""Workers to run on: started here, joined by address, or asked of Kubernetes.

Two kinds of workers are told apart by Dask's abstract resources, so that it does not matter who
started them: ``CPU`` for the tasks that read, compute features and write, ``GPU`` for the processes
that hold one model each (one process a device). On a machine without a GPU the same actor runs on
the CPU in a process of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryoscale import forking
from cryoscale.crew import SINGLE
from cryoscale.errors import ClusterLostError, ExtraError, InputError, StoppedError, TransientError
from cryoscale.read import kept
from cryoscale.roster import CONNECT_TIMEOUT_S, CPU, GPU, Workers, dashboard_of, joined
from cryoscale.settings import ClusterSpec, ModelSpec

if TYPE_CHECKING:
    from cryoscale.kube.provision import Provision
    from cryoscale.kube.scaling import Load

log = logging.getLogger("cryoscale")

FROZEN_S = 180
"""A worker that has not told that it lives for this long is replaced, after twice as long at the latest.

A lock within a library can freeze a whole process, its heartbeat included (see :data:`UNWATCHED`); Dask's
own 5 minutes would let such a worker hold its blocks for 10.
"""

UNWATCHED = {"distributed.worker.profile.enabled": False}
"""Dask's profiler, which nobody looks at here, can freeze a worker for ever under Python 3.11.

While tasks run it calls ``sys._current_frames`` every 10 ms. That holds the lock on the interpreter's list of
threads and allocates, hence may collect garbage, hence run Python (Dask's own callback, a finaliser) and give
up the GIL; whoever then starts or ends a thread, as the reading of each block does, waits for that lock with
the GIL held. Mended in 3.12 alone: python/cpython#106883, dask/distributed#8616.
"""

SELDOM = {"distributed.admin.tick.interval": "500ms"}
"""How often Dask looks whether its event loops still turn: its 20 ms, in the driver and in two workers, took
9 % of a core."""

RECONNECT_S = 300.0
"""How long a run waits for a scheduler that is gone to come back at its address, before it gives up."""

JOIN_S = 120.0
"""How long workers whose pods are ready may take to join their scheduler, or to find the next one."""

ACTOR_THREADS = 1
"""CPU threads of one actor. Fixed, since convolutions on two threads differ from those on one in the
last bits: with one thread everywhere, a map does not tell on how many cores it was made. A machine
with more cores runs more actors."""


def require_dashboard() -> None:
    """Refuse, before anything is written, to serve a dashboard without the library that draws it.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        import distributed.dashboard.scheduler  # noqa: F401 - which looks at the library's version too
    except ImportError as error:
        do = "pip install 'cryoscale[dashboard]'"
        raise ExtraError("--dashboard", "the extra dashboard", do) from error


def require_reachable(
    spec: ClusterSpec, out: str, stop: threading.Event, tell: Callable[[str], None]
) -> None:
    """Refuse, before anything is written, a cluster that is not there or cannot write to ``out``.

    Raises:
        InputError: the scheduler does not answer, its workers do not join, the output is in this process's
            memory, or the environment of workers that are started here says what cannot be.
        StoppedError: the run was told to stop meanwhile.
    """
    if out.startswith("memory://"):
        raise InputError(
            f"output {out}, which other processes cannot see",
            "a folder or an object store",
            "give another --out",
        )
    if spec.kind == "kubernetes":
        from cryoscale.kube.provision import require_provision

        require_provision(spec, out, run_label(out))
    elif spec.kind == "local":
        kept.gib()
    else:
        with joined(spec.kind, True, stop, tell):
            pass


@dataclass
class Site:
    """Where a run works: a context in which workers can be had, lost, and had again.

    Attributes:
        spec: what the configuration names.
        out: where the run lies; empty for work that is no run, and whose cluster is nobody else's.
        with_actors: whether models are to be held.
        model: which.
        tell: told what is waited for.
        stop: set to end each wait.
    """

    spec: ClusterSpec
    out: str = ""
    with_actors: bool = True
    model: ModelSpec | None = None
    tell: Callable[[str], None] = log.info
    stop: threading.Event = field(default_factory=threading.Event)
    _stack: ExitStack = field(default_factory=ExitStack)
    _made: Provision | None = None
    _address: str | None = None

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let what was brought up go, as early as it is not needed."""
        self._stack.close()
        self._made = self._address = None

    def open(self) -> None:
        """Have a cluster brought up on Kubernetes, once; others are there, or start with their workers.

        Raises:
            InputError: it does not come up, for a reason that Kubernetes names.
            StoppedError: the run was told to stop meanwhile.
        """
        if self.spec.kind != "kubernetes" or self._address is not None:
            return
        from cryoscale.kube.provision import provided

        self._made = self._stack.enter_context(
            provided(
                self.spec,
                run=run_label(self.out or uuid.uuid4().hex),
                with_actors=self.with_actors,
                model=self.model,
                tell=self.tell,
                stop=self.stop,
            )
        )
        self._address = self._made.up()

    def clear(self) -> None:
        """Where nothing is to be opened: take down what a driver left that was killed after its last block.

        Raises:
            InputError: the API server of Kubernetes cannot be asked.
            ClusterUnavailableError: it does not answer.
        """
        if self.spec.kind == "kubernetes" and self._address is None:
            from cryoscale.kube.provision import take_down_left

            take_down_left(self.spec, run_label(self.out))

    @contextmanager
    def workers(self, *, dashboard: bool = False) -> Iterator[Workers]:
        """Connect to the workers, and let them go at the end.

        With ``dashboard`` those that are started here have Dask's; whether workers that are joined have one
        is for whoever started them.

        Raises:
            InputError: the scheduler does not answer, or none of its workers offers a needed resource within
                :data:`CONNECT_TIMEOUT_S`.
            ClusterLostError: the scheduler of a cluster on Kubernetes that has just come up does not answer.
            StoppedError: the run was told to stop meanwhile.
        """
        from cryoscale.keeping import keeping_ranges

        self.open()
        if self.spec.kind == "local":
            with _local(self.spec, self.with_actors, dashboard) as found:
                yield found
        else:
            stood = self._made is not None
            patience_s = JOIN_S if stood else 0.0
            address = self._address or self.spec.kind
            with (
                joined(
                    address, self.with_actors, self.stop, self.tell, patience_s=patience_s, stood=stood
                ) as found,
                keeping_ranges(found.client, run_label(self.out)),
            ):
                yield found

    @contextmanager
    def scaled(
        self, found: Workers, load: Callable[[], Load], on_event: Callable[[str, Mapping[str, Any]], None]
    ) -> Iterator[None]:
        """Within this the number of CPU workers follows the run's load, where it is ours to choose."""
        if self._made is None:
            yield
            return
        from cryoscale.kube.scaling import Scaler, Sizing

        sizing = Sizing(self.spec.cpu_workers_min, self.spec.cpu_workers)
        spec = replace(self.spec, namespace=self._made.kube.namespace)
        use = self._made.use
        with Scaler(self._made.kube, spec, found.client, load, on_event, sizing, use):
            yield

    def await_again(self) -> None:
        """Return once there is a scheduler again, with workers of both kinds.

        Raises:
            ClusterLostError: there is none for :data:`RECONNECT_S`, or on Kubernetes for ``wait_s``.
            StoppedError: the run was told to stop meanwhile.
        """
        if self.spec.kind == "local":
            return
        patience_s, join_s = (self.spec.wait_s, JOIN_S) if self._made else (RECONNECT_S, 0.0)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                if self._made is not None:
                    self._address = self._made.up()
                address = self._address or self.spec.kind
                with joined(address, self.with_actors, self.stop, self.tell, patience_s=join_s):
                    return
            except (InputError, TransientError) as error:
                if isinstance(error, StoppedError):
                    raise
                if time.monotonic() > deadline:
                    given = error.given if isinstance(error, InputError) else str(error)
                    raise ClusterLostError(
                        f"no scheduler for {patience_s:.0f} s ({given}); what is done is kept, start the "
                        "same command again"
                    ) from error
            if self.stop.wait(2.0):
                raise StoppedError("stopped while the cluster was away; the same command goes on")


def run_label(out: str) -> str:
    """What the objects of a run have in common, whoever asks from where: a digest of where it lies."""
    return hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:16]


@contextmanager
def workers(spec: ClusterSpec, *, actors: bool = True) -> Iterator[Workers]:
    """Workers for a while, for work that is no run; see :meth:`Site.workers`.

    Without ``actors`` only workers for block tasks are started or asked for.
    """
    with Site(spec, with_actors=actors, tell=log.warning) as site, site.workers() as found:
        yield found


@contextmanager
def _local(spec: ClusterSpec, with_actors: bool, dashboard: bool) -> Iterator[Workers]:
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    from cryoscale.keeping import KeepsRanges, folder_of_this_process
    from cryoscale.leaving import LeavesAtOnce, send_away

    cores = os.cpu_count() or 1
    on_cpu = min(cores, spec.cpu_workers) if with_actors and not spec.gpu_workers else 0
    on_gpu = spec.gpu_workers if with_actors else 0
    layout: dict[str, Any] = {}
    for number in range(spec.cpu_workers):
        # Two tasks a process: while one waits for the actor, the other reads and computes.
        name = f"cpu-{number}"
        offers = {CPU: 2.0, **({GPU: 1.0, own(name): 2.0} if number < on_cpu else {})}
        layout[name] = {"cls": Nanny, "options": _worker(2, offers, {})}
    for number in range(on_gpu):
        device = {"CUDA_VISIBLE_DEVICES": _gpu(number)}
        layout[f"actor-{number}"] = {"cls": Nanny, "options": _worker(1, {GPU: 1.0}, device)}
    forking.import_ahead(spec, actors=with_actors)
    # a worker that is sent away leaves with messages for it under way, which Dask tells once it is loud again
    logging.getLogger("distributed.batched").setLevel(logging.CRITICAL)
    scheduler = {
        "cls": Scheduler,
        "options": {"dashboard": dashboard, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"},
    }
    # Dask puts there what a new interpreter shall find, memory that goes back to the system at every chance
    # among it; left there, all that this process starts later would have that too
    put = [*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED", "__DASK_PARENT_PID"]
    with (
        folder_of_this_process() as ranges,
        forking.restored(put),
        dask.config.set(
            {
                "distributed.scheduler.worker-ttl": f"{FROZEN_S} s",
                # who is to blame for a dead worker is ours to count, block by block
                "distributed.scheduler.allowed-failures": 0,
                "distributed.worker.multiprocessing-method": forking.method(spec),
                **UNWATCHED,
                **SELDOM,
            }
        ),
        SpecCluster(workers=layout, scheduler=scheduler, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster, timeout=CONNECT_TIMEOUT_S) as client,
    ):
        client.register_plugin(LeavesAtOnce())
        if ranges is not None:
            client.register_plugin(KeepsRanges(ranges))
        try:
            client.wait_for_workers(len(layout), timeout=CONNECT_TIMEOUT_S)
            found = dashboard_of(client) if dashboard else None
            yield Workers(client, 2 * spec.cpu_workers, on_cpu + on_gpu, found)
        finally:
            send_away(cluster.workers.values())


def _gpu(number: int) -> str:
    """What CUDA calls a GPU: one of those that this process was given, as by a batch system."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if given is None else "".join(given.split(",")[number : number + 1]).strip()


def own(name: str) -> str:
    """The resource of the worker of that name alone, and of the one that its nanny starts in its place.

    Asked of a task, it brings it there. Its address would not do: Dask keeps a task for an address that is
    gone until the end, others allowed or not (distributed 2026.8, ``Scheduler.valid_workers``).
    """
    return f"{CPU} of {name}"


def _worker(nthreads: int, resources: dict[str, float], device: dict[str, str]) -> dict[str, Any]:
    return {
        "nthreads": nthreads,
        "resources": resources,
        "host": "127.0.0.1",
        # a fork would otherwise have the environment of the time when its server was started
        "env": {**os.environ, **(SINGLE if CPU in resources else {}), **device},
        "memory_limit": 0,
        # What goes wrong in a task comes back to the driver, which tells it once.
        "silence_logs": logging.CRITICAL,
        "dashboard": False,
    }
