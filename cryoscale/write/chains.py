"""Chains of pixel edges that end on the borders of parts, tied together to closed rings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cryoscale.write.rims import WEST, Lines, turns

_Corner = tuple[int, int]


class Chains:
    """The open chains of a map that is read in rows of blocks from the top.

    Chains have their body on the right hand. Where several arrive at a corner, each goes on by the first of
    a turn to the right, straight on and a turn to the left that there is: so it keeps to its own pixel where
    two meet over the corner only, and to its own side of a cut.
    """

    def __init__(self) -> None:
        self._points: dict[int, NDArray[np.int32]] = {}
        self._after: dict[int, int] = {}
        self._arriving: defaultdict[_Corner, list[tuple[int, int]]] = defaultdict(list)
        self._leaving: defaultdict[_Corner, list[tuple[int, int]]] = defaultdict(list)
        self._last = 0

    def add(self, points: NDArray[np.int32], first: int, last: int) -> int:
        """A chain by its corners (x, y) and the directions of its first and last edge; its number."""
        self._last += 1
        self._points[self._last] = points.copy()  # and not a view of all that its block has
        (x0, y0), (x1, y1) = points[0].tolist(), points[-1].tolist()
        self._leaving[y0, x0].append((first, self._last))
        self._arriving[y1, x1].append((last, self._last))
        return self._last

    def add_run(self, start: int, stop: int, line: int, direction: int) -> int:
        """A straight chain along a border of parts, the row or column of corners ``line``; its number."""
        return self.add(straight([start, stop], line, direction), direction, direction)

    def tie(self, below: int) -> None:
        """Tie all ends above the row of corners ``below``: everything around them is known."""
        for corner in [corner for corner in self._arriving if corner[0] < below]:
            leaving = dict(self._leaving.pop(corner))
            for direction, chain in self._arriving.pop(corner):
                turns_to = (direction + 1) % 4, direction, (direction + 3) % 4
                self._after[chain] = leaving[next(turn for turn in turns_to if turn in leaving)]

    def rings(self, chains: Sequence[int]) -> Lines:
        """The rings that these chains make up, all of whose ends are tied; they are let go."""
        found = []
        for first in chains:
            parts, chain = [], first
            while chain in self._points:
                parts.append(self._points.pop(chain)[:-1])
                chain = self._after.pop(chain)
            if parts:
                ring = np.concatenate(parts)
                found.append(ring[turns(ring)])
        return Lines.of(found)


def straight(along: Sequence[int], line: int, direction: int) -> NDArray[np.int32]:
    """Corners (x, y) on the row or column ``line``, in the direction's order."""
    points = np.full((len(along), 2), line, np.int32)
    points[:, direction % 2] = along if direction < WEST else along[::-1]
    return points
