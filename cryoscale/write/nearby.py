"""Outlines by place: those over a box, however many there are, without all of them in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cryoscale.write.polygons import PolygonArray
from cryoscale.write.scratch import Scratch

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE outlines (id INTEGER PRIMARY KEY, shape BLOB);
CREATE VIRTUAL TABLE boxes USING rtree (id, west, east, south, north);
"""
_OVER = """SELECT id, shape FROM boxes JOIN outlines USING (id)
  WHERE east >= ? AND west <= ? AND north >= ? AND south <= ? ORDER BY id"""


class Nearby(Scratch):
    """Outlines in degrees, until closed in a temporary file with an R-tree (https://www.sqlite.org/rtree.html)."""

    def __init__(self) -> None:
        super().__init__(_TABLES)

    def add(self, outlines: PolygonArray) -> None:
        """Take up outlines, which are numbered from 1 on as they come."""
        (first,) = self._base.execute("SELECT coalesce(max(id), 0) + 1 FROM outlines").fetchone()
        ids = range(first, first + outlines.size)
        self._base.executemany(
            "INSERT INTO outlines VALUES (?, ?)", zip(ids, shapely.to_wkb(outlines), strict=True)
        )
        west, south, east, north = shapely.bounds(outlines).reshape(-1, 4).T.tolist()
        self._base.executemany(
            "INSERT INTO boxes VALUES (?, ?, ?, ?, ?)", zip(ids, west, east, south, north, strict=True)
        )

    def meeting(
        self, box_deg: tuple[float, float, float, float]
    ) -> Iterator[tuple[int, BaseGeometry, float]]:
        """Whole outlines whose bounds meet a box of west, south, east, north, each with its number.

        Longitudes are those of the outlines: whole turns from the box, which come third, or not.
        """
        west, south, east, north = box_deg
        for turn in (-360.0, 0.0, 360.0):
            for number, shape in self._base.execute(_OVER, (west + turn, east + turn, south, north)):
                yield number, shapely.from_wkb(shape), turn

    def over(self, box_deg: tuple[float, float, float, float]) -> PolygonArray:
        """What outlines have in a box of west, south, east, north; over the antimeridian where west > east.

        Longitudes are those of the outlines, whole turns away from the box or not.
        """
        west, south, east, north = box_deg
        east += 360.0 * (west > east)
        found: list[PolygonArray] = [np.empty(0, object)]
        for _, outline, turn in self.meeting((west, south, east, north)):
            part = shapely.clip_by_rect(outline, west + turn, south, east + turn, north)
            found.append(np.array([part], object))
        parts = np.concatenate(found)
        return np.asarray(parts[~shapely.is_empty(parts)], object)
