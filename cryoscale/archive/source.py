"""A finished run as an archive takes it: proven first, then copied year by year."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cryoscale.archive.files import Filing
from cryoscale.errors import SourceError
from cryoscale.ledger import ITEMS, MANIFEST, SEAL, Ledger
from cryoscale.read import snapshot
from cryoscale.verify import verify
from cryoscale.write import corrections, mosaic, quicklook
from cryoscale.write.ground import Ground
from cryoscale.write.vectors import read_parts, write_parts

_RECORDS = ("region.json", "hypsometry.csv", "rgi_links.csv")
"""Of a run's inventory, by what follows ``<year>-``."""
_CONTENT = (*_RECORDS, "complexes.parquet", "intersects.parquet")
"""Likewise, all that makes a year beside its map and outlines; what is drawn from those is not counted."""
_ZARR = "zarr.json"
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that verified.

    Attributes:
        out: its folder or URL.
        years: those that are wanted, ascending.
    """

    out: str
    years: tuple[int, ...]

    @classmethod
    def proven(cls, out: str, years: Sequence[int], stage: Callable[[str], None]) -> FinishedRun:
        """The run at ``out``, looked through from its first block to its last file.

        Raises:
            SourceError: it is none, is not finished, does not verify, or lacks a year that is wanted.
        """
        run = cls(out, ())
        mapped = list(run.manifest["identity"]["years"])
        missing = sorted(set(years) - set(mapped))
        if missing:
            raise SourceError(
                f"year {missing[0]} of a run of {', '.join(map(str, mapped))}",
                "a year that was mapped",
                "give one of those",
            )
        stage(f"proving the run {out}")
        found = verify(out)
        if found.set_aside:
            raise SourceError(
                f"run {out}, with {len(found.set_aside)} blocks set aside, {found.set_aside[0]} first",
                "a finished run",
                "finish it with cryoscale run --retry-set-aside",
            )
        if found.faults:
            one = found.faults[0]
            more = f" and {len(found.faults) - 1} further faults" if len(found.faults) > 1 else ""
            raise SourceError(
                f"run {out}, whose {one.where} {one.reason}{more}",
                "a finished run that cryoscale verify finds sound",
                "finish or mend it with cryoscale run, or choose another",
            )
        return cls(out, tuple(sorted(set(years) or mapped)))

    @cached_property
    def ledger(self) -> Ledger:
        """What the run says of itself."""
        return Ledger(self.out)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """``run.json``."""
        found = self.ledger.manifest()
        if found is None:
            raise SourceError(f"{self.out}, which holds no run", "a folder with run.json", "check the path")
        return found

    @property
    def name(self) -> str:
        """As its configuration has it."""
        return str(self.manifest["name"])

    @property
    def run_id(self) -> str:
        """As its inventory has it."""
        return str(self.manifest["identity_sha256"])[:16]

    @property
    def model(self) -> str:
        """Name of its model."""
        return str(self.manifest["model"]["name"])

    def zones(self, year: int) -> list[int]:
        """EPSG codes of a year's maps."""
        return mosaic.zones(self.out, year)

    def content_sha256(self, year: int) -> str:
        """Over a year's blocks and outlines, whatever the run is called and whenever it was made."""
        own = {f"inventory/{year}.parquet", *(f"inventory/{year}-{name}" for name in _CONTENT)}
        return self._digest(year, {name: sha for name, sha in self._sealed.items() if name in own})

    def former_sha256(self, year: int) -> str:
        """As entries had it that were added while files for other programs counted as content."""
        own = {
            name: sha256
            for name, sha256 in self._sealed.items()
            if name.startswith((f"inventory/{year}.", f"inventory/{year}-"))
            and not name.endswith(".gpkg")
            and not _links_years(name)
        }
        return self._digest(year, own)

    def require_unchanged(self, year: int) -> None:
        """See, after a copy of a year, that what lies there is still the run that was proven.

        Raises:
            SourceError: it was altered, begun anew or removed meanwhile.
        """
        now = FinishedRun(self.out, self.years)
        if now.manifest != self.manifest or now.content_sha256(year) != self.content_sha256(year):
            raise SourceError(
                f"run {self.out}, which was changed while {year} was copied",
                "a finished run that nobody writes to",
                "start the same command again once it is finished",
            )

    @cached_property
    def _sealed(self) -> dict[str, str]:
        """The sha256 of each file of the run's end."""
        return dict((self.ledger.get(SEAL) or {}).get("files", {}))

    @cached_property
    def _blocks(self) -> dict[int, dict[str, str]]:
        """The checksum of each block of the years."""
        found: dict[int, dict[str, str]] = {year: {} for year in self.years}
        for marker in self.ledger.markers():
            if marker.year in found:
                found[marker.year][f"{marker.epsg}/{marker.block.key}"] = marker.checksum
        return found

    def _digest(self, year: int, files: Mapping[str, str]) -> str:
        total = hashlib.sha256()
        for key, told in sorted({**self._blocks[year], **files}.items()):
            total.update(f"{key} {told}\n".encode())
        return total.hexdigest()

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        """The STAC items in which the run describes itself."""
        catalog = self.ledger.get("catalog.json") or {"links": []}
        hrefs = [link["href"].removeprefix("./") for link in catalog["links"] if link["rel"] == "item"]
        return [self.ledger.get(href) or {} for href in hrefs]

    def map_item(self, year: int, epsg: int) -> dict[str, Any]:
        """The STAC item of a map."""
        end = f"mosaic.zarr/{year}/{epsg}"
        return next(
            one for one in self.items if one["assets"].get("mosaic", {}).get("href", "").endswith(end)
        )

    @cached_property
    def scene_addresses(self) -> dict[str, str]:
        """The STAC item of each scene that was found in a public API, by the scene's id."""
        taken: dict[str, set[str]] = {}
        for told in self.manifest.get("catalogs", []):
            if told.get("outcome") == "taken":
                taken.setdefault(str(told["collection"]), set()).add(str(told["url"]))
        found = {}
        for _, item in snapshot.scan(f"{self.out}/{ITEMS}"):
            urls = taken.get(item.get("collection") or "", set())
            # of several catalogues it is not known which had it
            href = item_address(next(iter(urls)), item["collection"], item["id"]) if len(urls) == 1 else None
            if href is not None:
                found[item["id"]] = href
        return found

    @property
    def model_item(self) -> dict[str, Any]:
        """The STAC item of the model."""
        return next(one for one in self.items if "mlm:input" in one["properties"])

    def season(self, year: int) -> tuple[str, str]:
        """First and last moment of a year's imagery, ISO 8601."""
        told = self.map_item(year, self.zones(year)[0])["properties"]
        return str(told["start_datetime"]), str(told["end_datetime"])

    def region_area(self, year: int) -> dict[str, Any]:
        """Area of all outlines of a year with its interval."""
        return dict(self.ledger.get(f"inventory/{year}-region.json") or {})

    def copy_maps(self, files: Filing, year: int, store: str) -> None:
        """The maps of a year to an archive, as a Zarr store that any reader opens."""
        objects, prefix = self.ledger.objects, f"mosaic.zarr/{year}/"
        keys = (entry.key for entry in objects.list(f"mosaic.zarr/{year}"))
        files.copy_objects(
            objects, ((key, f"{store}/{key.removeprefix('mosaic.zarr/')}") for key in keys if key != prefix)
        )
        root = json.loads(objects.get(f"mosaic.zarr/{_ZARR}") or b"{}")
        if "consolidated_metadata" in root:
            known = root["consolidated_metadata"]["metadata"]
            kept = {key: told for key, told in known.items() if f"{key}/".startswith(f"{year}/")}
            root["consolidated_metadata"]["metadata"] = kept
        files.put(f"{store}/{_ZARR}", json.dumps(root).encode())

    def copy_records(self, files: Filing, year: int, folder: str) -> None:
        """What the run says of itself and of a year."""
        objects = self.ledger.objects
        names = {MANIFEST: MANIFEST, ITEMS: ITEMS}
        names |= {f"inventory/{year}-{name}": name for name in _RECORDS}
        names["inventory/attributes_metadata.json"] = "attributes_metadata.json"
        names[corrections.FILE] = "corrections.parquet"
        for name, own in names.items():
            if objects.stat(name) is not None:
                files.copy(f"{self.out}/{name}", f"{folder}/{own}")

    def write_centrelines(self, year: int, ids: Mapping[str, str], local: Path) -> None:
        """The main centre line of each outline as GeoParquet; none where the run's relief is gone.

        Columns are glac_id, glacier_id, length_m and geometry, from head to terminus.
        """
        ground = self._ground(year)

        def parts() -> Iterator[gpd.GeoDataFrame]:
            for part in read_parts(f"{self.out}/inventory/{year}.parquet", ("glac_id", "geometry")):
                found = [None if ground is None else ground.line(shape) for shape in part["geometry"]]
                has = np.array([one is not None for one in found], bool)
                names = [str(name) for name in part["glac_id"][has]]
                lines = [one for one in found if one is not None]
                columns = {
                    "glac_id": pd.Series(names, dtype="string"),
                    "glacier_id": pd.Series([ids[name] for name in names], dtype="string"),
                    "length_m": pd.Series([one.length_m for one in lines], dtype="float64"),
                }
                yield gpd.GeoDataFrame(columns, geometry=[one.line for one in lines], crs="EPSG:4326")

        write_parts(parts(), local, bounds_of(f"{self.out}/inventory/{year}.parquet"))

    def _ground(self, year: int) -> Ground | None:
        try:
            relief = {epsg: quicklook.open_elevation(self.out, year, epsg) for epsg in self.zones(year)}
        except (FileNotFoundError, KeyError):
            return None
        return Ground(relief, "")


def bounds_of(url: str) -> list[float] | None:
    """West, south, east and north of a GeoParquet, as its metadata has them; None where it has none."""
    with fsspec.open(url, "rb") as file:
        told = json.loads((pq.ParquetFile(file).schema_arrow.metadata or {})[b"geo"])
    found = told["columns"]["geometry"].get("bbox")
    return None if found is None else [float(side) for side in found]


def _links_years(name: str) -> bool:
    """Whether a file of the inventory is of two years."""
    first, _, rest = name.removeprefix("inventory/").partition("-")
    return first.isdigit() and rest.partition("-")[0].isdigit()


def item_address(api: str, collection: str, name: str) -> str | None:
    """Where an API has an item, as OGC API Features lays them out; None for what is no public API.

    Source: https://api.stacspec.org/v1.0.0/ogcapi-features
    """
    parts = urlsplit(api)
    host = (parts.hostname or "").lower()
    static = parts.path.endswith((".json", ".parquet", ".geoparquet"))
    if parts.scheme not in ("http", "https") or static or host in _HERE:
        return None
    return f"{api.rstrip('/')}/collections/{quote(collection, safe='')}/items/{quote(name, safe='')}"
