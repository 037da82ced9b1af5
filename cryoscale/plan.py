"""What a run will do, found out before it is started: scenes, blocks, pixels, tiles and bytes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely
from pyproj import Geod

from cryoscale.errors import AssetReadError, NoScenesError, SourceError
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import RESOLUTION_M, Block, Window
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.read import catalog
from cryoscale.read.assets import asset_of
from cryoscale.read.catalog import CatalogAnswer
from cryoscale.read.choice import REACH_PX, search_limit_pct
from cryoscale.read.raster import public
from cryoscale.read.velocity import open_velocity
from cryoscale.region import ZoneRegion, grown_bbox, zones_of
from cryoscale.settings import Settings

if TYPE_CHECKING:
    from pystac import Item

log = logging.getLogger("cryoscale")

_BYTES_A_PIXEL = {
    # Bytes of uncompressed samples that a 10 m pixel of one scene costs: 4 bands at 10 m, 6 and the
    # scene classification at 20 m, 2 at 60 m, two bytes each but for the one of SCL.
    "optical": 4 * 2 + 6 * 2 / 4 + 1 / 4 + 2 * 2 / 36,
    "terrain": 4 / 9,
    "thermal": 2 * 2 / 9,
    "velocity": 2 * 4 / 144,
    "insar": 2 * 8,
    "radar": 2 * 4,
}

Items = dict[str, "list[Item]"]
"""Items of a run by ``<year>/<modality>``, or ``all/terrain`` for what has no season."""


@dataclass(frozen=True)
class ZonePlan:
    """One year of one UTM zone."""

    year: int
    epsg: int
    blocks: int
    pixels: int
    tiles: int
    read_bytes: int
    """Uncompressed bytes of the samples that the blocks read, halo included: an upper bound."""


@dataclass(frozen=True)
class Plan:
    """The whole run, as ``cryoscale plan`` prints it."""

    name: str
    years: tuple[int, ...]
    region_km2: float
    scenes: Mapping[str, int]
    missing: tuple[str, ...]
    zones: tuple[ZonePlan, ...]
    passes: int = 1
    """How often the network sees each tile: flips and dropout cost a pass for every answer."""

    @property
    def blocks(self) -> int:
        """Blocks in all years and zones."""
        return sum(zone.blocks for zone in self.zones)

    @property
    def tiles(self) -> int:
        """Tiles that the model will see, at most."""
        return sum(zone.tiles for zone in self.zones)

    @property
    def read_bytes(self) -> int:
        """Uncompressed bytes read, at most."""
        return sum(zone.read_bytes for zone in self.zones)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "blocks": self.blocks, "tiles": self.tiles, "read_bytes": self.read_bytes}


FOOTPRINT_SLACK_M = 12_000.0
"""How far a published footprint may be off the pixels that it stands for; scenes are looked for as
much further out, as :mod:`cryoscale.read.inputs` does, so that a small region finds what a large
one would."""


def halo_m(settings: Settings) -> float:
    """How far outside the region scenes are looked for, in metres."""
    return (settings.tile_px + HALO_PX + REACH_PX) * RESOLUTION_M + FOOTPRINT_SLACK_M


def find_items(settings: Settings, answers: list[CatalogAnswer] | None = None) -> Items:
    """Search every source of the settings; a modality with nothing to find has an empty list.

    Args:
        settings: of the run.
        answers: filled with what each catalogue said to each search; without it, fail-overs are logged.

    Raises:
        NoScenesError: a year has no optical scene.
        SourceError: a local catalogue or velocity file is absent, or no API has a collection.
        CatalogUnavailableError: no catalogue answers.
    """
    found = search_items(settings, answers)
    for year in settings.years:
        if not found.get(f"{year}/optical"):
            _raise_no_scenes(settings, year, grown_bbox(settings.region, halo_m(settings)))
    return found


def search_items(settings: Settings, answers: list[CatalogAnswer] | None = None) -> Items:
    """What the catalogues have for the settings, be it nothing.

    Raises:
        SourceError: a local catalogue or velocity file is absent.
        CatalogUnavailableError: no catalogue answers.
    """
    found: Items = {}
    said: list[CatalogAnswer] = [] if answers is None else answers
    bbox = grown_bbox(settings.region, halo_m(settings))
    for modality, source in settings.sources.items():
        if source.href is not None:
            _check_href(source.href)
        if source.collection is None:
            continue
        for period, interval in _periods(settings, modality).items():
            found[f"{period}/{modality}"] = catalog.search(
                settings.catalogs,
                collection=source.collection,
                bbox=bbox,
                datetime=interval,
                max_cloud_pct=search_limit_pct(source.max_cloud_pct),
                on_answer=said.append,
            )
        _require_collection(source.collection, said)
    if answers is None:
        for line in [*fail_overs(catalog_record(said)), *unmasked(found)]:
            log.warning(line)
    return found


def _periods(settings: Settings, modality: str) -> dict[str, str | None]:
    """What to search in time: a DEM has no season, and velocity comes as the mosaic of a year."""
    if modality == "terrain":
        return {"all": None}
    if modality == "velocity":
        return {str(year): f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59Z" for year in settings.years}
    return {str(year): settings.season.interval(year) for year in settings.years}


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
    lines: dict[tuple[str, ...], int] = {}
    for answer in answers:
        key = (answer.url, answer.collection, answer.outcome, answer.reason)
        lines[key] = lines.get(key, 0) + answer.items
    names = ("url", "collection", "outcome", "reason")
    return [{**dict(zip(names, key, strict=True)), "items": count} for key, count in lines.items()]


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
            more = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
            lines.append(
                f"{len(bare)} of {len(found)} {modality} scenes have no {band}, so that their clouds are not "
                f"masked: {', '.join(bare[:3])}{more}"
            )
    return lines


def _check_href(href: str) -> None:
    """Open what lies there, so that a wrong address is told before it sets every block aside."""
    if "://" not in href and not Path(href).exists():
        raise SourceError(f"velocity href {href} (absent)", "a Zarr of vx and vy", "check the path")
    try:
        open_velocity(href).close()
    except AssetReadError as error:  # nothing was begun: the caller waits, or names another one
        raise SourceError(
            f"velocity href {error}", "a Zarr store that answers", "check the address, or start again later"
        ) from error


def _raise_no_scenes(settings: Settings, year: int, bbox: Sequence[float]) -> None:
    optical = settings.sources["optical"]
    where = ", ".join(public(c.url) for c in settings.catalogs)
    raise NoScenesError(
        f"no item of {optical.collection} in {where} for {settings.season.interval(year)} within "
        f"{'/'.join(f'{v:.3f}' for v in bbox)} under {search_limit_pct(optical.max_cloud_pct):g} % cloud",
        "at least one optical scene a year",
        "widen season or region, or name another catalogue",
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


def make_plan(settings: Settings, items: Items | None = None) -> Plan:
    """Search (unless ``items`` are given) and count; nothing is read but catalogues."""
    found = find_items(settings) if items is None else items
    zones = []
    for zone in zone_regions(settings):
        blocks = blocks_of(settings, zone)
        for year in settings.years:
            zones.append(_zone_plan(settings, zone, year, blocks, found))
    wanted = [m for m in ("optical", "thermal", "terrain", "velocity", "insar")]
    missing = tuple(m for m in wanted if not _present(settings, found, m))
    area = sum(
        abs(Geod(ellps="WGS84").geometry_area_perimeter(p)[0]) for p in shapely.get_parts(settings.region)
    )
    scenes = {key: len(value) for key, value in sorted(found.items())}
    return Plan(
        settings.name, settings.years, area / 1e6, scenes, missing, tuple(zones), settings.model.passes
    )


def _present(settings: Settings, found: Items, modality: str) -> bool:
    source = settings.sources.get(modality)
    return source is not None and (
        source.href is not None or any(items for key, items in found.items() if key.endswith(f"/{modality}"))
    )


def _zone_plan(
    settings: Settings, zone: ZoneRegion, year: int, blocks: Sequence[Block], found: Items
) -> ZonePlan:
    stride = stride_px(settings.tile_px, settings.model.overlap)
    tiles, read = 0, 0.0
    footprints = {
        key.split("/")[1]: [shapely.geometry.shape(item.geometry) for item in value if item.geometry]
        for key, value in found.items()
        if key.startswith((f"{year}/", "all/"))
    }
    for block in blocks:
        window = block.window
        rows = tile_origins(window.row, window.row + window.height, settings.tile_px, stride)
        cols = tile_origins(window.col, window.col + window.width, settings.tile_px, stride)
        tiles += len(rows) * len(cols)
        outer = read_window(block, settings.tile_px, settings.model.overlap).pad(HALO_PX)
        outline = shapely.union_all(
            [shapely.geometry.box(*half) for half in catalog.split_bbox(_lonlat_bounds(outer))]
        )
        for modality, shapes in footprints.items():
            scenes = sum(shape.intersects(outline) for shape in shapes)
            read += _BYTES_A_PIXEL.get(modality, 0.0) * outer.height * outer.width * scenes
    pixels = sum(block.size_px**2 for block in blocks)
    return ZonePlan(year, zone.epsg, len(blocks), pixels, tiles, int(read))


def _lonlat_bounds(window: Window) -> tuple[float, float, float, float]:
    from cryoscale.grid import transformer

    bounds = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform_bounds(*window.bounds_m)
    return tuple(bounds)
