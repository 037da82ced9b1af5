"""A file behind HTTP as GDAL reads it: by ranges, with its header kept and its address signed as needed."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryoscale.errors import HostDownError
from cryoscale.read import headers, kept
from cryoscale.read.headers import Header, Version
from cryoscale.read.http import Answer, HttpError, Patience, Request, fetch, reason_of
from cryoscale.read.kept import Piece, Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REFUSED = frozenset({401, 403})
"""Answers that a new signature may mend."""

HEADER_BYTES = 64 * 1024
"""Read with the first request, and kept: it holds all of a cloud-optimised file's directories."""

GAP_BYTES = 32 * 1024
"""Ranges no further apart are asked for as one: a request costs more than these bytes."""

PAGES_KEPT = 16
"""Of a file, :data:`GAP_BYTES` each, beyond its header; whatever reads more reads no directories."""

_SIGNATURES = 2


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8, thread_name_prefix="range")


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
        self.received_bytes = 0
        self._receiving = threading.Lock()
        self._url: str | None = None
        self._place = 0
        self._near: dict[int, bytes] = {}
        self._version: Version | None = None
        self._kept = headers.KEPT.get(href, self._read_header)
        self._header, self._version = self._kept.data, self._kept.version

    @property
    def size(self) -> int:
        """Bytes of the whole file, -1 before the first answer."""
        return -1 if self._version is None else self._version.size

    def forget(self) -> None:
        """Let go of all that is kept of the file: it is another one now, or broken, or was not sent well."""
        headers.KEPT.drop(self.href)
        shelf = self._shelf()
        if shelf is not None:
            shelf.clear()

    def _shelf(self) -> Shelf | None:
        keeper = kept.here()
        return None if keeper is None or self._version is None else keeper.shelf(self.href, self._version)

    def _read_header(self) -> Header:
        data = self._range(0, HEADER_BYTES)
        assert self._version is not None, "an answer tells the size"
        return Header(data, self._version)

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
        place = self._place
        if stop <= place:
            return b""
        is_tile = stop - place > GAP_BYTES  # directories are read in small steps
        span = (place, stop)
        (data,) = self._guarded(
            [span], lambda: self._spans([span]) if is_tile else [self._directories(*span)]
        )
        self._place += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several ranges at once, near ones as one request, others side by side."""
        spans = [(o, o + s) for o, s in zip(offsets, sizes, strict=True)]
        return self._guarded(spans, lambda: self._spans(spans))

    # --- ranges -------------------------------------------------------------------------------------

    def _guarded(self, spans: Sequence[tuple[int, int]], read: Callable[[], list[bytes]]) -> list[bytes]:
        if self.error is None:
            try:
                return read()
            except HttpError as error:
                self.error = error
        # zeros of the right length: GDAL goes on to decode them, and whoever reads finds the error
        return [bytes(stop - start) for start, stop in spans]

    def _spans(self, spans: list[tuple[int, int]]) -> list[bytes]:
        wanted = [span for span in spans if span[1] > len(self._header)]
        shelf = self._shelf()
        if shelf is None:
            held = self._asked(wanted)
        else:
            with shelf.turn():
                held = [piece for span in wanted for piece in shelf.find(*span)]
                fresh = self._asked([gap for span in wanted for gap in _gaps(held, *span)])
                for piece in fresh:
                    shelf.put(piece)
            held += fresh
        held = sorted([Piece(0, self._header), *held])
        return [_cut(held, start, stop) for start, stop in spans]

    def _asked(self, spans: Sequence[tuple[int, int]]) -> list[Piece]:
        """What the host sends for ``spans``, near ones in one answer."""
        joined: list[tuple[int, int]] = []
        for start, stop in sorted(spans):
            if joined and start <= joined[-1][1] + GAP_BYTES:
                joined[-1] = joined[-1][0], max(joined[-1][1], stop)
            else:
                joined.append((start, stop))
        if len(joined) == 1:
            return [Piece(joined[0][0], self._range(*joined[0]))]
        parts = _threads().map(lambda span: self._range(*span), joined)
        return [Piece(start, part) for (start, _), part in zip(joined, parts, strict=True)]

    def _directories(self, start: int, stop: int) -> bytes:
        """What GDAL reads beside the tiles, in small steps: by pages that are kept with the header."""
        if stop <= len(self._header):
            return self._header[start:stop]
        first, last = start // GAP_BYTES, (stop - 1) // GAP_BYTES
        found = {number: self._page(number) for number in range(first, last + 1)}
        absent = [number for number, page in found.items() if page is None]
        if absent:
            low = absent[0] * GAP_BYTES
            data = self._range(low, min((absent[-1] + 1) * GAP_BYTES, self.size))
            fresh = {n: data[n * GAP_BYTES - low : (n + 1) * GAP_BYTES - low] for n in absent}
            found |= fresh
            if len(self._kept.pages) + len(fresh) <= PAGES_KEPT:
                self._kept.pages.update(fresh)
                headers.KEPT.trim()
            else:
                self._near = fresh
        return b"".join(page or b"" for page in found.values())[start - first * GAP_BYTES :][: stop - start]

    def _page(self, number: int) -> bytes | None:
        begin, end = number * GAP_BYTES, (number + 1) * GAP_BYTES
        if end <= len(self._header):
            return self._header[begin:end]
        return self._kept.pages.get(number) or self._near.get(number)

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
        with self._receiving:
            self.received_bytes += len(answer.data)
        version = Version(size, (answer.header("etag"), answer.header("last-modified")))
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


def _gaps(held: Sequence[Piece], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """What no piece holds of [start, stop)."""
    for piece in sorted(held):
        if piece.stop <= start or piece.start >= stop:
            continue
        if piece.start > start:
            yield start, piece.start
        start = piece.stop
    if start < stop:
        yield start, stop


def _cut(held: Sequence[Piece], start: int, stop: int) -> bytes:
    """The bytes of [start, stop) out of pieces in order, which may overlap."""
    found: list[bytes] = []
    for piece in held:
        if piece.start <= start < min(piece.stop, stop):
            found.append(piece.data[start - piece.start : stop - piece.start])
            start += len(found[-1])
    if start < stop:
        raise HttpError(f"bytes {start} to {stop} did not come")
    return found[0] if len(found) == 1 else b"".join(found)


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
