"""Small finished runs whose ice is known by formula, made without a network; ``verify`` passes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from numpy.typing import NDArray
from scipy import ndimage, special

from cryoscale.cataloguing import write_catalog
from cryoscale.config import load_config
from cryoscale.grid import Block, Window, blocks_over, transformer
from cryoscale.inventories import coverage_of, write_inventory
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.ledger import Ledger, Marker
from cryoscale.manifest import digest
from cryoscale.read import snapshot
from cryoscale.sealing import seal
from cryoscale.write import mosaic, quicklook
from cryoscale.write.succession import write_links

EPSG, BLOCK_PX = 32645, 256
API = "https://stac.example.org/v1"
"""Where its scenes were found."""

SIGMA_M = 8.0
"""Standard deviation of where a map draws an edge."""


@dataclass(frozen=True)
class Tongue:
    """A glacier that runs straight down from a head to a terminus in the south, rounded at both ends.

    Attributes:
        x_m: of its middle, east of the map's west side.
        head_m: how far its head lies south of the map's north side.
        length_m: from head to terminus, both the centres of half circles.
        width_m: of the tongue.
        debris_m: how much of its length, from the terminus up, lies under debris.
    """

    x_m: float
    head_m: float
    length_m: float
    width_m: float
    debris_m: float = 0.0

    def inside_m(self, east: NDArray[Any], south: NDArray[Any]) -> NDArray[Any]:
        """Distance from the edge, positive inside."""
        along = np.clip(south, self.head_m, self.head_m + self.length_m)
        return np.asarray(self.width_m / 2 - np.hypot(east - self.x_m, south - along))

    @property
    def area_km2(self) -> float:
        """On the grid."""
        return (self.length_m * self.width_m + np.pi * (self.width_m / 2) ** 2) / 1e6


@dataclass(frozen=True)
class Year:
    """What a run maps in a year.

    Attributes:
        tongues: the ice.
        day: of all images.
        unseen: west, south, east, north of what has no data, metres from the north-western corner.
        noise: seed of the errors of the edges; None for none.
    """

    tongues: Sequence[Tongue]
    day: date
    unseen: tuple[float, float, float, float] | None = None
    noise: int | None = None


def bare_manifest(name: str = "made") -> dict[str, Any]:
    """The least that a run's manifest says, where no run goes with it."""
    return {
        "name": name,
        "format": 2,
        "config": {},
        "versions": {"cryoscale": "0"},
        "model": {"name": "drawn"},
        "identity": {"years": [2018], "catalogue": "none"},
        "identity_sha256": "of the run",
        "context": {"blocks": 1},
    }


def make_run(
    out: Path,
    years: Mapping[int, Year],
    *,
    name: str = "made",
    size_px: int = 2 * BLOCK_PX,
    common: float = 0.4,
) -> Path:
    """A finished run of one zone in ``out``, its relief falling to the south by one in five.

    Args:
        common: share of the variance of the edges' errors that is the same all over the map and in all years.
    """
    settings = load_config(_config(name, sorted(years)))
    window = Window(EPSG, -310_016, 49_920, size_px, size_px)
    blocks = list(blocks_over(window, BLOCK_PX))
    ledger = Ledger(str(out))
    day = min(one.day for one in years.values())
    catalogue = snapshot.freeze(
        {f"{year}/optical": [_scene(year, one.day)] for year, one in years.items()}, out / "items.parquet"
    )
    model = {"name": "drawn", "channels": ["B04"], "classes": list(CLASS_NAMES), "identity": {"sha256": None}}
    identity = {"catalogue": catalogue, "years": sorted(years), "name": name}
    manifest = {
        "name": name,
        "created": datetime(day.year, 12, 1, tzinfo=UTC).isoformat(),
        "config": {},
        "versions": {"cryoscale": "0"},
        "model": model,
        "catalogs": [{"collection": "optical", "outcome": "taken", "url": API, "items": 1, "reason": ""}],
        "identity": identity,
        "identity_sha256": digest(identity),
        "asked": {"min_area_km2": settings.min_area_km2},
        "context": {"blocks": len(blocks) * len(years)},
        "blocks_sha256": ledger.plan_blocks(blocks),
    }
    for year, told in years.items():
        _draw(out, ledger, year, told, window, blocks, common)
    ledger.begin(manifest)
    for year in years:
        mosaic.build_levels(f"{out}/mosaic.zarr", year, EPSG)
        write_inventory(settings, str(out), out, year, manifest, None)
    write_links(out / "inventory", {year: coverage_of(str(out), year) for year in years}, None)
    write_catalog(settings, str(out), manifest)
    seal(str(out))
    return out


