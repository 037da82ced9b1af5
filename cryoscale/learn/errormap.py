"""Where map and truth differ, thinned to a picture: one code a pixel, filled part by part."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import Window
from cryoscale.learn.scan import Part

UNKNOWN, NEITHER, BOTH, MISSED, ADDED, MIXED = 255, 0, 1, 2, 3, 4
"""Not compared; no ice on either side; ice of the same kind; ice of truth only; of the map only; clean ice
taken for debris-covered, or the other way round."""

LONGEST_PX = 1600


class ErrorMap:
    """Codes (y, x) of one year and zone; every ``step``-th pixel of every ``step``-th row."""

    def __init__(self, whole: Window, longest_px: int = LONGEST_PX) -> None:
        self.whole = whole
        self.step = max(1, math.ceil(max(whole.shape) / longest_px))
        self.codes = np.full(
            (math.ceil(whole.height / self.step), math.ceil(whole.width / self.step)), UNKNOWN, np.uint8
        )

    def add(self, part: Part) -> None:
        """Fill in the part's own pixels."""
        row, col = part.window.row - self.whole.row, part.window.col - self.whole.col
        thin = (slice(-row % self.step, None, self.step), slice(-col % self.step, None, self.step))
        codes = code_of(part.inner(part.truth), part.inner(part.label))[thin]
        top, left = -(-row // self.step), -(-col // self.step)
        self.codes[top : top + codes.shape[0], left : left + codes.shape[1]] = codes

    def known(self) -> tuple[slice, slice] | None:
        """Rows and columns of ``codes`` around all that was compared, or None."""
        rows, cols = (np.flatnonzero((self.codes != UNKNOWN).any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def code_of(truth: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The code of each pixel (y, x) of two label arrays; 255 on either side is not known."""
    true, mapped = np.isin(truth, (1, 2)), np.isin(label, (1, 2))
    codes = np.full(truth.shape, NEITHER, np.uint8)
    codes[true & mapped] = MIXED
    codes[true & (truth == label)] = BOTH
    codes[true & ~mapped] = MISSED
    codes[~true & mapped] = ADDED
    codes[(truth == UNKNOWN) | (label == UNKNOWN)] = UNKNOWN
    return codes
