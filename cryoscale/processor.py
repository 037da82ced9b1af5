"""Processor seconds of one task among several in a process, Zarr's own threads included."""

from __future__ import annotations

import threading
import time

_ZARR = ("zarr", "asyncio")
"""How the threads are named in which Zarr encodes and writes."""


def cpu_s() -> float:
    """Processor seconds so far of the calling thread and of the threads that Zarr writes in.

    Differences are a task's own, but for what two tasks write in the same instant, which both count. Seconds
    of a pool of the task's own are not in it. Where a platform does not tell of other threads, only the
    caller's are.
    """
    total = time.thread_time()
    if hasattr(time, "pthread_getcpuclockid"):
        for thread in threading.enumerate():
            if thread.name.startswith(_ZARR) and thread.ident is not None and thread.is_alive():
                try:
                    total += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
                except OSError:
                    continue  # it ended in between
    return total