def _draw(
    out: Path, ledger: Ledger, year: int, told: Year, window: Window, blocks: list[Block], common: float
) -> None:
    classes = list(CLASS_NAMES)
    store = f"{out}/mosaic.zarr"
    mosaic.create(store, year=year, window=window, block_px=BLOCK_PX, classes=classes, attrs={})
    quicklook.create(str(out), year=year, window=window, block_px=BLOCK_PX)
    layers, relief = layers_of(told, window, common)
    for block in blocks:
        rows, cols = block.window.slices_in(window)
        own = {key: values[..., rows, cols] for key, values in layers.items()}
        record = mosaic.write_block(store, year, block, own)
        quicklook.write_block(str(out), year, block, {"elevation": relief[rows, cols]})
        ledger.mark(
            Marker(
                year=year,
                epsg=EPSG,
                row=block.row,
                col=block.col,
                size_px=BLOCK_PX,
                checksum=record.checksum,
                written_bytes=record.stored_bytes,
                pixels=BLOCK_PX**2,
                valid_pixels=int((own["label"] != 255).sum()),
            )
        )


def layers_of(
    told: Year, window: Window, common: float
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """The layers (y, x) of a year's map, and its elevation in m."""
    y, x = window.coordinates()
    west, _, _, north = window.bounds_m
    east, south = np.meshgrid(x - west, north - y)
    inside = (
        np.max([one.inside_m(east, south) for one in told.tongues], axis=0)
        if told.tongues
        else east * 0 - 9e9
    )
    if told.noise is not None:
        shared, own = np.random.default_rng(1), np.random.default_rng(told.noise)
        patches = ndimage.gaussian_filter(own.standard_normal(window.shape), 15.0)
        error = np.sqrt(common) * shared.standard_normal() + np.sqrt(1 - common) * patches / patches.std()
        inside = inside + SIGMA_M * error
    under = np.zeros(window.shape, bool)
    for one in told.tongues:
        own_ice = np.abs(east - one.x_m) < one.width_m
        under |= own_ice & (south > one.head_m + one.length_m - one.debris_m) & (one.debris_m > 0)
    label = np.where(inside > 0, np.where(under, 2, 1), 0).astype(np.uint8)
    ice = np.rint(250 * special.ndtr(inside / SIGMA_M)).astype(np.uint8)
    probability = np.zeros((len(CLASS_NAMES), *window.shape), np.uint8)
    probability[0], probability[1], probability[2] = (
        250 - ice,
        np.where(under, 0, ice),
        np.where(under, ice, 0),
    )
    unseen = np.zeros(window.shape, bool)
    if told.unseen is not None:
        left, bottom, right, top = told.unseen
        unseen = (east > left) & (east < right) & (south > top) & (south < bottom)
    layers: dict[str, NDArray[Any]] = {
        "probability": np.where(unseen, 255, probability).astype(np.uint8),
        "label": np.where(unseen, 255, label).astype(np.uint8),
        "confidence": np.where(unseen, 255, 200).astype(np.uint8),
        "disagreement": np.where(unseen, 255, 2).astype(np.uint8),
        "source_date": np.where(unseen, 0, (told.day - date(1970, 1, 1)).days).astype(np.int32),
        "n_clear": (~unseen).astype(np.uint16),
        "modalities": np.where(unseen, 0, 5).astype(np.uint8),
    }
    return layers, (5500.0 - 0.2 * south).astype(np.float32)


def _config(name: str, years: list[int]) -> dict[str, Any]:
    return {
        "name": name,
        "region": {"bbox": [86.0, 28.0, 86.1, 28.1]},
        "years": years,
        "season": {"start": "10-01", "end": "10-31"},
        "catalogs": [{"url": "https://stac.example.org"}],
        "sources": {"optical": {"collection": "optical"}, "terrain": {"collection": "cop-dem-glo-30"}},
        "model": {"name": "band-ratio"},
        "tiling": {"tile_px": 64, "block_px": BLOCK_PX},
        "outlines": {"divides": False},
    }


def _scene(year: int, day: date) -> pystac.Item:
    """The scene that a map says it was made from."""
    box = shapely.box(86.0, 28.0, 86.1, 28.1)
    moment = datetime(day.year, day.month, day.day, 5, tzinfo=UTC)
    item = pystac.Item(
        f"scene-{hashlib.sha256(str(day).encode()).hexdigest()[:8]}-{year}",
        shapely.geometry.mapping(box),
        list(box.bounds),
        moment,
        {"cryoscale:simulated": True},
        collection="optical",
    )
    item.add_asset("B04", pystac.Asset("https://example.org/B04.tif"))
    return item


def place_of(x_m: float, south_m: float) -> tuple[float, float]:
    """Longitude and latitude of a place on the made maps."""
    west, _, _, north = Window(EPSG, -310_016, 49_920, 1, 1).bounds_m
    lon, lat = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform(west + x_m, north - south_m)
    return float(lon), float(lat)
