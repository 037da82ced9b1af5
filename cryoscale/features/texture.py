"""Grey-level co-occurrence (GLCM) dissimilarity without the co-occurrence matrix.

Dissimilarity is the sum of P(i, j) |i - j| over a normalised co-occurrence matrix, which is the plain
mean of |i - j| over the pairs that were counted. So one offset costs a windowed sum of absolute
differences; the sums are of integers, hence exact, and may run along rows and columns without the
result depending on where they began.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import InputError
from cryoscale.kernel import kernel

LEVELS = 32
WINDOW_PX = 7
HALO_PX = WINDOW_PX // 2
"""How many pixels beyond its own the texture window looks."""

_NO_DATA = -1
# A pair's count and its difference share one integer: count in the upper 16 bits, sum in the lower.
_COUNT_SHIFT = 16
_SUM_MASK = (1 << _COUNT_SHIFT) - 1


@kernel
def _quantise(band: NDArray[np.float32], levels: int, half: int, out: NDArray[np.int16]) -> None:
    """Write floor(levels * band), clipped to 0..levels-1, into ``out``, which has a rim of no data."""
    out[:] = _NO_DATA
    scale, top = np.float32(levels), np.float32(levels - 1)
    for y in range(band.shape[0]):
        for x in range(band.shape[1]):
            value = band[y, x]
            if not math.isnan(value):
                # Clipped before it becomes an integer, which an infinity has none of.
                out[y + half, x + half] = np.int16(min(max(np.floor(value * scale), np.float32(0.0)), top))


@kernel
def _add_row(
    columns: NDArray[np.int32], grey: NDArray[np.int16], row: int, dy: int, dx: int, sign: int
) -> None:
    """Add (sign 1) or take away (-1) the pairs whose upper pixel lies in ``row``, column by column."""
    width = grey.shape[1]
    one = np.int32(1 << _COUNT_SHIFT)
    factor = np.int32(sign)
    for x in range(max(0, -dx), width - max(0, dx)):
        p, q = np.int32(grey[row, x]), np.int32(grey[row + dy, x + dx])
        pair = one + abs(p - q) if (p >= 0) & (q >= 0) else np.int32(0)
        columns[x] += factor * pair


@kernel
def _dissimilarity(grey: NDArray[np.int16], half: int, out: NDArray[np.float32]) -> None:
    height, width = out.shape
    reach = 2 * half
    # 0, 45, 90 and 135 degrees; a difference has no direction, so each looks down or right.
    down = (0, 1, 1, 1)
    right = (1, -1, 0, 1)
    columns = np.zeros((4, grey.shape[1]), np.int32)
    running = np.zeros(4, np.int32)
    for k in range(4):
        for row in range(reach + 1 - down[k]):
            _add_row(columns[k], grey, row, down[k], right[k], 1)
    for y in range(height):
        if y > 0:
            for k in range(4):
                _add_row(columns[k], grey, y - 1, down[k], right[k], -1)
                _add_row(columns[k], grey, y + reach - down[k], down[k], right[k], 1)
        for k in range(4):
            running[k] = 0
            # All but the last column of the first window; the loop below adds the last one.
            for x in range(max(0, -right[k]), reach - max(0, right[k])):
                running[k] += columns[k, x]
        for x in range(width):
            total, offsets = 0.0, 0
            for k in range(4):
                first, last = x + max(0, -right[k]), x + reach - max(0, right[k])
                running[k] += columns[k, last]
                count = running[k] >> _COUNT_SHIFT
                if count > 0:
                    total += (running[k] & _SUM_MASK) / count
                    offsets += 1
                running[k] -= columns[k, first]
            if offsets == 0 or grey[y + half, x + half] < 0:
                out[y, x] = np.nan
            else:
                out[y, x] = np.float32(total / offsets)


def glcm_dissimilarity(
    band: NDArray[np.float32],
    *,
    levels: int = LEVELS,
    window_px: int = WINDOW_PX,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """GLCM dissimilarity (y, x) in grey levels of a reflectance band (y, x), at distance 1.

    The band is quantised to ``levels`` over the fixed range 0..1, so that neighbouring blocks agree.
    A pair counts when both pixels lie in the window and neither is NaN; the offsets 0, 45, 90 and 135
    degrees are averaged (those of them that have a pair). NaN where the centre is, or no pair counts.

    Raises:
        InputError: if the window is even or too small, or its sums would not fit their integers.

    Source: Haralick, Shanmugam, Dinstein (1973), https://doi.org/10.1109/TSMC.1973.4309314.
    """
    if window_px < 3 or window_px % 2 == 0 or levels < 2 or window_px**2 * (levels - 1) > _SUM_MASK:
        raise InputError(
            f"a window of {window_px} pixels and {levels} levels",
            f"an odd window of at least 3, at least 2 levels, window^2 * (levels - 1) <= {_SUM_MASK}",
            "choose a smaller or an odd window, or fewer levels",
        )
    half = window_px // 2
    grey = np.empty((band.shape[0] + 2 * half, band.shape[1] + 2 * half), np.int16)
    _quantise(band, levels, half, grey)
    result = np.empty(band.shape, np.float32) if out is None else out
    if result.size:
        _dissimilarity(grey, half, result)
    return result
