"""How an inventory lies in SQLite on its way to disk: its tables, what is asked of them, and its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.write.columns import TOLD

TOLD_NAMES = tuple(column.name for column in TOLD)

TABLES = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -16384;
CREATE TABLE glaciers (
  id INTEGER PRIMARY KEY, name TEXT, cenlon REAL, cenlat REAL, area REAL, debris REAL,
  src_date INTEGER, src_date_first INTEGER, src_date_last INTEGER, confidence REAL,
  low REAL, high REAL, part INTEGER, west REAL, south REAL, east REAL, north REAL, shape BLOB);
CREATE TABLE debris (glacier INTEGER, area REAL, shape BLOB);
CREATE TABLE told (glacier INTEGER PRIMARY KEY, {", ".join(TOLD_NAMES)});
CREATE TABLE origin (glacier INTEGER PRIMARY KEY, complex TEXT, source TEXT);
CREATE TABLE divides (one INTEGER, other INTEGER, length REAL, shape BLOB);
CREATE TABLE hypsometry (glacier INTEGER PRIMARY KEY, lowest INTEGER, bands INTEGER, thousandths TEXT);
"""
INDICES = """
CREATE INDEX IF NOT EXISTS by_size ON glaciers (area DESC, cenlat DESC, cenlon DESC);
CREATE INDEX IF NOT EXISTS by_name ON glaciers (name, area DESC, cenlat DESC, cenlon DESC);
CREATE INDEX IF NOT EXISTS by_glacier ON debris (glacier);
CREATE INDEX IF NOT EXISTS by_one ON divides (one);
CREATE INDEX IF NOT EXISTS by_other ON divides (other);
"""
NAME = """g.name || coalesce('-' || (1 + nullif((SELECT count(*) FROM glaciers AS o WHERE o.name = g.name
  AND (o.area, o.cenlat, o.cenlon) > (g.area, g.cenlat, g.cenlon)), 0)), '')"""
"""The second of a name gets a 2; the larger goes before."""
ORDER = "ORDER BY g.area DESC, g.cenlat DESC, g.cenlon DESC"
GLACIERS = f"""SELECT {NAME}, cenlon, cenlat, area, debris, src_date, src_date_first, src_date_last,
  confidence, low, high, part, origin.complex, origin.source, {", ".join(TOLD_NAMES)}, shape
  FROM glaciers AS g LEFT JOIN told ON told.glacier = g.id LEFT JOIN origin ON origin.glacier = g.id
  {ORDER}"""
DEBRIS = f"""SELECT {NAME}, d.area, d.shape FROM glaciers AS g CROSS JOIN debris AS d ON d.glacier = g.id
  {ORDER}, d.area DESC, d.shape"""
"""By what they are, since the order in which they were found depends on the blocks of the map."""
HYPSOMETRIES = f"""SELECT {NAME}, g.area, h.lowest, h.thousandths FROM glaciers AS g
  JOIN hypsometry AS h ON h.glacier = g.id {ORDER}"""
COMPLEXES = (
    f"""SELECT {NAME}, g.part, g.id, g.shape FROM glaciers AS g WHERE g.id > ? ORDER BY g.id LIMIT 1"""
)
SHAPED = f"""SELECT g.id, {NAME}, g.shape, termlon, termlat, lmax_m, term_type FROM glaciers AS g
  LEFT JOIN told ON told.glacier = g.id WHERE g.id > ? ORDER BY g.id LIMIT 1"""
DIVIDES = """SELECT a.name, b.name, d.length, d.shape FROM divides AS d
  JOIN named AS a ON a.id = d.one JOIN named AS b ON b.id = d.other ORDER BY a.name, b.name"""
DATE_NAMES = ("src_date", "src_date_first", "src_date_last")


def kept(value: Any) -> Any:
    """A told value as SQLite keeps it, with nothing for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def dates_of(days: Sequence[int | None]) -> NDArray[np.datetime64]:
    """Days since 1970-01-01 as the dates of a column."""
    found = [np.datetime64("NaT", "D") if day is None else np.datetime64(day, "D") for day in days]
    return np.array(found, "datetime64[D]").astype("datetime64[ms]")


def reals_of(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Numbers of a column, NaN for nothing."""
    return np.array([np.nan if value is None else value for value in values], float)


def plain_of(values: NDArray[Any]) -> list[Any]:
    """Plain numbers for SQLite (days since 1970-01-01 for dates), None for NaN and NaT."""
    plain = values.astype(np.int64) if values.dtype.kind == "M" else values
    absent = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    return [None if gap else value for gap, value in zip(absent.tolist(), plain.tolist(), strict=True)]
