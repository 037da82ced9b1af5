"""What a run will take, before it is started: blocks, scenes, fetches, bytes, seconds, money and disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cryoscale.candidates import Selection, candidate_blocks, described
from cryoscale.errors import InputError
from cryoscale.features.stack import HALO_PX, MODALITIES
from cryoscale.forecast.costs import Fetched, Sources, count
from cryoscale.forecast.cover import area_km2, footprints, shares, tiles_with_data
from cryoscale.forecast.expense import Load, Need, Work, cog_note, disk_of, money_of, work_of
from cryoscale.forecast.layers import Headers, look_at_headers
from cryoscale.forecast.measure import measure
from cryoscale.forecast.rates import Profile, empty_profile, model_key, with_prices
from cryoscale.forecast.windows import Ints, Windows
from cryoscale.grid import Block
from cryoscale.models.loading import load_predictor
from cryoscale.plan import Items, find_items, zone_regions
from cryoscale.read.assets import address
from cryoscale.read.metered import NOTHING, Cost
from cryoscale.read.remote import HEADER_BYTES
from cryoscale.region import ZoneRegion
from cryoscale.settings import Settings
from cryoscale.trial import in_question
from cryoscale.write.objects import require_library


@dataclass(frozen=True)
class ZonePlan:
    """One year of one UTM zone."""

    year: int
    epsg: int
    blocks: int
    dropped: Mapping[str, int]
    """Blocks of the region that are not mapped, by reason."""
    pixels: int
    """Of the region, in these blocks, that a scene shows."""
    tiles: int
    tiles_with_data: int
    scenes_read: float
    """Scenes of all modalities, a block at a time."""
    fetches: float
    fetched_bytes: float
    read_bytes: float
    """Decoded pixels that are cut out."""


@dataclass(frozen=True)
class Plan:
    """The whole run, as ``cryoscale plan`` prints it."""

    name: str
    years: tuple[int, ...]
    region_km2: float
    scenes: Mapping[str, int]
    dates: Mapping[str, Sequence[str]]
    """Days that sources are taken from, where they are named."""
    missing: tuple[str, ...]
    zones: tuple[ZonePlan, ...]
    sources: Mapping[str, Mapping[str, float]]
    """Fetches and bytes by period and modality."""
    distinct_bytes: float
    """Of all chunks, each counted once a year: what a machine is sent that keeps what its blocks share."""
    passes: int
    header_bytes: float
    """Of headers of files over HTTP, asked for once a CPU worker."""
    looked_at: Cost
    """Of overviews in which candidates are looked for, once, before any block is read; beside ``fetches``."""
    profile: Profile
    work: Work | None
    money: Mapping[str, float]
    """For all chunks of all blocks."""
    money_shared: Mapping[str, float]
    """The same where each chunk is paid for once a year, as with ``distinct_bytes``."""
    disk: Need | None
    notes: tuple[str, ...] = ()
    areas: tuple[Area, ...] = field(default=(), repr=False)
    """What the blocks of a zone take, one by one; not in :meth:`to_dict`."""

    @property
    def blocks(self) -> int:
        """Blocks in all years and zones."""
        return sum(zone.blocks for zone in self.zones)

    @property
    def tiles(self) -> int:
        """Tiles of the lattice over all blocks; those without data are not predicted."""
        return sum(zone.tiles for zone in self.zones)

    @property
    def tiles_with_data(self) -> int:
        """Tiles that the model will see."""
        return sum(zone.tiles_with_data for zone in self.zones)

    @property
    def fetches(self) -> float:
        """Source chunks."""
        return sum(zone.fetches for zone in self.zones)

    @property
    def fetched_bytes(self) -> float:
        """Bytes of these chunks as they are stored."""
        return sum(zone.fetched_bytes for zone in self.zones)

    @property
    def read_bytes(self) -> float:
        """Bytes of decoded pixels that are cut out."""
        return sum(zone.read_bytes for zone in self.zones)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        totals = ("blocks", "tiles", "tiles_with_data", "fetches", "fetched_bytes", "read_bytes")
        document = {name: value for name, value in vars(self).items() if name != "areas"}
        document["profile"] = self.profile.model_dump(mode="json")
        document |= {name: getattr(self, name) for name in totals}
        document["looked_at"] = asdict(self.looked_at)
        document["zones"] = [asdict(zone) for zone in self.zones]
        if self.work is not None:
            document["work"] = {**asdict(self.work), "cpu_s": self.work.cpu_s, "gpu_s": self.work.gpu_s}
        if self.disk is not None:
            document["disk"] = {**asdict(self.disk), "total": self.disk.total}
        return document


@dataclass(frozen=True, eq=False)
class Area:
    """The blocks of one zone, kept and dropped, and what each that is kept takes over all years."""

    zone: ZoneRegion
    selection: Selection
    fetched: Fetched
    tiles: Ints
    """(n,) tiles with data, over all years."""


@dataclass(frozen=True)
class Asked:
    """How a plan is made: with which rates, or measured now, and where the run shall lie."""

    profile: Profile | None = None
    measured: bool = True
    out: str | None = None
    prices: Mapping[str, float | None] = field(default_factory=dict)
    """In place of the profile's, by the names of :class:`cryoscale.forecast.rates.Prices`."""


