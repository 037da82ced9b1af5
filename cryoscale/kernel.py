"""The one way in which loops over pixels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])


def kernel(function: _Function) -> _Function:
    """Compile a loop over a block with numba: cached on disk, free of the GIL, on one thread.

    Blocks are the unit of parallel work, so a kernel never starts threads of its own. Fast-math stays
    off: it would let sums be reordered, and a pixel must not depend on where its block begins.
    """
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:
        # A container with a read-only image and no home has nowhere to cache; numba then refuses to
        # decorate at all, and a worker could not even import. Compiling costs some seconds a process.
        return cast(_Function, numba.njit(nogil=True, error_model="numpy")(function))
