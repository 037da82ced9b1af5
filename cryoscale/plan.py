"""What a run is made of, before it is started: the scenes that the catalogues have, and the blocks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoscale.dates import spelled
from cryoscale.errors import AssetReadError, NoScenesError, SourceError
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import RESOLUTION_M, Block, Window
from cryoscale.read import catalog, velocity
from cryoscale.read.assets import asset_of, unknown_baseline
from cryoscale.read.catalog import CatalogAnswer
from cryoscale.read.choice import REACH_PX, search_limit_pct
from cryoscale.read.raster import UnreadableError
from cryoscale.read.signing import public
from cryoscale.region import ZoneRegion, grown_bbox, zones_of
from cryoscale.settings import Settings

if TYPE_CHECKING:
    from pystac import Item

log = logging.getLogger("cryoscale")

Items = dict[str, "list[Item]"]
"""Items of a run by ``<year>/<modality>``, or ``all/terrain`` for what has no season."""


FOOTPRINT_SLACK_M = 12_000.0
"""How far a published footprint may be off the pixels that it stands for; scenes are looked for as
much further out, as :mod:`cryoscale.read.inputs` does, so that a small region finds what a large
one would."""


def halo_m(settings: Settings) -> float:
    """How far outside the region scenes are looked for, in metres."""
    return (settings.tile_px + HALO_PX + REACH_PX) * RESOLUTION_M + FOOTPRINT_SLACK_M


def find_items(settings: Settings, answers: list[CatalogAnswer] | None = None) -> Items:
    """Search every source of the settings; a modality with nothing to find has an empty list.

    Of a source with ``dates`` these days alone.

    Args:
        settings: of the run.
        answers: filled with what each catalogue said to each search; without it, fail-overs are logged.

    Raises:
        NoScenesError: a year has no optical scene.
        SourceError: a local catalogue or velocity file is absent, or no API has a collection.
        CatalogUnavailableError: no catalogue answers.
    """
    said: list[CatalogAnswer] = [] if answers is None else answers
    found = _search(settings, said)
    if answers is None:
        _warn(found, said)
    for year in settings.years:
        if not found.get(f"{year}/optical"):
            _raise_no_scenes(settings, year, grown_bbox(settings.region, halo_m(settings)), said)
    for line in without_scene(settings, found) if answers is None else ():
        log.warning(line)
    return found


def search_items(settings: Settings, answers: list[CatalogAnswer] | None = None) -> Items:
    """What the catalogues have for the settings, be it nothing.

    Raises:
        SourceError: a local catalogue or velocity file is absent.
        CatalogUnavailableError: no catalogue answers.
    """
    said: list[CatalogAnswer] = [] if answers is None else answers
    found = _search(settings, said)
    if answers is None:
        _warn(found, said)
    return found


def _search(settings: Settings, said: list[CatalogAnswer]) -> Items:
    """What the catalogues have; ``said`` is filled with what each answered."""
    found: Items = {}
    bbox = grown_bbox(settings.region, halo_m(settings))
    for modality, source in settings.sources.items():
        if source.href is not None:
            _check_href(source.href)
        if source.collection is None:
            continue
        for period, (interval, days) in _periods(settings, modality).items():
            found[f"{period}/{modality}"] = catalog.search(
                settings.catalogs,
                collection=source.collection,
                bbox=bbox,
                datetime=interval,
                days=days,
                max_cloud_pct=search_limit_pct(source.max_cloud_pct),
                on_answer=said.append,
            )
        _require_collection(source.collection, said)
    return found


def _warn(found: Items, said: Sequence[CatalogAnswer]) -> None:
    record = catalog_record(said)
    for line in [*fail_overs(record), *reprocessed(record), *unmasked(found), *of_unknown_baseline(found)]:
        log.warning(line)


def _periods(settings: Settings, modality: str) -> dict[str, tuple[str | None, tuple[date, ...]]]:
    """What to search in time: a DEM has no season, and velocity comes as the mosaic of a year.

    Where dates are named the season is searched all the same: it is one search, and its answer says which
    dates there are in place of one that is not.
    """
    if modality == "terrain":
        return {"all": (None, ())}
    if modality == "velocity":
        return {str(year): (f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59Z", ()) for year in settings.years}
    return {
        str(year): (settings.season.interval(year), settings.dates_of(modality, year))
        for year in settings.years
    }


def _require_collection(collection: str, said: Sequence[CatalogAnswer]) -> None:
    """Refuse a collection that no catalogue has, where all are APIs: a folder may hold a modality less."""
    answers = [answer for answer in said if answer.collection == collection and answer.outcome != "failed"]
    unknown = [a for a in answers if a.reason.startswith(catalog.NO_COLLECTION) and "://" in a.url]
    if answers and len(unknown) == len(answers):
        raise SourceError(
            f"collection {collection}, which {', '.join(sorted({a.url for a in unknown}))} does not have",
            "a collection of the catalogues",
            "check its spelling under sources",
        )


def catalog_record(answers: Sequence[CatalogAnswer]) -> list[dict[str, Any]]:
    """What the catalogues said, for the run's record: a line a catalogue, collection and outcome."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for answer in answers:
        key = (answer.url, answer.collection, answer.outcome, answer.reason)
        names = ("url", "collection", "outcome", "reason")
        line = lines.setdefault(key, {**dict(zip(names, key, strict=True)), "items": 0})
        line["items"] += answer.items
        if answer.replaced:
            line.setdefault("replaced", {}).update(answer.replaced)
    return list(lines.values())