def make_plan(settings: Settings, items: Items | None = None, asked: Asked = Asked()) -> Plan:
    """Search (unless ``items`` are given), look at headers, count, and measure where that is asked for.

    Raises:
        InputError: no block is left to map, or no sample can be read.
        CatalogUnavailableError: no catalogue answers.
        OutputError: a run cannot lie in such a store.
    """
    if asked.out is not None:
        require_library(asked.out)
    with_prices(empty_profile(""), asked.prices)  # a price that cannot be is told before all the work
    found = find_items(settings) if items is None else items
    predictor = load_predictor(**{**settings.model.keywords, "device": "cpu"})
    selections = [(zone, candidate_blocks(settings, found, zone)) for zone in zone_regions(settings)]
    _require_blocks(settings, selections)
    every = [block for _, selection in selections for block in selection.blocks]
    headers = look_at_headers(settings, found, every[len(every) // 2].window)
    counter = _Counter(settings, found, Sources(settings, found, headers), predictor.needs_halo)
    for zone, selection in selections:
        counter.add(zone, selection)
    notes = _notes(selections, headers)
    profile = asked.profile
    if profile is None and asked.measured:
        to_try = in_question(settings, predictor.describe(), len(every))
        profile = measure(settings, found, _samples(counter.telling), predictor, to_try)
        notes += [_rests_on(rate.device_name, to_try) for rate in profile.tiles.values() if to_try]
    if profile is None:
        profile = empty_profile("none")
        notes.append("nothing was measured: no seconds, no money for them, no disk")
    profile = with_prices(profile, asked.prices)
    load = counter.load(model_key(predictor.describe(), settings.model.passes))
    work, more = work_of(settings, load, profile)
    disk = disk_of(settings, load, profile, asked.out)
    notes += [*more, *filter(None, [cog_note(settings, load)])]
    if disk is not None and disk.free is not None and disk.free < disk.total:
        needed = f"the run needs {disk.total / 1e9:.1f} GB"
        notes.append(f"{asked.out} has {disk.free / 1e9:.1f} GB free, {needed}")
    header_bytes = _header_bytes(settings, found)
    looked_at = _looked_at(selections)
    before = header_bytes + looked_at.fetched_bytes
    fetched_bytes = before + sum(zone.fetched_bytes for zone in counter.zones)
    return Plan(
        name=settings.name,
        years=settings.years,
        region_km2=area_km2(settings.region),
        scenes={key: len(value) for key, value in sorted(found.items())},
        dates={name: [str(day) for day in s.dates] for name, s in settings.sources.items() if s.dates},
        missing=tuple(m for m in MODALITIES if not _present(settings, found, m)),
        zones=tuple(counter.zones),
        sources=counter.by_source,
        distinct_bytes=counter.sources.distinct_bytes,
        passes=settings.model.passes,
        header_bytes=header_bytes,
        looked_at=looked_at,
        profile=profile,
        work=work,
        money=money_of(settings, work, profile, fetched_bytes),
        money_shared=money_of(settings, work, profile, before + counter.sources.distinct_bytes),
        disk=disk,
        notes=tuple(notes),
        areas=tuple(counter.areas),
    )


Selections = Sequence[tuple[ZoneRegion, Selection]]


def _require_blocks(settings: Settings, selections: Selections) -> None:
    if any(selection.blocks for _, selection in selections):
        return
    reasons = {told for _, selection in selections for told in selection.dropped.values()}
    told = ", ".join(sorted(described(reason, settings) for reason in reasons))
    raise InputError(
        f"candidates that leave no block of the region ({told or 'which has none'})",
        "a block to map",
        "widen candidates or region",
    )


@dataclass(eq=False)
class _Counter:
    """Counts zone after zone."""

    settings: Settings
    items: Items
    sources: Sources
    needs_halo: bool
    zones: list[ZonePlan] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)
    by_source: dict[str, dict[str, float]] = field(default_factory=dict)
    hull_px: float = 0.0
    telling: list[tuple[float, int, Block]] = field(default_factory=list)
    """(share that lies in the region and holds data, year, block) of every block."""

    def add(self, zone: ZoneRegion, selection: Selection) -> None:
        """Count the blocks of one zone in all years."""
        settings = self.settings
        own = Windows.of(zone.epsg, selection.blocks)
        area = Area(zone, selection, Fetched.none(len(own)), np.zeros(len(own), np.int64))
        self.areas.append(area)
        # a model without a view beyond the pixel is asked tile by tile, without overlap
        overlap = settings.model.overlap if self.needs_halo else 0.0
        hulls, down, across = own.hulls(settings.tile_px, overlap)
        outer = (hulls if self.needs_halo else own).pad(HALO_PX)
        dropped = Counter(selection.dropped.values())
        for year in settings.years if len(own) else ():
            fetched = Fetched.none(len(own))
            count(self.sources, outer, year, fetched)
            shown = footprints(self.items.get(f"{year}/optical", []), own)
            seen, inside = shares(own, zone, shown)
            tiles = tiles_with_data(own, settings.tile_px, overlap, shown, seen)
            self.telling += [
                (round(float(share), 1), year, block)
                for share, block in zip(inside, selection.blocks, strict=True)
            ]
            self.zones.append(
                ZonePlan(
                    year=year,
                    epsg=zone.epsg,
                    blocks=len(own),
                    dropped=dict(sorted(dropped.items())),
                    pixels=round(float((inside * own.height * own.width).sum())),
                    tiles=int((down * across).sum()),
                    tiles_with_data=int(tiles.sum()),
                    scenes_read=float(fetched.scenes.sum()),
                    fetches=float(fetched.fetches.sum()),
                    fetched_bytes=float(fetched.fetched_bytes.sum()),
                    read_bytes=float(fetched.bytes_read.sum()),
                )
            )
            self.hull_px += float((outer.height * outer.width).sum())
            area.tiles[:] += tiles
            area.fetched.add(fetched)
            for key, values in fetched.by_source.items():
                held = self.by_source.setdefault(key, dict.fromkeys(values, 0.0))
                for name, value in values.items():
                    held[name] += value

    def load(self, model: str) -> Load:
        """All of it together."""
        zones = self.zones
        return Load(
            blocks=sum(zone.blocks for zone in zones),
            groups=len(zones),
            fetches=sum(zone.fetches for zone in zones),
            read_bytes=sum(zone.read_bytes for zone in zones),
            hull_px=self.hull_px,
            pixels=sum(zone.pixels for zone in zones),
            tiles=sum(zone.tiles_with_data for zone in zones),
            model=model,
        )


def _samples(telling: Sequence[tuple[float, int, Block]]) -> list[tuple[int, Block]]:
    """(year, block) to measure on: a few, spread over those that hold most of the region and of data."""
    most = max(share for share, *_ in telling)
    full = [(year, block) for share, year, block in telling if share == most]
    many = min(len(full), 4)
    return [full[(2 * n + 1) * len(full) // (2 * many)] for n in range(many)]


def _notes(selections: Selections, headers: Headers) -> list[str]:
    notes = [f"not readable: {name} ({cause})" for name, cause in headers.lost]
    for zone, selection in selections:
        if selection.in_doubt:
            why = "stay only because elevation or snow was not to be seen"
            notes.append(f"EPSG:{zone.epsg}: {selection.in_doubt} blocks {why}")
        notes += [f"EPSG:{zone.epsg}: not looked at for candidates: {note}" for note in selection.notes]
    looked_at = _looked_at(selections)
    if looked_at.fetches:
        amount = f"{looked_at.fetches:,} chunks of {looked_at.fetched_bytes / 1e6:,.1f} MB"
        notes.append(f"looking for candidates takes {amount} more, before the first block")
    return notes


def _looked_at(selections: Selections) -> Cost:
    return sum((selection.cost for _, selection in selections), NOTHING)


def _rests_on(engine: str, to_try: Sequence[str]) -> str:
    others = ", ".join(to_try)
    return f"the network was measured on {engine}; the run tries {others} and takes what its weights bear"


def _present(settings: Settings, found: Items, modality: str) -> bool:
    source = settings.sources.get(modality)
    return source is not None and (
        source.href is not None or any(items for key, items in found.items() if key.endswith(f"/{modality}"))
    )


def _header_bytes(settings: Settings, items: Items) -> float:
    """Of headers over HTTP: every CPU worker asks for each file's once."""
    files = sum(
        address(asset).startswith(("http://", "https://"))
        for some in items.values()
        for item in some
        for asset in item.assets.values()
    )
    return float(files * HEADER_BYTES * settings.cluster.cpu_workers)
