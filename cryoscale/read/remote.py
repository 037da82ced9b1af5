"""A file behind HTTP as GDAL reads it: by ranges, with its header kept and its address signed as needed."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryoscale.read.http import Answer, HttpError, Patience, Request, fetch, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REFUSED = frozenset({401, 403})
"""Answers that a new signature may mend."""

HEADER_BYTES = 64 * 1024
"""Read with the first request, and kept: it holds all of a cloud-optimised file's directories."""

GAP_BYTES = 32 * 1024
"""Ranges no further apart are asked for as one: a request costs more than these bytes."""

HEADERS_KEPT_BYTES = 128 * 2**20
"""What a process keeps of headers at most: 2,000 files, three seasons of some forty scenes."""

_SIGNATURES = 2


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8, thread_name_prefix="range")


@dataclass(frozen=True)
class _Version:
    """What tells one state of a file from another: its bytes, ETag and Last-Modified (empty if not told)."""

    size: int
    marks: tuple[str, str]

    def is_another(self, now: _Version) -> bool:
        """Whether the file was replaced in between.

        One equal mark is enough to be the same: hosts behind one name may disagree on ETags.
        """
        told = [a == b for a, b in zip(self.marks, now.marks, strict=True) if a and b]
        return self.size != now.size or (bool(told) and not any(told))


@dataclass(frozen=True)
class _Header:
    """The first bytes of a file, and of which version."""

    data: bytes
    version: _Version


class Headers:
    """Headers by address without signature, for all threads of a process; the longest unused go first."""

    def __init__(self, most_bytes: int = HEADERS_KEPT_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[str, Future[_Header]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, href: str, read: Callable[[], _Header]) -> _Header:
        """The header of ``href``, through ``read`` where it is not kept; threads that want one share it.

        Raises:
            HttpError: it cannot be had, for whoever waited for it too; nothing is kept then.
        """
        with self._lock:
            known = self._kept.get(href)
            if known is not None:
                self._kept.move_to_end(href)
            ours = self._kept.setdefault(href, Future())
        if known is not None:
            return _shared(known)
        try:
            header = read()
        except BaseException as error:
            self.drop(href)
            ours.set_exception(error)
            raise
        ours.set_result(header)
        self._trim()
        return header

    def drop(self, href: str) -> None:
        """Forget a header: its file is another one now, or broken."""
        with self._lock:
            self._kept.pop(href, None)

    def _trim(self) -> None:
        with self._lock:
            sizes = {href: len(kept.result().data) for href, kept in self._kept.items() if kept.done()}
            surplus = sum(sizes.values()) - self.most_bytes
            for href, size in sizes.items():
                if surplus <= 0:
                    return
                del self._kept[href]
                surplus -= size


def _shared(kept: Future[_Header]) -> _Header:
    try:
        return kept.result()
    except HttpError as error:
        # an exception of one's own: each thread adds its own trace
        raise HttpError(str(error), error.status) from error


headers_kept = Headers()
"""So that a file's header is asked for once a process, not once a block and band."""


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
        self._url: str | None = None
        self._place = 0
        self._ahead = (0, b"")
        self._version: _Version | None = None
        kept = headers_kept.get(href, self._read_header)
        self._header, self._version = kept.data, kept.version

    @property
    def size(self) -> int:
        """Bytes of the whole file, -1 before the first answer."""
        return -1 if self._version is None else self._version.size

    def _read_header(self) -> _Header:
        data = self._range(0, HEADER_BYTES)
        assert self._version is not None, "an answer tells the size"
        return _Header(data, self._version)

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
        version = _Version(size, (_header(answer, "etag"), _header(answer, "last-modified")))
        if self._version is not None and self._version.is_another(version):
            told = "is another one" if size == self.size else f"had {self.size} bytes and has {size}"
            raise HttpError(f"the file was replaced while it was read: it {told}", answer.status)
        self._version = version if self._version is None else self._version
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
            raise HttpError(f"cannot be signed: {reason_of(error)}") from error


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
