"""An archive as static STAC: a catalogue, a collection a region, and items of each version's maps and tables.

What is to be said of a version is put down once, beside its data (:func:`documents`). At every change of the
archive all of it is written anew with its links (:func:`tree`), into a folder of its own, since what a
document says of later versions must not change under a reader. All links are relative, so that any
web server serves an archive as it lies (https://github.com/radiantearth/stac-spec/blob/master/best-practices.md).

Extensions: projection, raster, table, file, version and MLM (https://stac-extensions.github.io). Checksums
are multihashes of sha256, as the file extension wants them; those of a Zarr's many files are in the list that
stands beside it as the asset ``files``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryoscale.archive.files import Filing
from cryoscale.archive.index import (
    CURRENT,
    FILES,
    KEY,
    STAC,
    TABLES,
    WITHDRAWN,
    Archive,
    Entry,
    Index,
)
from cryoscale.archive.source import FinishedRun
from cryoscale.errors import IntegrityError
from cryoscale.grid import RESOLUTION_M
from cryoscale.write.arrays import ARRAYS, NODATA
from cryoscale.write.columns import COLUMNS

DOCUMENT = "stac.json"
"""Of a version's records: what is said of it, without links."""

_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
PROJECTION, RASTER, TABLE, FILE, VERSION, MLM = (
    _EXTENSION.format(name)
    for name in (
        "projection/v2.0.0",
        "raster/v1.1.0",
        "table/v1.2.0",
        "file/v2.1.0",
        "version/v1.2.0",
        "mlm/v1.4.0",
    )
)
_STAC_VERSION = "1.1.0"
_ZARR, _PARQUET, _JSON = (
    "application/vnd.zarr; version=3",
    "application/vnd.apache.parquet",
    "application/json",
)
_ITEM = "application/geo+json"
_UP = "../../../"
"""From a document of a region to the archive's root."""
_TITLES = {
    "glaciers": "Glacier outlines with their stable ids, GeoParquet",
    "complexes": "Ice before it was divided, GeoParquet",
    "intersects": "Divides that neighbours share, GeoParquet",
    "centrelines": "Main centre lines, GeoParquet",
}
_ENCODED = {"probability": 1 / 250, "confidence": 1 / 250, "disagreement": 1 / 250}
"""What a step of a layer's integers is worth."""

Document = dict[str, Any]


