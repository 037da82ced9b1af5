"""The frozen catalogue of a run, and stac-geoparquet files of others.

A frozen file keeps each item's JSON as text beside the columns that make it a GeoParquet: the
stac-geoparquet layout has one column a property over all items, which cannot tell an absent property from
a null one, and widens numbers, so that an item does not come back as it went in.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pystac import Item
from shapely.geometry import mapping, shape

from cryoscale.errors import IntegrityError, SourceError
from cryoscale.read.cube import when

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike

ITEM_COLUMN = "stac_item"
"""The item as JSON text; only our own files have it."""

_SOURCE_COLUMN = "source"
_DIGEST_KEY = b"cryoscale:sha256"
_TOP_LEVEL = ("type", "stac_version", "stac_extensions", "id", "bbox", "links", "assets", "collection")


def freeze(items_by_source: Mapping[str, Sequence[Item]], path: str | PathLike[str]) -> str:
    """Writes what a run found, by source, to one GeoParquet file (a path or fsspec URL); returns its sha256.

    The digest is that of the contents: it does not depend on the order in which items were found, on the
    version of Parquet, or on links, which name the server that was asked.
    """
    rows = sorted(_rows(items_by_source))
    sha256 = _digest(rows)
    items = [json.loads(text) for *_, text in rows]
    geometry = [None if item["geometry"] is None else shape(item["geometry"]).wkb for item in items]
    moments = [when(Item.from_dict(item)) for item in items]
    table = pa.table(
        {
            _SOURCE_COLUMN: pa.array([row[0] for row in rows], pa.string()),
            "collection": pa.array([row[1] for row in rows], pa.string()),
            "id": pa.array([row[2] for row in rows], pa.string()),
            "datetime": pa.array(moments, pa.timestamp("us", "UTC")),
            "geometry": pa.array(geometry, pa.binary()),
            ITEM_COLUMN: pa.array([row[3] for row in rows], pa.string()),
        }
    )
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
    }
    keys = {b"geo": json.dumps(geo).encode(), _DIGEST_KEY: sha256.encode()}
    sources = json.dumps(sorted(items_by_source)).encode()
    with fsspec.open(str(path), "wb") as file:
        pq.write_table(table.replace_schema_metadata({**keys, b"cryoscale:sources": sources}), file)
    return sha256


def thaw(path: str | PathLike[str]) -> dict[str, list[Item]]:
    """What :func:`freeze` wrote: items by source, by time and id.

    Raises:
        SourceError: if the file is absent or not a frozen catalogue.
        IntegrityError: if its contents are not what was written.
    """
    table = _read(path)
    metadata = table.schema.metadata or {}
    if ITEM_COLUMN not in table.column_names or _DIGEST_KEY not in metadata:
        raise SourceError(f"{path}", "a catalogue frozen by a run", "start the run anew")
    columns = (_SOURCE_COLUMN, "collection", "id", ITEM_COLUMN)
    rows = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    if _digest(rows) != metadata[_DIGEST_KEY].decode():
        raise IntegrityError(f"{path} is not what was frozen: its sha256 differs")
    found: dict[str, list[Item]] = {name: [] for name in json.loads(metadata[b"cryoscale:sources"])}
    for source, _, _, text in rows:
        found[source].append(Item.from_dict(json.loads(text)))
    return {source: sorted(items, key=lambda item: (when(item), item.id)) for source, items in found.items()}


def digest(items_by_source: Mapping[str, Sequence[Item]]) -> str:
    """The sha256 that :func:`freeze` would return."""
    return _digest(sorted(_rows(items_by_source)))


@dataclass(frozen=True)
class Changes:
    """How what the providers have now differs from a frozen catalogue.

    Attributes:
        new: (source, item id) that the catalogue lacks.
        gone: (source, item id) that no provider lists any more.
        changed: (source, item id, where they differ) of those listed otherwise than before.
    """

    new: tuple[tuple[str, str], ...] = ()
    gone: tuple[tuple[str, str], ...] = ()
    changed: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.changed)

    def __str__(self) -> str:
        return f"{len(self.new)} new, {len(self.gone)} gone, {len(self.changed)} changed"

    def lines(self) -> list[str]:
        """One line an item."""
        return [
            *(f"new: {source} {item}" for source, item in self.new),
            *(f"gone: {source} {item}" for source, item in self.gone),
            *(f"changed: {source} {item} ({', '.join(fields)})" for source, item, fields in self.changed),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "new": [{"source": source, "id": item} for source, item in self.new],
            "gone": [{"source": source, "id": item} for source, item in self.gone],
            "changed": [
                {"source": source, "id": item, "fields": list(fields)}
                for source, item, fields in self.changed
            ],
        }


def compare(frozen: Mapping[str, Sequence[Item]], found: Mapping[str, Sequence[Item]]) -> Changes:
    """What is new, gone and changed in ``found``; links are left out, as they are when freezing."""
    before, now = (
        {(source, item): text for source, _, item, text in _rows(items)} for items in (frozen, found)
    )
    return Changes(
        tuple(sorted(now.keys() - before.keys())),
        tuple(sorted(before.keys() - now.keys())),
        tuple(
            (*key, _differences(json.loads(before[key]), json.loads(now[key])))
            for key in sorted(before.keys() & now.keys())
            if before[key] != now[key]
        ),
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    """Names of the members that differ, one step down for properties and assets."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        one, two = before.get(name), now.get(name)
        if one == two:
            continue
        if name in ("properties", "assets") and isinstance(one, dict) and isinstance(two, dict):
            inner = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
            found += [f"{name}.{key}" for key in inner]
        else:
            found.append(name)
    return tuple(found)


