"""A year's inventory in the folders, files and columns of the RGI 7, for tools that were made for it.

Three folders as the RGI has them: glaciers (G), glacier complexes (C) and intersects (I), with attributes,
their meaning, links, hypsometry and what the RGI calls submission info
(https://www.glims.org/rgi_user_guide/products/glacier_product.html). They are named in the RGI's
pattern and cannot be taken for it: ``CRY2018-v1.0-G-15_khumbu`` for ``RGI2000-v7.0-G-15_asia_south_east``.

A glacier that was matched to one of the RGI keeps its ``rgi_id``. Where several are parts of one, that with
most area in common does; all others are numbered in the order of the inventory: ``CRY2018-v1.0-G-15-00001``.
That is as long as an identifier of the RGI 7, by which OGGM tells those from others.
What the RGI has codes for is never empty, since readers take these columns for numbers.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import pandas as pd
from pyproj import Geod

from cryoscale.write.columns import metadata
from cryoscale.write.rgi7 import (
    COMPLEX_COLUMNS,
    GLACIER_COLUMNS,
    INTERSECT_COLUMNS,
    NOT_ASSIGNED,
    OWN,
    REGIONS,
    SUBMISSION,
)
from cryoscale.write.shapefile import iso, move_folder, write_shapefile
from cryoscale.write.vectors import read_parts

_GEOD = Geod(ellps="WGS84")

VERSION = "1.0"
"""Of these folders, as the RGI has one in its names: what their files and columns are."""

UNKNOWN_REGION = "00"
"""Where neither the RGI nor the configuration says in which region a glacier lies."""


@dataclass(frozen=True)
class About:
    """What the folders say of where they come from.

    Attributes:
        name: of the run.
        year: the year mapped.
        model: that mapped it.
        run_id: of the run.
        version: of cryoscale.
        made: when the run was begun, ISO 8601.
        o1region: the RGI's first-order region, where the configuration says it.
        simulated: whether the imagery is.
        corrections: polygons by which people corrected the year's map for its outlines.
    """

    name: str
    year: int
    model: str
    run_id: str
    version: str
    made: str
    o1region: str | None = None
    simulated: bool = False
    corrections: int = 0

    @property
    def by_hand(self) -> str:
        """What people had a part in, in a sentence."""
        if not self.corrections:
            return "Not edited by hand."
        return f"Corrected by hand in {self.corrections} polygon{'s' if self.corrections > 1 else ''}."

    @property
    def note(self) -> str:
        """What to know of it in a line."""
        warning = "All imagery of this run is simulated: no real place. " if self.simulated else ""
        made = f"Mapped automatically by cryoscale {self.version}, model {self.model}, run {self.run_id}."
        return f"{warning}{made}"


@dataclass(frozen=True)
class _Names:
    """How folders and what is in them are called."""

    about: About
    o1region: str
    o2region: str

    def identifier(self, kind: str, number: int) -> str:
        return f"{self._start(kind)}-{number:05d}"

    def folder(self, kind: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "_", self.about.name.lower()).strip("_") or "run"
        return f"{self._start(kind)}_{slug}"

    def _start(self, kind: str) -> str:
        return f"CRY{self.about.year}-v{VERSION}-{kind}-{self.o1region}"


def write_product(inventory: Path, target: Path, about: About) -> None:
    """Writes the folders of a year.

    Args:
        inventory: folder of the inventories, with ``<year>.parquet``, ``-complexes.parquet``,
            ``-intersects.parquet``, ``-hypsometry.csv`` and, where there is an RGI, ``-rgi_links.csv``.
        target: the folder that holds the three; it appears whole or not at all.
        about: what to say of the run.

    Raises:
        OutputError: the folder cannot be written.
    """
    source = _Source(inventory, about.year)
    rows = source.rows()
    names = _Names(about, *_region(rows, about))
    ids = glacier_ids(rows, source.overlaps(), lambda number: names.identifier("G", number))
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch:
        made = Path(scratch, target.name)
        _write_glaciers(source, made, names, ids)
        _write_complexes(source, made, names, rows.assign(id=rows["glac_id"].map(ids)))
        _write_intersects(source, made, names, ids)
        move_folder(made, target)


@dataclass(frozen=True)
class _Source:
    """The files of a year that the folders are made from."""

    inventory: Path
    year: int

    def parquet(self, what: str, columns: list[str]) -> Iterator[gpd.GeoDataFrame]:
        for part in read_parts(str(self.inventory / f"{self.year}{what}.parquet"), columns):
            yield gpd.GeoDataFrame(part) if "geometry" in columns else part

    def rows(self) -> pd.DataFrame:
        """What identifiers and regions are told from, of all glaciers."""
        columns = ["glac_id", "complex_id", "rgi_id", "o1region", "o2region", "area_km2"]
        return pd.concat(self.parquet("", columns), ignore_index=True)

    def csv(self, what: str) -> Path:
        return self.inventory / f"{self.year}-{what}.csv"

    def overlaps(self) -> dict[tuple[str, str], float]:
        """Area that outlines have in common with the RGI's, by both identifiers."""
        if not self.csv("rgi_links").exists():
            return {}
        table = pd.read_csv(self.csv("rgi_links"), dtype={"glac_id": str, "rgi_id": str})
        return dict(
            zip(zip(table["glac_id"], table["rgi_id"], strict=True), table["overlap_area_km2"], strict=True)
        )


