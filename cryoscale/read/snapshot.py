"""The frozen catalogue of a run, and stac-geoparquet files of others.

A frozen file is a stac-geoparquet that other tools read, and keeps each item's JSON as text beside those
columns: they cannot tell an absent property from a null one, and widen numbers, so that an item would not
come back as it went in. We read the text, others see two more properties.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pystac import Item

from cryoscale.errors import IntegrityError, SourceError
from cryoscale.read.band import when
from cryoscale.read.geoparquet import columns, features

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike

ITEM_COLUMN = "cryoscale:item"
"""The item as JSON text; only our own files have it."""

_SOURCE_COLUMN = "cryoscale:source"
_DIGEST_KEY = b"cryoscale:sha256"
_BEFORE = {"source": _SOURCE_COLUMN, "stac_item": ITEM_COLUMN}
"""How the columns were called in the catalogues of earlier runs."""


def freeze(items_by_source: Mapping[str, Sequence[Item]], path: str | PathLike[str]) -> str:
    """Writes what a run found, by source, to one GeoParquet file (a path or fsspec URL); returns its sha256.

    The digest is that of the contents: it does not depend on the order in which items were found, on the
    version of Parquet, or on links, which name the server that was asked.
    """
    rows = sorted(_rows(items_by_source))
    sha256 = _digest(rows)
    ours = pa.table(
        {
            _SOURCE_COLUMN: pa.array([row[0] for row in rows], pa.string()),
            ITEM_COLUMN: pa.array([row[3] for row in rows], pa.string()),
        }
    )
    table = ours
    if rows:
        table = columns([json.loads(text) for *_, text in rows])
        for name in ours.column_names:
            table = table.append_column(name, ours[name])
    sources = json.dumps(sorted(items_by_source)).encode()
    keys = {**(table.schema.metadata or {}), _DIGEST_KEY: sha256.encode(), b"cryoscale:sources": sources}
    with fsspec.open(str(path), "wb") as file:
        pq.write_table(table.replace_schema_metadata(keys), file)
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
    texts, kept = table[ITEM_COLUMN].to_pylist(), table[_SOURCE_COLUMN].to_pylist()
    try:
        documents = [json.loads(text) for text in texts]
        names = [(document.get("collection") or "", document["id"]) for document in documents]
    except (ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path} is not what was frozen: {error}") from error
    rows = [(source, *name, text) for source, name, text in zip(kept, names, texts, strict=True)]
    if _digest(rows) != metadata[_DIGEST_KEY].decode():
        raise IntegrityError(f"{path} is not what was frozen: its sha256 differs")
    found: dict[str, list[Item]] = {name: [] for name in json.loads(metadata[b"cryoscale:sources"])}
    for row, document in zip(rows, documents, strict=True):
        found[row[0]].append(Item.from_dict(document))
    return {source: sorted(items, key=lambda item: (when(item), item.id)) for source, items in found.items()}


def scan(path: str | PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Source and JSON of each frozen item, some hundred at a time in memory; the digest is not looked at.

    Raises:
        SourceError: if the file is absent or not a frozen catalogue.
        IntegrityError: if an item is no JSON.
    """
    try:
        with fsspec.open(str(path), "rb") as file:
            stored = pq.ParquetFile(file)
            present = stored.schema_arrow.names
            names = [new if new in present else old for old, new in _BEFORE.items()]
            for batch in stored.iter_batches(256, columns=names):
                for source, text in zip(*(batch[name].to_pylist() for name in names), strict=True):
                    yield source, json.loads(text)
    except ValueError as error:
        raise IntegrityError(f"{path} is not what was frozen: {error}") from error
    except (OSError, KeyError, pa.ArrowException) as error:
        raise SourceError(f"{path} ({error})", "a catalogue frozen by a run", "start the run anew") from error


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
        items = [Item.from_dict(feature) for feature in features(table)]
    except Exception as error:  # pystac raises many kinds for rows that are not STAC
        raise SourceError(f"{path} ({error})", "a stac-geoparquet file", "check the file") from error
    for item in items:
        if item.get_self_href() is None:
            item.set_self_href(str(Path(path).resolve()))  # relative addresses lie beside the file
    return items


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
            table = pq.read_table(file)
            if set(_BEFORE) <= set(table.column_names):
                table = table.rename_columns(_BEFORE).replace_schema_metadata(table.schema.metadata)
            return table
    except (OSError, pa.ArrowException) as error:
        cause = " ".join(str(error).split())
        raise SourceError(f"{path} ({cause})", "a readable parquet file", "check the path") from error
