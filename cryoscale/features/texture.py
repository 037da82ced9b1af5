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
_LOWER = (1 << _COUNT_SHIFT) - 1


@kernel
def _quantise(line: NDArray[np.float32], levels: int, grey: NDArray[np.int32]) -> None:
    """floor(levels * line), clipped to 0..levels-1; no data where the line is NaN."""
    scale, lowest, top = np.float32(levels), np.float32(0.0), np.float32(levels - 1)
    for x in range(line.shape[0]):
        # Clipped before it becomes an integer, which an infinity has none of; from 0 on, that is its floor.
        value = line[x] * scale
        value = lowest if value < lowest else value
        value = top if value > top else value
        grey[x] = np.int32(_NO_DATA) if math.isnan(value) else np.int32(value)


@kernel
def _slide(
    entering: tuple[NDArray[np.int32], NDArray[np.int32]],
    leaving: tuple[NDArray[np.int32], NDArray[np.int32]],
    columns: NDArray[np.int32],
) -> None:
    """Move the sums of each column on by a line: the pairs of two lines enter, those of two others leave."""
    one = np.int32(1 << _COUNT_SHIFT)
    zero = np.int32(0)
    (p, q), (r, s) = entering, leaving
    for x in range(columns.shape[0]):
        # Numba widens every sum to 64 bits; cut back at once, twice as many fit a vector.
        up, down = np.int32(p[x] - q[x]), np.int32(q[x] - p[x])
        new = np.int32(one + (up if up > down else down)) if (p[x] >= 0) & (q[x] >= 0) else zero
        up, down = np.int32(r[x] - s[x]), np.int32(s[x] - r[x])
        old = np.int32(one + (up if up > down else down)) if (r[x] >= 0) & (s[x] >= 0) else zero
        columns[x] = np.int32(columns[x] + np.int32(new - old))


@kernel
def _across(columns: NDArray[np.int32], count: int, sums: NDArray[np.int32]) -> None:
    """Sums of ``count`` columns from each on; made afresh, as sums that run along a line do not vectorise."""
    for x in range(sums.shape[0]):
        sums[x] = columns[x]
    for d in range(1, count):
        for x in range(sums.shape[0]):
            sums[x] = np.int32(sums[x] + columns[d + x])


@kernel
def _mean_of_offsets(sums: NDArray[np.int32], grey: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    """The mean of the offsets' means, by one division: (a/i + b/j) / 2 = (a j + b i) / (2 i j).

    Numerator and denominator are whole numbers that float64 holds (but for windows and levels far
    beyond what is in use), so that the quotient is as exact as the mean of four quotients.
    """
    a, b, c, d = sums[0], sums[1], sums[2], sums[3]
    for x in range(out.shape[0]):
        i, j = (a[x] >> _COUNT_SHIFT) & _LOWER, (b[x] >> _COUNT_SHIFT) & _LOWER
        k, m = (c[x] >> _COUNT_SHIFT) & _LOWER, (d[x] >> _COUNT_SHIFT) & _LOWER
        offsets = np.int32(i > 0) + np.int32(j > 0) + np.int32(k > 0) + np.int32(m > 0)
        # An offset without a pair has a sum of 0, over whatever but 0.
        fi, fj = np.float64(np.int32(i if i > 0 else 1)), np.float64(np.int32(j if j > 0 else 1))
        fk, fm = np.float64(np.int32(k if k > 0 else 1)), np.float64(np.int32(m if m > 0 else 1))
        fa, fb = np.float64(np.int32(a[x] & _LOWER)), np.float64(np.int32(b[x] & _LOWER))
        fc, fd = np.float64(np.int32(c[x] & _LOWER)), np.float64(np.int32(d[x] & _LOWER))
        total = (fa * fj + fb * fi) * (fk * fm) + (fc * fm + fd * fk) * (fi * fj)
        parts = np.float64(np.int32(offsets if offsets > 0 else 1)) * ((fi * fj) * (fk * fm))
        none = (offsets == 0) | (grey[x] < 0)
        out[x] = np.float32(np.nan) if none else np.float32(total / parts)


@kernel
def _dissimilarity(band: NDArray[np.float32], levels: int, half: int, out: NDArray[np.float32]) -> None:
    height, width = band.shape
    size, wide = 2 * half + 1, width + 2 * half
    # The window's lines of grey levels and the one that it has just left, in a ring, with a rim of no data.
    ring = size + 1
    grey = np.full((ring, wide), np.int32(_NO_DATA), np.int32)
    columns, sums = np.zeros((4, wide), np.int32), np.empty((4, width), np.int32)
    for last in range(height + half):
        new, before = grey[last % ring], grey[(last - 1) % ring]
        left, first = grey[(last - size) % ring], grey[(last - size + 1) % ring]
        if last < height:
            _quantise(band[last], levels, new[half : half + width])
        else:
            new[:] = _NO_DATA
        # 0, 45, 90 and 135 degrees; a difference has no direction, so each looks down or right.
        _slide((new[:-1], new[1:]), (left[:-1], left[1:]), columns[0, :-1])
        _slide((before[1:], new[:-1]), (left[1:], first[:-1]), columns[1, 1:])
        _slide((before, new), (left, first), columns[2])
        _slide((before[:-1], new[1:]), (left[:-1], first[1:]), columns[3, :-1])
        y = last - half
        if y >= 0:
            _across(columns[0], size - 1, sums[0])
            _across(columns[1, 1:], size - 1, sums[1])
            _across(columns[2], size, sums[2])
            _across(columns[3], size - 1, sums[3])
            _mean_of_offsets(sums, grey[y % ring, half:], out[y])


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
    if window_px < 3 or window_px % 2 == 0 or levels < 2 or window_px**2 * (levels - 1) > _LOWER:
        raise InputError(
            f"a window of {window_px} pixels and {levels} levels",
            f"an odd window of at least 3, at least 2 levels, window^2 * (levels - 1) <= {_LOWER}",
            "choose a smaller or an odd window, or fewer levels",
        )
    half = window_px // 2
    result = np.empty(band.shape, np.float32) if out is None else out
    if result.size:
        _dissimilarity(band, levels, half, result)
    return result
