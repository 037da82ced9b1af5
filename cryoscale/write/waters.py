"""The waters of a map that a glacier can end in: lakes and the sea, each one body over blocks and zones.

A body is mapped water that hangs together over pixel edges and is broad: what a square of 50 m does not fit
into (rivers, a row of stray pixels) is none, but for what lies within 50 m of broad water. One of less than
0.01 km2 is left out, as the guide to the RGI's lake-terminating glaciers does
(https://github.com/GLIMS-RGI/lake_terminating; Steiner et al. 2025, https://doi.org/10.5194/essd-2025-315),
and so is one whose shore is ice for more than nine tenths: a pond on a glacier.

A body is the sea where more than half of its known elevations are within a metre of zero and it reaches the
end of what was mapped or has 10 km2. The Copernicus DEM has its water flattened and the ocean at zero; where
a tile holds nothing else there is none (https://copernicus-dem-30m.s3.amazonaws.com/readme.html). Any other
body is a lake: a lagoon at the level of the sea that goes on beyond the map is taken for the sea. Where
nothing of it has an elevation, nobody can say.

They are found block by block (:mod:`cryoscale.write.waterbodies`) and kept on disk as numbers.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.crew import Each
from cryoscale.write.scratch import Scratch
from cryoscale.write.waterbodies import LEAST_KM2, PIXEL_KM2, Zone, bodies, joined
from cryoscale.write.zones import cuts

ENCLOSED = 0.9
"""Share of ice in the shore above which water lies inside the ice."""
_SEA_KM2 = 10.0
_HELD_PX = 4 * 2048**2
"""Pixels of parts whose numbers are kept, 4 bytes each. To find them again takes long, and glaciers follow
each other only by and large as neighbours do."""

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE bodies (
  id INTEGER PRIMARY KEY, whole INTEGER, px INTEGER, ice INTEGER, land INTEGER, rim INTEGER,
  z_sum REAL, z_px INTEGER, sea_px INTEGER);
CREATE TABLE pieces (
  zone INTEGER, y INTEGER, x INTEGER, local INTEGER,
  top INTEGER, bottom INTEGER, west INTEGER, east INTEGER, body INTEGER);
"""
_FINISH = f"""
CREATE INDEX by_whole ON bodies (whole);
CREATE TABLE waters AS SELECT whole, sum(px) AS px, sum(rim) AS rim, sum(z_sum) AS z_sum, sum(z_px) AS z_px,
  sum(sea_px) AS sea_px FROM bodies GROUP BY whole
  HAVING sum(px) * {PIXEL_KM2} >= {LEAST_KM2} AND sum(ice) <= {ENCLOSED} * (sum(ice) + sum(land) + sum(rim));
CREATE UNIQUE INDEX by_number ON waters (whole);
DELETE FROM pieces WHERE (SELECT whole FROM bodies WHERE id = body) NOT IN (SELECT whole FROM waters);
CREATE INDEX by_block ON pieces (zone, y, x);
"""

Kind = Literal["lake", "sea", ""]


@dataclass(frozen=True)
class Water:
    """One body of water.

    Attributes:
        number: of this map.
        kind: empty where its elevation is not known.
        area_km2: of its pixels.
        zmean_m: its mean elevation; NaN where none is known.
    """

    number: int
    kind: Kind
    area_km2: float
    zmean_m: float


