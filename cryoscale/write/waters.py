"""The waters of a map that a glacier can end in: lakes and the sea, each one body over blocks and zones.

A body is mapped water that hangs together over pixel edges and is broad: what a square of 50 m does not fit
into (rivers, a row of stray pixels) is none, but for what lies within 50 m of broad water. One of less than
0.01 km2 is left out, as the guide to the RGI's lake-terminating glaciers does
(https://github.com/GLIMS-RGI/lake_terminating; Steiner et al. 2025, https://doi.org/10.5194/essd-2025-315),
and so is one whose shore is ice for more than nine tenths: a pond on a glacier.

A body is the sea where more than half of its known elevations are within a metre of zero, to which the
Copernicus DEM sets the ocean as others do (product handbook, editing of water bodies:
https://dataspace.copernicus.eu/explore-data/data-collections/copernicus-contributing-missions/collections-description/COP-DEM),
and it reaches the end of what was mapped or has 10 km2. Any other is a lake. Where nothing of it has an
elevation, nobody can say.

The map is read block by block. Memory holds the bodies that reach the last row of blocks and the outlines of
none: what is kept of a body are its numbers, on disk, and from them a block's water is numbered again when
somebody asks for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.write.arrays import NODATA
from cryoscale.write.scratch import Scratch
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, affine_of
from cryoscale.write.zones import Cut, cuts

WATER = 3
LEAST_KM2 = 0.01
BROAD_PX = 5
"""Edge of the square that has to fit into water; 50 m."""
_GROWN_PX = 5
"""How far narrow water counts with the broad water beside it: bays and corners of a lake, not its river."""
_HALO_PX = 2 * (BROAD_PX // 2) + _GROWN_PX + 1
ENCLOSED = 0.9
"""Share of ice in the shore above which water lies inside the ice."""
_SEA_M = 1.0
_SEA_KM2 = 10.0
_HELD_BLOCKS = 4
_PIXEL_KM2 = RESOLUTION_M**2 / 1e6
_MEETING_M = 1.5 * RESOLUTION_M
"""Two zones' pixels on either side of their cut are no farther apart than this."""

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
  HAVING sum(px) * {_PIXEL_KM2} >= {LEAST_KM2} AND sum(ice) <= {ENCLOSED} * (sum(ice) + sum(land) + sum(rim));
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


