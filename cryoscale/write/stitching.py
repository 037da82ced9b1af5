"""Numbered bodies of a map that is read in parts, joined over the borders of the parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryoscale.write.chains import Chains, straight
from cryoscale.write.polygons import Sides
from cryoscale.write.rims import EAST, NORTH, SOUTH, WEST, Lines, Traced


@dataclass
class Open:
    """Something that may go on in a part not yet read.

    Attributes:
        chains: numbers of the pieces of its rim that end on borders of parts.
        rings: what of its rim is closed.
        corners: how many it has.
        held: corners ``(n, 2)`` of the edges along which it has been severed from what it touches.
    """

    chains: list[int] = field(default_factory=list)
    rings: list[Lines] = field(default_factory=list)
    corners: int = 0
    held: list[NDArray[np.int32]] = field(default_factory=list)

    @property
    def part(self) -> bool:
        """Whether it has been severed."""
        return bool(self.held)

    def take(self, other: Self) -> None:
        """What turned out to be the same."""
        self.chains += other.chains
        self.rings += other.rings
        self.corners += other.corners
        self.held += other.held

    def weight(self) -> int:
        """About how much it holds: the lighter of two moves, or one over many rows would be copied often."""
        return len(self.chains) + len(self.rings) + len(self.held)


_Thing = TypeVar("_Thing", bound=Open)

Cuts = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Along the upper side of a part and along its left side."""


