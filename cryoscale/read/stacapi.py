"""Searching one STAC API: pystac-client for the protocol, patient requests of our own below it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin

from pystac import Item, Link, STACError, STACTypeError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from cryoscale.errors import CatalogUnavailableError
from cryoscale.read import http

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE_SIZE = 100
"""Items asked for in one answer."""

SEARCH_DEADLINE_S = 1800.0
"""How long a search may take over all its pages."""

PAGES_WITHOUT_NEW = 10
"""How many pages in a row may bring nothing that was not there before."""

_REFUSALS = (400, 422, 501)
"""Answers of a server that does not take a filter although it says so."""

log = logging.getLogger(__name__)

_NOT_STAC = (STACError, STACTypeError, ClientTypeError, LookupError, TypeError, ValueError, AttributeError)


class PatientIO(StacApiIO):
    """Requests of a client, each repeated by itself: of a search only the page that failed is asked again."""

    def __init__(self, patience: http.Patience) -> None:
        super().__init__()
        self.patience = patience
        self.ends_s = time.monotonic() + SEARCH_DEADLINE_S

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer.

        Raises:
            HttpError: it could not be had.
        """
        told = {"Accept": "application/geo+json, application/json", **(headers or {})}
        asked = http.Request(href, headers=told)
        if (method or "GET").upper() == "POST":
            body = json.dumps(parameters or {}).encode()
            asked = http.Request(href, "POST", {**told, "Content-Type": "application/json"}, body)
        elif parameters:
            plain = {name: _flat(value) for name, value in parameters.items() if value is not None}
            asked = http.Request(f"{href}{'&' if '?' in href else '?'}{urlencode(plain)}", headers=told)
        return http.fetch(asked, self.patience, self.ends_s).data.decode("utf-8")

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The pages of an answer, as far as they lead.

        pystac-client stops at the first empty page, though what a server filters after it has paged may go
        on behind one, and follows for ever a server whose pages lead back.

        Raises:
            ValueError: the pages do not come to an end, so that nobody knows what is missing.
        """
        page, place = self.read_json(url, method=method, parameters=parameters), url
        ids: set[str] = set()
        followed: set[str] = set()
        stale = 0
        while True:
            features = page.get("features") or page.get("collections") or []
            if features:
                yield page
            found = {str(one.get("id")) for one in features if isinstance(one, Mapping)}
            stale = 0 if found - ids else stale + 1
            ids |= found
            step = next((link for link in page.get("links") or [] if link.get("rel") == "next"), None)
            if step is None:
                return
            known = json.dumps(step, sort_keys=True)
            if known in followed or stale >= PAGES_WITHOUT_NEW:
                if not features:
                    return  # numbered pages go on behind the last item
                raise ValueError(f"its pages do not end, after {len(ids)} items they repeat themselves")
            followed.add(known)
            place = urljoin(place, str(step.get("href") or ""))
            page = self.read_json(Link.from_dict({**step, "href": place}), parameters=parameters)


def _flat(value: Any) -> Any:
    """A parameter as an address carries it."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def api_items(
    url: str,
    options: Mapping[str, Any],
    areas: Sequence[Mapping[str, Any]],
    max_cloud_pct: float | None,
    patience: http.Patience,
) -> list[Item]:
    """Items of all pages for each of ``areas`` (a bbox or intersects; empty for everywhere).

    Raises:
        CatalogUnavailableError: the API does not answer, not in STAC, or refuses the search.
    """
    wanted = {**options, "limit": PAGE_SIZE}
    try:
        client = Client.open(url, stac_io=PatientIO(patience))
        methods = {link.extra_fields.get("method") or "GET" for link in client.get_links("search")}
        posts = not methods or "POST" in methods  # which servers need not take
        wanted["method"] = "POST" if posts else "GET"
        filters = posts and max_cloud_pct is not None and client.conforms_to("FILTER")
        limit = _cloud_filter(max_cloud_pct) if filters and max_cloud_pct is not None else {}
        try:
            return _found(client, areas, {**wanted, **limit})
        except http.HttpError as error:
            if not limit or error.status not in _REFUSALS:
                raise
            log.warning("catalogue %s does not take the filter by cloud: %s", url, one_line(error))
            return _found(client, areas, wanted)
    except (APIError, OSError, NotImplementedError) as error:
        raise CatalogUnavailableError(one_line(error)) from error
    except json.JSONDecodeError as error:
        raise CatalogUnavailableError("its answer is not STAC but something other than JSON") from error
    except _NOT_STAC as error:
        raise CatalogUnavailableError(f"its answer is not STAC: {one_line(error)}") from error


def _found(client: Client, areas: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> list[Item]:
    pages = (client.search(**wanted, **area).items_as_dicts() for area in areas or [{}])
    return [_item(feature) for page in pages for feature in page]


def _item(feature: Any) -> Item:
    try:
        return Item.from_dict(feature)
    except _NOT_STAC as error:
        name = feature.get("id") if isinstance(feature, Mapping) else feature
        raise ValueError(f"item {name}: {one_line(error)}") from error


def _cloud_filter(max_cloud_pct: float) -> dict[str, Any]:
    """The limit as CQL2 (OGC 21-065), items that do not say included.

    The older query extension cannot ask for those: where a server has nothing else, cloud is judged here.
    """
    cloud = {"property": "eo:cloud_cover"}
    either = [{"op": "<=", "args": [cloud, max_cloud_pct]}, {"op": "isNull", "args": [cloud]}]
    return {"filter": {"op": "or", "args": either}, "filter_lang": "cql2-json"}


def has_collection(url: str, collection: str, patience: http.Patience) -> bool:
    """Whether the API knows ``collection``; True where it does not say."""
    try:
        http.fetch(http.Request(f"{url.rstrip('/')}/collections/{collection}"), patience)
    except http.HttpError as error:
        return error.status != 404
    return True


def one_line(error: Exception) -> str:
    """An error's text, short enough to be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
