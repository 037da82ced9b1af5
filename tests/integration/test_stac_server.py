"""Searching and mapping through a real STAC API: stac-fastapi over PostgreSQL with pgstac, on loopback."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pystac import Item
from shapely.geometry import MultiPolygon, box, mapping, shape

from cryoscale.plan import find_items
from cryoscale.read import catalog, stacapi
from cryoscale.read.assets import BANDS, asset_of, encoding
from cryoscale.read.static import folder_items
from tests.conftest import SHARED
from tests.integration import pgstac
from tests.integration.conftest import TinyRange, map_here

Document = dict[str, Any]
EDGES = "edge-cases"


@dataclass(frozen=True)
class Served:
    """A running API and every item that was loaded into it."""

    url: str
    items: list[Document]

    @property
    def collections(self) -> list[str]:
        return sorted({item["collection"] for item in self.items})


@pytest.fixture(scope="session", autouse=True)
def server_here() -> None:
    """Asked when a test runs, not when it is collected: it takes a second."""
    lacking = pgstac.why_not()
    if lacking is not None:
        pytest.skip(f"no STAC API server here: {lacking}")


@pytest.fixture(scope="module")
def served(tiny_range: TinyRange) -> Iterator[Served]:
    simulated = [_plain(item) for item in folder_items(tiny_range.folder)]
    recorded, described = _recorded()
    items = [*simulated, *recorded, *_edge_cases()]
    names = {item["collection"] for item in items}
    collections = {name: _collection(name) for name in names}
    collections |= {one["id"]: one for one in described if one["id"] in names}
    with pgstac.serving(list(collections.values()), items) as url:
        yield Served(url, items)


def _plain(item: Item) -> Document:
    """An item with addresses that hold anywhere, and no links."""
    item.make_asset_hrefs_absolute()
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    return document | {"links": []}


def _recorded() -> tuple[list[Document], list[Document]]:
    """The items and the collections that providers answered; none where the samples are absent."""
    documents = [json.loads(path.read_text("utf-8")) for path in sorted(SHARED.glob("data/stac/*.json"))]
    items = [one | {"links": []} for one in documents if one["type"] == "Feature"]
    collections = [one | {"links": []} for one in documents if one["type"] == "Collection"]
    return items, collections


def _collection(name: str) -> Document:
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    kind = {"type": "Collection", "stac_version": "1.0.0", "id": name, "description": name}
    return {**kind, "license": "other", "extent": extent, "links": []}


def _edge_cases() -> list[Document]:
    """Clouds at and beside the limit, unknown clouds, intervals, and a footprint over the antimeridian."""
    made = []
    for number, cloud in enumerate((0.0, 59.99, 60.0, 60.01, None, 100.0)):
        west = 80.0 + number
        day = f"2018-10-{number + 1:02d}T05:00:00Z"
        made.append(_edge(f"cloud-{number}", box(west, 30, west + 0.5, 31), day, cloud))
    for name, first, last in (("old", "2018-09-01", "2018-09-30"), ("across", "2018-09-20", "2018-10-02")):
        one = _edge(name, box(80, 30, 81, 31), None, 5.0)
        one["properties"] |= {"start_datetime": f"{first}T00:00:00Z", "end_datetime": f"{last}T00:00:00Z"}
        made.append(one)
    halves = MultiPolygon([box(179, -17, 180, -16), box(-180, -17, -179, -16)])
    both = _edge("fiji", halves, "2018-10-05T22:00:00Z", 10.0)
    return [*made, both | {"bbox": [179.0, -17.0, -179.0, -16.0]}]


def _edge(name: str, place: Any, moment: str | None, cloud: float | None) -> Document:
    properties: Document = {"datetime": moment}
    if cloud is not None:
        properties["eo:cloud_cover"] = cloud
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": EDGES,
        "geometry": mapping(place),
        "bbox": list(place.bounds),
        "properties": properties,
        "assets": {"B04": {"href": "https://example.org/B04.tif"}},
        "links": [],
    }


# --- the oracle ---------------------------------------------------------------------------------------


def by_force(items: list[Document], wanted: Document) -> list[str]:
    """Ids of the items that match, from their JSON alone, by time and id."""
    return [one["id"] for one in sorted(items, key=_time_and_id) if _matches(one, wanted)]


def _matches(one: Document, wanted: Document) -> bool:
    cloud = one["properties"].get("eo:cloud_cover")
    if one["collection"] != wanted["collection"]:
        return False
    if cloud is not None and cloud > wanted.get("max_cloud_pct", 100.0):
        return False
    if "datetime" in wanted:
        first, last = (_moment(text) for text in wanted["datetime"].split("/"))
        begin, end = _span(one)
        if end < first or begin > last:
            return False
    if "bbox" in wanted:
        west, south, east, north = wanted["bbox"]
        parts = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        place = shape(one["geometry"])
        return any(place.intersects(box(left, south, right, north)) for left, right in parts)
    return True


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _span(one: Document) -> tuple[datetime, datetime]:
    properties = one["properties"]
    first = properties.get("start_datetime") or properties["datetime"]
    last = properties.get("end_datetime") or properties["datetime"]
    return _moment(first), _moment(last)


def _time_and_id(one: Document) -> tuple[datetime, str]:
    moment = one["properties"]["datetime"] or one["properties"]["start_datetime"]
    return _moment(moment), one["id"]


def found(served: Served, **wanted: Any) -> list[str]:
    return [item.id for item in catalog.search([{"url": served.url}], **wanted)]


# --- searching ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 100])
def test_every_collection_comes_whole_and_in_order_whatever_the_size_of_a_page(
    served: Served, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacapi, "PAGE_SIZE", page)
    for name in served.collections:
        want = by_force(served.items, {"collection": name})
        assert want
        assert found(served, collection=name) == want


def test_clouds_intervals_and_the_antimeridian_are_as_the_items_say(served: Served) -> None:
    october = "2018-10-01T00:00:00Z/2018-10-31T23:59:59Z"
    assert found(served, collection=EDGES, max_cloud_pct=60) == [
        "old", "across", "cloud-0", "cloud-1", "cloud-2", "cloud-4", "fiji",
    ]  # fmt: skip
    assert found(served, collection=EDGES, datetime=october, bbox=(80, 29, 81, 32)) == [
        "across", "cloud-0", "cloud-1",
    ]  # fmt: skip
    for over in ((179.5, -17.0, -179.5, -16.0), (-179.6, -16.9, -179.4, -16.1), (179.2, -20, 179.3, 0)):
        assert found(served, collection=EDGES, bbox=over) == ["fiji"]
    assert found(served, collection=EDGES, bbox=(-179, -90, 79, 90)) == ["fiji"]  # they share an edge
    assert found(served, collection=EDGES, bbox=(-178, -90, 79, 90)) == []


def test_random_filters_find_what_brute_force_finds(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacapi, "PAGE_SIZE", 2)
    rng = random.Random(11)
    counts = []
    for _ in range(60):
        target = rng.choice(served.items)
        wanted = _random_filter(rng, target)
        want = by_force(served.items, wanted)
        assert found(served, **wanted) == want, wanted
        counts.append(len(want))
    assert min(counts) == 0
    assert max(counts) > 3  # several pages


def _random_filter(rng: random.Random, target: Document) -> Document:
    """One that has a good chance to catch ``target`` and to miss its neighbours."""
    wanted: Document = {"collection": target["collection"]}
    west, south, east, north = shape(target["geometry"]).bounds
    if rng.random() < 0.8:
        size = max(rng.choice((0.3, 1.0, 3.0)) * (north - south), 0.01)
        x = rng.uniform(west - size, east + size)
        y = rng.uniform(south - size, north + size)
        sides = (max(x - size, -180.0), max(y - size, -90.0), min(x + size, 180.0), min(y + size, 90.0))
        wanted["bbox"] = tuple(round(side, 3) for side in sides)
    if rng.random() < 0.6:
        moment, _ = _span(target)
        year = moment.year
        wanted["datetime"] = rng.choice(
            (
                f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59Z",
                f"{moment:%Y-%m-%d}T00:00:00Z/{moment:%Y-%m-%d}T23:59:59Z",
                f"{year - 1}-01-01T00:00:00Z/{moment:%Y-%m-%d}T00:00:00Z",
            )
        )
    if rng.random() < 0.6:
        wanted["max_cloud_pct"] = rng.choice((0.0, 5.0, 30.0, 60.0, 95.0))
    return wanted


def test_items_come_back_as_they_were_loaded(served: Served) -> None:
    """The server keeps what an item shares with its collection apart, and puts it together again."""
    loaded = {(one["collection"], one["id"]): one for one in served.items}
    for name in served.collections:
        for item in catalog.search([{"url": served.url}], collection=name):
            original = Item.from_dict(loaded[name, item.id])
            assert set(item.assets) == set(original.assets)
            for band in BANDS:
                if asset_of(original, band) is not None:
                    assert encoding(item, band) == encoding(original, band)
            for key, asset in original.assets.items():
                if "://" in asset.href:  # a relative address means another place at a server
                    assert item.assets[key].href == asset.href


# --- mapping ------------------------------------------------------------------------------------------


def test_a_run_through_the_api_writes_the_pixels_of_a_run_from_the_folder(
    served: Served, tiny_range: TinyRange, tmp_path: Path
) -> None:
    model = {"name": "band-ratio"}
    checksums, scenes = [], []
    for catalogs in ([{"url": str(tiny_range.folder)}], [{"url": served.url}]):
        settings = tiny_range.settings(model=model, catalogs=catalogs)
        scenes.append({key: [item.id for item in items] for key, items in find_items(settings).items()})
        markers = map_here(settings, tmp_path / str(len(checksums)))
        checksums.append({(m.year, m.epsg, m.row, m.col): m.checksum for m in markers})
    assert scenes[0] == scenes[1]
    assert checksums[0] == checksums[1]
    assert len(checksums[0]) > 1


def test_the_server_is_gone_when_its_tests_are_done() -> None:
    with pgstac.serving([_collection(EDGES)], _edge_cases()[:1]) as url:
        port = int(url.rsplit(":", 1)[1])
        assert len(catalog.search([{"url": url}], collection=EDGES)) == 1
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
