"""The documents of a run's Dask cluster: the package's own, or a file of the user's, filled in."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from cryoscale.errors import InputError
from cryoscale.settings import ClusterSpec, ModelSpec

RUN_LABEL = "cryoscale.dev/run"
"""On all that is made for a run: a digest of where its output lies."""

KEPT_LABEL = "cryoscale.dev/kept"
"""On a cluster that may outlive its run, so that others may use it."""

IDLE_S = 3600
"""After how long without work, beside what a run may wait for workers, the operator deletes a cluster that
goes with a run: its driver was killed, and no other came."""

CLAIM_AT = "/data"
"""Where pods see the claim."""

GPU_RESOURCE = "nvidia.com/gpu"

ON_CPU = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"cpu": "1", "memory": "4Gi"}}
"""What a pod takes that holds a model without a GPU."""


@dataclass(frozen=True)
class Documents:
    """A DaskCluster, whose own group has the CPU workers, and the group of pods that hold models."""

    cluster: dict[str, Any]
    actors: dict[str, Any]


def documents(
    spec: ClusterSpec, namespace: str, *, cpu_workers: int, run: str = "", model: ModelSpec | None = None
) -> Documents:
    """What to ask of the operator for a run.

    Args:
        spec: names, images and counts.
        namespace: where.
        cpu_workers: with how many to begin.
        run: value of :data:`RUN_LABEL`, or none.
        model: what pods of the second group load before they count as ready, if it has weights.

    Raises:
        InputError: there is no image, or the user's file holds something else.
    """
    found = _read(spec)
    cluster, group = found.cluster, found.actors
    old = str(cluster["metadata"]["name"])
    own = {**({RUN_LABEL: run} if run else {}), **({KEPT_LABEL: "true"} if spec.keep else {})}
    for document, name in ((cluster, spec.name), (group, f"{spec.name}-gpu")):
        metadata = document["metadata"]
        labels = {**metadata.get("labels", {}), **own}
        document["metadata"] = {**metadata, "name": name, "namespace": namespace, "labels": labels}
    group["spec"]["cluster"] = spec.name
    service = cluster["spec"]["scheduler"]["service"]
    if service["selector"].get("dask.org/cluster-name") == old:
        service["selector"]["dask.org/cluster-name"] = spec.name
    if run and not spec.keep:
        cluster["spec"]["idleTimeout"] = cluster["spec"].get("idleTimeout") or int(IDLE_S + spec.wait_s)
    cluster["spec"]["worker"]["replicas"] = cpu_workers
    group["spec"]["worker"]["replicas"] = spec.actors
    worker, actor = cluster["spec"]["worker"]["spec"], group["spec"]["worker"]["spec"]
    for pod, image in (
        (cluster["spec"]["scheduler"]["spec"], spec.image),
        (worker, spec.image),
        (actor, spec.gpu_image if spec.gpu_workers else spec.image),
    ):
        for container in _containers(pod):
            if image:
                container["image"] = image
    if not spec.gpu_workers:
        _without_gpu(actor)
    if model is not None and model.weights:
        told = {"CRYOSCALE_WEIGHTS": model.weights, "CRYOSCALE_PRECISION": model.precision}
        for container in _containers(actor):
            others = [one for one in container.get("env", ()) if one["name"] not in told]
            container["env"] = others + [{"name": key, "value": value} for key, value in told.items()]
    for pod in (worker, actor):
        give_store(pod, spec)
    return found


def give_store(pod: dict[str, Any], spec: ClusterSpec) -> None:
    """Let a pod reach the run's output: the keys of an object store, or a claim."""
    for container in _containers(pod):
        if spec.secret:
            container.setdefault("envFrom", []).append({"secretRef": {"name": spec.secret}})
        if spec.claim:
            container.setdefault("volumeMounts", []).append({"name": "data", "mountPath": CLAIM_AT})
    if spec.claim:
        pod.setdefault("volumes", []).append(
            {"name": "data", "persistentVolumeClaim": {"claimName": spec.claim}}
        )


def require_images(spec: ClusterSpec) -> None:
    """Refuse to create what no node could pull: the package's own documents name no registry.

    Raises:
        InputError: an image is not named.
    """
    for name, wanted in (("image", True), ("gpu_image", spec.gpu_workers > 0)):
        if wanted and not spec.manifest and not getattr(spec, name):
            raise InputError(
                f"cluster kind kubernetes without cluster.{name}",
                "the image that its pods run",
                f"push the one that deploy/ builds, and name it as cluster.{name}",
            )


def _read(spec: ClusterSpec) -> Documents:
    """The documents as they are written.

    Raises:
        InputError: an own file is no YAML, or does not hold exactly the two.
    """
    where = spec.manifest or "cluster.yaml"
    try:
        if spec.manifest:
            text = Path(spec.manifest).read_text(encoding="utf-8")
        else:
            text = (files("cryoscale.kube") / where).read_text(encoding="utf-8")
        # YAML's aliases would be one object in several places
        loaded = [copy.deepcopy(part) for part in yaml.safe_load_all(text) if part]
        by_kind = {str(part["kind"]): part for part in loaded}
        found = Documents(by_kind["DaskCluster"], by_kind["DaskWorkerGroup"])
        if len(loaded) != 2:
            raise ValueError(f"{len(loaded)} documents")
        _require_shape(found)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"cluster.manifest {where} ({_reason(error)})",
            "one DaskCluster and one DaskWorkerGroup",
            "begin with a copy of cryoscale/kube/cluster.yaml",
        ) from error
    return found


def _require_shape(found: Documents) -> None:
    """That all is there which is filled in, by reaching for it."""
    scheduler, worker = found.cluster["spec"]["scheduler"], found.cluster["spec"]["worker"]
    for pod in (scheduler["spec"], worker["spec"], found.actors["spec"]["worker"]["spec"]):
        for container in _containers(pod):
            container["name"]
    for named in (found.cluster["metadata"], found.actors["metadata"]):
        named["name"]
    scheduler["service"]["selector"].get("dask.org/cluster-name")


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def _containers(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from pod["containers"]


def _without_gpu(pod: dict[str, Any]) -> None:
    """Have pods hold a model that they compute on a CPU, of which an actor uses one."""
    for container in _containers(pod):
        for bound, sizes in container.get("resources", {}).items():
            sizes.pop(GPU_RESOURCE, None)
            sizes.update({key: value for key, value in ON_CPU[bound].items() if key in sizes})
    pod["tolerations"] = [one for one in pod.get("tolerations", ()) if one.get("key") != GPU_RESOURCE]
    pod.get("nodeSelector", {}).pop(f"{GPU_RESOURCE}.present", None)