def glacier_ids(
    rows: pd.DataFrame, overlaps: Mapping[tuple[str, str], float], number: Callable[[int], str]
) -> dict[str, str]:
    """An identifier for every glacier, none of them twice.

    Args:
        rows: glac_id, rgi_id (empty where there is no match) and area_km2, in the order of the inventory.
        overlaps: area in common by glac_id and rgi_id; where it is not known, the larger glacier goes first.
        number: the identifier of the n-th glacier that has none of the RGI.
    """
    matched = rows[rows["rgi_id"].notna()]
    common = [
        overlaps.get((one, other), 0.0)
        for one, other in zip(matched["glac_id"], matched["rgi_id"], strict=True)
    ]
    heirs = (
        matched.assign(common=common)
        .sort_values(["common", "area_km2"], ascending=False, kind="stable")
        .drop_duplicates("rgi_id")
    )
    ids = dict(zip(heirs["glac_id"], heirs["rgi_id"].astype(str), strict=True))
    for count, name in enumerate((name for name in rows["glac_id"] if name not in ids), start=1):
        ids[name] = number(count)
    return ids


def _region(rows: pd.DataFrame, about: About) -> tuple[str, str]:
    """First- and second-order region of most of the ice that was matched; else what was configured."""
    known = rows.dropna(subset=["o1region"])
    first = known.groupby("o1region")["area_km2"].sum()
    o1region = str(first.idxmax()) if len(first) else about.o1region or UNKNOWN_REGION
    second = known[known["o1region"] == o1region].groupby("o2region")["area_km2"].sum()
    return o1region, str(second.idxmax()) if len(second) else f"{o1region}-00"


# --- the three folders ------------------------------------------------------------------------------


def _write_glaciers(source: _Source, made: Path, names: _Names, ids: Mapping[str, str]) -> None:
    stem = _begin(made, names, "G", GLACIER_COLUMNS)
    count, area_km2 = 0, 0.0

    def finished() -> Iterator[gpd.GeoDataFrame]:
        nonlocal count, area_km2
        for frame in source.parquet("", ["glac_id", *GLACIER_COLUMNS, "geometry"]):
            count, area_km2 = count + len(frame), area_km2 + float(frame["area_km2"].sum())
            yield _glaciers(frame, names, ids)

    _write_table(finished(), stem, "Polygon")
    _copy_csv(source.csv("hypsometry"), f"{stem}-hypsometry.csv", "rgi_id", ids)
    if source.csv("rgi_links").exists():
        _copy_csv(source.csv("rgi_links"), f"{stem}-rgi7_links.csv", "cry_id", ids)
    _write_submission(stem, names.about, count, area_km2)