class Stitching(Generic[_Thing]):
    """The things that are open, row of parts by row of parts.

    A row is begun, its parts are added from left to right, and it is ended, which gives what nothing can
    join any more. Memory holds what is open.

    Args:
        width: of the map, px.
        most_corners: what would have more together is severed where it meets.
    """

    def __init__(self, width: int, most_corners: float = float("inf")) -> None:
        self._width, self._most_corners = width, most_corners
        self._parent: dict[int, int] = {}
        self._things: dict[int, _Thing] = {}
        self._last = 0
        self._chains = Chains()
        self._above = np.zeros(width, np.int64)
        self._below = np.zeros(width, np.int64)
        self._left = np.zeros(0, np.int64)

    def begin(self, thing: _Thing) -> int:
        """A number for a thing."""
        self._last += 1
        self._parent[self._last] = self._last
        self._things[self._last] = thing
        return self._last

    def __getitem__(self, number: int) -> _Thing:
        return self._things[self.root(number)]

    def root(self, number: int) -> int:
        """The number that a thing goes by now."""
        while (above := self._parent[number]) != number:
            self._parent[number] = number = self._parent[above]
        return number

    def begin_row(self, height: int) -> None:
        """A row of parts of that many rows of pixels."""
        self._left = np.zeros(height, np.int64)
        self._below = np.zeros(self._width, np.int64)

    def add(
        self,
        corner: tuple[int, int],
        sides: Sides,
        traced: Traced,
        given: NDArray[np.int64],
        cuts: Cuts | None = None,
    ) -> Cuts:
        """The next part of the row.

        Args:
            corner: x and y of its first pixel.
            sides: numbers of what is open along the part's sides, as :meth:`begin` gave them, 0 elsewhere.
            traced: the rims of the part, in numbers of its own.
            given: for each of those the number that :meth:`begin` gave, 0 for what is not open.
            cuts: where things are severed along the part's upper side and along its left side.

        Returns:
            The same, with what has too many corners to be joined.
        """
        x0, y0 = corner
        height, width = sides.west.size, sides.north.size
        for index, own in enumerate(traced.chain_numbers.tolist()):
            chain = self._chains.add(traced.chains[index], int(traced.first[index]), int(traced.last[index]))
            self[int(given[own])].chains.append(chain)
        for own in np.unique(traced.ring_numbers[given[traced.ring_numbers] > 0]).tolist():
            rings = traced.rings.take(np.flatnonzero(traced.ring_numbers == own))
            self[int(given[own])].rings.append(rings)
        columns = slice(x0, x0 + width)
        above, left = cuts or (np.zeros(width, bool), np.zeros(height, bool))
        above = self._border(self._above[columns], sides.north, (EAST, WEST), x0, y0, above)
        left = self._border(self._left, sides.west, (NORTH, SOUTH), y0, x0, left)
        self._left, self._below[columns] = sides.east, sides.south
        return above, left

    def end_row(self, bottom: int, *, last: bool) -> Iterator[tuple[_Thing, Lines]]:
        """What goes on nowhere: the thing and its rings.

        Args:
            bottom: the row of corners under this row of parts.
            last: whether the map ends there.
        """
        height = self._left.size
        nothing, whole = np.zeros(max(height, self._width), np.int64), np.zeros(self._width, bool)
        self._border(
            self._left, nothing[:height], (NORTH, SOUTH), bottom - height, self._width, np.zeros(height, bool)
        )
        if last:
            self._border(self._below, nothing[: self._width], (EAST, WEST), 0, bottom, whole)
            self._below = nothing[: self._width]
        self._chains.tie(bottom + 1 if last else bottom)
        numbers, inverse = np.unique(self._below, return_inverse=True)
        roots = np.array([self.root(number) if number else 0 for number in numbers.tolist()], np.int64)
        self._above = roots[inverse]
        self._parent = {root: root for root in roots.tolist() if root}
        for number in [number for number in self._things if number not in self._parent]:
            yield self._closed(number)

    def open(self) -> Iterator[_Thing]:
        """What may go on."""
        yield from self._things.values()

    def _closed(self, number: int) -> tuple[_Thing, Lines]:
        thing = self._things.pop(number)
        return thing, Lines.joined([*thing.rings, self._chains.rings(thing.chains)])

    def _border(
        self,
        before: NDArray[np.int64],
        after: NDArray[np.int64],
        directions: tuple[int, int],
        start: int,
        line: int,
        cut: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Join what meets over a border, and add the rims that lie along it.

        Args:
            before: numbers above it or to its left.
            after: numbers below it or to its right.
            directions: of an edge with a body after it, and of one with a body before it.
            start: the first corner along it.
            line: its row or column of corners.
            cut: where things that meet over it are severed.

        Returns:
            The same, with what has too many corners to be joined.
        """
        cut = self._meet(before, after, cut)
        for here, there, direction in ((after, before, directions[0]), (before, after, directions[1])):
            for severed in (False, True):
                wanted = cut if severed else (here > 0) & (there == 0)
                for first, stop in zip(*_runs(np.where(wanted, here, 0)), strict=True):
                    thing, along = self[int(here[first])], range(int(first) + start, int(stop) + start + 1)
                    thing.chains.append(self._chains.add_run(along[0], along[-1], line, direction))
                    if severed:
                        thing.held.append(straight(along, line, direction))
        return cut

    def _meet(
        self, before: NDArray[np.int64], after: NDArray[np.int64], cut: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Join what meets and is not cut; where things are severed, which are more than can be held."""
        both = (before > 0) & (after > 0)
        severed = cut & both
        pairs = np.column_stack([before, after])
        for pair in np.unique(pairs[both & ~cut], axis=0).tolist():
            one, other = map(self.root, pair)
            if one == other:
                continue
            if self._things[one].corners + self._things[other].corners > self._most_corners:
                severed |= both & (pairs == pair).all(axis=1)
                continue
            if self._things[one].weight() < self._things[other].weight():
                one, other = other, one
            self._things[one].take(self._things.pop(other))
            self._parent[other] = one
        return severed


def _runs(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of one number other than 0 begin, and the places after their ends."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], numbers, [0]])))
    begins = changes[:-1][numbers[changes[:-1]] > 0]
    ends = changes[1:][numbers[changes[1:] - 1] > 0]
    return begins, ends
