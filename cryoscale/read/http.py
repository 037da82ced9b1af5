"""Bytes over HTTP from servers that fail: asked for with patience, checked to be whole, or refused by name.

GDAL's own client repeats 429 and 5xx, but knows no Retry-After, no deadline over all attempts and no new
signature, and it remembers a failed address for the life of the process. Here every answer is judged in one
place, for rasters (:class:`RemoteFile`, which GDAL reads through) and for catalogues alike.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3

from cryoscale.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REPEATED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that pass."""

REFUSED = frozenset({401, 403})
"""Answers that a new signature may mend."""

HEADER_BYTES = 64 * 1024
"""Read with the first request, and kept: it holds all of a cloud-optimised file's directories."""

GAP_BYTES = 32 * 1024
"""Ranges no further apart are asked for as one: a request costs more than these bytes."""

_HEADERS_KEPT = 512
_SIGNATURES = 2
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
    """

    attempts: int = 8
    first_s: float = 0.5
    most_s: float = 20.0
    deadline_s: float = 300.0
    connect_s: float = 10.0
    stall_s: float = 30.0


ASSETS = Patience()
"""How assets are read."""


class HttpError(TransientError):
    """A request that failed for good; ``status`` is the last answer's, None where none came."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(reason)


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes


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
        HttpError: the answer is an error that does not pass, or patience ran out; without the address.
    """
    end = time.monotonic() + patience.deadline_s
    end = end if ends_s is None else min(end, ends_s)
    for attempt in range(1, patience.attempts + 1):
        asked_s: float | None = None
        try:
            answer = _once(request, patience, end)
            if answer.status < 300:
                return answer
            reason, status = f"HTTP {answer.status}{_said(answer)}", answer.status
            if status not in REPEATED:
                raise HttpError(reason, status)
            asked_s = _retry_after_s(answer.headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, HttpError):
                raise
            reason, status = _reason(error), None
        pause = min(patience.first_s * 2.0 ** (attempt - 1), patience.most_s) * (0.5 + random.random() / 2)
        if asked_s is not None:
            pause = asked_s + 0.1 * pause
        left = end - time.monotonic()
        if attempt == patience.attempts or pause >= left:
            asked = f", which asks to wait {asked_s:.0f} s" if asked_s is not None else ""
            raise HttpError(f"{reason}{asked}; given up after {attempt} attempts", status)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


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


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8, thread_name_prefix="range")


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
    kind = next((v for k, v in answer.headers.items() if k.lower() == "content-type"), "")
    if not re.search(r"json|text/plain|xml", kind):
        return ""
    words = " ".join(re.sub(r"<[^>]*>", " ", answer.data[:500].decode("utf-8", "replace")).split())
    return f" ({words[:120]})" if words else ""


def _reason(error: Exception) -> str:
    """The cause in words, without the address and its token."""
    kinds = urllib3.exceptions
    if isinstance(error, kinds.MaxRetryError) and error.reason is not None:
        return _reason(error.reason)
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


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, from either form of Retry-After (RFC 9110, 10.2.3)."""
    value = next((v for k, v in headers.items() if k.lower() == "retry-after"), "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


class _Headers:
    """First bytes and sizes of files, by address, for all threads of a process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, href: str) -> tuple[bytes, int] | None:
        with self._lock:
            if href in self._kept:
                self._kept.move_to_end(href)
            return self._kept.get(href)

    def put(self, href: str, header: bytes, size: int) -> None:
        with self._lock:
            self._kept[href] = (header, size)
            while len(self._kept) > _HEADERS_KEPT:
                self._kept.popitem(last=False)

    def drop(self, href: str) -> None:
        with self._lock:
            self._kept.pop(href, None)


headers_kept = _Headers()
"""So that a file's header is asked for once a process, not once a block."""


class RemoteFile:
    """A file behind HTTP that GDAL reads by ranges; what went wrong is kept in ``error``.

    GDAL turns any failure of a read into its own words, hence whoever reads has to look at ``error``.

    Args:
        href: the address without a signature.
        sign: gives the address to be asked now; called with the one that was refused, a fresh one.
        patience: how failures are met.
    """

    def __init__(self, href: str, sign: Callable[[str | None], str], patience: Patience) -> None:
        self.href, self.sign, self.patience = href, sign, patience
        self.ends_s = time.monotonic() + patience.deadline_s
        self.error: HttpError | None = None
        self.was_kept = False
        self._url: str | None = None
        self._place = 0
        self._ahead = (0, b"")
        self.size = -1
        self._header = self._open()

    def _open(self) -> bytes:
        kept = headers_kept.get(self.href)
        self.was_kept = kept is not None
        if kept is None:
            header = self._range(0, HEADER_BYTES)
            headers_kept.put(self.href, header, self.size)
            return header
        header, self.size = kept
        return header

    # --- what GDAL calls ----------------------------------------------------------------------------

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        """Connections belong to the process."""

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the place of the next read."""
        self._place = offset + (0, self._place, self.size)[whence]
        return self._place

    def read(self, count: int = -1) -> bytes:
        """The next ``count`` bytes; fewer at the end of the file, or where they cannot be had."""
        stop = self.size if count < 0 else min(self._place + count, self.size)
        data = self._guarded([(self._place, stop)])[0] if stop > self._place else b""
        self._place += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several ranges at once, near ones as one request, others side by side."""
        return self._guarded([(o, o + s) for o, s in zip(offsets, sizes, strict=True)])

    # --- ranges -------------------------------------------------------------------------------------

    def _guarded(self, spans: list[tuple[int, int]]) -> list[bytes]:
        if self.error is None:
            try:
                return self._spans(spans)
            except HttpError as error:
                self.error = error
        # zeros of the right length: GDAL goes on to decode them, and whoever reads finds the error
        return [bytes(stop - start) for start, stop in spans]

    def _spans(self, spans: list[tuple[int, int]]) -> list[bytes]:
        joined: list[list[int]] = []
        for start, stop in sorted(spans):
            if stop <= len(self._header):
                continue
            if joined and start <= joined[-1][1] + GAP_BYTES:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        if len(joined) == 1:
            held = [(joined[0][0], self._with_read_ahead(*joined[0]))]
        else:
            parts = _threads().map(lambda span: self._range(*span), joined)
            held = [(start, part) for (start, _), part in zip(joined, parts, strict=True)]
        held.append((0, self._header))
        return [_cut(held, start, stop) for start, stop in spans]

    def _with_read_ahead(self, start: int, stop: int) -> bytes:
        """Directories beyond the header are read in small steps; those are served from one request."""
        first, data = self._ahead
        if not first <= start < stop <= first + len(data):
            first, data = start, self._range(start, min(max(stop, start + GAP_BYTES), self.size))
            self._ahead = (first, data)
        return data[start - first :]

    def _range(self, start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        while start < stop:
            part = self._part(start, stop)
            parts.append(part)
            start += len(part)
            stop = min(stop, self.size)
        return b"".join(parts)

    def _part(self, start: int, stop: int) -> bytes:
        """What one answer gives of a range: all of it, or its beginning."""
        asked = Request(
            self._signed(None),
            headers={"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"},
            whole_bytes=stop,
        )
        for signature in range(_SIGNATURES + 1):
            try:
                answer = fetch(asked, self.patience, self.ends_s)
                break
            except HttpError as error:
                if error.status == 416 and self.size >= 0:
                    raise HttpError(f"the file was replaced: it no longer has {self.size} bytes") from error
                fresh = self._signed(asked.url) if error.status in REFUSED else asked.url
                if fresh == asked.url:
                    raise
                if signature == _SIGNATURES:
                    raise HttpError(f"{error}, although signed anew", error.status) from error
                asked = Request(fresh, headers=asked.headers, whole_bytes=stop)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", _header(answer, "content-range"))
        if answer.status == 200:
            size = int(_header(answer, "content-length") or len(answer.data))
            data = answer.data[start:stop]
        elif found and int(found[1]) == start and len(answer.data) == int(found[2]) - start + 1:
            size, data = int(found[3]), answer.data[: stop - start]
        else:
            raise HttpError("the answer is not the range that was asked for", answer.status)
        if self.size not in (-1, size):
            raise HttpError(f"the file was replaced: it had {self.size} bytes and has {size}", answer.status)
        self.size = size
        if not data:
            raise HttpError(f"the file ends at {size} bytes", 416)
        return data

    def _signed(self, refused: str | None) -> str:
        try:
            if refused is not None or self._url is None:
                self._url = self.sign(refused)
            return self._url
        except HttpError:
            raise
        except Exception as error:  # a signer is somebody else's code and raises what it likes
            raise HttpError(f"cannot be signed: {_reason(error)}") from error


def _header(answer: Answer, name: str) -> str:
    return next((value for key, value in answer.headers.items() if key.lower() == name), "")


def _cut(held: Sequence[tuple[int, bytes]], start: int, stop: int) -> bytes:
    for first, data in held:
        if first <= start and stop <= first + len(data):
            return data[start - first : stop - first]
    raise HttpError(f"bytes {start} to {stop} did not come")


class Container:
    """The folder of one file, as rasterio wants it where it opens through Python."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file

    def open(self, path: str, mode: str = "r", **_: Any) -> RemoteFile:
        """The file from its beginning."""
        self.file.seek(0)
        return self.file

    def isfile(self, path: str) -> bool:
        """There is nothing else."""
        return True

    def isdir(self, path: str) -> bool:
        """There are no folders."""
        return False

    def ls(self, path: str) -> list[str]:
        """Nothing beside the file is looked for."""
        return []

    def mtime(self, path: str) -> int:
        """Not known."""
        return 0

    def size(self, path: str) -> int:
        """Bytes."""
        return self.file.size
