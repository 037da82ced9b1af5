"""A group that is lowered, before the real operator: by us, and by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, wait

from cryoscale.errors import ClusterUnavailableError
from cryoscale.kube.api import Kube, connected
from cryoscale.kube.scaling import Load, Scaler, Sizing
from cryoscale.roster import workers_at
from cryoscale.settings import ClusterSpec
from tests.k8s.lab import Lab
from tests.k8s.supervise import kubeconfig

HERE = Path(__file__).parent
SPEC = ClusterSpec("kubernetes", cpu_workers=3, gpu_workers=1, name="plain", namespace="plain")
CPU, GPU = "plain-default", "plain-gpu"


@pytest.fixture(scope="module")
def plain(lab: Lab) -> Iterator[Lab]:
    """A cluster of two CPU workers and a GPU worker."""
    lab.wait("no former cluster", lambda: not lab.leftovers("plain"))
    lab.apply_file(HERE / "plain.yaml")
    lab.wait("four pods", lambda: len(lab.ready("plain", "dask.org/cluster-name=plain")) == 4)
    yield lab
    lab.api.delete("/apis/kubernetes.dask.org/v1/namespaces/plain/daskclusters/plain")


@pytest.fixture
def kube(plain: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    token = json.loads((plain.state / "ready.json").read_text())["token"]
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig(plain.api.server, plain.api.authority, token, "plain"))
    monkeypatch.setenv("KUBECONFIG", str(config))
    with connected(None) as found:
        yield found


@pytest.fixture
def client(plain: Lab) -> Iterator[Client]:
    (scheduler,) = plain.pods("plain", "dask.org/component=scheduler")
    with Client(f"tcp://{scheduler['status']['podIP']}:8786", timeout=30) as found:
        yield found


def test_another_object_of_the_name_is_neither_changed_nor_deleted(kube: Kube) -> None:
    """What the real server answers where the uid is not that of the object."""
    before = kube.get("DaskCluster", "plain")
    assert before is not None
    for _ in range(2):
        with pytest.raises(ClusterUnavailableError):
            kube.patch("DaskCluster", "plain", {"metadata": {"annotations": {"a": "b"}}}, uid="of-another")
        with pytest.raises(ClusterUnavailableError):
            kube.delete("DaskCluster", "plain", uid="00000000-0000-4000-8000-000000000000")
    after = kube.get("DaskCluster", "plain")
    assert after is not None
    assert "a" not in after["metadata"].get("annotations", {})
    assert "deletionTimestamp" not in after["metadata"]
    own = before["metadata"]["uid"]
    changed = kube.patch("DaskCluster", "plain", {"metadata": {"annotations": {"a": "b"}}}, uid=own)
    assert changed is not None
    assert changed["metadata"]["annotations"]["a"] == "b"


def raised(lab: Lab, kube: Kube, client: Client, replicas: int) -> None:
    kube.patch("DaskWorkerGroup", CPU, {"spec": {"worker": {"replicas": replicas}}})
    client.wait_for_workers(replicas + 1, timeout=90)
    lab.wait("all CPU workers", lambda: len(names(lab, CPU)) == replicas)


def names(lab: Lab, group: str) -> list[str]:
    found = lab.api.items(
        f"/apis/apps/v1/namespaces/plain/deployments?labelSelector=dask.org/workergroup-name={group}"
    )
    return [one["metadata"]["name"] for one in found]


def held_by_cpu_workers(client: Client) -> list[Any]:
    """Data on each CPU worker: the scheduler, asked whom it can do without, names one that holds nothing."""
    workers = workers_at(client)
    cpu = [address for address, info in workers.items() if info["name"].startswith(CPU)]
    held = [client.submit(bytes, 10_000_000, workers=[address], pure=False) for address in cpu]
    wait(held, timeout=30)
    return held


@pytest.mark.allow_hosts(["127.0.0.0/8"])  # where pods are
def test_a_group_that_is_lowered_by_us_loses_its_own_and_one_that_the_operator_lowers_does_not(
    plain: Lab, kube: Kube, client: Client
) -> None:
    raised(plain, kube, client, 3)
    scaler = Scaler(kube, SPEC, client, lambda: Load(0.9, 4), lambda name, facts: None, Sizing(1, 3))
    held = held_by_cpu_workers(client)
    scaler.step(0.0)
    plain.wait("a worker less", lambda: len(workers_at(client)) == 3)
    assert (len(names(plain, CPU)), len(names(plain, GPU))) == (2, 1)
    raised(plain, kube, client, 3)
    held += held_by_cpu_workers(client)
    # dask/dask-kubernetes#914: once this fails, the operator knows groups, and our own scale-down can go
    kube.patch("DaskWorkerGroup", CPU, {"spec": {"worker": {"replicas": 2}}})
    plain.wait("the operator", lambda: len(names(plain, CPU)) + len(names(plain, GPU)) == 3)
    assert (len(names(plain, CPU)), len(names(plain, GPU))) == (3, 0)
