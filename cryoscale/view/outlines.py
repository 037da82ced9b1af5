"""Outlines of a finished run for the page: vector tiles, attributes, and areas over the years."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow.parquet as pq
from pmtiles.reader import Reader

from cryoscale.view.shown import Shown
from cryoscale.write.objects import local_path

_AREAS = ["glac_id", "area_km2", "area_low_km2", "area_high_km2"]


@dataclass(frozen=True, eq=False)
class Outlines:
    """The outlines of what is shown; may be asked from many threads at once."""

    shown: Shown

    def tile(self, year: int, tile: tuple[int, int, int]) -> bytes | None:
        """A vector tile (zoom, column, row) as gzipped MVT, out of ``inventory/<year>.pmtiles``.

        Layers are glaciers, debris and divides; see :mod:`cryoscale.write.vector_tiles`.
        """
        reader = self._archive(year)
        if reader is None:
            return None
        # pmtiles says so of a place that is off the grid of its zoom, and of a zoom that nothing has
        with suppress(ValueError, OverflowError):
            found: bytes | None = reader.get(*tile)
            return found
        return None

    def has_tiles(self, year: int) -> bool:
        """Whether there are vector tiles of a year."""
        return self._archive(year) is not None

    def areas(self, year: int, since: int | None = None) -> dict[str, list[Any]]:
        """By column: ``glac_id`` of a year, ``id`` that stays over the years, ``area_km2`` and ``change``.

        ``change`` is the area less that of the year ``since``, over the latter; None where one is not known,
        and of glaciers that split, merged or exchanged ice between the two years.
        """
        table = self._history()
        now = table[table["year"] == year]
        before = now["id"].map(table[table["year"] == since].set_index("id")["area_km2"])
        between = table["year"].gt(min(year, since or year)) & table["year"].le(max(year, since or year))
        other = table[between & table["kind"].notna() & table["kind"].ne("same")]
        change = ((now["area_km2"] - before) / before).mask(now["id"].isin(other["id"]))
        return {
            "glac_id": now["glac_id"].tolist(),
            "id": now["id"].tolist(),
            "area_km2": [round(float(area), 4) for area in now["area_km2"]],
            "change": [None if pd.isna(value) else round(float(value), 4) for value in change],
        }

    def glacier(self, identity: str, year: int | None = None) -> dict[str, Any] | None:
        """A glacier with its attributes and areas in every year that knows it.

        Args:
            identity: its id over the years; with ``year`` that of one outline (``glac_id``).
            year: of the outline.
        """
        table = self._history()
        if year is not None:
            rows = table[(table["year"] == year) & (table["glac_id"] == identity)]
            if rows.empty:
                return None
            identity = str(rows["id"].iloc[0])
        rows = table[table["id"] == identity].sort_values("year")
        if rows.empty:
            return None
        return {
            "id": identity,
            "years": [
                {
                    "year": int(row["year"]),
                    "kind": _plain(row["kind"]),
                    **{name: _plain(row[name]) for name in _AREAS},
                    "attributes": self._attributes(int(row["year"]), str(row["glac_id"])),
                }
                for _, row in rows.iterrows()
            ],
        }

    @lru_cache(maxsize=1)  # noqa: B019 - one server has one of these, for as long as it runs
    def _history(self) -> pd.DataFrame:
        """A row an outline and year: year, glac_id, id, areas, and kind of change from the year before it."""
        tables, former = [], None
        for year in self.shown.years:
            out = self.shown.folders[year]
            known = set(self._schema(year))
            table = self._read(year, [name for name in _AREAS if name in known]).reindex(columns=_AREAS)
            stable = _stable(f"{out}/inventory/glacier_ids.csv", year)
            table["id"] = table["glac_id"].map(stable).fillna(table["glac_id"])
            table["kind"] = table["glac_id"].map(_kinds(f"{out}/inventory/{former}-{year}-changes.csv"))
            tables.append(table.assign(year=year))
            former = year
        return pd.concat(tables, ignore_index=True)

    def _attributes(self, year: int, glac_id: str) -> dict[str, Any]:
        columns = [name for name in self._schema(year) if name != "geometry"]
        row = self._read(year, columns, [("glac_id", "==", glac_id)]).iloc[0]
        return {name: value for name in columns if (value := _plain(row[name])) is not None}

    def _schema(self, year: int) -> list[str]:
        names: list[str] = self._with(year, lambda file: list(pq.read_schema(file).names))
        return names

    def _read(self, year: int, columns: list[str], filters: Any = None) -> pd.DataFrame:
        return self._with(
            year,
            lambda file: pq.read_table(file, columns=columns, filters=filters).to_pandas(
                ignore_metadata=True
            ),
        )

    def _with(self, year: int, read: Callable[[Any], Any]) -> Any:
        with fsspec.open(f"{self.shown.folders[year]}/inventory/{year}.parquet", "rb") as file:
            return read(file)

    @lru_cache(maxsize=64)  # noqa: B019
    def _archive(self, year: int) -> Reader | None:
        url = f"{self.shown.folders.get(year, '')}/inventory/{year}.pmtiles"
        path = local_path(url)
        if path is None:
            return _remote(url)
        if not Path(path).is_file():
            return None
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Reader(lambda offset, length: mapped[offset : offset + length])


def _remote(url: str) -> Reader | None:
    fs, path = fsspec.core.url_to_fs(url)
    if not fs.exists(path):
        return None
    return Reader(lambda offset, length: fs.cat_file(path, start=offset, end=offset + length))


def _stable(url: str, year: int) -> dict[str, str]:
    """Ids that stay over the years by those of a year; empty where the years were not linked."""
    table = _table(url, ["year", "glac_id", "glacier_id"])
    own = table[table["year"] == str(year)]
    return dict(zip(own["glac_id"], own["glacier_id"], strict=True))


def _kinds(url: str) -> dict[str, str]:
    """What happened to each outline of the newer of two years; empty where they were not linked."""
    table = _table(url, ["kind", "newer_ids"])
    return {
        name: kind
        for kind, names in zip(table["kind"], table["newer_ids"], strict=True)
        for name in names.split()
    }


def _table(url: str, columns: list[str]) -> pd.DataFrame:
    """Columns of a CSV as text; no rows where there is no file."""
    try:
        with fsspec.open(url, "r") as file:
            return pd.read_csv(file, usecols=columns, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        return pd.DataFrame(columns=columns, dtype=str)


def _plain(value: Any) -> Any:
    """A cell as JSON has it; None for what is not known."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    plain = value.item() if hasattr(value, "item") else value
    return round(plain, 6) if isinstance(plain, float) else plain
