"""Ice on a given bed: climate, avalanches, shallow-ice flow to a near-steady state, speed, divides.

All arrays are (y, x) on the coarse ice grid. Flow is the shallow-ice approximation with Glen's
exponent 3 and a Weertman-like sliding term.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.kernel import kernel
from cryoscale.simulate.landscape import I32, flood_order
from cryoscale.simulate.noise import F32, coarsen, fractal, refine

RATE_FACTOR = 2.4e-24 * 3.156e7
"""Glen's A in Pa^-3 a^-1 for temperate ice (Cuffey & Paterson 2010, table 3.4)."""

WEIGHT_PA_M = 900.0 * 9.81
"""Density of ice times gravity, in Pa a metre."""

SLIDING = 5.7e-20 * 3.156e7
"""Sliding parameter in m^2 Pa^-3 a^-1 (Budd et al. 1979, as commonly used in flowline models)."""


@dataclass(frozen=True)
class Climate:
    """Surface mass balance: linear in height about the equilibrium line, capped on both sides.

    The low cap stands for the insulation of thick debris, which is why Himalayan tongues reach far down.
    """

    ela_m: float
    gradient_per_yr: float = 0.0075
    most_gain_m_yr: float = 1.3
    most_loss_m_yr: float = 3.5
    shady_side: float = 1.0
    """As a regime has it: 1 where faces to the north lie in the shade, -1 where those to the south do."""


@kernel
def _settle(supply: F32, hold: F32, receiver: I32, order: I32) -> F32:
    """Snow after avalanches: every cell keeps the share ``hold`` of what falls or slides on it."""
    load = supply.copy().ravel()
    keep = hold.ravel()
    for k in range(order.size - 1, -1, -1):
        i = order[k]
        j = receiver[i]
        if j != i:
            moved = load[i] * (1.0 - keep[i])
            load[i] -= moved
            load[j] += moved
    return load.reshape(supply.shape)


