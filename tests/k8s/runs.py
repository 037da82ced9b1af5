"""Runs of cryoscale in the test cluster: on what ``k8s/`` sets up, with a store outside, driven by a Job."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec
import yaml

from cryoscale.kube.template import documents
from cryoscale.settings import ClusterSpec
from tests.deploy.rendered import rendered
from tests.integration.conftest import TinyRange
from tests.integration.faults import done
from tests.integration.s3 import S3, Asked
from tests.k8s.api import Document
from tests.k8s.lab import Lab
from tests.k8s.supervise import kubeconfig

NAMESPACE = "cryoscale"
DATA = "/data"
SECRET, CLAIM = "cryoscale-store", "cryoscale-data"
SPEC = ClusterSpec(
    kind="kubernetes",
    cpu_workers=2,
    gpu_workers=1,
    image="cryoscale:0.1.0",
    gpu_image="cryoscale-gpu:0.1.0",
    secret=SECRET,
    claim=CLAIM,
)
RUN_S = 420.0


@contextmanager
def store(address: tuple[str, int]) -> Iterator[S3]:
    """A bucket on moto's server that outlives one test, known to this process."""
    made = S3(address, f"cryoscale-{uuid.uuid4().hex[:12]}")
    made.come()
    with contextlib.closing(http.client.HTTPConnection(*address)) as connection:
        connection.request("PUT", f"/{made.bucket}", headers={"Host": "s3.amazonaws.com"})
        assert connection.getresponse().status == 200
    before = fsspec.config.conf.get("s3")
    fsspec.config.conf["s3"] = made.options
    try:
        yield made
    finally:
        fsspec.config.conf.pop("s3") if before is None else fsspec.config.conf.update(s3=before)
        made.go()


@dataclass
class Gate:
    """Holds back the markers of all blocks but the first few, so that a fault meets a run half-way.

    The marker is the last thing that a block writes.
    """

    s3: S3
    passing: int
    opened: threading.Event = field(default_factory=threading.Event)
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Gate:
        self.s3.plan = self._plan
        return self

    def __exit__(self, *exc: object) -> None:
        self.opened.set()
        self.s3.plan = lambda asked: None

    def _plan(self, asked: Asked) -> str | None:
        if asked.method == "PUT" and "/ledger/done/" in asked.path:
            with self._lock:
                self._seen += 1
                held = self._seen > self.passing
            if held:
                self.opened.wait(RUN_S)
        return None


@dataclass(frozen=True)
class Ended:
    """How a driver's Job ended."""

    codes: tuple[int, ...]
    said: str

    @property
    def last_line(self) -> str:
        """What it said last that is not an event of its log."""
        plain = [line for line in self.said.splitlines() if line.strip() and not line.startswith("{")]
        return plain[-1] if plain else ""


