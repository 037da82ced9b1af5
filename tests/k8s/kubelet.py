"""A stand-in for the kubelets, the name server and the service proxy of a cluster: all nodes in one process.

Every pod has an address of its own out of 127.0.0.0/8, all of which is this machine's loopback, so that the
ports of pods never clash. A service's name leads to the address of its first ready pod, by a hosts file for
each pod that is rewritten in place; where no pod is ready, to an address that refuses connections, as a
service without endpoints does. A service's port has to be that of its pods.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import urllib3

from tests.k8s.api import MERGE, Api, ApiError, Document
from tests.k8s.container import Image
from tests.k8s.pods import Pod, now, pod_spec

SYNC_S = 0.3
BEAT_S = 8.0
CAPACITY = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"}


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as it registers itself."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    capacity: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()

    def document(self) -> Document:
        """Its object."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels | self.labels},
            "spec": {"taints": list(self.taints)},
        }


class Kubelet(threading.Thread):
    """Compares what the API server wants with what runs, for all nodes.

    Deleting a Node object is the loss of that machine: its pods get SIGKILL at once, and their objects go.
    Creating it again brings the machine back; a Node of another name is a machine that joined.

    Args:
        prefix: the first two numbers of every address, ``127.20``; the node's is ``<prefix>.0.1``.
        port: where container logs are served.
    """

    def __init__(
        self,
        api: Api,
        nodes: tuple[Node, ...],
        images: Mapping[str, Image],
        state: Path,
        prefix: str,
        port: int,
    ) -> None:
        super().__init__(daemon=True)
        self.api, self.nodes, self.images, self.state = (
            api,
            {node.name: node for node in nodes},
            images,
            state,
        )
        self.prefix, self.port = prefix, port
        self.pods: dict[str, Pod] = {}
        self._count, self._beat = 255, 0.0
        self._since: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of every node."""
        return f"{self.prefix}.0.1"

    def pod(self, namespace: str, name: str) -> Pod | None:
        """A pod that is here."""
        for pod in list(self.pods.values()):
            if (pod.namespace, pod.pod_name) == (namespace, name):
                return pod
        return None

    def run(self) -> None:
        """For ever."""
        for node in self.nodes.values():
            self.api.apply(node.document())
        while True:
            try:
                self._sync()
            except (ApiError, OSError, urllib3.exceptions.HTTPError) as error:
                print(now(), "sync", repr(error), flush=True)
            time.sleep(SYNC_S)

    def _sync(self) -> None:
        present = {node["metadata"]["name"] for node in self.api.items("/api/v1/nodes")}
        self._tell_nodes(present)
        wanted = {pod["metadata"]["uid"]: pod for pod in self.api.items("/api/v1/pods")}
        names = self._names(list(wanted.values()))
        for uid, document in wanted.items():
            if uid not in self.pods and document["spec"].get("nodeName") in present:
                self._admit(uid, document, names)
        for uid, pod in list(self.pods.items()):
            if pod.gone:
                del self.pods[uid]
                continue
            self._write_hosts(pod, names)
            if pod.spec.spec["nodeName"] not in present:
                pod.lose()
            elif uid not in wanted:
                pod.end(0)
            elif "deletionTimestamp" in wanted[uid]["metadata"]:
                pod.end(wanted[uid]["metadata"].get("deletionGracePeriodSeconds", 30))

    def _admit(self, uid: str, document: Document, names: dict[str, list[str]]) -> None:
        if document["status"].get("phase") in ("Succeeded", "Failed"):
            return
        self._count += 1
        address = f"{self.prefix}.{self._count >> 8}.{self._count & 255}"
        folder, claims = self.state / "pods" / uid, self.state / "claims"
        spec = pod_spec(document, self.api, address, self.address, folder, claims)
        folder.mkdir(parents=True)
        pod = Pod(spec, self.images, folder / "hosts", folder, self.state / "logs")
        self._write_hosts(pod, names)
        self.pods[uid] = pod
        pod.start()

    # ------------------------------------------------------------------ nodes

    def _tell_nodes(self, present: set[str]) -> None:
        new = present - self._since.keys()
        for name in self._since.keys() - present:
            del self._since[name]
        due = time.monotonic() - self._beat > BEAT_S
        if due:
            self._beat = time.monotonic()
        for name in present if due else new:
            self._since.setdefault(name, now())
            self.api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": self._status(name)}, MERGE)

    def _status(self, name: str) -> Document:
        node = self.nodes.get(name, Node(name))
        capacity = CAPACITY | node.capacity
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "pods are processes of one machine",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": self._since[name],
        }
        addresses = [{"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": name}]
        return {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [ready],
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }

    # ------------------------------------------------------------------ names

    def _names(self, pods: list[Document]) -> dict[str, list[str]]:
        """By namespace and service the line of the hosts file without the short name."""
        nobody = f"{self.prefix}.255.254"
        found: dict[str, list[str]] = {}
        for service in self.api.items("/api/v1/services"):
            meta, selector = service["metadata"], service["spec"].get("selector")
            matching = [pod for pod in pods if selector and _selected(pod, meta["namespace"], selector)]
            unready = service["spec"].get("publishNotReadyAddresses")
            ready = sorted(
                pod["status"]["podIP"] for pod in matching if _ready(pod) or (unready and _has_address(pod))
            )
            found.setdefault(meta["namespace"], []).append(f"{ready[0] if ready else nobody} {meta['name']}")
        return found

    def _write_hosts(self, pod: Pod, names: dict[str, list[str]]) -> None:
        lines = ["127.0.0.1 localhost", f"{pod.spec.address} {pod.pod_name}"]
        for namespace, services in names.items():
            for service in services:
                address, name = service.split()
                full = f"{name}.{namespace}"
                short = f" {name}" if namespace == pod.namespace else ""
                lines.append(f"{address} {full} {full}.svc {full}.svc.cluster.local{short}")
        text = "\n".join(lines) + "\n"
        if not pod.hosts.exists() or pod.hosts.read_text() != text:
            # in place: containers see the file itself, not its name; with the pod its folder may go meanwhile
            with (
                contextlib.suppress(FileNotFoundError),
                open(pod.hosts, "r+" if pod.hosts.exists() else "w") as file,
            ):
                file.write(text)
                file.truncate()


def _selected(pod: Document, namespace: str, selector: dict[str, str]) -> bool:
    meta = pod["metadata"]
    return bool(meta["namespace"] == namespace and selector.items() <= meta.get("labels", {}).items())


def _has_address(pod: Document) -> bool:
    return bool(pod["status"].get("podIP"))


def _ready(pod: Document) -> bool:
    conditions = pod["status"].get("conditions", [])
    told = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return told and _has_address(pod) and "deletionTimestamp" not in pod["metadata"]
