"""What a run will take, before it is started: blocks, scenes, fetches, bytes, seconds, money and disk.

Wall clock follows the driver (:mod:`cryoscale.drive`): two tasks a CPU worker, which take turns on one
processor and of which one may wait for scenes or for its actor meanwhile; actors predict a block at a time.
The run is as slow as the slowest of: processor seconds of the blocks over the workers, predicting over the
actors, all seconds of all tasks over the tasks, and, on this machine, all processor seconds over its cores.
Preparing and finishing (outlines, pictures, report) are not in it. Money is that for workers and GPUs held
for so long, and for bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import Geod

from cryoscale.candidates import Selection, candidate_blocks, described
from cryoscale.costs import Fetched, Headers, count, look_at_headers
from cryoscale.cover import footprints, shares, tiles_with_data
from cryoscale.errors import InputError
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import Block, transformer
from cryoscale.measure import measure
from cryoscale.models.loading import load_predictor
from cryoscale.models.protocol import PredictsTiles
from cryoscale.plan import Items, find_items, zone_regions
from cryoscale.rates import Profile, empty_profile, model_key, with_prices
from cryoscale.region import ZoneRegion, on_globe
from cryoscale.settings import Settings
from cryoscale.windows import Windows

_HEADER_BYTES = 64 * 1024


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
class Work:
    """Seconds of the whole run; None where no rate is known."""

    read_s: float | None
    features_s: float | None
    predict_s: float | None
    write_s: float | None
    predicts_on: str | None
    """cpu or gpu: what ``predict_s`` are seconds of."""
    wall_s: float | None

    @property
    def cpu_s(self) -> float | None:
        """Processor seconds of all stages that run on a CPU."""
        stages = [self.read_s, self.features_s, self.write_s]
        stages += [self.predict_s] if self.predicts_on != "gpu" else []
        known = [stage for stage in stages if stage is not None]
        return sum(known) if len(known) == len(stages) else None

    @property
    def gpu_s(self) -> float | None:
        """Seconds of GPUs at work, all of them together."""
        return self.predict_s if self.predicts_on == "gpu" else None


@dataclass(frozen=True)
class Need:
    """Bytes that the run writes, and what is free where it shall lie (None where that is not known)."""

    mosaic: float
    levels: float
    quicklook: float
    ledger: float
    free: int | None = None

    @property
    def total(self) -> float:
        """All of it."""
        return self.mosaic + self.levels + self.quicklook + self.ledger


@dataclass(frozen=True)
class Plan:
    """The whole run, as ``cryoscale plan`` prints it."""

    name: str
    years: tuple[int, ...]
    region_km2: float
    scenes: Mapping[str, int]
    missing: tuple[str, ...]
    zones: tuple[ZonePlan, ...]
    sources: Mapping[str, Mapping[str, float]]
    """Fetches and bytes by period and modality."""
    passes: int
    header_bytes: float
    """Of headers of files over HTTP, asked for once a CPU worker."""
    profile: Profile
    work: Work | None
    money: Mapping[str, float]
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
    tiles: Any
    """(n,) tiles with data, over all years."""


@dataclass(frozen=True)
class Asked:
    """How a plan is made: with which rates, or measured now, and where the run shall lie."""

    profile: Profile | None = None
    measured: bool = True
    out: str | None = None
    prices: Mapping[str, float | None] = field(default_factory=dict)
    """In place of the profile's, by the names of :class:`cryoscale.rates.Prices`."""


