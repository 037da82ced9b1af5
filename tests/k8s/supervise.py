"""The first process of a test cluster: starts etcd, the control plane and the kubelet, and takes all with it.

It runs as number 1 of a PID namespace of its own. When its standard input is closed it ends, whoever held the
other end and however that one ended, and the kernel then kills every process of the namespace, pods included.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import urllib3

from tests.k8s.api import Api, ApiError, Document
from tests.k8s.certificates import Authority, token_key
from tests.k8s.container import Image
from tests.k8s.kubelet import Kubelet, Node
from tests.k8s.logs import KUBELET_PORT, serve
from tests.ports import free_port

START_S = 90.0
HERE = "127.0.0.1"
# Endpoints may not lie in 127.0.0.0/8: their controllers could only fail. Services are the kubelet's here.
CONTROLLERS = (
    "*,-endpoint,-endpointslice,-endpointslicemirroring,-attachdetach,-persistentvolume-expander,-ttl"
)


@dataclass(frozen=True)
class Plan:
    """What a cluster is started with, as it travels to the supervisor."""

    binaries: Path
    nodes: tuple[Node, ...]
    images: dict[str, Image]

    def dump(self) -> str:
        """As JSON."""
        nodes, images = (
            [vars(node) for node in self.nodes],
            {name: vars(one) for name, one in self.images.items()},
        )
        return json.dumps({"binaries": str(self.binaries), "nodes": nodes, "images": images})

    @classmethod
    def load(cls, text: str) -> Plan:
        """From JSON."""
        found = json.loads(text)
        nodes = tuple(Node(**{**node, "taints": tuple(node["taints"])}) for node in found["nodes"])
        return cls(
            Path(found["binaries"]), nodes, {name: _image(one) for name, one in found["images"].items()}
        )


def _image(found: Document) -> Image:
    return Image(**{**found, "entrypoint": tuple(found["entrypoint"]), "folders": tuple(found["folders"])})


class ControlPlane:
    """etcd and Kubernetes' three servers on loopback, with TLS and RBAC."""

    def __init__(self, state: Path, binaries: Path) -> None:
        self.state, self._binaries = state, binaries
        self.authority = Authority.create(state)
        self.token = secrets.token_hex(16)
        self._etcd, self._peer, self._port = (free_port() for _ in range(3))
        self.server = f"https://{HERE}:{self._port}"
        self.api = Api(self.server, self.authority.path, self.token)

    def start(self) -> None:
        """Until the API server is ready.

        Raises:
            TimeoutError: it is not within :data:`START_S`.
        """
        client, peer = f"http://{HERE}:{self._etcd}", f"http://{HERE}:{self._peer}"
        listen = (
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
            "--listen-peer-urls",
            peer,
        )
        itself = ("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}")
        self._spawn("etcd", "--data-dir", str(self.state / "etcd"), "--unsafe-no-fsync", *listen, *itself)
        private, public = token_key(self.state)
        self._spawn("kube-apiserver", *self._api_flags(client, private, public))
        wait_for("the API server", lambda: self.api.call("GET", "/readyz")[0] == 200)
        common = ["--port=0", "--leader-elect=false", f"--bind-address={HERE}", f"--cert-dir={self.state}"]
        config = self._kubeconfig()
        common += [f"--{kind}kubeconfig={config}" for kind in ("", "authentication-", "authorization-")]
        common += ["--kube-api-qps=200", "--kube-api-burst=400"]
        manager = [
            f"--controllers={CONTROLLERS}",
            f"--root-ca-file={self.authority.path}",
            f"--service-account-private-key-file={private}",
            "--use-service-account-credentials",
            # the default of 15 s would be the longest wait of all
            "--pvclaimbinder-sync-period=2s",
        ]
        self._spawn("kube-controller-manager", *common, f"--secure-port={free_port()}", *manager)
        self._spawn("kube-scheduler", *common, f"--secure-port={free_port()}")

    def _api_flags(self, etcd: str, private: Path, public: Path) -> list[str]:
        tokens = self.state / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{self.token},admin,admin,system:masters\n")
        serving = self.authority.issue("server", "kube-apiserver", addresses=(HERE,))
        asking = self.authority.issue("asking", "kube-apiserver-kubelet-client", "system:masters")
        return [
            f"--etcd-servers={etcd}",
            f"--bind-address={HERE}",
            f"--advertise-address={HERE}",
            f"--secure-port={self._port}",
            "--insecure-port=0",
            f"--tls-cert-file={serving}",
            f"--tls-private-key-file={serving.with_suffix('.key')}",
            f"--client-ca-file={self.authority.path}",
            f"--kubelet-client-certificate={asking}",
            f"--kubelet-client-key={asking.with_suffix('.key')}",
            f"--kubelet-certificate-authority={self.authority.path}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            f"--token-auth-file={tokens}",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self.state}",
        ]

    def _kubeconfig(self) -> Path:
        path = self.state / "admin.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(kubeconfig(self.server, self.authority.path, self.token))
        return path

    def _spawn(self, name: str, *flags: str) -> None:
        with open(self.state / f"{name}.log", "ab") as log:
            subprocess.Popen(
                [str(self._binaries / name), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.state,
            )


def kubeconfig(server: str, authority: Path, token: str, namespace: str = "default") -> str:
    """A configuration for clients, in JSON, which is YAML, too."""
    context = {"cluster": "test", "user": "test", "namespace": namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": context}],
    }
    return json.dumps(document, indent=1)


def wait_for(what: str, condition: Callable[[], object], seconds: float = START_S) -> None:
    """Until the condition holds; calls that fail, and what is not there yet, are waited for.

    Raises:
        TimeoutError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, LookupError, ApiError, urllib3.exceptions.HTTPError):
            if condition():
                return
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not there within {seconds:.0f} s")


def _start_kubelet(control: ControlPlane, plan: Plan) -> Kubelet:
    """On the first addresses that no other cluster of this machine has."""
    numbers = random.sample(range(10, 250), 240)
    for number in numbers:
        kubelet = Kubelet(control.api, plan.nodes, plan.images, control.state, f"127.{number}", KUBELET_PORT)
        serving = control.authority.issue("kubelet", "system:node", "system:nodes", (kubelet.address,))
        with contextlib.suppress(OSError):
            serve(kubelet.address, serving, control.authority.path, kubelet.pod)
            kubelet.start()
            return kubelet
    raise OSError("no free addresses in 127.0.0.0/8")


def _usable(node: Document) -> bool:
    ready = any(
        one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", [])
    )
    return ready and not any("not-ready" in one["key"] for one in node["spec"].get("taints", []))


def main() -> None:
    """``python -m tests.k8s.supervise STATE``, whose ``plan.json`` says what to start."""
    state = Path(sys.argv[1])
    plan = Plan.load((state / "plan.json").read_text())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    control = ControlPlane(state, plan.binaries)
    control.start()
    _start_kubelet(control, plan)
    wait_for("ready nodes", lambda: sum(map(_usable, control.api.items("/api/v1/nodes"))) == len(plan.nodes))
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    wait_for("the first ServiceAccount", lambda: control.api.get(account).get("secrets"))
    # first beside its place, so that nobody reads half of it
    (state / "ready.part").write_text(json.dumps({"server": control.server, "token": control.token}))
    (state / "ready.part").rename(state / "ready.json")
    threading.Event().wait()


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
