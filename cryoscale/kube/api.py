"""The API server, asked in plain documents; each call has a deadline, and each refusal is one line.

The library kr8s finds the server and the credentials as kubectl does (kubeconfig, exec plugins, the token of
a pod) and renews them. Its objects are not used: they read a resource by listing it, and wait without end.
"""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryoscale.errors import ClusterUnavailableError, CryoscaleError, ExtraError, InputError

T = TypeVar("T")

CALL_S = 30.0
"""How long one call may take, a renewal of credentials included."""

CREATE_TRIES = 5
"""How often a create is sent that the server put off before it did anything: a quota had just been changed by
others, or there were too many requests."""

AGAIN_S = 1.0

SILENT_S = 60.0
"""How long a log that is followed may be silent until it is asked for anew: its connection may have died
without a word."""

STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\S+) ?(.*)")
"""A line of a log behind the time at which it was written."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

KINDS: dict[str, tuple[str, str]] = {
    "ConfigMap": ("v1", "configmaps"),
    "DaskCluster": ("kubernetes.dask.org/v1", "daskclusters"),
    "DaskWorkerGroup": ("kubernetes.dask.org/v1", "daskworkergroups"),
    "Deployment": ("apps/v1", "deployments"),
    "Event": ("v1", "events"),
    "Job": ("batch/v1", "jobs"),
    "Pod": ("v1", "pods"),
}
"""All that is ever asked for, by its version and its plural."""

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Kube:
    """One namespace of one API server; see :func:`connected`."""

    namespace: str
    server: str
    _api: Any
    _portal: Any

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object of that name, or None."""
        return self._call("GET", kind, name)

    def list(self, kind: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The objects with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._call("GET", kind, params={"labelSelector": selector})
        return list(found["items"]) if found else []

    def warning(self, name: str) -> str:
        """What Kubernetes has last complained of about an object; nothing where that is not known.

        That a volume cannot be mounted, or a pod not be made for a Job, is told in events alone.
        """
        selector = f"involvedObject.name={name},type=Warning"
        try:
            found = self._call("GET", "Event", params={"fieldSelector": selector})
        except InputError:  # a right that is nice to have
            return ""
        events = sorted(found["items"] if found else (), key=lambda one: str(one.get("lastTimestamp")))
        return " ".join(str(events[-1].get("message", "")).split()) if events else ""

    def create(self, document: Document, *, only_try: bool = False) -> dict[str, Any] | None:
        """Make an object, or None where there is one of that name.

        Where it is only tried, the server checks all of it, rights and quotas included, and keeps nothing.
        """
        params = {"dryRun": "All"} if only_try else {}
        content, kind = json.dumps(document), str(document["kind"])
        tries = 1
        while True:
            try:
                return self._call("POST", kind, params=params, content=content, none_if=_already_exists)
            except ClusterUnavailableError as error:
                if tries == CREATE_TRIES or _status(error.__cause__) not in (409, 429):
                    raise
            tries += 1
            time.sleep(AGAIN_S)

    def patch(
        self, kind: str, name: str, change: Document, *, uid: str = "", only_try: bool = False
    ) -> dict[str, Any] | None:
        """Merge a change into an object; None where there is none.

        Where ``uid`` is given, another object that has the name by now is left as it is; who looks again, as
        after other failures of the moment, finds it.
        """
        if uid:
            change = {**change, "metadata": {**change.get("metadata", {}), "uid": uid}}
        try:
            return self._call(
                "PATCH",
                kind,
                name,
                params={"dryRun": "All"} if only_try else {},
                content=json.dumps(change),
                headers={"Content-Type": "application/merge-patch+json"},
            )
        except InputError as error:
            if uid and _status(error.__cause__) == 422:  # what cannot be changed, as a uid
                raise ClusterUnavailableError(f"{kind} {self.namespace}/{name} is another by now") from error
            raise

    def delete(
        self, kind: str, name: str, *, policy: str = "Background", uid: str = "", only_try: bool = False
    ) -> bool:
        """Delete an object and what it owns; False where it was not there.

        Where ``uid`` is given, another object that has the name by now is left, as by :meth:`patch`.
        """
        options: dict[str, Any] = {"propagationPolicy": policy}
        if uid:
            options["preconditions"] = {"uid": uid}
        params = {"dryRun": "All"} if only_try else {}
        return self._call("DELETE", kind, name, params=params, content=json.dumps(options)) is not None

    def log(
        self, pod: str, *, after: str = "", follow: bool = False, tail: int | None = None
    ) -> Iterator[tuple[str, str]]:
        """The lines of a pod's log, each behind the time at which it was written (RFC 3339).

        Args:
            pod: its name.
            after: only what was written after that time.
            follow: those to come, too, until the log ends or nothing comes for :data:`SILENT_S`.
            tail: only so many, the last.
        """
        import httpx
        import kr8s

        params = {"timestamps": "true"}
        if follow:
            params["follow"] = "true"
        if after:
            params["sinceTime"] = after
        if tail is not None:
            params["tailLines"] = str(tail)
        version, plural = KINDS["Pod"]
        asking: AbstractAsyncContextManager[Any] = self._api.call_api(
            "GET",
            version=version,
            namespace=self.namespace,
            url=f"{plural}/{pod}/log",
            params=params,
            stream=True,
            timeout=httpx.Timeout(CALL_S, read=SILENT_S if follow else CALL_S),
        )
        with _told(self.server):
            try:
                with self._portal.wrap_async_context_manager(asking) as response:
                    lines, written = response.aiter_lines(), after
                    while (line := self._portal.call(anext, lines, None)) is not None:
                        stamped = STAMPED.fullmatch(line)
                        if stamped is None:  # the kubelet's own words
                            yield written, line
                        elif stamped[1] > after:  # the server goes by whole seconds
                            written = stamped[1]
                            yield written, stamped[2]
            except kr8s.APITimeoutError:
                if not follow:
                    raise

    def last_line(self, pod: str) -> str:
        """The last line of a pod's log; nothing where it cannot be had."""
        try:
            _, line = next(self.log(pod, tail=1), ("", ""))
        except CryoscaleError:
            return ""
        return line.strip()

    def _call(
        self,
        method: str,
        kind: str,
        name: str = "",
        *,
        none_if: Callable[[Any], bool] = lambda response: response.status_code == 404,
        **more: Any,
    ) -> dict[str, Any] | None:
        version, plural = KINDS[kind]

        async def ask() -> dict[str, Any]:
            url = f"{plural}/{name}" if name else plural
            async with self._api.call_api(
                method, version=version, namespace=self.namespace, url=url, **more
            ) as response:
                found: dict[str, Any] = response.json()
                return found

        with _told(self.server):
            try:
                return self._portal.call(_bounded, ask)  # type: ignore[no-any-return]
            except Exception as error:
                response = _response(error)
                if response is not None and none_if(response):
                    return None
                raise


@contextmanager
def connected(namespace: str | None) -> Iterator[Kube]:
    """The API server of the kubeconfig's context or of the pod that this runs in.

    Raises:
        ExtraError: the library is not installed.
        InputError: there are no credentials, or the server does not take them.
        ClusterUnavailableError: it does not answer, or with a failure of its own.
    """
    try:
        import kr8s.asyncio
        from anyio.from_thread import start_blocking_portal
    except ImportError as error:
        do = "pip install 'cryoscale[kubernetes]'"
        raise ExtraError("cluster kind kubernetes", "the extra kubernetes", do) from error

    async def join() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of versions that kr8s has not been tried with
            return await kr8s.asyncio.api()

    import httpx

    with start_blocking_portal() as portal:
        try:
            api = portal.call(_bounded, join)
        except Exception as error:  # all that can be wrong with a kubeconfig and what it calls
            if isinstance(error, (httpx.HTTPError, kr8s.APITimeoutError, TimeoutError)) or _passes(error):
                raise ClusterUnavailableError(
                    f"the API server of Kubernetes does not answer: {_reason(error)}"
                ) from error
            raise InputError(
                f"cluster kind kubernetes, whose API server cannot be asked ({error!r})",
                "a kubeconfig that kubectl can use, or a pod with a ServiceAccount",
                "set KUBECONFIG, and try kubectl get pods",
            ) from error
        yield Kube(namespace or _namespace(api), str(api.auth.server), api, portal)


def _namespace(api: Any) -> str:
    """That of the context; in a pod its own, which kr8s takes for ``default``."""
    if api.auth.active_context:
        return str(api.namespace)
    own = SERVICE_ACCOUNT / "namespace"
    return own.read_text().strip() if own.exists() else os.environ.get("POD_NAMESPACE", "default")


async def _bounded(ask: Callable[[], Awaitable[T]]) -> T:
    import anyio

    with anyio.fail_after(CALL_S):
        return await ask()


@contextmanager
def _told(server: str) -> Iterator[None]:
    """What goes wrong with a call, as one of our errors, with the server's own message."""
    import httpx
    import kr8s

    try:
        yield
    except (kr8s.ServerError, KeyError, TypeError) as error:
        status, message = _status(error), _reason(error)
        if status is None:
            raise
        if status == 403 and "quota" in message:
            do = "free some of it, or have the quota raised"
            raise InputError(f"a quota that is too small: {message}", "room for the run", do) from error
        if status in (401, 403):
            do = "grant it, as k8s/foundation/access.yaml does for cryoscale-submitter"
            raise InputError(f"rights that are too narrow: {message}", "a role that allows it", do) from error
        if status == 404 and "could not find the requested resource" in message:
            do = "install it as k8s/README.md says"
            raise InputError(f"{server}, which knows no DaskCluster", "the Dask operator", do) from error
        if not _passes(error):
            do = "correct the configuration, or the manifest"
            raise InputError(f"what the API server refuses: {message}", "an object it takes", do) from error
        raise ClusterUnavailableError(f"the API server {server} fails: {message}") from error
    except json.JSONDecodeError as error:
        said = f"{' '.join(error.doc.split())[:60]!r}, no document of Kubernetes"
        raise ClusterUnavailableError(f"the API server {server} answers with {said}") from error
    except (httpx.HTTPError, kr8s.APITimeoutError, OSError) as error:
        raise ClusterUnavailableError(f"the API server {server} does not answer: {_reason(error)}") from error


def _already_exists(response: Any) -> bool:
    """Whether a create found one of that name; a 409 may also be a quota that others changed meanwhile."""
    try:
        return bool(response.status_code == 409 and response.json()["reason"] == "AlreadyExists")
    except (ValueError, KeyError, TypeError):
        return False


def _passes(error: BaseException) -> bool:
    """Whether a refusal is of the moment: a conflict with what others do, too many requests, a failure."""
    status = _status(error)
    return status is not None and (status in (408, 409, 429) or status >= 500)


def _status(error: BaseException | None) -> int | None:
    response = _response(error)
    return None if response is None else int(response.status_code)


def _reason(error: BaseException) -> str:
    """What went wrong, in the server's own words where it has any."""
    response, text = _response(error), str(error) or type(error).__name__
    if response is not None:
        try:
            text = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            text = f"{response.status_code} {response.reason_phrase}"
    return " ".join(text.split())


def _response(error: BaseException | None) -> Any:
    """The refusal that an error tells of, or at whose form kr8s has stumbled; None of other errors."""
    told = error.__context__ if isinstance(error, (KeyError, TypeError)) else error
    return getattr(told, "response", None)
