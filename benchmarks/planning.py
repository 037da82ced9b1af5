"""How long a plan of 100,000 blocks takes, beside the loop over blocks that it replaced.

A simulated RGI region: outlines over some 2,000 x 2,000 km in several UTM zones, buffered into the region,
and thousands of items in memory, laid out as Sentinel-2 granules, Landsat scenes and tiles of an elevation
model are. Their assets are a handful of small files, so that headers are real ones. The loop looks at every
block for itself, as the plan did before; it is timed on a part of the blocks, in the same run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from pystac import Asset, Item

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from cryoscale.bench import record
from cryoscale.config import load_config
from cryoscale.features.stack import HALO_PX
from cryoscale.forecast.plan import Asked, make_plan
from cryoscale.grid import Block, blocks_over, transformer, utm_epsg, window_over_bounds
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.plan import Items, zone_regions
from cryoscale.read.assets import S2_BANDS
from cryoscale.read.catalog import split_bbox
from cryoscale.region import ZoneRegion
from cryoscale.settings import Settings

EDGE_M = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60}
"""Pixels of Sentinel-2's bands; all others have 20 m."""

PACKAGES = ("cryoscale", "numpy", "shapely", "pyproj", "pystac", "geopandas")


@dataclass(frozen=True)
class Scale:
    """Outlines, the box that they lie in (degrees), dates of a granule, and blocks of the loop."""

    outlines: int
    box_deg: tuple[float, float, float, float]
    dates: int
    looped: int


SCALES = {
    "tiny": Scale(60, (80.5, 28.0, 81.5, 28.8), dates=2, looped=10),
    "full": Scale(36_500, (68.0, 27.5, 90.0, 45.5), dates=10, looped=100),
}


def make_outlines(scale: Scale, path: Path) -> None:
    """Blobs of 0.3 to 6 km radius, most of them small, in ranges rather than everywhere."""
    rng = np.random.default_rng(7)
    west, south, east, north = scale.box_deg
    lon, lat = rng.uniform(west, east, scale.outlines), rng.uniform(south, north, scale.outlines)
    radius_m = np.clip(300.0 * (1.0 + rng.pareto(1.3, scale.outlines)), 300.0, 6000.0)
    angle = np.linspace(0.0, 2 * np.pi, 41)[:-1]
    wobble = 1.0 + 0.25 * np.sin(3 * angle + rng.uniform(0, 6, (scale.outlines, 1)))
    dy = radius_m[:, None] * wobble * np.sin(angle) / 111_320.0
    dx = radius_m[:, None] * wobble * np.cos(angle) / (111_320.0 * np.cos(np.radians(lat))[:, None])
    shapes = shapely.polygons(np.stack([lon[:, None] + dx, lat[:, None] + dy], axis=-1))
    geopandas.GeoDataFrame(geometry=shapes, crs=4326).to_file(path)


