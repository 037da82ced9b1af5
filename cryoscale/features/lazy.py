"""The stack's few dealings with dask: is it lazy, read it, and map a function over chunks with a halo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_lazy(data: object) -> bool:
    """Whether an array is dask's."""
    # Who holds none has no need of the module, whose import takes every worker a quarter of a second.
    loaded = sys.modules.get("dask.array")
    return loaded is not None and isinstance(data, loaded.Array)


def read(arrays: list[Any]) -> list[NDArray[Any]]:
    """The values of some arrays (lazy or not, nested or not), read in one go."""
    from dask.base import compute

    values: list[NDArray[Any]] = compute(*arrays)  # type: ignore[no-untyped-call]
    return values


def map_with_halo(
    function: Callable[..., NDArray[np.float32]], arrays: Sequence[Any], *, planes: int, halo_px: int
) -> Any:
    """A lazy array (planes, y, x) of ``function`` over each chunk of ``arrays`` (y, x) with its halo.

    The halo is cut off afterwards. The chunks are those of the first lazy array; at the rim of the
    data there is no halo, so that ``function`` sees the data end where they do.
    """
    import dask.base

    da: Any = sys.modules["dask.array"]  # a lazy array is here, so it is
    tokenize: Any = dask.base.tokenize
    first = next(array for array in arrays if is_lazy(array))
    # A strip no wider than the halo is one chunk; dask has no halo wider than the array.
    narrow = [size <= halo_px for size in first.shape]
    depth = {axis: 0 if narrow[axis] else halo_px for axis in (0, 1)}
    chunks = tuple((first.shape[axis],) if narrow[axis] else first.chunks[axis] for axis in (0, 1))
    aligned = [
        array.rechunk(chunks) if is_lazy(array) else da.from_array(array, chunks=chunks) for array in arrays
    ]
    wide = [da.overlap.overlap(array, depth=depth, boundary="none") for array in aligned]
    filled = da.map_blocks(
        function,
        *wide,
        new_axis=0,
        chunks=((planes,), *wide[0].chunks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
        name="features-" + tokenize(function, *wide),
    )
    return da.overlap.trim_internal(filled, {0: 0, 1: depth[0], 2: depth[1]}, boundary="none")
