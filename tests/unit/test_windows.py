"""Many blocks at once, held against what is said of one."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import shapely

from cryoscale.forecast.cover import area_km2, footprints, shares, tiles_with_data
from cryoscale.forecast.windows import Windows
from cryoscale.grid import Block, Window, blocks_over, transformer, window_over_bounds
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.read.lattice import Lattice
from cryoscale.read.sample import _mesh
from cryoscale.read.session import bounds_deg
from cryoscale.region import ZoneRegion

BLOCKS = [Block(32645, row, col, 512) for row in (-613, -1, 0, 7) for col in (38, 97)]


@pytest.mark.parametrize(("tile_px", "overlap"), [(256, 0.5), (256, 0.0), (96, 0.37), (64, 0.9)])
def test_hulls_and_tiles_of_many_blocks_are_those_of_each(tile_px: int, overlap: float) -> None:
    hulls, down, across = Windows.of(32645, BLOCKS).hulls(tile_px, overlap)
    stride = stride_px(tile_px, overlap)
    for n, block in enumerate(BLOCKS):
        one = read_window(block, tile_px, overlap)
        found = (hulls.row[n], hulls.col[n], hulls.height[n], hulls.width[n])
        assert found == (one.row, one.col, one.height, one.width)
        window = block.window
        rows = tile_origins(window.row, window.row + window.height, tile_px, stride)
        cols = tile_origins(window.col, window.col + window.width, tile_px, stride)
        assert (down[n], across[n]) == (len(rows), len(cols))


def test_bounds_in_degrees_are_those_of_each_within_a_hundred_metres() -> None:
    many = Windows.of(32645, BLOCKS).bounds_deg()
    assert np.allclose(many, [bounds_deg(block.window) for block in BLOCKS], atol=0.001)


def test_bounds_at_the_antimeridian_go_on_on_one_side() -> None:
    blocks = [Block(32660, -700, col, 1024) for col in range(62, 70)]
    found = Windows.of(32660, blocks).bounds_deg()
    assert (found[:, 2] > found[:, 0]).all()
    assert (np.diff(found[:, 0]) > 0).all()
    assert found[-1, 2] > 180.0


@pytest.mark.parametrize("step_px", [1, 4])
def test_nodes_are_those_that_the_reader_works_with(step_px: int) -> None:
    window = Window(32645, -310_128, 48_640, 1024, 768)
    affine = (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)
    geobox = window.geobox if step_px == 1 else window.geobox.zoom_out(step_px)
    mesh = _mesh(geobox, Lattice("EPSG:32645", affine, 1, 1))
    one = np.array([window.row]), np.array([window.col]), np.array([1024]), np.array([768])
    west, south, east, north = Windows(32645, *one).nodes_m(step_px)[0]
    assert (west / 10, east / 10) == pytest.approx((mesh.columns.min(), mesh.columns.max()))
    assert (-north / 10, -south / 10) == pytest.approx((mesh.rows.min(), mesh.rows.max()))


def test_blocks_of_a_region_of_many_parts_are_those_that_touch_it_one_by_one() -> None:
    rng = np.random.default_rng(3)
    parts = [
        shapely.Point(*place).buffer(size)
        for place, size in zip(
            rng.uniform((86.1, 27.5), (87.0, 28.2), (30, 2)), rng.uniform(0.001, 0.08, 30), strict=True
        )
    ]
    zone = ZoneRegion(32645, shapely.union_all(parts))
    shape = zone.projected()
    every = blocks_over(window_over_bounds(32645, shape.bounds), 512)
    expected = [block for block in every if shape.intersects(shapely.box(*block.window.bounds_m))]
    assert zone.blocks(512) == expected
    assert len(expected) > 50


def test_tiles_without_a_scene_are_not_counted_as_work() -> None:
    windows = Windows.of(32645, [Block(32645, -600, col, 512) for col in (90, 91, 92)])
    west, south, _, north = windows[np.array([1])].bounds_m()[0]
    part = shapely.box(west + 20, south + 20, west + 3200, north - 20)
    lon, lat = transformer("EPSG:32645", "EPSG:4326").transform(*np.array(part.exterior.coords).T)
    ring = shapely.segmentize(shapely.Polygon(zip(lon, lat, strict=True)), 0.001)
    item = pystac.Item(
        "a", shapely.geometry.mapping(ring), list(ring.bounds), datetime(2018, 10, 1, tzinfo=UTC), {}
    )
    shown = footprints([item], windows)
    zone = ZoneRegion(32645, shapely.box(80, 20, 100, 40))
    seen, inside = shares(windows, zone, shown)
    assert seen == pytest.approx([0.0, 0.62, 0.0], abs=0.02)
    assert inside == pytest.approx(seen)
    tiles = tiles_with_data(windows, 256, 0.5, shown, seen)
    # of 5 x 5 tiles over a block, those of the last column begin beyond the scene's 320 pixels
    assert tiles.tolist() == [0, 20, 0]


@pytest.mark.parametrize(
    ("box", "expected_km2"),
    [  # by the closed form of an ellipsoid's zone
        ((86.7, 27.85, 87.05, 28.1), 954.0015),
        ((-75.0, 59.0, -10.0, 84.0), 6_369_607),
        ((-90.0, 60.0, 90.0, 80.0), 15_253_639),  # between whose corners the shortest way is over the pole
        ((-100.0, 60.0, 100.0, 80.0), 16_948_488),
    ],
)
def test_a_region_has_the_area_between_its_parallels(
    box: tuple[float, float, float, float], expected_km2: float
) -> None:
    assert area_km2(shapely.box(*box)) == pytest.approx(expected_km2, rel=1e-6)
