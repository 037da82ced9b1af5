"""Memory of a stack that nobody holds any more, kept for the next one.

The stack of a block of 2048 pixels is half a gigabyte. The C library has memory of that size from the system,
which clears all its pages first, and gives it back as soon as it is freed: a third of the time that a stack
takes, and several times as much where free memory is in pieces. So the memory of one is kept, and the system
told that it may have the pages back whenever it is short of some (MADV_FREE,
https://man7.org/linux/man-pages/man2/madvise.2.html): nobody goes without for it.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 2**25
"""What is smaller the C library keeps itself, see :mod:`cryoscale.infer.heap`."""

_KEEPS = all(hasattr(mmap, name) for name in ("MAP_PRIVATE", "MAP_ANONYMOUS", "MADV_FREE"))

_SPARE: deque[mmap.mmap] = deque(maxlen=1)
"""What is kept. Without a lock, as memory is given back wherever the collector of garbage happens to run."""


def empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """As ``numpy.empty``, an array of float32 with anything in it; in kept memory, where there is some."""
    count = int(np.prod(shape))
    size = 4 * count
    if size < LEAST_BYTES or not _KEEPS:
        return np.empty(shape, np.float32)
    memory = _taken(size) or _mapped(size)
    # every array made of this one refers to it, so that it goes with the last of them
    flat = np.frombuffer(memory, np.float32, count)
    weakref.finalize(flat, _give_back, memory).atexit = False
    return flat.reshape(shape)


def _taken(size: int) -> mmap.mmap | None:
    """What is kept, if it has this size; of another it is let go of, for then blocks have another one."""
    try:
        found = _SPARE.pop()
    except IndexError:
        return None
    return found if len(found) == size else None


def _mapped(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # as numpy does
        with suppress(OSError):  # kernels may be built without, and sandboxes know little of it
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _give_back(memory: mmap.mmap) -> None:
    with suppress(OSError):  # what cannot be offered to the system is not kept from it
        memory.madvise(mmap.MADV_FREE)
        _SPARE.append(memory)
