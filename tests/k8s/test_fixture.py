"""The test cluster itself: that it does to pods what a cluster does, where tests of cryoscale rely on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.lab import NODES, Lab

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
    pod = {"containers": [container | spec.pop("container", {})], "restartPolicy": "Never", **spec}
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
    lab.wait("no former cluster", lambda: not lab.leftovers("plain"))
    lab.apply_file(HERE / "plain.yaml")
    lab.wait("four pods", lambda: len(lab.ready("plain")) == 4)
    yield "plain"
    lab.api.delete("/apis/kubernetes.dask.org/v1/namespaces/plain/daskclusters/plain")


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


@pytest.fixture(scope="module")
def own(lab: Lab) -> str:
    """A namespace of its own for single pods."""
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "own"}})
    account = "/api/v1/namespaces/own/serviceaccounts/default"
    lab.wait("its ServiceAccount", lambda: lab.api.get(account).get("secrets"))
    return "own"


def test_a_container_is_the_user_it_is_told_to_be_and_its_root_takes_nothing(lab: Lab, own: str) -> None:
    code = """
import json, os, pathlib, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
def writes(path):
    try:
        pathlib.Path(path).write_text("")
    except OSError as error:
        return error.strerror
    return "written"
print(json.dumps({
    "user": [os.getuid(), os.getgid()], "host": socket.gethostname(),
    "first": open("/proc/1/comm").read().strip(), "processes": sum(p.isdigit() for p in os.listdir("/proc")),
    "no new": status["NoNewPrivs"].strip(), "may": status["CapBnd"].strip(),
    "root": writes("/etc/x"), "tmp": writes("/tmp/x"),
}))
"""
    shut = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    script(
        lab,
        own,
        "shut",
        code,
        container={"securityContext": shut, "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
        volumes=[{"name": "tmp", "emptyDir": {}}],
        securityContext={"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001},
    )
    assert json.loads(outcome(lab, own, "shut")) == {
        "user": [10001, 10001],
        "first": "dumb-init",
        "host": "shut",
        "no new": "1",
        "may": "0" * 16,
        "root": "Read-only file system",
        "tmp": "written",
        "processes": 2,
    }


def test_a_container_gets_what_its_maps_secrets_and_its_own_object_say(lab: Lab, own: str) -> None:
    code = """
import json, os, pathlib
found = [os.environ.get(name) for name in ("IP", "ME", "COLOUR", "KEY", "BOTH", "NONE")]
print(json.dumps([*found, pathlib.Path("/etc/own/colour").read_text()]))
"""
    lab.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"colour": "blue"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"KEY": "sesame"}},
        namespace=own,
    )
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "colour"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "a", "optional": True}}},
        {"name": "BOTH", "value": "$(ME)-$(COLOUR)-$(NOBODY)"},
    ]
    container = {
        "env": env,
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "volumeMounts": [{"name": "map", "mountPath": "/etc/own", "readOnly": True}],
    }
    script(
        lab, own, "told", code, container=container, volumes=[{"name": "map", "configMap": {"name": "map"}}]
    )
    ip, *rest = json.loads(outcome(lab, own, "told"))
    assert ip == lab.api.get(f"/api/v1/namespaces/{own}/pods/told")["status"]["podIP"]
    assert rest == [own, "blue", "sesame", "own-blue-$(NOBODY)", None, "blue"]


def test_a_pod_that_cannot_start_says_why(lab: Lab, own: str) -> None:
    script(lab, own, "no-image", "", container={"image": "cryoscale:0.0.1"})
    script(lab, own, "no-secret", "", container={"envFrom": [{"secretRef": {"name": "lost"}}]})

    def waits(name: str) -> dict[str, str]:
        status = lab.api.get(f"/api/v1/namespaces/{own}/pods/{name}")["status"]
        found: dict[str, str] = status["containerStatuses"][0]["state"]["waiting"]
        return found

    lab.wait("no image", lambda: waits("no-image")["reason"] == "ImagePullBackOff")
    lab.wait("no secret", lambda: waits("no-secret")["reason"] == "CreateContainerConfigError")
    assert waits("no-secret")["message"] == 'secret "lost" not found'
    for name in ("no-image", "no-secret"):
        lab.api.delete(f"/api/v1/namespaces/{own}/pods/{name}")


def test_a_pod_is_asked_to_end_before_it_is_killed_and_its_log_can_be_followed(lab: Lab, own: str) -> None:
    code = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
print("here", flush=True)
while True:
    time.sleep(0.1)
"""
    script(lab, own, "stubborn", code, terminationGracePeriodSeconds=2)
    lab.wait("it runs", lambda: "here" in lab.log(own, "stubborn"))
    lab.api.delete(f"/api/v1/namespaces/{own}/pods/stubborn")
    assert lab.log(own, "stubborn", follow="true").split("\n") == ["here", "asked to end", ""]
    lab.wait("it is gone", lambda: lab.api.call("GET", f"/api/v1/namespaces/{own}/pods/stubborn")[0] == 404)


def test_a_container_that_is_not_alive_any_more_is_started_again(lab: Lab, own: str) -> None:
    code = "import time, pathlib; pathlib.Path('/tmp/alive').touch(); time.sleep(1000)"
    looks = {
        "exec": {"command": ["test", "!", "-e", "/tmp/alive"]},
        "periodSeconds": 1,
        "failureThreshold": 2,
    }
    script(lab, own, "sick", code, container={"livenessProbe": looks}, restartPolicy="Always")

    def restarts() -> int:
        status = lab.api.get(f"/api/v1/namespaces/{own}/pods/sick")["status"]["containerStatuses"][0]
        return int(status["restartCount"])

    lab.wait("a restart", lambda: restarts() >= 1)
    lab.api.delete(f"/api/v1/namespaces/{own}/pods/sick", 0)


def test_a_disruption_budget_forbids_an_eviction_and_a_lost_node_asks_nobody(lab: Lab, plain: str) -> None:
    chosen = "dask.org/component=scheduler"
    lab.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "scheduler"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"dask.org/component": "scheduler"}}},
        },
        namespace=plain,
    )
    budget = f"/apis/policy/v1beta1/namespaces/{plain}/poddisruptionbudgets/scheduler"
    lab.wait("its controller", lambda: lab.api.get(budget)["status"].get("expectedPods") == 1)
    scheduler = lab.pods(plain, chosen)[0]
    assert lab.evict(plain, scheduler["metadata"]["name"]) == 429
    lab.lose_node(scheduler["spec"]["nodeName"])
    lab.wait(
        "another scheduler", lambda: lab.ready(plain, chosen) not in ([], [scheduler["metadata"]["name"]])
    )
    lab.add_nodes(NODES)
    lab.wait("workers at the new scheduler", lambda: len(lab.ready(plain)) == 4)
    script(lab, plain, "again", SQUARES)
    told = json.loads(outcome(lab, plain, "again").splitlines()[-1])
    assert [value for value, *_ in told["GPU"]] == [i * i for i in range(20)]