def make_plan(settings: Settings, items: Items | None = None, asked: Asked = Asked()) -> Plan:
    """Search (unless ``items`` are given), look at a few headers, count, and measure where that is asked for.

    Raises:
        InputError: no block is left to map, or no sample can be read.
        CatalogUnavailableError: no catalogue answers.
    """
    with_prices(empty_profile(""), asked.prices)  # a price that cannot be is told before anything is measured
    found = find_items(settings) if items is None else items
    predictor = load_predictor(**{**settings.model.keywords, "device": "cpu"})
    overlap = settings.model.overlap if predictor.needs_halo else 0.0
    selections = [(zone, candidate_blocks(settings, found, zone)) for zone in zone_regions(settings)]
    if not any(selection.blocks for _, selection in selections):
        reasons = {told for _, selection in selections for told in selection.dropped.values()}
        told = ", ".join(sorted(described(reason, settings) for reason in reasons))
        raise InputError(
            f"candidates that leave no block of the region ({told or 'no block at all'})",
            "a block to map",
            "widen candidates or region",
        )
    every = [block for _, selection in selections for block in selection.blocks]
    headers = look_at_headers(settings, found, every[len(every) // 2].window)
    zones: list[ZonePlan] = []
    areas: list[Area] = []
    telling: list[tuple[float, int, Block]] = []
    sources: dict[str, dict[str, float]] = {}
    hull_px = 0.0
    for zone, selection in selections:
        own = Windows.of(zone.epsg, selection.blocks)
        outer = (own.hulls(settings.tile_px, overlap)[0] if predictor.needs_halo else own).pad(HALO_PX)
        hull_px += float((outer.height * outer.width).sum()) * len(settings.years)
        _, down, across = own.hulls(settings.tile_px, overlap)
        total, tiles_of = Fetched.none(len(own)), np.zeros(len(own), np.int64)
        for year in settings.years if len(own) else ():
            fetched = Fetched.none(len(own))
            count(settings, found, headers, outer, year, fetched)
            shown = footprints(found.get(f"{year}/optical", []), own)
            seen, inside = shares(own, zone, shown)
            tiles = tiles_with_data(own, settings.tile_px, overlap, shown, seen)
            telling += [(round(float(s), 1), year, b) for s, b in zip(inside, selection.blocks, strict=True)]
            pixels = round(float((inside * own.height * own.width).sum()))
            zones.append(
                ZonePlan(
                    year,
                    zone.epsg,
                    len(own),
                    _counted(selection.dropped.values()),
                    pixels,
                    int((down * across).sum()),
                    int(tiles.sum()),
                    float(fetched.scenes.sum()),
                    float(fetched.fetches.sum()),
                    float(fetched.fetched_bytes.sum()),
                    float(fetched.bytes_read.sum()),
                )
            )
            tiles_of += tiles
            total.add(fetched)
            for key, values in fetched.by_source.items():
                held = sources.setdefault(key, dict.fromkeys(values, 0.0))
                for name, value in values.items():
                    held[name] += value
        areas.append(Area(zone, selection, total, tiles_of))
    profile = asked.profile
    notes = _notes(settings, selections, headers)
    if profile is None and asked.measured:
        profile = measure(settings, found, _samples(telling), predictor)
    if profile is None:
        profile = empty_profile("none")
        notes.append("nothing was measured: no seconds, money for them, or disk")
    profile = with_prices(profile, asked.prices)
    work, more = _work(settings, zones, hull_px, profile, predictor)
    notes += more
    disk = _disk(settings, zones, profile, asked.out)
    if disk is not None and disk.free is not None and disk.free < disk.total:
        notes.append(
            f"{asked.out} has {disk.free / 1e9:.1f} GB free, the run needs {disk.total / 1e9:.1f} GB"
        )
    header_bytes = _header_bytes(settings, found)
    fetched_bytes = sum(zone.fetched_bytes for zone in zones) + header_bytes
    return Plan(
        settings.name,
        settings.years,
        _region_km2(settings),
        {key: len(value) for key, value in sorted(found.items())},
        tuple(m for m in _WANTED if not _present(settings, found, m)),
        tuple(zones),
        sources,
        settings.model.passes,
        header_bytes,
        profile,
        work,
        _money(settings, work, profile, fetched_bytes),
        disk,
        tuple(notes),
        tuple(areas),
    )


_WANTED = ("optical", "thermal", "terrain", "velocity", "insar")


def _counted(reasons: Any) -> dict[str, int]:
    told = list(reasons)
    return {reason: told.count(reason) for reason in sorted(set(told))}


def _samples(telling: Sequence[tuple[float, int, Block]]) -> list[tuple[int, Block]]:
    """(year, block) to measure on: from one end to the other of those that hold most of the region and of data."""
    most = max(share for share, *_ in telling)
    full = [(year, block) for share, year, block in telling if share == most]
    many = min(len(full), 4)
    return [full[(2 * n + 1) * len(full) // (2 * many)] for n in range(many)]


def _notes(
    settings: Settings, selections: Sequence[tuple[ZoneRegion, Selection]], headers: Headers
) -> list[str]:
    notes = [f"not readable: {name} ({cause})" for name, cause in headers.lost]
    for zone, selection in selections:
        if selection.in_doubt:
            notes.append(
                f"EPSG:{zone.epsg}: {selection.in_doubt} blocks stay only because elevation or snow was not to be seen"
            )
        notes += [f"EPSG:{zone.epsg}: not looked at for candidates: {note}" for note in selection.notes]
    return notes


def _present(settings: Settings, found: Items, modality: str) -> bool:
    source = settings.sources.get(modality)
    return source is not None and (
        source.href is not None or any(items for key, items in found.items() if key.endswith(f"/{modality}"))
    )


def _region_km2(settings: Settings) -> float:
    geod = Geod(ellps="WGS84")
    return sum(abs(geod.geometry_area_perimeter(p)[0]) for p in shapely.get_parts(settings.region)) / 1e6


def _header_bytes(settings: Settings, items: Items) -> float:
    """Headers over HTTP: every CPU worker asks for each file's once."""
    files = sum(
        asset.href.startswith(("http://", "https://"))
        for some in items.values()
        for item in some
        for asset in item.assets.values()
    )
    return float(files * _HEADER_BYTES * settings.cluster.cpu_workers)


def _work(
    settings: Settings, zones: Sequence[ZonePlan], hull_px: float, profile: Profile, predictor: PredictsTiles
) -> tuple[Work | None, list[str]]:
    notes = []
    fetches, cut = sum(z.fetches for z in zones), sum(z.read_bytes for z in zones)
    hull_mpx = hull_px / 1e6
    block_mpx = sum(z.blocks for z in zones) * settings.block_px**2 / 1e6
    reading = profile.read
    read = None
    if reading is not None:
        read = reading.s_per_fetch * fetches + reading.s_per_mb * cut / 1e6 + reading.s_per_mpx * hull_mpx
    features = None if profile.features_s_per_mpx is None else profile.features_s_per_mpx * hull_mpx
    write = None if profile.write_s_per_mpx is None else profile.write_s_per_mpx * block_mpx
    key = model_key(predictor.describe(), settings.model.passes)
    rate = profile.tiles.get(key)
    predict = None if rate is None else sum(z.tiles_with_data for z in zones) / rate.tiles_per_s
    if rate is None and profile.read is not None:
        notes.append(f"the profile knows no speed of {key}; it knows {', '.join(profile.tiles) or 'none'}")
    if rate is not None and (rate.device == "gpu") != bool(settings.cluster.gpu_workers):
        notes.append(f"tiles a second are those of a {rate.device}, the configuration has another device")
    if read is None and features is None and predict is None:
        return None, notes
    on = None if rate is None else rate.device
    wall = None
    if None not in (read, features, write, predict):
        wall = _wall(
            settings, zones, (read or 0.0, features or 0.0, predict or 0.0, write or 0.0), profile, on
        )
    return Work(read, features, predict, write, on, wall), notes


def _wall(
    settings: Settings,
    zones: Sequence[ZonePlan],
    stages: tuple[float, float, float, float],
    profile: Profile,
    on: str | None,
) -> float:
    read, features, predict, write = stages
    cluster = settings.cluster
    blocks = max(sum(z.blocks for z in zones), 1)
    workers, here = cluster.cpu_workers, cluster.kind == "local"
    actors = cluster.gpu_workers or min(profile.cpu_cores, workers)
    clock = read * (profile.read.clock if profile.read else 1.0)
    task = clock + features + predict + write
    bounds = [(read + features + write) / workers, predict / actors, task / (2 * workers)]
    if here:
        bounds.append((read + features + write + (0.0 if on == "gpu" else predict)) / profile.cpu_cores)
    return max(max(bounds), task / blocks)


def _money(settings: Settings, work: Work | None, profile: Profile, fetched_bytes: float) -> dict[str, float]:
    prices, money = profile.prices, {}
    if work is not None and work.wall_s is not None:
        hours = work.wall_s / 3600.0
        if prices.cpu_hour is not None:
            money["cpu"] = prices.cpu_hour * hours * settings.cluster.cpu_workers
        if prices.gpu_hour is not None:
            money["gpu"] = prices.gpu_hour * hours * settings.cluster.gpu_workers
    if prices.gb is not None:
        money["bytes"] = prices.gb * fetched_bytes / 1e9
    return money | ({"total": sum(money.values())} if money else {})


def _disk(settings: Settings, zones: Sequence[ZonePlan], profile: Profile, out: str | None) -> Need | None:
    rates = profile.disk
    if rates is None:
        return None
    pixels, blocks = sum(z.pixels for z in zones), sum(z.blocks for z in zones)
    groups = sum(1 for z in zones if z.blocks)
    mosaic = rates.mosaic_per_px * pixels
    return Need(
        mosaic + rates.group * groups,
        mosaic * rates.levels_share,
        rates.quicklook_per_px * pixels,
        rates.marker * blocks,
        _free(out),
    )


def _free(out: str | None) -> int | None:
    if out is None or "://" in out:
        return None
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


# --- the blocks on a map --------------------------------------------------------------------------------


def write_geojson(plan: Plan, path: str | os.PathLike[str]) -> int:
    """The blocks as GeoJSON features in WGS 84, one a line, kept and dropped; returns how many.

    A block over the antimeridian comes in two parts (RFC 7946, 3.1.9).
    """
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    written = 0
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [\n')
            for area in plan.areas:
                for line in _features(area):
                    file.write((",\n" if written else "") + line)
                    written += 1
            file.write("\n]}\n")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return written


def _features(area: Area) -> Any:
    kept, dropped = area.selection.blocks, sorted(area.selection.dropped.items())
    every = [*kept, *(block for block, _ in dropped)]
    if not every:
        return
    rings = _rings(Windows.of(area.zone.epsg, every))
    fetched = area.fetched
    for n, (block, ring) in enumerate(zip(every, rings, strict=True)):
        properties: dict[str, Any] = {"key": block.key, "zone": block.epsg, "candidate": n < len(kept)}
        if n < len(kept):
            properties |= {
                "reason": None,
                "scenes": round(float(fetched.scenes[n])),
                "tiles": int(area.tiles[n]),
                "fetches": round(float(fetched.fetches[n])),
                "bytes": round(float(fetched.fetched_bytes[n])),
            }
        else:
            properties |= {"reason": dropped[n - len(kept)][1]}
        feature = {"type": "Feature", "geometry": _geometry(ring), "properties": properties}
        yield json.dumps(feature, separators=(",", ":"))


def _rings(windows: Windows) -> Any:
    """Longitudes and latitudes (n, 5, 2) of the corners, anticlockwise; beyond 180 rather than torn."""
    west, south, east, north = windows.bounds_m().T
    x = np.column_stack([west, east, east, west, west])
    y = np.column_stack([south, south, north, north, south])
    lon, lat = transformer(f"EPSG:{windows.epsg}", "EPSG:4326").transform(x, y)
    lon = lon[:, :1] + (lon - lon[:, :1] + 180.0) % 360.0 - 180.0
    return np.round(np.stack([lon, lat], axis=-1), 7)


def _geometry(ring: Any) -> dict[str, Any]:
    if abs(ring[:, 0]).max() <= 180.0:
        return {"type": "Polygon", "coordinates": [ring.tolist()]}
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(on_globe(shapely.Polygon(ring))))
    return geometry