@dataclass(frozen=True)
class Site:
    """The namespace of the manifests, with a store and the tiny range in it."""

    lab: Lab
    s3: S3
    tiny: TinyRange

    @classmethod
    def prepare(cls, lab: Lab, s3: S3, tiny: TinyRange) -> Site:
        """Apply what an administrator applies, and what a user brings."""
        lab.apply(*rendered("cluster"), *rendered("foundation"))
        folder = tiny.weights.parent  # the range is beside them
        folder.chmod(0o755)  # pods are nobody's that this machine knows
        size, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
        volume = {"capacity": size, "accessModes": modes, "hostPath": {"path": str(folder)}}
        claim = {
            "accessModes": modes,
            "resources": {"requests": size},
            "storageClassName": "",
            "volumeName": CLAIM,
        }
        lab.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": CLAIM}, "spec": volume},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim},
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET},
                "stringData": {"FSSPEC_S3": json.dumps(s3.options)},
            },
            namespace=NAMESPACE,
        )
        return cls(lab, s3, tiny)

    def laptop(self) -> dict[str, str]:
        """The environment of a person outside who may make Jobs in the namespace."""
        path = self.lab.state / "person.kubeconfig"
        path.write_text(
            kubeconfig(self.lab.api.server, self.lab.api.authority, self.lab.api.token, NAMESPACE)
        )
        return {"KUBECONFIG": str(path), "FSSPEC_S3": json.dumps(self.s3.options)}

    def config(self, document: Document, **cluster: Any) -> Document:
        """A configuration of the tiny range as pods see it, on Kubernetes."""
        text = json.dumps(document).replace(str(self.tiny.weights.parent), DATA)
        named = {"kind": "kubernetes", "cpu_workers": 2, "gpu_workers": 1, "secret": SECRET, "claim": CLAIM}
        images = {"image": SPEC.image, "gpu_image": SPEC.gpu_image}
        return {**json.loads(text), "cluster": named | images | cluster}

    def stand(self, name: str) -> None:
        """A standing cluster that runs join, as ``k8s/base`` is one, with ready pods of all kinds."""
        made = documents(replace(SPEC, name=name), NAMESPACE, cpu_workers=SPEC.cpu_workers)
        self.lab.apply(made.cluster, made.actors)
        chosen = f"dask.org/cluster-name={name}"
        self.lab.wait("a standing cluster", lambda: len(self.lab.ready(NAMESPACE, chosen)) == 4)

    def fall(self, name: str) -> None:
        """Delete a standing cluster, and wait until nothing of it is there."""
        base = f"/apis/kubernetes.dask.org/v1/namespaces/{NAMESPACE}"
        self.lab.api.delete(f"{base}/daskclusters/{name}")
        self.lab.api.delete(f"{base}/daskworkergroups/{name}-gpu")
        self.lab.wait("no pods", lambda: not self.lab.pods(NAMESPACE, f"dask.org/cluster-name={name}"))

    def submit(
        self, name: str, config: Document, out: str, change: Document | None = None, slice_: str | None = None
    ) -> None:
        """The Job of ``k8s/jobs/run`` with a configuration of its own; or one index of ``k8s/jobs/slices``.

        Args:
            change: to its pod's specification.
            slice_: index and number, ``0/2``: a server of 1.20 knows no indexed Jobs, so that each is one.
        """
        env = {"CRYOSCALE_OUT": out}
        if slice_ is not None:
            env["JOB_COMPLETION_INDEX"], env["CRYOSCALE_SLICES"] = slice_.split("/")
        job = next(one for one in rendered("jobs/slices" if slice_ else "jobs/run") if one["kind"] == "Job")
        job["metadata"]["name"] = name
        job["spec"] |= {"completions": 1, "parallelism": 1}
        spec = job["spec"]["template"]["spec"]
        spec["volumes"] = [
            *(one for one in spec["volumes"] if one["name"] != "config"),
            {"name": "config", "configMap": {"name": name}},
            {"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}},
        ]
        container = spec["containers"][0]
        container["volumeMounts"].append({"name": "data", "mountPath": DATA})
        given = [{"name": key, "value": value} for key, value in env.items()]
        container["env"] = [one for one in container["env"] if one["name"] not in env] + given
        spec |= change or {}
        text = yaml.safe_dump(config)
        self.lab.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"run.yaml": text}},
            job,
            namespace=NAMESPACE,
        )

    def driver(self, name: str) -> str:
        """The pod that drives, once it is there."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [pod["metadata"]["name"] for pod in self.lab.pods(NAMESPACE, f"job-name={name}")]
            return bool(found)

        self.lab.wait("a driver", look)
        return found[-1]

    def until_done(self, out: str, blocks: int) -> None:
        """Until so many blocks have a marker."""
        self.lab.wait(f"{blocks} blocks", lambda: done(out) >= blocks, RUN_S)

    def end(self, name: str, seconds: float = RUN_S) -> Ended:
        """Wait until a driver ends for good, as the Job's ``podFailurePolicy`` has it, which 1.20 drops."""
        codes: list[int] = []

        def over() -> bool:
            codes[:] = self._codes(name)
            return any(code in (0, 1, 2) for code in codes)

        try:
            self.lab.wait(f"the end of {name}", over, seconds)
        finally:
            said = self.said(name)
            print(said)
            self.lab.api.delete(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}")
        return Ended(tuple(codes), said)

    def _codes(self, name: str) -> list[int]:
        pods = self.lab.api.items(f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=job-name={name}")
        states = [one["state"] for pod in pods for one in pod["status"].get("containerStatuses", [])]
        return [state["terminated"]["exitCode"] for state in states if "terminated" in state]

    def said(self, name: str) -> str:
        """All that the drivers of a Job said, pods that are gone included."""
        folder = self.lab.state / "logs" / NAMESPACE
        files = sorted(folder.glob(f"{name}-*/driver-*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(path.read_text() for path in files)