def _glaciers(frame: gpd.GeoDataFrame, names: _Names, ids: Mapping[str, str]) -> gpd.GeoDataFrame:
    """A part of the inventory in the RGI's columns, empty nowhere where the RGI has a code."""
    told = frame.assign(
        rgi_id=frame["glac_id"].map(ids),
        o1region=frame["o1region"].fillna(names.o1region),
        o2region=frame["o2region"].fillna(names.o2region),
        src_date=iso(frame["src_date"]),
        anlys_id=0,
        subm_id=0,
        is_rgi6=0,
    )
    told = told.fillna(dict(NOT_ASSIGNED))
    table = pd.DataFrame({name: told[name].astype(kind) for name, kind in GLACIER_COLUMNS.items()})
    return gpd.GeoDataFrame(table, geometry=frame.geometry, crs=frame.crs)


def _write_complexes(source: _Source, made: Path, names: _Names, rows: pd.DataFrame) -> None:
    """Each complex is in the regions of its largest glacier."""
    stem = _begin(made, names, "C", COMPLEX_COLUMNS)
    members: dict[str, list[str]] = {}
    regions: dict[str, tuple[str, str]] = {}
    # no groups of pandas': a table for each of 100,000 complexes is a gigabyte
    columns = (rows["complex_id"], rows["id"], rows["o1region"], rows["o2region"])
    for whole, name, *region in zip(*columns, strict=True):
        members.setdefault(whole, []).append(name)
        regions.setdefault(whole, (region[0], region[1]))
    links: dict[str, list[str]] = {}

    def finished() -> Iterator[gpd.GeoDataFrame]:
        for frame in source.parquet("-complexes", ["glac_id", *COMPLEX_COLUMNS[3:], "geometry"]):
            frame = frame[frame["glac_id"].isin(members.keys())]
            own = [names.identifier("C", len(links) + place) for place in range(1, len(frame) + 1)]
            links.update(zip(own, (members[name] for name in frame["glac_id"]), strict=True))
            told = frame.assign(
                rgi_id=own,
                o1region=[regions[name][0] for name in frame["glac_id"]],
                o2region=[regions[name][1] for name in frame["glac_id"]],
            ).fillna({"o1region": names.o1region, "o2region": names.o2region})
            table = pd.DataFrame({name: told[name].astype(GLACIER_COLUMNS[name]) for name in COMPLEX_COLUMNS})
            yield gpd.GeoDataFrame(table, geometry=frame.geometry, crs=frame.crs)

    _write_table(finished(), stem, "Polygon")
    _put_json(links, f"{stem}-CtoG_links.json")


def _write_intersects(source: _Source, made: Path, names: _Names, ids: Mapping[str, str]) -> None:
    """A row a line: a divide that two glaciers share in several places is several."""
    stem = _begin(made, names, "I", INTERSECT_COLUMNS)
    count = 0

    def finished() -> Iterator[gpd.GeoDataFrame]:
        nonlocal count
        for frame in source.parquet("-intersects", ["glac_id_1", "glac_id_2", "geometry"]):
            lines = frame.explode(ignore_index=True)
            number = range(count + 1, count + len(lines) + 1)
            count += len(lines)
            table = pd.DataFrame(
                {
                    "rgi_id": pd.Series([names.identifier("I", n) for n in number], dtype="string"),
                    "rgi_g_id_1": lines["glac_id_1"].map(ids).astype("string"),
                    "rgi_g_id_2": lines["glac_id_2"].map(ids).astype("string"),
                    "length_m": pd.Series(map(_GEOD.geometry_length, lines.geometry), dtype="float64"),
                }
            )
            yield gpd.GeoDataFrame(table, geometry=lines.geometry, crs=frame.crs)

    _write_table(finished(), stem, "LineString")


# --- files of a folder ------------------------------------------------------------------------------


