"""What changed between two years of an archive: area, debris, termini; per glacier and region.

Only ground that both years have seen counts (:mod:`cryoscale.archive.coverage`): the area of an outline is
taken by the share of its pixels that the other year has data for. Glaciers are told by their links
(:mod:`cryoscale.write.succession`): a row is an event, one glacier to one, or what it split into or merged
from. What is gone where the newer year has looked has vanished; where it has not looked, it was not seen, and
nothing is said of it. Intervals are those of :mod:`cryoscale.archive.doubt`; the period is that between the
images under the outlines, not between the names of the years.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry import LineString
from shapely.geometry.base import BaseGeometry

from cryoscale.archive.coverage import Counts, Maps, count
from cryoscale.archive.described import DOCUMENT
from cryoscale.archive.doubt import change_reach, region_change_reach
from cryoscale.archive.identity import outlines
from cryoscale.archive.index import Archive, Entry
from cryoscale.archive.retreat import Side, retreat
from cryoscale.errors import InputError
from cryoscale.ledger import MANIFEST
from cryoscale.write.bootstrap import COMMON, block_of, region_interval
from cryoscale.write.scratch import Scratch
from cryoscale.write.succession import BIRTH, VANISHED, changes, link_years
from cryoscale.write.uncertainty import LEVEL
from cryoscale.write.vectors import read_parts

NOT_SEEN, NOT_SEEN_BEFORE = "not seen", "not seen before"
_SEEN_SHARE = 0.5
"""A glacier without successor has vanished only where at least so much of it was looked at."""
_YEAR_DAYS = 365.25
_SIDES = ("older", "newer")
_FACTS = ("glac_id", "glacier_id", "cenlon", "cenlat", "area_km2", "area_low_km2", "area_high_km2",
          "debris_area_km2", "src_date")  # fmt: skip
_ADDED = ("area_km2", "seen_km2", "debris_area_km2", "seen_debris_km2", "down_km2", "up_km2")
"""What of the outlines of one year is added up in an event."""
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE shapes (name TEXT PRIMARY KEY, shape BLOB);
CREATE TABLE lines (name TEXT PRIMARY KEY, shape BLOB);
"""


@dataclass(frozen=True, eq=False)
class Change:
    """What changed in a region.

    Attributes:
        region: its name.
        years: older and newer.
        glaciers: a row an event, see :data:`cryoscale.archive.reported.COLUMNS`, with the older outlines as
            geometry (the newer of what was not there before).
        newer: the newer outlines of each row, empty where there are none.
        total: of the region, plain values.
        series: a row a year of the archive between the two: areas over the ground that all have seen.
        models: names of those that mapped the two years.
        simulated: whether any of the imagery is.
    """

    region: str
    years: tuple[int, int]
    glaciers: gpd.GeoDataFrame
    newer: gpd.GeoSeries
    total: Mapping[str, Any]
    series: pd.DataFrame
    models: tuple[str, ...]
    simulated: bool

    def sentence(self) -> str:
        """The change in a line."""
        told = self.total
        low, high = told["change_low_km2"], told["change_high_km2"]
        interval = f" ({low:+.2f} to {high:+.2f})" if low is not None and high is not None else ""
        pct = "" if told["change_pct"] is None else f", {told['change_pct']:+.1f} %"
        retreat = told["median_retreat_m"]
        moved = "" if retreat is None else f"; {told['retreats']} termini, median retreat {retreat:.0f} m"
        when = f"{told['older_date'] or self.years[0]} to {told['newer_date'] or self.years[1]}"
        return f"{self.region}, {when}: {told['change_km2']:+.2f} km²{interval}{pct}{moved}"


