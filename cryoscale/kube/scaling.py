"""How many CPU workers: enough to keep the actors busy, in a group whose scale-down is our own.

**Why our own.** The operator of dask-kubernetes 2026.3.0 raises a group rightly, and lowers it blindly: on
fewer `replicas` its `daskworkergroup_replica_update` calls `retire_workers`, which posts `{"n": n}` to the
scheduler's `/api/v1/retire_workers` (or asks it for `workers_to_close(n=n)`); the group's name goes only
into the log and into the last way out, last-in-first-out. The scheduler chooses among *all* its workers,
and the operator deletes the Deployments of those names, whatever their group: lowering the CPU group can
end a GPU worker with its model, and then neither group has what it asked for. So says
https://github.com/dask/dask-kubernetes/issues/914, so it stands in `operator/controller/controller.py`, and
so it was seen: of three CPU workers with data and one GPU worker, lowering the CPU group by one left three
and none.

**Why not two clusters** whose workers join one scheduler: who lowers the one with the scheduler asks that
scheduler, which knows the workers of both, and the operator deletes Deployments by name in the namespace, of
either cluster; who lowers the other asks that one's own scheduler, which nobody has joined and which names
nobody, so that nothing happens. Two clusters with a driver that keeps a client on each scheduler would be
safe, at the price of a second scheduler pod that can be lost, and of tasks and actors that no scheduler sees
together. One cluster with two groups needs neither, as long as nobody has the operator lower a group (hence
no DaskAutoscaler either).

**How**: of the CPU group's Deployments those are chosen that have no worker yet, or one with least to do;
they are deleted, at which their pods get SIGTERM and finish the block they are at (:mod:`cryoscale.preload`);
then `replicas` is put to what is left, at which the operator finds nothing to do. Each step is one call and
may be the last one: Deployments that are missing are taken out of the count by whoever looks next, and a
worker is never left paused, as it would be by retiring it through the scheduler first. The group of the
actors is never touched.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryoscale.errors import ClusterUnavailableError, CryoscaleError
from cryoscale.kube.api import Kube
from cryoscale.kube.standing import GROUP_LABEL
from cryoscale.roster import workers_at
from cryoscale.settings import ClusterSpec

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("cryoscale")

STEP_S = 15.0
"""How often it is looked."""

SETTLE_S = 150.0
"""How long a change is left to show: a pod that starts, and a minute over which an actor's busy share is
taken."""

STALE_S = 120.0
"""After how long the operator is taken not to be making the Deployments that are missing."""

IDLE, AIM, FULL = 0.85, 0.92, 0.97
"""Busy shares of the actors (fractions): below the first there are too few CPU workers, above the last there
may be too many; aimed at is what lies between. An actor waits a little between blocks even when it is never
short."""

TASKS_A_WORKER = 2

BEFORE = "cryoscale.dev/workers-before"
"""Annotation of a standing cluster's group while runs use it: how many workers it had before."""

USED_BY = "cryoscale.dev/used-by-"
"""Before a run's label, annotation of such a group: when the run last said that it uses it (s since 1970)."""

USE_TOLD_S, USE_S = 600.0, 3600.0
"""How often a run says so, and after how long a silence it is one whose driver was killed."""


@dataclass(frozen=True)
class Load:
    """What there is to do, and how busy the actors are with it."""

    busy: float | None
    """Mean busy share of the actors that answer (fraction); None where it is not known yet."""
    undone: int
    """Blocks."""


