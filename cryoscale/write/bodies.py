"""The bodies of ice of one zone's map, streamed: each is let go as soon as nothing can join it any more.

The map is read block by block, row by row. What touches no side of its block is whole at once; what
does is kept until the row below has been seen and nothing of it goes on there. So memory holds one
row's open bodies, and a body that reaches over many rows for as long as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.write.polygons import Pieces, Place, PolygonArray, polygons_of
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, Tally, count_pixels


@dataclass(frozen=True)
class Bodies:
    """Some bodies of ice, in pixel coordinates (x right, y down).

    Attributes:
        polygons: one a body, with its holes.
        debris: polygons of their debris-covered parts.
        owner: index of the body of each of those.
        tally: what the map says of each body.
    """

    polygons: PolygonArray
    debris: PolygonArray
    owner: NDArray[np.int64]
    tally: Tally


@dataclass
class _Open:
    """A body that may go on in a block not yet seen."""

    ice: Pieces = field(default_factory=Pieces)
    debris: Pieces = field(default_factory=Pieces)
    tallies: list[Tally] = field(default_factory=list)
    kept: bool = False
    """Whether it stays whatever its size."""

    def take(self, other: _Open) -> None:
        self.ice.take(other.ice)
        self.debris.take(other.debris)
        self.tallies += other.tallies
        self.kept |= other.kept


@dataclass
class _Meetings:
    """Which numbers turned out to be one body: a union-find, and the open body under each root."""

    parent: dict[int, int] = field(default_factory=dict)
    bodies: dict[int, _Open] = field(default_factory=dict)
    last: int = 0

    def begin(self, body: _Open) -> int:
        """A number for a body."""
        self.last += 1
        self.parent[self.last] = self.last
        self.bodies[self.last] = body
        return self.last

    def root(self, number: int) -> int:
        """The number that a body goes by now."""
        while (above := self.parent[number]) != number:
            self.parent[number] = number = self.parent[above]
        return number

    def meet(self, ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Pixel by pixel along a border: numbers on either side of it, 0 where there is no ice."""
        both = (ones > 0) & (others > 0)
        for pair in np.unique(np.column_stack([ones[both], others[both]]), axis=0).tolist():
            one, other = map(self.root, pair)
            if one != other:
                # the smaller moves, or a body over many rows would be copied with each of its pieces
                if len(self.bodies[one].tallies) < len(self.bodies[other].tallies):
                    one, other = other, one
                self.bodies[one].take(self.bodies.pop(other))
                self.parent[other] = one

    def close(self, frontier: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[_Open]]:
        """The frontier in the numbers that remain, and the bodies that do not reach it."""
        numbers, inverse = np.unique(frontier, return_inverse=True)
        roots = np.array([self.root(number) if number else 0 for number in numbers.tolist()], np.int64)
        self.parent = {root: root for root in roots.tolist() if root}
        closed = [self.bodies.pop(number) for number in list(self.bodies) if number not in self.parent]
        return roots[inverse], closed


def bodies_of(
    dataset: xr.Dataset, *, step_px: int, least_px: float, keeps: Callable[[Place], bool]
) -> Iterator[Bodies]:
    """The 4-connected bodies of clean and debris-covered ice, in the order in which they are complete.

    Args:
        dataset: ``label`` ``(y, x)``, and where there are, ``confidence`` and ``source_date``.
        step_px: edge of the parts that are read one after the other; it bounds the memory and does
            not change the result.
        least_px: bodies of no more pixels are left out.
        keeps: whether bodies with pixels in a part stay whatever their size.
    """
    height, width = dataset["label"].shape
    meetings = _Meetings()
    above = np.zeros(width, np.int64)
    for y in _steps(height, step_px):
        left, below = np.zeros(y.stop - y.start, np.int64), np.zeros(width, np.int64)
        for x in _steps(width, step_px):
            block = _look(dataset, Place(y, x, (height, width)), least_px, keeps)
            if not block.tally.n:
                left = np.zeros(y.stop - y.start, np.int64)
                continue
            yield block.whole()
            numbers = block.open(meetings)
            meetings.meet(above[x], numbers[0])
            meetings.meet(left, numbers[:, 0])
            left, below[x] = numbers[:, -1], numbers[-1]
        above, closed = meetings.close(below)
        yield _gathered(body for body in closed if body.kept or _pixels(body) > least_px)
        del closed  # or they would be held through the next row
    closed = meetings.close(np.zeros(width, np.int64))[1]
    yield _gathered(body for body in closed if body.kept or _pixels(body) > least_px)


