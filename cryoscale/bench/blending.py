"""Tiles blended under a Hann window with their disagreement, beside the sums of a notebook."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryoscale.bench import ground
from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import Figure, Rival
from cryoscale.bench.limits import Limits
from cryoscale.grid import Window
from cryoscale.infer.blend import Blender, hann


def measure(size_px: int, tile_px: int, overlap: float, limits: Limits) -> Figure:
    """One core over a block; limit: each tile read and its accumulators read and written, at copy speed."""
    window = ground.block_of(size_px).window
    places = ground.origins(window, tile_px, overlap)
    drawn = ground.tiles(8, tile_px)
    pixels = window.height * window.width

    def ours() -> object:
        blender = Blender(window, ground.CLASSES, tile_px)
        for number, (row, col) in enumerate(places):
            blender.add(drawn[number % len(drawn)], row, col)
        return blender.result()

    covered = sum(_overlap_px(window, row, col, tile_px) for row, col in places)
    moved = covered * 4 * (ground.CLASSES * 3 + 2 * 2)
    rival = Rival(
        "numpy sums",
        pixels / seconds(lambda: weighted_sums(drawn, places, window, tile_px)) / 1e6,
        "the mean alone, without the disagreement of the tiles",
    )
    return Figure(
        "blending",
        pixels / seconds(ours) / 1e6,
        "Mpixel/s a core",
        pixels / (moved / limits.copy_gb_s / 1e9) / 1e6,
        "every tile read, mean, weight and spread read and written for each, at copy speed",
        rival,
        {"block_px": size_px, "tile_px": tile_px, "overlap": overlap, "tiles": len(places)},
    )


def weighted_sums(
    drawn: NDArray[np.float32], places: list[tuple[int, int]], window: Window, tile_px: int
) -> NDArray[np.float32]:
    """Weighted mean (k, y, x) as a notebook would take it: a padded sum of tiles over a sum of weights."""
    weight = np.outer(hann(tile_px), hann(tile_px))
    pad = tile_px
    shape = (window.height + 2 * pad, window.width + 2 * pad)
    total, sums = np.zeros(shape, np.float32), np.zeros((drawn.shape[1], *shape), np.float32)
    for number, (row, col) in enumerate(places):
        y, x = row - window.row + pad, col - window.col + pad
        sums[:, y : y + tile_px, x : x + tile_px] += drawn[number % len(drawn)] * weight
        total[y : y + tile_px, x : x + tile_px] += weight
    inside = np.s_[pad : pad + window.height, pad : pad + window.width]
    return np.asarray(sums[(slice(None), *inside)] / total[inside], np.float32)


def _overlap_px(window: Window, row: int, col: int, tile_px: int) -> int:
    common = Window(window.epsg, row, col, tile_px, tile_px).intersect(window)
    return 0 if common is None else common.height * common.width
