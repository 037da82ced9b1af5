"""What a block takes of a cluster: by the plan of a configuration, or by a season's dates and known rates.

Without a configuration nothing is searched, so the dates of a season are assumed (``dates``); what each costs
a block is what ``plan`` counts over 288 blocks of 2048 px with granules and files as Sentinel-2 has them
(the items of ``benchmarks.planning`` with 1 to 10 dates): :data:`CHUNKS_A_DATE` and so on. A block counts as
whole, with data in all of its tiles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from cryoscale.errors import ConfigError
from cryoscale.features.stack import HALO_PX
from cryoscale.forecast.capacity import TARGET_TILES_S, BlockCost
from cryoscale.forecast.expense import need_of
from cryoscale.forecast.plan import Plan
from cryoscale.forecast.rates import Profile
from cryoscale.forecast.windows import Windows
from cryoscale.grid import Block
from cryoscale.read.inputs import READ_THREADS
from cryoscale.settings import Settings

TILE_PX: Final = 256
BLOCK_PX: Final = 2048

CHUNKS_A_DATE: Final = 290
"""Of 512 px, 13 bands, halo and overlap of granules included; other modalities are a fiftieth of it."""

MB_A_DATE: Final = 87.0
"""Decoded pixels that are cut out of them."""

MB_FETCHED_A_DATE: Final = 155.0
"""All decoded pixels of these chunks: what is fetched is this at most, as files are compressed."""

MOST_DATES: Final = 366

LATENCY_MS: Final = 50.0
"""After which a store answers a request, where nothing is measured: assumed, as in benchmarks.scaling."""

MEASURED: Final = Path(__file__).with_name("measured.json")
"""By ``python -m benchmarks.block_rates``."""


def measured_profile() -> Profile:
    """The rates that come with the package: ``plan`` measured them on the simulated range of the demo."""
    return Profile.model_validate(json.loads(MEASURED.read_text("utf-8")))


def cost_by_dates(profile: Profile, dates: int, overlap: float, latency_ms: float | None = None) -> BlockCost:
    """A whole block in the middle of a zone, with so many dates of optical scenes in a season.

    Args:
        profile: measured rates.
        dates: on which a scene is looked at and read.
        overlap: of tiles, a fraction.
        latency_ms: after which a chunk begins to come, in place of the waiting that the profile measured.

    Raises:
        ConfigError: the profile lacks a rate, or there are no dates, or no such overlap.
    """
    if not 1 <= dates <= MOST_DATES:
        raise ConfigError(f"{dates} dates", f"1 to {MOST_DATES} in a season", "correct it")
    if not 0.0 <= overlap < 1.0:
        raise ConfigError(f"overlap {overlap:g}", "a fraction from 0 to below 1", "correct it")
    if latency_ms is not None and not 0.0 <= latency_ms < 60_000.0:
        raise ConfigError(f"latency {latency_ms:g} ms", "from 0 to a minute", "correct it")
    block = Windows.of(32632, [Block(32632, -250, 25, BLOCK_PX)])
    hull, down, across = block.hulls(TILE_PX, overlap)
    outer = hull.pad(HALO_PX)
    hull_mpx = float(outer.height[0] * outer.width[0]) / 1e6
    block_px = float(BLOCK_PX**2)
    read, features, write = profile.read, profile.features_s_per_mpx, profile.write_s_per_mpx
    if read is None or features is None or write is None:
        lacking = {"reading": read, "features": features, "writing": write}
        missing = ", ".join(name for name, rate in lacking.items() if rate is None)
        raise ConfigError(
            f"profile {profile.name}, which knows no rate of {missing}",
            "one that was measured",
            "measure it with cryoscale plan CONFIG --save-profile",
        )
    read_s = (
        dates * (CHUNKS_A_DATE * read.s_per_fetch + MB_A_DATE * read.s_per_mb) + hull_mpx * read.s_per_mpx
    )
    waiting_s = read_s * (read.clock - 1.0)
    if latency_ms is not None:
        waiting_s = dates * CHUNKS_A_DATE * latency_ms / 1000.0 / READ_THREADS
    return BlockCost(
        read_s=read_s,
        features_s=features * hull_mpx,
        write_s=write * block_px / 1e6,
        wait_s=waiting_s,
        tiles=float(down[0] * across[0]),
        whole_tiles=float(down[0] * across[0]),
        sent_px=float(hull.height[0] * hull.width[0]),
        fetched_bytes=dates * MB_FETCHED_A_DATE * 1e6,
        stored_bytes=None if profile.disk is None else need_of(profile.disk, block_px, 1, 0).total,
    )


def cost_of_plan(settings: Settings, plan: Plan, *, on_gpus: bool = True) -> BlockCost:
    """The mean block of a configuration's plan, as its blocks were counted.

    Args:
        settings, plan: of the run.
        on_gpus: whether GPUs predict; else CPU workers do, as fast as the plan knows.

    Raises:
        ConfigError: the plan knows no rates, or has nothing to predict.
    """
    work, blocks = plan.work, plan.blocks
    if work is None or work.read_s is None or work.features_s is None or work.write_s is None:
        raise ConfigError(
            "--cluster without rates", "measured ones", "leave --no-measure out, or give --profile"
        )
    if not plan.tiles_with_data:
        raise ConfigError(
            "--cluster with no tile that holds data", "scenes over the region", "look at the plan"
        )
    if not on_gpus and (work.predict_s is None or work.predicts_on != "cpu"):
        raise ConfigError(
            "--cluster of a configuration without GPUs, and no rate of its model on a CPU",
            "a measured one",
            "leave --no-measure out, give another --profile, or ask for --gpus",
        )
    clock = plan.profile.read.clock if plan.profile.read else 1.0
    overlap = settings.model.overlap
    sent = 0.0
    for area in plan.areas:
        hulls, _, _ = Windows.of(area.zone.epsg, area.selection.blocks).hulls(settings.tile_px, overlap)
        sent += float((hulls.height * hulls.width).sum()) * len(settings.years)
    return BlockCost(
        read_s=work.read_s / blocks,
        features_s=work.features_s / blocks,
        write_s=work.write_s / blocks,
        wait_s=work.read_s * (clock - 1.0) / blocks,
        tiles=plan.tiles_with_data * plan.passes / blocks,
        whole_tiles=plan.tiles / blocks,
        sent_px=sent / blocks,
        fetched_bytes=(plan.fetched_bytes + plan.header_bytes) / blocks,
        stored_bytes=None if plan.disk is None else plan.disk.total / blocks,
        network_s=0.0 if on_gpus or work.predict_s is None else work.predict_s / blocks,
    )


def gpu_rate(
    profile: Profile, given: float | None, passes: int = 1, tile_px: int = TILE_PX
) -> tuple[float, str]:
    """Passes of a GPU over a tile in a second, and where the figure is from, for people.

    A rate of tiles of another edge is taken as one of pixels.
    """
    if given is not None:
        return given, f"{given:,g} tiles/s of a GPU, as given"
    known = [rate for rate in profile.tiles.values() if rate.device == "gpu"]
    if len(known) == 1:
        rate = known[0].of(tile_px) * passes
        return rate, f"{rate:,.0f} tiles/s of a GPU, measured on {known[0].device_name or 'one'}"
    rate = TARGET_TILES_S * (TILE_PX / tile_px) ** 2
    told = (
        f"GPU rate not measured: the target of the design, {TARGET_TILES_S:,.0f} tiles/s on an H200, assumed"
    )
    return rate, told if tile_px == TILE_PX else f"{told}: {rate:,.0f} of {tile_px} px, by pixels"
