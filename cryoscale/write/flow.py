"""Where ice flows on an elevation model: depressions filled, each cell drained to the rim of the ice.

Priority-flood: the rim is flooded first, and from it inwards always the lowest cell next to what is
flooded already, so that each cell is looked at once (Barnes, Lehman and Mulla 2014, "Priority-flood: An
optimal depression-filling and watershed-labeling algorithm for digital elevation models", Computers &
Geosciences 62, 117-127, https://doi.org/10.1016/j.cageo.2013.04.024).

Each cell drains to one of its eight neighbours. The steepest one would draw divides and streams on a smooth
slope as straight lines of 45 degrees; instead, the error made so far along the path is made good (Orlandini
and others 2003, "Path-based methods for the determination of nondispersive drainage directions in grid-based
digital elevation models", Water Resources Research 39(6), https://doi.org/10.1029/2002WR001639).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoscale.kernel import kernel

_EIGHT = np.array([[0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1], [1, 0], [1, 1]])
"""Steps ``(y, x)`` to the neighbours, one after the other around the cell; even ones share an edge."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Drainage of the cells of a grid, cells told by their index in the flattened ``(y, x)``.

    Attributes:
        filled: elevation ``(y, x)`` without depressions, m; as given where no cell was flooded.
        receiver: cell ``(y, x)`` that each flooded cell drains to; outlets drain to themselves, and -1
            stands where nothing was flooded.
        accumulation: how many cells drain through each ``(y, x)``, itself among them; 0 where nothing was
            flooded.
        order: the flooded cells, each after the one that it drains to.
    """

    filled: NDArray[np.float32]
    receiver: NDArray[np.int64]
    accumulation: NDArray[np.int64]
    order: NDArray[np.int64]

    def outlet(self) -> NDArray[np.int64]:
        """The outlet ``(y, x)`` that each cell drains to at last; -1 where nothing was flooded."""
        outlet = self.receiver.copy()
        _follow(self.order, self.receiver.ravel(), outlet.ravel())
        return outlet


def drain(elevation: NDArray[np.float32], domain: NDArray[np.bool_], outlets: NDArray[np.bool_]) -> Flow:
    """Drain each cell of the domain ``(y, x)`` that is connected with an outlet to exactly one outlet.

    Paths go down the filled surface; where it falls nowhere, to where the flood came from. So they never
    close, whatever the surface. It takes time as n log n of the cells.

    Args:
        elevation: m, finite on the domain and on the outlets.
        domain: cells that are to be drained, connected by edges and corners.
        outlets: cells at which paths end; they need not belong to the domain.
    """
    filled = np.array(elevation, np.float32, order="C") + np.float32(0.0)  # makes a negative zero positive
    receiver = np.full(filled.shape, -1, np.int64)
    accumulation = np.zeros(filled.shape, np.int64)
    order = np.empty(np.count_nonzero(domain | outlets), np.int64)
    bits = filled.view(np.int32)
    rank = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # whole numbers that order as the floats do
    count = _flood(filled, rank, np.asarray(domain, bool), np.asarray(outlets, bool), receiver, order)
    _route(filled, order[:count], receiver, accumulation, _EIGHT)
    return Flow(filled, receiver, accumulation, order[:count])


@kernel
def _flood(
    filled: NDArray[np.float32],
    rank: NDArray[np.int32],
    domain: NDArray[np.bool_],
    outlets: NDArray[np.bool_],
    receiver: NDArray[np.int64],
    order: NDArray[np.int64],
) -> int:
    """Fill depressions, and write for each cell which one the flood came from; the number of cells."""
    height, width = filled.shape
    pushed = np.empty(order.size, np.int64)
    count = 0
    # Elevation and time of arrival in one number: equal elevations are flooded in the order in which they
    # were reached, so that a flat drains by the shortest way to where it is left.
    heap = [np.int64(0)]
    heap.pop()
    for y in range(height):
        for x in range(width):
            if outlets[y, x]:
                receiver[y, x] = y * width + x
                heapq.heappush(heap, (np.int64(rank[y, x]) << 32) + count)
                pushed[count] = y * width + x
                count += 1
    popped = 0
    while len(heap) > 0:
        cell = pushed[heapq.heappop(heap) & 0xFFFFFFFF]
        order[popped] = cell
        popped += 1
        y, x = cell // width, cell % width
        for to_y in range(max(y - 1, 0), min(y + 2, height)):
            for to_x in range(max(x - 1, 0), min(x + 2, width)):
                if receiver[to_y, to_x] >= 0 or not domain[to_y, to_x]:
                    continue
                receiver[to_y, to_x] = cell
                if rank[to_y, to_x] < rank[y, x]:
                    rank[to_y, to_x] = rank[y, x]
                    filled[to_y, to_x] = filled[y, x]
                heapq.heappush(heap, (np.int64(rank[to_y, to_x]) << 32) + count)
                pushed[count] = to_y * width + to_x
                count += 1
    return popped


@kernel
def _route(
    filled: NDArray[np.float32],
    order: NDArray[np.int64],
    receiver: NDArray[np.int64],
    accumulation: NDArray[np.int64],
    eight: NDArray[np.int64],
) -> None:
    """Choose receivers from the top down, and count what they gather.

    The surface around a cell is taken as eight triangles; the steepest gives the true direction, which lies
    between a neighbour over an edge and one over a corner. Of the two, that one is chosen which leaves
    the path nearer to the line that started at its head.
    """
    width = filled.shape[1]
    astray = np.zeros(filled.shape, np.float32)  # cells, to the left of the way down
    most = np.zeros(filled.shape, np.int64)
    for place in range(order.size - 1, -1, -1):
        cell = order[place]
        y, x = cell // width, cell % width
        accumulation[y, x] += 1
        if receiver[y, x] == cell:
            continue
        steepest, best, after = 0.0, -1, 0.0
        for facet in range(8):
            straight, skew = (facet + 1) // 2 * 2 % 8, facet // 2 * 2 + 1
            fall, to, error = _fall(filled, receiver, y, x, eight[straight], eight[skew], astray[y, x], facet)
            if to >= 0 and fall > steepest:
                steepest, best, after = fall, to, error
        if best >= 0:
            receiver[y, x] = best
        to_y, to_x = receiver[y, x] // width, receiver[y, x] % width
        accumulation[to_y, to_x] += accumulation[y, x]
        if accumulation[y, x] > most[to_y, to_x]:  # a path goes on below a confluence as the larger one
            most[to_y, to_x] = accumulation[y, x]
            astray[to_y, to_x] = np.float32(after)


@kernel
def _fall(
    filled: NDArray[np.float32],
    receiver: NDArray[np.int64],
    y: int,
    x: int,
    straight: NDArray[np.int64],
    skew: NDArray[np.int64],
    astray: float,
    facet: int,
) -> tuple[float, int, float]:
    """How steeply a triangle falls (m per cell), which of its two cells to take, and the path's error then.

    -1 for the cell where the triangle is not whole, or neither of the two lies lower.
    """
    height, width = filled.shape
    edge_y, edge_x, corner_y, corner_x = y + straight[0], x + straight[1], y + skew[0], x + skew[1]
    if not (0 <= corner_y < height and 0 <= corner_x < width):
        return 0.0, -1, 0.0
    edge_in, corner_in = receiver[edge_y, edge_x] >= 0, receiver[corner_y, corner_x] >= 0
    here = float(filled[y, x])
    along = here - filled[edge_y, edge_x] if edge_in else 0.0
    across = (here - filled[corner_y, corner_x] if corner_in else 0.0) - along
    edge, corner = edge_y * width + edge_x, corner_y * width + corner_x
    if edge_in and along > 0.0 and (not corner_in or across < 0.0):
        return along, edge, 0.0
    if corner_in and along + across > 0.0 and (not edge_in or across > along):
        return (along + across) * math.sqrt(0.5), corner, 0.0
    if not (edge_in and corner_in) or along <= 0.0:
        return 0.0, -1, 0.0
    slope = math.hypot(along, across)
    # the distance of each cell's centre from the line of steepest descent, signed alike in all triangles
    turn = 1.0 if facet % 2 == 0 else -1.0
    to_edge = astray - turn * across / slope
    to_corner = astray + turn * (along - across) / slope
    if abs(to_edge) <= abs(to_corner):
        return slope, edge, to_edge
    return slope, corner, to_corner


@kernel
def _follow(order: NDArray[np.int64], receiver: NDArray[np.int64], outlet: NDArray[np.int64]) -> None:
    for cell in order:
        outlet[cell] = outlet[receiver[cell]]
