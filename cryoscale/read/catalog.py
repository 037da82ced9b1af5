"""Finding items: STAC APIs, folders of static STAC JSON, and stac-geoparquet files, tried in order."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote, urlparse

from shapely import get_parts, union_all
from shapely.affinity import translate
from shapely.errors import ShapelyError
from shapely.geometry import box, mapping, shape

from cryoscale.errors import CatalogUnavailableError, RegionError, SourceError
from cryoscale.read.assets import address, default_sign
from cryoscale.read.band import FOOTPRINT_COLLAR_DEG, cloud_pct, in_order
from cryoscale.read.http import Patience
from cryoscale.read.reprocessed import newest
from cryoscale.read.signing import SIGN_FIELD, public
from cryoscale.read.snapshot import digest, freeze, read_items, thaw
from cryoscale.read.static import folder_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pystac import Item
    from shapely.geometry.base import BaseGeometry

    Geometry: TypeAlias = Mapping[str, Any] | BaseGeometry

Bbox = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east means over the antimeridian."""

RETRIES = 6
"""Further attempts after 429, 5xx, resets, broken answers and silence, with back-off and Retry-After."""

NO_COLLECTION = "no such collection"
"""How the reason begins where a catalogue does not have the collection at all."""

STALL_S = 60.0
"""How long an API may be silent."""

_DAYS_TOLD = 8
"""Days that there are in place of one that was asked for, as many as a line holds."""

