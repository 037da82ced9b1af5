"""Clouds over the range, and the shadows they cast, seeded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import RESOLUTION_M
from cryoscale.simulate.ground import smooth_step, standard_noise
from cryoscale.simulate.illumination import Sun

F32 = NDArray[np.float32]

CLOUD_BASE_M = 900.0
"""Height of the clouds over the ground, which sets how far their shadows fall from them."""


@dataclass(frozen=True)
class Clouds:
    """Opacity of cloud and of its shadow on the ground, both (y, x) in 0..1."""

    opacity: F32
    shadow: F32


def clouds(shape: tuple[int, int], cover: float, sun: Sun, key: int) -> Clouds:
    """Soft cumulus over about the share ``cover`` of the range, with shadows displaced from the sun."""
    if cover <= 0.0:
        none: F32 = np.zeros(shape, np.float32)
        return Clouds(none, none)
    field = standard_noise(shape, max(25.0, min(110.0, 0.15 * min(shape))), 5, key, 0.43)
    edge = float(np.quantile(field, 1.0 - cover))
    opacity = smooth_step(field, edge - 0.16, edge + 0.36)
    reach_px = CLOUD_BASE_M / math.tan(math.radians(sun.elevation_deg)) / RESOLUTION_M
    east, north, _ = sun.toward
    level = math.hypot(east, north)
    # The shadow falls on the side turned from the sun; rows grow southwards.
    move = (round(north / level * reach_px), round(-east / level * reach_px))
    shadow = np.roll(ndimage.gaussian_filter(opacity, 2.0, mode="wrap"), move, axis=(0, 1))
    return Clouds(opacity, shadow)
