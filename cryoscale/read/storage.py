"""How a file is stored, from its header alone: where it lies, its chunks, and the bytes of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cryoscale.read.band import opened
from cryoscale.read.lattice import Lattice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cryoscale.read.band import AssetSpec


@dataclass(frozen=True, eq=False)
class Storage:
    """A file as whoever fetches from it sees it.

    Attributes:
        lattice: where its pixels lie.
        chunk_px: rows and columns of a tile or strip.
        itemsize: bytes of a decoded pixel.
        stored_bytes: (row, column) of chunks, as they are stored.
    """

    lattice: Lattice
    chunk_px: tuple[int, int]
    itemsize: int
    stored_bytes: NDArray[np.int64]


def storage_of(spec: AssetSpec) -> Storage:
    """What the header of an asset says; over HTTP one request.

    Raises:
        UnreadableError: if the file is absent or broken.
        AssetReadError: if it is out of reach for now.
    """
    with opened(spec) as (source, *_):
        height, width = source.dataset.block_shapes[0]
        rows, columns = -(-source.lattice.height // height), -(-source.lattice.width // width)
        stored = np.array(
            [[source.stored_bytes(row, column) for column in range(columns)] for row in range(rows)], np.int64
        )
        return Storage(source.lattice, (height, width), np.dtype(source.dataset.dtypes[0]).itemsize, stored)
