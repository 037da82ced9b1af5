"""What became of each glacier from one inventory to the next, and an id that stays with it.

Neighbours nearly always have a strip along their divide in common from year to year, since no divide is drawn
twice alike: by the table of links alone, all glaciers of a complex are one cluster. What became of them is
therefore told by main links, those that are the largest of either of their two outlines. Every outline that
has a link has a main one, and a strip is nobody's largest.

What a map had no data over has neither vanished nor begun. Such a glacier keeps its id until a map shows it
again, or shows its place without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from cryoscale.write.coverage import Coverage
from cryoscale.write.links import Inventoried, Links, components, link
from cryoscale.write.vectors import put_text, read_parts

OLDER, NEWER = "older", "newer"
SAME, SPLIT, MERGE, EXCHANGE, BIRTH, VANISHED = "same", "split", "merge", "exchange", "birth", "vanished"
NOT_SEEN, FIRST_SEEN = "not seen", "first seen"

LEAST_SEEN = 0.5
"""Share of an outline over which the other year's map must have data, to say that there was no ice then."""


_SEEN_DECIMALS = 4
"""More of a count of pixels over an area would be noise."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Of the outlines of each side, by id, the share (0-1) over which the other side's map has data."""

    older: pd.Series
    newer: pd.Series


def link_years(older: Iterator[gpd.GeoDataFrame], newer: Iterator[gpd.GeoDataFrame]) -> Links:
    """An older inventory linked to a newer one, both in parts with a column ``glac_id``."""
    return link(Inventoried(OLDER, older), Inventoried(NEWER, newer))


def changes(links: Links, seen: Seen | None = None) -> pd.DataFrame:
    """What happened to the glaciers of :func:`link_years`, by events; an outline is in one of them.

    An event is what hangs together by main links. In a cluster of 1:1, 1:n or n:1 all links are main ones,
    so that it is one event; a cluster of n:m may be several.

    Args:
        links: the two inventories.
        seen: what either map saw of the other's outlines; without it, all of them.

    Returns:
        A row an event: cluster_id (of the table of links; what is in none is numbered on), kind, n_older,
        n_newer, older_area_km2 and newer_area_km2 (of whole outlines), overlap_area_km2 (of all links inside
        the event), older_seen_fraction and newer_seen_fraction (0-1, of the area of the outlines of each
        side, NaN where it has none), older_ids and newer_ids (the largest first, a space between two). Kinds
        are "same" (1:1), "split" (1:n), "merge" (n:1), "exchange" (n:m), "birth" (0:1) and "vanished" (1:0);
        these two are "first seen" and "not seen" where less than half of the place was seen.
    """
    table = links.table
    main = _main(table)
    number = components(main["older_id"], main["newer_id"])
    older_event = dict(zip(main["older_id"], number, strict=True))
    newer_event = dict(zip(main["newer_id"], number, strict=True))
    of_cluster = dict(zip(number, main["cluster_id"], strict=True))
    inside = table["older_id"].map(older_event) == table["newer_id"].map(newer_event)
    overlap = table[inside].groupby(table["older_id"].map(older_event))["overlap_area_km2"].sum()

    events, clusters = len(of_cluster), max(of_cluster.values(), default=0)
    for areas, event in ((links.second_km2, newer_event), (links.first_km2, older_event)):
        for name in [name for name in areas.index if name not in event]:
            clusters += 1
            event[name], of_cluster[events] = events, clusters
            events += 1
    found = pd.DataFrame({"cluster_id": pd.Series(of_cluster, dtype=np.int64)})
    sides = (OLDER, links.first_km2, older_event), (NEWER, links.second_km2, newer_event)
    for side, areas, event in sides:
        found = found.join(_side(areas, event, side, None if seen is None else getattr(seen, side)))
    found["overlap_area_km2"] = overlap.reindex(found.index)
    counts = found[["n_older", "n_newer"]].fillna(0).astype(np.int64)
    found[["n_older", "n_newer"]] = counts
    kinds = [_kind(*pair) for pair in counts.itertuples(index=False)]
    found["kind"] = pd.Series(kinds, index=found.index, dtype=object)
    for kind, side, unseen in ((VANISHED, OLDER, NOT_SEEN), (BIRTH, NEWER, FIRST_SEEN)):
        hidden = (found["kind"] == kind) & (found[f"{side}_seen_fraction"] < LEAST_SEEN)
        found.loc[hidden, "kind"] = unseen
    found = found.fillna(dict.fromkeys(("older_area_km2", "newer_area_km2", "overlap_area_km2"), 0.0))
    found = found.fillna(dict.fromkeys(("older_ids", "newer_ids"), ""))
    return found[list(_COLUMNS)].sort_values("cluster_id", kind="stable", ignore_index=True)


