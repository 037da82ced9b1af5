"""The staircase of pixels taken out of rims: a smooth line that keeps every pixel on its side.

A rim is a chain of pixel edges; each has a pixel of the body on its right hand and another one on its left.
The line drawn instead crosses, edge by edge, the straight way between the centres of those two, and it is
straight from one crossing to the next. So all there is to choose is where on each way it crosses. Whatever
is chosen, short of the ends,

* every pixel centre stays on its side;
* lines do not cross or touch: in each square between four pixel centres every piece of a line cuts off the
  centres of its own body's pixels, a triangle on their side of the square's diagonal where two meet over a
  corner only, and squares are convex;
* nothing depends on more than the rim itself, and so not on the blocks in which it was read.

Where three kinds meet (clean ice, debris, what is no ice), and along the straight lines at which a body is
severed, the line goes through the pixel corner itself, the middle of that square. Such corners divide rims
into arcs, and both sides of an arc share its vertices.

The crossing is that of a parabola fitted to the midpoints of eleven edges along the rim (Savitzky and
Golay 1964, https://doi.org/10.1021/ac60214a047): straight lines of any direction come out straight, and what
is round does not shrink. Then all crossings of an arc move outwards or inwards by one and the same distance,
so that it holds the area of its pixels. That such a distance exists follows from the squares too: with all
crossings far outside each holds more than its quarter pixels, far inside less. To cross between pixel
centres is the constraint of Whitaker (2000, https://doi.org/10.1109/VV.2000.10001) on smooth surfaces of
binary volumes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryoscale.kernel import kernel
from cryoscale.write.crossings import HALF, UNIT, Whole, drawn, eastward, southward
from cryoscale.write.rims import EAST, NORTH, SOUTH, WEST, Lines

_X_BITS, _DIRECTION_BITS = 24, 2

Keys = NDArray[np.int64]
"""Corners of a raster as single numbers."""


def keys_of(corners: NDArray[np.int32]) -> Keys:
    """Corners ``(n, 2)``, x and y, as numbers, in the same order."""
    x, y = corners.astype(np.int64).T
    return np.asarray((y << _X_BITS) + x)


def nodes(rims: Lines, patches: Lines) -> Keys:
    """Corners, sorted, at which the edge of a patch leaves the rim of its body."""
    if not len(patches):
        return np.empty(0, np.int64)
    edges = _edge_keys(rims.points, rims.starts)
    edges.sort()
    return np.unique(_leaving(edges, patches.points, patches.starts))


def smooth(rings: Lines, held: Keys) -> tuple[Lines, NDArray[np.bool_]]:
    """Rings without the staircase, in steps of ``1 / UNIT`` pixel, and which vertices are held corners.

    Args:
        rings: of horizontal and vertical edges, as :func:`cryoscale.write.rims.trace` gives them; of one that
            comes to a corner twice both ways are taken.
        held: sorted, corners through which every ring has to go that comes there.
    """
    points, starts, at_corner = drawn(*_edges(rings.points, rings.starts, held))
    return Lines(points, starts), at_corner


@kernel
def _edge_keys(points: NDArray[np.int32], starts: NDArray[np.int64]) -> Keys:
    """A number for each edge of rings: the corner that it leaves, and its direction."""
    count = 0
    for filling in (False, True):
        if filling:
            keys = np.empty(count, np.int64)
        n = 0
        for ring in range(starts.size - 1):
            for at in range(starts[ring], starts[ring + 1]):
                onward = at + 1 if at + 1 < starts[ring + 1] else starts[ring]
                way, length = _edge(points, at, onward)
                if filling:
                    key = (((np.int64(points[at, 1]) << _X_BITS) + points[at, 0]) << _DIRECTION_BITS) + way
                    step = ((southward(way) << _X_BITS) + eastward(way)) << _DIRECTION_BITS
                    for one in range(length):
                        keys[n + one] = key + one * step
                n += length
        count = n
    return keys


@kernel
def _first(keys: Keys, least: Whole) -> int:
    """Index of the first of sorted keys that is not less."""
    low, high = 0, keys.size
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _leaving(rim: Keys, points: NDArray[np.int32], starts: NDArray[np.int64]) -> Keys:
    """Corners on the rim, given by its edges in order, that edges of patches touch which are none of it."""
    edges = _edge_keys(points, starts)
    found = np.empty(2 * edges.size, np.int64)
    n = 0
    for key in edges:
        at = _first(rim, key)
        if at < rim.size and rim[at] == key:
            continue
        corner, direction = key >> _DIRECTION_BITS, key & ((1 << _DIRECTION_BITS) - 1)
        for end in (corner, corner + (southward(direction) << _X_BITS) + eastward(direction)):
            at = _first(rim, end << _DIRECTION_BITS)
            if at < rim.size and rim[at] >> _DIRECTION_BITS == end:
                found[n] = end
                n += 1
    return found[:n].copy()


@kernel
def _edges(
    points: NDArray[np.int32], starts: NDArray[np.int64], held: Keys
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64]]:
    """Of all edges middle, direction, whether the corner left is held, and where each ring begins."""
    begins = np.zeros(starts.size, np.int64)
    for ring in range(starts.size - 1):
        corners = points[starts[ring] : starts[ring + 1]]
        begins[ring + 1] = begins[ring]
        for at in range(corners.shape[0]):
            _, length = _edge(corners, at, at + 1 if at + 1 < corners.shape[0] else 0)
            begins[ring + 1] += length
    m, direction = np.empty((begins[-1], 2), np.int32), np.empty(begins[-1], np.uint8)
    node = np.zeros(begins[-1], np.bool_)
    for ring in range(starts.size - 1):
        first, stop = begins[ring], begins[ring + 1]
        corners = points[starts[ring] : starts[ring + 1]]
        _walk(corners, held, m[first:stop], direction[first:stop], node[first:stop])
    return m, direction, node, begins


@kernel
def _walk(
    ring: NDArray[np.int32],
    held: Keys,
    m: NDArray[np.int32],
    direction: NDArray[np.uint8],
    node: NDArray[np.bool_],
) -> None:
    """Fill in the edges of a ring.

    The first leaves a held corner, or where there is none the uppermost, of those the leftmost.
    """
    corners = ring.shape[0]
    begin, count, first, passed = 0, 0, -1, 0
    for at in range(corners):
        if ring[at, 1] < ring[begin, 1] or (ring[at, 1] == ring[begin, 1] and ring[at, 0] < ring[begin, 0]):
            begin, passed = at, count
        onward = at + 1 if at + 1 < corners else 0
        way, length = _edge(ring, at, onward)
        if held.size and first < 0:
            for step in range(length):
                if first < 0 and _is_held(
                    held, ring[at, 0] + step * eastward(way), ring[at, 1] + step * southward(way)
                ):
                    first = count + step
        count += length
    start = first if first >= 0 else passed
    n = count - start if start else 0
    for at in range(corners):
        onward = at + 1 if at + 1 < corners else 0
        way, length = _edge(ring, at, onward)
        x, y, dx, dy = np.int64(ring[at, 0]), np.int64(ring[at, 1]), eastward(way), southward(way)
        for _ in range(length):
            m[n, 0], m[n, 1], direction[n] = x * UNIT + dx * HALF, y * UNIT + dy * HALF, way
            node[n] = held.size > 0 and _is_held(held, x, y)
            n = n + 1 if n + 1 < count else 0
            x += dx
            y += dy


@kernel
def _edge(ring: NDArray[np.int32], at: int, onward: int) -> tuple[int, int]:
    """Direction and length of what lies between two corners."""
    dx, dy = np.int64(ring[onward, 0]) - ring[at, 0], np.int64(ring[onward, 1]) - ring[at, 1]
    if dx:
        return (EAST if dx > 0 else WEST), abs(dx)
    return (SOUTH if dy > 0 else NORTH), abs(dy)


@kernel
def _is_held(held: Keys, x: Whole, y: Whole) -> bool:
    key = (np.int64(y) << _X_BITS) + x
    at = _first(held, key)
    return bool(at < held.size and held[at] == key)
