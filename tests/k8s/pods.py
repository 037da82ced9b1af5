"""One pod's life on its node: containers started, probed, restarted and ended, and what is told of them."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import urllib3

from tests.k8s.api import MERGE, Api, ApiError, Document
from tests.k8s.container import Container, Image, Start
from tests.k8s.podspec import ConfigError, PodSpec, expand

TICK_S = 0.2
READY_EVERY_S = 1.0
"""How often a container is asked at most whether it is ready; kubelets take the period of the probe."""
CRASH_WAIT_S = (0.5, 2.0, 5.0, 10.0)
"""Between restarts of a container; a kubelet waits for 10 s, 20 s ... 300 s."""
PULL_WAIT_S = 2.0
"""From ErrImagePull to ImagePullBackOff."""


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Probe:
    """One probe of a container: when it is asked next, and how often in a row it answered so."""

    spec: Document
    due: float = 0.0
    in_a_row: int = 0
    good: bool | None = None

    def passed(self, answer: bool, every_s: float) -> bool | None:
        """True or False once the threshold is reached, None before."""
        self.due = time.monotonic() + every_s
        self.in_a_row = self.in_a_row + 1 if answer is self.good else 1
        self.good = answer
        name, usual = ("successThreshold", 1) if answer else ("failureThreshold", 3)
        return answer if self.in_a_row >= self.spec.get(name, usual) else None


@dataclass
class Slot:
    """One container of the pod over its restarts."""

    spec: Document
    first: bool = False
    container: Container | None = None
    state: Document = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Document = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0
    next_try: float = 0.0
    pulled_at: float | None = None
    launched_at: float = 0.0
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The container's."""
        return str(self.spec["name"])

    def status(self) -> Document:
        """As the API server is told."""
        told: Document = {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "" if "waiting" in self.state else f"test://{self.spec['image']}",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
        }
        return told | ({"lastState": self.last} if self.last else {})


