"""Where along an outline there is water: stretches of its own line, vertex by vertex.

The line of an outline crosses, pixel edge by pixel edge, the straight way between the centres of two pixels
(:mod:`cryoscale.write.arcs`), so that each crossing says what is on the other side: no offset, no search
radius. A stretch begins and ends half-way between the last crossing with water and the first without, or at
the very vertex where a divide comes to the shore; every vertex between is the outline's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry import Polygon

from cryoscale.grid import transformer
from cryoscale.write.zonal import affine_of
from cryoscale.write.zones import Cut, cuts

BRIDGED_M = 30.0
"""Of land between water and the same water: a pixel or two on the shore, taken for something else."""

_ON_LINE = 1e-4
"""Pixels; a vertex is on the line of pixel centres that it was drawn on to within what degrees keep."""

NONE = -9
"""Row and column of no pixel, not even of one beside the map."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Crossings:
    """The crossings along a chain of an outline's vertices, in order; its vertices are among them.

    Attributes:
        segment: of each, the number of the vertex before it or at it.
        share: how far it is from there to the next vertex, 0-1.
        zone: EPSG code of the map.
        pixels: ``(n, 2, 2)``, row and column of the two pixels; :data:`NONE` where it lies between none.
    """

    segment: Integers
    share: Floats
    zone: Integers
    pixels: Integers


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a chain along one water.

    Attributes:
        water: its number.
        line: (n, 2) in degrees.
        crossings: indices of its own, those that were bridged with them.
    """

    water: int
    line: Floats
    crossings: Integers


class Lattice:
    """The pixel centres of all zones.

    Args:
        maps: by EPSG code, with ``x`` and ``y``.
    """

    def __init__(self, maps: Mapping[int, xr.Dataset]) -> None:
        self._cuts: dict[int, Cut] = cuts(list(maps))
        self._affine = {epsg: affine_of(data) for epsg, data in maps.items()}

    def crossings(self, chain: Floats) -> Crossings:
        """Where a chain ``(n, 2)`` of vertices in degrees crosses the ways between pixel centres."""
        middle = (chain[:-1] + chain[1:]) / 2
        zone = self._zones(middle)
        found = []
        for epsg in np.unique(zone).tolist():
            mine = np.flatnonzero(zone == epsg)
            place = self.places(chain, epsg)
            segment, share, pixels = _ways(place[mine], place[mine + 1])
            found.append((mine[segment], share, np.full(share.size, epsg), pixels))
        if not zone.size:
            return Crossings(np.empty(0, np.int64), np.empty(0), zone, np.empty((0, 2, 2), np.int64))
        segment, share, epsgs, pixels = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((share, segment))
        return Crossings(segment[order], share[order], epsgs[order], pixels[order])

    def _zones(self, points: Floats) -> Integers:
        """In which zone's box each point lies, the first's where in none."""
        zone = np.full(len(points), next(iter(self._cuts)), np.int64)
        if len(self._cuts) > 1:
            for epsg, cut in self._cuts.items():
                west, south, east, north = cut.box_deg
                lon = west + (points[:, 0] - west) % 360.0
                zone[(lon <= east) & (points[:, 1] >= south) & (points[:, 1] <= north)] = epsg
        return zone

    def places(self, chain: Floats, epsg: int) -> Floats:
        """Column and row (n, 2) in a zone's map of points in degrees, whole at the centres of pixels."""
        x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(*chain.T)
        col, row = ~self._affine[epsg] * (np.asarray(x), np.asarray(y))
        return np.column_stack([col, row]) - 0.5


