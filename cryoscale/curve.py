"""The order of a run's blocks: what follows one another lies side by side, and long stretches are compact.

Neighbours share tiles of their scenes, which a machine keeps for a while (:mod:`cryoscale.read.kept`), and a
part of a run's blocks has a short border to the others. The curve is Hilbert's ("Über die stetige Abbildung
einer Linie auf ein Flächenstück", 1891, https://doi.org/10.1007/BF01199431).
"""

from __future__ import annotations

from collections.abc import Sequence

from cryoscale.ledger import Work


def along_curve(work: Sequence[Work]) -> list[Work]:
    """Year by year and zone by zone, each zone's blocks along a Hilbert curve."""
    corners: dict[int, tuple[int, int]] = {}
    for _, block in work:
        row, col = corners.get(block.epsg, (block.row, block.col))
        corners[block.epsg] = min(row, block.row), min(col, block.col)
    far = max((max(b.row - corners[b.epsg][0], b.col - corners[b.epsg][1]) for _, b in work), default=0)
    side = 1 << far.bit_length()

    def place(item: Work) -> tuple[int, int, int]:
        year, block = item
        row, col = corners[block.epsg]
        return year, block.epsg, _along_hilbert(block.row - row, block.col - col, side)

    return sorted(work, key=place)


def _along_hilbert(row: int, col: int, side: int) -> int:
    """How far along the Hilbert curve through a square of ``side`` cells, a power of two, a cell lies."""
    distance, step = 0, side // 2
    while step:
        right, down = int(col & step > 0), int(row & step > 0)
        distance += step * step * ((3 * right) ^ down)
        if not down:
            if right:
                row, col = side - 1 - row, side - 1 - col
            row, col = col, row
        step //= 2
    return distance