def make_items(scale: Scale, folder: Path) -> Items:
    """Items of optical, thermal and terrain over the box."""
    files = {edge: _file(folder, edge) for edge in (10, 20, 30, 60)}
    start = datetime(2018, 10, 1, tzinfo=UTC)
    optical, thermal = [], []
    for number, (epsg, west, north) in enumerate(_granules(scale.box_deg, 100_000)):
        for day in range(scale.dates):
            when = start + timedelta(days=5 * day % 30, seconds=number)
            assets = {
                band: _asset(files[EDGE_M.get(band, 20)], EDGE_M.get(band, 20), west, north, 109_800)
                for band in (*S2_BANDS, "SCL")
            }
            cloud = float((37 * number + 23 * day) % 90)
            optical.append(_item(f"s2-{number}-{day}", epsg, (west, north, 109_800), when, assets, cloud))
    for number, (epsg, west, north) in enumerate(_granules(scale.box_deg, 150_000)):
        for day in range(max(scale.dates // 3, 1)):
            assets = {key: _asset(files[30], 30, west, north, 185_000) for key in ("lwir11", "qa_pixel")}
            when = start + timedelta(days=8 * day, seconds=number)
            thermal.append(_item(f"l8-{number}-{day}", epsg, (west, north, 185_000), when, assets, 20.0))
    return {"2018/optical": optical, "2018/thermal": thermal, "all/terrain": _dem(scale, folder)}


def _granules(box_deg: tuple[float, float, float, float], step_m: int) -> Iterator[tuple[int, float, float]]:
    """(zone, west, north) of a grid of corners in each zone's own metres."""
    west, south, east, north = box_deg
    for zone_west in range(int(west // 6 * 6), int(np.ceil(east)), 6):
        epsg = utm_epsg(zone_west + 3.0, (south + north) / 2)
        to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
        left, right = max(west, zone_west), min(east, zone_west + 6)
        x, y = to_zone.transform([left, right, left, right], [south, south, north, north])
        for column in np.arange(min(x) // step_m, max(x) // step_m + 1):
            for row in np.arange(min(y) // step_m + 1, max(y) // step_m + 2):
                yield epsg, float(column * step_m), float(row * step_m)


def _dem(scale: Scale, folder: Path) -> list[Item]:
    west, south, east, north = scale.box_deg
    step, href = 1.0 / 3600.0, _file(folder, 1, geographic=True)
    found = []
    for lon in range(int(west) - 1, int(east) + 2):
        for lat in range(int(south) - 1, int(north) + 2):
            asset = Asset(
                href,
                extra_fields={
                    "proj:shape": [3600, 3600],
                    "proj:transform": [step, 0, lon, 0, -step, lat + 1],
                },
            )
            item = Item(
                f"dem-{lon}-{lat}", None, [lon, lat, lon + 1, lat + 1], datetime(2021, 1, 1, tzinfo=UTC), {}
            )
            item.properties["proj:code"] = "EPSG:4326"
            item.assets["data"] = asset
            found.append(item)
    return found


def _asset(href: str, edge_m: int, west: float, north: float, size_m: int) -> Asset:
    count = size_m // edge_m
    place = [edge_m, 0, west, 0, -edge_m, north]
    return Asset(href, extra_fields={"proj:shape": [count, count], "proj:transform": place})


def _item(
    name: str,
    epsg: int,
    place: tuple[float, float, int],
    when: datetime,
    assets: dict[str, Asset],
    cloud_pct: float,
) -> Item:
    west, north, size_m = place
    x, y = [west, west + size_m, west + size_m, west], [north, north, north - size_m, north - size_m]
    lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(x, y)
    ring = shapely.Polygon(zip(lon, lat, strict=True))
    item = Item(name, shapely.geometry.mapping(ring), list(ring.bounds), when, {})
    item.properties |= {"proj:code": f"EPSG:{epsg}", "eo:cloud_cover": cloud_pct}
    item.assets.update(assets)
    return item


def _file(folder: Path, edge: int, *, geographic: bool = False) -> str:
    """A small tiled file, whose header says how all of its kind are stored."""
    path = folder / f"{'deg' if geographic else 'm'}{edge}.tif"
    values = np.random.default_rng(1).integers(1, 4000, (1024, 1024), np.uint16)
    place = (
        Affine(edge / 3600, 0, 80, 0, -edge / 3600, 29)
        if geographic
        else Affine(edge, 0, 4e5, 0, -edge, 3.2e6)
    )
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=1024,
        height=1024,
        count=1,
        dtype="uint16",
        crs="EPSG:4326" if geographic else "EPSG:32644",
        transform=place,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
    ) as target:
        target.write(values, 1)
    return str(path)


def configuration(outlines: Path) -> dict[str, Any]:
    """A run over the outlines, in blocks of 5 km."""
    return {
        "name": "planning",
        "region": {"rgi": str(outlines), "buffer_m": 2000},
        "years": [2018],
        "season": {"start": "10-01", "end": "10-31"},
        "catalogs": [{"url": str(outlines.parent)}],
        "sources": {
            "optical": {"collection": "sentinel-2-l2a"},
            "terrain": {"collection": "cop-dem-glo-30"},
            "thermal": {"collection": "landsat-c2-l2"},
        },
        "model": {"name": "band-ratio"},
        "tiling": {"tile_px": 256, "block_px": 512},
    }


def looped(settings: Settings, items: Items, most: int) -> tuple[float, int]:
    """Processor seconds of the loop over ``most`` blocks, as the plan once was: (seconds, blocks)."""
    shapes = {
        key: [shapely.geometry.shape(i.geometry) for i in some if i.geometry] for key, some in items.items()
    }
    regions = zone_regions(settings)
    blocks = [(zone, block) for zone in regions[:1] for block in _loop_blocks(zone, settings.block_px, most)]
    stride = stride_px(settings.tile_px, settings.model.overlap)
    begun, tiles, scenes = time.process_time(), 0, 0
    for zone, block in blocks:
        window = block.window
        rows = tile_origins(window.row, window.row + window.height, settings.tile_px, stride)
        cols = tile_origins(window.col, window.col + window.width, settings.tile_px, stride)
        tiles += len(rows) * len(cols)
        outer = read_window(block, settings.tile_px, settings.model.overlap).pad(HALO_PX)
        bounds = transformer(f"EPSG:{zone.epsg}", "EPSG:4326").transform_bounds(*outer.bounds_m)
        outline = shapely.union_all([shapely.box(*half) for half in split_bbox(bounds)])
        scenes += sum(shape.intersects(outline) for some in shapes.values() for shape in some)
    assert tiles
    assert scenes
    return time.process_time() - begun, len(blocks)


def _loop_blocks(zone: ZoneRegion, size_px: int, most: int) -> list[Block]:
    shape = zone.projected()
    shapely.prepare(shape)
    found: list[Block] = []
    for block in blocks_over(window_over_bounds(zone.epsg, shape.bounds), size_px):
        if len(found) < most and shape.intersects(shapely.box(*block.window.bounds_m)):
            found.append(block)
    return found


def measure(scale: Scale) -> dict[str, Any]:
    """Seconds of the region, of the plan, and of the loop, a block each."""
    with tempfile.TemporaryDirectory() as folder:
        outlines = Path(folder) / "outlines.gpkg"
        make_outlines(scale, outlines)
        items = make_items(scale, Path(folder))
        begun = _now()
        settings = load_config(configuration(outlines))
        region = _since(begun)
        begun = _now()
        plan = make_plan(settings, items, Asked(measured=False))
        planned = _since(begun)
        loop_s, count = looped(settings, items, scale.looped)
    return {
        "blocks": plan.blocks,
        "items": sum(len(some) for some in items.values()),
        "zones": len(plan.zones),
        "fetches": round(plan.fetches),
        "region": region,
        "plan": planned,
        "loop_cpu_s_a_block": loop_s / count,
        "ratio": float(f"{loop_s / count * plan.blocks / planned['cpu_s']:.3g}"),
    }


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> dict[str, float]:
    """Seconds of the clock, and of the processor, which others at work on the machine disturb less."""
    clock, cpu = _now()
    return {"clock_s": round(clock - begun[0], 2), "cpu_s": round(cpu - begun[1], 2)}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--out", type=Path, default=RESULTS / "planning.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    found = measure(scale)
    print(
        f"{found['blocks']:,} blocks in {found['zones']} zones, {found['items']:,} items, of the processor: "
        f"region {found['region']['cpu_s']:.1f} s, plan {found['plan']['cpu_s']:.1f} s; the loop would take "
        f"{found['loop_cpu_s_a_block'] * found['blocks']:,.0f} s, {found['ratio']:g} times as long"
    )
    method = (
        "region of buffered outlines read from a GeoPackage, then planned without measuring rates, items in "
        f"memory; the loop over blocks timed on {scale.looped} of them; the ratio is of processor seconds"
    )
    sizes = {"scale": given.scale, **vars(scale)}
    record.append(
        given.out, record.line("planning", method=method, sizes=sizes, results=found, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
