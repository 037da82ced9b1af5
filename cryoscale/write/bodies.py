"""The bodies of ice of one zone's map, streamed: each is let go as soon as nothing can join it any more.

The map is read block by block, row by row. What touches no side of its block is whole at once; what
does is kept until the row below has been seen and nothing of it goes on there. So memory holds one
row's open bodies, and what bodies that reach over many rows have gathered: where two that meet are more
than can be held together, they are severed along the border of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.crew import Each
from cryoscale.write.arcs import keys_of, nodes
from cryoscale.write.polygons import Place, PolygonArray, Sides
from cryoscale.write.rims import Lines, Traced, trace
from cryoscale.write.shapes import polygons
from cryoscale.write.stitching import Open, Stitching
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, Tally, count_pixels, part_of

MOST_CORNERS = 1_000_000
"""Of the rims of one body and of the debris on it; some 300 MB of memory where it becomes an outline.

Outlines drawn by hand have 85 corners a km2 when they lie on pixels of 10 m (the complex around
Hintereisferner in the RGI 7), mapped ones with the debris on them up to 800 (the demo's): ice that is
connected over 1,200 to 12,000 km2 is left whole.
"""
_BATCH_CORNERS = 100_000
"""Bodies become polygons together up to so many."""

_TALLIES = 64
"""A body's counts are summed once there are so many."""


@dataclass(frozen=True)
class Bodies:
    """Some bodies of ice, in pixel coordinates (x right, y down).

    Attributes:
        polygons: one a body, with its holes.
        debris: polygons of their debris-covered parts.
        owner: index of the body of each of those.
        tally: what the map says of each body.
        part: whether it is one part of a body that was too large to be held, ending in a straight line.
    """

    polygons: PolygonArray
    debris: PolygonArray
    owner: NDArray[np.int64]
    tally: Tally
    part: NDArray[np.bool_]


@dataclass
class _Debris(Open):
    """A debris-covered patch that may go on in a block not yet seen."""

    body: int = 0


@dataclass
class _Body(Open):
    """A body that may go on in a block not yet seen."""

    debris: list[tuple[Lines, NDArray[np.int64]]] = field(default_factory=list)
    """Rings of closed patches, and to which patch each ring belongs."""
    tallies: list[Tally] = field(default_factory=list)
    kept: bool = False
    """Whether it stays whatever its size."""

    def take(self, other: _Body) -> None:
        super().take(other)
        self.debris += other.debris
        self.tallies += other.tallies
        if len(self.tallies) > _TALLIES:
            self.tallies = [self.tally]
        self.kept |= other.kept

    def weight(self) -> int:
        return super().weight() + len(self.debris) + len(self.tallies)

    @property
    def tally(self) -> Tally:
        return Tally.joined(self.tallies).total()


def bodies_of(
    dataset: xr.Dataset,
    *,
    step_px: int,
    least_px: float,
    keeps: Callable[[Place], bool],
    most_corners: int = MOST_CORNERS,
    each: Each = map,
) -> Iterator[Bodies]:
    """The 4-connected bodies of clean and debris-covered ice, in the order in which they are complete.

    Args:
        dataset: ``label`` ``(y, x)``, and where there are, ``probability`` ``(class, y, x)``, ``confidence``
            and ``source_date``.
        step_px: edge of the parts that are read one after the other; it bounds the memory and changes
            nothing but where a body is severed.
        least_px: bodies of no more pixels are left out.
        keeps: whether bodies with pixels in a part stay whatever their size.
        most_corners: bodies that have more together are severed where they meet.
        each: by what parts are looked at, see :class:`cryoscale.crew.Crew`; they are joined here.
    """
    height, width = dataset["label"].shape
    ice: Stitching[_Body] = Stitching(width, most_corners)
    debris: Stitching[_Debris] = Stitching(width)
    places = (Place(y, x, (height, width)) for y in _steps(height, step_px) for x in _steps(width, step_px))
    looked_at = iter(each(_Look(dataset, least_px, keeps), places))
    for y in _steps(height, step_px):
        ice.begin_row(y.stop - y.start)
        debris.begin_row(y.stop - y.start)
        for _ in _steps(width, step_px):
            whole, block = next(looked_at)
            yield whole
            block.open(ice, debris)
        for patch, rings in debris.end_row(y.stop, last=y.stop == height):
            ice[patch.body].debris.append((rings, np.zeros(len(rings), np.int64)))
        for patch in debris.open():
            patch.body = ice.root(patch.body)  # before numbers that are no root are forgotten
        closed = ice.end_row(y.stop, last=y.stop == height)
        large_enough = (
            (body, rings) for body, rings in closed if body.kept or body.part or _pixels(body) > least_px
        )
        yield from map(_gathered, _batches(large_enough))


@dataclass(frozen=True)
class _Block:
    """One block's bodies and the debris on them by number, along its sides and by their rims."""

    place: Place
    bodies: Sides
    patches: Sides
    body_of: NDArray[np.int32]
    """The body of each patch."""
    rims: Traced
    patch_rims: Traced
    tally: Tally
    kept: bool
    goes_on: NDArray[np.bool_]
    """Of each body, whether it touches a side of the block."""

    def whole(self) -> Bodies:
        """The bodies that do not."""
        rings = np.flatnonzero(~self.goes_on[self.rims.ring_numbers])
        rims = self.rims.rings.take(rings)
        patch_rings = np.flatnonzero(~self.goes_on[self.body_of[self.patch_rims.ring_numbers]])
        patch_rims = self.patch_rims.rings.take(patch_rings)
        held = nodes(rims, patch_rims)
        outlines, numbers = polygons(rims, self.rims.ring_numbers[rings].astype(np.int64), held)
        debris, patches = polygons(
            patch_rims, self.patch_rims.ring_numbers[patch_rings].astype(np.int64), held
        )
        owner = np.searchsorted(numbers, self.body_of[patches])
        return Bodies(outlines, debris, owner, self.tally.take(numbers - 1), np.zeros(numbers.size, bool))

    def open(self, ice: Stitching[_Body], debris: Stitching[_Debris]) -> None:
        """Begin the others, and join them to what is open to the left and above."""
        corner = self.place.x.start, self.place.y.start
        given = np.zeros(self.goes_on.size, np.int64)
        corners = self._corners()
        for number in np.flatnonzero(self.goes_on).tolist():
            tally = self.tally.take(np.array([number - 1]))
            body = _Body(tallies=[tally], corners=int(corners[number]), kept=self.kept)
            given[number] = ice.begin(body)
        patch_given = np.zeros(self.body_of.size, np.int64)
        for patch in self.patches.numbers.tolist():
            patch_given[patch] = debris.begin(_Debris(body=int(given[self.body_of[patch]])))
        rings = self.patch_rims.ring_numbers
        closed = (patch_given[rings] == 0) & self.goes_on[self.body_of[rings]]
        for number in np.unique(self.body_of[rings[closed]]).tolist():
            own = np.flatnonzero(closed & (self.body_of[rings] == number))
            ice[int(given[number])].debris.append(
                (self.patch_rims.rings.take(own), rings[own].astype(np.int64))
            )
        cuts = ice.add(corner, self.bodies.renamed(given), self.rims, given)
        debris.add(corner, self.patches.renamed(patch_given), self.patch_rims, patch_given, cuts)

    def _corners(self) -> NDArray[np.int64]:
        """How many each body has, those of its debris with them."""
        rims, patches = self.rims, self.patch_rims
        of = [rims.chain_numbers, rims.ring_numbers]
        of += [self.body_of[patches.chain_numbers], self.body_of[patches.ring_numbers]]
        sizes = [lines.sizes for lines in (rims.chains, rims.rings, patches.chains, patches.rings)]
        return np.bincount(np.concatenate(of), np.concatenate(sizes), self.goes_on.size).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Look:
    """A place to the bodies that lie in it as a whole, and what is to be stitched to its neighbours."""

    dataset: xr.Dataset
    least_px: float
    keeps: Callable[[Place], bool]

    def __call__(self, place: Place) -> tuple[Bodies, _Block]:
        block = _look(self.dataset, place, self.least_px, self.keeps)
        return block.whole(), block


def _look(dataset: xr.Dataset, place: Place, least_px: float, keeps: Callable[[Place], bool]) -> _Block:
    """Read a block; whole bodies that are too small are not even counted."""
    part = part_of(dataset, place.y, place.x)
    label = np.asarray(part["label"].values)
    bodies, count = ndimage.label(np.isin(label, (CLEAN_ICE, DEBRIS)))
    kept = count > 0 and keeps(place)
    wanted = (np.bincount(bodies.ravel(), minlength=count + 1) > least_px) | kept
    wanted[place.numbers_on_border(bodies)] = True
    wanted[0] = False
    bodies = np.where(wanted, np.cumsum(wanted), 0).astype(np.int32)[bodies]
    tally = Tally(int(wanted.sum()))
    count_pixels(tally, part, label, bodies.astype(np.int64) - 1)
    under_debris = (bodies > 0) & (label == DEBRIS)
    patches, count = ndimage.label(under_debris)
    patches = patches.astype(np.int32)
    body_of = np.zeros(count + 1, np.int32)
    body_of[patches[under_debris]] = bodies[under_debris]
    sides, patch_sides = Sides.of(bodies), Sides.of(patches)
    goes_on = np.zeros(tally.n + 1, bool)
    goes_on[sides.numbers] = True
    corner = place.x.start, place.y.start
    rims, patch_rims = trace(bodies, corner), trace(patches, corner)
    return _Block(place, sides, patch_sides, body_of, rims, patch_rims, tally, kept, goes_on)


def _batches(closed: Iterable[tuple[_Body, Lines]]) -> Iterator[list[tuple[_Body, Lines]]]:
    """A wide map's row may close many large bodies, which must not become polygons all at once."""
    batch, corners = [], 0
    for body, rings in closed:
        batch.append((body, rings))
        corners += body.corners
        if corners > _BATCH_CORNERS:
            yield batch
            batch, corners = [], 0
    if batch:
        yield batch


def _gathered(bodies: Iterable[tuple[_Body, Lines]]) -> Bodies:
    """Closed bodies and their rings."""
    rings, owners, debris, patch_of = [], [], [], []
    owner_of: list[int] = []
    tallies, part, corners = [Tally(0)], [], [np.empty((0, 2), np.int32)]
    patches = 0
    for number, (body, rim) in enumerate(bodies):
        rings.append(rim)
        owners.append(np.full(len(rim), number))
        for lines, patch in body.debris:
            _, index = np.unique(patch, return_inverse=True)
            debris.append(lines)
            patch_of.append(patches + index)
            patches += int(index.max()) + 1
            owner_of += [number] * (patches - len(owner_of))
        tallies.append(body.tally)
        part.append(body.part)
        corners += body.held
    nothing = np.empty(0, np.int64)
    rims, patch_rims = Lines.joined(rings), Lines.joined(debris)
    held = np.union1d(keys_of(np.concatenate(corners)), nodes(rims, patch_rims))
    outlines, _ = polygons(rims, np.concatenate([nothing, *owners]), held)
    covered, _ = polygons(patch_rims, np.concatenate([nothing, *patch_of]), held)
    return Bodies(
        outlines, covered, np.array(owner_of, np.int64), Tally.joined(tallies), np.array(part, bool)
    )


def _pixels(body: _Body) -> int:
    return sum(int(tally.ice_px.sum()) for tally in body.tallies)


def _steps(size: int, step_px: int) -> Iterator[slice]:
    for start in range(0, size, step_px):
        yield slice(start, min(start + step_px, size))
