"""The process that a run's own workers are forked from, with everything imported that they need.

A fresh Python imports torch, numba, GDAL and Dask for two to three processor seconds; on two cores the four
workers of a run spent most of its first ten seconds so. Forked from a template they start with it all there,
and share its memory. The template opens no device and has no thread beside its own but that of Arrow's
allocator, which minds forks, so that forking it is safe
(https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods). Its imports begin with
:func:`start`, while the driver still searches the catalogues.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Numerical libraries would otherwise start a thread a core in every process; they look when imported."""

METHOD = "forkserver"
_CONTENT = "cryoscale.preloaded"


def start_method() -> dict[str, Any]:
    """Dask's configuration that makes its nannies fork the template; empty where Python cannot."""
    if METHOD not in multiprocessing.get_all_start_methods():  # Windows
        return {}
    return {"distributed.worker.multiprocessing-method": METHOD}


def start() -> None:
    """Start the template, unless it is there; returns at once."""
    method = start_method()
    if not method:
        return
    from multiprocessing import forkserver

    import dask
    from distributed.utils import get_mp_context

    with dask.config.set(method):
        get_mp_context()  # at its first call it names what to import: hence before we do
    multiprocessing.get_context(METHOD).set_forkserver_preload([_CONTENT])
    forkserver.ensure_running()
