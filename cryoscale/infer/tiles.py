"""The lattice of tiles: origins at multiples of the stride from the origin of the UTM zone.

Since no run, region or block has a say in where a tile lies, a pixel is covered by the same tiles
whatever is mapped around it.
"""

from __future__ import annotations

from cryoscale.grid import Block, Window


def stride_px(tile_px: int, overlap: float) -> int:
    """Distance in pixels between the origins of neighbouring tiles, at least 1.

    It is ``tile_px * (1 - overlap)`` rounded to whole pixels, and need not divide the tile.

    Raises:
        ValueError: if the tile is empty, or the overlap is not a share in [0, 1).
    """
    if tile_px < 1:
        raise ValueError(f"tile_px is {tile_px}; a tile has at least 1 pixel")
    if not 0.0 <= overlap < 1.0:
        raise ValueError(f"overlap is {overlap}; it is a share of the tile in [0, 1)")
    return max(1, round(tile_px * (1.0 - overlap)))


def tile_origins(start: int, stop: int, tile_px: int, stride: int) -> range:
    """Origins along one axis, ascending, of the tiles that touch the world pixels [start, stop).

    An origin is ``k * stride`` for a whole ``k`` of either sign; its tile spans ``tile_px`` pixels.

    Raises:
        ValueError: if nothing lies in [start, stop), or if the stride would leave gaps.
    """
    if stop <= start:
        raise ValueError(f"no pixels in [{start}, {stop})")
    if not 1 <= stride <= tile_px:
        raise ValueError(f"a stride of {stride} px leaves gaps between tiles of {tile_px} px")
    first = (start - tile_px) // stride + 1
    last = (stop - 1) // stride
    return range(first * stride, (last + 1) * stride, stride)


def window_of_block(block: Block | Window) -> Window:
    """The world pixels of a block; a window is its own."""
    return block.window if isinstance(block, Block) else block


def read_window(block: Block | Window, tile_px: int, overlap: float) -> Window:
    """The hull of all tiles that touch ``block``: what features must cover for an exact inside."""
    own = window_of_block(block)
    stride = stride_px(tile_px, overlap)
    rows = tile_origins(own.row, own.row + own.height, tile_px, stride)
    cols = tile_origins(own.col, own.col + own.width, tile_px, stride)
    return Window(
        own.epsg,
        rows[0],
        cols[0],
        rows[-1] + tile_px - rows[0],
        cols[-1] + tile_px - cols[0],
    )