_COLUMNS = (
    "cluster_id",
    "kind",
    "n_older",
    "n_newer",
    "older_area_km2",
    "newer_area_km2",
    "overlap_area_km2",
    "older_seen_fraction",
    "newer_seen_fraction",
    "older_ids",
    "newer_ids",
)


def inherit(links: Links, ids: Mapping[str, str], taken: Collection[str], year: int) -> dict[str, str]:
    """The stable id of each outline of the newer inventory of :func:`link_years`.

    The rule: an outline goes on with the id of the older outline with which it has most area in common. Where
    several would go on with one, that does which has most in common with it; so the largest part of what was
    split keeps its id, and what was merged has that of its largest part. Any other outline begins an id: its
    own ``glac_id``, or ``<glac_id>-<year>`` where that was given before. Between equals the smaller
    identifier decides.

    Args:
        links: of the two inventories.
        ids: stable ids of the older one by its own.
        taken: all ids that were ever given, which end for good when they end.
        year: of the newer one.
    """
    heirs: dict[str, str] = {}
    asked: set[str] = set()
    ordered = links.table.sort_values(
        ["overlap_area_km2", "older_id", "newer_id"], ascending=[False, True, True]
    )
    for older, newer in zip(ordered["older_id"], ordered["newer_id"], strict=True):
        if newer not in asked:
            asked.add(newer)
            heirs.setdefault(older, newer)
    given = {newer: ids[older] for older, newer in heirs.items()}
    return {
        name: given.get(name, f"{name}-{year}" if name in taken else name) for name in links.second_km2.index
    }


def write_links(
    folder: Path, coverage: Mapping[int, Coverage | None], known: gpd.GeoDataFrame | None
) -> None:
    """Writes what links the inventories ``<year>.parquet`` of a folder to each other, and to the RGI, as CSV.

    ``<year>-rgi_links.csv`` where there is an RGI, its columns glac_id, rgi_id, overlap_area_km2 and so on;
    ``<older>-<newer>-links.csv`` and ``-changes.csv`` of each two years that follow each other; and
    ``glacier_ids.csv`` with year, glac_id and glacier_id, which stays the same over the years.

    Args:
        folder: a local one; files in it are replaced whole or not at all.
        coverage: of the maps of each year, in any order; None where all outlines were seen.
        known: glaciers of the RGI with ``rgi_id``, in any CRS.

    Raises:
        OutputError: if a file cannot be written.
    """
    names = _Names()
    for year in coverage if known is not None else ():
        ours, theirs = Inventoried("glac", _outlines(folder, year)), Inventoried("rgi", [known], "rgi_id")
        _write(link(ours, theirs).table, folder / f"{year}-rgi_links.csv")
    years = sorted(coverage)
    for year in years[:1]:
        names.begin(year, [name for part in _outlines(folder, year) for name in part["glac_id"]])
    for older, newer in itertools.pairwise(years):
        links = link_years(_outlines(folder, older), _outlines(folder, newer))
        seen = Seen(_seen(folder, older, coverage[newer]), _seen(folder, newer, coverage[older]))
        _write(links.table, folder / f"{older}-{newer}-links.csv")
        _write(changes(links, seen), folder / f"{older}-{newer}-changes.csv")
        names.go_on(folder, older, newer, links, seen.older, coverage[newer])
    _write(pd.DataFrame(names.rows, columns=["year", "glac_id", "glacier_id"]), folder / "glacier_ids.csv")


