"""Coarser levels of a map, for viewing: each pixel stands for 2 x 2 of the level below.

Probabilities, confidence and disagreement are means over the valid pixels, and the label is the
class of the largest mean probability, so that a level is again a map of the same kind. A level's
pixels lie on multiples of their own size from the zone's origin, since blocks do. Memory stays
bounded: a level is made shard by shard, from at most 2 x 2 shards of the one below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cryoscale.crew import Each
from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.write.store import (
    COMPRESSOR,
    consolidate,
    create_axes,
    geo_attributes,
    inner_chunk_px,
    level_name,
    multiscale_attributes,
    open_store,
)

_NODATA = 255
_AVERAGED = ("confidence", "disagreement")
_SMALLEST_PX = 256
"""No further level where the longer edge is at most this many pixels: one chunk shows it all."""


def build_levels(store_url: str | os.PathLike[str], year: int, epsg: int, each: Each = map) -> list[int]:
    """Writes the coarser levels of one zone's map as sub-groups ``x2``, ``x4``, …; repeats replace them.

    Args:
        store_url: the store of the run's maps.
        year: the year mapped.
        epsg: the zone's EPSG code.
        each: by what the shards of a level are filled, see :class:`cryoscale.crew.Crew`.

    Returns:
        The factors of the levels, finest first, without 1.
    """
    store, path = open_store(store_url), f"{year}/{epsg}"
    base = zarr.open_group(store, path=path, mode="r+", use_consolidated=False)
    attributes: dict[str, Any] = base.attrs.asdict()
    window, block_px = Window(epsg, *attributes["cryoscale:window"]), int(attributes["cryoscale:block_px"])
    factors, finer = _factors(window, block_px), path
    for factor in factors:
        _create_level(base, window, factor, block_px)
        level = f"{path}/{level_name(factor)}"
        shape = window.height // factor, window.width // factor
        for _ in each(_Filling(os.fspath(store_url), finer, level), _shards(shape, block_px)):
            pass
        finer = level
    base.update_attributes(geo_attributes(window) | multiscale_attributes(window, [1, *factors]))
    consolidate(store)
    return factors


def halve_probability(probability: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Means of 2 x 2 pixels of ``(class, 2y, 2x)`` u1 probabilities, and the classes that win.

    Returns:
        probability ``(class, y, x)`` u1 and label ``(y, x)`` u1, both 255 where none of the four
        pixels is valid. The label is decided on the exact sums, before rounding.
    """
    classes = probability.shape[0]
    height, width = probability.shape[1] // 2, probability.shape[2] // 2
    best = np.full((height, width), -1, np.int32)
    label = np.full((height, width), _NODATA, np.uint8)
    mean = np.empty((classes, height, width), np.uint8)
    for index in range(classes):
        total, count = _sums(probability[index])
        mean[index] = _rounded(total, count)
        wins = (total.astype(np.int32) > best) & (count > 0)
        best[wins], label[wins] = total[wins], index
    return mean, label


def halve_mean(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of the valid among 2 x 2 pixels of a ``(2y, 2x)`` u1 array; 255 where none is valid."""
    return _rounded(*_sums(values))


def _sums(values: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    total = np.zeros((values.shape[0] // 2, values.shape[1] // 2), np.uint16)
    count = np.zeros_like(total)
    for dy, dx in product((0, 1), repeat=2):
        part = values[dy::2, dx::2]
        valid = part != _NODATA
        total += np.where(valid, part, 0)
        count += valid
    return total, count


def _rounded(total: NDArray[np.uint16], count: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Means rounded half up, in integers so that no platform rounds otherwise."""
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, mean, _NODATA).astype(np.uint8)


def _factors(window: Window, block_px: int) -> list[int]:
    factors, factor = [], 2
    while block_px % factor == 0 and max(window.shape) > _SMALLEST_PX * factor // 2:
        factors.append(factor)
        factor *= 2
    return factors


def _create_level(base: zarr.Group, window: Window, factor: int, block_px: int) -> None:
    level = base.create_group(level_name(factor), overwrite=True)
    shape, chunk_px = (window.height // factor, window.width // factor), inner_chunk_px(block_px)
    for name in ("probability", "label", *_AVERAGED):
        finest = base[name]
        assert isinstance(finest, zarr.Array)
        leading = finest.shape[:-2]
        level.create_array(
            name,
            shape=(*leading, *shape),
            dtype="uint8",
            chunks=(*(1 for _ in leading), chunk_px, chunk_px),
            shards=(*leading, block_px, block_px),
            compressors=COMPRESSOR,
            fill_value=_NODATA,
            dimension_names=("class", "y", "x")[-finest.ndim :],
            attributes=dict(finest.attrs),
            overwrite=True,
        )
    pixel_m = RESOLUTION_M * factor
    west, _, _, north = window.bounds_m
    y: NDArray[np.float64] = north - (np.arange(shape[0], dtype=np.float64) + 0.5) * pixel_m
    x: NDArray[np.float64] = west + (np.arange(shape[1], dtype=np.float64) + 0.5) * pixel_m
    create_axes(level, y, x, window.epsg)
    names = base["class"]
    assert isinstance(names, zarr.Array)
    copy = level.create_array("class", shape=names.shape, dtype="str", dimension_names=("class",))
    copy[:] = names[:]
    level.update_attributes(geo_attributes(window, factor))


def _shards(shape: tuple[int, int], block_px: int) -> Iterator[tuple[slice, slice]]:
    for row, col in product(range(0, shape[0], block_px), range(0, shape[1], block_px)):
        yield slice(row, min(row + block_px, shape[0])), slice(col, min(col + block_px, shape[1]))


@dataclass(frozen=True)
class _Filling:
    """Rows and columns of a shard, which it fills from the level below.

    Attributes:
        store_url: the store of both.
        finer: where in it the level below is.
        level: where the shard's own is.
    """

    store_url: str
    finer: str
    level: str

    @cached_property
    def _groups(self) -> tuple[zarr.Group, zarr.Group]:
        store = open_store(self.store_url)
        finer, level = (
            zarr.open_group(store, path=path, mode="r+", use_consolidated=False)
            for path in (self.finer, self.level)
        )
        return finer, level

    def __call__(self, shard: tuple[slice, slice]) -> None:
        y, x = shard
        finer, level = self._groups
        source = (slice(2 * y.start, 2 * y.stop), slice(2 * x.start, 2 * x.stop))
        if (_read(finer, "label", source) == _NODATA).all():
            return  # most of a zone's rectangle, where a range is a band across it
        probability, label = halve_probability(_read(finer, "probability", source))
        _write(level, "probability", shard, probability)
        _write(level, "label", shard, label)
        for name in _AVERAGED:
            _write(level, name, shard, halve_mean(_read(finer, name, source)))


def _read(group: zarr.Group, name: str, part: tuple[slice, slice]) -> NDArray[np.uint8]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[(..., *part)], dtype=np.uint8)


def _write(group: zarr.Group, name: str, part: tuple[slice, slice], values: NDArray[np.uint8]) -> None:
    array = group[name]
    assert isinstance(array, zarr.Array)
    array[(..., *part)] = values
