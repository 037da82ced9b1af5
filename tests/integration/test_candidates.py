"""The mask on ground made for it: a glacier in one corner, a plain beyond, and an oracle by distance."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely

from cryoscale.candidates import Selection, candidate_blocks
from cryoscale.config import load_config
from cryoscale.grid import Block, Window, transformer
from cryoscale.region import ZoneRegion
from cryoscale.simulate.catalog import write_cog
from cryoscale.simulate.survey import Raster
from tests.unit.test_config import KHUMBU

EPSG = 32645
WHOLE = Window(EPSG, -1210 * 256, 190 * 256, 3072, 3072)
"""Twelve blocks of 256 px across; those mapped are the ten inside."""

GLACIER_PX = 512
"""Edge of the snow in the north-western corner of the mapped part."""


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[pystac.Item]]:
    """One scene and one elevation model: snow in a corner, clouds in the south, lower southwards."""
    folder: Path = tmp_path_factory.mktemp("corner")
    west, _, _, north = WHOLE.bounds_m
    edge = WHOLE.width
    green, swir = np.full((edge, edge), 1500, np.uint16), np.full((edge, edge), 1500, np.uint16)
    swir[256 : 256 + GLACIER_PX, 256 : 256 + GLACIER_PX] = 200
    scl = np.full((edge, edge), 5, np.uint8)
    scl[-512:] = 9
    heights = np.tile(np.linspace(6000, 2000, edge, dtype=np.float32)[:, None], (1, edge))
    for name, values, nodata in (
        ("B03", green, 0),
        ("B11", swir, 0),
        ("SCL", scl, 0),
        ("data", heights, None),
    ):
        write_cog(folder / f"{name}.tif", Raster(values, f"EPSG:{EPSG}", west, north, 10.0), nodata)
    bounds = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform_bounds(*WHOLE.bounds_m)
    ring = shapely.geometry.mapping(shapely.box(*bounds))
    moment = datetime(2018, 10, 1, tzinfo=UTC)
    scene = pystac.Item("scene", ring, list(bounds), moment, {"s2:processing_baseline": "02.12"})
    terrain = pystac.Item("dem", ring, list(bounds), moment, {})
    for name in ("B03", "B11", "SCL"):
        scene.assets[name] = pystac.Asset(str(folder / f"{name}.tif"))
    terrain.assets["data"] = pystac.Asset(str(folder / "data.tif"))
    return {"2018/optical": [scene], "all/terrain": [terrain]}


def selected(items: dict[str, list[pystac.Item]], **limits: float) -> Selection:
    inner = WHOLE.pad(-256 - 4).bounds_m
    corners = np.array(shapely.box(*inner).exterior.coords)
    lon, lat = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform(*corners.T)
    settings: Any = load_config(
        KHUMBU
        | {
            "region": {"bbox": [min(lon) + 1e-3, min(lat) + 1e-3, max(lon) - 1e-3, max(lat) - 1e-3]},
            "tiling": {"tile_px": 256, "block_px": 256},
            "candidates": limits,
        }
    )
    return candidate_blocks(settings, items, ZoneRegion(EPSG, settings.region))


def distance_m(block: Block) -> float:
    """From the snow to the nearest edge of a block."""
    west, _, _, north = WHOLE.bounds_m
    snow = shapely.box(west + 2560, north - 2560 - 5120, west + 2560 + 5120, north - 2560)
    return float(shapely.distance(snow, shapely.box(*block.window.bounds_m)))


def unseen_m(block: Block) -> float:
    """From the clouds in the south, or from where the scene ends, to the nearest edge of a block."""
    west, south, east, north = WHOLE.bounds_m
    seen = shapely.box(west, south + 5120, east, north)
    own = shapely.box(*block.window.bounds_m)
    return float(shapely.distance(own, seen.exterior)) if seen.contains(own) else 0.0


@pytest.mark.parametrize("reach_m", [0, 2000, 4000])
def test_blocks_stay_within_reach_of_snow_and_of_what_clouds_hide(
    items: dict[str, list[pystac.Item]], reach_m: float
) -> None:
    found = selected(items, min_ndsi=0.4, ndsi_reach_m=reach_m)
    assert len(found.blocks) + len(found.dropped) == 100
    for block in found.blocks:  # two coarse pixels for the resampling of edges
        assert min(distance_m(block), unseen_m(block)) <= reach_m + 160, block
    for block, reason in found.dropped.items():
        assert reason == "ndsi"
        assert min(distance_m(block), unseen_m(block)) > reach_m - 160, block
    assert found.in_doubt == sum(distance_m(block) > reach_m + 80 for block in found.blocks)
    assert len(found.dropped) > 20


def test_height_and_snow_have_to_meet_in_one_place(items: dict[str, list[pystac.Item]]) -> None:
    snow = selected(items, min_ndsi=0.4, ndsi_reach_m=2000)
    both = selected(items, min_ndsi=0.4, ndsi_reach_m=2000, min_elevation_m=5300)
    assert set(both.blocks) < set(snow.blocks)
    # 5,300 m is passed 537 rows from the northern rim: 1 row of blocks and a little of the next
    assert {block.row - WHOLE.row // 256 for block in both.blocks} == {1, 2}
    assert both.in_doubt == 0


def test_the_plain_costs_nothing_and_no_block_with_snow_is_lost(items: dict[str, list[pystac.Item]]) -> None:
    found = selected(items, min_ndsi=0.4, ndsi_reach_m=500, min_elevation_m=3000, max_slope_deg=60)
    assert {block for block in found.dropped if distance_m(block) == 0} == set()
    assert len(found.dropped) > 70
