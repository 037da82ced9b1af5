"""A search over the items of a static STAC catalogue, held in memory: what an API needs of a backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any

import pystac
import shapely

from cryoscale.errors import SourceError

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": eq,
    "neq": ne,
    "lt": lt,
    "lte": le,
    "gt": gt,
    "gte": ge,
    "startsWith": lambda value, start: str(value).startswith(start),
    "endsWith": lambda value, end: str(value).endswith(end),
    "contains": lambda value, part: part in str(value),
    "in": lambda value, options: value in options,
}
"""Comparisons of the STAC API query extension (https://github.com/stac-api-extensions/query)."""


@dataclass(frozen=True)
class Search:
    """What a client asked for; None where it did not care."""

    collections: list[str] | None = None
    ids: list[str] | None = None
    bbox: tuple[float, ...] | None = None
    intersects: dict[str, Any] | None = None
    interval: tuple[datetime | None, datetime | None] = (None, None)
    query: dict[str, dict[str, Any]] = field(default_factory=dict)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


class Index:
    """The items and collections under a static STAC catalogue, searchable.

    Items are ordered by time, newest first, then by identifier, so that pages are stable.

    Raises:
        SourceError: ``folder`` holds no readable ``catalog.json``.
    """

    def __init__(self, folder: Path) -> None:
        """Read the catalogue in ``folder`` into memory."""
        root = folder / "catalog.json"
        try:
            catalog = pystac.Catalog.from_file(str(root))
            catalog.make_all_asset_hrefs_absolute()
            items = list(catalog.get_items(recursive=True))
            for asset in (asset for item in items for asset in item.assets.values()):
                asset.href = Path(asset.href).as_uri() if "://" not in asset.href else asset.href
            collections = list(catalog.get_collections())
        except (OSError, ValueError, KeyError, pystac.STACError) as error:
            raise SourceError(
                f"{root}: {error}", "a static STAC catalogue", "publish a range there first"
            ) from error
        records = [item.to_dict(include_self_link=False) for item in items]
        records.sort(key=lambda record: record["id"])
        records.sort(key=lambda record: str(record["properties"]["datetime"]), reverse=True)
        self.items = [{**record, "links": []} for record in records]
        self.collections = {
            each.id: {**each.to_dict(include_self_link=False), "links": []} for each in collections
        }
        self._shapes = [shapely.geometry.shape(record["geometry"]) for record in self.items]
        self._tree = shapely.STRtree(self._shapes)

    def search(self, wanted: Search) -> list[dict[str, Any]]:
        """All items that satisfy ``wanted``, in the index's order."""
        return [self.items[k] for k in self._near(wanted) if self._matches(self.items[k], wanted)]

    def _near(self, wanted: Search) -> list[int]:
        if wanted.intersects is not None:
            place = shapely.geometry.shape(wanted.intersects)
        elif wanted.bbox is not None:
            place = _boxes(wanted.bbox)
        else:
            return list(range(len(self.items)))
        return sorted(int(k) for k in self._tree.query(place, predicate="intersects"))

    @staticmethod
    def _matches(item: dict[str, Any], wanted: Search) -> bool:
        properties = item["properties"]
        if wanted.collections and item["collection"] not in wanted.collections:
            return False
        if wanted.ids and item["id"] not in wanted.ids:
            return False
        start, end = wanted.interval
        first = _time(properties.get("start_datetime") or properties["datetime"])
        last = _time(properties.get("end_datetime") or properties["datetime"])
        if (start is not None and last < start) or (end is not None and first > end):
            return False
        return all(
            name in properties and _OPERATORS[operator](properties[name], value)
            for name, tests in wanted.query.items()
            for operator, value in tests.items()
        )


def _boxes(bbox: tuple[float, ...]) -> shapely.Geometry:
    """A bounding box as a shape; two where it crosses the antimeridian (west > east)."""
    half = len(bbox) // 2
    west, south, east, north = bbox[0], bbox[1], bbox[half], bbox[half + 1]
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union_all(
        [shapely.box(west, south, 180.0, north), shapely.box(-180.0, south, east, north)]
    )


def page(
    found: list[dict[str, Any]], limit: int, token: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of ``found`` and the token of the next, None on the last; tokens are offsets."""
    start = int(token) if token and token.isdigit() else 0
    stop = start + limit
    return deepcopy(found[start:stop]), (str(stop) if stop < len(found) else None)


def parse_object(text: str | None) -> dict[str, Any]:
    """The JSON object in a parameter of a GET request; empty where there is none.

    Raises:
        ValueError: the text is no JSON object.
    """
    parsed = json.loads(text) if text else {}
    if not isinstance(parsed, dict):
        raise ValueError("expected a JSON object")
    return parsed


def known_operators(query: dict[str, dict[str, Any]]) -> bool:
    """Whether every operator of ``query`` is one of the query extension's."""
    return all(isinstance(tests, dict) and set(tests) <= set(_OPERATORS) for tests in query.values())