def read_items(path: str | PathLike[str]) -> list[Item]:
    """Items of a stac-geoparquet file, ours or of another tool.

    Raises:
        SourceError: if the file is absent or holds no items.
    """
    table = _read(path)
    if ITEM_COLUMN in table.column_names:
        return [Item.from_dict(json.loads(text)) for text in table[ITEM_COLUMN].to_pylist()]
    missing = [name for name in ("id", "geometry", "assets") if name not in table.column_names]
    if missing:
        raise SourceError(f"{path} without {', '.join(missing)}", "a stac-geoparquet file", "check the path")
    try:
        return [Item.from_dict(_feature(row)) for row in table.to_pylist()]
    except Exception as error:  # pystac raises many kinds for rows that are not STAC
        raise SourceError(f"{path} ({error})", "a stac-geoparquet file", "check the file") from error


def _rows(items_by_source: Mapping[str, Sequence[Item]]) -> Iterator[tuple[str, str, str, str]]:
    for source, items in items_by_source.items():
        for item in items:
            document = item.to_dict(include_self_link=False, transform_hrefs=False)
            document["links"] = []
            text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            yield source, item.collection_id or "", item.id, text


def _digest(rows: Sequence[tuple[str, ...]]) -> str:
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()


def _read(path: str | PathLike[str]) -> pa.Table:
    try:
        with fsspec.open(str(path), "rb") as file:
            return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        cause = " ".join(str(error).split())
        raise SourceError(f"{path} ({cause})", "a readable parquet file", "check the path") from error


def _feature(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the stac-geoparquet layout (https://github.com/stac-utils/stac-geoparquet) as an item."""
    plain = _plain(row)
    properties = {name: value for name, value in plain.items() if name not in (*_TOP_LEVEL, "geometry")}
    properties.setdefault("datetime", None)
    bbox = plain.get("bbox")
    if isinstance(bbox, dict):
        order = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")
        bbox = [bbox[side] for side in order if side in bbox]
    geometry = row["geometry"]
    return {
        **{name: plain[name] for name in _TOP_LEVEL if name in plain},
        "type": "Feature",
        "stac_version": plain.get("stac_version", "1.0.0"),
        "links": plain.get("links", []),
        "assets": plain.get("assets", {}),
        "bbox": bbox,
        "geometry": None if geometry is None else mapping(shapely.from_wkb(geometry)),
        "properties": properties,
    }


def _plain(value: Any) -> Any:
    """JSON values out of Arrow's; nulls are dropped, since they only fill columns of other items."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return value
