"""Blending of overlapping tiles under a Hann window, and how far the tiles disagree.

A running weighted mean is kept instead of sums: it never leaves the range of its inputs by more
than rounding, a constant comes out exactly as it went in for every overlap, and its second moment
does not cancel in float32 as a difference of sums would. Source: West (1979), "Updating mean and
variance estimates: an improved method", https://doi.org/10.1145/359146.359153.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cryoscale.kernel import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cryoscale.grid import Window


@lru_cache(maxsize=16)
def hann(tile_px: int) -> NDArray[np.float32]:
    """Weights (tile_px,) of a tile along one axis: ``sin^2(pi (i + 0.5) / tile_px)``.

    Sampled at pixel centres, so that no weight is zero and that two tiles at 50 % overlap sum to
    one. The weight of a pixel is the product of those of its row and of its column.
    """
    position = (np.arange(tile_px) + 0.5) / tile_px
    weights = (np.sin(np.pi * position) ** 2).astype(np.float32)
    weights.flags.writeable = False
    return weights


@kernel
def _accumulate(
    tile: NDArray[np.float32],
    weights: NDArray[np.float32],
    at: tuple[int, int],
    total: NDArray[np.float32],
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> None:
    """Fold a tile (k, s, s) that lies ``at`` (y, x) into total (h, w), mean (k, h, w) and spread (h, w).

    Takes whole arrays and cuts by index, since numba makes vector code only of what is contiguous.
    """
    top, left = at
    height, width = total.shape
    first_x, last_x = max(left, 0), min(left + tile.shape[2], width)
    count = max(last_x - first_x, 0)
    weight_x = weights[first_x - left : first_x - left + count]
    weight, share = np.empty(count, np.float32), np.empty(count, np.float32)
    for y in range(max(top, 0), min(top + tile.shape[1], height)):
        total_row, spread_row = total[y, first_x:last_x], spread[y, first_x:last_x]
        for x in range(count):
            weight[x] = weights[y - top] * weight_x[x]
            total_row[x] += weight[x]
            share[x] = weight[x] / total_row[x]
        for k in range(tile.shape[0]):
            tile_row = tile[k, y - top, first_x - left : first_x - left + count]
            mean_row = mean[k, y, first_x:last_x]
            for x in range(count):
                before = tile_row[x] - mean_row[x]
                after = mean_row[x] + share[x] * before
                mean_row[x] = after
                spread_row[x] += weight[x] * before * (tile_row[x] - after)


class Blender:
    """Running Hann-weighted mean of tiles over the pixels of one window, and of nothing more.

    Tiles have to come in one order of the world (rows, then columns): then every pixel sums its
    tiles in the same order whatever the window, and the result is the same to the last bit.
    """

    def __init__(self, window: Window, classes: int, tile_px: int) -> None:
        self.window, self.classes = window, classes
        self._tile_px = tile_px
        self._mean = np.zeros((classes, *window.shape), np.float32)
        self._total = np.zeros(window.shape, np.float32)
        self._spread = np.zeros(window.shape, np.float32)

    def add(self, tile: NDArray[np.float32], row: int, col: int) -> None:
        """Fold in a tile (k, tile_px, tile_px) whose upper left corner is world pixel (row, col)."""
        at = row - self.window.row, col - self.window.col
        _accumulate(tile, hann(self._tile_px), at, self._total, self._mean, self._spread)

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean (k, y, x) and disagreement (y, x), NaN where no tile has come; ends the blending.

        Disagreement is the root of the weighted variance of the tiles on a pixel, summed over the
        classes: 0 where all tiles agree, in [0, 1] for probabilities.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            disagreement = np.sqrt(np.maximum(self._spread / self._total, 0.0))
        self._mean[:, self._total == 0.0] = np.nan
        return self._mean, disagreement
