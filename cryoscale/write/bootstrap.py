"""The interval of a region's area: errors of its glaciers go together within blocks, and in part everywhere.

Glaciers are gathered in square blocks. A draw takes as many blocks as there are, each at random and any of
them several times (Lahiri 2003, https://doi.org/10.1007/978-1-4757-3803-2), and gives each block one error
for all that it holds: normal, with the 90 % range of the glaciers' own intervals. A share of its variance,
:data:`COMMON`, is that of the draw, the same for all blocks, since a model that calls too much ice here does
so there; without it the interval of a large region would shrink to nothing around a biased total.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryoscale.write.uncertainty import LEVEL

BLOCK_KM = 5.0
"""Edge of a block."""

COMMON = 0.3
"""Share of the variance of errors that all blocks have in common: the least, by steps of 0.05, that the 24
zones of the ranges that the rule was fitted on ask for (``python -m benchmarks.uncertainty``). Of the 24
zones of other ranges 22 are covered; both of the others are in the Alps, where the model adds 6 % of ice."""

COLUMNS = ("cenlon", "cenlat", "area_km2", "area_low_km2", "area_high_km2")
"""Of an inventory, what :func:`region_of` needs."""

Z = 1.6448536269514722
"""A normal error lies within so many standard deviations with the probability of the level, 90 %."""

_DRAWS, _SEED = 4000, 0
_AT_ONCE = 1_000_000
"""Draws times blocks in memory at once: a region may have 100,000 blocks."""
_DEGREE_KM = 111.195


def region_of(parts: Iterable[pd.DataFrame]) -> dict[str, Any]:
    """Area of an inventory, given in parts with :data:`COLUMNS`, and its interval; plain values for JSON.

    Glaciers without an interval count with their area as it is and are told; the interval is None where
    none has one.
    """
    blocks: dict[tuple[int, int], NDArray[np.float64]] = {}
    count = without = 0
    area_km2 = 0.0
    for part in parts:
        down = (part["area_km2"] - part["area_low_km2"]).to_numpy(float)
        up = (part["area_high_km2"] - part["area_km2"]).to_numpy(float)
        count, area_km2 = count + len(part), area_km2 + float(part["area_km2"].sum())
        without += int(np.isnan(down).sum())
        keys = block_of(part["cenlon"].to_numpy(float), part["cenlat"].to_numpy(float))
        for key, widths in zip(map(tuple, keys.tolist()), np.column_stack([down, up]), strict=True):
            if not np.isnan(widths).any():
                blocks[key] = blocks.get(key, np.zeros(2)) + widths
    widths_km2 = np.array(list(blocks.values())).reshape(-1, 2)
    low, high = region_interval(area_km2, *widths_km2.T) if blocks else (None, None)
    return {
        "area_km2": area_km2,
        "area_low_km2": low,
        "area_high_km2": high,
        "level": LEVEL,
        "glaciers": count,
        "glaciers_without_interval": without,
        "blocks": len(blocks),
        "block_km": BLOCK_KM,
        "common_share": COMMON,
    }


def block_of(lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row and column (n, 2) of the blocks of places (n,), on the sinusoidal projection, which keeps areas."""
    east_km = lon_deg * _DEGREE_KM * np.cos(np.radians(lat_deg))
    return np.floor(np.column_stack([lat_deg * _DEGREE_KM, east_km]) / BLOCK_KM).astype(np.int64)


def region_interval(
    area_km2: float, down_km2: NDArray[np.float64], up_km2: NDArray[np.float64], *, common: float = COMMON
) -> tuple[float, float]:
    """Lower and upper bound of a total from the half-widths (n,) of its blocks' intervals, at 90 %.

    Args:
        area_km2: the total.
        down_km2: how far the bounds of a block's glaciers, added up, lie below their areas.
        up_km2: how far above.
        common: the share of the errors' variance that all blocks have in common, 0-1.
    """
    rng = np.random.default_rng(_SEED)
    widths = np.column_stack([down_km2, up_km2])
    blocks = len(widths)
    errors = []
    for start in range(0, _DRAWS, batch := max(_AT_ONCE // blocks, 1)):
        draws = min(batch, _DRAWS - start)
        own, shared = rng.standard_normal((draws, blocks)), rng.standard_normal((draws, 1))
        error = math.sqrt(common) * shared + math.sqrt(1 - common) * own
        taken = widths[rng.integers(blocks, size=(draws, blocks))]
        errors.append(np.einsum("db,dbk->dk", error, taken))
    # errors are as likely up as down: their size says where 90 % of them lie
    reach_down, reach_up = np.quantile(np.abs(np.concatenate(errors)), LEVEL, axis=0) / Z
    return max(area_km2 - float(reach_down), 0.0), area_km2 + float(reach_up)
