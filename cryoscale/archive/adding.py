"""Adding the years of a finished run to an archive, and withdrawing one; for the order see the package."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from cryoscale import lease
from cryoscale.archive import described
from cryoscale.archive.files import Filing
from cryoscale.archive.identity import stable_ids
from cryoscale.archive.index import (
    CURRENT,
    DATA,
    FILES,
    PUBLISHED,
    ROOT,
    SCHEMA,
    STAC,
    SUPERSEDED,
    WITHDRAWN,
    Archive,
    Entry,
    Index,
    Published,
    checked_region,
    generations,
    place_of,
    places,
)
from cryoscale.archive.source import FinishedRun, bounds_of
from cryoscale.archive.tables import TYPES, read_complete, without_year
from cryoscale.errors import CryoscaleError, LeaseLostError, NoRoomError, OutputError
from cryoscale.room import full_disk_told
from cryoscale.write import disk
from cryoscale.write.objects import local_path
from cryoscale.write.vectors import read_parts, write_parts

_LEASE = "ledger"
Stage = Callable[[str], None]


@dataclass(frozen=True)
class Added:
    """What became of each year: the entries that were made, and those that were there already."""

    new: tuple[Entry, ...]
    unchanged: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "added": [one.model_dump(mode="json") for one in self.new],
            "unchanged": [one.model_dump(mode="json") for one in self.unchanged],
        }


def add(
    root: str,
    run: str,
    *,
    region: str | None = None,
    years: Sequence[int] = (),
    new_version: bool = False,
    stage: Stage = lambda text: None,
) -> Added:
    """Add years of a finished run, each in one step; one that is there with the same content is left alone.

    Args:
        root: the archive, which is begun where the folder is empty.
        run: output folder or URL of the run.
        region: by default the run's name.
        years: by default all of the run's.
        new_version: take a year that is there with other content, as a version of its own.

    Raises:
        SourceError: the run is not finished, does not verify or is changed meanwhile, or the archive is none
            of ours.
        OutputError: a year is there with other content, or another adder is at work.
    """
    archive = Archive(root)
    index = _begun(archive)
    name = None if region is None else checked_region(region)  # a proof may take long
    source = FinishedRun.proven(run, years, stage)
    name = name or checked_region(source.name.replace(" ", "-"))
    wanted = {year: (source.content_sha256(year), source.former_sha256(year)) for year in source.years}
    to_do, there = _sorted_out(index, name, wanted, new_version)
    if not to_do:
        return Added((), tuple(there))
    new = []
    with _adding(root) as alone:
        sweep(archive, _begun(archive))
        to_do, there = _sorted_out(_begun(archive), name, wanted, new_version)  # it may have changed since
        for year in to_do:
            stage(f"adding {year} to region {name}")
            with _room(archive, year, alone):
                new.append(_add_year(archive, source, name, year, alone))
    return Added(tuple(new), tuple(there))


def withdraw(root: str, region: str, year: int) -> Entry:
    """Take a year out of what is current; its files stay, and are read as a version.

    Raises:
        SourceError: there is no such year.
        OutputError: another adder is at work, or the list is not the latest.
    """
    archive = Archive(root)
    archive.read().chosen(region, year)
    with _adding(root) as alone:
        last = archive.last_number()
        index = archive.read()
        _require_latest(archive, index, last)
        sweep(archive, index)
        gone = index.chosen(region, year).model_copy(update={"state": WITHDRAWN})
        _publish(archive, index, gone, alone)
    return gone


def sweep(archive: Archive, index: Index) -> int:
    """Delete what killed additions left: data of no entry, STAC documents of no generation; says how many."""
    rubbish = list(leftovers(archive, index))
    folder = local_path(archive.root)
    for name in os.listdir(folder) if folder is not None and os.path.isdir(folder) else ():
        if disk.is_partial(name):  # a catalogue that was never put in its place
            os.unlink(f"{folder}/{name}")
    for prefix in rubbish:
        archive.objects.delete_all(prefix)
    return len(rubbish)


def leftovers(archive: Archive, index: Index) -> Iterator[str]:
    """Folders below the root that no catalogue names."""
    known = {entry.place for entry in index.entries}
    for kind in DATA:
        for place in places(archive.objects, kind):
            if place not in known:
                yield f"{kind}/{place}"
    for generation in generations(archive.objects):
        if generation not in (index.generation, index.before):
            yield f"{STAC}/{generation}"


def _begun(archive: Archive) -> Index:
    """The list; an empty one where an archive may be begun.

    Raises:
        OutputError: the folder holds something else, or the list is not the latest.
    """
    last = archive.last_number()
    index = archive.read_or_none()
    _require_latest(archive, index, last)
    if index is not None:
        return index
    foreign = [name for name in archive.objects.names() if name not in (*DATA, STAC, _LEASE)]
    if foreign:
        raise OutputError(
            f"archive {archive.root}, which holds {', '.join(foreign[:3])} and no {ROOT}",
            "an archive, or a new or empty folder to begin one",
            "give another --archive",
        )
    return Index(schema_version=SCHEMA)


def _require_latest(archive: Archive, index: Index | None, last: int) -> None:
    """See that the list is the last that was published: to an older one, later years are what is swept.

    Args:
        archive: which has it.
        index: the list, None where there is none.
        last: number of the latest, asked for before the list was read.

    Raises:
        OutputError: it is not.
    """
    if (0 if index is None else index.number) < last:
        what = f"holds no {ROOT}" if index is None else f"has the {ROOT} number {index.number}"
        raise OutputError(
            f"archive {archive.root}, which {what}, while number {last} at least was published",
            f"the latest {ROOT}, without which whole years would count as left over",
            f"bring back the latest {ROOT} of a copy, and prove it with cryoscale archive verify",
        )


def _sorted_out(
    index: Index, region: str, wanted: Mapping[int, tuple[str, ...]], new_version: bool
) -> tuple[list[int], list[Entry]]:
    """Years that have to be added, and entries of those that are there with the same content.

    Args:
        wanted: by year what an entry of its content may have as digest.
    """
    to_do, there = [], []
    for year, content in wanted.items():
        versions = index.versions(region, year)
        same = [one for one in versions if one.content_sha256 in content]
        if any(one.state == CURRENT for one in same):
            there.append(next(one for one in same if one.state == CURRENT))
        elif not versions or new_version:
            to_do.append(year)
        else:
            one = same[-1] if same else versions[-1]
            what = f"the same content, {one.state}" if same else f"other content ({one.state})"
            raise OutputError(
                f"year {year} of region {region!r}, which is there as version {one.version} with {what}",
                "a year that is not there, or the same content again",
                "give --new-version to add it as another version, or another --region",
            )
    return to_do, there


@contextmanager
def _adding(root: str) -> Iterator[lease.Lease]:
    """Be the only one who adds.

    Raises:
        OutputError: another one does.
    """
    with ExitStack() as stack:
        try:
            held = stack.enter_context(lease.held(root))
        except LeaseLostError as error:
            raise _taken(f"archive {root}, to which another began to add just now") from error
        except OutputError as error:
            if "is driving" not in error.given:
                raise
            given = error.given.replace("output", "archive", 1).replace("is driving", "is adding to")
            raise _taken(given) from error
        yield held


@contextmanager
def _room(archive: Archive, year: int, alone: lease.Lease) -> Iterator[None]:
    """Add a year in the body; where a disk is full, what there is of it makes room again.

    Unless another has taken over meanwhile, since a full disk takes no sign of life either: what no catalogue
    names is then that one's.

    Raises:
        NoRoomError: names the places that may be full.
    """
    places = f"archive {archive.root}, or {tempfile.gettempdir()} for temporary files,"
    try:
        with full_disk_told(places, f"{year} was not added; make room and start the same command again"):
            yield
    except NoRoomError:
        with suppress(OSError, CryoscaleError):  # the next addition sweeps it
            alone.tell()
            alone.require()
            sweep(archive, _begun(archive))
        raise


def _taken(given: str) -> OutputError:
    return OutputError(given, "an archive that nobody else adds to", "wait for it and start again")


def _add_year(archive: Archive, source: FinishedRun, region: str, year: int, alone: lease.Lease) -> Entry:
    """Everything of a year, and then the catalogue that names it."""
    index = _begun(archive)
    versions = index.versions(region, year)
    version = versions[-1].version + 1 if versions else 1
    place = place_of(region, year, version)
    with Filing(archive.root) as files:
        source.copy_maps(files, year, f"mosaics/{place}/mosaic.zarr")
        records = f"records/{place}"
        source.copy_records(files, year, records)
        files.copy(
            f"{source.out}/inventory/{year}-intersects.parquet", f"intersects/{place}/intersects.parquet"
        )
        glaciers = source.out + f"/inventory/{year}.parquet"
        others = [one for one in index.entries if one.region == region]
        ids = stable_ids(archive, others, lambda: _outlines(glaciers), year)
        with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
            complexes, local = f"{source.out}/inventory/{year}-complexes.parquet", Path(folder, "complexes")
            write_parts(without_year(complexes), local, bounds_of(complexes))
            files.put_file(local, f"complexes/{place}/complexes.parquet")
            local = Path(folder, "glaciers.parquet")
            count = _identified(glaciers, ids, local)
            files.put_file(local, f"glaciers/{place}/glaciers.parquet")
            local = Path(folder, "centrelines.parquet")
            source.write_centrelines(year, ids, local)
            files.put_file(local, f"centrelines/{place}/centrelines.parquet")
        told = described.documents(source, files, place, year, count)
        files.put(f"{records}/{described.DOCUMENT}", described.encoded(told))
        total = files.close_list(f"{records}/{FILES}")
    source.require_unchanged(year)
    area = source.region_area(year)
    entry = Entry(
        region=region,
        year=year,
        version=version,
        state=CURRENT,
        content_sha256=source.content_sha256(year),
        files_sha256=total.sha256,
        files=total.files,
        size_bytes=total.size_bytes,
        zones=tuple(source.zones(year)),
        glaciers=count,
        area_km2=area["area_km2"],
        area_low_km2=area["area_low_km2"],
        area_high_km2=area["area_high_km2"],
        run_id=source.run_id,
        run=source.name,
        model=source.model,
        season=source.season(year),
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _publish(archive, index, entry, alone)
    return entry


def _publish(archive: Archive, index: Index, entry: Entry, alone: lease.Lease) -> None:
    """Write the STAC documents of the list with an entry new or changed, then replace the catalogue.

    Raises:
        LeaseLostError: while this process stood still another one took it for dead and adds now.
    """
    kept = []
    for one in index.entries:
        if (one.region, one.year, one.version) == (entry.region, entry.year, entry.version):
            continue
        if one.state == CURRENT and (one.region, one.year) == (entry.region, entry.year):
            one = one.model_copy(update={"state": SUPERSEDED})
        kept.append(one)
    entries = tuple(sorted([*kept, entry], key=lambda one: (one.region, one.year, one.version)))
    generation = f"{index.number + 1:06d}-{os.urandom(4).hex()}"
    documents = {}
    for name, content in described.tree(archive, entries):
        archive.objects.put(f"{STAC}/{generation}/{name}", content)
        documents[name] = hashlib.sha256(content).hexdigest()
    listed = Index(
        schema_version=SCHEMA,
        generation=generation,
        before=index.generation,
        documents=documents,
        entries=entries,
    )
    alone.tell()  # who was frozen must not put back a list that lacks what was added meanwhile
    alone.require()
    catalog = described.root(listed)
    archive.objects.put(ROOT, catalog)
    for old in generations(archive.objects):
        if old not in (listed.generation, listed.before):
            archive.objects.delete_all(f"{STAC}/{old}")
    told = Published(generation=generation, catalog_sha256=hashlib.sha256(catalog).hexdigest())
    with suppress(OSError, CryoscaleError):  # the year is there, whether a full disk takes this or not
        archive.objects.put(PUBLISHED, described.encoded(told.model_dump()))


def _outlines(url: str) -> Iterator[gpd.GeoDataFrame]:
    for part in read_parts(url, ("glac_id", "geometry")):
        yield gpd.GeoDataFrame(part)


def _identified(url: str, ids: Mapping[str, str], local: Path) -> int:
    """Writes an inventory with the column ``glacier_id``; says how many outlines there are."""
    count = 0

    def parts() -> Iterator[gpd.GeoDataFrame]:
        nonlocal count
        for part in read_complete(url, list(TYPES)):
            stable = pd.Series([ids[str(name)] for name in part["glac_id"]], part.index, dtype="string")
            part.insert(0, "glacier_id", stable)
            count += len(part)
            yield part

    write_parts(parts(), local, bounds_of(url))
    return count