@dataclass
class _Counts:
    """Pixels of a body, edges of them by what is beyond, and what is known of its elevation."""

    px: int = 0
    ice: int = 0
    land: int = 0
    rim: int = 0
    z_sum: float = 0.0
    z_px: int = 0
    sea_px: int = 0

    def take(self, other: _Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class _Open:
    """A body that may go on in a block not yet seen."""

    counts: _Counts
    pieces: list[tuple[int, ...]]
    """Zone, first row and column of a block, number there, first and last row, first and last column."""
    at_cut: list[NDArray[np.float64]] = field(default_factory=list)
    """Longitudes and latitudes (n, 2) of its pixels along the cut to another zone."""


@dataclass(frozen=True)
class _Block:
    """The water of one block, as everybody who asks numbers it."""

    numbers: NDArray[np.int32]
    label: NDArray[np.uint8]
    """With a pixel around, no data beyond the map."""


@dataclass(frozen=True)
class _Zone:
    """One zone's map."""

    epsg: int
    dataset: xr.Dataset
    cut: Cut
    step_px: int

    def block(self, top: int, left: int) -> _Block:
        height, width = self.dataset["label"].shape
        bottom, right = min(top + self.step_px, height), min(left + self.step_px, width)
        north, west = max(top - _HALO_PX, 0), max(left - _HALO_PX, 0)
        part = self.dataset["label"].isel(y=slice(north, bottom + _HALO_PX), x=slice(west, right + _HALO_PX))
        outer = np.asarray(part.values)
        around = np.pad(outer, 1, constant_values=NODATA)
        label = around[top - north : bottom - north + 2, left - west : right - west + 2]
        inner = slice(top - north, bottom - north), slice(left - west, right - west)
        if not (label[1:-1, 1:-1] == WATER).any():
            return _Block(np.zeros((bottom - top, right - left), np.int32), label)
        water = broad(outer)[inner] & self.own(top, left, bottom - top, right - left)
        numbers, _ = ndimage.label(water)
        return _Block(numbers.astype(np.int32), label)

    def own(self, top: int, left: int, height: int, width: int) -> NDArray[np.bool_]:
        """Which pixels lie on the zone's own side of every cut."""
        if not self.cut.lons_deg and not self.cut.lats_deg:
            return np.ones((height, width), bool)
        x = self.dataset["x"].values[left : left + width]
        y = self.dataset["y"].values[top : top + height]
        return _in_box(*self.degrees(*np.meshgrid(x, y)), self.cut)

    def degrees(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        lon, lat = transformer(f"EPSG:{self.epsg}", "EPSG:4326").transform(x, y)
        return np.asarray(lon), np.asarray(lat)


def broad(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (y, x) of broad water among labels; what is not known may be water."""
    water = label == WATER
    maybe = (water | (label == NODATA)).astype(np.uint8)
    fits = ndimage.minimum_filter(maybe, BROAD_PX, mode="nearest")
    opened = ndimage.maximum_filter(fits, BROAD_PX, mode="nearest").astype(bool) & water
    if not opened.any():
        return opened
    grown: NDArray[np.bool_] = ndimage.binary_dilation(opened, iterations=_GROWN_PX, mask=water)
    return grown


def _in_box(lon: NDArray[np.float64], lat: NDArray[np.float64], cut: Cut) -> NDArray[np.bool_]:
    west, south, east, north = cut.box_deg
    turned = west + (lon - west) % 360.0
    return np.asarray((turned <= east) & (lat >= south) & (lat <= north), bool)


class Waters(Scratch):
    """The waters of a year, kept in a temporary file until closed.

    Args:
        maps: by EPSG code, with ``label`` ``(y, x)`` of pixels of 10 m.
        elevations: by EPSG code, elevation (y, x) in m on the zone's own grid, of any step; may lack zones.
        step_px: edge of the parts that are read one after the other; it bounds the memory, no more.
    """

    def __init__(
        self, maps: Mapping[int, xr.Dataset], elevations: Mapping[int, xr.DataArray], step_px: int
    ) -> None:
        super().__init__(_TABLES)
        where = cuts(list(maps))
        self._zones = {epsg: _Zone(epsg, data, where[epsg], step_px) for epsg, data in maps.items()}
        self._step_px = step_px
        self._held: OrderedDict[tuple[int, int, int], NDArray[np.int32]] = OrderedDict()
        at_cut: list[tuple[int, int, NDArray[np.float64]]] = []
        last = 0
        for epsg, zone in self._zones.items():
            for body in _bodies(zone, elevations.get(epsg)):
                last += 1
                row = (last, last, *astuple(body.counts))
                self._base.execute(f"INSERT INTO bodies VALUES ({', '.join('?' * len(row))})", row)
                pieces = [(*piece, last) for piece in body.pieces]
                self._base.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", pieces)
                at_cut += [(epsg, last, points) for points in body.at_cut]
        for number, whole in _joined(at_cut):
            self._base.execute("UPDATE bodies SET whole = ? WHERE id = ?", (whole, number))
        self._base.executescript(_FINISH)
        blocks = self._base.execute("SELECT DISTINCT zone, y, x FROM pieces")
        self._blocks = {(zone, y, x) for zone, y, x in blocks}

    def __len__(self) -> int:
        (count,) = self._base.execute("SELECT count(*) FROM waters").fetchone()
        return int(count)

    def __getitem__(self, number: int) -> Water:
        px, rim, z_sum, z_px, sea_px = self._base.execute(
            "SELECT px, rim, z_sum, z_px, sea_px FROM waters WHERE whole = ?", (number,)
        ).fetchone()
        area_km2 = px * _PIXEL_KM2
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
        if len(self._held) > _HELD_BLOCKS:
            self._held.popitem(last=False)
        return self._held[key]


def _bodies(zone: _Zone, elevation: xr.DataArray | None) -> Iterator[_Open]:
    """Bodies that are large enough or may go on in another zone."""
    height, width = zone.dataset["label"].shape
    joining = _Joining()
    for top in range(0, height, zone.step_px):
        joining.begin_row(min(zone.step_px, height - top))
        below = np.zeros(width, np.int64)
        for left in range(0, width, zone.step_px):
            block = zone.block(top, left)
            given = np.zeros(block.numbers.shape, np.int64)
            if block.numbers.any():
                given = joining.number(_look(zone, block, elevation, top, left), block.numbers)
            columns = slice(left, left + given.shape[1])
            joining.meet(given, columns)
            below[columns] = given[-1]
        yield from joining.end_row(below, last=top + zone.step_px >= height)


class _Joining:
    """The bodies that are open, row of blocks by row of blocks."""

    def __init__(self) -> None:
        self._last = 0
        self._parent: dict[int, int] = {}
        self._open: dict[int, _Open] = {}
        self._above: NDArray[np.int64] | None = None
        self._left = np.zeros(0, np.int64)

    def begin_row(self, height: int) -> None:
        self._left = np.zeros(height, np.int64)

    def number(self, found: list[_Open], local: NDArray[np.int32]) -> NDArray[np.int64]:
        """Numbers (y, x) of the bodies of a block, given in the order of its own numbers."""
        given = np.zeros(len(found) + 1, np.int64)
        sides = np.unique(np.concatenate([local[0], local[-1], local[:, 0], local[:, -1]]))
        goes_on = np.zeros(given.size, bool)
        goes_on[sides] = True
        for index, body in enumerate(found, start=1):
            if goes_on[index] or _stays(body):
                self._last += 1
                self._parent[self._last] = self._last
                self._open[self._last] = body
                given[index] = self._last
        return given[local]

    def meet(self, given: NDArray[np.int64], columns: slice) -> None:
        """Join what meets at the upper and at the left side of a block."""
        if self._above is not None:
            self._join(self._above[columns], given[0])
        self._join(self._left, given[:, 0])
        self._left = given[:, -1]

    def end_row(self, below: NDArray[np.int64], *, last: bool) -> Iterator[_Open]:
        """What nothing can join any more and stays."""
        numbers, inverse = np.unique(below, return_inverse=True)
        roots = np.array([self._root(number) if number else 0 for number in numbers.tolist()], np.int64)
        self._above = roots[inverse]
        self._parent = {} if last else {root: root for root in roots.tolist() if root}
        for number in [number for number in self._open if number not in self._parent]:
            body = self._open.pop(number)
            if _stays(body):
                yield body

    def _root(self, number: int) -> int:
        while (above := self._parent[number]) != number:
            self._parent[number] = number = self._parent[above]
        return number

    def _join(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        both = (before > 0) & (after > 0)
        for pair in np.unique(np.column_stack([before[both], after[both]]), axis=0).tolist():
            one, other = map(self._root, pair)
            if one == other:
                continue
            if len(self._open[one].pieces) < len(self._open[other].pieces):
                one, other = other, one
            taken = self._open.pop(other)
            self._open[one].counts.take(taken.counts)
            self._open[one].pieces += taken.pieces
            self._open[one].at_cut += taken.at_cut
            self._parent[other] = one


def _stays(body: _Open) -> bool:
    return body.counts.px * _PIXEL_KM2 >= LEAST_KM2 or bool(body.at_cut)


def _look(zone: _Zone, block: _Block, elevation: xr.DataArray | None, top: int, left: int) -> list[_Open]:
    """The bodies of a block, in the order of its numbers."""
    count = int(block.numbers.max())
    row, col = np.nonzero(block.numbers)
    number = block.numbers[row, col]
    totals = {"px": np.bincount(number, minlength=count + 1)}
    totals |= {name: np.zeros(count + 1, np.int64) for name in ("ice", "land", "rim")}
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beyond = block.label[row + 1 + down, col + 1 + right]
        ice, unknown = np.isin(beyond, (CLEAN_ICE, DEBRIS)), beyond == NODATA
        land = ~ice & ~unknown & (beyond != WATER)
        for name, there in (("ice", ice), ("land", land), ("rim", unknown)):
            totals[name] += np.bincount(number[there], minlength=count + 1)
    z = _elevations(zone, elevation, row + top, col + left)
    known = np.isfinite(z)
    totals["z_px"] = np.bincount(number[known], minlength=count + 1)
    totals["sea_px"] = np.bincount(number[known & (np.abs(z) <= _SEA_M)], minlength=count + 1)
    z_sum = np.bincount(number[known], z[known], minlength=count + 1)
    whole = {name: values.tolist() for name, values in totals.items()}
    found = [
        _Open(
            _Counts(z_sum=float(z_sum[at]), **{name: values[at] for name, values in whole.items()}),
            [(zone.epsg, top, left, at, *_sides(box, top, left))],
        )
        for at, box in enumerate(ndimage.find_objects(block.numbers), start=1)
    ]
    for at, points in _along_cut(zone, row + top, col + left, number):
        found[at - 1].at_cut.append(points)
    return found


def _sides(box: tuple[slice, slice], top: int, left: int) -> tuple[int, int, int, int]:
    y, x = box
    return y.start + top, y.stop - 1 + top, x.start + left, x.stop - 1 + left


def _elevations(
    zone: _Zone, elevation: xr.DataArray | None, row: NDArray[np.int64], col: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Elevation at pixels, that of the cell around each."""
    found = np.full(row.size, np.nan)
    if elevation is None or not row.size:
        return found
    affine = ~affine_of(elevation)
    x, y = affine * (zone.dataset["x"].values[col], zone.dataset["y"].values[row])
    x, y = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    inside = (x >= 0) & (y >= 0) & (x < elevation.shape[1]) & (y < elevation.shape[0])
    if not inside.any():
        return found
    x, y = x[inside], y[inside]
    part = elevation.isel(y=slice(y.min(), y.max() + 1), x=slice(x.min(), x.max() + 1))
    found[inside] = np.asarray(part.values)[y - y.min(), x - x.min()]
    return found


def _along_cut(
    zone: _Zone, row: NDArray[np.int64], col: NDArray[np.int64], number: NDArray[np.int32]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Of each body the places of its pixels that are the last before a cut."""
    if not zone.cut.lons_deg and not zone.cut.lats_deg:
        return
    x, y = zone.dataset["x"].values[col], zone.dataset["y"].values[row]
    last = np.zeros(row.size, bool)
    for right, up in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beside = zone.degrees(x + right * RESOLUTION_M, y + up * RESOLUTION_M)
        last |= ~_in_box(*beside, zone.cut)
    lon, lat = zone.degrees(x[last], y[last])
    for at in np.unique(number[last]).tolist():
        here = number[last] == at
        yield at, np.column_stack([lon[here], lat[here]])


def _joined(at_cut: list[tuple[int, int, NDArray[np.float64]]]) -> list[tuple[int, int]]:
    """Bodies of different zones that meet at a cut: each with the number that it goes by."""
    if not at_cut:
        return []
    lon, lat = np.concatenate([points for _, _, points in at_cut]).T
    sizes = [len(points) for _, _, points in at_cut]
    zone = np.repeat([epsg for epsg, _, _ in at_cut], sizes)
    body = np.repeat([number for _, number, _ in at_cut], sizes)
    # on a sphere, so that neither the pole nor 180 degrees is a place of its own
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    places = 6_371_000.0 * np.column_stack(
        [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    )
    pairs = KDTree(places).query_pairs(_MEETING_M, output_type="ndarray")
    pairs = pairs[zone[pairs[:, 0]] != zone[pairs[:, 1]]]
    numbers, index = np.unique(body, return_inverse=True)
    ends = index[pairs]
    links = coo_array(
        (np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(numbers.size, numbers.size)
    )
    _, group = connected_components(links, directed=False)
    first = np.full(int(group.max()) + 1, numbers.max())
    np.minimum.at(first, group, numbers)
    return list(zip(numbers.tolist(), first[group].tolist(), strict=True))
