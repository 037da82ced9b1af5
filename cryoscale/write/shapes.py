"""Closed rims become polygons, without the staircase of their pixels."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from cryoscale.write.arcs import Keys, keys_of, smooth
from cryoscale.write.crossings import UNIT
from cryoscale.write.polygons import PolygonArray
from cryoscale.write.rims import Lines


def polygons(rims: Lines, owner: NDArray[np.int64], held: Keys) -> tuple[PolygonArray, NDArray[np.int64]]:
    """One polygon for each owner of rims, holes in it, in pixel coordinates; and the owners, in rising order.

    A hole may touch the rim of its polygon at a point, which OGC simple features allow
    (https://www.ogc.org/standards/sfa/, 6.1.11).

    Args:
        rims: of horizontal and vertical edges, closed.
        owner: of each, a number.
        held: corners that stay vertices where they are.

    Raises:
        ValueError: if rims of an owner are not one rim and the holes in it.
    """
    if not len(rims):
        return np.empty(0, object), np.empty(0, np.int64)
    rings, source = _simple(*smooth(rims, held))
    owner = owner[source]
    hole = _twice_the_area(rings) < 0
    order = np.lexsort((hole, owner))
    owners, first, count = np.unique(owner[order], return_index=True, return_counts=True)
    if hole[order][first].any() or (~hole).sum() != owners.size:
        raise ValueError("a body must have one rim, and else holes")
    closed = _closed(rings.take(order))
    offsets = np.append(first, first[-1] + count[-1])
    made = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed.points / np.float64(UNIT), (closed.starts, offsets)
    )
    return np.asarray(shapely.normalize(made), object), owners


def _simple(rings: Lines, at_corner: NDArray[np.bool_]) -> tuple[Lines, NDArray[np.int64]]:
    """Rings that touch themselves at a corner, divided there into a rim and its holes; whose each is.

    A ring that goes through the corner itself where two pixels of a body meet there goes on from the rim of
    the one hole to that of the next; OGC wants them apart.
    """
    at = np.flatnonzero(at_corner)
    place = keys_of(rings.points[at] // UNIT)
    ring = np.searchsorted(rings.starts, at, side="right") - 1
    order = np.lexsort((place, ring))
    same = (ring[order[1:]] == ring[order[:-1]]) & (place[order[1:]] == place[order[:-1]])
    if not same.any():
        return rings, np.arange(len(rings))
    twice = np.zeros(at.size, bool)
    twice[order[1:][same]] = twice[order[:-1][same]] = True
    divided = np.unique(ring[twice])
    pieces: list[NDArray[np.int32]] = []
    source: list[int] = []
    for index in divided.tolist():
        own = twice & (ring == index)
        found = _divide(rings[index], at[own] - rings.starts[index], place[own].tolist())
        pieces += found
        source += [index] * len(found)
    others = np.setdiff1d(np.arange(len(rings)), divided)
    return Lines.joined([rings.take(others), Lines.of(pieces)]), np.concatenate([others, source])


def _divide(points: NDArray[np.int32], twice: NDArray[np.int64], keys: list[int]) -> list[NDArray[np.int32]]:
    """The loops of a ring between the corners, named by ``keys``, that it comes to ``twice``."""
    points = np.roll(points, -twice[0], axis=0)
    at = [*(twice - twice[0]).tolist(), len(points)]
    loops: list[NDArray[np.int32]] = []
    open_at: dict[int, int] = {}
    walked: list[tuple[int, NDArray[np.int32]]] = []
    for number, key in enumerate(keys):
        if key in open_at:
            since = open_at[key]
            loops.append(np.concatenate([part for _, part in walked[since:]]))
            for passed, _ in walked[since:]:
                del open_at[passed]
            del walked[since:]
        open_at[key] = len(walked)
        walked.append((key, points[at[number] : at[number + 1]]))
    loops.append(np.concatenate([part for _, part in walked]))
    return loops


def _twice_the_area(rings: Lines) -> NDArray[np.int64]:
    """Of each ring, positive where what it goes around lies on its right hand."""
    # from a vertex of each, or the products would grow with the map
    x, y = (rings.points - np.repeat(rings.points[rings.starts[:-1]], rings.sizes, axis=0)).astype(np.int64).T
    following = np.arange(1, x.size + 1)
    following[rings.starts[1:] - 1] = rings.starts[:-1]
    cross = x * y[following] - x[following] * y
    return np.asarray(np.add.reduceat(cross, rings.starts[:-1]), np.int64)


def _closed(rings: Lines) -> Lines:
    """The first corner of each once more at its end."""
    points = np.insert(rings.points, rings.starts[1:], rings.points[rings.starts[:-1]], axis=0)
    return Lines(points, rings.starts + np.arange(rings.starts.size))
