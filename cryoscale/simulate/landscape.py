"""The ground before the ice: a river-cut range, its valleys widened to troughs, and rock detail.

Rivers cut first, on a coarse grid (stream power with a threshold slope); then valleys above the
old snow line are flattened along and widened across, as glaciers of colder times would; then
noise adds what the coarse grid cannot hold.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.kernel import kernel
from cryoscale.simulate.noise import F32, fractal, refine

I32 = NDArray[np.int32]

STEEPNESS_M09 = 260.0
"""Channel steepness (U/K) for concavity 0.45: slope = 260 m^0.9 * area^-0.45, as in the High
Himalaya (Whipple & Tucker 1999, https://doi.org/10.1029/1999JB900120, for the form of the law)."""

THRESHOLD_SLOPE = 0.8
"""Slope at which fluvial hillsides fail; rock walls above troughs become steeper than this."""


@kernel
def flood_order(z: F32, sea: NDArray[np.bool_]) -> tuple[F32, I32, I32]:
    """Depression-filled surface, receivers and upward order of all cells, flooding from ``sea``.

    Receivers (flat index) follow the steepest descent of the filled surface. The order visits
    every receiver before its donors. Source: Barnes et al. 2014, https://doi.org/10.1016/j.cageo.2013.04.024.
    """
    rows, cols = z.shape
    filled = z.copy()
    done = np.zeros((rows, cols), np.bool_)
    order = np.empty(rows * cols, np.int32)
    receiver = np.empty(rows * cols, np.int32)
    heap = [(np.float32(0.0), np.int32(0))]
    heap.pop()
    for r in range(rows):
        for c in range(cols):
            receiver[r * cols + c] = r * cols + c
            if sea[r, c]:
                done[r, c] = True
                heapq.heappush(heap, (z[r, c], np.int32(r * cols + c)))
    count = 0
    while len(heap) > 0:
        level, index = heapq.heappop(heap)
        order[count] = index
        count += 1
        r, c = index // cols, index % cols
        for dr in range(-1, 2):
            for dc in range(-1, 2):
                j, i = r + dr, c + dc
                if j < 0 or i < 0 or j >= rows or i >= cols or done[j, i]:
                    continue
                done[j, i] = True
                filled[j, i] = max(z[j, i], level + np.float32(0.01))
                receiver[j * cols + i] = index
                heapq.heappush(heap, (filled[j, i], np.int32(j * cols + i)))
    for r in range(rows):
        for c in range(cols):
            if sea[r, c]:
                continue
            best = np.float32(0.0)
            for dr in range(-1, 2):
                for dc in range(-1, 2):
                    j, i = r + dr, c + dc
                    if (dr == 0 and dc == 0) or j < 0 or i < 0 or j >= rows or i >= cols:
                        continue
                    drop = (filled[r, c] - filled[j, i]) / np.float32(np.sqrt(dr * dr + dc * dc))
                    if drop > best:
                        best = drop
                        receiver[r * cols + c] = j * cols + i
    return filled, receiver, order[:count]


@kernel
def drained_area(receiver: I32, order: I32, cell_m2: float) -> NDArray[np.float64]:
    """Upstream area of every cell (flat), in m2, along ``receiver``."""
    area = np.full(receiver.size, cell_m2)
    for k in range(order.size - 1, -1, -1):
        i = order[k]
        if receiver[i] != i:
            area[receiver[i]] += area[i]
    return area


@kernel
def _erode(z: F32, receiver: I32, order: I32, steepness: F32, step_m: float, cell_m: float) -> None:
    """One implicit step of stream power under unit uplift ``step_m``, in place (Braun & Willett 2013)."""
    cols = z.shape[1]
    area = drained_area(receiver, order, cell_m * cell_m)
    flat, ks = z.ravel(), steepness.ravel()
    for k in range(order.size):
        i = order[k]
        j = receiver[i]
        if j == i:
            continue
        diagonal = (i // cols != j // cols) and (i % cols != j % cols)
        distance = cell_m * (1.4142135 if diagonal else 1.0)
        raised = flat[i] + step_m
        if raised > flat[j]:
            factor = step_m / ks[i] * area[i] ** 0.45 / distance
            raised = (raised + factor * flat[j]) / (1.0 + factor)
            raised = min(raised, flat[j] + THRESHOLD_SLOPE * distance)
        flat[i] = raised


def river_cut(shape: tuple[int, int], cell_m: float, seed: int) -> F32:
    """A range (y, x), in metres above its lowest valley, cut by rivers that leave north and south."""
    rng = np.random.default_rng([seed, 11])
    rows, cols = shape
    sea = np.zeros(shape, bool)
    for edge in (0, rows - 1):
        # A few gates, not the whole edge: valleys then join before they leave, as branches do.
        spacing = 5200.0 / cell_m
        at = rng.uniform(0.2, 0.8) * spacing
        while at < cols:
            sea[edge, min(int(at), cols - 1)] = True
            at += spacing * rng.uniform(0.65, 1.45)
    key = int(rng.integers(1 << 20))
    z = (40.0 * fractal(shape, 2500.0 / cell_m, 5, key, gain=0.6)).astype(np.float32)
    north_south = np.linspace(-1.0, 1.0, rows, dtype=np.float32)[:, None]
    z += 60.0 * (1.0 - north_south**2)
    z += rng.uniform(0.0, 8.0, shape).astype(np.float32)
    steepness = STEEPNESS_M09 * np.exp(0.7 * fractal(shape, 5000.0 / cell_m, 3, key + 1)).astype(np.float32)
    for _ in range(45):
        _, receiver, order = flood_order(z, sea)
        _erode(z, receiver, order, steepness, 75.0, cell_m)
    return np.asarray(z - z.min(), np.float32)


def to_heights(z: F32, *, most_stretch: float = 1.3) -> F32:
    """Heights (y, x) of the High Himalaya: 3 % below 3850 m, 80 % below 5700 m, summits under 7150 m.

    Where the world is too small for such relief the stretch stops at ``most_stretch`` and the
    valleys stay higher: steeper walls would look wrong and hold no ice.
    """
    low, crest = np.quantile(z, [0.03, 0.8])
    stretch = min(1850.0 / (crest - low), most_stretch)
    out = 5700.0 + (z - crest) * stretch
    # Linear, not saturating: summits must stay pointed.
    knee = 6100.0
    squeeze = min(1.0, (7150.0 - knee) / (float(out.max()) - knee))
    return np.asarray(np.where(out > knee, knee + (out - knee) * squeeze, out), np.float32)


@kernel
def _profile(z: F32, receiver: I32, order: I32, area: NDArray[np.float64], gentle: F32) -> F32:
    """Channel heights (y, x), the long profile flattened by the factor ``gentle``; inf off channels."""
    cols = z.shape[1]
    out = np.full(z.size, np.float32(np.inf), np.float32)
    flat, factor = z.ravel(), gentle.ravel()
    for k in range(order.size):
        i = order[k]
        if area[i] < 2.0e5:
            continue
        j = receiver[i]
        if j == i or not np.isfinite(out[j]):
            out[i] = flat[i]
        else:
            out[i] = min(flat[i], out[j] + max(flat[i] - flat[j], np.float32(0.05)) * factor[i])
    return out.reshape(z.shape[0], cols)


@kernel
def _carve(z: F32, channel: F32, area: NDArray[np.float64], width: F32, cell_m: float) -> F32:
    """``z`` lowered to U-shaped cross-sections stamped along the channels."""
    rows, cols = z.shape
    out = z.copy()
    for r in range(rows):
        for c in range(cols):
            if not np.isfinite(channel[r, c]):
                continue
            half = width[r, c] * 210.0 * (area[r * cols + c] / 1.0e6) ** 0.27
            reach = int((half + 620.0) / cell_m)
            for j in range(max(r - reach, 0), min(r + reach + 1, rows)):
                for i in range(max(c - reach, 0), min(c + reach + 1, cols)):
                    d = cell_m * np.sqrt(float((j - r) ** 2 + (i - c) ** 2))
                    x = d / half
                    wall = 22.0 * x * x + 1.15 * max(0.0, d - 0.85 * half)
                    level = channel[r, c] + wall
                    if level < out[j, i]:
                        out[j, i] = level
    return out


def glaciate(z: F32, cell_m: float, seed: int, snow_line_m: float) -> F32:
    """Troughs and cirques for V-valleys: gentle, stepped floors above the cold times' ``snow_line_m``."""
    key = int(np.random.default_rng([seed, 12]).integers(1 << 20))
    sea = np.zeros(z.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    _, receiver, order = flood_order(z, sea)
    area = drained_area(receiver, order, cell_m * cell_m)
    cold = 1.0 / (1.0 + np.exp(-(z - snow_line_m) / 150.0))
    steps = 0.62 + 1.1 * fractal(z.shape, 1500.0 / cell_m, 3, key)
    gentle = np.clip(1.0 + cold * (steps - 1.0), 0.12, 1.0).astype(np.float32)
    channel = _profile(z, receiver, order, area, gentle)
    width = (0.30 + 0.70 * cold) * np.exp(0.5 * fractal(z.shape, 2200.0 / cell_m, 2, key + 3))
    carved = _carve(z, channel, area, width.astype(np.float32), cell_m)
    # Floors are smoothed (till, gravel), walls keep their edges.
    smooth = ndimage.gaussian_filter(carved, 1.2)
    blend = np.clip((z - carved) / 60.0, 0.0, 1.0)
    return np.asarray(carved + (0.35 + 0.65 * blend) * (smooth - carved), np.float32)


def _gullies(z: F32, pixel_m: float) -> F32:
    """Depth (m) of gullies down the fall line of steep ground, between ribs of rock."""
    sea = np.zeros(z.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    _, receiver, order = flood_order(z, sea)
    area = drained_area(receiver, order, pixel_m * pixel_m).reshape(z.shape)
    depth = 1.0 - np.exp(-np.sqrt(area / 2.5e4))
    # What drains a whole valley is a river on its floor and no gully.
    depth *= 1.0 / (1.0 + (area / 5.0e5) ** 2)
    return np.asarray(ndimage.gaussian_filter(depth.astype(np.float32), 0.9), np.float32)


def add_detail(z: F32, factor: int, pixel_m: float, seed: int) -> F32:
    """The ground (y, x) ``factor`` times finer, with spurs, gullies and blocks that scale with slope."""
    key = int(np.random.default_rng([seed, 13]).integers(1 << 20))
    half = factor // 2
    shape = (z.shape[0] * half, z.shape[1] * half)
    cell_m = 2.0 * pixel_m
    # Bending the coarse grid by a smooth displacement hides its eight flow directions.
    warp = [
        fractal(shape, 900.0 / cell_m, 3, key + k, gain=0.55) * np.float32(130.0 / cell_m) for k in (0, 1)
    ]
    base = refine(z, half, (warp[0], warp[1]))
    dy, dx = np.gradient(base, np.float32(cell_m))
    slope = ndimage.gaussian_filter(np.hypot(dx, dy), 60.0 / cell_m)
    rough = np.clip((slope - 0.18) / 0.6, 0.04, 1.0).astype(np.float32)
    base += rough * 60.0 * (fractal(shape, 700.0 / cell_m, 4, key + 5, gain=0.45, ridged=True) - 0.9)
    base -= rough * 34.0 * _gullies(base, cell_m)
    fine = refine(base, 2)
    craggy = refine(np.clip(rough, 0.08, 1.0), 2)
    fine += craggy * 8.0 * fractal(fine.shape, 90.0 / pixel_m, 3, key + 6)
    fine += craggy**2 * 16.0 * (fractal(fine.shape, 190.0 / pixel_m, 3, key + 9, ridged=True) - 0.8)
    return fine
