"""The few calls to the Kubernetes API that the test cluster and its tests need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

Document = dict[str, Any]

MERGE = "application/merge-patch+json"
CALL_S = 30.0

OLDER = {
    ("policy/v1", "PodDisruptionBudget"): "policy/v1beta1",
    ("batch/v1", "CronJob"): "batch/v1beta1",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "autoscaling/v2beta2",
}
"""Under which name the 1.20 server knows what is asked for by today's; common fields are the same."""


class ApiError(Exception):
    """The server refused a call."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


@dataclass(frozen=True)
class Applied:
    """What became of a manifest.

    Attributes:
        dropped: the paths of its fields that the server does not know, and left out without a word.
    """

    kind: str
    name: str
    dropped: tuple[str, ...]


class Api:
    """One user's view of the API server.

    Args:
        server: its https address.
        authority: file of the certificate that it is known by.
        token: who calls.
        acting_as: a user to call in the name of, by impersonation.
    """

    def __init__(self, server: str, authority: Path, token: str, acting_as: str | None = None) -> None:
        self.server, self.authority, self.token = server, authority, token
        self._headers = {"Authorization": f"Bearer {token}"}
        if acting_as:
            self._headers["Impersonate-User"] = acting_as
        self._pool = urllib3.PoolManager(maxsize=32, ca_certs=str(authority), retries=False)

    def acting_as(self, account: str, namespace: str) -> Api:
        """The same server as a ServiceAccount sees it."""
        return Api(self.server, self.authority, self.token, f"system:serviceaccount:{namespace}:{account}")

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Document]:
        """HTTP status and answer; a refusal is an answer, too."""
        status, text = self.text(method, path, body, content_type)
        return status, json.loads(text) if text.startswith("{") else {"message": text}

    def text(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, str]:
        """HTTP status and answer as it came."""
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": content_type}
        answer = self._pool.request(method, self.server + path, body=data, headers=headers, timeout=CALL_S)
        return answer.status, answer.data.decode(errors="replace")

    def do(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Document:
        """The answer of a call that has to succeed.

        Raises:
            ApiError: it did not.
        """
        status, answer = self.call(method, path, body, content_type)
        if status >= 300:
            raise ApiError(status, str(answer.get("message")))
        return answer

    def get(self, path: str) -> Document:
        """What is at ``path``."""
        return self.do("GET", path)

    def items(self, path: str) -> list[Document]:
        """The objects of a collection."""
        found: list[Document] = self.get(path)["items"]
        return found

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Ask for an object's deletion; one that is gone already is as good."""
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        status, answer = self.call("DELETE", path, {"propagationPolicy": "Background", **options})
        if status >= 300 and status != 404:
            raise ApiError(status, str(answer.get("message")))

    def merge(self, path: str, change: Document) -> Document:
        """Change some fields of an object."""
        return self.do("PATCH", path, change, MERGE)

    def path(self, document: Document, namespace: str = "default") -> str:
        """Where the objects of a manifest's kind are, by what the server says of its kinds.

        Raises:
            ApiError: it has no such kind.
        """
        kind = str(document["kind"])
        version = OLDER.get((document["apiVersion"], kind), str(document["apiVersion"]))
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        status, found = self.call("GET", base)
        for known in found["resources"] if status == 200 else []:
            if known["kind"] == kind and "/" not in known["name"]:
                inside = document["metadata"].get("namespace", namespace)
                return (
                    f"{base}/namespaces/{inside}/{known['name']}"
                    if known["namespaced"]
                    else f"{base}/{known['name']}"
                )
        raise ApiError(404, f"the server has no {kind} of {version}")

    def apply(self, document: Document, namespace: str = "default", *, only_try: bool = False) -> Applied:
        """Create an object, or merge a manifest into the one that is there; or have it checked alone.

        Raises:
            ApiError: it is refused.
        """
        kind, name = document["kind"], document["metadata"]["name"]
        sent = {**document, "apiVersion": OLDER.get((document["apiVersion"], kind), document["apiVersion"])}
        path = self.path(document, namespace)
        query = "?dryRun=All" if only_try else ""
        status, answer = self.call("POST", path + query, sent)
        if status == 409:
            status, answer = self.call("PATCH", f"{path}/{name}{query}", sent, MERGE)
        if status >= 300:
            raise ApiError(status, f"{kind} {name}: {answer.get('message')}")
        return Applied(kind, name, tuple(_missing(sent, answer)))


def _missing(sent: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Paths of what was sent and is not there, not counting what is empty, or write-only."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            if key in kept:
                yield from _missing(value, kept[key], f"{path}.{key}")
            elif value not in (None, "", {}, [], 0, False) and key != "stringData":
                yield f"{path}.{key}".lstrip(".")
    elif isinstance(sent, list) and isinstance(kept, list):
        for number, (ours, theirs) in enumerate(zip(sent, kept, strict=False)):
            yield from _missing(ours, theirs, f"{path}[{number}]")
