"""Perennial or seasonal over the years of an archive, of one run or of several: what their maps show.

A run with several years tells it by all dates that it saw (:mod:`cryoscale.write.perennial`); an archive
keeps maps, and a map is one look a year.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from cryoscale.archive.coverage import Maps, looked_at
from cryoscale.archive.index import Archive, Entry
from cryoscale.write.perennial import Look, decide
from cryoscale.write.vectors import read_parts

COLUMNS = ["region", "year", "version", "glac_id", "glacier_id", "kind", "years_frozen", "years_gone"]


def perennial(archive: Archive, entries: Sequence[Entry]) -> pd.DataFrame:
    """A row an outline of each version, with what all years of its region among them make of it.

    Columns are those of a run's ``perennial.csv``, with region and version.
    """
    return pd.DataFrame(_rows(archive, entries), columns=COLUMNS)


def _rows(archive: Archive, entries: Sequence[Entry]) -> Iterator[tuple[object, ...]]:
    for entry in entries:
        maps = [Maps(archive, one) for one in entries if one.region == entry.region]
        for part in read_parts(archive.table("glaciers", entry), ("glac_id", "glacier_id", "geometry")):
            for name, stable, outline in zip(
                part["glac_id"], part["glacier_id"], part["geometry"], strict=True
            ):
                found = decide(Look(one.entry.year, *looked_at(outline, one)) for one in maps)
                told = (" ".join(map(str, years)) for years in (found.frozen, found.gone))
                yield entry.region, entry.year, entry.version, name, stable, found.kind, *told
