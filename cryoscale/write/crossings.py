"""Where the smooth line of an arc crosses each pixel edge's way between two centres.

An arc is a chain of pixel edges by their middles ``(n, 2)`` in whole steps of ``1 / UNIT`` pixel and their
directions ``(n,)``: a closed ring, or what lies between two corners through which the line has to go. Where
it crosses is told by the distance from the middle outwards, to the left hand.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cryoscale.kernel import kernel
from cryoscale.write.rims import EAST, NORTH, SOUTH, WEST

Whole = int | np.signedinteger | np.unsignedinteger
"""Of an array or not: numba makes no difference, mypy does."""

UNIT = 1024
"""Steps of a pixel in which the smooth lines' vertices are counted: whole numbers, so that sides agree."""
HALF = UNIT // 2
GATE = 7 * UNIT // 16
"""How far from a pixel edge a line may cross the way between two pixel centres, at a vertex ..."""
_LIMIT = 15 * UNIT // 32
"""... and between vertices."""
_TOLERANCE = UNIT // 16
"""How far a straight piece may pass by a crossing that becomes no vertex."""
_LONGEST = 512
"""Edges that a straight piece spans at most."""

_REACH = 5
_WEIGHTS = np.array(
    [
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [17, 12, -3, 0, 0, 0],
        [7, 6, 3, -2, 0, 0],
        [59, 54, 39, 14, -21, 0],
        [89, 84, 69, 44, 9, -36],
    ],
    np.int64,
)
"""Savitzky and Golay's quadratic weights of an edge and those up to five before and after it."""
_SUMS = np.array([1, 1, 35, 21, 231, 429], np.int64)
_SQUARES = np.array([1, 2, 10, 28, 60, 110], np.int64)
"""Sums of the squares of -n to n, by which a slope is divided."""
_STEEP = 0.15
"""Where the line runs along the way between two centres rather than over it, its slope says nothing."""


@kernel
def eastward(direction: Whole) -> int:
    """How far an edge goes to the right, in pixels."""
    return (direction == EAST) - (direction == WEST)


@kernel
def southward(direction: Whole) -> int:
    """How far it goes down."""
    return (direction == SOUTH) - (direction == NORTH)


@kernel
def _at_edge(
    m: NDArray[np.int32], direction: NDArray[np.uint8], s: NDArray[np.int16], at: int
) -> tuple[int, int]:
    """Where the line crosses: ``s`` outwards, to the left hand, from the middle of an edge."""
    way, out = direction[at], int(s[at])
    return int(m[at, 0]) + out * southward(way), int(m[at, 1]) - out * eastward(way)


