"""An API server of Kubernetes for tests: it holds objects, answers as the real one does, and has faults.

What an operator would make of a DaskCluster is for a test to say; the rule by which that of dask-kubernetes
answers a change of ``replicas`` is here, since a scale-down has to get along with it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


@dataclass
class FakeApi:
    """Its objects by plural and name, and what is wrong with it."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    """Pods whose log neither goes on nor ends, as on a connection that is dead without a word."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verb and plural."""
    unknown: set[str] = field(default_factory=set)
    """Plurals without a CRD."""
    fails: Callable[[str, str], bool] = lambda verb, plural: False
    """Whether a call is answered with 503."""
    refuses: Callable[[str, str], int | None] = lambda verb, plural: None
    """With which status a call is refused because of what others do at this moment."""
    gateway: tuple[int, str] | None = None
    """What one that stands before it answers in its place."""
    loses: Callable[[str, str], bool] = lambda verb, plural: False
    """Whether a call is carried out, and answered with 504."""
    on_create: Callable[[dict[str, Any]], None] = lambda document: None
    on_look: Callable[[], None] = lambda: None
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Verb, plural and name of each call that may have changed something."""
    blind: list[str] = field(default_factory=list)
    """Groups that the operator was made to lower, at which it would ask the scheduler whom to end."""
    count: int = 0

    def put(self, plural: str, document: dict[str, Any]) -> dict[str, Any]:
        """Have an object, as if made by somebody else."""
        self.count += 1
        metadata = document.setdefault("metadata", {})
        metadata.setdefault("uid", f"uid-{self.count}")
        metadata.setdefault("namespace", "snow")
        metadata.setdefault("creationTimestamp", f"2026-01-01T00:00:{self.count % 60:02d}Z")
        self.objects[plural, metadata["name"]] = document
        return document

    def names(self, plural: str) -> list[str]:
        """Of the objects of that kind."""
        return sorted(name for kind, name in self.objects if kind == plural)

    def pod(self, name: str, labels: dict[str, str], **status: Any) -> None:
        """A pod that is ready, unless its status says something else."""
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"}
        self.put(
            "pods", {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status or ready}
        )

    def deployment(self, name: str, labels: dict[str, str], **status: Any) -> None:
        """A Deployment."""
        self.put("deployments", {"metadata": {"name": name, "labels": labels}, "status": status})

    def scale(self, group: dict[str, Any]) -> None:
        """What the operator does on a change of ``replicas``."""
        name, labels = group["metadata"]["name"], {"dask.org/workergroup-name": group["metadata"]["name"]}
        there = [one for one in self.names("deployments") if one.startswith(f"{name}-worker-")]
        needed = group["spec"]["worker"]["replicas"] - len(there)
        if needed < 0:
            self.blind.append(name)
        for _ in range(max(needed, 0)):
            self.deployment(f"{name}-worker-{self.count:010x}", labels)

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, Any]:
        """Status and document of a call."""
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path.strip("/") == "version":
            status = self.refuses("get", "version")
            return status or 200, {"message": "shutting down"} if status else {"gitVersion": "v1.31.0"}
        if self.gateway:
            return self.gateway
        path = parts.path.split("/namespaces/snow/")[1].split("/")
        plural, name = path[0], path[1] if len(path) > 1 else ""
        verb = "list" if method == "GET" and not name else VERBS[method]
        if self.fails(verb, plural):
            return 503, {"message": "etcd is away"}
        if status := self.refuses(verb, plural):
            return status, {"message": "the object has been modified", "reason": "Conflict"}
        if (verb, plural) in self.forbidden:
            what = f'{plural} "{name}" is forbidden: User "anna" cannot {verb} resource "{plural}"'
            return 403, {"message": what}
        if plural in self.unknown:
            return 404, {"message": "the server could not find the requested resource"}
        if path[-1] == "log":
            return 200, _log(self.logs[name], query)
        if verb == "list":
            self.on_look()
            return 200, {"items": [one for kind, one in self._chosen(query) if kind == plural]}
        answer = self._one(verb, plural, name, json.loads(body or b"{}"), only_try := "dryRun" in query)
        return (
            (504, {"message": "etcd took too long"}) if not only_try and self.loses(verb, plural) else answer
        )

    def _chosen(self, query: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        wanted = dict(one.split("=") for one in query.get("labelSelector", "").split(",") if one)
        about = dict(one.split("=") for one in query.get("fieldSelector", "").split(",") if one)
        for (kind, _), found in list(self.objects.items()):
            labels = found["metadata"].get("labels", {})
            involved = found.get("involvedObject", {}).get("name")
            if about and involved != about["involvedObject.name"]:
                continue
            if all(labels.get(key) == value for key, value in wanted.items()):
                yield kind, found

    def _one(
        self, verb: str, plural: str, name: str, body: dict[str, Any], only_try: bool
    ) -> tuple[int, Any]:
        if verb == "create":
            name = body["metadata"]["name"]
            if (plural, name) in self.objects:
                return 409, {"message": f'{plural} "{name}" already exists', "reason": "AlreadyExists"}
        elif (plural, name) not in self.objects:
            return 404, {"message": f'{plural} "{name}" not found'}
        if only_try or verb == "get":
            return 200, self.objects.get((plural, name), body)
        self.asked.append((verb, plural, name))
        if verb == "create":
            made = self.put(plural, body)
            self.on_create(made)
            return 201, made
        found = self.objects[plural, name]
        meant = body.get("preconditions" if verb == "delete" else "metadata", {})
        if (uid := meant.get("uid", found["metadata"]["uid"])) != found["metadata"]["uid"]:
            # as a server says it: a patch would change what cannot be changed
            return (409 if verb == "delete" else 422), {"message": f"metadata.uid: {uid}: not that of it"}
        if verb == "delete":
            del self.objects[plural, name]
        elif verb == "patch":
            before = found.get("spec", {}).get("worker", {}).get("replicas")
            _merge(found, body)
            if plural == "daskworkergroups" and found["spec"]["worker"]["replicas"] != before:
                self.scale(found)
        return 200, found


def _log(text: str, query: dict[str, str]) -> str:
    """A log as it is asked for; a line was written a second after the one before it."""
    stamps = [f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}.000000500Z" for n in range(text.count("\n"))]
    asked = query.get("sinceTime", "")[:19]  # which the kubelet is told in whole seconds
    stamped = query.get("timestamps") == "true"
    found = [
        f"{at} {line}\n" if stamped else f"{line}\n"
        for at, line in zip(stamps, text.splitlines(), strict=True)
        if at[:19] >= asked
    ]
    return "".join(found[-int(query.get("tailLines", len(found) or 1)) :])


def _merge(into: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif value is None:
            into.pop(key, None)
        else:
            into[key] = value


@contextmanager
def served(api: FakeApi, kubeconfig: Path) -> Iterator[FakeApi]:
    """The server on loopback, and a kubeconfig that leads to it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, document = api.answer(self.command, self.path, body)
            content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            stalled = any(f"/pods/{pod}/log" in self.path for pod in api.stalled)
            self.send_header("Content-Length", str(len(content) + stalled))
            self.end_headers()
            self.wfile.write(content)
            if stalled:
                self.rfile.read(1)  # until whoever asked goes
                self.close_connection = True

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "anna", "namespace": "snow"}}],
        "clusters": [{"name": "fake", "cluster": {"server": address}}],
        "users": [{"name": "anna", "user": {"token": "hers"}}],
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
