"""How fast a machine works and what it is paid: measured now, read off a finished run, or from a profile.

All rates are of processor time (of the clock where a GPU predicts), so that a busy machine measures the same.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import shapely
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cryoscale.errors import ConfigError, SourceError
from cryoscale.forecast.cover import footprints, shares, tiles_with_data
from cryoscale.forecast.windows import Windows
from cryoscale.ledger import Ledger, Marker
from cryoscale.read import snapshot
from cryoscale.region import ZoneRegion
from cryoscale.results import Run

if TYPE_CHECKING:
    from pystac import Item

FORMAT: Final = "cryoscale-profile/1"

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TileRate(_Strict):
    """How many tiles a second one actor predicts, all passes of flips and dropout included."""

    tiles_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    device: Literal["cpu", "gpu"]
    device_name: str = ""
    tile_px: Annotated[int, Field(gt=0)] | None = None
    """Edge of these tiles; None in profiles that do not say."""

    def of(self, tile_px: int) -> float:
        """How many tiles of that edge it would be, as work goes by pixels."""
        return self.tiles_per_s * ((self.tile_px or tile_px) / tile_px) ** 2


class Reading(_Strict):
    """Processor seconds of reading a block, added up, and seconds of the clock to one of the processor."""

    s_per_fetch: Rate = 0.0
    s_per_mb: Rate = 0.0
    """A million bytes of decoded pixels cut out and brought to the grid."""
    s_per_mpx: Rate = 0.0
    """A million pixels of block and halo; only of runs that did not count fetches."""
    clock: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0


class Disk(_Strict):
    """What is written, in bytes."""

    mosaic_per_px: Rate
    """A pixel of the region with data."""
    levels_share: Rate
    """Coarser levels, as a share of that."""
    quicklook_per_px: Rate
    marker: Rate
    group: Rate
    """What describes a year and zone: metadata and axes."""


class Prices(_Strict):
    """What is paid, in whatever currency; nothing is assumed where nothing is given."""

    cpu_hour: Rate | None = None
    gpu_hour: Rate | None = None
    gb: Rate | None = None
    """A billion bytes fetched."""


class Profile(_Strict):
    """How fast a machine works, and what it is paid."""

    format: Literal["cryoscale-profile/1"]
    name: str
    cpu_cores: Annotated[int, Field(ge=1)]
    read: Reading | None = None
    features_s_per_mpx: Rate | None = None
    """A million pixels of block and halo."""
    write_s_per_mpx: Rate | None = None
    """A million pixels of blocks."""
    tiles: dict[str, TileRate] = {}
    """By model, as :func:`model_key` names it."""
    disk: Disk | None = None
    prices: Prices = Prices()

    def to_json(self) -> str:
        """As :func:`load_profile` reads it."""
        return self.model_dump_json(indent=1) + "\n"


def empty_profile(name: str) -> Profile:
    """A profile of this machine that knows no rate."""
    return Profile(format=FORMAT, name=name, cpu_cores=cores())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_name() -> str:
    """For people: what a measured profile was measured on."""
    return f"{platform.machine()}, {cores()} cores"


def model_key(described: Mapping[str, Any], passes: int = 1) -> str:
    """What tells a model whose speed is known: its name, the beginning of its sha256, passes over a tile."""
    sha256 = described.get("sha256")
    name = str(described["name"]) + (f"-{str(sha256)[:12]}" if sha256 else "")
    return name + (f"-x{passes}" if passes > 1 else "")


def load_profile(given: str) -> Profile:
    """A profile from a JSON file, or from the folder of a finished run.

    Raises:
        SourceError: it is absent, no profile, or a run without a finished block.
        ConfigError: it is a profile of another form.
    """
    if Path(given).is_dir() or "://" in given:
        return profile_of_run(given)
    try:
        document = json.loads(Path(given).read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise SourceError(
            f"profile {given} ({reason})",
            "a profile that --save-profile wrote, or the folder of a finished run",
            "check the path",
        ) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ConfigError(
            f"profile {given} of format {found!r}", f"format {FORMAT!r}", "write it anew with --save-profile"
        )
    try:
        return Profile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(
            f"profile {given} with {where}: {first['input']!r}", message, "correct it"
        ) from error


def with_prices(profile: Profile, given: Mapping[str, float | None]) -> Profile:
    """The profile with the prices that are given in place of its own.

    Raises:
        ConfigError: a price is negative or no number.
    """
    told = {name: value for name, value in given.items() if value is not None}
    for name, value in told.items():
        if not 0.0 <= value < float("inf"):
            raise ConfigError(f"price {value:g} for {name}", "a number from 0 on", "correct it")
    return profile.model_copy(update={"prices": profile.prices.model_copy(update=told)})


# --- from a finished run --------------------------------------------------------------------------------


def profile_of_run(out: str) -> Profile:
    """The rates that the blocks of a run had; processor seconds where its markers tell them.

    Raises:
        SourceError: there is no run, or none of its blocks is done.
    """
    manifest = Run(out).manifest
    markers = [marker for marker in Ledger(out).done().values() if marker.valid_pixels]
    if not markers:
        raise SourceError(
            f"run {out} without a block that mapped anything", "a finished run", "finish it first"
        )
    context, model = manifest["context"], manifest["model"]
    hull_mpx, tiles = _sizes(markers, context, snapshot.thaw(f"{out}/items.parquet"))
    block_mpx = sum(marker.size_px**2 for marker in markers) / 1e6
    seconds = {
        name: sum(_seconds(m, name) for m in markers) for name in ("read", "features", "predict", "write")
    }
    clock = sum(marker.seconds.get("read", 0.0) for marker in markers)
    fetches = sum(getattr(marker, "fetches", 0) for marker in markers)
    reading = (
        {"s_per_fetch": seconds["read"] / fetches} if fetches else {"s_per_mpx": seconds["read"] / hull_mpx}
    )
    cluster = manifest["config"].get("cluster", {})
    gpu = bool(cluster.get("gpu_workers"))
    choices = manifest["config"].get("model", {})
    passes = (8 if choices.get("flips") else 1) * max(choices.get("mc_dropout") or 0, 1)
    # whose markers tell of sending numbers, and of making channels beside the network
    there = context.get("derive_on", "workers") == "device"
    speed = {}
    if seconds["predict"] > 0 and tiles and (gpu or not there):
        rate = TileRate(
            tiles_per_s=tiles / seconds["predict"],
            device="gpu" if gpu else "cpu",
            tile_px=context["tile_px"],
        )
        speed = {model_key(model, passes): rate}
    return Profile(
        format=FORMAT,
        name=f"run {manifest['name']}",
        cpu_cores=cores(),
        read=Reading(**reading, clock=max(clock / seconds["read"], 1.0) if seconds["read"] else 1.0),
        features_s_per_mpx=None if there else seconds["features"] / hull_mpx,
        write_s_per_mpx=seconds["write"] / block_mpx,
        tiles=speed,
        disk=_disk_of_run(out, markers),
    )


def _seconds(marker: Marker, stage: str) -> float:
    cpu: Mapping[str, float] = getattr(marker, "cpu_seconds", None) or marker.seconds
    return cpu.get(stage, 0.0)


def _sizes(
    markers: Sequence[Marker], context: Mapping[str, Any], items: Mapping[str, Sequence[Item]]
) -> tuple[float, float]:
    """Million pixels of blocks and halos, and tiles with data, of blocks of any year and zone.

    Tiles are counted as a plan counts them: over the others, which no model sees, no seconds went.
    """
    from cryoscale.features.stack import HALO_PX

    tile_px, overlap = context["tile_px"], context["overlap"] if context["needs_halo"] else 0.0
    region = shapely.from_geojson(context["region"])
    pixels, tiles = 0.0, 0.0
    for year, epsg in sorted({(marker.year, marker.epsg) for marker in markers}):
        own = Windows.of(epsg, [m.block for m in markers if (m.year, m.epsg) == (year, epsg)])
        hulls, _, _ = own.hulls(tile_px, overlap)
        outer = (hulls if context["needs_halo"] else own).pad(HALO_PX)
        pixels += float((outer.height * outer.width).sum())
        shown = footprints(items.get(f"{year}/optical", []), own)
        seen, _ = shares(own, ZoneRegion(epsg, region), shown)
        tiles += float(tiles_with_data(own, tile_px, overlap, shown, seen).sum())
    return pixels / 1e6, tiles


def _disk_of_run(out: str, markers: Sequence[Marker]) -> Disk:
    import fsspec

    fs, root = fsspec.core.url_to_fs(out)
    sizes = {
        name: fs.find(f"{root}/{name}", detail=True) for name in ("mosaic.zarr", "quicklook.zarr", "ledger")
    }
    written = sum(marker.written_bytes for marker in markers)
    pixels = sum(marker.valid_pixels for marker in markers)
    mosaic = sizes["mosaic.zarr"]
    levels = sum(
        i["size"]
        for n, i in mosaic.items()
        if "/c/" in n and any(p[:1] == "x" and p[1:].isdigit() for p in n.split("/"))
    )
    described = sum(i["size"] for n, i in mosaic.items() if n.endswith("zarr.json"))
    groups = len({(marker.year, marker.epsg) for marker in markers})
    return Disk(
        mosaic_per_px=written / pixels,
        levels_share=levels / written,
        quicklook_per_px=sum(i["size"] for n, i in sizes["quicklook.zarr"].items() if not n.endswith(".json"))
        / pixels,
        marker=sum(i["size"] for i in sizes["ledger"].values()) / len(markers),
        group=described / groups,
    )
