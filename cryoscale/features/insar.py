"""Coherence and phase of a coregistered radar pair, and phase resampled as a complex number."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import InputError
from cryoscale.kernel import kernel

WINDOW_PX = 5
HALO_PX = WINDOW_PX // 2
"""How many pixels beyond its own the multilook window looks."""

# The float32 nearest to pi is above pi; the one below keeps angles in (-pi, pi] for any reader.
_PI_BELOW = np.nextafter(np.float32(np.pi), np.float32(0.0))


@kernel
def _angle(im: float, re: float) -> np.float32:
    """arg(re + i im) as a float32 in (-pi, pi]."""
    angle = math.atan2(im, re)
    if angle <= -math.pi:
        angle = math.pi
    return min(max(np.float32(angle), -_PI_BELOW), _PI_BELOW)


@kernel
def _products(
    s1: NDArray[np.complex64], s2: NDArray[np.complex64], y: int, half: int, row: NDArray[np.float64]
) -> None:
    """One line's s1 conj(s2) (real, imaginary), abs(s1)^2 and abs(s2)^2; all 0 where there is no data."""
    for x in range(s1.shape[1]):
        a, b = s1[y, x], s2[y, x]
        a_re, a_im = np.float64(a.real), np.float64(a.imag)
        b_re, b_im = np.float64(b.real), np.float64(b.imag)
        power_a, power_b = a_re * a_re + a_im * a_im, b_re * b_re + b_im * b_im
        # True for a sample that is neither NaN nor infinite nor the 0 that processors fill with.
        good = (power_a > 0.0) & (power_b > 0.0) & (power_a < np.inf) & (power_b < np.inf)
        row[0, half + x] = a_re * b_re + a_im * b_im if good else 0.0
        row[1, half + x] = a_im * b_re - a_re * b_im if good else 0.0
        row[2, half + x] = power_a if good else 0.0
        row[3, half + x] = power_b if good else 0.0


@kernel
def _multilook(
    s1: NDArray[np.complex64],
    s2: NDArray[np.complex64],
    half: int,
    coherence: NDArray[np.float32],
    phase: NDArray[np.float32],
) -> None:
    height, width = s1.shape
    size = 2 * half + 1
    # The window's lines, in a ring. Sums are made afresh for each pixel, always top to bottom and
    # left to right: running sums of floats would carry the rounding of wherever they began.
    lines = np.zeros((size, 4, width + 2 * half), np.float64)
    columns = np.zeros((4, width + 2 * half), np.float64)
    for y in range(min(half, height)):
        _products(s1, s2, y, half, lines[y % size])
    for y in range(height):
        if y + half < height:
            _products(s1, s2, y + half, half, lines[(y + half) % size])
        columns[:] = 0.0
        for line in range(max(0, y - half), min(height, y + half + 1)):
            for k in range(4):
                for x in range(width + 2 * half):
                    columns[k, x] += lines[line % size, k, x]
        for x in range(width):
            if lines[y % size, 2, half + x] == 0.0:
                coherence[y, x] = np.nan
                phase[y, x] = np.nan
                continue
            re, im, power_1, power_2 = 0.0, 0.0, 0.0, 0.0
            for d in range(size):
                re += columns[0, x + d]
                im += columns[1, x + d]
                power_1 += columns[2, x + d]
                power_2 += columns[3, x + d]
            ratio = math.sqrt(re * re + im * im) / (math.sqrt(power_1) * math.sqrt(power_2))
            coherence[y, x] = np.float32(min(ratio, 1.0))
            phase[y, x] = _angle(im, re)


def coherence_phase(
    slc1: NDArray[np.complex64],
    slc2: NDArray[np.complex64],
    *,
    window_px: int = WINDOW_PX,
    out: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coherence in [0, 1] and phase in (-pi, pi] rad (y, x) of a coregistered SLC pair (y, x).

    abs(sum s1 conj(s2)) / sqrt(sum abs(s1)^2 * sum abs(s2)^2) and arg(sum s1 conj(s2)) over a centred
    boxcar of ``window_px`` squared. A sample that is NaN or exactly 0 in either image is no data: it
    does not count, and is NaN itself. At the rim the window keeps what lies in the data.

    Raises:
        InputError: if the window is even or the images differ in shape.

    Source: Touzi et al. (1999), "Coherence estimation for SAR imagery",
    https://doi.org/10.1109/36.739146.
    """
    if window_px < 1 or window_px % 2 == 0 or slc1.shape != slc2.shape:
        raise InputError(
            f"a multilook window of {window_px} pixels on images of {slc1.shape} and {slc2.shape}",
            "an odd window on two images of one shape",
            "give the pair on one grid, and an odd window",
        )
    coherence, phase = (
        out if out is not None else (np.empty(slc1.shape, np.float32), np.empty(slc1.shape, np.float32))
    )
    _multilook(slc1, slc2, window_px // 2, coherence, phase)
    return coherence, phase
