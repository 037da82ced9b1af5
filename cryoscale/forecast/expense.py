"""Seconds, money and disk of a run, from what was counted and from rates.

Wall clock follows the driver (:mod:`cryoscale.drive`): two tasks a CPU worker, which take turns on one
processor and of which one may wait for scenes or for its actor meanwhile; actors predict a block at a time.
The run is as slow as the slowest of: processor seconds of the blocks over the workers, predicting over the
actors, all seconds of all tasks over the tasks, and, on this machine, all processor seconds over its cores.
Preparing and finishing (outlines, pictures, report) are not in it. Disk is that of maps and what comes from
their pixels; outlines are few and not known before. Money is that for workers and GPUs held
for so long, and for bytes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cryoscale.forecast.rates import Disk, Profile
from cryoscale.settings import Settings

_COG_SHARE = 0.56
"""COGs of labels, probabilities and confidence, as a share of the map with its levels: the demo's."""
_COG_S_PER_PX = 0.6 / 2048**2
"""Seconds of a processor, measured on full blocks."""
_LONG_H = 1.0


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
    cogs: float = 0.0
    free: int | None = None

    @property
    def total(self) -> float:
        """All of it."""
        return self.mosaic + self.levels + self.quicklook + self.ledger + self.cogs


@dataclass(frozen=True)
class Load:
    """What all blocks of a run have to do, all years together.

    Attributes:
        blocks, groups: blocks in all years, and years times zones.
        fetches, read_bytes: chunks and bytes of decoded pixels.
        hull_px: pixels of blocks with their halo.
        pixels: of the region that a scene shows.
        tiles: that hold data.
        model: its name, as :func:`cryoscale.forecast.rates.model_key` gives it.
    """

    blocks: int
    groups: int
    fetches: float
    read_bytes: float
    hull_px: float
    pixels: int
    tiles: int
    model: str


def work_of(settings: Settings, load: Load, profile: Profile) -> tuple[Work | None, list[str]]:
    """Seconds by stage, as far as rates are known, and what a person should know of them."""
    notes, reading, hull_mpx = list[str](), profile.read, load.hull_px / 1e6
    read = None
    if reading is not None:
        by_size = reading.s_per_mb * load.read_bytes / 1e6 + reading.s_per_mpx * hull_mpx
        read = reading.s_per_fetch * load.fetches + by_size
    block_mpx = load.blocks * settings.block_px**2 / 1e6
    features = _times(profile.features_s_per_mpx, hull_mpx)
    write = _times(profile.write_s_per_mpx, block_mpx)
    rate = profile.tiles.get(load.model)
    predict = None if rate is None else load.tiles / rate.of(settings.tile_px)
    if read is None and features is None and predict is None:
        return None, notes
    if rate is None:
        known = ", ".join(profile.tiles) or "none"
        notes.append(f"the profile knows no speed of {load.model}; it knows {known}")
    elif (rate.device == "gpu") != bool(settings.cluster.gpu_workers):
        wanted = "GPUs" if settings.cluster.gpu_workers else "no GPU"
        notes.append(f"tiles a second are those of a {rate.device}, and the configuration has {wanted}")
    if rate is not None and rate.tile_px not in (None, settings.tile_px):
        notes.append(f"tiles a second are reckoned, by pixels, from tiles of {rate.tile_px} px")
    on = None if rate is None else rate.device
    work = Work(read, features, predict, write, on, None)
    return replace(work, wall_s=_wall(settings, load.blocks, work, profile)), notes


def _times(rate: float | None, amount: float) -> float | None:
    return None if rate is None else rate * amount


def _wall(settings: Settings, blocks: int, work: Work, profile: Profile) -> float | None:
    if work.read_s is None or work.features_s is None or work.write_s is None or work.predict_s is None:
        return None
    cluster = settings.cluster
    actors = cluster.gpu_workers or min(profile.cpu_cores, cluster.cpu_workers)
    on_cpu = work.read_s + work.features_s + work.write_s
    waiting = work.read_s * ((profile.read.clock if profile.read else 1.0) - 1.0)
    task = on_cpu + waiting + work.predict_s
    bounds = [on_cpu / cluster.cpu_workers, work.predict_s / actors, task / (2 * cluster.cpu_workers)]
    if cluster.kind == "local":
        bounds.append((work.cpu_s or 0.0) / profile.cpu_cores)
    return max(*bounds, task / max(blocks, 1))


def money_of(
    settings: Settings, work: Work | None, profile: Profile, fetched_bytes: float
) -> dict[str, float]:
    """What workers, GPUs and bytes cost, those whose price is given, and their total."""
    prices, money = profile.prices, dict[str, float]()
    if work is not None and work.wall_s is not None:
        hours = work.wall_s / 3600.0
        if prices.cpu_hour is not None:
            money["cpu"] = prices.cpu_hour * hours * settings.cluster.cpu_workers
        if prices.gpu_hour is not None:
            money["gpu"] = prices.gpu_hour * hours * settings.cluster.gpu_workers
    if prices.gb is not None:
        money["bytes"] = prices.gb * fetched_bytes / 1e9
    return {**money, "total": sum(money.values())} if money else {}


def disk_of(settings: Settings, load: Load, profile: Profile, out: str | None) -> Need | None:
    """What the run writes, and whether there is room for it; None where no rate is known."""
    rates = profile.disk
    if rates is None:
        return None
    return need_of(rates, load.pixels, load.blocks, load.groups, "cog" in settings.files, _free(out))


def need_of(
    rates: Disk, pixels: float, blocks: int, groups: int, cogs: bool = True, free: int | None = None
) -> Need:
    """What maps of so many pixels with data take, in so many blocks, years and zones."""
    mosaic = rates.mosaic_per_px * pixels
    return Need(
        mosaic + rates.group * groups,
        mosaic * rates.levels_share,
        rates.quicklook_per_px * pixels,
        rates.marker * blocks,
        _COG_SHARE * mosaic * (1.0 + rates.levels_share) if cogs else 0.0,
        free,
    )


def cog_note(settings: Settings, load: Load) -> str | None:
    """What to know of the COGs of a map that is so large that they take hours."""
    hours = _COG_S_PER_PX * load.pixels / 3600.0
    if "cog" not in settings.files or hours < _LONG_H:
        return None
    without = ", ".join(kind for kind in settings.files if kind != "cog")
    return f"COGs of all maps take about {hours:.0f} h more: outlines.files: [{without}] leaves them out"


def _free(out: str | None) -> int | None:
    if out is None or "://" in out:
        return None
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