def snow_transfer(bed: F32, cell_m: float, climate: Climate) -> F32:
    """Accumulation gained (+) or lost (-) by avalanching, m of ice a year."""
    dy, dx = np.gradient(bed, np.float32(cell_m))
    hold = np.clip((1.0 - np.hypot(dx, dy)) / 0.45, 0.03, 1.0).astype(np.float32)
    gain = np.clip(climate.gradient_per_yr * (bed - climate.ela_m), 0.0, climate.most_gain_m_yr)
    sea = np.zeros(bed.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    _, receiver, order = flood_order(bed, sea)
    settled = _settle(gain.astype(np.float32), hold, receiver, order)
    # A slide spreads over a fan: without it single cells would hold towers of snow.
    fan = ndimage.gaussian_filter(np.minimum(settled - gain * hold, 12.0), 80.0 / cell_m)
    return np.asarray(gain * hold + fan - gain, np.float32)


@kernel
def _diffusivity(bed: F32, thick: F32, cell_m: float, dt: float, east: F32, south: F32) -> None:
    """Ice diffusivity on the faces right of and below each cell, m2/yr, with upwind thickness.

    Upwinding keeps ice-free cells from giving ice (Jarosch et al. 2013, doi:10.5194/tc-7-229-2013).
    """
    rows, cols = bed.shape
    deform = 2.0 / 5.0 * RATE_FACTOR * WEIGHT_PA_M**3
    slide = SLIDING * WEIGHT_PA_M**3
    for r in range(1, rows - 1):
        for c in range(1, cols - 1):
            s = bed[r, c] + thick[r, c]
            for axis in range(2):
                j, i = (r, c + 1) if axis == 0 else (r + 1, c)
                t = bed[j, i] + thick[j, i]
                h = thick[r, c] if s > t else thick[j, i]
                if h <= 0.0 or j >= rows - 1 or i >= cols - 1:
                    d = 0.0
                else:
                    if axis == 0:
                        across = (
                            bed[r - 1, c]
                            + thick[r - 1, c]
                            + bed[r - 1, i]
                            + thick[r - 1, i]
                            - bed[r + 1, c]
                            - thick[r + 1, c]
                            - bed[r + 1, i]
                            - thick[r + 1, i]
                        ) / (4.0 * cell_m)
                    else:
                        across = (
                            bed[r, c - 1]
                            + thick[r, c - 1]
                            + bed[j, c - 1]
                            + thick[j, c - 1]
                            - bed[r, c + 1]
                            - thick[r, c + 1]
                            - bed[j, c + 1]
                            - thick[j, c + 1]
                        ) / (4.0 * cell_m)
                    steep = min(((t - s) / cell_m) ** 2 + across**2, 0.8)
                    d = min((deform * h**5 + slide * h**3) * steep, 3.0e6)
                    # No cell gives more than it holds in a step, or thin ice on walls would be created.
                    d = min(d, 0.5 * h * cell_m * cell_m / (dt * max(abs(t - s), 0.1)))
                if axis == 0:
                    east[r, c] = d
                else:
                    south[r, c] = d


@kernel
def _balance(surface: float, ela: float, transfer: float, rates: tuple[float, float, float]) -> float:
    gradient, gain, loss = rates
    return float(min(max(gradient * (surface - ela), -loss), gain) + transfer)


@kernel
def _step(
    bed: F32,
    thick: F32,
    climate: tuple[F32, F32, tuple[float, float, float]],
    cell_m: float,
    dt: float,
    work: F32,
) -> float:
    """One Douglas ADI step of the ice in place; the largest change in metres.

    The operator is linearised about the present state; its steady state does not depend on ``dt``.
    """
    rows, cols = bed.shape
    ela, transfer, rates = climate
    east, south, delta, upper = work[0], work[1], work[2], work[3]
    _diffusivity(bed, thick, cell_m, dt, east, south)
    k = dt / (cell_m * cell_m)
    # Flux grows with the cube of the slope, so its slope derivative is 3 D: an implicit part of D alone
    # would overshoot by two for long steps; 2 D keeps every wavelength damped.
    g = 2.0 * k
    for r in range(1, rows - 1):
        for c in range(1, cols - 1):
            s = bed[r, c] + thick[r, c]
            flux = (
                east[r, c] * (bed[r, c + 1] + thick[r, c + 1] - s)
                + east[r, c - 1] * (bed[r, c - 1] + thick[r, c - 1] - s)
                + south[r, c] * (bed[r + 1, c] + thick[r + 1, c] - s)
                + south[r - 1, c] * (bed[r - 1, c] + thick[r - 1, c] - s)
            )
            # Only melt is limited to the ice there is: limiting the flux too would create ice.
            melt_or_gain = max(dt * _balance(s, ela[r, c], transfer[r, c], rates), -thick[r, c])
            delta[r, c] = k * flux + melt_or_gain
        # rows of (1 - dt d/dx 2 D d/dx)
        upper[r, 0] = 0.0
        delta[r, 0] = 0.0
        for c in range(1, cols - 1):
            a, b = g * east[r, c - 1], g * east[r, c]
            m = 1.0 + a + b - a * upper[r, c - 1]
            upper[r, c] = b / m
            delta[r, c] = (delta[r, c] + a * delta[r, c - 1]) / m
        for c in range(cols - 3, 0, -1):
            delta[r, c] += upper[r, c] * delta[r, c + 1]
    # columns, all at once row by row so that memory is walked in order
    for c in range(cols):
        upper[0, c] = 0.0
        delta[0, c] = 0.0
    for r in range(1, rows - 1):
        for c in range(1, cols - 1):
            a, b = g * south[r - 1, c], g * south[r, c]
            m = 1.0 + a + b - a * upper[r - 1, c]
            upper[r, c] = b / m
            delta[r, c] = (delta[r, c] + a * delta[r - 1, c]) / m
    largest = 0.0
    for r in range(rows - 2, 0, -1):
        for c in range(1, cols - 1):
            if r < rows - 2:
                delta[r, c] += upper[r, c] * delta[r + 1, c]
            after = max(thick[r, c] + delta[r, c], 0.0)
            largest = max(largest, abs(after - thick[r, c]))
            thick[r, c] = after
    return float(largest)


@kernel
def _flow(
    bed: F32, thick: F32, climate: tuple[F32, F32, tuple[float, float, float]], cell_m: float, years: float
) -> int:
    rows, cols = bed.shape
    work = np.zeros((4, rows, cols), np.float32)
    time, dt, steps = 0.0, 0.2, 0
    while time < years:
        largest = _step(bed, thick, climate, cell_m, dt, work)
        time += dt
        steps += 1
        # The linearisation holds while a step changes a few metres; the factor then finds its own pace.
        if largest > 6.0:
            dt = max(dt * 0.6, 0.02)
        elif largest < 3.0:
            dt = min(dt * 1.15, cell_m / 160.0)
    return steps


def grow(
    bed: F32, cell_m: float, climate: Climate, seed: int, *, years: float, start: F32 | None = None
) -> F32:
    """Ice thickness in metres after ``years`` under a constant climate, from ``start`` (default: none)."""
    thick: F32 = np.zeros_like(bed) if start is None else start.astype(np.float32)
    ela = climate.ela_m + local_ela_shift(bed, cell_m, climate, seed)
    rates = (climate.gradient_per_yr, climate.most_gain_m_yr, climate.most_loss_m_yr)
    _flow(
        bed, thick, (ela.astype(np.float32), snow_transfer(bed, cell_m, climate), rates), cell_m, float(years)
    )
    return thick


def local_ela_shift(bed: F32, cell_m: float, climate: Climate, seed: int) -> F32:
    """How much higher (m) the equilibrium line lies on sunny slopes and in dry corners of the range."""
    key = int(np.random.default_rng([seed, 21]).integers(1 << 20))
    smooth = ndimage.gaussian_filter(bed, 150.0 / cell_m)
    # Rows grow southwards: where height grows with the row the face looks north.
    shaded = np.float32(climate.shady_side) * np.gradient(smooth, np.float32(cell_m), axis=0)
    patchy = 70.0 * fractal((bed.shape[0], bed.shape[1]), 4000.0 / cell_m, 2, key)
    return np.asarray(patchy - 90.0 * np.clip(shaded, -1.0, 1.0), np.float32)


def grow_refined(bed: F32, cell_m: float, climate: Climate, seed: int, years: tuple[float, ...]) -> F32:
    """Ice thickness grown on ever finer grids, the last of them ``bed``'s own; ``years`` on each.

    Each level starts from the one before, so that the fine grid only has to adjust.
    """
    thick: F32 | None = None
    levels = len(years)
    for level, span in enumerate(years):
        factor = 2 ** (levels - 1 - level)
        ground = coarsen(bed, factor) if factor > 1 else bed
        thick = grow(ground, cell_m * factor, climate, seed, years=span, start=thick)
        if level < levels - 1:
            finer = coarsen(bed, factor // 2) if factor > 2 else bed
            surface = refine(ground + thick, 2)
            thick = np.where(refine(thick, 2) > 2.0, np.maximum(surface - finer, 0.0), 0.0).astype(np.float32)
    assert thick is not None
    return thick


def extended_surface(bed: F32, thick: F32, reach: int = 6) -> tuple[F32, F32]:
    """Ice surface carried on over ``reach`` cells beyond the ice, and the weight of ice in each cell.

    On a valley side the carried-on surface meets the wall, which is where the finer outline lies.
    """
    ice = thick > 6.0
    surface = np.where(ice, bed + thick, 0.0).astype(np.float32)
    known = ice.astype(np.float32)
    for _ in range(reach):
        near = ndimage.gaussian_filter(known, 1.0, truncate=2.0)
        mean = ndimage.gaussian_filter(surface * known, 1.0, truncate=2.0) / np.maximum(near, 1e-6)
        fresh = (known == 0.0) & (near > 0.02)
        surface[fresh] = mean[fresh]
        known[fresh] = 1.0
    return np.where(known > 0.0, surface, bed).astype(np.float32), ice.astype(np.float32)


def surface_velocity(bed: F32, thick: F32, cell_m: float) -> tuple[F32, F32]:
    """Surface velocity (east, north) in m/yr: deformation and sliding, steep falls softened to 160 m/yr."""
    surface, ice = extended_surface(bed, thick)
    sigma = 80.0 / cell_m
    surface = ndimage.gaussian_filter(surface, sigma)
    depth = ndimage.gaussian_filter(thick, 0.5 * sigma)
    dy, dx = np.gradient(surface, np.float32(cell_m))
    slope = np.hypot(dx, dy)
    drive = (WEIGHT_PA_M * np.minimum(slope, 0.28)) ** 3
    speed = (0.5 * RATE_FACTOR * depth**4 + SLIDING * depth**2) * drive
    speed = 160.0 * np.tanh(speed / 160.0) + 1.5 * ice
    unit = speed * ice / np.maximum(slope, 1e-6)
    # Ice flows down the surface; rows run south, so the north component has the sign of the row gradient.
    return (-dx * unit).astype(np.float32), (dy * unit).astype(np.float32)


@kernel
def _merge_basins(surface: F32, order: I32, depth_m: float) -> I32:
    """Watersheds of ``surface`` over cells in rising ``order``; basins under ``depth_m`` deep merge."""
    rows, cols = surface.shape
    label = np.zeros(rows * cols, np.int32)
    parent = np.zeros(order.size + 1, np.int32)
    lowest = np.zeros(order.size + 1, np.float32)
    flat = surface.ravel()
    count = 0
    for k in range(order.size):
        p = order[k]
        r, c = p // cols, p % cols
        best, best_drop = 0, np.float32(-1.0)
        near = np.zeros(8, np.int32)
        found = 0
        for dr in range(-1, 2):
            for dc in range(-1, 2):
                j, i = r + dr, c + dc
                if (dr == 0 and dc == 0) or j < 0 or i < 0 or j >= rows or i >= cols:
                    continue
                q = j * cols + i
                if label[q] == 0:
                    continue
                root = label[q]
                while parent[root] != root:
                    root = parent[root]
                near[found] = root
                found += 1
                drop = (flat[p] - flat[q]) / np.float32(np.sqrt(dr * dr + dc * dc))
                if drop > best_drop:
                    best_drop, best = drop, label[q]
        if found == 0:
            count += 1
            label[p] = count
            parent[count] = count
            lowest[count] = flat[p]
            continue
        label[p] = best
        for m in range(found):
            for n in range(m):
                a, b = near[m], near[n]
                while parent[a] != a:
                    a = parent[a]
                while parent[b] != b:
                    b = parent[b]
                if a == b:
                    continue
                if lowest[a] < lowest[b]:
                    a, b = b, a
                # ``a`` is the shallower basin; the pass between the two is this cell.
                if flat[p] - lowest[a] < depth_m:
                    parent[a] = b
    for p in range(rows * cols):
        root = label[p]
        if root > 0:
            while parent[root] != root:
                root = parent[root]
            label[p] = root
    return label.reshape(rows, cols)


def divide(surface: F32, ice: NDArray[np.bool_], *, depth_m: float = 120.0) -> I32:
    """Glacier number of every ice cell (0 elsewhere): watersheds of the ice surface.

    A tributary has no low point of its own and so belongs to its trunk; two tongues on either side
    of a pass are two glaciers when both lie ``depth_m`` below it (in the sense of Kienholz et al.
    2013, https://doi.org/10.3189/2013JoG12J138).
    """
    index = np.flatnonzero(ice)
    order = index[np.argsort(surface.ravel()[index], kind="stable")].astype(np.int32)
    return np.asarray(_merge_basins(np.ascontiguousarray(surface, np.float32), order, depth_m), np.int32)