def _ways(start: Floats, stop: Floats) -> tuple[Integers, Floats, Integers]:
    """Segment, share of its length and the two pixels of each crossing; the first vertex of each is one."""
    segments, shares, places, axes = [], [], [], []
    on_line = np.abs(start - np.rint(start)) < _ON_LINE
    # a corner of pixels, or the end of a divide, lies between no two of them
    axis = np.where(on_line[:, 0] == on_line[:, 1], -1, np.where(on_line[:, 0], 0, 1))
    segments.append(np.arange(len(start)))
    shares.append(np.zeros(len(start)))
    places.append(start)
    axes.append(axis)
    for axis_of in (0, 1):
        a, b = start[:, axis_of], stop[:, axis_of]
        low, high = np.minimum(a, b), np.maximum(a, b)
        first = np.ceil(low + _ON_LINE).astype(np.int64)
        count = np.maximum(np.floor(high - _ON_LINE).astype(np.int64) - first + 1, 0)
        segment = np.repeat(np.arange(len(start)), count)
        begins = np.repeat(np.cumsum(count) - count, count)
        line = first[segment] + np.arange(segment.size) - begins
        share = (line - a[segment]) / (b - a)[segment]
        place = start[segment] + share[:, None] * (stop - start)[segment]
        place[:, axis_of] = line
        segments.append(segment)
        shares.append(share)
        places.append(place)
        axes.append(np.full(segment.size, axis_of))
    segment, share, axis = (np.concatenate(parts) for parts in (segments, shares, axes))
    place = np.concatenate(places)
    return segment, share, _pixels(place, axis)


def _pixels(place: Floats, axis: Integers) -> Integers:
    """Row and column of the two pixels between which each place (column, row) on a line of centres lies."""
    nearest, below = np.rint(place).astype(np.int64), np.floor(place).astype(np.int64)
    pixels = np.full((len(place), 2, 2), NONE, np.int64)
    upright, level = axis == 0, axis == 1
    for after in (0, 1):
        pixels[upright, after, 0] = below[upright, 1] + after
        pixels[upright, after, 1] = nearest[upright, 0]
        pixels[level, after, 0] = nearest[level, 1]
        pixels[level, after, 1] = below[level, 0] + after
    return pixels


def open_chains(outline: Polygon, divides: NDArray[np.object_]) -> Iterator[tuple[Floats, bool]]:
    """The parts of an outline's rings that are not shared with a neighbour, and whether each is a whole ring.

    Args:
        outline: in degrees.
        divides: lines that it shares with neighbours, in its own vertices.
    """
    shared = _edges_of(divides)
    for ring in shapely.get_rings(outline):
        xy = np.asarray(shapely.get_coordinates(ring), np.float64)
        edges = np.stack([xy[:-1], xy[1:]], axis=1)
        inner = _are_among(edges, shared)
        if not inner.any():
            yield xy, True
            continue
        first = int(np.argmax(inner))
        outer = ~np.roll(inner, -first)
        ring_xy = np.roll(xy[:-1], -first, axis=0)
        changes = np.flatnonzero(np.diff(np.concatenate([[False], outer, [False]]).astype(np.int8)))
        for begin, end in changes.reshape(-1, 2).tolist():
            yield ring_xy[np.arange(begin, end + 1) % len(ring_xy)], False


def _edges_of(lines: NDArray[np.object_]) -> Floats:
    parts = shapely.get_parts(lines)
    xy, line = shapely.get_coordinates(parts, return_index=True)
    within = line[1:] == line[:-1]
    return np.stack([xy[:-1][within], xy[1:][within]], axis=1)


