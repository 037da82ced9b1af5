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
        with suppress(ValueError):  # pmtiles says so of a place that is off the grid of its zoom
            found: bytes | None = reader.get(*tile)
            return found
        return None

    def has_tiles(self, year: int) -> bool:
        """Whether there are vector tiles of a year."""
        return self._archive(year) is not None

    def areas(self, year: int, since: int | None = None) -> dict[str, list[Any]]:
        """By column: ``glac_id`` of a year, ``id`` that stays over the years, ``area_km2`` and ``change``.

        ``change`` is the area less that of the year ``since`` over the latter; None where either is not known.
        """
        table = self._history()
        now = table[table["year"] == year]
        then = table[table["year"] == since].set_index("id")["area_km2"] if since is not None else None
        before = now["id"].map(then) if then is not None else pd.Series(float("nan"), now.index)
        change = (now["area_km2"] - before) / before
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
                    **{name: _plain(row[name]) for name in _AREAS},
                    "attributes": self._attributes(int(row["year"]), str(row["glac_id"])),
                }
                for _, row in rows.iterrows()
            ],
        }

    @lru_cache(maxsize=1)  # noqa: B019 - one server has one of these, for as long as it runs
    def _history(self) -> pd.DataFrame:
        """A row an outline and year: year, glac_id, id, and areas."""
        tables = []
        for year, out in self.shown.folders.items():
            known = set(self._schema(year))
            table = self._read(year, [name for name in _AREAS if name in known]).reindex(columns=_AREAS)
            stable = _stable(f"{out}/inventory/glacier_ids.csv", year)
            table["id"] = table["glac_id"].map(stable).fillna(table["glac_id"])
            tables.append(table.assign(year=year))
        return pd.concat(tables, ignore_index=True)

    def _attributes(self, year: int, glac_id: str) -> dict[str, Any]:
        columns = [name for name in self._schema(year) if name != "geometry"]
        row = self._read(year, columns, [("glac_id", "==", glac_id)]).iloc[0]
        return {name: value for name in columns if (value := _plain(row[name])) is not None}

    def _schema(self, year: int) -> list[str]:
        return self._with(year, lambda file: list(pq.read_schema(file).names))

    def _read(self, year: int, columns: list[str], filters: Any = None) -> pd.DataFrame:
        return self._with(
            year, lambda file: pq.read_table(file, columns=columns, filters=filters).to_pandas(ignore_metadata=True)
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
    try:
        with fsspec.open(url, "r") as file:
            table = pd.read_csv(file, dtype={"glac_id": str, "glacier_id": str})
    except FileNotFoundError:
        return {}
    own = table[table["year"] == year]
    return dict(zip(own["glac_id"], own["glacier_id"], strict=True))


def _plain(value: Any) -> Any:
    """A cell as JSON has it; None for what is not known."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    plain = value.item() if hasattr(value, "item") else value
    return round(plain, 6) if isinstance(plain, float) else plain