class _Names:
    """Stable ids over the years, those of glaciers that wait to be seen again among them.

    Attributes:
        rows: year, glac_id and stable id of every outline so far.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str]] = []
        self._ids: dict[str, str] = {}
        self._taken: set[str] = set()
        self._waiting: dict[str, tuple[int, str]] = {}
        """Year and glac_id of the outline that a stable id was last seen with."""

    def begin(self, year: int, outlines: Sequence[str]) -> None:
        """The first year: every outline begins an id."""
        self._note(year, {name: name for name in outlines})

    def go_on(
        self, folder: Path, older: int, newer: int, links: Links, seen: pd.Series, coverage: Coverage | None
    ) -> None:
        """The next year, from its links, what its map saw of the older outlines, and of those that wait."""
        waiting = {f"{stable} of {year}": stable for stable, (year, _) in self._waiting.items()}
        if waiting:
            both = itertools.chain(_outlines(folder, older), self._outlines_waiting(folder))
            links = link_years(both, _outlines(folder, newer))
        unlinked = links.first_km2.index.difference(links.table["older_id"])
        hidden = pd.concat([seen, self._seen_waiting(folder, coverage)]) < LEAST_SEEN
        last = {name: (older, name) for name in self._ids} | {
            name: self._waiting[stable] for name, stable in waiting.items()
        }
        ids = self._ids | waiting
        self._waiting = {ids[name]: last[name] for name in unlinked if hidden[name]}
        self._note(newer, inherit(links, ids, self._taken, newer))

    def _note(self, year: int, ids: dict[str, str]) -> None:
        self._ids = ids
        self._taken.update(ids.values())
        self.rows += [(year, name, stable) for name, stable in ids.items()]

    def _outlines_waiting(self, folder: Path) -> Iterator[gpd.GeoDataFrame]:
        """What :attr:`_waiting` names, each called by its stable id and year."""
        for year in sorted({year for year, _ in self._waiting.values()}):
            names = {
                name: f"{stable} of {year}" for stable, (last, name) in self._waiting.items() if last == year
            }
            for part in _outlines(folder, year):
                kept = part[part["glac_id"].isin(names)]
                yield kept.assign(glac_id=kept["glac_id"].map(names))

    def _seen_waiting(self, folder: Path, coverage: Coverage | None) -> pd.Series:
        return _shares(self._outlines_waiting(folder), coverage)


def _seen(folder: Path, year: int, coverage: Coverage | None) -> pd.Series:
    """Of each outline of a year, the share over which other maps have data."""
    return _shares(_outlines(folder, year), coverage)


def _shares(parts: Iterator[gpd.GeoDataFrame], coverage: Coverage | None) -> pd.Series:
    shares: dict[str, float] = {}
    for part in parts:
        seen = [1.0] * len(part) if coverage is None else map(coverage.share, part.geometry)
        shares.update(zip(part["glac_id"], seen, strict=True))
    return pd.Series(shares, dtype=float)


def _main(table: pd.DataFrame) -> pd.DataFrame:
    """Links that are the largest of either of their outlines, the largest first."""
    ordered = table.sort_values(
        ["overlap_area_km2", "older_id", "newer_id"], ascending=[False, True, True], ignore_index=True
    )
    return ordered[~(ordered["older_id"].duplicated() & ordered["newer_id"].duplicated())]


def _kind(older: int, newer: int) -> str:
    if not older or not newer:
        return VANISHED if older else BIRTH
    return {(False, False): SAME, (False, True): SPLIT, (True, False): MERGE, (True, True): EXCHANGE}[
        older > 1, newer > 1
    ]


def _side(areas: pd.Series, event: Mapping[str, int], side: str, seen: pd.Series | None) -> pd.DataFrame:
    """Number, area, share seen and ids of one side of each event."""
    area = areas.to_numpy()
    share = np.ones(area.size) if seen is None else seen.reindex(areas.index).to_numpy()
    columns = {"id": areas.index, "area": area, "seen": area * share}
    frame = pd.DataFrame(columns | {"event": [event[name] for name in areas.index]})
    groups = frame.sort_values(["area", "id"], ascending=[False, True]).groupby("event")
    return pd.DataFrame(
        {
            f"n_{side}": groups.size(),
            f"{side}_area_km2": groups["area"].sum(),
            f"{side}_seen_fraction": (groups["seen"].sum() / groups["area"].sum()).round(_SEEN_DECIMALS),
            f"{side}_ids": groups["id"].agg(lambda names: " ".join(names)),
        }
    )


def _outlines(folder: Path, year: int) -> Iterator[gpd.GeoDataFrame]:
    for part in read_parts(str(folder / f"{year}.parquet"), ("glac_id", "geometry")):
        yield gpd.GeoDataFrame(part)


def _write(table: pd.DataFrame, path: Path) -> None:
    """A CSV file, whole or not at all."""
    put_text(table.to_csv(index=False, lineterminator="\n"), path)
