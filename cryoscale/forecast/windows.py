"""Many blocks of a zone at once, as arrays: their windows, tiles and places on the globe.

What :class:`cryoscale.grid.Window`, :mod:`cryoscale.infer.tiles` and :mod:`cryoscale.read.session` say of one
block, in closed form for all of them, since a region has 100,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M, Block, transformer, turned
from cryoscale.infer.tiles import stride_px
from cryoscale.read.sample import NODE_STEP_PX

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_EDGE = np.linspace(0.0, 1.0, 3)
"""Along an edge of a block: within 20 km a line of the zone's grid bends by 50 m, a footprint's collar is
200 times that."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Rectangles of world pixels of zone ``epsg``, each attribute (n,)."""

    epsg: int
    row: Ints
    col: Ints
    height: Ints
    width: Ints

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, part: slice | Ints | NDArray[np.bool_]) -> Windows:
        return Windows(self.epsg, self.row[part], self.col[part], self.height[part], self.width[part])

    @classmethod
    def of(cls, epsg: int, blocks: Sequence[Block]) -> Windows:
        """The blocks' own pixels."""
        place = np.array([(b.row * b.size_px, b.col * b.size_px, b.size_px) for b in blocks], np.int64)
        row, col, size = place.reshape(-1, 3).T
        return cls(epsg, row, col, size, size)

    def pad(self, px: int) -> Windows:
        """Grown by ``px`` pixels on each side."""
        return Windows(self.epsg, self.row - px, self.col - px, self.height + 2 * px, self.width + 2 * px)

    def hulls(self, tile_px: int, overlap: float) -> tuple[Windows, Ints, Ints]:
        """What :func:`cryoscale.infer.tiles.read_window` gives for each, and rows and columns of tiles."""
        stride = stride_px(tile_px, overlap)
        top, down = _tiles(self.row, self.height, tile_px, stride)
        left, across = _tiles(self.col, self.width, tile_px, stride)
        height, width = (down - 1) * stride + tile_px, (across - 1) * stride + tile_px
        return Windows(self.epsg, top, left, height, width), down, across

    def bounds_m(self) -> Floats:
        """West, south, east, north (n, 4) in metres."""
        return RESOLUTION_M * np.column_stack(
            [self.col, -(self.row + self.height), self.col + self.width, -self.row]
        ).astype(np.float64)

    def bounds_deg(self) -> Floats:
        """West, south, east, north (n, 4); at the antimeridian they go on beyond 180, all on one side."""
        found = projected(self.bounds_m(), f"EPSG:{self.epsg}", "EPSG:4326")
        middle = 6.0 * (self.epsg % 100) - 183.0
        found[:, ::2] -= 360.0 * np.round((found[:, :1] - middle) / 360.0)
        return found

    def nodes_m(self, step_px: int = 1) -> Floats:
        """Bounds (n, 4) in metres of the nodes on which reading onto pixels of ``step_px`` is worked out.

        See :data:`cryoscale.read.sample.NODE_STEP_PX`; windows begin and end at whole such pixels.
        """
        step_m = step_px * RESOLUTION_M
        left, right = _nodes(self.col // step_px, self.width // step_px)
        top, bottom = _nodes(self.row // step_px, self.height // step_px)
        return step_m * np.column_stack([left, -bottom, right, -top])


def _tiles(start: Ints, length: Ints, tile_px: int, stride: int) -> tuple[Ints, Ints]:
    first = (start - tile_px) // stride + 1
    last = (start + length - 1) // stride
    return first * stride, last - first + 1


def _nodes(first: Ints, count: Ints) -> tuple[Floats, Floats]:
    start, stop = first // NODE_STEP_PX, (first + count - 1) // NODE_STEP_PX + 1
    low: Floats = (start * NODE_STEP_PX + 0.5).astype(np.float64)
    return low, (stop * NODE_STEP_PX + 0.5).astype(np.float64)


def projected(bounds: Floats, source: str, target: str) -> Floats:
    """Bounds (n, 4) of boxes in another CRS; longitudes go on beyond 180 rather than jump."""
    if source == target:
        return bounds
    u, v = (grid.ravel() for grid in np.meshgrid(_EDGE, _EDGE))
    west, south, east, north = (side[:, None] for side in bounds.T)
    x, y = transformer(source, target).transform(west + u * (east - west), south + v * (north - south))
    if target == "EPSG:4326":
        x = turned(x, x[:, :1])
    return np.column_stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)])
