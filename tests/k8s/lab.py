"""A Kubernetes cluster for tests: the handle that a test holds, and how it comes and goes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.k8s.api import Api, ApiError, Applied, Document
from tests.k8s.build import binaries, cache
from tests.k8s.container import Image
from tests.k8s.kubelet import Node
from tests.k8s.supervise import Plan, kubeconfig, wait_for

ROOT = Path(__file__).parents[2]
WAIT_S = 90.0
CRYOSCALE_IMAGES = ("cryoscale:0.1.0", "cryoscale-gpu:0.1.0")
OPERATOR = "dask-operator"
OPERATOR_IMAGE = "test/dask-operator:installed"
RBAC = "rbac.authorization.k8s.io"

NODES = (
    Node("cpu-a", {"pool": "cpu"}),
    Node("spot-b", {"pool": "cpu-spot"}),
    Node(
        "gpu-0",
        {"nvidia.com/gpu.present": "true"},
        {"nvidia.com/gpu": "1"},
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},),
    ),
    Node(
        "gpu-1",
        {"nvidia.com/gpu.present": "true"},
        {"nvidia.com/gpu": "1"},
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},),
    ),
)


def why_not() -> str | None:
    """Why no cluster can be had here; None where one can."""
    if os.geteuid():
        return "needs root: every pod gets namespaces of its own"
    if binaries() is None:
        return "not built: python -m tests.k8s.build (some 3 minutes, once)"
    if importlib.util.find_spec("dask_kubernetes") is None or not Path(sys.prefix, "bin/dumb-init").exists():
        return "needs the operator and what images begin with: pip install dask-kubernetes dumb-init"
    return None


@dataclass(frozen=True)
class Lab:
    """A running cluster.

    Attributes:
        api: as its administrator sees it.
        state: its folder: logs of its servers, and below ``logs/NAMESPACE/POD`` those of containers.
    """

    api: Api
    state: Path

    def apply(self, *documents: Document, namespace: str = "default") -> list[Applied]:
        """Create or change objects."""
        return [self.api.apply(document, namespace) for document in documents]

    def apply_file(self, path: Path, namespace: str = "default") -> list[Applied]:
        """The objects of a YAML file."""
        found = [document for document in yaml.safe_load_all(path.read_text()) if document]
        return self.apply(*found, namespace=namespace)

    def wait(self, what: str, condition: Callable[[], object], seconds: float = WAIT_S) -> None:
        """Until a condition holds.

        Raises:
            TimeoutError: it does not in time.
        """
        wait_for(what, condition, seconds)

    def pods(self, namespace: str, selector: str = "") -> list[Document]:
        """The pods that match and are not about to end."""
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
        return [pod for pod in self.api.items(path) if "deletionTimestamp" not in pod["metadata"]]

    def leftovers(self, namespace: str) -> list[Document]:
        """What of deleted Dask clusters is still there: the garbage collector takes up to half a minute."""
        everything = (
            f"/apis/apps/v1/namespaces/{namespace}/deployments",
            f"/api/v1/namespaces/{namespace}/services",
        )
        return [
            one
            for path in everything
            for one in self.api.items(f"{path}?labelSelector=dask.org/cluster-name")
        ]

    def ready(self, namespace: str, selector: str = "") -> list[str]:
        """The names of those that are ready."""
        return sorted(pod["metadata"]["name"] for pod in self.pods(namespace, selector) if is_ready(pod))

    def log(self, namespace: str, pod: str, **query: str | int) -> str:
        """What a pod's only container said, as ``kubectl logs`` asks for it."""
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        status, said = self.api.text("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log?{asked}")
        if status >= 300:
            raise ApiError(status, said)
        return said

    def lose_node(self, name: str) -> None:
        """A machine goes without a word: its processes are killed, its pods forgotten."""
        self.api.delete(f"/api/v1/nodes/{name}")

    def evict(self, namespace: str, pod: str) -> int:
        """Ask for a pod's eviction, as a drain does; 429 where a disruption budget forbids it."""
        body = {
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        status, _ = self.api.call("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)
        return status

    def reclaim(self, name: str, notice_s: float) -> None:
        """A spot machine is taken back: no new pods, those that are there are evicted, then it is gone."""
        self.api.merge(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
        there = f"/api/v1/pods?fieldSelector=spec.nodeName={name}"
        for pod in self.api.items(there):
            self.evict(pod["metadata"]["namespace"], pod["metadata"]["name"])
        deadline = time.monotonic() + notice_s
        while time.monotonic() < deadline and self.api.items(there):
            time.sleep(0.2)
        self.lose_node(name)

    def add_nodes(self, nodes: Iterable[Node]) -> None:
        """Machines join, or come back; those that are there take pods again."""
        for node in nodes:
            self.api.apply(node.document())
            self.api.merge(f"/api/v1/nodes/{node.name}", {"spec": {"unschedulable": None}})

    def kubeconfig(self, account: str, namespace: str) -> Path:
        """The file by which a program outside acts as a ServiceAccount."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        token = self.api.do("POST", path, body)["status"]["token"]
        file = self.state / f"{namespace}-{account}.kubeconfig"
        file.write_text(kubeconfig(self.api.server, self.api.authority, token, namespace))
        return file

    def may(self, account: str, namespace: str, verb: str, resource: str, group: str = "") -> bool:
        """Whether a ServiceAccount may do something in its namespace, as ``kubectl auth can-i`` asks."""
        resource, _, sub = resource.partition("/")
        asked = {
            "namespace": namespace,
            "verb": verb,
            "resource": resource,
            "subresource": sub,
            "group": group,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.api.acting_as(account, namespace).do("POST", path, body)["status"]["allowed"])


def is_ready(pod: Document) -> bool:
    """Whether a pod tells that it is."""
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", [])
    )


def python_image(*entrypoint: str, user: int = 0, kept: dict[str, str] | None = None) -> Image:
    """An image whose files are this Python environment and this working tree."""
    path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    folders = dict.fromkeys(str(Path(one).resolve()) for one in (sys.base_prefix, sys.prefix, ROOT))
    beside = tuple(folder for folder in folders if folder not in ("/", "/usr"))
    return Image(entrypoint, own, user, beside, kept or {})


@contextmanager
def running(state: Path, images: dict[str, Image], nodes: tuple[Node, ...] = NODES) -> Iterator[Lab]:
    """A cluster with the Dask operator, for as long as it is needed.

    Raises:
        TimeoutError: it does not come up; its logs are in ``state``.
    """
    found = binaries()
    assert found is not None, why_not()
    state.mkdir(parents=True, exist_ok=True)
    operator = {OPERATOR_IMAGE: python_image("kopf", "run", "-m", "dask_kubernetes.operator.controller")}
    (state / "plan.json").write_text(Plan(found, nodes, images | operator).dump())
    namespaces = ("--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation", "private")
    with open(state / "supervise.log", "wb") as log:
        process = subprocess.Popen(
            ["unshare", *namespaces, sys.executable, "-m", "tests.k8s.supervise", str(state)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        lab = _connect(state, process)
        install_operator(lab)
        yield lab
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _connect(state: Path, process: subprocess.Popen[bytes]) -> Lab:
    told = state / "ready.json"

    def there() -> bool:
        assert process.poll() is None, (state / "supervise.log").read_text()[-3000:]
        return told.exists()

    wait_for(f"the cluster (see {state}/*.log)", there, 120)
    found = json.loads(told.read_text())
    return Lab(Api(found["server"], state / "ca.crt", found["token"]), state)


def install_operator(lab: Lab) -> None:
    """The Dask operator with definitions and rights of the installed version, in a pod of its own account."""
    spec = importlib.util.find_spec("dask_kubernetes")
    assert spec is not None
    assert spec.origin is not None
    chart = Path(spec.origin).parent / "operator/deployment/helm/dask-kubernetes-operator"
    for path in sorted((chart / "crds").glob("*.yaml")):
        lab.apply_file(path)
    # of Helm's template only the name is made up; the rules are what the operator is given everywhere
    plain = [
        line for line in (chart / "templates/clusterrole.yaml").read_text().splitlines() if "{{" not in line
    ]
    rules = yaml.safe_load("\n".join(plain))["rules"]
    version = f"{RBAC}/v1"
    account = {"kind": "ServiceAccount", "name": OPERATOR, "namespace": OPERATOR}
    lab.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": OPERATOR, "namespace": OPERATOR}},
        {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": OPERATOR}, "rules": rules},
        {
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": OPERATOR},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": OPERATOR},
            "subjects": [account],
        },
    )
    lab.apply(_operator_deployment(), namespace=OPERATOR)
    lab.wait("the operator", lambda: lab.ready(OPERATOR))


def _operator_deployment() -> Document:
    labels = {"app.kubernetes.io/name": OPERATOR}
    container = {
        "name": "operator",
        "image": OPERATOR_IMAGE,
        "args": ["--all-namespaces", "--liveness=http://$(POD_IP):8080/healthz"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
    }
    pod = {"serviceAccountName": OPERATOR, "nodeSelector": {"pool": "cpu"}, "containers": [container]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": OPERATOR},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


def cryoscale_images() -> dict[str, Image]:
    """Both images by the names that the manifests give them, entered as the Dockerfile says.

    What numba compiles is kept from one session to the next: some 10 s of every pod's start.
    """
    compiled = cache() / "numba"
    compiled.mkdir(parents=True, exist_ok=True)
    compiled.chmod(0o777)
    image = python_image("dumb-init", "--single-child", "--", user=10001, kept={"/tmp/numba": str(compiled)})
    return dict.fromkeys(CRYOSCALE_IMAGES, image)
