"""What covers the ground: the ice edge at full resolution, debris, plants, and the truth classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.kernel import kernel
from cryoscale.simulate.glaciers import Climate, extended_surface
from cryoscale.simulate.lakes import Ground, Mask
from cryoscale.simulate.noise import F32, fractal, refine
from cryoscale.simulate.regime import HIMALAYA, Regime

DEBRIS_CLASS_M = 0.02
"""Debris thinner than this leaves the ice looking clean."""

SMALLEST_GLACIER_PX = 100
"""0.01 km2 at 10 m, the least area of an inventory (RGI 7 user guide)."""


def _disk(radius_px: int) -> Mask:
    y, x = np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
    return np.asarray(x * x + y * y <= radius_px * radius_px + 1, bool)


def ice_at_full_resolution(ground: F32, bed: F32, thick: F32, factor: int, seed: int) -> F32:
    """Ice thickness (y, x) on the fine ``ground``: the coarse surface, smoothly drawn, cut by the ground."""
    key = int(np.random.default_rng([seed, 31]).integers(1 << 20))
    surface, ice = extended_surface(bed, thick)
    fine = refine(surface, factor)
    share = refine(ice, factor)
    depth = refine(thick, factor)
    ragged = fractal((ground.shape[0], ground.shape[1]), 26.0, 4, key, gain=0.6)
    # Thin ice drapes over bumps that the coarse grid does not know; thick ice buries them.
    fine += np.clip(ground + 0.6 * depth - fine, 0.0, 12.0) * (share > 0.6)
    out = np.where((share + 0.3 * ragged > 0.33) & (fine - ground > 4.0 + 6.0 * ragged), fine - ground, 0.0)
    # The majority around each pixel: an ice edge is smooth over some tens of metres.
    mask = ndimage.gaussian_filter((out > 0.0).astype(np.float32), 1.5) > 0.5
    mask = ndimage.binary_opening(mask, structure=_disk(2))
    return np.where(mask, np.maximum(out, 2.0), 0.0).astype(np.float32)


def glacier_numbers(coarse: NDArray[np.int32], ice: Mask, factor: int) -> NDArray[np.int32]:
    """Number of the glacier of each fine ice pixel, 1.. in rows; every glacier one 4-connected piece.

    Pieces under the least area join the neighbour that they touch.
    """
    rows = np.arange(ice.shape[0])[:, None] // factor
    cols = np.arange(ice.shape[1])[None, :] // factor
    nearest = ndimage.distance_transform_edt(coarse == 0, return_distances=False, return_indices=True)
    filled = coarse[nearest[0], nearest[1]]
    label = np.where(ice, filled[rows, cols], 0)
    pieces = np.zeros(label.shape, np.int32)
    count = 0
    boxes = ndimage.find_objects(label)
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        part, found = ndimage.label(label[box] == number)
        view = pieces[box]
        view[part > 0] = part[part > 0] + count
        count += found
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    small = (sizes < SMALLEST_GLACIER_PX)[pieces] & ice
    if small.any():
        # The nearest large piece along the ice, so that a sliver never jumps over rock.
        pieces = _spread(np.where(small, 0, pieces).astype(np.int32), ice)
        # Ice that consists of slivers only is one glacier.
        rest, _ = ndimage.label(ice & (pieces == 0))
        pieces = np.where(rest > 0, rest + count, pieces).astype(np.int32)
    return _renumber(pieces)


def _spread(label: NDArray[np.int32], ice: Mask) -> NDArray[np.int32]:
    """Labels grown pixel by pixel (4-neighbours) over unlabelled ice; what is never reached stays 0."""
    out = label.copy()
    while True:
        grown = ndimage.grey_dilation(out, footprint=ndimage.generate_binary_structure(2, 1))
        fresh = ice & (out == 0) & (grown > 0)
        if not fresh.any():
            return out
        out[fresh] = grown[fresh]


def _renumber(label: NDArray[np.int32]) -> NDArray[np.int32]:
    used = np.flatnonzero(np.bincount(label.ravel()))
    table = np.zeros(int(label.max()) + 1, np.int32)
    table[used[used > 0]] = np.arange(1, (used > 0).sum() + 1)
    return np.asarray(table[label], np.int32)


@kernel
def _bilinear(field: F32, y: float, x: float) -> float:
    j = min(max(int(np.floor(y)), 0), field.shape[0] - 2)
    i = min(max(int(np.floor(x)), 0), field.shape[1] - 2)
    v, u = min(max(y - j, 0.0), 1.0), min(max(x - i, 0.0), 1.0)
    top = field[j, i] * (1.0 - u) + field[j, i + 1] * u
    bottom = field[j + 1, i] * (1.0 - u) + field[j + 1, i + 1] * u
    return float(top * (1.0 - v) + bottom * v)


@kernel
def _trace(
    want: Mask,
    place: tuple[float, float, float],
    velocity: tuple[F32, F32],
    fields: tuple[F32, F32, F32],
    cell_m: float,
) -> F32:
    """Debris load of each wanted pixel: melt along its flow line times the rock that fell on that line.

    ``place`` is the top, left and size of the wanted pixels in coarse cells; ``fields`` are melt
    (m/yr), rockfall (1) and speed (m/yr).
    """
    top, left, scale = place
    rows, cols = want.shape
    east, north = velocity
    melt, rock, speed = fields
    out = np.zeros((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            if not want[r, c]:
                continue
            y, x = top + (r + 0.5) * scale - 0.5, left + (c + 0.5) * scale - 0.5
            here = _bilinear(speed, y, x)
            released, fallen = 0.0, 0.0
            for _ in range(900):
                u, v = _bilinear(east, y, x), _bilinear(north, y, x)
                pace = np.sqrt(u * u + v * v)
                if pace < 0.3:
                    break
                released += _bilinear(melt, y, x) * 0.5 * cell_m
                fallen = max(fallen, _bilinear(rock, y, x))
                y += 0.5 * v / pace
                x -= 0.5 * u / pace
                if y < 0.0 or x < 0.0 or y > speed.shape[0] - 1.0 or x > speed.shape[1] - 1.0:
                    break
            out[r, c] = released * fallen / (here + 4.0)
    return out


@dataclass(frozen=True)
class CoarseIce:
    """The ice model's result (y, x) on its own grid, as the surface processes need it."""

    bed: F32
    thick: F32
    east: F32
    north: F32
    cell_m: float
    factor: int
    frame: tuple[slice, slice]
    """The range within the world, in fine pixels."""

    def fine(self, field: F32) -> F32:
        """``field`` of the coarse grid on the fine pixels of the frame."""
        return refine(field, self.factor)[self.frame]


