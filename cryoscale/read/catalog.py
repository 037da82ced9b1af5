"""Finding items: STAC APIs, folders of static STAC JSON, and stac-geoparquet files, tried in order."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlparse

from shapely.geometry import box, shape

from cryoscale.errors import CatalogUnavailableError, RegionError, SourceError
from cryoscale.read.assets import address, default_sign
from cryoscale.read.cube import in_order
from cryoscale.read.signing import SIGN_FIELD
from cryoscale.read.snapshot import digest, freeze, read_items, thaw
from cryoscale.read.static import folder_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pystac import Item
    from shapely.geometry.base import BaseGeometry

    Geometry: TypeAlias = Mapping[str, Any] | BaseGeometry

Bbox = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east means over the antimeridian."""

PAGE_SIZE = 100
"""Items asked for in one answer of an API."""

TIMEOUT_S = (10.0, 60.0)
"""To connect, and between two bytes of an answer."""

RETRIES = 5
"""Further attempts after 429 and 5xx, with back-off and Retry-After."""

__all__ = ["digest", "freeze", "interval", "search", "split_bbox", "thaw"]

log = logging.getLogger(__name__)


def search(
    catalogs: Iterable[Any],
    *,
    collection: str,
    bbox: Sequence[float] | None = None,
    intersects: Geometry | None = None,
    datetime: str | None = None,
    max_cloud_pct: float | None = None,
) -> list[Item]:
    """Items of ``collection`` from the first catalogue that has any, by time and id, each once.

    What a catalogue answers is filtered again here, so that all kinds of catalogue select alike.

    Args:
        catalogs: mappings or objects with ``url`` (an API over http(s), a folder, or a parquet file) and
            perhaps ``sign``, which the items remember for when they are read.
        collection: id of the collection.
        bbox: west, south, east, north in degrees; west > east spans the antimeridian.
        intersects: a geometry in degrees, GeoJSON or shapely, instead of ``bbox``.
        datetime: an instant or an interval ``start/end`` as STAC writes it; None for collections that
            no season applies to, such as elevation models.
        max_cloud_pct: items above are left out; items that do not say are kept.

    Returns:
        The items, none if every catalogue that answered has none.

    Raises:
        CatalogUnavailableError: if no catalogue answered; names each with its cause.
        SourceError: if a folder or file is absent, or holds something else.
        RegionError: for a reversed or empty bbox.
    """
    boxes = None if bbox is None else split_bbox(bbox)
    area = _area(boxes, intersects)
    span = None if datetime is None else interval(datetime)
    failures, answered = [], False
    for catalog in catalogs:
        url, sign = _entry(catalog)
        try:
            if re.match(r"https?://", url):
                found = _api_items(url, collection, boxes, intersects, datetime, max_cloud_pct)
            else:
                found = _local_items(url)
        except (CatalogUnavailableError, OSError) as error:
            log.warning("catalogue %s did not answer: %s", url, error)
            failures.append(f"{url} ({error})")
            continue
        answered = True
        kept = [
            item
            for item in found
            if item.collection_id == collection
            and _over(item, area)
            and _within(item, span)
            and _clear_enough(item, max_cloud_pct)
        ]
        if kept:
            return _finished(kept, sign)
    if failures and not answered:
        raise CatalogUnavailableError(f"no catalogue answered for {collection}: {'; '.join(failures)}")
    return []


def split_bbox(bbox: Sequence[float]) -> list[Bbox]:
    """One box, or the two on either side of the antimeridian.

    Raises:
        RegionError: if it is not west, south, east, north in degrees, or is empty.
    """
    given, expected = f"bbox {list(bbox)}", "west, south, east, north in degrees, south < north"
    if len(bbox) != 4:
        raise RegionError(given, expected, "give four numbers")
    west, south, east, north = (float(side) for side in bbox)
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90) or west == east:
        raise RegionError(given, expected, "put the smaller latitude first and stay on the globe")
    if west < east:
        return [(west, south, east, north)]
    halves = [(west, south, 180.0, north), (-180.0, south, east, north)]
    return [half for half in halves if half[0] < half[2]]


def interval(text: str) -> tuple[datetime, datetime]:
    """First and last instant (UTC) of a STAC datetime: a moment, day, month, year, or ``start/end``.

    Either end may be open (``..``).

    Raises:
        SourceError: if it is none of these.
    """
    ends = text.split("/")
    open_start, open_end = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    try:
        if len(ends) == 1:
            return _instant(ends[0])
        first, last = ends
        start = open_start if first in ("", "..") else _instant(first)[0]
        end = open_end if last in ("", "..") else _instant(last)[1]
    except ValueError as error:
        raise SourceError(
            f"datetime {text!r}", "for example 2018-10-01/2018-10-31", "check the dates"
        ) from error
    if end < start:
        raise SourceError(f"datetime {text!r}", "a start before its end", "exchange the two")
    return start, end


def _instant(text: str) -> tuple[datetime, datetime]:
    """First and last instant that ``2018``, ``2018-10``, ``2018-10-31`` or a full timestamp means."""
    if re.fullmatch(r"\d{4}", text):
        start = datetime(int(text), 1, 1, tzinfo=UTC)
        return start, datetime(int(text) + 1, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)
    if re.fullmatch(r"\d{4}-\d{2}", text):
        start = datetime.fromisoformat(f"{text}-01").replace(tzinfo=UTC)
        return start, (start + timedelta(days=32)).replace(day=1) - timedelta(microseconds=1)
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    is_day = re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) is not None
    return moment, moment + timedelta(days=1, microseconds=-1) if is_day else moment