@dataclass(frozen=True)
class _Block:
    """One block's bodies by number ``(y, x)``, 0 elsewhere; those over its border open, the others whole."""

    place: Place
    label: NDArray[np.uint8]
    bodies: NDArray[np.int32]
    tally: Tally
    kept: bool

    def whole(self) -> Bodies:
        """The bodies that touch no side behind which the map goes on."""
        wanted = np.arange(self.tally.n + 1) > 0
        wanted[self.place.numbers_on_border(self.bodies)] = False
        polygons, numbers, debris, owner = self._polygons(wanted)
        index = np.zeros(wanted.size, np.int64)
        index[numbers] = np.arange(numbers.size)
        return Bodies(polygons, debris, index[owner], self.tally.take(numbers - 1))

    def open(self, meetings: _Meetings) -> NDArray[np.int64]:
        """Begin the others; the numbers that they go by ``(y, x)``, 0 elsewhere."""
        wanted = np.zeros(self.tally.n + 1, bool)
        wanted[self.place.numbers_on_border(self.bodies)] = True
        polygons, numbers, debris, owner = self._polygons(wanted)
        given = np.zeros(wanted.size, np.int64)
        for position, number in enumerate(numbers.tolist()):
            body = _Open(tallies=[self.tally.take(np.array([number - 1]))], kept=self.kept)
            body.ice.add(polygons[position : position + 1], self.place)
            body.debris.add(debris[owner == number], self.place)
            given[number] = meetings.begin(body)
        return np.asarray(given[self.bodies], np.int64)

    def _polygons(
        self, wanted: NDArray[np.bool_]
    ) -> tuple[PolygonArray, NDArray[np.int64], PolygonArray, NDArray[np.int64]]:
        """Polygons of the wanted bodies and their numbers; of their debris, and whose it is."""
        inside = wanted[self.bodies]
        polygons, numbers = polygons_of(np.where(inside, self.bodies, 0).astype(np.int32), self.place)
        under_debris = inside & (self.label == DEBRIS)
        patches, count = ndimage.label(under_debris)
        body_of = np.zeros(count + 1, np.int64)
        body_of[patches[under_debris]] = self.bodies[under_debris]
        debris, patch = polygons_of(patches.astype(np.int32), self.place)
        return polygons, numbers, debris, body_of[patch]


def _look(dataset: xr.Dataset, place: Place, least_px: float, keeps: Callable[[Place], bool]) -> _Block:
    """Read a block; whole bodies that are too small are not even counted."""
    part = dataset.isel(y=place.y, x=place.x)
    label = np.asarray(part["label"].values)
    bodies, count = ndimage.label(np.isin(label, (CLEAN_ICE, DEBRIS)))
    kept = count > 0 and keeps(place)
    wanted = (np.bincount(bodies.ravel(), minlength=count + 1) > least_px) | kept
    wanted[place.numbers_on_border(bodies)] = True
    wanted[0] = False
    bodies = np.where(wanted, np.cumsum(wanted), 0).astype(np.int32)[bodies]
    tally = Tally(int(wanted.sum()))
    count_pixels(tally, part, label, bodies.astype(np.int64) - 1)
    return _Block(place, label, bodies, tally, kept)


def _gathered(bodies: Iterable[_Open]) -> Bodies:
    """Closed bodies, united over all borders."""
    polygons: list[PolygonArray] = [np.empty(0, object)]
    debris: list[PolygonArray] = [np.empty(0, object)]
    owner: list[int] = []
    tallies = [Tally(0)]
    for number, body in enumerate(bodies):
        (outline,) = body.ice.united()
        polygons.append(np.array([outline], object))
        debris.append(body.debris.united())
        owner += [number] * debris[-1].size
        tallies.append(Tally.joined(body.tallies).total())
    return Bodies(
        np.concatenate(polygons), np.concatenate(debris), np.array(owner, np.int64), Tally.joined(tallies)
    )


def _pixels(body: _Open) -> int:
    return sum(int(tally.ice_px.sum()) for tally in body.tallies)


def _steps(size: int, step_px: int) -> Iterator[slice]:
    for start in range(0, size, step_px):
        yield slice(start, min(start + step_px, size))
