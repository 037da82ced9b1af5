"""Bytes over HTTP from servers that fail: asked for with patience, checked to be whole, or refused by name.

GDAL's own client repeats 429 and 5xx, but knows no Retry-After, no deadline over all attempts and no new
signature, and it remembers a failed address for the life of the process. Here every answer is judged in one
place, for rasters (:mod:`cryoscale.read.remote`, which GDAL reads through) and for catalogues alike.
"""

from __future__ import annotations

import os
import random
import re
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3

from cryoscale.errors import TransientError
from cryoscale.read import hosts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPEATED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that pass."""

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Patience:
    """How long a request is worth repeating; all times in seconds.

    Attributes:
        attempts: how often it is made, at most.
        first_s, most_s: the pause after the first failure, doubled after each further one up to the most;
            a random half of it is left out, so that workers do not come back in step.
        deadline_s: over all attempts and pauses; a longer Retry-After is not waited for.
        connect_s, stall_s: to connect, and between two bytes.
        insists: whether a host that is taken for down is asked all the same (:mod:`cryoscale.read.hosts`).
    """

    attempts: int = 8
    first_s: float = 0.5
    most_s: float = 20.0
    deadline_s: float = 300.0
    connect_s: float = 10.0
    stall_s: float = 30.0
    insists: bool = False


ASSETS = Patience()
"""How assets are read."""

_insisting: ContextVar[bool] = ContextVar("insisting", default=False)


def assets() -> Patience:
    """:data:`ASSETS` as it holds where the caller stands: insisting within :func:`insisting`."""
    return replace(ASSETS, insists=True) if _insisting.get() else ASSETS


def set_insisting(wanted: bool) -> None:
    """As :func:`insisting`, for a thread that serves one caller only."""
    _insisting.set(wanted)


@contextmanager
def insisting(wanted: bool) -> Iterator[None]:
    """What is opened in the body asks hosts that are taken for down all the same, if ``wanted``."""
    token = _insisting.set(wanted)
    try:
        yield
    finally:
        _insisting.reset(token)


class HttpError(TransientError):
    """A request that failed for good.

    ``status`` is the last answer's, None where none came; ``unasked`` where it was not even made.
    """

    def __init__(self, reason: str, status: int | None = None, *, unasked: bool = False) -> None:
        self.status, self.unasked = status, unasked
        super().__init__(reason)


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    def header(self, name: str) -> str:
        """A header's value by its name in small letters, empty where it was not sent."""
        return next((value for key, value in self.headers.items() if key.lower() == name), "")


@dataclass(frozen=True)
class Request:
    """What is asked; ``whole_bytes`` is where to stop in an answer that ignores the range."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    whole_bytes: int | None = None


def fetch(request: Request, patience: Patience, ends_s: float | None = None) -> Answer:
    """The complete answer to ``request``, however often it has to be made.

    Args:
        request: safe to repeat: searches and reads are, whatever their method.
        patience: how often and how long.
        ends_s: an earlier end than the patience's own, on :func:`time.monotonic`.

    Raises:
        HttpError: the answer is an error that does not pass, patience ran out, or the host is taken for
            down; without the address.
    """
    host, memory = hosts.host_of(request.url), hosts.HOSTS
    down = memory.refusal(host, insist=patience.insists)
    if down is not None and not patience.insists:
        raise HttpError(down, unasked=True)
    try:
        answer = _repeated(request, patience, ends_s, is_down=down is not None)
    except HttpError as error:
        memory.gave_up(host, str(error).split(";")[0], error.status)
        raise
    memory.answered(host)
    return answer


def _repeated(request: Request, patience: Patience, ends_s: float | None, *, is_down: bool) -> Answer:
    end = time.monotonic() + patience.deadline_s
    end = end if ends_s is None else min(end, ends_s)
    for attempt in range(1, patience.attempts + 1):
        asked_s: float | None = None
        shut = False
        try:
            answer = _once(request, patience, end)
            if answer.status < 300:
                return answer
            reason, status = f"HTTP {answer.status}{_said(answer)}", answer.status
            if status not in REPEATED:
                raise HttpError(reason, status)
            asked_s = _retry_after_s(answer.header("retry-after").strip())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, HttpError):
                raise
            reason, status, shut = reason_of(error), None, _took_no_connection(error)
        pause = min(patience.first_s * 2.0 ** (attempt - 1), patience.most_s) * (0.5 + random.random() / 2)
        if asked_s is not None:
            pause = asked_s + 0.1 * pause
        left = end - time.monotonic()
        last = attempt == patience.attempts or (is_down and shut and attempt >= hosts.KNOCKS)
        if last or pause >= left:
            asked = f", which asks to wait {asked_s:.0f} s" if asked_s is not None else ""
            before = ", as it was down before" if is_down and shut else ""
            raise HttpError(f"{reason}{asked}; given up after {attempt} attempts{before}", status)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _took_no_connection(error: BaseException) -> bool:
    """Whether the host itself could not be reached, whatever was asked of it."""
    kinds = urllib3.exceptions
    if isinstance(error, kinds.MaxRetryError) and error.reason is not None:
        return _took_no_connection(error.reason)
    return isinstance(
        error, kinds.NewConnectionError | kinds.ConnectTimeoutError | kinds.ProxyError | kinds.SSLError
    )


def _connections(url: str) -> urllib3.PoolManager:
    """The process's connections, through the proxy that the environment names for the host, if any."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return _pool(proxy)


