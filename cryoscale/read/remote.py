"""A file behind HTTP as GDAL reads it: by ranges, with its header kept and its address signed as needed."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryoscale.errors import HostDownError
from cryoscale.read.http import Answer, HttpError, Patience, Request, fetch, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REFUSED = frozenset({401, 403})
"""Answers that a new signature may mend."""

HEADER_BYTES = 64 * 1024
"""Read with the first request, and kept: it holds all of a cloud-optimised file's directories."""

GAP_BYTES = 32 * 1024
"""Ranges no further apart are asked for as one: a request costs more than these bytes."""

_HEADERS_KEPT = 512
_SIGNATURES = 2


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8, thread_name_prefix="range")


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
        span = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        asked = Request(self._signed(None), headers=span, whole_bytes=stop)
        try:
            answer = fetch_signed(asked, self.patience, self.ends_s, self._signed)
        except HttpError as error:
            if error.status == 416 and self.size >= 0:
                raise HttpError(f"the file was replaced: it no longer has {self.size} bytes") from error
            raise
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.header("content-range"))
        if answer.status == 200:
            size = int(answer.header("content-length") or len(answer.data))
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
            unasked = isinstance(error, HostDownError)
            raise HttpError(f"cannot be signed: {reason_of(error)}", unasked=unasked) from error


def fetch_signed(
    asked: Request, patience: Patience, ends_s: float, sign: Callable[[str | None], str]
) -> Answer:
    """The answer to ``asked``, whose address is signed anew by ``sign`` where the host refuses it.

    Raises:
        HttpError: as :func:`cryoscale.read.http.fetch` does, or fresh signatures are refused too.
    """
    for _ in range(_SIGNATURES):
        try:
            return fetch(asked, patience, ends_s)
        except HttpError as error:
            fresh = sign(asked.url) if error.status in REFUSED else asked.url
            if fresh == asked.url:
                raise
            asked = replace(asked, url=fresh)
    try:
        return fetch(asked, patience, ends_s)
    except HttpError as error:
        if error.status not in REFUSED:
            raise
        raise HttpError(f"{error}, although signed anew", error.status) from error


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
