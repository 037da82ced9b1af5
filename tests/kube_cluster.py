"""A cluster of a pretended API server, for tests of what makes, awaits and takes down one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cryoscale.kube import provision
from cryoscale.kube.provision import Provision, provided
from cryoscale.settings import ClusterSpec, ModelSpec
from tests.kube_api import FakeApi, served

SPEC = ClusterSpec("kubernetes", 3, 2, name="ice", image="there/cpu:1", gpu_image="there/gpu:1", wait_s=20.0)
RUN = "0123456789abcdef"
LABEL = {"dask.org/cluster-name": "ice"}
SCHEDULER = LABEL | {"dask.org/component": "scheduler"}
CPU = LABEL | {"dask.org/component": "worker", "dask.org/workergroup-name": "ice-default"}
GPU = LABEL | {"dask.org/component": "worker", "dask.org/workergroup-name": "ice-gpu"}


@contextmanager
def operated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """An API server with an operator by which all comes up at once."""
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    monkeypatch.setattr(provision, "LOOK_S", 0.02)
    known = ("ice-scheduler.snow.svc", "kubernetes.default.svc")
    monkeypatch.setattr(provision, "_resolves", known.__contains__)
    with served(FakeApi(), folder / "kubeconfig") as found:
        found.on_create = operator(found)
        yield found


def operator(api: FakeApi, **instead: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """Makes a pod of each kind; ``instead`` of one of them it does something else."""

    def pods(kind: str, labels: dict[str, str]) -> None:
        api.deployment(f"ice-{kind}", labels)
        instead.get(kind, lambda: api.pod(f"ice-{kind}-0", labels))()

    def made(document: dict[str, Any]) -> None:
        if document["kind"] == "DaskCluster":
            pods("scheduler", SCHEDULER)
            pods("cpu", CPU)
        elif document["kind"] == "DaskWorkerGroup":
            pods("gpu", GPU)

    return made


@contextmanager
def cluster(spec: ClusterSpec = SPEC, **changes: Any) -> Iterator[Provision]:
    given = {
        "run": RUN,
        "with_actors": True,
        "model": ModelSpec("/data/w", precision="bf16"),
        "tell": lambda text: None,
    }
    with provided(spec, **{**given, "stop": threading.Event(), **changes}) as found:
        yield found
