"""The interval of a change: what two years' intervals say together.

The errors of two maps of one place are not independent, since the same model calls the same ground ice.
What is assumed is what the interval of a region's area assumes already (:mod:`cryoscale.write.bootstrap`): of
the variance of errors a share :data:`~cryoscale.write.bootstrap.COMMON` is the model's own bias, the same in
all blocks, and so the same in both years; the rest is each year's own. The common part cancels in a
difference as far as both intervals are equally wide. Where shade or debris deceive both years alike in one
place, more of it cancels, so that the interval is rather too wide than too narrow; where the two years were
mapped by different models nothing cancels, and nothing is taken off.

A region's interval comes from a bootstrap of blocks of 5 km over the paired errors of both years, in the
manner of :func:`cryoscale.write.bootstrap.region_interval`: a block that is drawn brings both of its years.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.write.bootstrap import Z
from cryoscale.write.uncertainty import LEVEL

Floats = NDArray[np.float64]

_DRAWS, _SEED, _AT_ONCE = 4000, 0, 1_000_000


def change_reach(
    older: tuple[Floats, Floats], newer: tuple[Floats, Floats], common: float
) -> tuple[Floats, Floats]:
    """How far the bounds of changes (n,) lie below and above them, at 90 %.

    Args:
        older: how far the bounds of the older areas (n,) lie below and above them, km2.
        newer: likewise of the newer.
        common: the share of the errors' variance that both years have in common, 0-1.
    """
    (old_down, old_up), (new_down, new_up) = older, newer
    down = np.sqrt((1 - common) * (new_down**2 + old_up**2) + common * (new_down - old_down) ** 2)
    up = np.sqrt((1 - common) * (new_up**2 + old_down**2) + common * (new_up - old_up) ** 2)
    return down, up


def region_change_reach(
    older: tuple[Floats, Floats], newer: tuple[Floats, Floats], common: float
) -> tuple[float, float]:
    """As :func:`change_reach`, of the sum over blocks (n,), whose glaciers err together."""
    rng = np.random.default_rng(_SEED)
    (old_down, old_up), (new_down, new_up) = older, newer
    blocks = len(old_down)
    if blocks == 0:
        return math.nan, math.nan
    shared_widths = np.column_stack([new_down - old_down, new_up - old_up])
    new_widths, old_widths = np.column_stack([new_down, new_up]), np.column_stack([old_up, old_down])
    errors = []
    for start in range(0, _DRAWS, batch := max(_AT_ONCE // blocks, 1)):
        draws = min(batch, _DRAWS - start)
        taken = rng.integers(blocks, size=(draws, blocks))
        shared = rng.standard_normal((draws, 1))
        new, old = (rng.standard_normal((draws, blocks)) for _ in range(2))
        error = math.sqrt(common) * shared * shared_widths[taken].sum(axis=1)
        error += math.sqrt(1 - common) * np.einsum("db,dbk->dk", new, new_widths[taken])
        error += math.sqrt(1 - common) * np.einsum("db,dbk->dk", old, old_widths[taken])
        errors.append(error)
    # errors are as likely up as down: their size says where 90 % of them lie
    down, up = np.quantile(np.abs(np.concatenate(errors)), LEVEL, axis=0) / Z
    return float(down), float(up)
