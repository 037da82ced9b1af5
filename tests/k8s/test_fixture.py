"""The test cluster itself: that it does to pods what a cluster does, where tests of cryoscale rely on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.lab import Lab

HERE = Path(__file__).parent
SCHEDULER = "tcp://plain-scheduler.plain.svc:8786"

SQUARES = f"""
import json, os
from distributed import Client, get_worker

def square(i):
    return i * i, get_worker().name, get_worker().address

with Client("{SCHEDULER}", timeout=30) as client:
    client.wait_for_workers(3, timeout=60)
    told = {{}}
    for kind in ("CPU", "GPU"):
        told[kind] = client.gather(client.map(square, range(20), resources={{kind: 1}}, pure=False))
print(json.dumps(told))
"""


def script(lab: Lab, namespace: str, name: str, code: str, **spec: Any) -> None:
    """A pod that runs a Python script once."""
    container = {"name": "script", "image": "cryoscale:0.1.0", "args": ["python", "-c", code]}
    pod = {"restartPolicy": "Never", "containers": [container | spec.pop("container", {})], **spec}
    lab.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}, namespace=namespace
    )


def outcome(lab: Lab, namespace: str, name: str) -> str:
    """What a script's pod said, once it is over; it has to have succeeded."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    lab.wait(name, lambda: lab.api.get(path)["status"].get("phase") in ("Succeeded", "Failed"))
    said = lab.log(namespace, name)
    assert lab.api.get(path)["status"]["phase"] == "Succeeded", said
    return said


@pytest.fixture(scope="module")
def plain(lab: Lab) -> Iterator[str]:
    """A namespace with a scheduler, two CPU workers and a GPU worker, all ready."""
    lab.apply_file(HERE / "plain.yaml")
    lab.wait("four pods", lambda: len(lab.ready("plain")) == 4)
    yield "plain"
    lab.api.delete("/apis/kubernetes.dask.org/v1/namespaces/plain/daskclusters/plain")
    lab.wait("all pods gone", lambda: not lab.pods("plain", "dask.org/cluster-name=plain"))


def test_pods_of_a_dask_cluster_compute_each_at_its_own_address(lab: Lab, plain: str) -> None:
    script(lab, plain, "squares", SQUARES)
    told = json.loads(outcome(lab, plain, "squares").splitlines()[-1])
    addresses: dict[str, str] = {}
    for kind, group in (("CPU", "plain-default"), ("GPU", "plain-gpu")):
        assert [value for value, *_ in told[kind]] == [i * i for i in range(20)]
        assert all(name.startswith(group) for _, name, _ in told[kind])
        addresses |= {name: address.split("://")[1].rsplit(":", 1)[0] for _, name, address in told[kind]}
    told_by_server = {pod["status"]["podIP"] for pod in lab.pods(plain, "dask.org/component=worker")}
    assert len(addresses) == 3
    assert set(addresses.values()) == told_by_server
