"""Headers of remote files, kept for all threads of a process: asked for once a file, not once a block."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryoscale.read.http import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable

HEADERS_KEPT_BYTES = 128 * 2**20
"""What a process keeps of headers at most: 2,000 files, three seasons of some forty scenes."""


@dataclass(frozen=True)
class Version:
    """What tells one state of a file from another: its bytes, ETag and Last-Modified (empty if not told)."""

    size: int
    marks: tuple[str, str]

    def is_another(self, now: Version) -> bool:
        """Whether the file was replaced in between.

        One equal mark is enough to be the same: hosts behind one name may disagree on ETags.
        """
        told = [a == b for a, b in zip(self.marks, now.marks, strict=True) if a and b]
        return self.size != now.size or (bool(told) and not any(told))


@dataclass(frozen=True)
class Header:
    """The first bytes of a file, of which version, and pages of directories that lie further back."""

    data: bytes
    version: Version
    pages: dict[int, bytes] = field(default_factory=dict)

    def size(self) -> int:
        """Bytes that it takes to keep."""
        return len(self.data) + sum(len(page) for page in list(self.pages.values()))


class Headers:
    """Headers by address without signature, for all threads of a process; the longest unused go first."""

    def __init__(self, most_bytes: int = HEADERS_KEPT_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[str, Future[Header]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, href: str, read: Callable[[], Header]) -> Header:
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
        self.trim()
        return header

    def drop(self, href: str) -> None:
        """Forget a header: its file is another one now, or broken."""
        with self._lock:
            self._kept.pop(href, None)

    def trim(self) -> None:
        """Forget the longest unused until the rest is within bounds."""
        with self._lock:
            sizes = {href: kept.result().size() for href, kept in self._kept.items() if kept.done()}
            surplus = sum(sizes.values()) - self.most_bytes
            for href, size in sizes.items():
                if surplus <= 0:
                    return
                del self._kept[href]
                surplus -= size


def _shared(kept: Future[Header]) -> Header:
    try:
        return kept.result()
    except HttpError as error:
        # an exception of one's own: each thread adds its own trace
        raise HttpError(str(error), error.status) from error


KEPT = Headers()
"""So that a file's header is asked for once a process, not once a block and band."""