def encoded(document: Any) -> bytes:
    """A document as it lies in an archive."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


# --- what is said of a version, once ------------------------------------------------------------------


def documents(source: FinishedRun, files: Filing, place: str, year: int, count: int) -> list[Document]:
    """The items of a version, without links between versions; hrefs start at the archive's root.

    Args:
        source: the run that it comes from.
        files: what was put so far, for sizes and checksums.
        place: where the version lies.
        year: mapped.
        count: of outlines.
    """
    addresses = source.scene_addresses
    maps = [
        _map_item(source.map_item(year, epsg), files, place, year, addresses) for epsg in source.zones(year)
    ]
    tables = _tables_item(source, files, place, year, count)
    tables["links"] = [dict(link) for link in _once(link for one in maps for link in one["links"])]
    return [tables, *maps, _model_item(source, files, place)]


def _map_item(
    run_item: Document, files: Filing, place: str, year: int, addresses: Mapping[str, str]
) -> Document:
    epsg = int(str(run_item["properties"]["proj:code"]).partition(":")[2])
    store, scenes = f"mosaics/{place}/mosaic.zarr", f"records/{place}/items.parquet"
    asset = {
        "href": f"{store}/{year}/{epsg}",
        "type": _ZARR,
        "title": "Map, Zarr v3",
        "roles": ["data"],
        "file:size": files.size_below(f"{store}/{year}/{epsg}/"),
        "raster:bands": [_band(name) for name in ARRAYS],
    }
    return {
        **_item(run_item, [PROJECTION, RASTER, FILE]),
        "id": str(epsg),
        "assets": {"mosaic": asset},
        "links": [
            _scene(link, addresses, scenes) for link in run_item["links"] if link["rel"] == "derived_from"
        ],
    }


def _band(name: str) -> Document:
    spec = ARRAYS[name]
    band = {
        "name": name,
        "description": spec.attributes["long_name"],
        "data_type": spec.dtype,
        "sampling": "area",
        "spatial_resolution": RESOLUTION_M,
    }
    if spec.fill == NODATA:
        band["nodata"] = NODATA
    if name in _ENCODED:
        band |= {"scale": _ENCODED[name], "offset": 0}
    return band


def _scene(link: Document, addresses: Mapping[str, str], scenes: str) -> Document:
    """A link to a scene: its own address, else the frozen catalogue that has it; or to the model."""
    if link["href"].endswith("-model.json"):
        return {"rel": "derived_from", "href": "model", "type": _ITEM, "title": "Model"}
    title = link.get("title", "")
    href = link["href"] if "://" in link["href"] else addresses.get(title, scenes)
    return {"rel": "derived_from", "href": href, "type": _ITEM if "://" in href else _PARQUET, "title": title}


def _tables_item(source: FinishedRun, files: Filing, place: str, year: int, count: int) -> Document:
    first = source.map_item(year, source.zones(year)[0])
    item = _item({**source.model_item, "properties": first["properties"]}, [TABLE, FILE])
    records = {
        "run": ("run.json", _JSON, ["metadata"], "The run's own account"),
        "scenes": ("items.parquet", _PARQUET, ["metadata"], "Frozen catalogue of scenes, stac-geoparquet"),
        "region": ("region.json", _JSON, ["metadata"], "Area of all outlines and its interval"),
        "hypsometry": ("hypsometry.csv", "text/csv", ["data"], "Thousandths of area by bands of 50 m"),
    }
    assets = {
        kind: _file(files, f"{kind}/{place}/{kind}.parquet", _PARQUET, ["data"], _TITLES[kind])
        for kind in TABLES
    }
    assets |= {
        key: _file(files, f"records/{place}/{name}", media, roles, title)
        for key, (name, media, roles, title) in records.items()
    }
    columns = [
        {"name": "glacier_id", "type": "string", "description": "Stays with a glacier over the years."}
    ]
    columns += [
        {
            "name": c.name,
            "type": c.dtype.lower(),
            "description": f"{c.description}{f' ({c.units})' if c.units else ''}",
        }
        for c in COLUMNS
        if c.name != "year"
    ]
    columns += [{"name": "geometry", "type": "byte_array", "description": "Outline, WGS 84."}]
    told = {"table:columns": columns, "table:row_count": count, "table:primary_geometry": "geometry"}
    kept = {key: told for key, told in item["properties"].items() if not key.startswith("proj:")}
    title = f"Glaciers {year}"
    return {
        **item,
        "id": "",
        "properties": {**kept, **told, "title": title, "cryoscale:tables": True},
        "assets": assets,
    }


def _model_item(source: FinishedRun, files: Filing, place: str) -> Document:
    item = _item(source.model_item, [MLM])
    item["properties"]["title"] = f"Model {source.model}"
    named = [name for given in item["properties"].get("mlm:input", ()) for name in given["bands"]]
    item["properties"].setdefault("bands", [{"name": name} for name in named])  # which older runs lacked
    assets = copy.deepcopy(source.model_item["assets"])
    for key, asset in assets.items():
        asset.setdefault("mlm:artifact_type", "cryoscale")  # which runs of a rule lacked
        asset.setdefault("bands", item["properties"]["bands"])
        if "://" not in asset["href"]:  # a path on the machine that mapped is nobody else's
            title = f"{asset.get('title', 'Model')}, as the run's account names it"
            account = _file(files, f"records/{place}/run.json", _JSON, asset["roles"], title)
            assets[key] = {**asset, **account}
            item["stac_extensions"].append(FILE)
    return {**item, "id": "model", "assets": assets, "links": []}


def _item(run_item: Document, extensions: Sequence[str]) -> Document:
    """What an item of the archive has in common with one of the run."""
    return {
        "type": "Feature",
        "stac_version": _STAC_VERSION,
        "stac_extensions": [*extensions, VERSION],
        "geometry": run_item["geometry"],
        "bbox": run_item["bbox"],
        "properties": copy.deepcopy(run_item["properties"]),
    }


def _file(files: Filing, key: str, media: str, roles: Sequence[str], title: str) -> Document:
    size, sha256 = files.facts(key)
    return {
        "href": key,
        "type": media,
        "title": title,
        "roles": list(roles),
        "file:size": size,
        "file:checksum": multihash(sha256),
    }


def multihash(sha256: str) -> str:
    """A sha256 as a multihash: its code, its length, its digits (https://multiformats.io/multihash/)."""
    return f"1220{sha256}"


def _once(links: Iterator[Document]) -> Iterator[Document]:
    seen = set()
    for link in links:
        key = link["href"], link["title"]
        if key not in seen:
            seen.add(key)
            yield link


# --- the tree, at every change ------------------------------------------------------------------------


def root(index: Index) -> bytes:
    """``catalog.json`` with the list."""
    regions = sorted({one.region for one in index.entries})
    links = [{"rel": "root", "href": "./catalog.json", "type": _JSON}]
    links += [
        {
            "rel": "child",
            "href": f"./{STAC}/{index.generation}/{region}/collection.json",
            "type": _JSON,
            "title": region,
        }
        for region in regions
    ]
    return encoded(
        {
            "type": "Catalog",
            "stac_version": _STAC_VERSION,
            "id": "cryoscale-archive",
            "title": "Glacier maps and outlines",
            "description": "Maps and outlines of glaciers by region and year, made with cryoscale.",
            "links": links,
            KEY: index.model_dump(mode="json"),
        }
    )


def tree(archive: Archive, entries: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
    """Every collection and item below a generation's folder: its name there and its content."""
    for region in sorted({one.region for one in entries}):
        own = [one for one in entries if one.region == region]
        items: list[Document] = []
        for entry in own:
            for item in _items(archive, entry, own):
                items.append({key: item[key] for key in ("id", "bbox", "properties")})
                yield f"{region}/{item['id']}.json", encoded(item)
        yield f"{region}/collection.json", encoded(_collection(region, own, items))


def _items(archive: Archive, entry: Entry, own: Sequence[Entry]) -> Iterator[Document]:
    """The items of a version with all their links."""
    content = archive.objects.get(f"records/{entry.place}/{DOCUMENT}")
    if content is None:
        raise IntegrityError(
            f"{archive.root}/records/{entry.place}/{DOCUMENT} is gone: bring it back from a copy"
        )
    for told in json.loads(content):
        suffix = told["id"]
        identifier = f"{entry.name}-{suffix}" if suffix else entry.name
        properties = {
            **told["properties"],
            "version": str(entry.version),
            "deprecated": entry.state != CURRENT,
            "cryoscale:state": entry.state,
            "cryoscale:region": entry.region,
            "cryoscale:year": entry.year,
            "created": entry.added,
        }
        if told["properties"].get("cryoscale:tables"):
            del properties["cryoscale:tables"]
            properties["cryoscale:area_km2"] = entry.area_km2
            told["assets"]["files"] = {
                "href": f"records/{entry.place}/{FILES}",
                "type": _PARQUET,
                "title": "Every file of this version with its size and sha256",
                "roles": ["metadata"],
                "file:checksum": multihash(entry.files_sha256),
            }
        for asset in told["assets"].values():
            if "://" not in asset["href"]:
                asset["href"] = _UP + asset["href"]
        links = [
            {"rel": "root", "href": f"{_UP}catalog.json", "type": _JSON},
            {"rel": "parent", "href": "./collection.json", "type": _JSON},
            {"rel": "collection", "href": "./collection.json", "type": _JSON},
            *(_placed(link, entry) for link in told["links"]),
            *_between_versions(entry, own, suffix),
        ]
        yield {**told, "id": identifier, "collection": entry.region, "properties": properties, "links": links}


def _placed(link: Document, entry: Entry) -> Document:
    """A link of a version's own document as it stands in the tree."""
    if link["href"] == "model":
        return {**link, "href": f"./{entry.name}-model.json"}
    return link if "://" in link["href"] else {**link, "href": _UP + link["href"]}


def _between_versions(entry: Entry, own: Sequence[Entry], suffix: str) -> Iterator[Document]:
    """Links to the version before, the one after and the current one, as far as they have such an item."""
    end = f"-{suffix}" if suffix else ""
    same = [
        one for one in own if one.year == entry.year and (not suffix.isdigit() or int(suffix) in one.zones)
    ]
    ranks = [one.version for one in same]
    at = ranks.index(entry.version)
    found = {}
    if at > 0:
        found["predecessor-version"] = same[at - 1]
    if at + 1 < len(same):
        found["successor-version"] = same[at + 1]
    latest = next((one for one in same if one.state == CURRENT), None)
    if latest is not None and latest is not entry:
        found["latest-version"] = latest
    for relation, one in found.items():
        title = f"version {one.version}{', withdrawn' if one.state == WITHDRAWN else ''}"
        href = f"./{one.name}{end}.json"
        yield {"rel": relation, "href": href, "type": _ITEM, "title": title}


def _collection(region: str, own: Sequence[Entry], items: Sequence[Document]) -> Document:
    links = [
        {"rel": "root", "href": f"{_UP}catalog.json", "type": _JSON},
        {"rel": "parent", "href": f"{_UP}catalog.json", "type": _JSON},
    ]
    links += [{"rel": "item", "href": f"./{one['id']}.json", "type": _ITEM} for one in items]
    starts, ends = zip(*(one.season for one in own), strict=True)
    boxes = sorted({tuple(one["bbox"]) for one in items})
    return {
        "type": "Collection",
        "stac_version": _STAC_VERSION,
        "stac_extensions": [],
        "id": region,
        "title": region,
        "description": f"Maps and outlines of the glaciers of {region}, by year and version.",
        "license": "other",
        "keywords": ["glacier", "inventory"],
        "extent": {
            "spatial": {"bbox": [hull(boxes), *map(list, boxes)] if len(boxes) > 1 else [list(boxes[0])]},
            "temporal": {"interval": [[min(starts), max(ends)]]},
        },
        "summaries": {"cryoscale:year": sorted({one.year for one in own}), "gsd": [RESOLUTION_M]},
        "links": links,
    }


def hull(boxes: Sequence[Sequence[float]]) -> list[float]:
    """West, south, east, north of all boxes; over the antimeridian where one of them is."""
    west, south, east, north = zip(*boxes, strict=True)
    across = [box for box in boxes if box[0] > box[2]]
    if across:
        return [
            min(side for side in west if side > 0),
            min(south),
            max(side for side in east if side < 0),
            max(north),
        ]
    return [min(west), min(south), max(east), max(north)]
