"""The fronts of a year's glaciers: where their outlines are shores of a lake or of the sea.

A front is all of one glacier's outline along one body of water (:mod:`cryoscale.write.waters` says which
counts), in the outline's own vertices, of at least 50 m. It has the date of the images of the ice along it.

Whether a glacier ends there follows the guide to the RGI's lake-terminating glaciers
(https://github.com/GLIMS-RGI/lake_terminating; Steiner et al. 2025, https://doi.org/10.5194/essd-2025-315),
whose categories 2 and 3 together are its "yes": water along a tenth or more of the terminus. The terminus is
taken as the part of the outer ring, divides left out, that is no farther from its lowest point than the
tongue is wide, at least 100 m and at most the guide's 1 km; a lake at a flank farther up is none.
"""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from numpy.typing import NDArray
from pyproj import Geod
from shapely.geometry import MultiLineString, Point, Polygon

from cryoscale.crew import Each, in_pairs
from cryoscale.write import zones
from cryoscale.write.arrays import NODATA
from cryoscale.write.axes import axis_of
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Inventory, Shaped
from cryoscale.write.polygons import explode
from cryoscale.write.scratch import Scratch
from cryoscale.write.shores import NONE, Crossings, Lattice, Stretch, open_chains, stretches
from cryoscale.write.vectors import frame_of, write_parts
from cryoscale.write.waters import Water, Waters
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, days_of

LEAST_M = 50.0
"""Length of the shortest front, as broad as water has to be."""
LAND, SEA, LAKE, SHELF, NOT_ASSIGNED = 0, 1, 2, 3, 9
"""Terminus types of the RGI 7."""
LEAST_SHARE = 0.1
"""Of the terminus along water, from which on a glacier ends in it."""
_REACH_LEAST_M, _REACH_MOST_M = 100.0, 1000.0
_CODES = {"sea": SEA, "lake": LAKE}
_GEOD = Geod(ellps="WGS84")
_M_PER_DEG = 111_195.0
_PART_ROWS = 4096
_TILE_PX, _HELD_TILES = 512, 16

_TABLES = """
CREATE TABLE fronts (
  id INTEGER PRIMARY KEY, glacier TEXT, kind TEXT, terminus INTEGER, length REAL,
  day INTEGER, first INTEGER, last INTEGER, water INTEGER, area REAL, zmean REAL, axis TEXT,
  west REAL, south REAL, east REAL, north REAL, shape BLOB);
"""
_FRONTS = """SELECT glacier || '-F' || row_number() OVER (PARTITION BY glacier ORDER BY length DESC, id),
  glacier, kind, terminus, length, day, first, last, water, area, zmean, axis, shape FROM fronts
  ORDER BY glacier, length DESC, id"""
_DTYPES = {
    "front_id": "string",
    "glac_id": "string",
    "kind": "string",
    "at_terminus": "bool",
    "length_m": "float64",
    "date": "datetime64[ms]",
    "date_first": "datetime64[ms]",
    "date_last": "datetime64[ms]",
    "water_id": "int64",
    "water_area_km2": "float64",
    "water_zmean_m": "float64",
    "axis": "string",
}


@dataclass(frozen=True, eq=False)
class Front:
    """One glacier's shore with one water.

    Attributes:
        water: the body.
        line: in degrees, of one part or several.
        length_m: on the ellipsoid.
        days: dates under it, days since 1970-01-01: median, first, last; None where there is none.
        at_terminus_m: how much of it belongs to the terminus.
    """

    water: Water
    line: MultiLineString
    length_m: float
    days: tuple[int, int, int] | None
    at_terminus_m: float


@dataclass(frozen=True)
class Terminus:
    """Where a glacier ends.

    Attributes:
        perimeter_m: of its outer ring there, divides left out.
        unknown_share: of that along what was not mapped, 0-1.
    """

    perimeter_m: float
    unknown_share: float


