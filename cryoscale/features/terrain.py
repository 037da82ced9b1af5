"""Slope and aspect of an elevation model, by Horn's 3x3 weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M
from cryoscale.kernel import kernel

HALO_PX = 1
"""How many pixels beyond its own Horn's window looks."""

_TAN_22_5 = math.sqrt(2.0) - 1.0

# atan(t) / t in powers of t^2, for t^2 up to tan(22.5 degrees)^2: the polynomial through the zeros of a
# Chebyshev polynomial there, worked out with 40 digits; its relative error is below 3e-14, a
# two-millionth of float32's. In degrees.
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = (
    math.degrees(coefficient)
    for coefficient in (
        0.9999999999999732,
        -0.33333333330803444,
        0.19999999604891977,
        -0.14285690423839287,
        0.11110385046148014,
        -0.09078392072943424,
        0.07563703551915192,
        -0.05874505621307831,
        0.030662440370424447,
    )
)


@kernel
def _angle_deg(low: float, high: float) -> float:
    """atan(low / high) in degrees for 0 <= low <= high, without a branch or a call, so that loops vectorise.

    Above 22.5 degrees it is 45 degrees less atan((high - low) / (high + low)).
    """
    steep = low > _TAN_22_5 * high
    t = (low - high if steep else low) / (low + high if steep else high)
    u = t * t
    square = u * u
    tail = (_C4 + u * _C5) + square * (_C6 + u * _C7) + square * square * _C8
    series = (_C0 + u * _C1) + square * (_C2 + u * _C3) + square * square * tail
    return t * series + (45.0 if steep else 0.0)


@kernel
def _horn_row(
    lines: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    scale: float,
    slope: NDArray[np.float32],
    aspect: NDArray[np.float32],
) -> None:
    """Slope and aspect (x) of all but the ends of the middle one of three lines (x + 2)."""
    above, here, below = lines
    none, flat, round_deg = np.float32(np.nan), np.float32(0.0), np.float32(360.0)
    for x in range(slope.shape[0]):
        north_west, north, north_east = (
            np.float64(above[x]),
            np.float64(above[x + 1]),
            np.float64(above[x + 2]),
        )
        west, east = np.float64(here[x]), np.float64(here[x + 2])
        south_west, south, south_east = (
            np.float64(below[x]),
            np.float64(below[x + 1]),
            np.float64(below[x + 2]),
        )
        rise_east = ((north_east + 2.0 * east + south_east) - (north_west + 2.0 * west + south_west)) * scale
        rise_north = (
            (north_west + 2.0 * north + north_east) - (south_west + 2.0 * south + south_east)
        ) * scale
        steepness = math.sqrt(rise_east * rise_east + rise_north * rise_north)
        steep = steepness > 1.0
        angle = _angle_deg(1.0 if steep else steepness, steepness if steep else 1.0)
        slope_deg = np.float32(90.0 - angle if steep else angle)
        # The surface faces where it falls, against the rise: the angle from the nearest of the four
        # winds, unfolded into its octant, clockwise from north.
        along, across = abs(rise_north), abs(rise_east)
        sideways = across > along
        angle = _angle_deg(along if sideways else across, across if sideways else along)
        angle = 90.0 - angle if sideways else angle
        angle = 180.0 - angle if rise_north > 0.0 else angle
        facing = np.float32(360.0 - angle if rise_east > 0.0 else angle)
        # 360 - 1e-6 rounds to 360 in float32, which the range leaves out.
        facing = flat if (facing >= round_deg) | (along + across == 0.0) else facing
        # False for a window with a NaN, whose sums are NaN, or with an infinite height.
        there = (along + across < np.inf) & (abs(here[x + 1]) < np.inf)
        slope[x] = slope_deg if there else none
        aspect[x] = facing if there else none


@kernel
def _horn(
    z: NDArray[np.float32], pixel_m: float, slope: NDArray[np.float32], aspect: NDArray[np.float32]
) -> None:
    height, width = z.shape
    scale = 1.0 / (8.0 * pixel_m)
    for y in range(height):
        if 0 < y < height - 1 and width > 2:
            lines = (z[y - 1], z[y], z[y + 1])
            _horn_row(lines, scale, slope[y, 1 : width - 1], aspect[y, 1 : width - 1])
            slope[y, 0] = slope[y, width - 1] = np.nan
            aspect[y, 0] = aspect[y, width - 1] = np.nan
        else:
            slope[y] = np.nan
            aspect[y] = np.nan


def slope_aspect(
    elevation: NDArray[np.float32],
    *,
    pixel_m: float = RESOLUTION_M,
    out: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slope and aspect (y, x) in degrees of a north-up elevation model (y, x) in metres.

    Aspect is the direction in which the surface falls, clockwise from north, in [0, 360), 0 where
    flat. Both are NaN where the 3x3 window holds a height that is not finite or leaves the data.

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