__all__ = ["CatalogAnswer", "day_of", "digest", "freeze", "interval", "search", "split_bbox", "thaw"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogAnswer:
    """What one catalogue said to one search.

    Attributes:
        url: which catalogue, without the query of its address.
        collection: what was looked for.
        outcome: ``taken`` where the items came from here, ``empty``, or ``failed``.
        items: how many fitted.
        reason: why there were none.
        replaced: (item id, id of the newer one) of scenes that are left out, as a later processing is taken.
    """

    url: str
    collection: str
    outcome: Literal["taken", "empty", "failed"]
    items: int = 0
    reason: str = ""
    replaced: tuple[tuple[str, str], ...] = ()


def search(
    catalogs: Iterable[Any],
    *,
    collection: str,
    bbox: Sequence[float] | None = None,
    intersects: Geometry | None = None,
    datetime: str | None = None,
    days: Collection[date] = (),
    max_cloud_pct: float | None = None,
    on_answer: Callable[[CatalogAnswer], None] | None = None,
) -> list[Item]:
    """Items of ``collection`` from the first catalogue that has any, by time and id, each once.

    Of an acquisition that was processed several times the newest is taken
    (:func:`cryoscale.read.reprocessed.newest`).

    What a catalogue answers is filtered again here, so that all kinds of catalogue select alike.

    Args:
        catalogs: mappings or objects with ``url`` (an API over http(s), a folder, or a parquet file) and
            perhaps ``sign``, which the items remember for when they are read.
        collection: id of the collection.
        bbox: west, south, east, north in degrees; west > east spans the antimeridian.
        intersects: a geometry in degrees, GeoJSON or shapely, instead of ``bbox``.
        datetime: an instant or an interval ``start/end`` as STAC writes it; None for collections that
            no season applies to, such as elevation models.
        days: where given, items of other days (UTC) are left out. An item's day is that of its ``datetime``;
            one that gives an interval alone is of the day on which that ends, by which pairs are called.
        max_cloud_pct: items above are left out; items that do not say are kept.
        on_answer: told what each catalogue said that was asked, in their order.

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
    tell = on_answer or _log
    for catalog in catalogs:
        url, sign = _entry(catalog)
        named = public(url)  # what is told ends up in reports, where a key has no place
        try:
            if re.match(r"https?://", url):
                found = _api_items(url, collection, boxes, intersects, datetime, max_cloud_pct)
            else:
                found = _local_items(url)
        except (CatalogUnavailableError, OSError) as error:
            tell(CatalogAnswer(named, collection, "failed", reason=str(error)))
            failures.append(f"{named} ({error})")
            continue
        answered = True
        fitting = [
            item
            for item in found
            if item.collection_id == collection
            and _placed(item)
            and lies_over(item, area)
            and _within(item, span)
            and _clear_enough(item, max_cloud_pct)
        ]
        kept = [item for item in fitting if not days or day_of(item) in days]
        if kept:
            items, replaced = newest(_finished(kept, sign))
            told = tuple(sorted(replaced.items()))
            tell(CatalogAnswer(named, collection, "taken", len(items), replaced=told))
            return items
        why = _of_other_days(fitting, days) if fitting else _why_empty(url, collection, found)
        tell(CatalogAnswer(named, collection, "empty", reason=why))
    if failures and not answered:
        raise CatalogUnavailableError(
            f"given {'; '.join(failures)}; expected a catalogue that answers for {collection}; "
            "check the addresses, name another one, or wait and start again"
        )
    return []


def _log(answer: CatalogAnswer) -> None:
    if answer.outcome == "failed":
        log.warning("catalogue %s did not answer: %s", answer.url, answer.reason)


def _of_other_days(items: Sequence[Item], days: Collection[date]) -> str:
    """What there is in the place of the days that were asked for: whoever mistook one sees it."""
    there = sorted({str(day_of(item)) for item in items})
    more = f" and {len(there) - _DAYS_TOLD} more" if len(there) > _DAYS_TOLD else ""
    return f"no item of {', '.join(map(str, sorted(days)))}, but of {', '.join(there[:_DAYS_TOLD])}{more}"


def _why_empty(url: str, collection: str, found: Sequence[Item]) -> str:
    """Nothing in this place and season, or a collection that the catalogue does not have."""
    if any(item.collection_id == collection for item in found):
        return "no item in this region and season"
    if re.match(r"https?://", url):
        from cryoscale.read.stacapi import has_collection

        known = has_collection(url, collection, _patience())
        return "no item in this region and season" if known else NO_COLLECTION
    others = sorted({item.collection_id for item in found if item.collection_id})
    return f"{NO_COLLECTION}; it has {', '.join(others[:8]) or 'none'}"


def _patience() -> Patience:
    return Patience(attempts=RETRIES + 1, stall_s=STALL_S)


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
    path = Path(unquote(urlparse(url).path)) if url.startswith("file:") else Path(os.path.expanduser(url))
    if not os.path.exists(path):
        raise SourceError(f"catalogue {url}", "a folder of STAC JSON or a parquet file", "check the path")
    if path.suffix in (".parquet", ".geoparquet"):
        return read_items(path)
    if path.is_file() and path.suffix not in (".json", ".geojson"):
        raise SourceError(
            f"catalogue {url}, a {path.suffix or 'nameless'} file",
            "a folder of STAC JSON or a parquet file",
            "check the path",
        )
    return folder_items(path if path.is_dir() else path.parent)


def _api_items(
    url: str,
    collection: str,
    boxes: list[Bbox] | None,
    intersects: Geometry | None,
    when: str | None,
    max_cloud_pct: float | None,
) -> list[Item]:
    from cryoscale.read.stacapi import api_items  # imported late, with pystac-client behind it

    areas: list[dict[str, Any]] = [{"bbox": list(part)} for part in boxes or []]
    if intersects is not None:
        areas = [{"intersects": _geojson(intersects)}]
    options = {"collections": [collection], "datetime": when}
    return api_items(url, options, areas, max_cloud_pct, _patience())


def _geojson(area: Geometry) -> dict[str, Any]:
    return dict(area if isinstance(area, Mapping) else area.__geo_interface__)


def _area(boxes: list[Bbox] | None, intersects: Geometry | None) -> list[BaseGeometry]:
    """What items are tested against; empty for everywhere."""
    if intersects is not None:
        return [shape(_geojson(intersects))]
    return [box(*part) for part in boxes or []]


def _placed(item: Item) -> bool:
    """Whether an item says where it lies. One whose outline is absent or broken gets that of its bbox.

    And one whose bbox does not hold its outline gets one that does: it is found by its outline, and read
    where its bbox touches a block.
    """
    try:
        if item.geometry is not None and not (outline := shape(item.geometry)).is_empty:
            if item.bbox is not None:
                item.bbox = _bbox_around(item, outline)
            return True
    except (ShapelyError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("the geometry of item %s cannot be used (%s); its bbox is taken", item.id, error)
    try:
        halves = split_bbox(_flat(item.bbox or []))
    except (RegionError, ValueError, TypeError):
        log.warning("item %s says neither by geometry nor by bbox where it lies; it is left out", item.id)
        return False
    item.geometry = mapping(union_all([box(*half) for half in halves]))
    return True


def _bbox_around(item: Item, outline: BaseGeometry) -> list[float]:
    """An item's bbox, or a wider one where that does not hold its outline by more than the collar."""
    given = list(item.bbox or [])
    sides = _flat(given)
    if len(sides) != 4 or not all(isinstance(side, int | float) and math.isfinite(side) for side in sides):
        log.warning("the bbox of item %s is none (%s); that of its geometry is taken", item.id, given)
        return list(outline.bounds)
    west, _, east, _ = sides
    widest = max(right - left for left, _, right, _ in (part.bounds for part in get_parts(outline)))
    if west > east or widest > 180.0 > east - west:
        return given  # over the antimeridian, where its outline may run the wrong way round the globe
    held = box(*sides).buffer(FOOTPRINT_COLLAR_DEG, join_style="mitre")
    parts = [_turned_towards((west + east) / 2, *part.bounds) for part in get_parts(outline)]
    if all(held.covers(part) for part in parts):
        return given
    log.warning("the bbox of item %s does not hold its geometry; it is widened", item.id)
    return list(union_all([box(*sides), *parts]).bounds)


def _turned_towards(lon_deg: float, west: float, south: float, east: float, north: float) -> BaseGeometry:
    """A box on the turn of the globe on which it lies nearest to a longitude."""
    turn = 360.0 * round((lon_deg - (west + east) / 2) / 360.0)
    return box(west + turn, south, east + turn, north)


def _flat(bbox: Sequence[float]) -> Sequence[float]:
    """A bbox less its heights."""
    return [bbox[side] for side in (0, 1, 3, 4)] if len(bbox) == 6 else bbox


def lies_over(item: Item, area: Sequence[BaseGeometry]) -> bool:
    """Whether an item meets any part of an area in degrees; an empty area is everywhere."""
    if not area:
        return True
    if item.bbox and item.bbox[0] > item.bbox[-3 if len(item.bbox) == 6 else 2]:
        # its polygon runs the wrong way round the globe; the two halves of its box do not
        places = [box(*half) for half in split_bbox(_flat(item.bbox))]
    else:
        places = [shape(item.geometry)]
    # some providers let longitudes go on beyond 180, in the place of a cut at the antimeridian
    turns = (-360.0, 0.0, 360.0) if any(max(map(abs, p.bounds[::2])) > 180 for p in places) else (0.0,)
    return any(part.intersects(translate(p, turn)) for part in area for p in places for turn in turns)


def _within(item: Item, span: tuple[datetime, datetime] | None) -> bool:
    if span is None:
        return True
    first = item.common_metadata.start_datetime or item.datetime
    last = item.common_metadata.end_datetime or item.datetime
    if first is None or last is None:
        return False
    return _utc(first) <= span[1] and _utc(last) >= span[0]


def day_of(item: Item) -> date | None:
    """The day (UTC) of an item, as :func:`search` tells it; None where it gives no time."""
    moment = item.datetime or item.common_metadata.end_datetime
    return None if moment is None else _utc(moment).astimezone(UTC).date()


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clear_enough(item: Item, max_cloud_pct: float | None) -> bool:
    return max_cloud_pct is None or not cloud_pct(item) > max_cloud_pct


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
