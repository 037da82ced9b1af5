"""Numbered bodies of a map that is read in parts, joined over the borders of the parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryoscale.write.chains import Chains
from cryoscale.write.rims import EAST, NORTH, SOUTH, WEST, Lines, Traced, simple


@dataclass
class Open:
    """Something that may go on in a part not yet read.

    Attributes:
        chains: numbers of the pieces of its rim that end on borders of parts.
        rings: what of its rim is closed.
    """

    chains: list[int] = field(default_factory=list)
    rings: list[Lines] = field(default_factory=list)

    def take(self, other: Self) -> None:
        """What turned out to be the same."""
        self.chains += other.chains
        self.rings += other.rings

    def weight(self) -> int:
        """About how much it holds: the lighter of two moves, or one over many rows would be copied often."""
        return len(self.chains) + len(self.rings)


_Thing = TypeVar("_Thing", bound=Open)


class Stitching(Generic[_Thing]):
    """The things that are open, row of parts by row of parts.

    A row is begun, its parts are added from left to right, and it is ended, which gives what nothing can
    join any more. Memory holds what is open.

    Args:
        width: of the map, px.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._parent: dict[int, int] = {}
        self._things: dict[int, _Thing] = {}
        self._last = 0
        self._chains = Chains()
        self._above = np.zeros(width, np.int64)
        self._below = np.zeros(width, np.int64)
        self._severed = np.zeros(width, bool)
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
        self, corner: tuple[int, int], numbers: NDArray[np.int64], traced: Traced, given: NDArray[np.int64]
    ) -> None:
        """The next part of the row.

        Args:
            corner: x and y of its first pixel.
            numbers: ``(y, x)``, 0 elsewhere, of what is open, as :meth:`begin` gave them.
            traced: the rims of the part, in numbers of its own.
            given: for each of those the number that :meth:`begin` gave, 0 for what is not open.
        """
        x0, y0 = corner
        width = numbers.shape[1]
        for index, own in enumerate(traced.chain_numbers.tolist()):
            chain = self._chains.add(traced.chains[index], int(traced.first[index]), int(traced.last[index]))
            self[int(given[own])].chains.append(chain)
        for own in np.unique(traced.ring_numbers[given[traced.ring_numbers] > 0]).tolist():
            rings = traced.rings.take(np.flatnonzero(traced.ring_numbers == own))
            self[int(given[own])].rings.append(rings)
        columns = slice(x0, x0 + width)
        self._border(self._above[columns], numbers[0], (EAST, WEST), x0, y0, self._severed[columns])
        self._border(self._left, numbers[:, 0], (NORTH, SOUTH), y0, x0)
        self._left, self._below[columns] = numbers[:, -1], numbers[-1]

    def end_row(self, bottom: int, *, last: bool) -> Iterator[tuple[_Thing, Lines]]:
        """What goes on nowhere: the thing and its rings, each touching itself nowhere.

        Args:
            bottom: the row of corners under this row of parts.
            last: whether the map ends there.
        """
        height = self._left.size
        self._border(self._left, np.zeros(height, np.int64), (NORTH, SOUTH), bottom - height, self._width)
        if last:
            nothing = np.zeros(self._width, np.int64)
            self._border(self._below, nothing, (EAST, WEST), 0, bottom)
            self._below = nothing
        self._chains.tie(bottom + 1 if last else bottom)
        numbers, inverse = np.unique(self._below, return_inverse=True)
        roots = np.array([self.root(number) if number else 0 for number in numbers.tolist()], np.int64)
        self._above, self._severed = roots[inverse], np.zeros(self._width, bool)
        self._parent = {root: root for root in roots.tolist() if root}
        for number in [number for number in self._things if number not in self._parent]:
            yield self._closed(number)

    @property
    def frontier(self) -> NDArray[np.int64]:
        """``(x,)``: after a row, the number of what is open under each column, 0 where nothing is."""
        return self._above

    def open(self) -> Iterator[tuple[int, _Thing]]:
        """What goes on below the last row."""
        yield from self._things.items()

    def sever(self, columns: NDArray[np.bool_], bottom: int) -> Iterator[tuple[_Thing, Lines]]:
        """What lies over these columns of the frontier ends there, as if there were nothing below.

        All columns of a thing must be among them.
        """
        severed = np.where(columns, self._above, 0)
        for number in np.unique(severed[severed > 0]).tolist():
            for start, stop in zip(*_runs(severed == number), strict=True):
                cut = self._chains.add_cut(int(start), int(stop), bottom, WEST)
                self._things[number].chains.append(cut)
                self._chains.tie_at((bottom, start))
                self._chains.tie_at((bottom, stop))
            del self._parent[number]
            yield self._closed(number)
        self._above = np.where(columns, 0, self._above)
        self._severed = columns.copy()

    def _closed(self, number: int) -> tuple[_Thing, Lines]:
        thing = self._things.pop(number)
        rings = Lines.joined([*thing.rings, simple(self._chains.rings(thing.chains))[0]])
        return thing, rings

    def _border(
        self,
        before: NDArray[np.int64],
        after: NDArray[np.int64],
        directions: tuple[int, int],
        start: int,
        line: int,
        severed: NDArray[np.bool_] | None = None,
    ) -> None:
        """Join what meets over a border, and add the rims that lie along it.

        Args:
            before: numbers above it or to its left.
            after: numbers below it or to its right.
            directions: of an edge with a body after it, and of one with a body before it.
            start: the first corner along it.
            line: its row or column of corners.
            severed: where what was above it has been severed from what is below.
        """
        self._meet(before, after)
        cut = np.zeros(before.size, bool) if severed is None else severed
        for here, there, direction in ((after, before, directions[0]), (before, after, directions[1])):
            rim = (here > 0) & (there == 0)
            for wanted, add in ((rim & ~cut, self._chains.add_run), (rim & cut, self._chains.add_cut)):
                for first, stop in zip(*_runs(wanted), strict=True):
                    chain = add(int(first) + start, int(stop) + start, line, direction)
                    self[int(here[first])].chains.append(chain)

    def _meet(self, ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        both = (ones > 0) & (others > 0)
        for pair in np.unique(np.column_stack([ones[both], others[both]]), axis=0).tolist():
            one, other = map(self.root, pair)
            if one != other:
                if self._things[one].weight() < self._things[other].weight():
                    one, other = other, one
                self._things[one].take(self._things.pop(other))
                self._parent[other] = one


def _runs(wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of true begin, and the places after their ends."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    return changes[::2], changes[1::2]
