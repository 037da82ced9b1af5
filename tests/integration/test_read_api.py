"""Searching over HTTP: pystac-client against a small STAC API on loopback that can misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pystac import Asset, Item
from shapely.geometry import box, mapping, shape

from cryoscale.errors import CatalogUnavailableError
from cryoscale.read import assets, catalog
from cryoscale.read.signing import SIGN_FIELD

PAGE = 2
CORE = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
QUERY = "https://api.stacspec.org/v1.0.0/item-search#query"
FILTER = [
    "https://api.stacspec.org/v1.0.0/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
]


@dataclass
class Api:
    """What the server holds, how it behaves, and what it was asked."""

    items: list[dict[str, Any]]
    conforms: list[str] = field(default_factory=lambda: [*CORE, QUERY])
    failures: int = 0
    not_stac: bool = False
    refuses_filters: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def landing(self) -> dict[str, Any]:
        if self.not_stac:
            return {"hello": "world"}
        links = [
            {"rel": rel, "href": f"{self.url}{path}", "type": "application/json", "method": method}
            for rel, path, method in (("self", "", "GET"), ("root", "", "GET"), ("search", "/search", "POST"))
        ]
        kind = {"type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "test"}
        return {**kind, "conformsTo": self.conforms, "links": links}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """A page; cloud is only filtered by the filter extension, and place by bbox."""
        self.asked.append(request)
        found = [one for one in self.items if one["collection"] in request["collections"]]
        if "bbox" in request:
            found = [one for one in found if shape(one["geometry"]).intersects(box(*request["bbox"]))]
        if "filter" in request:
            most, unknown = request["filter"]["args"]
            assert (most["op"], unknown["op"]) == ("<=", "isNull")
            clouds = [one["properties"].get("eo:cloud_cover") for one in found]
            limit = most["args"][1]
            found = [one for one, cloud in zip(found, clouds, strict=True) if cloud is None or cloud <= limit]
        start = int(request.get("token", 0))
        page: dict[str, Any] = {
            "type": "FeatureCollection",
            "features": found[start : start + PAGE],
            "links": [],
        }
        if start + PAGE < len(found):
            body = {**request, "token": start + PAGE}
            page["links"] = [{"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body}]
        return page


class Handler(BaseHTTPRequestHandler):
    api: Api

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def send(self, document: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send(self.api.landing())

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.api.failures > 0:
            self.api.failures -= 1
            self.send({"code": "busy"}, 503)
            return
        if "filter" in request and self.api.refuses_filters:
            self.send({"code": "BadRequest", "description": "isNull is not supported"}, 400)
            return
        self.send(self.api.answer(request))


def item(name: str, west: float = 86.7, day: int = 3, cloud: float = 10.0, collection: str = "s2") -> Item:
    bounds = (west, 27.8, west + 0.3, 28.1)
    made = Item(
        name,
        mapping(box(*bounds)),
        list(bounds),
        datetime(2018, 10, day, tzinfo=UTC),
        {"eo:cloud_cover": cloud},
        collection=collection,
    )
    made.add_asset("B04", Asset("https://example.org/B04.tif"))
    return made


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    made = [
        item("e", day=9),
        item("a"),
        item("d", day=4),
        item("b"),
        item("c", day=3),
        item("cloudy", cloud=90.0),
    ]
    made += [item("west", -179.9, 20), item("east", 179.4, 20), item("other", collection="dem")]
    served = Api([one.to_dict(include_self_link=False) for one in made])
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": served}))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def search(api: Api, **options: Any) -> list[str]:
    return [one.id for one in catalog.search([{"url": api.url}], collection="s2", **options)]


def test_items_of_other_days_than_those_asked_for_are_left_out_of_one_search(api: Api) -> None:
    season = "2018-10-01T00:00:00Z/2018-10-31T23:59:59Z"
    days = [date(2018, 10, 4), date(2018, 10, 9), date(2018, 10, 10)]
    assert search(api, datetime=season, days=days) == ["d", "e"]
    assert {one["datetime"] for one in api.asked} == {season}


def test_all_pages_come_in_order_each_item_once(api: Api) -> None:
    api.items.append(api.items[0])
    assert search(api, bbox=(86.0, 27.0, 88.0, 29.0)) == ["a", "b", "c", "cloudy", "d", "e"]
    assert len(api.asked) == 4


@pytest.mark.parametrize("conforms", [[*CORE, *FILTER, QUERY], [*CORE, QUERY], CORE])
def test_cloud_is_asked_of_servers_that_can_and_filtered_here_in_any_case(
    api: Api, conforms: list[str]
) -> None:
    """The query extension is left alone: it would drop the scene that does not say how cloudy it is."""
    del api.items[0]["properties"]["eo:cloud_cover"]
    api.conforms = conforms
    assert search(api, bbox=(86.0, 27.0, 88.0, 29.0), max_cloud_pct=60) == ["a", "b", "c", "d", "e"]
    assert ("filter" in api.asked[0]) == (FILTER[0] in conforms)
    assert "query" not in api.asked[0]


def test_a_server_that_refuses_the_filter_it_declares_is_asked_without_it(api: Api) -> None:
    api.conforms, api.refuses_filters = [*CORE, *FILTER], True
    assert search(api, bbox=(86.0, 27.0, 88.0, 29.0), max_cloud_pct=60) == ["a", "b", "c", "d", "e"]
    assert all("filter" not in request for request in api.asked)


def test_a_server_that_ignores_the_interval_does_not_bring_scenes_of_other_seasons(api: Api) -> None:
    assert search(api, datetime="2018-10-04/2018-10-09") == ["d", "e"]


def test_a_region_over_the_antimeridian_is_asked_for_in_two_halves(api: Api) -> None:
    assert search(api, bbox=(179.0, 27.0, -179.0, 29.0)) == ["east", "west"]
    asked = [request["bbox"] for request in api.asked]
    assert asked == [[179.0, 27.0, 180.0, 29.0], [-180.0, 27.0, -179.0, 29.0]]


def test_a_geometry_may_be_given_instead_of_a_box(api: Api) -> None:
    assert search(api, intersects=box(179.5, 27.9, 179.6, 28.0)) == ["east"]
    assert "intersects" in api.asked[0]


def test_a_server_that_is_busy_for_a_while_is_asked_again(api: Api) -> None:
    api.failures = 2
    assert search(api, datetime="2018-10-09") == ["e"]


def test_one_that_stays_down_is_passed_over_for_the_next(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "RETRIES", 1)
    api.failures = 100
    with pytest.raises(CatalogUnavailableError, match="127"):
        search(api)
    down, api.failures = {"url": "http://127.0.0.1:9"}, 0
    found = catalog.search([down, {"url": api.url}], collection="s2", datetime="2018-10-09")
    assert [one.id for one in found] == ["e"]


def test_an_address_that_is_no_stac_api_is_named(api: Api) -> None:
    api.not_stac = True
    with pytest.raises(CatalogUnavailableError, match="STAC") as caught:
        search(api)
    assert "\n" not in str(caught.value)


def test_items_of_a_provider_that_signs_remember_it_although_the_configuration_does_not_say(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signs(**catalog_options: Any) -> set[Any]:
        entry = {"url": api.url, **catalog_options}
        return {one.extra_fields.get(SIGN_FIELD) for one in catalog.search([entry], collection="s2")}

    assert signs() == {None}
    monkeypatch.setattr(assets, "PROVIDERS", (assets.Provider("127.0.0.1", "planetary-computer", {}),))
    assert signs() == {"planetary-computer"}
    assert signs(sign=None) == {"planetary-computer"}