@dataclass
class Sizing:
    """From loads to a number of workers, between ``least`` and ``most``.

    It begins with the most, as a GPU that waits costs more than the workers that it waits for. A number that
    was found to be too small is not tried again: lowering would else undo what raising did, over and over.
    """

    least: int
    most: int
    too_few: int = 0
    changed_s: float = -math.inf
    begun: bool = False

    def wanted(self, now_s: float, workers: int, missing: int, load: Load) -> int:
        """How many there should be.

        Args:
            now_s: of a clock that never goes back.
            workers: how many there are, those that are not up included.
            missing: of these, how many are not up; while there are any, more would not come sooner.
            load: of the run now.
        """
        most = min(self.most, max(self.least, math.ceil(load.undone / TASKS_A_WORKER)))
        wanted = workers
        if workers > most or not self.begun:
            wanted, self.begun = most, True
        elif workers < self.least:
            wanted = self.least
        elif load.busy is not None and now_s - self.changed_s >= SETTLE_S:
            if load.busy < IDLE and not missing:
                self.too_few = max(self.too_few, workers)
                factor = min(AIM / max(load.busy, 0.01), 1.5)
                wanted = min(most, max(workers + 1, math.ceil(workers * factor)))
            elif load.busy > FULL:
                lower = workers - max(1, workers // 10)
                wanted = min(workers, max(self.least, self.too_few + 1, lower))
        if wanted != workers:
            self.changed_s = now_s
        return wanted


@dataclass(frozen=True)
class Group:
    """The CPU workers of a cluster."""

    kube: Kube
    name: str

    @classmethod
    def of(cls, kube: Kube, cluster: str) -> Group:
        """The cluster's own group."""
        return cls(kube, f"{cluster}-default")

    def replicas(self) -> int | None:
        """How many are asked of the operator; None where there is no such group."""
        found = self.kube.get("DaskWorkerGroup", self.name)
        return None if found is None else int(found["spec"]["worker"]["replicas"])

    def put(self, replicas: int) -> None:
        """Ask for so many; of fewer than there are Deployments the operator would choose whom to end."""
        self.kube.patch("DaskWorkerGroup", self.name, {"spec": {"worker": {"replicas": replicas}}})

    def use(self, run: str, before: int | None) -> int | None:
        """Note that a run uses the group; how many workers it had before any did, unless that is known.

        Noted on the group, it is known to those that come after a driver that was killed. None where there is
        no such group.
        """
        found = self.kube.get("DaskWorkerGroup", self.name)
        if found is None:
            return None
        if before is None:
            notes = found["metadata"].get("annotations", {})
            before = int(notes.get(BEFORE, found["spec"]["worker"]["replicas"]))
        self._note({BEFORE: str(before), f"{USED_BY}{run}": str(int(time.time()))})
        return before

    def let_go(self, run: str, before: int) -> None:
        """Note that a run uses the group no more; who is the last leaves as many workers as it had before.

        The run's own note goes first: of two that end at once one at least sees no other.
        """
        self._note({f"{USED_BY}{run}": None})
        found = self.kube.get("DaskWorkerGroup", self.name)
        notes = {} if found is None else found["metadata"].get("annotations", {})
        told = {key: float(at) for key, at in notes.items() if key.startswith(USED_BY)}
        if any(time.time() - at < USE_S for at in told.values()):
            return
        self.put_back(before)
        self._note(dict.fromkeys([BEFORE, *told]))

    def _note(self, annotations: Mapping[str, str | None]) -> None:
        self.kube.patch("DaskWorkerGroup", self.name, {"metadata": {"annotations": annotations}})

    def names(self) -> list[str]:
        """Of the Deployments, the oldest first."""
        found = self.kube.list("Deployment", {GROUP_LABEL: self.name})
        alive = [one["metadata"] for one in found if not one["metadata"].get("deletionTimestamp")]
        return [one["name"] for one in sorted(alive, key=lambda one: str(one["creationTimestamp"]))]

    def drop(self, names: Sequence[str]) -> None:
        """Do without these workers."""
        for name in names:
            self.kube.delete("Deployment", name)
        self.put(len(self.names()))

    def put_back(self, count: int) -> None:
        """Have so many again, once there is nothing to do for any."""
        names = self.names()
        if len(names) > count:
            self.drop(names[count:])
        elif self.replicas() not in (None, count):
            self.put(count)


@dataclass
class Scaler:
    """Keeps the CPU group of a cluster at the size that its run wants; used as a context, in a thread."""

    kube: Kube
    spec: ClusterSpec
    client: Client
    load: Callable[[], Load]
    on_event: Callable[[str, Mapping[str, Any]], None]
    sizing: Sizing
    on_step: Callable[[], None] = lambda: None
    """Called before each look, with the errors of the API server."""
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _short: tuple[int, int, float] | None = None
    """Deployments and replicas that do not agree, and since when."""

    @property
    def group(self) -> Group:
        """The CPU workers."""
        return Group.of(self.kube, self.spec.name)

    def __enter__(self) -> Scaler:
        self.sizing.changed_s = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="cryoscale-scaling", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=STEP_S)

    def step(self, now_s: float) -> None:
        """Look once, and change the group where it has to be changed."""
        group = self.group
        replicas = group.replicas()
        if replicas is None:
            return
        names = group.names()
        if len(names) < replicas:
            self._mend(now_s, len(names), replicas)
            return
        self._short = None
        doing = self._doing()
        missing = len(set(names) - doing.keys())
        load = self.load()
        wanted = self.sizing.wanted(now_s, len(names), missing, load)
        if wanted == len(names):
            return
        told = {"group": group.name, "before": len(names), "after": wanted, "busy_share": load.busy}
        self.on_event("scaled", told)
        if wanted > len(names):
            group.put(wanted)
        else:
            group.drop(expendable(names, doing)[: len(names) - wanted])

    def _mend(self, now_s: float, there: int, replicas: int) -> None:
        """Take Deployments out of the count that nobody is making: a scale-down was cut off half-way.

        The operator acts on a change of the count alone, so that it would not replace them by itself.
        """
        if self._short is None or self._short[:2] != (there, replicas):
            self._short = (there, replicas, now_s)
        elif now_s - self._short[2] >= STALE_S:
            self.group.put(there)

    def _doing(self) -> dict[str, int]:
        """How many tasks each worker has that has joined, by its name."""
        workers = workers_at(self.client)
        tasks: Mapping[str, Collection[Any]] = self.client.processing()
        return {str(info["name"]): len(tasks.get(address, ())) for address, info in workers.items()}

    def _keep(self) -> None:
        while not self._over.wait(STEP_S):
            try:
                self.on_step()
                self.step(time.monotonic())
            except ClusterUnavailableError as error:
                log.debug("the API server is not asked for workers now: %s", error)
            except CryoscaleError as error:
                log.warning("the number of CPU workers stays as it is: %s", error)
                return
            except Exception as error:  # a scheduler that is gone; the driver finds out by itself
                log.debug("no look at the workers: %s", error)


def expendable(names: Sequence[str], doing: Mapping[str, int]) -> list[str]:
    """Workers in the order in which one does without them.

    First those that have not joined, for lack of a node perhaps; then those with least to do, of which the
    newest goes first, as the older ones have read more of what they will need again.
    """
    newest = {name: number for number, name in enumerate(reversed(names))}
    return sorted(names, key=lambda name: (doing.get(name, -1), newest[name]))
