"""The STAC API's backend for stac-fastapi: requests to searches of an index, results to pages."""

from __future__ import annotations

from datetime import datetime as Datetime
from typing import Annotated, Any
from urllib.parse import urlencode, urljoin

import attr
from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, Field
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import ItemCollectionUri, create_get_request_model, create_post_request_model
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import NotFoundError
from stac_fastapi.types.extension import ApiExtension
from stac_fastapi.types.rfc3339 import str_to_interval
from stac_fastapi.types.search import APIRequest

from cryoscale.simulate.search import Index, Search, known_operators, page, parse_object

TITLE = "cryoscale simulated range"
_QUERY_CLASS = "https://api.stacspec.org/v1.0.0/item-search#query"
_DEFAULT_LIMIT = 10


@attr.s
class _QueryGet(APIRequest):
    query: Annotated[str | None, Query(description="JSON of the query extension")] = attr.ib(default=None)
    token: Annotated[str | None, Query(description="Where the page begins")] = attr.ib(default=None)


class _QueryPost(BaseModel):
    query: dict[str, dict[str, Any]] | None = None
    token: str | None = Field(None, description="Where the page begins")


@attr.s
class QueryExtension(ApiExtension):
    """Search by property (the query extension) and paging by token."""

    GET = _QueryGet
    POST = _QueryPost
    conformance_classes: list[str] = attr.ib(factory=lambda: [_QUERY_CLASS])

    def register(self, app: FastAPI) -> None:
        """Nothing to add: the search routes carry the extension's parameters."""


@attr.s
class _ItemsUri(ItemCollectionUri):
    token: Annotated[str | None, Query(description="Where the page begins")] = attr.ib(default=None)


def _interval(text: str | None) -> tuple[Datetime | None, Datetime | None]:
    if not text:
        return None, None
    parsed = str_to_interval(text)
    return parsed if isinstance(parsed, tuple) else (parsed, parsed)


@attr.s
class MemoryClient(BaseCoreClient):
    """STAC core endpoints over an :class:`Index`."""

    index: Index = attr.ib(kw_only=True)

    def _with_links(self, record: dict[str, Any], request: Request) -> dict[str, Any]:
        base = str(request.base_url)
        collection = record["collection"] if record["type"] == "Feature" else record["id"]
        home = urljoin(base, f"collections/{collection}")
        links = [{"rel": "root", "type": "application/json", "href": base}]
        if record["type"] == "Feature":
            own = {"rel": "self", "type": "application/geo+json", "href": f"{home}/items/{record['id']}"}
            up = {"rel": "collection", "type": "application/json", "href": home}
            links += [own, up, {**up, "rel": "parent"}]
        else:
            own = {"rel": "self", "type": "application/json", "href": home}
            links += [own, {"rel": "items", "type": "application/geo+json", "href": f"{home}/items"}]
        return {**record, "links": links}

    def _answer(
        self, wanted: Search, limit: int | None, token: str | None, request: Request
    ) -> tuple[dict[str, Any], str | None]:
        if not known_operators(wanted.query):
            raise HTTPException(400, "query: unknown operator")
        found = self.index.search(wanted)
        records, after = page(found, limit or _DEFAULT_LIMIT, token)
        features = [self._with_links(record, request) for record in records]
        body = {
            "type": "FeatureCollection",
            "features": features,
            "links": [],
            "numberMatched": len(found),
            "numberReturned": len(features),
        }
        return body, after

    def _get_page(self, wanted: Search, limit: int | None, token: str | None, request: Request) -> Any:
        body, after = self._answer(wanted, limit, token, request)
        if after is not None:
            parameters = {**dict(request.query_params), "token": after}
            href = f"{str(request.url).split('?')[0]}?{urlencode(parameters)}"
            body["links"].append(
                {"rel": "next", "type": "application/geo+json", "method": "GET", "href": href}
            )
        return body

    def post_search(self, search_request: Any, **kwargs: Any) -> Any:
        """Search by a JSON body; the next page's link carries the body to send."""
        request: Request = kwargs["request"]
        geometry = search_request.intersects
        wanted = Search(
            collections=search_request.collections,
            ids=search_request.ids,
            bbox=tuple(search_request.bbox) if search_request.bbox else None,
            intersects=geometry.model_dump(mode="json") if geometry is not None else None,
            interval=_interval(search_request.datetime),
            query=search_request.query or {},
        )
        body, after = self._answer(wanted, search_request.limit, search_request.token, request)
        if after is not None:
            sent = search_request.model_dump(mode="json", exclude_none=True)
            link = {"rel": "next", "type": "application/geo+json", "method": "POST", "href": str(request.url)}
            body["links"].append({**link, "body": {**sent, "token": after}})
        return body

    def get_search(
        self,
        collections: list[str] | None = None,
        ids: list[str] | None = None,
        bbox: Any = None,
        intersects: Any = None,
        datetime: str | None = None,
        limit: int | None = _DEFAULT_LIMIT,
        **kwargs: Any,
    ) -> Any:
        """Search by query parameters."""
        try:
            query, geometry = parse_object(kwargs.get("query")), parse_object(intersects)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        wanted = Search(collections, ids, bbox, geometry or None, _interval(datetime), query)
        return self._get_page(wanted, limit, kwargs.get("token"), kwargs["request"])

    def item_collection(
        self,
        collection_id: str,
        bbox: Any = None,
        datetime: str | None = None,
        limit: int = _DEFAULT_LIMIT,
        token: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The items of one collection."""
        self._known(collection_id)
        wanted = Search(collections=[collection_id], bbox=bbox, interval=_interval(datetime))
        return self._get_page(wanted, limit, token, kwargs["request"])

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Any:
        """One item."""
        found = self.index.search(Search(collections=[collection_id], ids=[item_id]))
        if not found:
            raise NotFoundError(f"no item {item_id} in {collection_id}")
        return self._with_links(found[0], kwargs["request"])

    def all_collections(self, **kwargs: Any) -> Any:
        """All collections."""
        request: Request = kwargs["request"]
        collections = [self._with_links(each, request) for each in self.index.collections.values()]
        base = str(request.base_url)
        links = [{"rel": "self", "type": "application/json", "href": urljoin(base, "collections")}]
        links.append({"rel": "root", "type": "application/json", "href": base})
        return {"collections": collections, "links": links}

    def get_collection(self, collection_id: str, **kwargs: Any) -> Any:
        """One collection."""
        return self._with_links(self._known(collection_id), kwargs["request"])

    def _known(self, collection_id: str) -> dict[str, Any]:
        if collection_id not in self.index.collections:
            raise NotFoundError(f"no collection {collection_id}")
        return self.index.collections[collection_id]


def build(index: Index) -> FastAPI:
    """The FastAPI application over ``index``."""
    extensions: list[ApiExtension] = [QueryExtension()]
    settings = ApiSettings(
        stac_fastapi_title=TITLE,
        stac_fastapi_description="Simulated imagery, held in memory.",
        stac_fastapi_landing_id="cryoscale-simulated-range",
        stac_fastapi_version="1.0",
    )
    client = MemoryClient(
        index=index,
        extensions=extensions,
        title=TITLE,
        description=settings.stac_fastapi_description,
        landing_page_id=settings.stac_fastapi_landing_id,
    )
    return StacApi(
        settings=settings,
        client=client,
        extensions=extensions,
        search_get_request_model=create_get_request_model(extensions),
        search_post_request_model=create_post_request_model(extensions),
        items_get_request_model=_ItemsUri,
        middlewares=[],
    ).app
