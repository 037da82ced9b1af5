"""Water of a glacierised range: ponds on debris, tarns in hollows, lakes behind moraine dams.

All functions change a :class:`Ground` in place; every piece of water ends flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.simulate.landscape import flood_order
from cryoscale.simulate.noise import F32, coarsen, fractal, refine

Mask = NDArray[np.bool_]


@dataclass
class Ground:
    """The fine arrays (y, x) that the lakes change as they are dug."""

    bed: F32
    elevation: F32
    ice: Mask
    debris: F32
    water: Mask


def drop_small(mask: Mask, least_px: int) -> Mask:
    """``mask`` without its 4-connected pieces of fewer than ``least_px`` pixels."""
    label, count = ndimage.label(mask)
    sizes = np.bincount(label.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray((sizes >= least_px)[label], bool)


def hummocks(ground: Ground, seed: int) -> None:
    """Roughen the debris-covered ice in place, and flood its hollows with ponds where it is flat."""
    key = int(np.random.default_rng([seed, 33]).integers(1 << 20))
    shape = ground.bed.shape
    smooth = ndimage.gaussian_filter(ground.elevation, 6.0)
    dy, dx = np.gradient(smooth, np.float32(10.0))
    flat = np.hypot(dx, dy) < 0.17
    relief = fractal((shape[0], shape[1]), 11.0, 3, key)
    hilly = np.clip(ground.debris / 0.25, 0.0, 1.0) * ground.ice
    ground.elevation += (2.5 * hilly * relief).astype(np.float32)
    inside = ndimage.binary_erosion(ground.ice, iterations=3)
    where = inside & flat & (ground.debris > 0.06)
    if where.sum() < 60:
        return
    low = relief + 0.8 * fractal((shape[0], shape[1]), 45.0, 2, key + 4)
    ponds = drop_small(where & (low < np.quantile(low[where], 0.045)), 5)
    _level(ground, ponds)


def _level(ground: Ground, ponds: Mask) -> None:
    """Make each piece of ``ponds`` water, flat at the lowest height inside and around it."""
    label, _ = ndimage.label(ponds, structure=np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(label), start=1):
        grown = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        part = label[grown] == number
        rim = ndimage.binary_dilation(part, structure=np.ones((3, 3)))
        ground.elevation[grown][part] = ground.elevation[grown][rim].min()
    ground.water |= ponds


def flood_hollows(ground: Ground, seed: int) -> None:
    """Fill the closed hollows of the ground in place: deep ones hold tarns, shallow ones sediment."""
    rows, cols = ground.bed.shape
    even = ground.elevation[: rows // 2 * 2, : cols // 2 * 2]
    coarse = coarsen(even, 2)
    sea = np.zeros(coarse.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    filled, _, _ = flood_order(coarse, sea)
    depth = filled - coarse
    dry = ~ground.ice[: coarse.shape[0] * 2 : 2, : coarse.shape[1] * 2 : 2]
    label, count = ndimage.label((depth > 0.5) & dry)
    if count == 0:
        return
    deepest = ndimage.maximum(depth, label, np.arange(count + 1))
    sizes = np.bincount(label.ravel(), minlength=count + 1)
    wet = (np.asarray(deepest) > 6.0) & (sizes > 25)
    wet[0] = False
    fine_label = np.repeat(np.repeat(label, 2, 0), 2, 1)
    fine_filled = refine(filled.astype(np.float32), 2)
    off_ice = ~ground.ice[: fine_label.shape[0], : fine_label.shape[1]]
    bed = ground.bed[: fine_label.shape[0], : fine_label.shape[1]]
    elevation = ground.elevation[: fine_label.shape[0], : fine_label.shape[1]]
    sediment = (fine_label > 0) & ~wet[fine_label] & off_ice
    bed[sediment] = np.maximum(bed[sediment], fine_filled[sediment])
    elevation[sediment] = bed[sediment]
    for number in np.flatnonzero(wet):
        level = np.float32(filled[label == number].min())
        lake = (fine_label == number) & off_ice & (bed < level)
        elevation[lake] = level
        ground.water[: lake.shape[0], : lake.shape[1]] |= lake


def proglacial_lakes(ground: Ground, number: NDArray[np.int32], seed: int) -> None:
    """Dig lakes behind moraine dams in front of some termini, in place, where the forefield is gentle."""
    rng = np.random.default_rng([seed, 34])
    key = int(rng.integers(1 << 20))
    step = 4
    rows, cols = (s // step * step for s in ground.bed.shape)
    coarse = coarsen(ground.elevation[:rows, :cols], step)
    sea = np.zeros(coarse.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    _, receiver, _ = flood_order(coarse, sea)
    found = []
    sizes = np.bincount(number.ravel())
    for glacier in np.flatnonzero(sizes >= 3000):
        if glacier == 0:
            continue
        path = _forefield(ground, number, int(glacier), receiver, coarse.shape[1])
        if len(path) >= 5:
            found.append((len(path) * float(rng.uniform(0.5, 1.0)), int(glacier), path))
    found.sort(reverse=True)
    wanted = max(1, round(ground.bed.size / 250_000))
    shore = fractal((ground.bed.shape[0], ground.bed.shape[1]), 20.0, 3, key)
    dug = sum(
        _dig(ground, path, 80.0 + float(rng.uniform(30.0, 160.0)), shore) for _, _, path in found[:wanted]
    )
    if dug == 0:
        _dig(ground, _flattest(ground), 90.0, shore, dam_m=0.5)


def _flattest(ground: Ground) -> list[tuple[int, int]]:
    """Where a tarn fits best: three pixels along the flattest ice-free ground, well inside the frame."""
    smooth = ndimage.gaussian_filter(ground.elevation, 8.0)
    dy, dx = np.gradient(smooth, np.float32(10.0))
    cost = np.hypot(dx, dy) + 2.0 * ndimage.gaussian_filter(ground.ice.astype(np.float32), 6.0)
    cost[:24] = cost[-24:] = np.inf
    cost[:, :24] = cost[:, -24:] = np.inf
    row, col = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return [(int(row), int(col) - 4), (int(row), int(col)), (int(row), int(col) + 4)]


def _forefield(
    ground: Ground, number: NDArray[np.int32], glacier: int, receiver: NDArray[np.int32], coarse_cols: int
) -> list[tuple[int, int]]:
    """Fine pixels from a terminus down its valley, every 40 m, for as long as a lake could lie there."""
    where = np.flatnonzero(number == glacier)
    start = where[np.argmin(ground.elevation.ravel()[where])]
    row, col = np.unravel_index(start, number.shape)
    top = float(ground.elevation[row, col])
    path: list[tuple[int, int]] = []
    index = (int(row) // 4) * coarse_cols + int(col) // 4
    for _ in range(40):
        if index < 0 or index >= receiver.size or receiver[index] == index:
            break
        r, c = (index // coarse_cols) * 4 + 2, (index % coarse_cols) * 4 + 2
        drop = top - float(ground.elevation[r, c])
        if drop > 45.0 or len(path) >= 24:
            break
        path.append((r, c))
        index = int(receiver[index])
    return path


def _dig(
    ground: Ground, path: list[tuple[int, int]], half_width_m: float, shore: F32, *, dam_m: float = 8.0
) -> bool:
    """One lake along ``path``: flat water, cut banks, a dam at its lower end; False where none fits."""
    margin = 60
    r = [p[0] for p in path]
    c = [p[1] for p in path]
    box = (
        slice(max(min(r) - margin, 0), max(r) + margin),
        slice(max(min(c) - margin, 0), max(c) + margin),
    )
    line = np.ones(ground.bed[box].shape, bool)
    for a, b in pairwise(path):
        for t in np.linspace(0.0, 1.0, 5):
            y, x = round(a[0] + t * (b[0] - a[0])), round(a[1] + t * (b[1] - a[1]))
            line[y - box[0].start, x - box[1].start] = False
    distance = ndimage.distance_transform_edt(line) * 10.0
    ice, bed, elevation = ground.ice[box], ground.bed[box], ground.elevation[box]
    level = np.float32(min(float(elevation[~line].min()) + dam_m, float(elevation[~line].max())))
    taken = ndimage.binary_dilation(ground.water[box], iterations=3)
    lake = (distance < half_width_m * (1.0 + 0.7 * shore[box])) & ~ice & ~taken & (elevation < level + 45.0)
    lake = ndimage.binary_opening(lake, iterations=2)
    label, _ = ndimage.label(lake)
    if not lake.any():
        return False
    lake = label == np.argmax(np.bincount(label.ravel())[1:]) + 1
    if lake.sum() < 120:
        return False
    away = ndimage.distance_transform_edt(~lake).astype(np.float32) * 10.0
    inward = ndimage.distance_transform_edt(lake).astype(np.float32) * 10.0
    bank = level + 1.0 + 0.35 * away + 0.004 * away**2
    dam = level + 7.0 - 0.45 * np.abs(away - 14.0)
    land = ~lake & ~ice & ~taken
    # The dam stands where the valley would let the water out, not around the whole lake.
    open_side = ndimage.gaussian_filter((bed < level + 1.0).astype(np.float32), 4.0) > 0.2
    open_side &= land & (away < 60.0)
    bed[land] = np.minimum(bed[land], np.maximum(bank, level + 1.0)[land])
    bed[open_side] = np.maximum(bed, dam)[open_side]
    bed[lake] = level - np.minimum(1.0 + 0.2 * inward[lake], 45.0)
    elevation[land] = bed[land]
    elevation[lake] = level
    beside = ice & (away < 15.0)
    elevation[beside] = np.maximum(elevation[beside], level + 2.0)
    ground.water[box] |= lake
    return True
