"""What an archive holds: the list in its ``catalog.json``, where things lie, and how the list is replaced.

The list has a schema version. An archive of another one is refused, since whoever does not know what a
field means must neither add beside it nor compute with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cryoscale.errors import SourceError
from cryoscale.write.objects import Objects

SCHEMA = 1
"""Of the list and the layout; whatever changes the meaning of either changes it."""

ROOT = "catalog.json"
KEY = "cryoscale:archive"
STAC = "stac"
PUBLISHED = "ledger/published.json"
"""Says, beside the list, which was the last: one that is lost or older than the data is known by it."""
TABLES = ("glaciers", "complexes", "intersects", "centrelines")
"""Folders of GeoParquet, each with one file a version, called like its folder."""
DATA = (*TABLES, "mosaics", "records")
FILES = "files.parquet"
State = Literal["current", "superseded", "withdrawn"]
CURRENT: Final = "current"
SUPERSEDED: Final = "superseded"
WITHDRAWN: Final = "withdrawn"

_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GENERATION = re.compile(r"(\d{6,})-[0-9a-f]{8}")
_PLACE = re.compile(r"region=[^/]+/year=\d+/version=\d+")


class Entry(BaseModel):
    """One version of a region's year.

    Attributes:
        region: its name in paths and identifiers.
        year: mapped.
        version: from 1 on.
        state: current, superseded by a later version, or withdrawn; all of them stay readable.
        content_sha256: of the run's blocks and outlines of the year; equal content is never added twice.
        files_sha256: of the year's list of files.
        files: how many files there are beside that list.
        size_bytes: of these files.
        zones: EPSG codes of the maps.
        glaciers: number of outlines.
        area_km2: of all outlines, with the bounds of its 90 % interval, None where none was stated.
        run_id: first digits of the run's identity.
        run: its name.
        model: name of the model that mapped it.
        season: first and last moment of the imagery, ISO 8601.
        added: when, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str
    year: int
    version: int
    state: State
    content_sha256: str
    files_sha256: str
    files: int
    size_bytes: int
    zones: tuple[int, ...]
    glaciers: int
    area_km2: float
    area_low_km2: float | None = None
    area_high_km2: float | None = None
    run_id: str
    run: str
    model: str
    season: tuple[str, str]
    added: str

    @property
    def place(self) -> str:
        """Where it lies below each folder of data."""
        return place_of(self.region, self.year, self.version)

    @property
    def name(self) -> str:
        """Its identifier in STAC."""
        return f"{self.region}-{self.year}-v{self.version}"


class Index(BaseModel):
    """The list as ``catalog.json`` has it.

    Attributes:
        schema_version: :data:`SCHEMA`.
        generation: name of the folder of STAC documents that belong to it; empty before the first.
        before: that of the generation before, which readers may still be walking through.
        documents: name below that folder and sha256 of each STAC document.
        entries: every version ever added, in the order of region, year and version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    generation: str = ""
    before: str = ""
    documents: dict[str, str] = {}
    entries: tuple[Entry, ...] = ()

    @property
    def number(self) -> int:
        """How many lists there were before it, and itself."""
        return _number_of(self.generation)

    def versions(self, region: str, year: int) -> list[Entry]:
        """All versions of a region's year, the first first."""
        return [one for one in self.entries if (one.region, one.year) == (region, year)]

    def current(self, region: str | None = None, year: int | None = None) -> list[Entry]:
        """What is neither superseded nor withdrawn."""
        return [
            one
            for one in self.entries
            if one.state == CURRENT and region in (None, one.region) and year in (None, one.year)
        ]

    def chosen(self, region: str, year: int, version: int | None = None) -> Entry:
        """The current version of a region's year, or the one asked for.

        Raises:
            SourceError: there is none.
        """
        found = self.versions(region, year)
        wanted = [
            one for one in found if (one.state == CURRENT if version is None else one.version == version)
        ]
        if wanted:
            return wanted[0]
        had = ", ".join(f"version {one.version} ({one.state})" for one in found)
        years = ", ".join(str(one.year) for one in self.current(region)) or "none"
        raise SourceError(
            f"year {year} of region {region!r}{'' if version is None else f', version {version}'}",
            f"one of {had}" if found else f"a year that the archive has: {years}",
            "give --version" if found and version is None else "look with cryoscale archive list",
        )


class Published(BaseModel):
    """What the ledger says of the last list.

    Attributes:
        generation: of its STAC documents; empty where nothing is said.
        catalog_sha256: of ``catalog.json``.
    """

    model_config = ConfigDict(frozen=True)

    generation: str = ""
    catalog_sha256: str = ""