def debris_thickness(
    ice: CoarseIce, fine_ice: Mask, climate: Climate, seed: int, regime: Regime = HIMALAYA
) -> F32:
    """Debris on the ice in metres (y, x), 0 off the ice.

    Rock falls on the ice beside steep walls, is carried along flow lines, melts out below the
    equilibrium line and piles up where the ice slows: thickness = (melt along the line) x
    (concentration) / speed, which thickens towards the terminus and draws medial moraines below
    confluences (Anderson & Anderson 2016, https://doi.org/10.5194/tc-10-1105-2016).
    """
    rng = np.random.default_rng([seed, 32])
    key = int(rng.integers(1 << 20))
    share = float(rng.uniform(*regime.debris_share))
    shape = (ice.bed.shape[0], ice.bed.shape[1])
    surface = ice.bed + ice.thick
    has_ice = ice.thick > 2.0
    dy, dx = np.gradient(surface, np.float32(ice.cell_m))
    wall = (~has_ice) & (np.hypot(dx, dy) > 0.55)
    near = np.exp(-ndimage.distance_transform_edt(~wall) * ice.cell_m / 55.0)
    plenty = ndimage.gaussian_filter(wall.astype(np.float32), 350.0 / ice.cell_m)
    rocky = np.exp(2.2 * fractal(shape, 3500.0 / ice.cell_m, 2, key))
    rock = ((0.03 + near) * plenty * rocky).astype(np.float32)
    melt = np.clip(climate.gradient_per_yr * (climate.ela_m - surface), 0.0, climate.most_loss_m_yr)
    speed = np.hypot(ice.east, ice.north).astype(np.float32)
    step = 2
    melt = melt.astype(np.float32)
    want = fine_ice[::step, ::step] & (ice.fine(melt)[::step, ::step] > 0.0)
    place = (ice.frame[0].start / ice.factor, ice.frame[1].start / ice.factor, step / ice.factor)
    load = _trace(want, place, (ice.east, ice.north), (melt, rock, speed), ice.cell_m)
    fine = refine(ndimage.gaussian_filter(load, 0.7), step)
    patch = fractal(fine_ice.shape, 14.0, 3, key + 5) + 0.7 * fractal(fine_ice.shape, 40.0, 2, key + 6)
    fine *= np.exp(0.9 * patch)
    fine = np.where(fine_ice, fine, 0.0)
    # The amount is set so that the covered share of the ice is that of the regime.
    level = float(np.quantile(fine[fine_ice], 1.0 - share)) if fine_ice.any() else 1.0
    fine *= DEBRIS_CLASS_M / max(level, 1e-9)
    if regime.debris_growth != 1.0:
        # About the class's least thickness: what changes is how thick debris is, not how much ice it covers.
        fine = DEBRIS_CLASS_M * (fine / DEBRIS_CLASS_M) ** regime.debris_growth
    return np.where(fine > 0.003, 2.5 * np.tanh(fine / 2.5), 0.0).astype(np.float32)


def vegetation(ground: Ground, treeline_m: float, seed: int, regime: Regime = HIMALAYA) -> F32:
    """Share of each pixel (y, x) under plants: forest, scrub and meadow, thinning out over the tree line.

    They reach higher on shaded faces, which keep their moisture.
    """
    key = int(np.random.default_rng([seed, 35]).integers(1 << 20))
    shape = (ground.bed.shape[0], ground.bed.shape[1])
    smooth = ndimage.gaussian_filter(ground.elevation, 2.0)
    dy, dx = np.gradient(smooth, np.float32(10.0))
    slope = np.hypot(dx, dy)
    noise = 90.0 * fractal(shape, 60.0, 4, key)
    shaded = np.float32(regime.shady_side) * dy
    height = 1.0 / (
        1.0 + np.exp((ground.elevation - treeline_m + noise - 60.0 * np.clip(shaded, -1.0, 1.0)) / 45.0)
    )
    steep = 1.0 / (1.0 + np.exp(np.minimum(slope - 0.95, 4.0) / 0.08))
    patches = np.clip(0.93 + 0.45 * fractal(shape, 16.0, 3, key + 7), 0.0, 1.0)
    cover = height * steep * patches
    return np.where(ground.ice | ground.water, 0.0, cover).astype(np.float32)


def classify(ground: Ground, plants: F32) -> NDArray[np.uint8]:
    """Truth classes (y, x): 0 background, 1 clean ice, 2 debris-covered ice, 3 water, 4 vegetation."""
    out = np.zeros(ground.bed.shape, np.uint8)
    out[plants > 0.5] = 4
    out[ground.ice] = np.where(ground.debris[ground.ice] > DEBRIS_CLASS_M, 2, 1)
    out[ground.water] = 3
    return out
