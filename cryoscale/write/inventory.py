"""The inventory of a year on its way to disk: outlines in any order, written the largest first.

Outlines wait in an SQLite file of their own, which sorts them out of memory; they come out of it in
parts of a few thousand, and so they go into GeoParquet (a row group a part) and GeoPackage.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Geod
from shapely.geometry import Polygon

from cryoscale.crew import Each, in_pairs
from cryoscale.grid import utm_epsg
from cryoscale.write import zones
from cryoscale.write.columns import table
from cryoscale.write.inventory_tables import (
    COMPLEXES,
    DATE_NAMES,
    DEBRIS,
    DIVIDES,
    GLACIERS,
    HYPSOMETRIES,
    INDICES,
    NAME,
    SHAPED,
    TABLES,
    TOLD_NAMES,
    dates_of,
    kept,
    plain_of,
    reals_of,
)
from cryoscale.write.polygons import PolygonArray
from cryoscale.write.scratch import Scratch
from cryoscale.write.topography import BAND_M, Hypsometry
from cryoscale.write.vectors import frame_of, move, write_parts
from cryoscale.write.zonal import Tally

_GEOD = Geod(ellps="WGS84")
_PART_ROWS, _PART_BYTES = 4096, 1 << 23
"""At most so many outlines, or so many bytes of them, are in memory at once; one outline always is."""
_POLYGONS = ("glaciers", "debris")
"""Layers of a GeoPackage; all others are of lines, of one piece or several."""


@dataclass(frozen=True)
class Description:
    """What is to be said of one outline beyond what its map says.

    Attributes:
        values: by the names of :data:`cryoscale.write.columns.TOLD`; what is left out, None or NaN is empty.
        hypsometry: by bands of 50 m, None where no elevation is known.
    """

    values: Mapping[str, Any]
    hypsometry: Hypsometry | None = None


@dataclass(frozen=True, eq=False)
class Complex:
    """One outline on its way to be divided.

    Attributes:
        name: its identifier.
        outline: in degrees.
        is_part: whether it was severed along a straight line.
        row: as the inventory that it comes from keeps it.
        patches: likewise of its debris, area and shape.
    """

    name: str
    outline: Polygon
    is_part: bool
    row: tuple[Any, ...]
    patches: list[tuple[float, bytes]]

    @property
    def debris(self) -> PolygonArray:
        """Its debris-covered parts."""
        shapes = np.array([shape for _, shape in self.patches], object)
        return np.asarray(shapely.from_wkb(shapes), object)


@dataclass(frozen=True)
class _Telling:
    """Number, source and shape of an outline to what is said of it."""

    told: Callable[[Polygon, str | None], Description]

    def __call__(self, row: tuple[int, str | None, bytes]) -> Description:
        _, source, shape = row
        return self.told(shapely.from_wkb(shape), source)


@dataclass(frozen=True, eq=False)
class Shaped:
    """One glacier with what is known of where it ends.

    Attributes:
        number: of this inventory.
        name: its identifier.
        outline: in degrees.
        divides: lines that it shares with neighbours, in its own vertices.
        terminus: longitude and latitude of its lowest point, None where no elevation is known.
        lmax_m: its length, likewise.
        term_type: the RGI's, None where there is none.
    """

    number: int
    name: str
    outline: Polygon
    divides: NDArray[np.object_]
    terminus: tuple[float, float] | None
    lmax_m: float | None
    term_type: int | None


class Inventory(Scratch):
    """The outlines of one year and their debris-covered parts, kept in a temporary file until closed.

    Args:
        attributes: columns with one value for all, e.g. the year.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__(TABLES)
        self._attributes = dict(attributes)

    def add(
        self,
        polygons: PolygonArray,
        area_km2: NDArray[np.float64],
        tally: Tally,
        debris: PolygonArray,
        owner: NDArray[np.int64],
        part: NDArray[np.bool_],
    ) -> int:
        """Take up outlines (degrees), what the map says of them, and debris by the index of its outline.

        ``part`` says which outlines are parts of a body of ice that was severed. Their numbers in this
        inventory are consecutive; the first is returned.
        """
        if not polygons.size:
            return 0
        points = shapely.get_coordinates(shapely.point_on_surface(polygons)).reshape(-1, 2)
        dates = [plain_of(tally.date(quantile)) for quantile in (0.5, 0.0, 1.0)]
        first = self._next()
        rows = zip(
            range(first, first + polygons.size),
            [identifier(lon, lat) for lon, lat in points.tolist()],
            *points.T.tolist(),
            area_km2.tolist(),
            tally.debris_fraction().tolist(),
            *dates,
            plain_of(tally.mean_confidence()),
            *map(plain_of, tally.area_interval(area_km2)),
            part.tolist(),
            *shapely.bounds(polygons).reshape(-1, 4).T.tolist(),
            shapely.to_wkb(polygons),
            strict=True,
        )
        self._base.executemany(f"INSERT INTO glaciers VALUES ({', '.join('?' * 18)})", rows)
        patches = zip(
            (owner + first).tolist(), zones.area_km2(debris).tolist(), shapely.to_wkb(debris), strict=True
        )
        self._base.executemany("INSERT INTO debris VALUES (?, ?, ?)", patches)
        return first

    def _next(self) -> int:
        (number,) = self._base.execute("SELECT coalesce(max(id), 0) + 1 FROM glaciers").fetchone()
        return int(number)

    def complexes(self) -> Iterator[Complex]:
        """The outlines one at a time, in the order of the map: a single one may have a million corners."""
        self._base.executescript(INDICES)
        number = 0
        while found := self._base.execute(COMPLEXES, (number,)).fetchone():
            name, part, number, shape = found
            row = self._base.execute("SELECT * FROM glaciers WHERE id = ?", (number,)).fetchone()
            patches = self._base.execute("SELECT area, shape FROM debris WHERE glacier = ?", (number,))
            yield Complex(name, shapely.from_wkb(shape), bool(part), row, patches.fetchall())

    def add_whole(self, one: Complex, source: str) -> None:
        """Take up a complex that is one glacier, with all that its inventory knows of it."""
        number = self._next()
        self._base.execute(
            f"INSERT INTO glaciers VALUES (?{', ?' * (len(one.row) - 1)})", (number, *one.row[1:])
        )
        patches = [(number, *patch) for patch in one.patches]
        self._base.executemany("INSERT INTO debris VALUES (?, ?, ?)", patches)
        self._base.execute("INSERT INTO origin VALUES (?, ?, ?)", (number, one.name, source))

    def note_divides(
        self, first: int, name: str, source: NDArray[Any], pairs: NDArray[np.int64], lines: NDArray[Any]
    ) -> None:
        """Of the outlines from number ``first`` on: complex, source of the divides, and their common borders.

        Args:
            first: what :meth:`add` returned.
            name: identifier of the complex that they come from.
            source: "dem", "rgi" or "none", of each.
            pairs: indices (pair, 2) of neighbours.
            lines: the border of each pair, degrees.
        """
        origin = [(first + index, name, told) for index, told in enumerate(source.tolist())]
        self._base.executemany("INSERT INTO origin VALUES (?, ?, ?)", origin)
        length_m = [_GEOD.geometry_length(line) for line in lines]
        rows = zip(*(first + pairs).T.tolist(), length_m, shapely.to_wkb(lines), strict=True)
        self._base.executemany("INSERT INTO divides VALUES (?, ?, ?, ?)", rows)

    def describe(self, told: Callable[[Polygon, str | None], Description], each: Each = map) -> None:
        """Ask of every outline what is to be said of it, one after the other, in the order of the map.

        What was said of it before is forgotten.

        Args:
            told: is given the outline (degrees), and where its divides come from if it was divided.
            each: by what it is asked, see :class:`cryoscale.crew.Crew`.
        """
        self._base.executescript("DELETE FROM told; DELETE FROM hypsometry;")
        for (number, *_), description in in_pairs(each, _Telling(told), self._to_be_told()):
            self._note(number, description)

    def _to_be_told(self) -> Iterator[tuple[int, str | None, bytes]]:
        """Number, source of the divides and shape of every outline."""
        number = 0
        # one at a time: a single one may have a million corners
        while row := self._base.execute(
            """SELECT id, source, g.shape FROM glaciers AS g LEFT JOIN origin ON origin.glacier = g.id
            WHERE id > ? ORDER BY id LIMIT 1""",
            (number,),
        ).fetchone():
            number = row[0]
            yield row

    def _note(self, number: int, told: Description) -> None:
        unknown = told.values.keys() - set(TOLD_NAMES)
        if unknown:
            raise ValueError(f"no column to be told: {', '.join(sorted(unknown))}")
        values = [kept(told.values.get(name)) for name in TOLD_NAMES]
        self._base.execute(f"INSERT INTO told VALUES (?{', ?' * len(TOLD_NAMES)})", (number, *values))
        if told.hypsometry is not None:
            bands = told.hypsometry.thousandths
            row = (number, told.hypsometry.lowest_m, len(bands), json.dumps(bands))
            self._base.execute("INSERT INTO hypsometry VALUES (?, ?, ?, ?)", row)

    def shaped(self) -> Iterator[Shaped]:
        """The outlines one at a time, in the order of the map, as they have been described."""
        self._base.executescript(INDICES)
        number = 0
        while found := self._base.execute(SHAPED, (number,)).fetchone():
            number, name, shape, lon, lat, lmax_m, term_type = found
            lines = [
                line
                for side in ("one", "other")
                for (line,) in self._base.execute(f"SELECT shape FROM divides WHERE {side} = ?", (number,))
            ]
            divides = np.asarray(shapely.from_wkb(np.array(lines, object)), object)
            terminus = None if lon is None else (lon, lat)
            yield Shaped(number, name, shapely.from_wkb(shape), divides, terminus, lmax_m, term_type)

    def set_term_type(self, number: int, code: int) -> None:
        """Terminus type of a described outline, in the place of the RGI's."""
        self._base.execute("UPDATE told SET term_type = ? WHERE glacier = ?", (code, number))

    def glaciers(self) -> Iterator[gpd.GeoDataFrame]:
        """The outlines in parts, the largest first; one empty part where there are none."""
        for rows in self._parts(GLACIERS, 15 + len(TOLD_NAMES)):
            name, lon, lat, area, debris, *dates, confidence, lowest, highest, part, whole, source = rows[:14]
            told, shape = dict(zip(TOLD_NAMES, map(list, rows[14:-1]), strict=True)), rows[-1]
            area_km2, fraction = np.array(area, float), np.array(debris, float)
            values = {
                "glac_id": list(name),
                "complex_id": list(whole),
                "divide_source": list(source),
                "cenlon": np.array(lon, float),
                "cenlat": np.array(lat, float),
                "utm_zone": np.array([utm_epsg(x, y) % 100 for x, y in zip(lon, lat, strict=True)], np.int16),
                "area_km2": area_km2,
                "clean_area_km2": area_km2 * (1 - fraction),
                "debris_area_km2": area_km2 * fraction,
                "debris_fraction": fraction,
                **{key: dates_of(days) for key, days in zip(DATE_NAMES, dates, strict=True)},
                "area_low_km2": reals_of(lowest),
                "area_high_km2": reals_of(highest),
                "confidence": reals_of(confidence),
                "is_part": np.array(part, bool),
            }
            yield frame_of(table(values | told | self._attributes, len(shape)), shape)

    def debris(self) -> Iterator[gpd.GeoDataFrame]:
        """Their debris-covered parts in parts, in the order of the outlines: glac_id, area_km2, geometry."""
        for name, area, shape in self._parts(DEBRIS, 3):
            columns = {"glac_id": pd.Series(name, dtype="string"), "area_km2": np.array(area, float)}
            yield frame_of(columns, shape)

    def write_hypsometry(self, path: str | os.PathLike[str]) -> None:
        """Writes the hypsometries as the RGI 7 does: CSV, a row a glacier in the order of the outlines.

        Columns are glac_id, area_km2 and the central elevations (m) of all bands from the lowest ice to the
        highest; values are thousandths of the glacier's area. Outlines without elevation are left out.

        Raises:
            OutputError: if the file cannot be written.
        """
        self._base.executescript(INDICES)
        lowest, end = self._base.execute(
            f"SELECT min(lowest), max(lowest + {BAND_M} * bands) FROM hypsometry"
        ).fetchone()
        bands = range(lowest, end, BAND_M) if lowest is not None else range(0)
        with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
            local = Path(folder, "hypsometry.csv")
            with local.open("w", newline="", encoding="utf-8") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(["glac_id", "area_km2", *(band + BAND_M // 2 for band in bands)])
                for name, area, first, thousandths in self._base.execute(HYPSOMETRIES):
                    shares = json.loads(thousandths)
                    before = [0] * ((first - bands.start) // BAND_M)
                    after = [0] * (len(bands) - len(before) - len(shares))
                    rows.writerow([name, area, *before, *shares, *after])
            move(local, path)

    def divides(self) -> Iterator[gpd.GeoDataFrame]:
        """The borders that neighbours share in parts: glac_id_1, glac_id_2, length_m, geometry."""
        self._base.executescript(INDICES)
        self._base.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS named AS SELECT g.id, {NAME} AS name FROM glaciers g"
        )
        for one, other, length, shape in self._parts(DIVIDES, 4):
            columns = {"glac_id_1": list(one), "glac_id_2": list(other), "length_m": np.array(length, float)}
            yield frame_of(
                pd.DataFrame(columns).astype({"glac_id_1": "string", "glac_id_2": "string"}), shape
            )

    def write_outlines(self, path: str | os.PathLike[str]) -> None:
        """Writes the outlines alone as GeoParquet, as :meth:`write` does.

        Raises:
            OutputError: if the file cannot be written.
        """
        self._write_parquet(self.glaciers(), path)

    def write_divides(self, path: str | os.PathLike[str]) -> None:
        """Writes the borders that neighbours share as GeoParquet, whole or not at all.

        Raises:
            OutputError: if the file cannot be written.
        """
        answer = self._base.execute("SELECT shape FROM divides")
        parts = iter(lambda: answer.fetchmany(_PART_ROWS), [])
        sides = np.array(
            [shapely.total_bounds(shapely.from_wkb([shape for (shape,) in one])) for one in parts]
        )
        bounds = (
            [*sides[:, :2].min(axis=0).tolist(), *sides[:, 2:].max(axis=0).tolist()] if len(sides) else None
        )
        write_parts(self.divides(), path, bounds)

    def write(
        self,
        path_parquet: str | os.PathLike[str],
        path_gpkg: str | os.PathLike[str],
        further: Mapping[str, Iterator[gpd.GeoDataFrame]] | None = None,
    ) -> None:
        """Writes GeoParquet and a GeoPackage (layers glaciers, debris, divides and ``further`` ones by name).

        Glaciers and debris are polygons, all other layers lines of several pieces, also where they are empty.

        Paths may be fsspec URLs. Each file appears complete or not at all, and replaces what was there.

        Raises:
            OutputError: if a file cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
            geopackage = Path(folder, "outlines.gpkg")
            self._write_parquet(self.glaciers(), path_parquet)
            layers = {"glaciers": self.glaciers(), "debris": self.debris(), "divides": self.divides()}
            layers |= further or {}
            for layer, parts in layers.items():
                for number, part in enumerate(parts):
                    part.to_file(
                        geopackage,
                        layer=layer,
                        driver="GPKG",
                        index=False,
                        mode="a" if number else "w",
                        # said, since a first part may be empty, or its lines all of one piece
                        geometry_type="Polygon" if layer in _POLYGONS else "MultiLineString",
                        promote_to_multi=layer not in _POLYGONS,
                    )
            move(geopackage, path_gpkg)

    def _write_parquet(self, frames: Iterator[gpd.GeoDataFrame], path: str | os.PathLike[str]) -> None:
        bounds = self._base.execute(
            "SELECT min(west), min(south), max(east), max(north) FROM glaciers"
        ).fetchone()
        write_parts(frames, path, None if bounds[0] is None else bounds)

    def _parts(self, query: str, columns: int) -> Iterator[Sequence[Sequence[Any]]]:
        """Columns of the answer, the last of them bytes, some thousand rows at a time."""
        self._base.executescript(INDICES)
        rows: list[tuple[Any, ...]] = []
        held, given = 0, False
        for row in self._base.execute(query):
            rows.append(row)
            held += len(row[-1])
            if len(rows) == _PART_ROWS or held >= _PART_BYTES:
                yield list(zip(*rows, strict=True))
                rows, held, given = [], 0, True
        if rows or not given:
            yield list(zip(*rows, strict=True)) or [()] * columns


def identifier(lon_deg: float, lat_deg: float) -> str:
    """A place written as GLIMS writes it: longitude 0-360 E and latitude in 0.001 degrees."""
    east = round(lon_deg % 360.0 * 1000) % 360_000
    return f"G{east:06d}E{round(abs(lat_deg) * 1000):05d}{'N' if lat_deg >= 0 else 'S'}"
