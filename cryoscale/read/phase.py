"""Wrapped phase as the complex number that it is the angle of, so that it can be interpolated.

Angles must not be averaged: +3.1 and -3.1 rad are neighbours whose mean is pi, not 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The largest float32 that is not above pi: the interval is (-pi, pi] for those who read it as float64 too.
_PI = np.nextafter(np.float32(np.pi), np.float32(0))


def phasor_of(phase: NDArray[np.float32]) -> NDArray[np.complex64]:
    """``exp(i phase)`` of a phase in rad, of any shape; NaN stays NaN."""
    vector: NDArray[np.complex64] = np.exp(1j * phase).astype(np.complex64)
    return vector


def phase_of(vector: NDArray[np.complex64]) -> NDArray[np.float32]:
    """The angle in (-pi, pi] of phasors of any shape; NaN where they cancelled or are NaN."""
    phase = np.angle(vector).astype(np.float32)
    # The sign of a zero would put a phasor on the cut at -pi.
    phase[np.abs(phase) > _PI] = _PI
    phase[vector == 0] = np.nan
    return phase