def _are_among(edges: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which edges ``(n, 2, 2)`` are one of the others, whichever way they are walked."""
    if not len(others):
        return np.zeros(len(edges), bool)
    every = np.concatenate([edges, others])
    flip = (every[:, 0, 0] > every[:, 1, 0]) | (
        (every[:, 0, 0] == every[:, 1, 0]) & (every[:, 0, 1] > every[:, 1, 1])
    )
    flat = np.where(flip[:, None, None], every[:, ::-1], every).reshape(-1, 4)
    order = np.lexsort(flat.T)
    begins = np.concatenate([[True], (flat[order[1:]] != flat[order[:-1]]).any(axis=1)])
    group = np.empty(len(every), np.int64)
    group[order] = np.cumsum(begins)
    return np.asarray(np.isin(group[: len(edges)], group[len(edges) :]), bool)


def stretches(chain: Floats, closed: bool, crossings: Crossings, water: Integers) -> Iterator[Stretch]:
    """The stretches of a chain ``(n, 2)`` along water.

    Args:
        chain: vertices in degrees; of a whole ring the first is repeated.
        closed: whether it is a whole ring.
        crossings: of it.
        water: number of the water at each of those, 0 where there is none, -1 where it is not known.
    """
    if not (water > 0).any():
        return
    length = len(chain) - 1
    walked = _walked_m(chain)
    place = crossings.segment + crossings.share
    water = _filled(water, np.interp(place, np.arange(length + 1), walked))
    order = np.arange(water.size)
    if closed:
        if (water == water[0]).all():
            yield Stretch(int(water[0]), chain, order)
            return
        # begin and end far from water, so that no stretch goes on over the seam of the ring
        first = _driest(water, np.interp(place, np.arange(length + 1), walked), walked[-1])
        order = np.append(np.roll(order, -first), first)
        place = place[order] + length * (np.arange(order.size) >= order.size - 1 - first)
        water = water[order]
    turns = np.concatenate([walked[:-1], walked[:-1] + walked[-1], [2 * walked[-1]]])
    limits = np.concatenate([[0.0], (place[1:] + place[:-1]) / 2, [float(length)]])
    if closed:
        limits[0], limits[-1] = place[0], place[-1]
    at_limits = np.interp(limits, np.arange(turns.size), turns)
    water = _bridged(water, at_limits)
    for begin, stop in _runs(water):
        if water[begin] > 0:
            line = _between(chain, limits[begin], limits[stop])
            yield Stretch(int(water[begin]), line, order[begin:stop])


def _driest(water: Integers, walked: Floats, around_m: float) -> int:
    """The crossing without water that is farthest from all with it; any where all have it."""
    wet = walked[water > 0]
    wet = np.concatenate([wet - around_m, wet, wet + around_m])
    after = np.searchsorted(wet, walked).clip(1, wet.size - 1)
    away = np.minimum(np.abs(wet[after] - walked), np.abs(walked - wet[after - 1]))
    return int(np.argmax(np.where(water > 0, -1.0, away)))


def _runs(values: Integers) -> list[tuple[int, int]]:
    """Where runs of one value begin, and where they stop."""
    changes = np.flatnonzero(np.diff(values)) + 1
    ends = np.concatenate([[0], changes, [values.size]]).tolist()
    return list(pairwise(ends))


def _walked_m(chain: Floats) -> Floats:
    """Metres from the first vertex to each, on a sphere's tangent plane: good to 0.5 %."""
    east = np.cos(np.deg2rad(chain[:, 1].mean())) * np.diff(chain[:, 0])
    steps = 111_195.0 * np.hypot(east, np.diff(chain[:, 1]))
    return np.concatenate([[0.0], np.cumsum(steps)])


def _filled(water: Integers, walked: Floats) -> Integers:
    """What is not known is as the nearest that is."""
    known = np.flatnonzero(water >= 0)
    after = np.searchsorted(known, np.arange(water.size)).clip(max=known.size - 1)
    before = (after - 1).clip(min=0)
    closer = np.abs(walked[known[before]] - walked) < np.abs(walked[known[after]] - walked)
    return np.asarray(water[known[np.where(closer, before, after)]], np.int64)


def _bridged(water: Integers, at_limits: Floats) -> Integers:
    """Short gaps between a water and the same one closed; the limits are those of the crossings."""
    bridged = water.copy()
    runs = _runs(water)
    for (first, _), (begin, stop), (last, _) in zip(runs, runs[1:], runs[2:], strict=False):
        short = at_limits[stop] - at_limits[begin] <= BRIDGED_M
        if short and water[begin] == 0 and water[first] == water[last] > 0:
            bridged[begin:stop] = water[first]
    return bridged


def _between(chain: Floats, low: float, high: float) -> Floats:
    """The part of a chain between two places, vertices counted on after a whole turn of a ring."""
    length = len(chain) - 1
    inner = np.arange(int(np.floor(low)) + 1, int(np.ceil(high)))

    def at(place: float) -> Floats:
        vertex, share = int(place // 1.0), place % 1.0
        start = chain[vertex % length] if vertex != length else chain[length]
        return np.asarray(start if share == 0.0 else start + share * (chain[vertex % length + 1] - start))

    return np.concatenate([at(low)[None], chain[inner % length], at(high)[None]])
