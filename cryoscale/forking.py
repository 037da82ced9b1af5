"""Workers of this machine as forks of one process that has imported what they need.

A worker that is an interpreter of its own spends four processor seconds on importing Dask, xarray, GDAL and
torch, each worker anew and after the catalogues have been searched. Forked, all of them together cost that
once, in a process that imports while the run is still being prepared, and they share its memory. What forks
must have neither threads of its own nor a CUDA context: its libraries are told to start none, and workers
that drive GPUs are interpreters of their own as before.

How a fork server works: https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

from cryoscale.crew import SINGLE
from cryoscale.settings import ClusterSpec

_IMPORTED = [
    "cryoscale.collecting",  # first, since it makes the others quicker
    *("cryoscale.cli", "distributed", "distributed.nanny", "cryoscale.leaving", "cryoscale.featurise"),
    "dask.array",  # which xarray imports as soon as it holds an array
]
_WITH_ACTORS = ["cryoscale.blocktask", "cryoscale.infer.actor", "cryoscale.models.loading"]
_WITH_NETWORKS = ["torch", "cryoscale.models.predictor"]


def method(spec: ClusterSpec) -> str:
    """How Dask is to start the workers: ``forkserver``, or ``spawn`` where forking is not safe.

    Apple's libraries do not survive a fork, and CUDA does not either: a GPU's workers are left alone.
    """
    return "forkserver" if sys.platform == "linux" and not spec.gpu_workers else "spawn"


def import_ahead(spec: ClusterSpec, *, actors: bool = True, networks: bool = True) -> None:
    """Have what workers of this machine need imported meanwhile; returns at once.

    Nothing happens where workers are not forked here, or where this process has its fork server by now.

    Args:
        spec: of the cluster to come.
        actors: whether models are to be held.
        networks: whether torch is needed for them.
    """
    if spec.kind != "local" or method(spec) == "spawn":
        return
    more = [*(_WITH_ACTORS if actors else []), *(_WITH_NETWORKS if actors and networks else [])]
    multiprocessing.set_forkserver_preload([*_IMPORTED, *more])
    # the server lives as long as this process: it gets the environment of its workers, and what lies in the
    # current folder is not for it, for which an interpreter that is given commands looks first
    told = {**SINGLE, "PYTHONSAFEPATH": "1"}
    with restored(told):
        os.environ.update(told)
        forkserver.ensure_running()


@contextmanager
def restored(names: Iterable[str]) -> Iterator[None]:
    """Variables of this process's environment have their former values again after the body."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
