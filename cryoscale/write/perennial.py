"""Perennial or seasonal: what the years of a run saw where one of them has an outline.

One season does not tell a snow patch that is gone next year from ice that stays. A year that saw the place
and found nothing there does, and so do years in a row that found snow or ice. Every outline of every year is
looked at in all years by what the run kept of them (:mod:`cryoscale.write.evidence`).
"""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from shapely.geometry import Polygon

from cryoscale.write.evidence import Cells, Evidence
from cryoscale.write.snow import LEAST_DATES
from cryoscale.write.vectors import move, read_parts

PERENNIAL, SEASONAL, UNDECIDED = "perennial", "seasonal", "undecided"

YEARS_IN_A_ROW = 3
"""Of snow or ice, after which an outline is perennial (choice). Even a glacieret lasts for at least two
(Cogley et al. 2011, https://unesdoc.unesco.org/ark:/48223/pf0000192525)."""
LEAST_SEEN = 0.5
"""Share of an outline that a year has to have mapped, to count (choice)."""
LEAST_FROZEN = 0.5
"""Share of it that has to be ice on the map, or mean share of the dates that show snow or ice (choice)."""
MOSTLY_DEBRIS = 0.5
"""Share under debris from which dates tell nothing, as debris is not snow (choice)."""


@dataclass(frozen=True)
class Look:
    """What one year saw where an outline lies.

    Attributes:
        year: that looked.
        seen_fraction: share of the outline that it mapped.
        ice_fraction: share of that part which its map has as ice.
        dates: median number of clear dates, NaN where not known.
        persistence: mean share of them with snow or ice, NaN where not known.
    """

    year: int
    seen_fraction: float
    ice_fraction: float
    dates: float = math.nan
    persistence: float = math.nan

    @property
    def is_frozen(self) -> bool | None:
        """Whether snow or ice was there; None where the year did not see it.

        Several dates say more than the map, which is made of one of them.
        """
        if not self.seen_fraction >= LEAST_SEEN:
            return None
        if self.dates >= LEAST_DATES and not math.isnan(self.persistence):
            return self.persistence >= LEAST_FROZEN
        return self.ice_fraction >= LEAST_FROZEN


@dataclass(frozen=True)
class Decision:
    """What the years make of an outline.

    Attributes:
        kind: "perennial", "seasonal" or "undecided".
        frozen: the years that found snow or ice there.
        gone: those that saw the place and found none.
    """

    kind: str
    frozen: tuple[int, ...]
    gone: tuple[int, ...]


def look_at(cells: Cells, year: int, debris_fraction: float) -> Look:
    """What a year saw under an outline, of which ``debris_fraction`` is debris, by its own cells of it."""
    seen = cells.seen_fraction
    if not seen or debris_fraction >= MOSTLY_DEBRIS:
        return Look(year, seen, cells.mean("ice"))
    clean = ~(cells["debris"] >= 0.5)
    return Look(year, seen, cells.mean("ice"), cells.median("dates", clean), cells.mean("persistence", clean))


def decide(looks: Iterable[Look]) -> Decision:
    """Perennial or seasonal, by the looks of different years; those that did not see the place do not count.

    Perennial is what was there in :data:`YEARS_IN_A_ROW` of the years that saw it, one after the other, even
    if it is gone in others: ice vanishes, too. Seasonal is what was gone in at least one year and never there
    in two in a row. Anything else is undecided.
    """
    told = [(look.year, frozen) for look in looks if (frozen := look.is_frozen) is not None]
    row = longest = 0
    for _, frozen in sorted(told):
        row = row + 1 if frozen else 0
        longest = max(longest, row)
    there = tuple(sorted(year for year, frozen in told if frozen))
    gone = tuple(sorted(year for year, frozen in told if not frozen))
    if longest >= YEARS_IN_A_ROW:
        return Decision(PERENNIAL, there, gone)
    return Decision(SEASONAL if gone and longest < 2 else UNDECIDED, there, gone)


def decide_under(outline: Polygon, debris_fraction: float, seen: Mapping[int, Evidence]) -> Decision:
    """What years, of one run or of several, make of an outline (degrees) of any of them by their evidence."""
    return decide(look_at(kept.under(outline), year, debris_fraction) for year, kept in seen.items())


def write_perennial(folder: Path, seen: Mapping[int, Evidence]) -> None:
    """Writes ``perennial.csv`` beside the inventories ``<year>.parquet`` and ``glacier_ids.csv`` of a folder.

    A row an outline of each year: year, glac_id, glacier_id, kind, years_frozen and years_gone (a space
    between two).

    Args:
        folder: a local one; the file is replaced whole or not at all.
        seen: the evidence of the years.

    Raises:
        OutputError: if the file cannot be written.
    """
    stable = pd.read_csv(folder / "glacier_ids.csv", dtype={"glac_id": str, "glacier_id": str})
    ids = dict(zip(zip(stable["year"], stable["glac_id"], strict=True), stable["glacier_id"], strict=True))
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch:
        local = Path(scratch, "perennial.csv")
        with local.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["year", "glac_id", "glacier_id", "kind", "years_frozen", "years_gone"])
            for year in sorted(seen):
                columns = ("glac_id", "debris_fraction", "geometry")
                for part in read_parts(str(folder / f"{year}.parquet"), columns):
                    for name, debris, outline in part[list(columns)].itertuples(index=False):
                        found = decide_under(outline, debris, seen)
                        told = (" ".join(map(str, years)) for years in (found.frozen, found.gone))
                        rows.writerow([year, name, ids[year, name], found.kind, *told])
        move(local, folder / "perennial.csv")
