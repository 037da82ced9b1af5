"""Arrays handed from one process to another of the same machine without being sent.

A block of 2048 pixels with its halo is 320 MB in bf16, and a loopback connection between two workers of Dask
carries some 0.5 to 2 GB/s (``python -m benchmarks.wire``), against the 3.3 GB/s that a GPU at 3,000 tiles/s
takes. So the sender fills memory that has a name in no file system
(https://man7.org/linux/man-pages/man2/memfd_create.2.html) and tells where it lies, and the other process
maps it. Whichever of the two is killed, nothing is left behind: the kernel frees the memory with the last
process that has it. Where that cannot be (another machine or container, another system) arrays are sent as
ever.

Numbers of processes and files are those of one machine, and on another they may stand for something else: so
the memory begins with a token that was drawn for it.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Handed:
    """Where an array lies.

    Attributes:
        process: whose memory it is in.
        file: number of the file, in that process, which stands for the memory.
        token: what the memory begins with; the array follows on the next page.
        shape: of the array.
        dtype: of the array, as numpy writes it.
    """

    process: int
    file: int
    token: bytes
    shape: tuple[int, ...]
    dtype: str

    def taken(self) -> NDArray[Any]:
        """The array where it lies, read-only.

        Raises:
            OSError: it cannot be reached from here, or is not what was handed over.
        """
        count = int(np.prod(self.shape))
        size = mmap.PAGESIZE + count * np.dtype(self.dtype).itemsize
        with open(f"/proc/{self.process}/fd/{self.file}", "rb") as file:
            if os.fstat(file.fileno()).st_size < size or file.read(_TOKEN_BYTES) != self.token:
                raise OSError(f"file {self.file} of process {self.process} is another one here")
            # All pages at once: one by one they would cost a fault each.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            memory = mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ)
        return np.frombuffer(memory, self.dtype, count, mmap.PAGESIZE).reshape(self.shape)


class Lent:
    """Memory that one thread hands arrays over in, one after the other.

    It is kept, as new pages cost more than filling them; what is in it has to stay until whoever was told of
    it has done with it.
    """

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._file, self._token = -1, b""

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Handed]:
        """An array of this shape and type to be filled, and what tells another process where it is.

        Raises:
            OSError: there is no memory for it.
        """
        count = int(np.prod(shape))
        size = mmap.PAGESIZE + count * dtype.itemsize
        if self._memory is None or len(self._memory) < size:
            self.drop()
            self._file = os.memfd_create("cryoscale")
            os.ftruncate(self._file, size)
            self._memory = mmap.mmap(self._file, size)
            self._token = os.urandom(_TOKEN_BYTES)
            self._memory[:_TOKEN_BYTES] = self._token
        array = np.frombuffer(self._memory, dtype, count, mmap.PAGESIZE).reshape(shape)
        return array, Handed(os.getpid(), self._file, self._token, shape, dtype.str)

    def drop(self) -> None:
        """Let go of the memory, which lives on for whoever has mapped it."""
        if self._file >= 0:
            os.close(self._file)
        self._memory, self._file = None, -1

    def __del__(self) -> None:
        self.drop()


_OF_THREAD = threading.local()


def lent() -> Lent | None:
    """The memory of this thread; None where the system has none without a name."""
    if not hasattr(os, "memfd_create"):
        return None
    found: Lent | None = getattr(_OF_THREAD, "lent", None)
    if found is None:
        found = _OF_THREAD.lent = Lent()
    return found
