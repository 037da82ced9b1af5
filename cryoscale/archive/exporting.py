"""What somebody asks for, out of an archive: outlines of regions and years with one table of stable ids."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyogrio

from cryoscale.archive.described import hull
from cryoscale.archive.files import digest_of, read_list
from cryoscale.archive.index import FILES, Archive, Entry
from cryoscale.archive.lasting import perennial
from cryoscale.archive.source import bounds_of
from cryoscale.archive.tables import TYPES, read_complete
from cryoscale.errors import InputError, IntegrityError, OutputError
from cryoscale.write.objects import Objects
from cryoscale.write.vectors import move, put_text, read_parts, write_parts

_IDS = ["region", "year", "version", "glacier_id", "glac_id", "src_date", "area_km2"]
_IDS += ["area_low_km2", "area_high_km2", "debris_area_km2", "cenlon", "cenlat"]
_LAYERS = ("glaciers", "centrelines")


def export(
    archive: Archive,
    out: str,
    *,
    region: str | None = None,
    years: Sequence[int] = (),
    version: int | None = None,
    mosaics: bool = False,
) -> list[str]:
    """Writes the outlines of what is asked for; returns the names of the files.

    Where ``out`` ends in ``.gpkg`` it is one GeoPackage with the layers ``glaciers`` and ``centrelines`` of
    all years and the tables ``glacier_ids`` and ``perennial``; else a folder with ``glaciers.parquet``,
    ``centrelines.parquet``, ``glacier_ids.csv`` and ``perennial.csv``, a row an outline and year. Rows are
    told apart by region, year and version, and ``glacier_id`` stays with a glacier over the years. The years
    that are exported say what is perennial, see :mod:`cryoscale.archive.lasting`.

    Args:
        archive: where from.
        out: a folder or fsspec URL that is empty or absent, or a GeoPackage that is not there.
        region: by default all.
        years: by default all.
        version: of one year; by default what is current.
        mosaics: take the maps as well, into ``mosaics`` of the folder.

    Raises:
        SourceError: the archive has not what is asked for.
        OutputError: there is something at ``out``, or it lies within the archive.
        IntegrityError: what is asked for is not what was written.
    """
    if out.startswith(f"{archive.root}/"):
        raise OutputError(
            f"output {out}", f"a place outside of the archive {archive.root}", "export to another place"
        )
    entries = _chosen(archive, region, years, version)
    package = out.lower().endswith(".gpkg")
    if package and mosaics:
        raise InputError("--mosaics with a GeoPackage", "a folder, which can hold maps", "give a folder")
    _refuse_taken(out, package)
    for entry in entries:
        _require_whole(archive, entry)
    if package:
        _write_package(archive, entries, out)
        return [out]
    for kind in _LAYERS:
        boxes = [box for one in entries if (box := bounds_of(archive.table(kind, one))) is not None]
        write_parts(_parts(archive, entries, kind), f"{out}/{kind}.parquet", hull(boxes) if boxes else None)
    made = [f"{kind}.parquet" for kind in _LAYERS]
    if mosaics:
        made += [_copy_maps(archive, entry, out) for entry in entries]
    put_text(
        _ids(archive, entries).to_csv(index=False, lineterminator="\n", date_format="%Y-%m-%d"),
        f"{out}/glacier_ids.csv",
    )
    put_text(perennial(archive, entries).to_csv(index=False, lineterminator="\n"), f"{out}/perennial.csv")
    return [*made, "glacier_ids.csv", "perennial.csv"]


def _chosen(archive: Archive, region: str | None, years: Sequence[int], version: int | None) -> list[Entry]:
    index = archive.read()
    if version is not None:
        if region is None or len(years) != 1:
            raise InputError(f"--version {version}", "with it one --region and one --year", "give both")
        return [index.chosen(region, years[0], version)]
    if region is not None and years:
        return [index.chosen(region, year) for year in sorted(set(years))]
    found = [one for one in index.current(region) if not years or one.year in years]
    if not found:
        had = ", ".join(f"{one.region} {one.year}" for one in index.current()) or "nothing"
        asked = f"region {region or 'any'}, years {', '.join(map(str, years)) or 'any'}"
        raise InputError(asked, f"what the archive has: {had[:200]}", "look with cryoscale archive list")
    return found


def _refuse_taken(out: str, package: bool) -> None:
    folder, _, name = out.rpartition("/")
    taken = Objects(folder or "/").stat(name) is not None if package else bool(Objects(out).names())
    if taken:
        raise OutputError(f"output {out}, which is there already", "a new or empty place", "give another")


def _require_whole(archive: Archive, entry: Entry) -> None:
    """See that the tables of a version are what was filed, before anything is made of them."""
    listed = f"records/{entry.place}/{FILES}"
    known = {listed: entry.files_sha256}
    if digest_of(f"{archive.root}/{listed}") == entry.files_sha256:
        known |= {key: sha256 for key, _, sha256 in read_list(f"{archive.root}/{listed}")}
    for key in (listed, *(f"{kind}/{entry.place}/{kind}.parquet" for kind in _LAYERS)):
        if digest_of(f"{archive.root}/{key}") != known[key]:
            raise _altered(archive, key)


def _altered(archive: Archive, key: str) -> IntegrityError:
    return IntegrityError(f"{archive.root}/{key} is not what was written: bring it back from a copy")


def _parts(archive: Archive, entries: Sequence[Entry], kind: str) -> Iterator[gpd.GeoDataFrame]:
    """Rows of all versions in parts, with region, year and version before their own columns."""
    columns = {"glaciers": ["glacier_id", *TYPES], "centrelines": ["glac_id", "glacier_id", "length_m"]}[kind]
    for entry in entries:
        for part in read_complete(archive.table(kind, entry), columns):
            part.insert(0, "region", pd.Series([entry.region] * len(part), part.index, dtype="string"))
            part.insert(1, "year", pd.Series(entry.year, part.index, dtype="int32"))
            part.insert(2, "version", pd.Series(entry.version, part.index, dtype="int32"))
            yield part


def _ids(archive: Archive, entries: Sequence[Entry]) -> pd.DataFrame:
    """A row an outline and year, by stable id and then by year."""
    parts = []
    for entry in entries:
        for part in read_parts(archive.table("glaciers", entry), _IDS[3:]):
            parts.append(part.assign(region=entry.region, year=entry.year, version=entry.version)[_IDS])
    return pd.concat(parts, ignore_index=True).sort_values(
        ["region", "glacier_id", "year"], ignore_index=True
    )


def _write_package(archive: Archive, entries: Sequence[Entry], out: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
        local = Path(folder, "export.gpkg")
        for kind in _LAYERS:
            for number, part in enumerate(_parts(archive, entries, kind)):
                part.to_file(local, layer=kind, driver="GPKG", index=False, mode="a" if number else "w")
        for layer, table in (
            ("glacier_ids", _ids(archive, entries)),
            ("perennial", perennial(archive, entries)),
        ):
            pyogrio.write_dataframe(table, local, layer=layer, driver="GPKG", append=True)
        move(local, out)


def _copy_maps(archive: Archive, entry: Entry, out: str) -> str:
    """The store of a version, file by file; returns where it lies."""
    target = f"mosaics/{entry.place}/mosaic.zarr"
    for key, _, sha256 in read_list(f"{archive.root}/records/{entry.place}/{FILES}"):
        if key.startswith(f"{target}/"):
            content = archive.objects.get(key)
            if content is None:
                raise OutputError(
                    f"{archive.root}/{key}, which is gone", "an archive that verifies", "verify it"
                )
            if hashlib.sha256(content).hexdigest() != sha256:
                raise _altered(archive, key)
            Objects(out).put(key, content)
    return target
