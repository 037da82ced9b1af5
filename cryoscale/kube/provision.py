"""A Dask cluster for a run: found or made, waited for, and taken down again if it was made.

What is made carries the run's label, so that a driver that follows a killed one knows it for its own, and the
mark of the driver that it goes with, who alone takes it down: a name may be another's by then. A driver that
runs in a Job has that Job own it, made or taken over: who deletes the Job deletes all, but for what is kept.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cryoscale.errors import ClusterUnavailableError, CryoscaleError, InputError, StoppedError
from cryoscale.kube.api import Kube, connected
from cryoscale.kube.scaling import USE_TOLD_S, Group
from cryoscale.kube.standing import ACTOR, CLUSTER_LABEL, CPU, SCHEDULER, Trouble, look
from cryoscale.kube.template import KEPT_LABEL, RUN_LABEL, documents, require_images
from cryoscale.settings import ClusterSpec, ModelSpec

log = logging.getLogger("cryoscale")

LOOK_S = 2.0
"""How often it is looked whether the cluster is up: five calls each."""

RESOLVE_S = 30.0
"""How long a Service's name may take to be known to DNS, which remembers for 5 to 30 s what was not there."""

DOWN_TRIES = 10
"""How often it is tried to delete what was made, as it would cost money for ever."""

DRIVER_MARK = "cryoscale.dev/driver"
"""Annotation of a cluster: the driver that takes it down."""

NOWHERE = "nothing-of-this-name"
"""Of objects that are not there, to try whether one may delete or change any."""

Tell = Callable[[str], None]