def difference(archive: Archive, region: str, older: int, newer: int) -> Change:
    """The change of a region between two years, of the versions that are current.

    Raises:
        SourceError: the archive lacks one of them.
        InputError: the older year is not the older.
    """
    if older >= newer:
        raise InputError(f"years {older} and {newer}", "an older and a newer year", "exchange them")
    index = archive.read()
    pair = index.chosen(region, older), index.chosen(region, newer)
    between = [one for one in index.current(region) if older <= one.year <= newer]
    maps = [Maps(archive, one) for one in pair]
    with _Shapes(archive, pair[0]) as first, _Shapes(archive, pair[1]) as second:
        facts = [_measured(archive, own, [other]) for own, other in ((maps[0], maps[1]), (maps[1], maps[0]))]
        links = link_years(outlines(archive, pair[0]), outlines(archive, pair[1]))
        common = COMMON if _trained(archive, pair[0]) == _trained(archive, pair[1]) else 0.0
        table = _events(changes(links), facts, common)
        table = table.join(_retreats(table, (first, second), maps))
        older_shapes, newer_shapes = (
            gpd.GeoSeries([own.union(names) for names in table[f"{side}_glac_ids"]], crs="EPSG:4326")
            for own, side in zip((first, second), _SIDES, strict=True)
        )
    total = _total(table, facts, common)
    shapes = older_shapes.where(~older_shapes.is_empty, newer_shapes)
    glaciers = gpd.GeoDataFrame(table, geometry=shapes.to_numpy(), crs="EPSG:4326")
    models = tuple(sorted({one.model for one in pair}))
    simulated = any(_is_simulated(archive, one) for one in pair)
    return Change(
        region,
        (older, newer),
        glaciers,
        newer_shapes,
        total,
        _series(archive, between, facts),
        models,
        simulated,
    )


def _trained(archive: Archive, entry: Entry) -> tuple[str, str | None]:
    """Name of the model that mapped a version and digest of its weights: two trainings are two models."""
    manifest = json.loads(archive.objects.get(f"records/{entry.place}/{MANIFEST}") or b"{}")
    return entry.model, (manifest.get("identity", {}).get("model") or {}).get("sha256")


def _is_simulated(archive: Archive, entry: Entry) -> bool:
    """Whether what is said of a version says so."""
    content = archive.objects.get(f"records/{entry.place}/{DOCUMENT}") or b"[]"
    return any(one["properties"].get("cryoscale:simulated") for one in json.loads(content))


class _Shapes(Scratch):
    """Outlines and centre lines of a version by ``glac_id``, in a temporary file."""

    def __init__(self, archive: Archive, entry: Entry) -> None:
        super().__init__(_TABLES)
        for kind, table in (("glaciers", "shapes"), ("centrelines", "lines")):
            for part in read_parts(archive.table(kind, entry), ("glac_id", "geometry")):
                rows = zip(
                    part["glac_id"].astype(str), shapely.to_wkb(part["geometry"].to_numpy()), strict=True
                )
                self._base.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)

    def union(self, names: str) -> BaseGeometry:
        """All outlines of ids with a space between, as one shape."""
        found = [self._get("shapes", name) for name in names.split()]
        return shapely.union_all([one for one in found if one is not None])

    def line(self, name: str) -> LineString | None:
        """The centre line of an outline, None where there is none."""
        return self._get("lines", name)

    def _get(self, table: str, name: str) -> Any:
        row = self._base.execute(f"SELECT shape FROM {table} WHERE name = ?", (name,)).fetchone()
        return None if row is None else shapely.from_wkb(row[0])


# --- what each outline brings -------------------------------------------------------------------------


def _measured(archive: Archive, own: Maps, others: Sequence[Maps]) -> pd.DataFrame:
    """The outlines of a year by ``glac_id``: their facts, and what of them the other years have seen."""
    parts = []
    for part in read_parts(archive.table("glaciers", own.entry), [*_FACTS, "geometry"]):
        counts = [count(shape, own, others) for shape in part["geometry"]]
        parts.append(part.drop(columns="geometry").join(_shares(counts, part.index)))
    found = pd.concat(parts, ignore_index=True)
    found["seen_km2"] = found["area_km2"] * found["seen"]
    found["seen_debris_km2"] = found["debris_area_km2"] * found["seen_debris"]
    # what is not seen in the other year is no part of the difference, nor is the doubt about it
    found["down_km2"] = (found["area_km2"] - found["area_low_km2"]) * found["seen"]
    found["up_km2"] = (found["area_high_km2"] - found["area_km2"]) * found["seen"]
    return found.astype({"glac_id": str, "glacier_id": str}).set_index("glac_id")


def _shares(counts: Sequence[Counts], index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "seen": [one.seen / one.ice if one.ice else 0.0 for one in counts],
            "seen_debris": [one.seen_debris / one.debris if one.debris else 0.0 for one in counts],
        },
        index=index,
        dtype=float,
    )


# --- per glacier --------------------------------------------------------------------------------------


