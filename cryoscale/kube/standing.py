"""Where a Dask cluster stands: what is up, and what the rest is waiting for, in Kubernetes' own words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryoscale.kube.api import Kube

CLUSTER_LABEL, COMPONENT_LABEL, GROUP_LABEL = (
    "dask.org/cluster-name",
    "dask.org/component",
    "dask.org/workergroup-name",
)

SCHEDULER, CPU, ACTOR = "scheduler", "CPU worker", "GPU worker"

HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""What the kubelet tries again and again, to no avail."""

UNTOLD = frozenset({"ContainerCreating", "PodInitializing"})
"""What a container waits in while its volumes are mounted, or cannot be."""

IMAGE_S = 90.0
"""How long an image may not be had: a registry that is away for a moment comes back sooner."""

IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", *HOPELESS})


@dataclass(frozen=True)
class Trouble:
    """Why something is not up."""

    who: str
    text: str
    do: str
    bearable_s: float = math.inf
    """How long it may last before there is no more sense in waiting."""
    pod: str = ""
    """Whose log may say more."""

    def __str__(self) -> str:
        return f"{self.who}: {self.text}"


@dataclass(frozen=True)
class Standing:
    """A cluster at a moment: how many pods of each role are ready, and what keeps the others."""

    ready: Mapping[str, int]
    troubles: Sequence[Trouble]

    def lacks(self, roles: Sequence[str]) -> list[str]:
        """Roles without any pod that is ready."""
        return [role for role in roles if not self.ready.get(role)]

    def waits_for(self, roles: Sequence[str]) -> Trouble | None:
        """What is to be told first: why a role that is needed has nobody."""
        lacking = self.lacks(roles)
        return next((trouble for role in lacking for trouble in self.troubles if trouble.who == role), None)


def look(kube: Kube, name: str) -> Standing:
    """The cluster of that name now.

    Raises:
        InputError: these rights do not let one look.
        ClusterUnavailableError: the API server does not answer.
    """
    labels = {CLUSTER_LABEL: name}
    pods, deployments = kube.list("Pod", labels), kube.list("Deployment", labels)
    ready = dict.fromkeys((SCHEDULER, CPU, ACTOR), 0)
    for pod in pods:
        if is_ready(pod):
            ready[role_of(name, pod)] += 1
    troubles = [*_of_cluster(kube.get("DaskCluster", name), deployments)]
    troubles += [trouble for one in deployments for trouble in _of_deployment(name, one)]
    troubles += [trouble for pod in pods for trouble in pod_troubles(kube, pod, role_of(name, pod))]
    return Standing(ready, troubles)


def role_of(name: str, document: Mapping[str, Any]) -> str:
    """What a pod or Deployment of the cluster of that name is for."""
    labels = document["metadata"].get("labels", {})
    if labels.get(COMPONENT_LABEL) == "scheduler":
        return SCHEDULER
    return CPU if labels.get(GROUP_LABEL) == f"{name}-default" else ACTOR


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is ready, and stays."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(found["type"] == "Ready" and found["status"] == "True" for found in _conditions(pod))


def _conditions(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return document.get("status", {}).get("conditions") or ()


def _of_cluster(
    cluster: Mapping[str, Any] | None, deployments: Sequence[Mapping[str, Any]]
) -> Iterator[Trouble]:
    if cluster is None:
        yield Trouble(SCHEDULER, "the DaskCluster is gone", "create it again")
    elif cluster.get("status", {}).get("phase") == "Error":
        yield Trouble(SCHEDULER, "the Dask operator refuses it", "look into the operator's log", 0.0)
    elif not deployments:
        text = "the Dask operator has made nothing of it yet"
        yield Trouble(SCHEDULER, text, "see that the operator runs, and may work in this namespace")


def _of_deployment(name: str, deployment: Mapping[str, Any]) -> Iterator[Trouble]:
    """What the API server says to the pod that a Deployment wants: mostly that a quota is full."""
    for found in _conditions(deployment):
        if found["type"] == "ReplicaFailure" and found["status"] == "True":
            message = str(found.get("message", found.get("reason", "")))
            do = (
                "free some of the quota, or have it raised" if "quota" in message else "correct what it names"
            )
            yield Trouble(role_of(name, deployment), message, do)


def pod_troubles(kube: Kube, pod: Mapping[str, Any], who: str) -> Iterator[Trouble]:
    """Why a pod is not ready: nothing where it is, or is going."""
    pod_name = pod["metadata"]["name"]
    if is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
        return
    for found in _conditions(pod):
        if found["type"] == "PodScheduled" and found["status"] == "False":
            text = f"pod {pod_name} has no node: {found.get('message', found.get('reason', ''))}"
            yield Trouble(who, text, "wait for nodes, add some, or ask for less")
            return
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        waiting = container.get("state", {}).get("waiting")
        if waiting is None:
            continue
        if waiting.get("reason") in UNTOLD and not waiting.get("message"):
            waiting = {**waiting, "message": kube.warning(pod_name)}
        yield _of_container(who, pod_name, container, waiting)
        return
    yield Trouble(who, f"pod {pod_name} is not ready yet", "look into its log", pod=pod_name)


def _of_container(
    who: str, pod_name: str, container: Mapping[str, Any], waiting: Mapping[str, Any]
) -> Trouble:
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    told = f"{reason}: {message}" if message else reason
    if reason in IMAGE:
        text = f"pod {pod_name} cannot have image {container.get('image')}: {told}"
        do = "correct cluster.image and cluster.gpu_image, or give the nodes a pull secret"
        return Trouble(who, text, do, 0.0 if reason in HOPELESS else IMAGE_S)
    last = container.get("lastState", {}).get("terminated")
    ended = f", after exit code {last['exitCode']}" if last else ""
    return Trouble(who, f"pod {pod_name} waits: {told}{ended}", "look into its log", pod=pod_name)
