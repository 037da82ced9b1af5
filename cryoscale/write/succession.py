"""What became of each glacier from one inventory to the next, and an id that stays with it.

Neighbours nearly always have a strip along their divide in common from year to year, since no divide is drawn
twice alike: by the table of links alone, all glaciers of a complex are one cluster. What became of them is
therefore told by main links, those that are the largest of either of their two outlines. Every outline that
has a link has a main one, and a strip is nobody's largest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from cryoscale.write.links import Inventoried, Links, components, link
from cryoscale.write.vectors import put_text, read_parts

OLDER, NEWER = "older", "newer"
SAME, SPLIT, MERGE, EXCHANGE, BIRTH, VANISHED = "same", "split", "merge", "exchange", "birth", "vanished"


def link_years(older: Iterator[gpd.GeoDataFrame], newer: Iterator[gpd.GeoDataFrame]) -> Links:
    """An older inventory linked to a newer one, both in parts with a column ``glac_id``."""
    return link(Inventoried(OLDER, older), Inventoried(NEWER, newer))


def changes(links: Links) -> pd.DataFrame:
    """What happened to the glaciers of :func:`link_years`, by events; an outline is in one of them.

    An event is what hangs together by main links. In a cluster of 1:1, 1:n or n:1 all links are main ones,
    so that it is one event; a cluster of n:m may be several.

    Returns:
        A row an event: cluster_id (of the table of links; what is in none is numbered on), kind, n_older,
        n_newer, older_area_km2 and newer_area_km2 (of whole outlines), overlap_area_km2 (of all links inside
        the event), older_ids and newer_ids (the largest first, a space between two). Kinds are "same" (1:1),
        "split" (1:n), "merge" (n:1), "exchange" (n:m), "birth" (0:1) and "vanished" (1:0).
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
    found = found.join(_side(links.first_km2, older_event, OLDER)).join(
        _side(links.second_km2, newer_event, NEWER)
    )
    found["overlap_area_km2"] = overlap.reindex(found.index)
    counts = found[["n_older", "n_newer"]].fillna(0).astype(np.int64)
    found[["n_older", "n_newer"]] = counts
    found["kind"] = [_kind(*pair) for pair in counts.itertuples(index=False)]
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


def write_links(folder: Path, years: Sequence[int], known: gpd.GeoDataFrame | None) -> None:
    """Writes what links the inventories ``<year>.parquet`` of a folder to each other, and to the RGI, as CSV.

    ``<year>-rgi_links.csv`` where there is an RGI, its columns glac_id, rgi_id, overlap_area_km2 and so on;
    ``<older>-<newer>-links.csv`` and ``-changes.csv`` of each two years that follow each other; and
    ``glacier_ids.csv`` with year, glac_id and glacier_id, which stays the same over the years.

    Args:
        folder: a local one; files in it are replaced whole or not at all.
        years: in any order.
        known: glaciers of the RGI with ``rgi_id``, in any CRS.

    Raises:
        OutputError: if a file cannot be written.
    """
    rows, ids, taken = [], dict[str, str](), set[str]()
    for number, year in enumerate(ordered := sorted(years)):
        if known is not None:
            ours, theirs = Inventoried("glac", _outlines(folder, year)), Inventoried("rgi", [known], "rgi_id")
            _write(link(ours, theirs).table, folder / f"{year}-rgi_links.csv")
        if number == 0:
            ids = {name: name for part in _outlines(folder, year) for name in part["glac_id"]}
        else:
            before = ordered[number - 1]
            links = link_years(_outlines(folder, before), _outlines(folder, year))
            _write(links.table, folder / f"{before}-{year}-links.csv")
            _write(changes(links), folder / f"{before}-{year}-changes.csv")
            ids = inherit(links, ids, taken, year)
        taken.update(ids.values())
        rows += [(year, name, stable) for name, stable in ids.items()]
    _write(pd.DataFrame(rows, columns=["year", "glac_id", "glacier_id"]), folder / "glacier_ids.csv")


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


def _side(areas: pd.Series, event: Mapping[str, int], side: str) -> pd.DataFrame:
    """Number, area and ids of one side of each event."""
    frame = pd.DataFrame(
        {"id": areas.index, "area": areas.to_numpy(), "event": [event[name] for name in areas.index]}
    )
    groups = frame.sort_values(["area", "id"], ascending=[False, True]).groupby("event")
    ids = groups["id"].agg(lambda names: " ".join(names))
    return pd.DataFrame(
        {f"n_{side}": groups.size(), f"{side}_area_km2": groups["area"].sum(), f"{side}_ids": ids}
    )


def _outlines(folder: Path, year: int) -> Iterator[gpd.GeoDataFrame]:
    for part in read_parts(str(folder / f"{year}.parquet"), ("glac_id", "geometry")):
        yield gpd.GeoDataFrame(part)


def _write(table: pd.DataFrame, path: Path) -> None:
    """A CSV file, whole or not at all."""
    put_text(table.to_csv(index=False, lineterminator="\n"), path)
