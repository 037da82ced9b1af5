"""Elevation models of shapes whose divides are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from affine import Affine

from cryoscale.write.flowsheds import Terrain

WEST, NORTH, CELL_M = 500_000.0, 5_200_000.0, 40.0
Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


def terrain(surface: Surface, width_m: float, height_m: float, cell_m: float = CELL_M) -> Terrain:
    """The surface of metres east and south of the corner, sampled at the centres of cells."""
    x, y = ((np.arange(round(size / cell_m)) + 0.5) * cell_m for size in (width_m, height_m))
    elevation = np.broadcast_to(surface(x[None, :], y[:, None]), (y.size, x.size))
    return Terrain(elevation.astype(np.float32), Affine(cell_m, 0, WEST, 0, -cell_m, NORTH))


def valleys(lines: Sequence[tuple[float, float, float, float, float, float]], side: float) -> Surface:
    """Valleys along lines (x, y, elevation of the head, then of the mouth) with sides of that gradient."""

    def surface(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = []
        for x0, y0, z0, x1, y1, z1 in lines:
            length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2
            along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length2, 0.0, 1.0)
            away = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
            found.append(z0 + along * (z1 - z0) + side * away)
        return np.min(found, axis=0)

    return surface
