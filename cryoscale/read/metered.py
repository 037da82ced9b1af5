"""What reading takes: source chunks, their bytes as stored and as decoded, and processor seconds."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Cost:
    """What cuts of source files took.

    Attributes:
        bytes_read: of the decoded pixels that were cut out.
        fetches: source chunks that they touch: tiles or strips of a file, chunks of a Zarr array.
        fetched_bytes: of these chunks as they are stored. What a host sends is a little more: headers, and
            gaps between near chunks that are asked for as one range.
        received_bytes: what hosts sent for them over http(s): without chunks that this machine had kept for a
            block beside (:mod:`cryoscale.read.kept`).
    """

    bytes_read: int = 0
    fetches: int = 0
    fetched_bytes: int = 0
    received_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.bytes_read + other.bytes_read,
            self.fetches + other.fetches,
            self.fetched_bytes + other.fetched_bytes,
            self.received_bytes + other.received_bytes,
        )


NOTHING = Cost()
"""What was not read took."""


def chunks_along(start: Any, stop: Any, edge_px: Any) -> Any:
    """Chunks of ``edge_px`` that hold pixels of [start, stop) along one axis; numbers or arrays."""
    return (stop - 1) // edge_px - start // edge_px + 1


def chunks_under(rows: slice, columns: slice, chunk_px: tuple[int, int]) -> int:
    """Chunks of (rows, columns) pixels that a cut touches."""
    down = chunks_along(rows.start, rows.stop, chunk_px[0])
    across = chunks_along(columns.start, columns.stop, chunk_px[1])
    return int(down * across)


class MeteredPool(ThreadPoolExecutor):
    """A pool of threads that adds up the processor time of what it runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cpu_s = 0.0
        self._adding = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As of any pool."""
        return super().submit(partial(self._timed, fn), *args, **kwargs)

    def _timed(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        try:
            return fn(*args, **kwargs)
        finally:
            taken = time.thread_time() - start
            with self._adding:
                self.cpu_s += taken
