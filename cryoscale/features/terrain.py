"""Slope and aspect of an elevation model, by Horn's 3x3 weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M
from cryoscale.kernel import kernel

HALO_PX = 1
"""How many pixels beyond its own Horn's window looks."""


@kernel
def _horn(
    z: NDArray[np.float32], pixel_m: float, slope: NDArray[np.float32], aspect: NDArray[np.float32]
) -> None:
    height, width = z.shape
    slope[:] = np.nan
    aspect[:] = np.nan
    scale = 1.0 / (8.0 * pixel_m)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if math.isnan(z[y, x]):
                continue
            north_west, north, north_east = (
                np.float64(z[y - 1, x - 1]),
                np.float64(z[y - 1, x]),
                np.float64(z[y - 1, x + 1]),
            )
            west, east = np.float64(z[y, x - 1]), np.float64(z[y, x + 1])
            south_west, south, south_east = (
                np.float64(z[y + 1, x - 1]),
                np.float64(z[y + 1, x]),
                np.float64(z[y + 1, x + 1]),
            )
            rise_east = (
                (north_east + 2.0 * east + south_east) - (north_west + 2.0 * west + south_west)
            ) * scale
            rise_north = (
                (north_west + 2.0 * north + north_east) - (south_west + 2.0 * south + south_east)
            ) * scale
            if math.isnan(rise_east + rise_north):
                continue
            steepness = math.sqrt(rise_east * rise_east + rise_north * rise_north)
            slope[y, x] = np.float32(math.degrees(math.atan(steepness)))
            if rise_east == 0.0 and rise_north == 0.0:
                aspect[y, x] = np.float32(0.0)
                continue
            # The surface faces where it falls, against the rise; atan2 takes (east, north).
            facing = math.degrees(math.atan2(-rise_east, -rise_north))
            # Adding 0 makes a negative zero positive.
            facing += 360.0 if facing < 0.0 else 0.0
            # 360 - 1e-6 rounds to 360 in float32, which the range leaves out.
            aspect[y, x] = np.float32(0.0) if np.float32(facing) >= np.float32(360.0) else np.float32(facing)


def slope_aspect(
    elevation: NDArray[np.float32],
    *,
    pixel_m: float = RESOLUTION_M,
    out: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slope and aspect (y, x) in degrees of a north-up elevation model (y, x) in metres.

    Aspect is the direction in which the surface falls, clockwise from north, in [0, 360), 0 where
    flat. Both are NaN where the 3x3 window holds a NaN or leaves the data.

    Source: Horn (1981), "Hill shading and the reflectance map", Proc. IEEE 69(1), 14-47,
    https://doi.org/10.1109/PROC.1981.11918.
    """
    slope, aspect = (
        out
        if out is not None
        else (np.empty(elevation.shape, np.float32), np.empty(elevation.shape, np.float32))
    )
    _horn(elevation, pixel_m, slope, aspect)
    return slope, aspect
