"""Tiles of a few blocks of a run, on which ways to run its network are tried before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.basis import context_of
from cryoscale.errors import AssetReadError, InputError
from cryoscale.features.packing import Packed
from cryoscale.features.stack import PcaBasis
from cryoscale.grid import Block, Window, location_code
from cryoscale.infer.predict import optical_channels, valid_pixels
from cryoscale.models.parity import LEAST_PX
from cryoscale.plan import Items
from cryoscale.read.raster import UnreadableError
from cryoscale.settings import Settings
from cryoscale.task import Stopwatch, cut_of, inputs_of, packed_of, stack_of

BLOCKS = 3
"""Blocks that tiles are taken from, spread over the run."""

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns of a block's tiles, side by side."""

_MOST_LOOKED_AT = 12
"""Blocks that are read at most to find those with data."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """Tiles of a run.

    Attributes:
        tiles: features (n, c, h, w), physical units, NaN = missing.
        valid: pixels (n, h, w) that are mapped.
        codes: location codes (n, 4), for a model that takes them.
        packed: what the tiles of each block are made of, which lie as :data:`CORNERS` says.
    """

    tiles: NDArray[np.float32]
    valid: NDArray[np.bool_]
    codes: NDArray[np.float32] | None
    packed: tuple[Packed, ...]


def take(
    settings: Settings, model: Mapping[str, Any], items: Items, blocks: Sequence[Block]
) -> Specimen | None:
    """Tiles from the middles of blocks that show enough to judge by; None where none of a dozen does.

    Args:
        settings: of the run.
        model: the record of the model, the run's own PCA basis in it.
        items: the scenes by year and modality.
        blocks: what is to be mapped in each year.
    """
    basis = PcaBasis.from_dict(model["pca"]) if model["pca"] else None
    channels = tuple(model["channels"])
    context = dataclasses.replace(context_of(settings, "", items, basis), channels=channels)
    step = -(-len(blocks) // _MOST_LOOKED_AT)
    edge = settings.tile_px
    tiles, valid, codes, packed = [], [], [], []
    for block in blocks[step // 2 :: step]:
        middle = _middle(block, 2 * edge)
        try:
            inputs, _ = inputs_of(context, settings.years[-1], middle, Stopwatch())
            stack = stack_of(context, inputs).isel(cut_of(middle)).sel(channel=list(channels))
        except (AssetReadError, UnreadableError, InputError):
            continue  # the run will say so of this block, or sets it aside for what must not be missing
        array = np.ascontiguousarray(stack.to_numpy(), np.float32)
        mask = valid_pixels(array, optical_channels(channels, len(channels)))
        if np.count_nonzero(mask) * BLOCKS < LEAST_PX:
            continue
        packed.append(packed_of(context, inputs))
        tiles += corners(array, edge)
        valid += corners(mask, edge)
        codes += [
            location_code(Window(middle.epsg, middle.row + y * edge, middle.col + x * edge, edge, edge))
            for y, x in CORNERS
        ]
        if len(packed) == BLOCKS:
            break
    if not tiles:
        return None
    wanted = np.stack(codes) if model["needs_location"] else None
    return Specimen(np.stack(tiles), np.stack(valid), wanted, tuple(packed))


def corners(array: NDArray[Any], edge_px: int) -> list[NDArray[Any]]:
    """The tiles of an array (..., 2 * edge, 2 * edge), as :data:`CORNERS` says."""
    return [array[..., y * edge_px : (y + 1) * edge_px, x * edge_px : (x + 1) * edge_px] for y, x in CORNERS]


def _middle(block: Block, edge_px: int) -> Window:
    """A window around the middle of a block, which it may be larger than."""
    own = block.window
    row, col = own.row + (own.height - edge_px) // 2, own.col + (own.width - edge_px) // 2
    return Window(own.epsg, row, col, edge_px, edge_px)