@lru_cache(maxsize=8)
def _pool(proxy: str | None) -> urllib3.PoolManager:
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()
    shared: dict[str, Any] = {"num_pools": 32, "maxsize": 16, "ca_certs": bundle}
    return urllib3.ProxyManager(proxy, **shared) if proxy else urllib3.PoolManager(**shared)


def _once(request: Request, patience: Patience, end: float) -> Answer:
    """One attempt; the body is read piece by piece, so that a trickle does not outlive the deadline."""
    response = _connections(request.url).request(
        request.method,
        request.url,
        body=request.body,
        headers=dict(request.headers),
        timeout=urllib3.Timeout(connect=patience.connect_s, read=patience.stall_s),
        retries=urllib3.Retry(
            total=5, connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False
        ),
        preload_content=False,
    )
    done = False
    try:
        most = request.whole_bytes if response.status == 200 else None
        pieces, size = [], 0
        while most is None or size < most:
            piece = response.read1(_CHUNK, decode_content=True)
            if not piece:
                done = True
                break
            pieces.append(piece)
            size += len(piece)
            if time.monotonic() > end:
                raise TimeoutError(f"the answer was still trickling in at the deadline, {size} bytes")
        return Answer(response.status, dict(response.headers.items()), b"".join(pieces))
    finally:
        if done:
            response.release_conn()
        else:
            response.close()


def _said(answer: Answer) -> str:
    """The first words of an error's text, where it is text."""
    if not re.search(r"json|text/plain|xml", answer.header("content-type")):
        return ""
    words = " ".join(re.sub(r"<[^>]*>", " ", answer.data[:500].decode("utf-8", "replace")).split())
    return f" ({words[:120]})" if words else ""


def reason_of(error: Exception) -> str:
    """The cause in words, without the address and its token."""
    kinds = urllib3.exceptions
    if isinstance(error, kinds.MaxRetryError) and error.reason is not None:
        return reason_of(error.reason)
    for kind, words in (
        (kinds.NameResolutionError, "the host's name cannot be resolved"),
        (kinds.NewConnectionError, "no connection to the host"),
        (kinds.ConnectTimeoutError, "the host does not answer"),
        (kinds.ReadTimeoutError, "no byte came for too long"),
        (kinds.IncompleteRead, "the answer broke off"),
        (kinds.ProtocolError, "the connection broke"),
        (kinds.SSLError, "the host's certificate was not accepted"),
    ):
        if isinstance(error, kind):
            return words
    return re.sub(r"https?://\S+", "the address", " ".join(str(error).split())) or type(error).__name__


def _retry_after_s(value: str) -> float | None:
    """Seconds that the server asks to wait, from either form of Retry-After (RFC 9110, 10.2.3)."""
    if value.isascii() and value.isdigit():  # "²" is a digit too, but no number
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None
