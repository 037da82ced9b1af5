"""Where a patch lies, as networks with a location code are told it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import Window, location_code
from cryoscale.learn.patches import Patches


def code_of(
    patches: Patches, index: int, *, row: int = 0, col: int = 0, size_px: int | None = None
) -> NDArray[np.float32]:
    """Location code (4,) of the centre of a patch, or of its part of ``size_px`` from ``row``, ``col`` on."""
    place, size = patches.place(index), size_px or patches.patch_px
    return location_code(Window(place.epsg, place.row + row, place.col + col, size, size))