def term_type(fronts: Sequence[Front], terminus: Terminus | None, known: int | None) -> int:
    """Terminus type as the map shows it, else what is known already; not assigned where nobody knows.

    An ice shelf, which the map cannot tell from other ice, stays one where the map has sea.
    """
    told = NOT_ASSIGNED if known is None else known
    if terminus is None or not terminus.perimeter_m:
        return told
    lengths: dict[str, float] = defaultdict(float)
    for front in fronts:
        lengths[front.water.kind] += front.at_terminus_m
    if sum(lengths.values()) < LEAST_SHARE * terminus.perimeter_m:
        return LAND if terminus.unknown_share < 0.5 else told
    kind = max(lengths, key=lambda kind: lengths[kind])
    if kind == "sea" and known == SHELF:
        return SHELF
    return _CODES.get(kind, told)


class Finder:
    """What finds the fronts of one glacier after the other.

    Args:
        maps: of the year's zones, with ``label`` and, where there is, ``source_date``.
        waters: of the same maps.
    """

    def __init__(self, maps: Mapping[int, xr.Dataset], waters: Waters) -> None:
        self._maps, self._waters, self._tiles = dict(maps), waters, _Tiles(maps)
        self._lattice = Lattice(maps)

    def fronts_of(self, one: Shaped) -> tuple[list[Front], Terminus | None]:
        """The fronts of a glacier, the longest first, and its terminus where its lowest point is known."""
        terminal = _terminal_area(one)
        found: dict[int, list[tuple[Stretch, Crossings]]] = defaultdict(list)
        for chain, closed in open_chains(one.outline, one.divides) if self._near_water(one) else ():
            crossings = self._lattice.crossings(chain)
            for stretch in stretches(chain, closed, crossings, self._water(crossings)):
                found[stretch.water].append((stretch, crossings))
        fronts = [self._front(number, parts, terminal) for number, parts in found.items()]
        fronts = [front for front in fronts if front.length_m >= LEAST_M]
        terminus = None if terminal is None else self._terminus(one, terminal)
        return sorted(fronts, key=lambda front: -front.length_m), terminus

    def _near_water(self, one: Shaped) -> bool:
        sides = shapely.get_coordinates(shapely.segmentize(shapely.box(*one.outline.bounds), 0.05))
        for epsg in self._maps:
            col, row = self._lattice.places(sides, epsg).T
            if not np.isfinite(col).all():
                continue
            rows, cols = ((int(at.min()) - 2, int(at.max()) + 2) for at in (row, col))
            if self._waters.reach(epsg, rows, cols):
                return True
        return False

    def _water(self, crossings: Crossings) -> NDArray[np.int64]:
        """Number of the water on either side of crossings, -1 for those between no pixels."""
        found = np.where(crossings.pixels[:, 0, 0] == NONE, -1, 0)
        for epsg in np.unique(crossings.zone).tolist():
            mine = (crossings.zone == epsg) & (found == 0)
            first, second = (self._waters.at(epsg, *crossings.pixels[mine, side].T) for side in (0, 1))
            found[mine] = np.maximum(first, second)
        return found

    def _front(
        self, number: int, parts: Sequence[tuple[Stretch, Crossings]], terminal: Polygon | None
    ) -> Front:
        line = MultiLineString([stretch.line for stretch, _ in parts])
        days = np.concatenate([self._days(crossings, stretch.crossings) for stretch, crossings in parts])
        dated = np.sort(days[days != 0])
        told = (int(dated[(dated.size - 1) // 2]), int(dated[0]), int(dated[-1])) if dated.size else None
        ending = 0.0 if terminal is None else _length_m(shapely.intersection(line, terminal))
        return Front(self._waters[number], line, _length_m(line), told, ending)

    def _days(self, crossings: Crossings, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Dates under the ice of some crossings, days since 1970-01-01, 0 where there is none."""
        days = [np.zeros(0, np.int64)]
        for epsg, pixels in _by_zone(crossings, index):
            if "source_date" in self._maps[epsg]:
                ice = np.isin(self._tiles.at(epsg, "label", pixels, NODATA), (CLEAN_ICE, DEBRIS))
                days.append(days_of(self._tiles.at(epsg, "source_date", pixels, 0))[ice])
        return np.concatenate(days)

    def _terminus(self, one: Shaped, terminal: Polygon) -> Terminus:
        perimeter_m, unknown, seen = 0.0, 0, 0
        for chain, _ in open_chains(Polygon(one.outline.exterior), one.divides):
            inside = shapely.intersection(shapely.linestrings(chain), terminal)
            perimeter_m += _length_m(inside)
            for part in shapely.get_parts(inside)[shapely.length(shapely.get_parts(inside)) > 0]:
                crossings = self._lattice.crossings(np.asarray(shapely.get_coordinates(part), np.float64))
                for epsg, pixels in _by_zone(crossings, np.arange(crossings.zone.size)):
                    label = self._tiles.at(epsg, "label", pixels, NODATA)
                    unknown += int((label == NODATA).any(axis=1).sum())
                    seen += len(label)
        return Terminus(perimeter_m, unknown / seen if seen else 1.0)


def _terminal_area(one: Shaped) -> Polygon | None:
    """What is near the lowest point of a glacier, in degrees.

    The width of its tongue is the area that it has within 1 km of that point, or within its length where that
    is less, over that distance.
    """
    if one.terminus is None:
        return None
    around_m = float(np.clip(one.lmax_m or _REACH_MOST_M, _REACH_LEAST_M, _REACH_MOST_M))
    tongue = explode(shapely.intersection(one.outline, _circle(one.terminus, around_m)))
    width_m = float(zones.area_km2(tongue).sum()) * 1e6 / around_m
    return _circle(one.terminus, float(np.clip(width_m, _REACH_LEAST_M, _REACH_MOST_M)))


def _circle(centre: tuple[float, float], radius_m: float) -> Polygon:
    """On the ground; an ellipse in degrees."""
    north = radius_m / _M_PER_DEG
    scale = np.array([north / np.cos(np.deg2rad(centre[1])), north])
    return shapely.transform(Point(0.0, 0.0).buffer(1.0, quad_segs=32), lambda xy: centre + xy * scale)


def _length_m(line: shapely.Geometry) -> float:
    lines = shapely.get_parts(line)
    return float(sum(_GEOD.geometry_length(part) for part in lines[shapely.get_dimensions(lines) == 1]))


def _by_zone(crossings: Crossings, index: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Of some crossings, zone by zone, their pairs of pixels."""
    index = index[crossings.pixels[index, 0, 0] != NONE]
    for epsg in np.unique(crossings.zone[index]).tolist():
        yield epsg, crossings.pixels[index[crossings.zone[index] == epsg]]


class _Tiles:
    """What maps have at pixels, by tiles, of which the last few are kept: neighbours follow each other."""

    def __init__(self, maps: Mapping[int, xr.Dataset]) -> None:
        self._maps = maps
        self._held: OrderedDict[tuple[int, str, int, int], NDArray[np.generic]] = OrderedDict()

    def __reduce__(self) -> tuple[type[_Tiles], tuple[Mapping[int, xr.Dataset]]]:
        return _Tiles, (self._maps,)  # another process keeps tiles of its own

    def at(self, epsg: int, name: str, pixels: NDArray[np.int64], beyond: int) -> NDArray[np.generic]:
        """Values at pixels ``(..., 2)``, row and column."""
        data = self._maps[epsg][name]
        row, col = pixels.reshape(-1, 2).T
        found = np.full(row.size, beyond, np.int64).astype(data.dtype)
        inside = (row >= 0) & (col >= 0) & (row < data.shape[0]) & (col < data.shape[1])
        tiles = np.column_stack([row, col]) // _TILE_PX
        for down, right in np.unique(tiles[inside], axis=0).tolist():
            here = inside & (tiles == (down, right)).all(axis=1)
            part = self._tile(epsg, name, down * _TILE_PX, right * _TILE_PX)
            found[here] = part[row[here] - down * _TILE_PX, col[here] - right * _TILE_PX]
        return found.reshape(pixels.shape[:-1])

    def _tile(self, epsg: int, name: str, top: int, left: int) -> NDArray[np.generic]:
        key = epsg, name, top, left
        if key not in self._held:
            part = self._maps[epsg][name].isel(y=slice(top, top + _TILE_PX), x=slice(left, left + _TILE_PX))
            self._held[key] = np.asarray(part.values)
        self._held.move_to_end(key)
        if len(self._held) > _HELD_TILES:
            self._held.popitem(last=False)
        return self._held[key]


class Fronts(Scratch):
    """The fronts of a year, kept in a temporary file until closed.

    Args:
        year: the year mapped.
    """

    def __init__(self, year: int) -> None:
        super().__init__(_TABLES)
        self._year = year

    def add(self, glacier: str, front: Front, at_terminus: bool, axis: str) -> None:
        """Take up a front of the glacier with this identifier, and its axis as WKT."""
        row = (
            *(glacier, front.water.kind, at_terminus, front.length_m),
            *(front.days or (None, None, None)),
            *(front.water.number, front.water.area_km2, front.water.zmean_m, axis),
            *front.line.bounds,
            shapely.to_wkb(front.line),
        )
        self._base.execute(f"INSERT INTO fronts VALUES (NULL, {', '.join('?' * len(row))})", row)

    def frames(self) -> Iterator[gpd.GeoDataFrame]:
        """The fronts in parts, by glacier; one empty part where there are none."""
        answer, given = self._base.execute(_FRONTS), False
        while (rows := answer.fetchmany(_PART_ROWS)) or not given:
            given = True
            columns: list[Sequence[object]] = list(zip(*rows, strict=True)) or [()] * (len(_DTYPES) + 1)
            table = pd.DataFrame(
                {
                    name: pd.to_datetime(pd.Series(values, dtype="Int64"), unit="D").astype(dtype)
                    if dtype.startswith("datetime")
                    else pd.Series(values, dtype=dtype)
                    for (name, dtype), values in zip(_DTYPES.items(), columns[:-1], strict=True)
                }
            )
            yield frame_of(table.assign(year=self._year), list(columns[-1]))  # type: ignore[arg-type]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes GeoParquet, whole or not at all.

        Raises:
            OutputError: if the file cannot be written.
        """
        bounds = self._base.execute(
            "SELECT min(west), min(south), max(east), max(north) FROM fronts"
        ).fetchone()
        write_parts(self.frames(), path, None if bounds[0] is None else bounds)


@dataclass(frozen=True, eq=False)
class _Finding:
    """A glacier to its terminus type, and to its fronts: whether each belongs to the terminus; its axis."""

    finder: Finder
    ground: Ground | None

    def __call__(self, one: Shaped) -> tuple[int, list[tuple[Front, bool, str]]]:
        found, terminus = self.finder.fronts_of(one)
        least_m = np.inf if terminus is None else LEAST_SHARE * terminus.perimeter_m
        fronts = []
        for front in found:
            ends = front.at_terminus_m >= max(least_m, np.finfo(float).tiny)
            fronts.append((front, ends, axis_of(front.line, ends, one.outline, self.ground)))
        return term_type(found, terminus, one.term_type), fronts


def find_fronts(
    glaciers: Inventory, finder: Finder, ground: Ground | None, fronts: Fronts, each: Each = map
) -> None:
    """Put the fronts of all glaciers into ``fronts``, and set the terminus type of each glacier.

    Args:
        glaciers: as they have been described.
        finder: of their fronts.
        ground: the elevation of the year's zones, for the axes of fronts at a terminus.
        fronts: gets them.
        each: by what every glacier is looked at, see :class:`cryoscale.crew.Crew`.
    """
    for one, (code, found) in in_pairs(each, _Finding(finder, ground), glaciers.shaped()):
        glaciers.set_term_type(one.number, code)
        for front in found:
            fronts.add(one.name, *front)
