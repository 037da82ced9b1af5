"""Memory that a process has freed, kept for what it needs next.

Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``, so that they hand back to the system whatever
they free. A network's activations are freed and wanted again at every tile: each time the system then has
to find and clear the pages anew, which on two cores took three times as long as the network itself.

https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

KEPT_BYTES = 2**29
"""Freed memory at the top of the heap that is kept."""

MAPPED_BYTES = 2**25
"""What is larger is mapped by itself and goes back when it is freed; the most that glibc takes."""


@cache
def keep_freed_memory() -> bool:
    """Tell the C library's allocator of this process, once; False where it cannot be told (not glibc)."""
    if sys.platform == "win32":  # no C library goes by no name there
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