class Pod(threading.Thread):
    """A pod bound to one of the nodes, from its first container to its last.

    Args:
        images: what is known of images, by their names; another cannot be pulled.
        folder: for volumes and roots, gone with the pod.
        logs: for what containers say, kept.
    """

    def __init__(
        self, spec: PodSpec, images: Mapping[str, Image], hosts: Path, folder: Path, logs: Path
    ) -> None:
        super().__init__(daemon=True)
        self.spec, self.images, self.hosts, self.folder, self.logs = spec, images, hosts, folder, logs
        meta = spec.pod["metadata"]
        self.namespace, self.pod_name = str(meta["namespace"]), str(meta["name"])
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod_name}"
        self.policy = spec.spec.get("restartPolicy", "Always")
        self.first = [Slot(one, first=True) for one in spec.spec.get("initContainers", [])]
        self.slots = [Slot(one) for one in spec.spec["containers"]]
        self.gone = False
        self._volumes: dict[str, Path] | None = None
        self._began = now()
        self._told: Document = {}
        self._ending: float | None = None
        self._asked_to_end, self._lost = threading.Event(), threading.Event()
        self._grace_s = 0.0
        self._wake = threading.Event()

    # ------------------------------------------------------------------ from the kubelet

    def end(self, grace_s: float) -> None:
        """SIGTERM to its containers, SIGKILL after the grace; a later call can only shorten it."""
        if not self._asked_to_end.is_set() or grace_s < self._grace_s:
            self._grace_s = grace_s
            self._asked_to_end.set()
            self._wake.set()

    def lose(self) -> None:
        """SIGKILL to everything, now, and nothing is told: the node is gone."""
        self._lost.set()
        self.kill()
        self._wake.set()

    def kill(self) -> None:
        """Its containers, at once."""
        for slot in (*self.first, *self.slots):
            if slot.container is not None:
                slot.container.kill()

    def log(self, container: str, previous: bool = False) -> tuple[Path, Container | None]:
        """The file that a container writes, and the container, None where it is over.

        Raises:
            KeyError: there is no such container, or none before it.
        """
        slot = next((one for one in (*self.first, *self.slots) if one.name == container), None)
        if slot is None or slot.pulled_at is not None or (previous and not slot.restarts):
            raise KeyError(container)
        path = self._log(slot, slot.restarts - 1 if previous else slot.restarts)
        return path, None if previous else slot.container

    # ------------------------------------------------------------------ its own thread

    def run(self) -> None:
        """Until the pod is over and the API server does not know it any more."""
        while not self._lost.is_set():
            try:
                if self._asked_to_end.is_set():
                    if self._end():
                        break
                else:
                    self._live()
            except (ApiError, OSError, urllib3.exceptions.HTTPError) as error:
                print(now(), self.namespace, self.pod_name, repr(error), flush=True)
            self._wake.wait(TICK_S)
            self._wake.clear()
        self.kill()
        with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):
            self.spec.api.delete(self.path, 0)
        self.spec.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.gone = True

    def _live(self) -> None:
        try:
            if self._volumes is None:
                self._volumes = self.spec.volumes()
            for slot in self.first:
                code = self._tend(slot, "Never" if self.policy == "Never" else "OnFailure")
                if code != 0:
                    self._tell("Failed" if code else "Pending")
                    return
            codes = [self._tend(slot, self.policy) for slot in self.slots]
        except ConfigError as error:
            for slot in (*self.first, *self.slots):
                if slot.container is None:
                    slot.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
            self._tell("Pending")
            return
        waits = all("waiting" in slot.state and slot.container is None for slot in self.slots)
        running = "Pending" if waits else "Running"
        self._tell(running if None in codes else "Failed" if any(codes) else "Succeeded")

    def _tend(self, slot: Slot, policy: str) -> int | None:
        """A look at one container; its exit code once it is over for good."""
        if slot.container is None:
            if "terminated" in slot.state:
                return int(slot.state["terminated"]["exitCode"])
            if self._pulled(slot) and time.monotonic() >= slot.next_try:
                self._launch(slot)
            return None
        code = slot.container.exit_code
        if code is None:
            self._probe(slot)
            return None
        slot.ready = slot.started = False
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": now()}
        ended["startedAt"] = slot.state.get("running", {}).get("startedAt", ended["finishedAt"])
        slot.container = None
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            slot.state = {"terminated": ended}
            return code
        wait_s = CRASH_WAIT_S[min(slot.restarts, len(CRASH_WAIT_S) - 1)]
        slot.last, slot.next_try = {"terminated": ended}, time.monotonic() + wait_s
        slot.restarts += 1
        told = f"back-off restarting failed container {slot.name} (exit code {code})"
        slot.state = {"waiting": {"reason": "CrashLoopBackOff", "message": told}}
        return None

    def _pulled(self, slot: Slot) -> bool:
        image = slot.spec["image"]
        if image in self.images:
            return True
        if slot.pulled_at is None:
            slot.pulled_at = time.monotonic()
        if time.monotonic() - slot.pulled_at < PULL_WAIT_S:
            told = f'failed to pull and unpack image "{image}": not found'
            slot.state = {"waiting": {"reason": "ErrImagePull", "message": told}}
        else:
            slot.state = {
                "waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
            }
        return False

    def _launch(self, slot: Slot) -> None:
        image = self.images[slot.spec["image"]]
        env = self.spec.environment(slot.spec, image)
        command, arguments = (slot.spec.get(key) or [] for key in ("command", "args"))
        argv = [*(command or image.entrypoint), *arguments]
        assert self._volumes is not None
        start = Start(
            argv=tuple(expand(word, env) for word in argv),
            env=env,
            image=image,
            mounts=self.spec.mounts(slot.spec, self._volumes, env),
            security=self.spec.security(slot.spec, image),
            hostname=self.pod_name[:63],
            hosts=self.hosts,
            folder=self.folder / "roots" / f"{slot.name}-{slot.restarts}",
            log=self._log(slot, slot.restarts),
            workdir=slot.spec.get("workingDir") or "/",
        )
        slot.container, slot.launched_at = Container(start), time.monotonic()
        slot.state = {"running": {"startedAt": now()}}
        slot.probes = {
            name: Probe(slot.spec[name], slot.launched_at + slot.spec[name].get("initialDelaySeconds", 0))
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
            if slot.spec.get(name)
        }
        slot.started, slot.ready = (
            "startupProbe" not in slot.probes,
            not slot.probes.keys() - {"livenessProbe"},
        )
        print(now(), "started", self.namespace, self.pod_name, slot.name, *start.argv[:3], flush=True)

    def _log(self, slot: Slot, number: int) -> Path:
        return self.logs / self.namespace / self.pod_name / f"{slot.name}-{number}.log"

    def _probe(self, slot: Slot) -> None:
        for name, probe in slot.probes.items():
            waits = name != "startupProbe" and not slot.started
            if waits or (name == "startupProbe" and slot.started) or time.monotonic() < probe.due:
                continue
            period_s = float(probe.spec.get("periodSeconds", 10))
            every_s = period_s if name == "livenessProbe" else min(period_s, READY_EVERY_S)
            outcome = probe.passed(self._ask(slot, probe.spec), every_s)
            if name == "readinessProbe":
                slot.ready = slot.ready if outcome is None else outcome
            elif name == "startupProbe" and outcome:
                slot.started = True
                slot.ready = "readinessProbe" not in slot.probes
            elif outcome is False and (name == "livenessProbe" or self._overdue(slot, probe, period_s)):
                print(now(), name, "failed", self.namespace, self.pod_name, slot.name, flush=True)
                assert slot.container is not None
                slot.container.kill()
                return

    def _overdue(self, slot: Slot, probe: Probe, period_s: float) -> bool:
        # a start-up is asked more often than its period, so that its patience is told by the clock
        patience_s = period_s * float(probe.spec.get("failureThreshold", 3))
        return time.monotonic() - slot.launched_at > patience_s

    def _ask(self, slot: Slot, probe: Document) -> bool:
        timeout_s = float(probe.get("timeoutSeconds", 1))
        assert slot.container is not None
        if "exec" in probe:
            return slot.container.run(probe["exec"]["command"], timeout_s)
        wanted = probe.get("httpGet") or probe["tcpSocket"]
        host = wanted.get("host") or self.spec.address
        ports = {one.get("name"): one["containerPort"] for one in slot.spec.get("ports", [])}
        port = int(ports.get(wanted["port"], wanted["port"]))
        try:
            if "httpGet" not in probe:
                socket.create_connection((host, port), timeout_s).close()
                return True
            if wanted.get("scheme", "HTTP") == "HTTPS":
                trusting = ssl._create_unverified_context()
                asked: http.client.HTTPConnection = http.client.HTTPSConnection(
                    host, port, timeout=timeout_s, context=trusting
                )
            else:
                asked = http.client.HTTPConnection(host, port, timeout=timeout_s)
            with contextlib.closing(asked):
                asked.request("GET", wanted.get("path", "/"))
                return 200 <= asked.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False

    # ------------------------------------------------------------------ its end

    def _end(self) -> bool:
        """One look at a pod that is asked to end; True once nothing of it runs."""
        alive = [slot for slot in (*self.first, *self.slots) if slot.container is not None]
        running = [slot for slot in alive if slot.container is not None and slot.container.exit_code is None]
        if self._ending is None:
            self._ending = time.monotonic()
            for slot in running:
                self._hook(slot)
                assert slot.container is not None
                slot.container.signal(signal.SIGTERM)
        if running and time.monotonic() - self._ending < self._grace_s:
            return False
        self.kill()
        for slot in alive:
            self._tend(slot, "Never")
        codes = [slot.state.get("terminated", {}).get("exitCode", 1) for slot in self.slots]
        self._tell("Failed" if any(codes) else "Succeeded")
        return True

    def _hook(self, slot: Slot) -> None:
        hook = slot.spec.get("lifecycle", {}).get("preStop", {}).get("exec")
        if hook and slot.container is not None:
            slot.container.run(hook["command"], self._grace_s)

    def _tell(self, phase: str) -> None:
        """What the API server does not know yet."""
        ready = bool(self.slots) and all(slot.ready for slot in self.slots) and phase == "Running"
        begun = all("terminated" in slot.state for slot in self.first)
        conditions = {"PodScheduled": True, "Initialized": begun, "ContainersReady": ready, "Ready": ready}
        status: Document = {
            "phase": phase,
            "hostIP": self.spec.node_address,
            "podIP": self.spec.address,
            "podIPs": [{"ip": self.spec.address}],
            "startTime": self._began,
            "containerStatuses": [slot.status() for slot in self.slots],
            "conditions": [{"type": name, "status": str(value)} for name, value in conditions.items()],
        }
        if self.first:
            status["initContainerStatuses"] = [slot.status() for slot in self.first]
        if status != self._told:
            with contextlib.suppress(ApiError):  # it may be gone already
                dated = [{**one, "lastTransitionTime": now()} for one in status["conditions"]]
                self.spec.api.do(
                    "PATCH", f"{self.path}/status", {"status": {**status, "conditions": dated}}, MERGE
                )
            self._told = status


def pod_spec(pod: Document, api: Api, address: str, node_address: str, folder: Path, claims: Path) -> PodSpec:
    """A pod's specification, with the API server's address out of the client's."""
    found = urllib3.util.parse_url(api.server)
    server = (str(found.host), int(found.port or 443))
    return PodSpec(pod, api, address, node_address, folder, claims, server)