@dataclass(frozen=True)
class Archive:
    """The archive at ``root``, a local folder or fsspec URL; nothing is written here.

    Raises:
        SourceError: on first use, where there is no archive, or one of another schema version.
    """

    root: str

    @cached_property
    def objects(self) -> Objects:
        """What lies under the root."""
        return Objects(self.root)

    def read(self) -> Index:
        """The list as it is now."""
        return self.stored()[1]

    def stored(self) -> tuple[bytes, Index]:
        """``catalog.json`` as it is now, and its list."""
        content = self.objects.get(ROOT)
        if content is None:
            raise SourceError(
                f"{self.root}, which holds no {ROOT}",
                "an archive",
                "check --archive, or begin one with cryoscale archive add",
            )
        return content, self._listed(content)

    def read_or_none(self) -> Index | None:
        """The list as it is now; None where there is no ``catalog.json`` at all."""
        content = self.objects.get(ROOT)
        return None if content is None else self._listed(content)

    def _listed(self, content: bytes) -> Index:
        try:
            listed: Any = json.loads(content).get(KEY)
        except (ValueError, AttributeError, UnicodeDecodeError) as error:
            raise SourceError(
                f"{self.root}/{ROOT} ({error})", "the catalogue of an archive", _MEND
            ) from error
        if not isinstance(listed, dict):
            raise SourceError(
                f"{self.root}, whose {ROOT} is no archive's",
                "an archive",
                "check --archive: a run is no archive",
            )
        if listed.get("schema_version") != SCHEMA:
            raise SourceError(
                f"{self.root}, an archive of schema version {listed.get('schema_version')}",
                f"one of schema version {SCHEMA}",
                "use the cryoscale that made it, or add its runs to a new archive",
            )
        try:
            return Index.model_validate(listed)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SourceError(
                f"{self.root}/{ROOT}, whose {where}: {first['msg']}", "the catalogue of an archive", _MEND
            ) from error

    def published(self) -> Published:
        """The last publication that the ledger knows; none where an earlier cryoscale made the archive."""
        try:
            return Published.model_validate_json(self.objects.get(PUBLISHED) or b"{}")
        except ValidationError:
            return Published()

    def last_number(self) -> int:
        """The least number that the latest list has; whoever reads the list as well asks for this first."""
        there = map(_number_of, generations(self.objects))
        # an addition that was killed may have left one generation more than was published
        return max(_number_of(self.published().generation), max(there, default=0) - 1)

    def folder(self, kind: str, entry: Entry) -> str:
        """URL of the folder of a version's data of one kind."""
        return f"{self.root}/{kind}/{entry.place}"

    def table(self, kind: str, entry: Entry) -> str:
        """URL of a version's GeoParquet of one of :data:`TABLES`."""
        return f"{self.folder(kind, entry)}/{kind}.parquet"


_MEND = "bring back the latest catalog.json of a copy"


def _number_of(generation: str) -> int:
    """Of a generation's name; 0 for what is none."""
    named = _GENERATION.fullmatch(generation)
    return int(named[1]) if named else 0


def generations(objects: Objects) -> list[str]:
    """Every folder of STAC documents, of the list or not; what somebody else has put there is none."""
    return [name for name in objects_below(objects, STAC) if _GENERATION.fullmatch(name)]


def place_of(region: str, year: int, version: int) -> str:
    """Where a version lies below each folder of data, as Hive names partitions."""
    return f"region={region}/year={year}/version={version}"


def places(objects: Objects, kind: str) -> Iterator[str]:
    """Every ``region=…/year=…/version=…`` that there is below a folder of data, listed or not."""
    for region in objects_below(objects, kind):
        for year in objects_below(objects, f"{kind}/{region}"):
            for version in objects_below(objects, f"{kind}/{region}/{year}"):
                place = f"{region}/{year}/{version}"
                if _PLACE.fullmatch(place):  # and not what somebody else has put there
                    yield place


def objects_below(objects: Objects, prefix: str) -> Sequence[str]:
    """Names of what lies directly below a folder; none where a file lies there instead."""
    try:
        return Objects(f"{objects.root}/{prefix}").names()
    except NotADirectoryError:
        return ()


def checked_region(name: str) -> str:
    """A region's name that can stand in paths and identifiers.

    Raises:
        SourceError: it cannot.
    """
    if _REGION.fullmatch(name):
        return name
    raise SourceError(
        f"region {name!r}", "letters, digits, dots, dashes and underscores, at most 64", "give --region"
    )