@dataclass
class Provision:
    """The cluster of a run; ``created`` is whether it goes with the run."""

    kube: Kube
    spec: ClusterSpec
    run: str
    with_actors: bool
    model: ModelSpec | None
    tell: Tell
    stop: threading.Event
    created: bool = False
    found: int | None = None
    """CPU workers that a cluster which was there had before any run used it."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Value of :data:`DRIVER_MARK`."""
    _use_told: float = float("-inf")
    _told: str = ""
    _borne: dict[str, float] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """Of which at least one pod each is needed."""
        return (SCHEDULER, CPU, ACTOR) if self.with_actors else (SCHEDULER, CPU)

    def up(self) -> str:
        """Find or make the cluster and wait until it can work; the scheduler's address.

        One that goes meanwhile is made again.

        Raises:
            InputError: it cannot, or not in time, for a reason that Kubernetes names.
            ClusterUnavailableError: the API server does not answer, for as long as there was to wait.
            StoppedError: the run was told to stop meanwhile.
        """
        self._pause(0.0)
        deadline = time.monotonic() + self.spec.wait_s
        while True:
            try:
                trouble = self._trouble()
                if trouble is None:
                    return self._address()
            except ClusterUnavailableError as error:  # it may be back at the next look
                if time.monotonic() > deadline:
                    raise
                trouble = Trouble("Kubernetes", str(error), "see that its API server can be reached")
            self._say(str(trouble))
            if time.monotonic() > deadline or self._unbearable(trouble):
                raise self._not_up(trouble)
            self._pause(LOOK_S)

    def down(self) -> None:
        """Delete what was made for the run; a cluster that others use no more is left with its workers."""
        if self.created:
            _take_down(self.kube, self.spec.name, self._is_ours)
        else:
            self._put_back()

    def use(self) -> None:
        """Say, once in a while, that the run uses a cluster that was there."""
        if self.created or time.monotonic() - self._use_told < USE_TOLD_S:
            return
        self.found = Group.of(self.kube, self.spec.name).use(self.run, self.found)
        if self.found is not None:
            self._use_told = time.monotonic()

    def _is_ours(self, cluster: Mapping[str, Any]) -> bool:
        return bool(cluster["metadata"].get("annotations", {}).get(DRIVER_MARK) == self.mark)

    def _put_back(self) -> None:
        if self.found is None:
            return
        try:
            Group.of(self.kube, self.spec.name).let_go(self.run, self.found)
        except CryoscaleError as error:
            log.warning("the cluster is not left with its %d CPU workers: %s", self.found, error)

    def _find_or_make(self) -> bool:
        """Whether the cluster is there by now, whoever made it; False where an old one is still going."""
        name = self.spec.name
        found = self.kube.get("DaskCluster", name)
        if found is None:
            if self.kube.list("Deployment", {CLUSTER_LABEL: name}):
                # the operator would take them for the new cluster's, and the garbage collector delete them
                return False
            require_images(self.spec)
            return self._make()
        if found["metadata"].get("deletionTimestamp"):
            return False
        labels = found["metadata"].get("labels", {})
        _refuse_anothers(self.kube, self.spec, labels, self.run)
        self.created = self._is_ours(found) or _goes_with(found, self.run)
        if self.created:
            self._take_over(found)
        else:
            self.use()
        # a driver may have been killed between its two halves
        return labels.get(RUN_LABEL) != self.run or self._make_group(found)

    def _take_over(self, cluster: Mapping[str, Any]) -> None:
        """Have a cluster that a former driver left go with this one, and not with that one's Job, or stay."""
        if self._is_ours(cluster):
            return
        made = self._documents().cluster
        change = {
            "labels": made["metadata"]["labels"],
            "annotations": {DRIVER_MARK: self.mark},
            "ownerReferences": self._owners(),
        }
        idle = {"idleTimeout": made["spec"].get("idleTimeout", 0)}
        meant = cluster["metadata"]["uid"]
        self.kube.patch("DaskCluster", self.spec.name, {"metadata": change, "spec": idle}, uid=meant)

    def _owners(self) -> list[dict[str, Any]]:
        """Of a cluster that may outlive its run, nobody: others may work on it when its Job is deleted."""
        return [] if self.spec.keep else _job()

    def _make(self) -> bool:
        made = self._documents()
        metadata = made.cluster["metadata"]
        marks = {**metadata.get("annotations", {}), DRIVER_MARK: self.mark}
        owned = {**metadata, "annotations": marks, "ownerReferences": self._owners()}
        self.tell(f"creating the DaskCluster {self.kube.namespace}/{self.spec.name}")
        self.created = True  # from here on there may be something to delete, whatever is answered
        cluster = self.kube.create({**made.cluster, "metadata": owned})
        if cluster is None:  # made by somebody else in this moment
            self.created = False
            return True
        return self._make_group(cluster)

    def _make_group(self, cluster: Any) -> bool:
        """Whether the cluster's group is there by now; False where that of a former one is still going."""
        if not self.with_actors:
            return True
        there = self.kube.get("DaskWorkerGroup", f"{self.spec.name}-gpu")
        if there is not None:
            return not (owners := _owner_uids(there)) or cluster["metadata"]["uid"] in owners
        group = self._documents().actors
        owner = {
            "apiVersion": cluster["apiVersion"],
            "kind": cluster["kind"],
            "name": cluster["metadata"]["name"],
            "uid": cluster["metadata"]["uid"],
        }
        self.kube.create({**group, "metadata": {**group["metadata"], "ownerReferences": [owner]}})
        return True

    def _documents(self) -> Any:
        return documents(
            self.spec,
            self.kube.namespace,
            cpu_workers=self.spec.cpu_workers,
            run=self.run,
            model=self.model,
        )

    def _trouble(self) -> Trouble | None:
        """What keeps the cluster from working; None once it can."""
        if not self._find_or_make():
            do = "delete them, or give another cluster.name"
            return Trouble("the former cluster of that name", "parts of it are left", do)
        standing = look(self.kube, self.spec.name)
        lacking = standing.lacks(self.roles)
        if not lacking:
            return None
        known = standing.waits_for(self.roles)
        return known or Trouble(lacking[0], "has no pod yet", "see that the Dask operator runs")

    def _unbearable(self, trouble: Trouble) -> bool:
        """Whether a trouble has lasted longer than there is hope."""
        now = time.monotonic()
        since = self._borne.setdefault(trouble.who, now)
        if trouble.bearable_s == float("inf"):
            del self._borne[trouble.who]
            return False
        return now - since >= trouble.bearable_s

    def _not_up(self, trouble: Trouble) -> InputError:
        line = self.kube.last_line(trouble.pod) if trouble.pod else ""
        said = f"; its last line: {line}" if line else ""
        return InputError(
            f"DaskCluster {self.kube.namespace}/{self.spec.name}, which does not come up: {trouble}{said}",
            f"a scheduler and a worker of each kind within {self.spec.wait_s:.0f} s",
            trouble.do,
        )

    def _say(self, what: str) -> None:
        if what != self._told:
            self._told = what
            self.tell(f"waiting for {what}")

    def _pause(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise StoppedError("stopped while the cluster was not up; the same command goes on")

    def _address(self) -> str:
        """The scheduler's, which is a Service's name.

        Raises:
            InputError: that name means nothing here.
        """
        cluster = self.kube.get("DaskCluster", self.spec.name) or {}
        ports = cluster.get("spec", {}).get("scheduler", {}).get("service", {}).get("ports", [])
        port = next((one["port"] for one in ports if one.get("name") == "tcp-comm"), 8786)
        service = f"{self.spec.name}-scheduler.{self.kube.namespace}"
        until = time.monotonic() + RESOLVE_S
        while time.monotonic() < until:
            if (host := _resolved(service)) is not None:
                return f"tcp://{host}:{port}"
            self._pause(LOOK_S)
        raise _outside(service)


@contextmanager
def provided(
    spec: ClusterSpec,
    *,
    run: str,
    with_actors: bool,
    model: ModelSpec | None,
    tell: Tell,
    stop: threading.Event,
) -> Iterator[Provision]:
    """A cluster that can be brought :meth:`up <Provision.up>`, and does not outlive the body unless it may.

    Raises:
        InputError: the API server cannot be asked.
    """
    with connected(spec.namespace) as kube:
        made = Provision(kube, spec, run, with_actors, model, tell, stop)
        try:
            yield made
        finally:
            if spec.keep and made.created:
                log.warning(
                    "the cluster stays: kubectl delete daskcluster %s -n %s", spec.name, kube.namespace
                )
            else:
                made.down()


def take_down_left(spec: ClusterSpec, run: str) -> None:
    """Delete the cluster of a run whose former driver was killed, unless it may stay.

    Raises:
        InputError: the API server cannot be asked.
        ClusterUnavailableError: it does not answer.
    """
    with connected(spec.namespace) as kube:
        _take_down(kube, spec.name, lambda cluster: _goes_with(cluster, run))


def require_provision(spec: ClusterSpec, out: str = "", run: str = "") -> None:
    """Refuse, before anything is written or made, what these rights and this configuration cannot make.

    Each right that a run needs is tried on the server with nothing changed, so that what is refused is
    told in its own words. A cluster that is made has to be able to write to ``out``. https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run

    Raises:
        InputError: the API server cannot be asked, or refuses something.
        ClusterUnavailableError: it does not answer.
    """
    with connected(spec.namespace) as kube:
        if not os.environ.get("KUBERNETES_SERVICE_HOST") and not _resolved("kubernetes.default"):
            raise _outside("kubernetes.default")
        found = kube.get("DaskCluster", spec.name)
        look(kube, spec.name)
        if found is not None and found["metadata"].get("deletionTimestamp"):
            found = None  # by when there are workers to make, it is gone
        if found is not None:
            _refuse_anothers(kube, spec, found["metadata"].get("labels", {}), run)
        made = documents(spec, kube.namespace, cpu_workers=spec.cpu_workers)
        if found is None:
            require_images(spec)
            if out and "://" not in out and not (spec.claim or spec.manifest):
                raise InputError(
                    f"output {out}, a folder of one machine",
                    "an object store, or a volume that the pods share",
                    "give a URL, or name a PersistentVolumeClaim as cluster.claim",
                )
            for document in (made.cluster, made.actors):
                kube.create(document, only_try=True)
            for kind in ("DaskCluster", "DaskWorkerGroup"):
                kube.delete(kind, NOWHERE, only_try=True)
        for kind in ("DaskCluster", "DaskWorkerGroup"):
            kube.patch(kind, NOWHERE, {}, only_try=True)
        kube.delete("Deployment", NOWHERE, only_try=True)


def _take_down(kube: Kube, name: str, meant: Callable[[Mapping[str, Any]], bool]) -> None:
    """Delete the cluster of that name, if it is the one that is meant."""
    for left in reversed(range(DOWN_TRIES)):
        try:
            found = kube.get("DaskCluster", name)
            if found is not None and meant(found):
                _delete(kube, name, found["metadata"]["uid"])
            return
        except CryoscaleError as error:
            if not (left and error.retry):
                do = f"kubectl delete daskcluster {name} -n {kube.namespace}"
                log.warning("the cluster is left behind (%s): %s", error, do)
                return
        time.sleep(LOOK_S)


def _delete(kube: Kube, name: str, uid: str) -> None:
    """In the foreground: who makes the next of that name sees that parts are still there."""
    group = kube.get("DaskWorkerGroup", f"{name}-gpu")
    if group is not None and uid in _owner_uids(group):
        kube.delete("DaskWorkerGroup", f"{name}-gpu", policy="Foreground", uid=group["metadata"]["uid"])
    kube.delete("DaskCluster", name, policy="Foreground", uid=uid)


def _goes_with(cluster: Mapping[str, Any], run: str) -> bool:
    """Whether a cluster was made for this run, to go with it."""
    labels = cluster["metadata"].get("labels", {})
    return labels.get(RUN_LABEL) == run and KEPT_LABEL not in labels


def _owner_uids(document: Mapping[str, Any]) -> set[str]:
    """Of what owns it."""
    return {owner["uid"] for owner in document["metadata"].get("ownerReferences", ())}


def _job() -> list[dict[str, Any]]:
    """The Job whose pod this process runs in, if it was told."""
    name, uid = os.environ.get("CRYOSCALE_JOB_NAME"), os.environ.get("CRYOSCALE_JOB_UID")
    return [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}] if name and uid else []


def _refuse_anothers(kube: Kube, spec: ClusterSpec, labels: Mapping[str, str], run: str) -> None:
    """Leave alone what goes with another run, which would take it away.

    Raises:
        InputError: so it is.
    """
    if labels.get(RUN_LABEL, run) != run and KEPT_LABEL not in labels:
        raise InputError(
            f"DaskCluster {kube.namespace}/{spec.name}, which was made for another run",
            "a cluster for this run",
            "give another cluster.name, or delete it if that run is over: "
            f"kubectl delete daskcluster {spec.name} -n {kube.namespace}",
        )


def _outside(service: str) -> InputError:
    return InputError(
        f"Service {service}, which cannot be reached from here",
        "a driver in the cluster itself",
        "add --detach, which has a Job drive the run",
    )


def _resolved(service: str) -> str | None:
    """The name by which a Service (``name.namespace``) is known here; None where it is not."""
    for host in (f"{service}.svc", service):
        if _resolves(host):
            return host
    return None


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
