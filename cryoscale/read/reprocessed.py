"""Acquisitions that a catalogue lists several times, as processed at several times: the newest is taken.

Archives keep old processings of a scene beside new ones. Both would be looks of the same moment: a median
would count it twice, and a pixel come from either.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shapely.errors import ShapelyError
from shapely.geometry import shape

from cryoscale.read.assets import baseline_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pystac import Item

_SAME_GROUND = 0.95
"""Share that two outlines of one acquisition have in common: they are drawn anew each time."""

_SAME_STRIP = 0.5
"""The least share of the smaller one where both are told to be of one data strip: parts of a tile, which
people cut, have less in common."""

_TILE = re.compile(r"_T?(\d{1,2}[C-X][A-Z]{2})_")
_STRIP = re.compile(r"_S(\d{8}T\d{6})_")
_STRIP_KEYS = ("s2:datastrip_id", "eopf:datastrip_id")


def newest(items: Sequence[Item]) -> tuple[list[Item], dict[str, str]]:
    """The items less those of which a newer processing is among them, and for each of these whose it is.

    Sentinel-2 only, and only where it is sure: same satellite, MGRS tile and data strip, or where no strip is
    told same second and outline. A tile that two strips share is two items that complete each other. The
    highest baseline is the newest, then the latest generation, then the last id.
    """
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        key = _seen_by(item)
        if key is not None:
            groups.setdefault(key, []).append(item)
    replaced: dict[str, str] = {}
    for group in groups.values():
        kept: list[Item] = []
        for item in sorted(group, key=_age, reverse=True):
            newer = next((one for one in kept if _same(one, item)), None)
            if newer is None:
                kept.append(item)
            else:
                replaced[item.id] = newer.id
    return [item for item in items if item.id not in replaced], replaced


def _seen_by(item: Item) -> tuple[str, ...] | None:
    """Satellite and tile; None where one of them is not told."""
    platform, tile = str(item.properties.get("platform", "")).lower(), _tile(item)
    if not platform.startswith("sentinel-2") or tile is None or item.datetime is None:
        return None
    return platform, tile


def _tile(item: Item) -> str | None:
    """The MGRS tile, 45RVL, wherever a provider puts it."""
    given = item.properties
    for key in ("s2:mgrs_tile", "grid:code"):
        if given.get(key):
            return str(given[key]).removeprefix("MGRS-").lstrip("0")
    match = _TILE.search(str(given.get("s2:product_uri"))) or _TILE.search(str(item.id))
    return match[1].lstrip("0") if match else None


def _age(item: Item) -> tuple[tuple[int, int], str, str]:
    generated = item.properties.get("s2:generation_time") or item.properties.get("created") or ""
    return baseline_of(item) or (0, 0), str(generated), item.id


def _same(one: Item, two: Item) -> bool:
    strips = [_strip(item) for item in (one, two)]
    told = None not in strips
    # a provider may give a later processing another time, but a strip begins when it began
    alike = strips[0] == strips[1] if told else _second(one) == _second(two)
    if not alike:
        return False
    try:
        first, second = shape(one.geometry), shape(two.geometry)
        common, areas = first.intersection(second).area, (first.area, second.area)
        least = _SAME_STRIP * min(areas) if told else _SAME_GROUND * max(areas)
        return bool(common >= least > 0.0)
    except (ShapelyError, ValueError, TypeError, AttributeError):
        return False  # of an outline that cannot be used nothing is sure


def _strip(item: Item) -> str | None:
    """When the data strip of an item began; None where that is not told."""
    found = (_STRIP.search(str(item.properties.get(key))) for key in _STRIP_KEYS)
    return next((match[1] for match in found if match), None)


def _second(item: Item) -> str:
    return item.datetime.replace(microsecond=0).isoformat() if item.datetime is not None else ""