def _events(found: pd.DataFrame, facts: Sequence[pd.DataFrame], common: float) -> pd.DataFrame:
    """A row an event: ids, dates, areas over common ground, and their change."""
    sides = [_side(found[f"{side}_ids"], own, side) for side, own in zip(_SIDES, facts, strict=True)]
    table = pd.concat([found[["kind", "n_older", "n_newer"]].copy(), *sides], axis=1)
    whole = table["older_area_km2"] + table["newer_area_km2"]
    table["common_fraction"] = (table["older_seen_km2"] + table["newer_seen_km2"]) / whole
    unseen = table["common_fraction"] < _SEEN_SHARE
    table.loc[unseen & (table["kind"] == VANISHED), "kind"] = NOT_SEEN
    table.loc[unseen & (table["kind"] == BIRTH), "kind"] = NOT_SEEN_BEFORE
    first = [
        (older or newer).split(" ")[0]
        for older, newer in zip(table["older_glacier_ids"], table["newer_glacier_ids"], strict=True)
    ]
    table["glacier_id"] = pd.Series(first, index=table.index, dtype=object)
    days = (table["newer_date"] - table["older_date"]).dt.total_seconds() / 86400.0
    table["years"] = days / _YEAR_DAYS
    told = ~table["kind"].isin([NOT_SEEN, NOT_SEEN_BEFORE])
    change = (table["newer_seen_km2"] - table["older_seen_km2"]).where(told)
    down, up = change_reach(
        (table["older_down_km2"].to_numpy(), table["older_up_km2"].to_numpy()),
        (table["newer_down_km2"].to_numpy(), table["newer_up_km2"].to_numpy()),
        common,
    )
    for name, value in (("change", change), ("change_low", change - down), ("change_high", change + up)):
        table[f"{name}_km2"] = value
        table[f"{name}_km2_per_yr"] = value / table["years"].where(table["years"] > 0)
        table[f"{name}_pct"] = 100.0 * value / table["older_seen_km2"].where(table["older_seen_km2"] > 0)
    table["debris_change_km2"] = (table["newer_seen_debris_km2"] - table["older_seen_debris_km2"]).where(told)
    return table


def _side(ids: pd.Series, facts: pd.DataFrame, side: str) -> pd.DataFrame:
    """One year of each event: sums over its outlines, the mean of their dates by area."""
    rows = []
    for names in ids:
        own = facts.loc[names.split()] if names else facts.iloc[:0]
        dated = own[own["src_date"].notna()]
        rows.append(
            {
                "glac_ids": names,
                "glacier_ids": " ".join(own["glacier_id"]),
                "date": _mean_date(dated["src_date"], dated["area_km2"]),
                **{name: own[name].sum(skipna=False) if len(own) else 0.0 for name in _ADDED},
            }
        )
    # where neither year has a glacier there are columns without a row
    columns = ["glac_ids", "glacier_ids", "date", *_ADDED]
    table = pd.DataFrame(rows, index=ids.index, columns=columns)
    kinds = {"date": "datetime64[s]"} | dict.fromkeys(_ADDED, float)
    return table.astype(kinds).add_prefix(f"{side}_")


def _mean_date(dates: pd.Series, weights: pd.Series) -> pd.Timestamp:
    if dates.empty or weights.sum() == 0:
        return pd.NaT
    days = dates.to_numpy("datetime64[D]").astype(np.int64)
    return pd.Timestamp("1970-01-01") + pd.Timedelta(days=round(float(np.average(days, weights=weights))))


def _retreats(table: pd.DataFrame, shapes: tuple[_Shapes, _Shapes], maps: Sequence[Maps]) -> pd.DataFrame:
    """Retreat of each event's largest glacier, where both years have ice and lines."""
    rows = []
    for older, newer, years in zip(
        table["older_glac_ids"], table["newer_glac_ids"], table["years"], strict=True
    ):
        found = None
        if older and newer:
            both = [
                Side(own.union(names), own.line(names.split()[0]), one)
                for own, names, one in zip(shapes, (older, newer), maps, strict=True)
            ]
            found = retreat(*both)
        values = (math.nan,) * 3 if found is None else (found.retreat_m, found.low_m, found.high_m)
        rows.append([*values, values[0] / years if years and years > 0 else math.nan])
    names = ["retreat_m", "retreat_low_m", "retreat_high_m", "retreat_m_per_yr"]
    return pd.DataFrame(rows, columns=names, index=table.index, dtype=float)


# --- the region ---------------------------------------------------------------------------------------


