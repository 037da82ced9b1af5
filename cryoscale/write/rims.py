"""The rims of numbered bodies on a raster, traced edge by edge of their pixels.

Pixels are joined over edges and not over corners (4-connectivity): two bodies that touch only at a
pixel corner stay two, and what is none, beside them, is joined over the corner. A rim is walked with its
body on the right hand, in pixel coordinates with x to the right and y down; its vertices are the pixel
corners at which it turns, whole numbers, so that nothing is lost or moved where parts of a rim are put
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cryoscale.kernel import kernel

EAST, SOUTH, WEST, NORTH = range(4)
"""Directions of an edge; one more turns right."""


@dataclass(frozen=True)
class Lines:
    """Lines through pixel corners, one after the other; of a ring the first corner is not repeated.

    Attributes:
        points: ``(n, 2)``, x and y of their corners.
        starts: ``(lines + 1,)``, where each begins in ``points``, and the end of the last.
    """

    points: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, lines: Sequence[NDArray[np.int32]]) -> Self:
        """Lines given one by one."""
        sizes = np.array([0, *(len(line) for line in lines)], np.int64)
        return cls(np.concatenate([np.empty((0, 2), np.int32), *lines]), np.cumsum(sizes))

    @classmethod
    def joined(cls, several: Iterable[Lines]) -> Self:
        """The lines of all, one after the other."""
        given: list[Lines] = [cls.of([]), *several]
        sizes = np.concatenate([one.sizes for one in given])
        return cls(np.concatenate([one.points for one in given]), np.concatenate([[0], np.cumsum(sizes)]))

    def __len__(self) -> int:
        return self.starts.size - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.points[self.starts[index] : self.starts[index + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many corners each has."""
        return np.diff(self.starts)

    def take(self, index: NDArray[np.int64]) -> Lines:
        """Some of them."""
        sizes = self.sizes[index]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[:-1][index] - starts[:-1], sizes)
        return Lines(self.points[at], starts)


@dataclass(frozen=True)
class Traced:
    """The rims of a part of a raster, but for the edges on its four sides.

    Attributes:
        chains: what begins and ends on a side.
        chain_numbers: the number on the right hand of each.
        first: direction of the first edge of each.
        last: direction of the last one.
        rings: what is closed within the part; one may come to a corner twice, turning right there.
        ring_numbers: the number on the right hand of each.
    """

    chains: Lines
    chain_numbers: NDArray[np.int32]
    first: NDArray[np.uint8]
    last: NDArray[np.uint8]
    rings: Lines
    ring_numbers: NDArray[np.int32]


def trace(numbers: NDArray[np.int32], corner: tuple[int, int]) -> Traced:
    """The rims of 4-connected bodies.

    Args:
        numbers: ``(y, x)``, 0 outside of all bodies; what touches over an edge has one number.
        corner: x and y of its first pixel in the whole raster, in whose coordinates lines are given.
    """
    points, starts, number, first, last, n_open = _trace(np.ascontiguousarray(numbers, np.int32))
    points += np.array(corner, np.int32)
    lines = Lines(points, starts)
    index = np.arange(len(lines))
    return Traced(
        lines.take(index[:n_open]),
        number[:n_open],
        first[:n_open],
        last[:n_open],
        lines.take(index[n_open:]),
        number[n_open:],
    )


def turns(ring: NDArray[np.int32]) -> NDArray[np.bool_]:
    """At which of its corners a ring of horizontal and vertical edges turns."""
    before = ring[:, 0] == np.roll(ring[:, 0], 1)
    after = ring[:, 0] == np.roll(ring[:, 0], -1)
    return np.asarray(before != after)


@kernel
def _trace(
    numbers: NDArray[np.int32],
) -> tuple[
    NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint8], int
]:
    """Corners, starts, numbers, first and last directions of lines, and how many of them are open.

    Each node (pixel corner) holds as bits the directions in which edges leave it that are yet to be
    walked; every edge has its body on the right hand, and so exactly one direction.
    """
    height, width = numbers.shape
    leaving = np.zeros((height + 1, width + 1), np.uint8)
    edges = 0
    for y in range(1, height):
        for x in range(width):
            above, below = numbers[y - 1, x] > 0, numbers[y, x] > 0
            if below and not above:
                leaving[y, x] |= 1 << EAST
                edges += 1
            elif above and not below:
                leaving[y, x + 1] |= 1 << WEST
                edges += 1
    for y in range(height):
        for x in range(1, width):
            left, right = numbers[y, x - 1] > 0, numbers[y, x] > 0
            if left and not right:
                leaving[y, x] |= 1 << SOUTH
                edges += 1
            elif right and not left:
                leaving[y + 1, x] |= 1 << NORTH
                edges += 1
    most_open = 2 * (height + width)
    most = edges // 4 + most_open
    points = np.empty((edges + most_open, 2), np.int32)
    starts = np.zeros(most + 1, np.int64)
    number = np.empty(most, np.int32)
    first, last = np.empty(most, np.uint8), np.empty(most, np.uint8)
    n_lines, n_open, n_points = 0, 0, 0
    for closed in (False, True):
        if closed:
            n_open = n_lines
        for y0 in range(height + 1):
            # what is open begins on a side; after that all that is left is closed
            step = 1 if closed or y0 in (0, height) else width
            for x0 in range(0, width + 1, step):
                while leaving[y0, x0]:
                    begun = 0
                    while not leaving[y0, x0] & (1 << begun):
                        begun += 1
                    number[n_lines] = numbers[y0 - (begun in (WEST, NORTH)), x0 - (begun in (SOUTH, WEST))]
                    if not closed:
                        points[n_points, 0], points[n_points, 1] = x0, y0
                        n_points += 1
                    y, x, direction, done = y0, x0, begun, False
                    while not done:
                        leaving[y, x] &= 255 - (1 << direction)
                        if direction == EAST:
                            x += 1
                        elif direction == SOUTH:
                            y += 1
                        elif direction == WEST:
                            x -= 1
                        else:
                            y -= 1
                        onward = direction
                        if y == 0 or y == height or x == 0 or x == width:
                            points[n_points, 0], points[n_points, 1] = x, y
                            n_points += 1
                            done = True
                        else:
                            # to the right before all else: two pixels at a corner stay apart
                            right, left = (direction + 1) & 3, (direction + 3) & 3
                            if leaving[y, x] & (1 << right):
                                onward = right
                            elif y == y0 and x == x0 and right == begun:
                                onward, done = begun, True
                            elif leaving[y, x] & (1 << direction):
                                onward = direction
                            elif leaving[y, x] & (1 << left):
                                onward = left
                            else:
                                onward, done = begun, True
                            if onward != direction:
                                points[n_points, 0], points[n_points, 1] = x, y
                                n_points += 1
                        if not done:
                            direction = onward
                    first[n_lines], last[n_lines] = begun, direction
                    n_lines += 1
                    starts[n_lines] = n_points
    return (
        points[:n_points].copy(),
        starts[: n_lines + 1].copy(),
        number[:n_lines].copy(),
        first[:n_lines].copy(),
        last[:n_lines].copy(),
        n_open,
    )