def reprocessed(record: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for people on scenes that are left out since the catalogue has a newer processing of them."""
    return [
        f"{len(line['replaced'])} scenes of {line['collection']} are left out, as a newer processing of the "
        f"same acquisition is taken: {_first([f'{old} (by {new})' for old, new in line['replaced'].items()])}"
        for line in record
        if line.get("replaced")
    ]


def fail_overs(record: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for people on the catalogues of :func:`catalog_record` that failed, and who stood in."""
    taken = {line["collection"]: line["url"] for line in record if line["outcome"] == "taken"}
    return [
        f"catalogue {line['url']} failed for {line['collection']} ({line['reason']}); "
        f"taken from {taken.get(line['collection'], 'none')}"
        for line in record
        if line["outcome"] == "failed"
    ]


def unmasked(items: Items) -> list[str]:
    """Lines for people on scenes that carry no mask, whose clouds are taken for ground."""
    lines = []
    for modality, band in (("optical", "SCL"), ("thermal", "QA_PIXEL")):
        found = {i.id: i for key, some in items.items() if key.endswith(f"/{modality}") for i in some}
        bare = sorted(name for name, item in found.items() if asset_of(item, band) is None)
        if bare:
            lines.append(
                f"{len(bare)} of {len(found)} {modality} scenes have no {band}, so that their clouds are not "
                f"masked: {_first(bare)}"
            )
    return lines


def of_unknown_baseline(items: Items) -> list[str]:
    """Lines for people on scenes whose baseline is not understood, and may be off by 0.1 in reflectance."""
    found = {i.id: i for key, some in items.items() if key.endswith("/optical") for i in some}
    given = {name: told for name, item in found.items() if (told := unknown_baseline(item)) is not None}
    if not given:
        return []
    return [
        f"{len(given)} of {len(found)} optical scenes give a processing baseline that is not understood "
        f"({_first(sorted(set(given.values())))}), so that their dates decide whether their numbers are "
        f"raised: {_first(sorted(given))}"
    ]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def without_scene(settings: Settings, items: Items) -> list[str]:
    """Lines for people on dates that a source names and that no scene is of."""
    lines = []
    for modality, source in settings.sources.items():
        found = [items.get(f"{year}/{modality}", []) for year in settings.years]
        lacking = set(source.dates) - {catalog.day_of(item) for some in found for item in some}
        if lacking:
            limit = search_limit_pct(source.max_cloud_pct)
            clear = "" if limit is None else f" under {limit:g} % cloud"
            told = f"no {modality} scene{clear} of {spelled(lacking)}"
            lines.append(f"{told}, which sources.{modality}.dates names")
    return lines


def _check_href(href: str) -> None:
    """Open what lies there, so that a wrong address is told before it sets every block aside."""
    if "://" not in href and not Path(href).exists():
        raise SourceError(f"velocity href {href} (absent)", "a Zarr of vx and vy", "check the path")
    try:
        velocity.layout(href)
    # nothing was begun: the caller waits, or names another one
    except (AssetReadError, UnreadableError) as error:
        raise SourceError(
            f"velocity href {error}", "a Zarr store that answers", "check the address, or start again later"
        ) from error


def _raise_no_scenes(
    settings: Settings, year: int, bbox: Sequence[float], said: Sequence[CatalogAnswer]
) -> None:
    optical = settings.sources["optical"]
    where = ", ".join(public(c.url) for c in settings.catalogs)
    days = settings.dates_of("optical", year)
    when = spelled(days) if days else settings.season.interval(year)
    same = [a for a in said if days and a.collection == optical.collection and when in a.reason]
    others = "; ".join(f"{answer.url}: {answer.reason}" for answer in same)
    raise NoScenesError(
        f"no item of {optical.collection} in {where} for {when} within "
        f"{'/'.join(f'{v:.3f}' for v in bbox)} under {search_limit_pct(optical.max_cloud_pct):g} % cloud"
        + (f" ({others})" if others else ""),
        "at least one optical scene a year",
        f"{'correct sources.optical.dates' if days else 'widen season or region'}, or name another catalogue",
    )


def zone_regions(settings: Settings) -> list[ZoneRegion]:
    """The zones of the region, each with its part."""
    return [ZoneRegion(epsg, settings.region) for epsg in zones_of(settings.region)]


def blocks_of(settings: Settings, zone: ZoneRegion) -> list[Block]:
    """The zone's blocks, less those that lie outside the candidates where those are given."""
    blocks = zone.blocks(settings.block_px)
    if settings.candidates is None:
        return blocks
    near = set(ZoneRegion(zone.epsg, settings.candidates).blocks(settings.block_px))
    return [block for block in blocks if block in near]


def block_aligned(window: Window, block_px: int) -> Window:
    """The smallest window of whole blocks that covers ``window``."""
    row, col = (v // block_px * block_px for v in (window.row, window.col))
    bottom = math.ceil((window.row + window.height) / block_px) * block_px
    right = math.ceil((window.col + window.width) / block_px) * block_px
    return Window(window.epsg, row, col, bottom - row, right - col)
