"""Source chunks that any block touches, each counted once however many blocks do.

That is what a machine is sent that maps all the blocks and keeps what their neighbours share
(:mod:`cryoscale.read.kept`); the sum over the blocks is what machines are sent that keep nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cryoscale.forecast.layers import Layer
from cryoscale.forecast.windows import Floats, Ints

Box = tuple[Ints, Ints, Ints, Ints]
"""Top, left, bottom and right of cuts in chunks, the last two not included; arrays (k,)."""


class Touched:
    """Which chunks of some items are touched; the items' layers lie alike."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        items, (rows, columns) = len(layer.shape), layer.shape.max(axis=0, initial=0)
        down, across = layer.chunk_px
        # the borders of cuts, whose running sums are the cuts that lie over a chunk
        self._borders = np.zeros((items, -(-rows // down) + 1, -(-columns // across) + 1), np.int32)

    def add(self, item: Ints, box: Box) -> None:
        """Cuts of items, empty ones left out by the caller."""
        top, left, bottom, right = box
        for row, column, step in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
            np.add.at(self._borders, (item, row, column), step)

    def chunks(self) -> NDArray[np.bool_]:
        """(item, row, column) of the chunks that a cut lies over."""
        lying = self._borders.cumsum(axis=1).cumsum(axis=2) > 0
        return np.asarray(lying[:, :-1, :-1])

    def is_like(self, layer: Layer) -> bool:
        """Whether a band's pixels and chunks lie where these do."""
        own = self.layer
        return own is layer or (
            own.chunk_px == layer.chunk_px
            and np.array_equal(own.shape, layer.shape)
            and np.array_equal(own.affine, layer.affine)
        )


@dataclass
class Once:
    """What blocks touch of one source: looked at for certain, and read with a share."""

    looked: list[tuple[Touched, Sequence[Layer]]] = field(default_factory=list)
    read: list[tuple[Touched, Sequence[Layer]]] = field(default_factory=list)

    def touched(self, layers: Sequence[Layer], *, looks: bool) -> Touched:
        """Where to note cuts of bands that lie alike."""
        noted = self.looked if looks else self.read
        for found, known in noted:
            if found.is_like(layers[0]) and {id(x) for x in known} == {id(x) for x in layers}:
                return found
        made = Touched(layers[0])
        noted.append((made, layers))
        return made

    def stored_bytes(self, share: Floats | None = None) -> float:
        """Bytes of all chunks that are touched, as they are stored.

        Args:
            share: of each item, how likely what would be read of it is read; all of it where None.
        """
        looked, read = _by_layer(self.looked), _by_layer(self.read)
        total = 0.0
        for number, (layer, chunks) in read.items():
            known = looked.get(number)
            likely = _stored(layer, chunks if known is None else chunks & ~known[1])
            total += float((likely if share is None else likely * share).sum())
        return total + sum(float(_stored(*known).sum()) for known in looked.values())


def _by_layer(
    noted: Sequence[tuple[Touched, Sequence[Layer]]],
) -> dict[int, tuple[Layer, NDArray[np.bool_]]]:
    """Which chunks of each band are touched."""
    found: dict[int, tuple[Layer, NDArray[np.bool_]]] = {}
    for touched, layers in noted:
        chunks = touched.chunks()
        for layer in layers:
            before = found.get(id(layer))
            found[id(layer)] = layer, chunks if before is None else before[1] | chunks
    return found


def _stored(layer: Layer, chunks: NDArray[np.bool_]) -> Floats:
    """Bytes (items,) of chosen chunks."""
    found: Floats = chunks.sum(axis=(1, 2)) * layer.chunk_bytes
    for number, table in enumerate(layer.tables):
        known = np.flatnonzero(layer.known == number)
        each = np.diff(np.diff(table, axis=0), axis=1)
        rows, columns = each.shape
        found[known] = np.tensordot(chunks[known, :rows, :columns], each, axes=2)
    return found