def _entry(catalog: Any) -> tuple[str, str | None]:
    if isinstance(catalog, Mapping):
        url, sign = str(catalog["url"]), catalog.get("sign")
    else:
        url, sign = str(catalog.url), getattr(catalog, "sign", None)
    return url, sign or default_sign(url)


def _local_items(url: str) -> list[Item]:
    path = Path(unquote(urlparse(url).path)) if url.startswith("file:") else Path(url).expanduser()
    if not path.exists():
        raise SourceError(f"catalogue {url}", "a folder of STAC JSON or a parquet file", "check the path")
    if path.suffix in (".parquet", ".geoparquet"):
        return read_items(path)
    return folder_items(path if path.is_dir() else path.parent)


def _api_items(
    url: str,
    collection: str,
    boxes: list[Bbox] | None,
    intersects: Geometry | None,
    when: str | None,
    max_cloud_pct: float | None,
) -> list[Item]:
    from pystac import STACError, STACTypeError
    from pystac_client import Client  # imported late, with requests behind it
    from pystac_client.errors import ClientTypeError
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO
    from requests.exceptions import RequestException
    from urllib3 import Retry

    retry = Retry(
        total=RETRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None
    )
    options: dict[str, Any] = {"collections": [collection], "datetime": when, "limit": PAGE_SIZE}
    try:
        client = Client.open(url, stac_io=StacApiIO(max_retries=retry, timeout=TIMEOUT_S))
        if max_cloud_pct is not None and client.conforms_to("FILTER"):
            options |= _cloud_filter(max_cloud_pct)
        areas: list[dict[str, Any]] = [{"bbox": list(part)} for part in boxes or []]
        if intersects is not None:
            areas = [{"intersects": _geojson(intersects)}]
        try:
            return [item for area in areas or [{}] for item in client.search(**options, **area).items()]
        except APIError as error:
            if "filter" not in options or error.status_code not in (400, 422, 501):
                raise
            log.warning("catalogue %s does not take the filter by cloud: %s", url, _one_line(error))
            plain = {name: value for name, value in options.items() if not name.startswith("filter")}
            return [item for area in areas or [{}] for item in client.search(**plain, **area).items()]
    except (APIError, RequestException, OSError, NotImplementedError) as error:
        raise CatalogUnavailableError(_one_line(error)) from error
    except (STACError, STACTypeError, ClientTypeError, LookupError, TypeError, ValueError) as error:
        raise CatalogUnavailableError(f"its answer is not STAC: {_one_line(error)}") from error


def _cloud_filter(max_cloud_pct: float) -> dict[str, Any]:
    """The limit as CQL2 (OGC 21-065), items that do not say included.

    The older query extension cannot ask for those: where a server has nothing else, cloud is judged here.
    """
    cloud = {"property": "eo:cloud_cover"}
    either = [{"op": "<=", "args": [cloud, max_cloud_pct]}, {"op": "isNull", "args": [cloud]}]
    return {"filter": {"op": "or", "args": either}, "filter_lang": "cql2-json"}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _geojson(area: Geometry) -> dict[str, Any]:
    return dict(area if isinstance(area, Mapping) else area.__geo_interface__)


def _area(boxes: list[Bbox] | None, intersects: Geometry | None) -> list[BaseGeometry]:
    """What items are tested against; empty for everywhere."""
    if intersects is not None:
        return [shape(_geojson(intersects))]
    return [box(*part) for part in boxes or []]


def _over(item: Item, area: list[BaseGeometry]) -> bool:
    if not area:
        return True
    if item.bbox and item.bbox[0] > item.bbox[-3 if len(item.bbox) == 6 else 2]:
        # its polygon runs the wrong way round the globe; the two halves of its box do not
        flat = item.bbox if len(item.bbox) == 4 else [item.bbox[i] for i in (0, 1, 3, 4)]
        places = [box(*half) for half in split_bbox(flat)]
    elif item.geometry is not None:
        places = [shape(item.geometry)]
    else:
        return False
    return any(part.intersects(place) for part in area for place in places)


def _within(item: Item, span: tuple[datetime, datetime] | None) -> bool:
    if span is None:
        return True
    first = item.common_metadata.start_datetime or item.datetime
    last = item.common_metadata.end_datetime or item.datetime
    if first is None or last is None:
        return False
    return _utc(first) <= span[1] and _utc(last) >= span[0]


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clear_enough(item: Item, max_cloud_pct: float | None) -> bool:
    cloud = item.properties.get("eo:cloud_cover")
    return max_cloud_pct is None or cloud is None or float(cloud) <= max_cloud_pct


def _finished(items: list[Item], sign: str | None) -> list[Item]:
    unique: dict[tuple[str | None, str], Item] = {}
    for item in items:
        unique.setdefault((item.collection_id, item.id), item)
    for item in unique.values():
        for asset in item.assets.values():
            asset.href = address(asset)  # a frozen item no longer knows where it came from
        if sign is not None:
            item.extra_fields[SIGN_FIELD] = sign
    return in_order(unique.values())