def _begin(made: Path, names: _Names, kind: str, columns: Iterable[str]) -> Path:
    """The folder of a product with what needs no rows; returns what its other files' names begin with."""
    folder = made / names.folder(kind)
    folder.mkdir(parents=True)
    stem = folder / folder.name
    known = metadata()
    told = {
        name: {**known.get(name, {"datatype": "str", "units": "", "source": "run"}), **OWN.get(name, {})}
        for name in columns
    }
    _put_json(told, f"{stem}-attributes_metadata.json")
    (folder / "README.md").write_text(_readme(names, kind), encoding="utf-8")
    return stem


def _write_table(
    frames: Iterator[gpd.GeoDataFrame], stem: Path, geometry: Literal["Polygon", "LineString"]
) -> None:
    """The shapefile, and beside it the same attributes as CSV."""
    with open(f"{stem}-attributes.csv", "w", encoding="utf-8", newline="") as file:

        def passing() -> Iterator[gpd.GeoDataFrame]:
            for number, frame in enumerate(frames):
                frame.drop(columns="geometry").to_csv(
                    file, index=False, header=number == 0, lineterminator="\n"
                )
                yield frame

        write_shapefile(passing(), Path(f"{stem}.shp"), geometry)


def _copy_csv(source: Path, target: str, name: str, ids: Mapping[str, str]) -> None:
    """A table whose first column is glac_id, under the folder's identifiers in a column ``name``."""
    with (
        source.open(encoding="utf-8", newline="") as before,
        open(target, "w", encoding="utf-8", newline="") as after,
    ):
        rows, copy = csv.reader(before), csv.writer(after, lineterminator="\n")
        _, *others = next(rows)
        # the other inventory's identifier is called by its version, as in the RGI's own links
        copy.writerow([name, *("rgi7_id" if other == "rgi_id" else other for other in others)])
        for first, *rest in rows:
            copy.writerow([ids[first], *rest])


def _write_submission(stem: Path, about: About, count: int, area_km2: float) -> None:
    row = {
        "subm_id": 0,
        "n_outlines": count,
        "area_km2": area_km2,
        "anlys_time": about.made,
        "proc_desc": f"{about.note} {about.by_hand}",
    }
    with open(f"{stem}-submission_info.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, SUBMISSION, restval="", lineterminator="\n")
        table.writeheader()
        table.writerow(row)
    told = {
        name: {"description": text, "datatype": kind, "units": units}
        for name, (kind, units, text) in SUBMISSION.items()
    }
    _put_json(told, f"{stem}-submission_info_metadata.json")


def _put_json(document: Any, path: str) -> None:
    Path(path).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _readme(names: _Names, kind: str) -> str:
    about = names.about
    what = {"G": "Glaciers", "C": "Glacier complexes", "I": "Intersects"}[kind]
    region = REGIONS.get(names.o1region, "not known")
    simulated = "\n**All imagery of this run is simulated: no real place.**\n" if about.simulated else ""
    return f"""# {names.folder(kind)}
{simulated}
{what} of {about.year}, run {about.name!r} ({about.run_id}), model {about.model}, cryoscale {about.version}.
RGI first-order region: {names.o1region} ({region}). **This is not the Randolph Glacier Inventory**: files and
columns are those of the RGI 7 (https://www.glims.org/rgi_user_guide/), outlines and attributes are the run's.

- `rgi_id` is that of the RGI where an outline continues one of its glaciers; CRY... is this inventory's
  own, for this year and folder only. `glacier_ids.csv` of the run follows glaciers over the years.
- `anlys_id`, `subm_id` and `is_rgi6` are 0, since the outlines are not in GLIMS. `term_type`, `surge_type`
  and `aspect_sec` are 9, `primeclass` and `conn_lvl` 0, where nothing is known.
- {about.by_hand} Uncertainty, debris, first and last dates are in the run's `inventory/{about.year}.parquet`.

In OGGM (an o1region of 00 has to be replaced by the RGI's number of the region first, and complexes need a
column `src_date`, e.g. "{about.year}-01-01", which the RGI's do not have either):

```python
cfg.set_intersects_db(".../{names.folder("I")}.shp")
gdirs = workflow.init_glacier_directories(geopandas.read_file(".../{names.folder("G")}.shp"))
```
"""
