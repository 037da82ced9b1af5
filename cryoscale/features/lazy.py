"""The stack's few dealings with dask: is it lazy, read it, and map a function over chunks with a halo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array
import numpy as np
from numpy.typing import NDArray

# Dask annotates only some of its functions, and strict type checking refuses calls of the others.
_dask: Any = dask
_da: Any = dask.array


def is_lazy(data: object) -> bool:
    """Whether an array is dask's."""
    return isinstance(data, dask.array.Array)


def read(arrays: list[Any]) -> list[NDArray[Any]]:
    """The values of some arrays (lazy or not, nested or not), read in one go."""
    values: list[NDArray[Any]] = _dask.compute(*arrays)
    return values


def map_with_halo(
    function: Callable[..., NDArray[np.float32]], arrays: Sequence[Any], *, planes: int, halo_px: int
) -> Any:
    """A lazy array (planes, y, x) of ``function`` over each chunk of ``arrays`` (y, x) with its halo.

    The halo is cut off afterwards. The chunks are those of the first lazy array; at the rim of the
    data there is no halo, so that ``function`` sees the data end where they do.
    """
    first = next(array for array in arrays if is_lazy(array))
    # A strip no wider than the halo is one chunk; dask has no halo wider than the array.
    narrow = [size <= halo_px for size in first.shape]
    depth = {axis: 0 if narrow[axis] else halo_px for axis in (0, 1)}
    chunks = tuple((first.shape[axis],) if narrow[axis] else first.chunks[axis] for axis in (0, 1))
    aligned = [
        array.rechunk(chunks) if is_lazy(array) else _da.from_array(array, chunks=chunks) for array in arrays
    ]
    wide = [_da.overlap.overlap(array, depth=depth, boundary="none") for array in aligned]
    filled = _da.map_blocks(
        function,
        *wide,
        new_axis=0,
        chunks=((planes,), *wide[0].chunks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
        name="features-" + _dask.base.tokenize(function, *wide),
    )
    return _da.overlap.trim_internal(filled, {0: 0, 1: depth[0], 2: depth[1]}, boundary="none")