class Waters(Scratch):
    """The waters of a year, kept in a temporary file until closed.

    Args:
        maps: by EPSG code, with ``label`` ``(y, x)`` of pixels of 10 m.
        elevations: by EPSG code, elevation (y, x) in m on the zone's own grid, of any step; may lack zones.
        step_px: edge of the parts that are read one after the other; it bounds the memory, no more.
        each: by what these are looked at, see :class:`cryoscale.crew.Crew`.

    Pickled, they are the same waters on disk, which live no longer than where they were found.
    """

    def __init__(
        self,
        maps: Mapping[int, xr.Dataset],
        elevations: Mapping[int, xr.DataArray],
        step_px: int,
        each: Each = map,
    ) -> None:
        super().__init__(_TABLES)
        where = cuts(list(maps))
        self._zones = {epsg: Zone(epsg, data, where[epsg], step_px) for epsg, data in maps.items()}
        self._step_px = step_px
        self._held: OrderedDict[tuple[int, int, int], NDArray[np.int32]] = OrderedDict()
        at_cut: list[tuple[int, int, NDArray[np.float64]]] = []
        last = 0
        for epsg, zone in self._zones.items():
            for body in bodies(zone, elevations.get(epsg), each):
                last += 1
                row = (last, last, *astuple(body.counts))
                self._base.execute(f"INSERT INTO bodies VALUES ({', '.join('?' * len(row))})", row)
                pieces = [(*piece, last) for piece in body.pieces]
                self._base.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", pieces)
                at_cut += [(epsg, last, points) for points in body.at_cut]
        for number, whole in joined(at_cut):
            self._base.execute("UPDATE bodies SET whole = ? WHERE id = ?", (whole, number))
        self._base.executescript(_FINISH)
        blocks = self._base.execute("SELECT DISTINCT zone, y, x FROM pieces")
        self._blocks = {(zone, y, x) for zone, y, x in blocks}

    def __getstate__(self) -> tuple[object, ...]:
        return self._path, self._zones, self._step_px, self._blocks

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._path, self._zones, self._step_px, self._blocks = state
        self._base = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)
        self._held = OrderedDict()

    def __len__(self) -> int:
        (count,) = self._base.execute("SELECT count(*) FROM waters").fetchone()
        return int(count)

    def __getitem__(self, number: int) -> Water:
        px, rim, z_sum, z_px, sea_px = self._base.execute(
            "SELECT px, rim, z_sum, z_px, sea_px FROM waters WHERE whole = ?", (number,)
        ).fetchone()
        area_km2 = px * PIXEL_KM2
        kind: Kind = ""
        if z_px:
            at_sea_level = 2 * sea_px > z_px and (rim > 0 or area_km2 >= _SEA_KM2)
            kind = "sea" if at_sea_level else "lake"
        return Water(number, kind, area_km2, z_sum / z_px if z_px else float("nan"))

    def reach(self, epsg: int, rows: tuple[int, int], cols: tuple[int, int]) -> bool:
        """Whether the box around any water's part of a block meets these first and last rows and columns."""
        query = """SELECT 1 FROM pieces WHERE zone = ? AND y > ? AND y <= ? AND x > ? AND x <= ?
            AND bottom >= ? AND top <= ? AND east >= ? AND west <= ? LIMIT 1"""
        blocks = rows[0] - self._step_px, rows[1], cols[0] - self._step_px, cols[1]
        return self._base.execute(query, (epsg, *blocks, *rows, *cols)).fetchone() is not None

    def at(self, epsg: int, row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the water that each pixel of a zone belongs to, 0 where to none or beyond the map."""
        found = np.zeros(row.size, np.int64)
        height, width = self._zones[epsg].dataset["label"].shape
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        step = self._step_px
        tops, lefts = row // step * step, col // step * step
        for top, left in np.unique(np.column_stack([tops, lefts])[inside], axis=0).tolist():
            if (epsg, top, left) in self._blocks:
                here = inside & (tops == top) & (lefts == left)
                found[here] = self._numbers(epsg, top, left)[row[here] - top, col[here] - left]
        return found

    def _numbers(self, epsg: int, top: int, left: int) -> NDArray[np.int32]:
        key = epsg, top, left
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        local = self._zones[epsg].block(top, left).numbers
        whole = np.zeros(int(local.max()) + 1, np.int32)
        for number, body in self._base.execute(
            """SELECT local, whole FROM pieces JOIN bodies ON bodies.id = pieces.body
            WHERE zone = ? AND y = ? AND x = ?""",
            key,
        ):
            whole[number] = body
        self._held[key] = whole[local]
        if len(self._held) > max(1, _HELD_PX // self._step_px**2):
            self._held.popitem(last=False)
        return self._held[key]