@kernel
def drawn(
    m: NDArray[np.int32], direction: NDArray[np.uint8], node: NDArray[np.bool_], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Vertices of smooth rings, where each ring begins, and which of the vertices are pixel corners.

    Args:
        m: ``(n, 2)``, x and y of the middles of all rings' edges.
        direction: ``(n,)``, of each edge.
        node: ``(n,)``, whether the line goes through the corner that an edge leaves; where it does at any of
            a ring, then at its first.
        starts: ``(rings + 1,)``, the first edge of each ring, and the end of the last.
    """
    out = np.empty((max(m.shape[0], 16), 2), np.int32)
    corner = np.zeros(out.shape[0], np.bool_)
    begins = np.zeros(starts.size, np.int64)
    n = 0
    for ring in range(starts.size - 1):
        first = starts[ring]
        if n + 2 * (starts[ring + 1] - first) > out.shape[0]:
            out, corner = _copied(out, corner, n, 2 * out.shape[0] + 2 * (starts[ring + 1] - first))
        while first < starts[ring + 1]:
            last = first + 1
            while last < starts[ring + 1] and not node[last]:
                last += 1
            arc, ways = m[first:last], direction[first:last]
            s, keep = _arc(arc, ways, not node[first])
            if node[first]:
                out[n, 0] = arc[0, 0] - HALF * eastward(ways[0])
                out[n, 1] = arc[0, 1] - HALF * southward(ways[0])
                corner[n] = True
                n += 1
            for at in range(last - first):
                if keep[at]:
                    out[n, 0], out[n, 1] = _at_edge(arc, ways, s, at)
                    n += 1
            first = last
        begins[ring + 1] = n
    out, corner = _copied(out, corner, n, n)
    return out, begins, corner


@kernel
def _copied(
    points: NDArray[np.int32], corner: NDArray[np.bool_], count: int, room: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The first of them, with room for more; one by one, since numba compiles slices ten times as long."""
    more, flags = np.empty((room, 2), np.int32), np.zeros(room, np.bool_)
    for at in range(count):
        more[at, 0], more[at, 1], flags[at] = points[at, 0], points[at, 1], corner[at]
    return more, flags


@kernel
def _arc(
    m: NDArray[np.int32], direction: NDArray[np.uint8], closed: bool
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Where the line crosses at each edge of an arc, and which of those become vertices."""
    fitted, slack = _fit(m, direction, closed)
    keep = _straightened(m, direction, fitted, slack, closed)
    s = _levelled(m, direction, fitted, keep, closed)
    if not _passes(m, direction, s, keep, closed):
        for at in range(keep.size):
            keep[at] = True
        s = _levelled(m, direction, fitted, keep, closed)
    return s, keep


@kernel
def _fit(
    m: NDArray[np.int32], direction: NDArray[np.uint8], closed: bool
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Where the parabola through the midpoints around each edge crosses, and what may pass beside it."""
    count = direction.size
    s, slack = np.empty(count, np.int16), np.empty(count, np.int16)
    for at in range(count):
        reach = min(_REACH, (count - 1) // 2) if closed else min(_REACH, at, count - 1 - at)
        x, y, slope_x, slope_y = 0, 0, 0, 0
        for k in range(1, reach + 1):
            after, before = (at + k) % count, (at - k) % count
            ahead_x, ahead_y = m[after, 0] - m[at, 0], m[after, 1] - m[at, 1]
            back_x, back_y = m[before, 0] - m[at, 0], m[before, 1] - m[at, 1]
            x += _WEIGHTS[reach, k] * (ahead_x + back_x)
            y += _WEIGHTS[reach, k] * (ahead_y + back_y)
            slope_x += k * (ahead_x - back_x)
            slope_y += k * (ahead_y - back_y)
        along_x, along_y = eastward(direction[at]), southward(direction[at])
        outward = (along_y * x - along_x * y) / _SUMS[reach]
        rise, run = along_y * slope_x - along_x * slope_y, along_x * slope_x + along_y * slope_y
        free = float(_TOLERANCE)
        if run > _STEEP * UNIT * _SQUARES[reach]:
            outward -= rise / run * (along_x * x + along_y * y) / _SUMS[reach]
            free *= math.hypot(rise, run) / run
        elif reach:
            free = 2.0 * GATE
        s[at] = math.floor(min(max(outward, -GATE), GATE) + 0.5)
        slack[at] = math.floor(min(free, 2.0 * GATE) + 0.5)
    return s, slack


@kernel
def _begin(
    m: NDArray[np.int32], direction: NDArray[np.uint8], s: NDArray[np.int16], closed: bool
) -> tuple[int, int]:
    """Where it begins."""
    if closed:
        return _at_edge(m, direction, s, 0)
    return m[0, 0] - HALF * eastward(direction[0]), m[0, 1] - HALF * southward(direction[0])


@kernel
def _end(
    m: NDArray[np.int32], direction: NDArray[np.uint8], s: NDArray[np.int16], closed: bool
) -> tuple[int, int]:
    """Where an arc ends: at its first vertex again, or at the corner after its last edge."""
    if closed:
        return _at_edge(m, direction, s, 0)
    last = direction.size - 1
    return m[last, 0] + HALF * eastward(direction[last]), m[last, 1] + HALF * southward(direction[last])


@kernel
def _straightened(
    m: NDArray[np.int32],
    direction: NDArray[np.uint8],
    s: NDArray[np.int16],
    slack: NDArray[np.int16],
    closed: bool,
) -> NDArray[np.bool_]:
    """Which crossings become vertices: from each the line goes straight on for as long as it may."""
    count = direction.size
    keep = np.zeros(count, np.bool_)
    keep[0] = closed
    here_x, here_y = _begin(m, direction, s, closed)
    here = 0 if closed else -1
    while here < count:
        best = here + 1
        left_x, left_y, right_x, right_y = 0, 0, 0, 0
        for to in range(here + 1, min(count, here + _LONGEST) + 1):
            x, y = _at_edge(m, direction, s, to) if to < count else _end(m, direction, s, closed)
            x, y = x - here_x, y - here_y
            if to > here + 1 and left_x * y - left_y * x >= 0 and x * right_y - y * right_x >= 0:
                best = to
            if to == count:
                break
            out_x, out_y, in_x, in_y = _gate(m, direction, s, slack, to)
            out_x, out_y, in_x, in_y = out_x - here_x, out_y - here_y, in_x - here_x, in_y - here_y
            if out_x * in_y - out_y * in_x <= 0:
                break
            if to == here + 1 or left_x * out_y - left_y * out_x > 0:
                left_x, left_y = out_x, out_y
            if to == here + 1 or right_x * in_y - right_y * in_x < 0:
                right_x, right_y = in_x, in_y
            if left_x * right_y - left_y * right_x <= 0:
                break
            if out_x * left_y - out_y * left_x < 0 or left_x * in_y - left_y * in_x < 0:
                break
        here = best
        if here < count:
            keep[here] = True
            here_x, here_y = _at_edge(m, direction, s, here)
    return keep


@kernel
def _gate(
    m: NDArray[np.int32],
    direction: NDArray[np.uint8],
    s: NDArray[np.int16],
    slack: NDArray[np.int16],
    at: int,
) -> tuple[int, int, int, int]:
    """Outer and inner end of where a straight piece may pass at an edge."""
    outer, inner = min(np.int64(s[at]) + slack[at], GATE), max(np.int64(s[at]) - slack[at], -GATE)
    x, y = np.int64(m[at, 0]), np.int64(m[at, 1])
    dx, dy = southward(direction[at]), -eastward(direction[at])
    return x + outer * dx, y + outer * dy, x + inner * dx, y + inner * dy


@kernel
def _levelled(
    m: NDArray[np.int32],
    direction: NDArray[np.uint8],
    fitted: NDArray[np.int16],
    keep: NDArray[np.bool_],
    closed: bool,
) -> NDArray[np.int16]:
    """All crossings moved outwards by the one distance with which the arc holds the area of its pixels."""
    wanted = _twice_the_area_of_pixels(m, direction)
    low, high = -2 * GATE, 2 * GATE
    while high - low > 1:
        middle = (low + high) // 2
        if _twice_the_area(m, direction, _moved(fitted, middle), keep, closed) <= wanted:
            low = middle
        else:
            high = middle
    least, most = _moved(fitted, low), _moved(fitted, high)
    lacks = wanted - _twice_the_area(m, direction, least, keep, closed)
    exceeds = _twice_the_area(m, direction, most, keep, closed) - wanted
    return least if abs(lacks) <= abs(exceeds) else most


@kernel
def _moved(s: NDArray[np.int16], outward: int) -> NDArray[np.int16]:
    moved = np.empty_like(s)
    for at in range(s.size):
        moved[at] = min(max(int(s[at]) + outward, -GATE), GATE)
    return moved


@kernel
def _twice_the_area_of_pixels(m: NDArray[np.int32], direction: NDArray[np.uint8]) -> int:
    """Between the edges and the straight line from their end to their beginning."""
    total = 0
    for at in range(direction.size):
        x, y = np.int64(m[at, 0]) - m[0, 0], np.int64(m[at, 1]) - m[0, 1]
        # the cross product of an edge's two ends
        total += UNIT * (x * southward(direction[at]) - y * eastward(direction[at]))
    last = direction.size - 1
    x0, y0 = -HALF * eastward(direction[0]), -HALF * southward(direction[0])
    x1 = np.int64(m[last, 0]) - m[0, 0] + HALF * eastward(direction[last])
    y1 = np.int64(m[last, 1]) - m[0, 1] + HALF * southward(direction[last])
    return int(total + x1 * y0 - x0 * y1)


@kernel
def _twice_the_area(
    m: NDArray[np.int32],
    direction: NDArray[np.uint8],
    s: NDArray[np.int16],
    keep: NDArray[np.bool_],
    closed: bool,
) -> int:
    """Between the line and the straight one from its end to its beginning."""
    x0, y0 = _begin(m, direction, s, closed)
    start_x, start_y = x0 - m[0, 0], y0 - m[0, 1]
    before_x, before_y = start_x, start_y
    total = 0
    for at in range(direction.size):
        if keep[at]:
            x, y = _at_edge(m, direction, s, at)
            x, y = x - m[0, 0], y - m[0, 1]
            total += before_x * y - x * before_y
            before_x, before_y = x, y
    x, y = _end(m, direction, s, closed)
    x, y = x - m[0, 0], y - m[0, 1]
    total += before_x * y - x * before_y
    return int(total + x * start_y - start_x * y)


@kernel
def _passes(
    m: NDArray[np.int32],
    direction: NDArray[np.uint8],
    s: NDArray[np.int16],
    keep: NDArray[np.bool_],
    closed: bool,
) -> bool:
    """Whether the straight pieces cross all ways between the vertices, and enclose the area of the pixels."""
    count = direction.size
    off = _twice_the_area(m, direction, s, keep, closed) - _twice_the_area_of_pixels(m, direction)
    if abs(off) > 2 * UNIT * count:
        return False
    x0, y0 = _begin(m, direction, s, closed)
    first = 1 if closed else 0
    while first <= count:
        last = first
        while last < count and not keep[last]:
            last += 1
        x1, y1 = _at_edge(m, direction, s, last) if last < count else _end(m, direction, s, closed)
        for at in range(first, last):
            dx, dy = eastward(direction[at]), southward(direction[at])
            length = (x1 - x0) * dx + (y1 - y0) * dy
            if length <= 0:
                return False
            passed = ((m[at, 0] - x0) * dx + (m[at, 1] - y0) * dy) / length
            x, y = x0 + passed * (x1 - x0), y0 + passed * (y1 - y0)
            if abs((x - m[at, 0]) * dy) + abs((y - m[at, 1]) * dx) > _LIMIT or passed < 0 or passed > 1:
                return False
        x0, y0 = x1, y1
        first = last + 1
    return True
