"""Flips and quarter turns of a stack that keep it physically true, and the way back for a map.

Aspect is an angle on the ground: a stack that is turned without turning it says that north faces lie
anywhere. Training draws such variants at random, and a run may average over all eight.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

TURNS: tuple[tuple[int, bool], ...] = tuple(product(range(4), (False, True)))
"""The eight symmetries of a square as (quarter turns, mirrored first), the identity first."""


def turn_map(values: NDArray[Any], quarters: int, mirror: bool) -> NDArray[Any]:
    """Mirrors maps (..., h, w) east-west (if asked), then turns them counter-clockwise; contiguous."""
    return np.ascontiguousarray(np.rot90(values[..., ::-1] if mirror else values, quarters, axes=(-2, -1)))


def turn_map_back(values: NDArray[Any], quarters: int, mirror: bool) -> NDArray[Any]:
    """What :func:`turn_map` of the same turn made these maps (..., h, w) from; contiguous."""
    back = np.rot90(values, -quarters, axes=(-2, -1))
    return np.ascontiguousarray(back[..., ::-1] if mirror else back)


def turn_stack(
    x: NDArray[np.float32], channels: Sequence[str], quarters: int, mirror: bool
) -> NDArray[np.float32]:
    """Mirrors stacks (..., c, h, w) east-west (if asked), then turns them counter-clockwise; a copy.

    Aspect (degrees clockwise from north) follows: a mirror sends ``a`` to ``-a``, each quarter turn to
    ``a - 90``. Flat ground keeps its aspect of 0. No other channel is an angle in the plane of the map.
    """
    turned: NDArray[np.float32] = np.array(turn_map(x, quarters, mirror))
    if "aspect" in channels:
        aspect = turned[..., list(channels).index("aspect"), :, :]
        slope = turned[..., list(channels).index("slope"), :, :] if "slope" in channels else aspect
        angle = np.mod((-aspect if mirror else aspect) - 90.0 * quarters, 360.0)
        angle[(angle >= 360.0) | (slope == 0)] = 0.0  # the mod of a tiny negative rounds up to 360
        aspect[:] = angle
    return turned