def _total(table: pd.DataFrame, facts: Sequence[pd.DataFrame], common: float) -> dict[str, Any]:
    """Of the region: everything that both years have seen, added up."""
    older, newer = (float(own["seen_km2"].sum()) for own in facts)
    change = newer - older
    widths = _by_block(facts)
    down, up = region_change_reach(widths[0], widths[1], common)
    dates = [_mean_date(own.dropna(subset="src_date")["src_date"], own.dropna(subset="src_date")["area_km2"])
             for own in facts]  # fmt: skip
    years = (dates[1] - dates[0]).days / _YEAR_DAYS if not any(map(pd.isna, dates)) else math.nan
    bounds = {"": change, "_low": change - down, "_high": change + up}
    debris = [float(own["seen_debris_km2"].sum()) for own in facts]
    found: dict[str, Any] = {
        "older_date": _day(dates[0]),
        "newer_date": _day(dates[1]),
        "years": years,
        "older_area_km2": float(facts[0]["area_km2"].sum()),
        "newer_area_km2": float(facts[1]["area_km2"].sum()),
        "older_common_km2": older,
        "newer_common_km2": newer,
        **{f"change{end}_km2": value for end, value in bounds.items()},
        **{
            f"change{end}_km2_per_yr": value / years if years > 0 else math.nan
            for end, value in bounds.items()
        },
        **{f"change{end}_pct": 100 * value / older if older else math.nan for end, value in bounds.items()},
        "older_debris_km2": debris[0],
        "newer_debris_km2": debris[1],
        "debris_change_km2": debris[1] - debris[0],
        "events": {str(kind): int(number) for kind, number in table["kind"].value_counts().items()},
        "retreats": int(table["retreat_m"].notna().sum()),
        "median_retreat_m": float(table["retreat_m"].dropna().median()),
        "level": LEVEL,
        "errors_in_common": common,
    }
    return {
        key: None if isinstance(told, float) and math.isnan(told) else told for key, told in found.items()
    }


def _by_block(facts: Sequence[pd.DataFrame]) -> list[tuple[Any, Any]]:
    """Half-widths (n,) of the intervals of each block's glaciers, added up: down and up of both years."""
    sums: dict[tuple[int, ...], Any] = {}
    for number, own in enumerate(facts):
        keys = block_of(own["cenlon"].to_numpy(float), own["cenlat"].to_numpy(float))
        for key, down, up in zip(map(tuple, keys.tolist()), own["down_km2"], own["up_km2"], strict=True):
            if not math.isnan(down + up):
                sums.setdefault(key, np.zeros((2, 2)))[number] += (down, up)
    widths = np.array(list(sums.values())).reshape(-1, 2, 2)
    return [(widths[:, number, 0], widths[:, number, 1]) for number in (0, 1)]


def _series(archive: Archive, entries: Sequence[Entry], pair: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A row a year: area, bounds and debris over the ground that every one of the years has seen."""
    maps = [Maps(archive, one) for one in entries]
    rows = []
    for number, own in enumerate(maps):
        if len(maps) == len(pair):  # the ground of all is that of the two
            facts = pair[number]
        else:
            facts = _measured(archive, own, [one for one in maps if one is not own])
        dated = facts.dropna(subset="src_date")
        area = float(facts["seen_km2"].sum())
        (down, up), _ = _by_block([facts, facts])
        low, high = region_interval(area, down, up) if len(down) else (math.nan, math.nan)
        rows.append(
            {
                "year": own.entry.year,
                "version": own.entry.version,
                "date": _mean_date(dated["src_date"], dated["area_km2"]),
                "area_km2": float(facts["area_km2"].sum()),
                "common_area_km2": area,
                "common_area_low_km2": low,
                "common_area_high_km2": high,
                "common_debris_km2": float(facts["seen_debris_km2"].sum()),
            }
        )
    return pd.DataFrame(rows)


def regions(archive: Archive, older: int, newer: int, region: str | None) -> Iterator[str]:
    """The regions that are to be compared: the one asked for, or all that have both years."""
    if region is not None:
        yield region
        return
    index = archive.read()
    names = sorted({one.region for one in index.entries})
    both = [name for name in names if index.current(name, older) and index.current(name, newer)]
    if not both:
        for name in names[:1] if len(names) == 1 else ():
            for year in (older, newer):
                index.chosen(name, year)
        raise InputError(
            f"years {older} and {newer}", "two years that one region has", "look with cryoscale archive list"
        )
    yield from both


def _day(date: pd.Timestamp) -> str | None:
    return None if pd.isna(date) else str(date.date())
