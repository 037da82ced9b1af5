"""Resampling: what a pixel is made of, and where data end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from cryoscale.grid import Window, transformer
from cryoscale.read.lattice import ArraySource, Lattice, mosaics
from cryoscale.read.sample import TornError, fetch, resample

UTM = "EPSG:32645"
WINDOW = Window(32645, -310_000, 48_000, 24, 30)
HALF_TURN_M = math.pi * 6378137.0


def around(
    window: Window, res: float, rim_px: int = 0, shift_m: float = 0.0
) -> tuple[tuple[int, int], tuple[float, float, float, float, float, float]]:
    """Shape and affine of a grid of ``res`` metres over a window and ``rim_px`` pixels around it."""
    west, south, east, north = window.bounds_m
    shape = (math.ceil((north - south) / res) + 2 * rim_px, math.ceil((east - west) / res) + 2 * rim_px)
    return shape, (res, 0.0, west - rim_px * res + shift_m, 0.0, -res, north + rim_px * res + shift_m)


def source(values: NDArray[Any], affine: Any, crs: str = UTM) -> ArraySource:
    return ArraySource(Lattice(crs, affine, *values.shape), values)


def test_a_source_on_the_same_pixels_comes_through_untouched_complex_ones_too() -> None:
    shape, affine = around(WINDOW, 10.0, rim_px=2)
    rng = np.random.default_rng(1)
    values = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    for method in ("nearest", "bilinear", "cubic"):
        got = resample(source(values, affine), WINDOW.geobox, method)
        np.testing.assert_array_equal(got, values[2:-2, 2:-2])


def test_a_plane_is_reproduced_by_bilinear_and_a_parabola_by_cubic() -> None:
    shape, affine = around(WINDOW, 20.0, rim_px=3)
    column, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x, y = affine[2] + 20 * column - 480_000, affine[5] - 20 * row - 3_100_000
    want_y, want_x = WINDOW.coordinates()
    at_x, at_y = np.meshgrid(want_x - 480_000, want_y - 3_100_000)
    plane = resample(source(0.5 * x - 0.25 * y, affine), WINDOW.geobox, "bilinear")
    np.testing.assert_allclose(plane, 0.5 * at_x - 0.25 * at_y, atol=1e-3)
    bowl = resample(source(x * x / 1000 + x * y / 1000, affine), WINDOW.geobox, "cubic")
    np.testing.assert_allclose(bowl, at_x * at_x / 1000 + at_x * at_y / 1000, rtol=1e-6, atol=1e-3)


def test_no_data_neither_bleeds_nor_shrinks_nor_grows() -> None:
    shape, affine = around(WINDOW, 20.0)
    values = np.full(shape, 0.25, np.float32)
    values[4:6, 5:8] = np.nan
    for method in ("nearest", "bilinear", "cubic"):
        got = resample(source(values, affine), WINDOW.geobox, method)
        assert got is not None
        hole = np.zeros(WINDOW.shape, bool)
        hole[8:12, 10:16] = True
        np.testing.assert_array_equal(np.isnan(got), hole)
        np.testing.assert_allclose(got[~hole], 0.25, atol=1e-7)


def test_pixels_beyond_the_rim_are_no_data_and_a_source_elsewhere_is_none() -> None:
    values = np.ones((5, 5), np.float32)
    _, affine = around(WINDOW, 10.0)
    got = resample(source(values, affine), WINDOW.geobox, "bilinear")
    assert got is not None
    assert np.isfinite(got[:5, :5]).all()
    assert np.isnan(got[5:]).all()
    assert np.isnan(got[:, 5:]).all()
    far = (10.0, 0.0, affine[2] + 90_000, 0.0, -10.0, affine[5])
    assert fetch(source(values, far), WINDOW.geobox) is None
    assert resample(source(values, far), WINDOW.geobox, "bilinear") is None


def test_a_source_that_runs_north_or_is_turned_lies_where_its_affine_says() -> None:
    shape, (a, _, west, _, e, north) = around(WINDOW, 10.0)
    values = np.random.default_rng(2).random(shape)
    upright = resample(source(values, (a, 0.0, west, 0.0, e, north)), WINDOW.geobox, "nearest")
    flipped = source(values[::-1], (a, 0.0, west, 0.0, -e, north + e * shape[0]))
    np.testing.assert_array_equal(resample(flipped, WINDOW.geobox, "nearest"), upright)
    # a quarter turn: columns run south, rows run east
    turned = source(np.ascontiguousarray(values.T), (0.0, a, west, e, 0.0, north))
    np.testing.assert_array_equal(resample(turned, WINDOW.geobox, "nearest"), upright)


def test_a_turned_target_is_refused() -> None:
    turned = GeoBox((4, 4), Affine.rotation(30) * Affine.scale(10), UTM)
    with pytest.raises(ValueError, match="north up"):
        resample(source(np.ones((4, 4)), (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)), turned, "nearest")


def degree_tiles(
    rng: np.random.Generator, west: float, count: int = 2
) -> tuple[NDArray[Any], list[ArraySource]]:
    """A strip of terrain at one arc second, whole and cut into tiles 0.1 degree wide."""
    step = 1 / 3600
    strip = rng.normal(3000, 200, (720, 360 * count)).astype(np.float32)
    tiles = []
    for number in range(count):
        left = (west + 0.1 * number + 180.0) % 360.0 - 180.0
        affine = (step, 0.0, left - step / 2, 0.0, -step, 28.2 + step / 2)
        tiles.append(source(strip[:, 360 * number : 360 * (number + 1)], affine, "EPSG:4326"))
    return strip, tiles


def test_tiles_of_one_lattice_meet_without_a_seam() -> None:
    strip, tiles = degree_tiles(np.random.default_rng(3), 86.9)
    step = 1 / 3600
    whole = source(strip, (step, 0.0, 86.9 - step / 2, 0.0, -step, 28.2 + step / 2), "EPSG:4326")
    window = Window(32645, -311_100, 49_980, 300, 300)  # around 87 degrees east, 28.1 north
    (joined,) = mosaics(tiles)
    want, got = resample(whole, window.geobox, "cubic"), resample(joined, window.geobox, "cubic")
    assert want is not None
    assert got is not None
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, atol=2e-2)
    alone = [resample(tile, window.geobox, "cubic") for tile in tiles]
    assert all(layer is not None and np.isnan(layer).any() for layer in alone)


def test_a_mosaic_is_the_same_whichever_of_its_tiles_are_at_hand() -> None:
    _, tiles = degree_tiles(np.random.default_rng(4), 86.8, count=3)
    window = Window(32645, -311_100, 49_500, 200, 200)  # within the second tile and its neighbour's reach
    layers = [resample(mosaics(some)[0], window.geobox, "cubic") for some in (tiles, tiles[::-1], tiles[:2])]
    inside = [layer for layer in layers if layer is not None]
    assert len(inside) == 3
    assert np.isfinite(inside[2]).any()
    np.testing.assert_array_equal(inside[0], inside[1])
    np.testing.assert_array_equal(inside[0][np.isfinite(inside[2])], inside[2][np.isfinite(inside[2])])


def test_the_antimeridian_is_no_edge_of_the_world() -> None:
    _, tiles = degree_tiles(np.random.default_rng(5), 179.9)
    assert tiles[1].lattice.affine[2] < 0
    # zone 1 on both sides of 180 degrees
    x, y = transformer("EPSG:4326", "EPSG:32601").transform(180.0, 28.1)
    window = Window(32601, -int(y // 10), int(x // 10) - 100, 200, 200)
    layers = [resample(one, window.geobox, "bilinear") for one in mosaics(tiles)]
    assert len(layers) == 2
    merged = np.where(np.isnan(layers[0]), layers[1], layers[0])  # type: ignore[arg-type]
    assert np.isfinite(merged).all()


def east_of(lon: NDArray[np.float64], lon_deg: float) -> NDArray[np.float64]:
    """Hundredths of a degree from a meridian, to the east."""
    return 100.0 * ((lon - lon_deg + 180.0) % 360.0 - 180.0)


def world(crs: str, west: float, lon_deg: float, columns: int = 36_000) -> ArraySource:
    """How far it is from a meridian, all around the globe from ``west`` on."""
    turn = 360.0 if crs == "EPSG:4326" else 2.0 * HALF_TURN_M
    step = turn / columns
    lon = (west + (np.arange(columns) + 0.5) * step) * 360.0 / turn
    values = np.broadcast_to(east_of(lon, lon_deg).astype(np.float32), (400, columns))
    top = (68.0 if crs == "EPSG:4326" else 10_445_000.0) + step * 200
    return source(values, (step, 0.0, west, 0.0, -step, top), crs)


def astride(lon_deg: float, epsg: int, edge_px: int = 96) -> tuple[Window, NDArray[np.float64]]:
    """A window over a meridian at 68 degrees north, and its longitudes."""
    x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon_deg, 68.0)
    half = edge_px // 2
    window = Window(epsg, -int(y // 10) - half, int(x // 10) - half, edge_px, edge_px)
    at_y, at_x = window.coordinates()
    lon, _ = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(at_x, at_y))
    return window, lon


@pytest.mark.parametrize(
    ("crs", "west", "lon_deg", "zone"),
    [
        ("EPSG:4326", -180.0, 180.0, 32601),
        ("EPSG:4326", -180.0, 180.0, 32660),
        ("EPSG:4326", 0.0, 180.0, 32660),
        ("EPSG:4326", 0.0, 0.0, 32630),
        ("EPSG:4326", 0.0, 0.0, 32631),
        ("EPSG:3857", -HALF_TURN_M, 180.0, 32601),
        ("EPSG:3857", -HALF_TURN_M, 180.0, 32660),
    ],
)
def test_a_raster_around_the_globe_goes_on_where_it_ends(
    crs: str, west: float, lon_deg: float, zone: int
) -> None:
    globe = world(crs, west, lon_deg)
    window, lon = astride(lon_deg, zone)
    part = fetch(globe, window.geobox)
    assert part is not None
    assert part.values.size < 2000  # two narrow windows, not all between them
    for method in ("nearest", "bilinear", "cubic"):
        got = resample(part, window.geobox, method)
        assert got is not None
        np.testing.assert_allclose(got, east_of(lon, lon_deg), atol=0.51 if method == "nearest" else 0.001)
        np.testing.assert_array_equal(resample(globe, window.geobox, method), got)
        beside = Window(window.epsg, window.row, window.col, window.height, 40)
        near = fetch(globe, beside.geobox)
        assert near is not None
        np.testing.assert_array_equal(resample(near, beside.geobox, method), got[:, :40])


@pytest.mark.parametrize(("epsg", "lon", "lat"), [(3413, 135.0, 70.0), (3031, 180.0, -75.0)])
def test_a_grid_on_the_far_side_of_its_pole_has_no_stripe_of_nothing(
    epsg: int, lon: float, lat: float
) -> None:
    x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon, lat)
    grid = GeoBox((64, 64), Affine(10.0, 0.0, x - 320.0, 0.0, -10.0, y + 320.0), f"EPSG:{epsg}")
    step = 1 / 300  # no whole number of which makes a turn of the globe, as it need not
    values = np.broadcast_to(np.arange(3000, dtype=np.float32), (600, 3000))
    there = source(values, (step, 0.0, lon - 5.0, 0.0, -step, lat + 1.0), "EPSG:4326")
    part = fetch(there, grid)
    assert part is not None
    assert part.values.size < 10_000
    got = resample(part, grid, "bilinear")
    assert got is not None
    assert np.isfinite(got).all()
    assert np.ptp(got) < 20.0


def test_a_raster_that_cannot_be_continued_beyond_its_end_is_refused_not_guessed() -> None:
    window, _ = astride(180.0, 32601)
    globe = world("EPSG:4326", -180.0, 180.0)
    uneven = ArraySource(replace(globe.lattice, affine=(0.0100013, *globe.lattice.affine[1:])), globe.values)
    with pytest.raises(TornError, match="not a whole number"):
        fetch(uneven, window.geobox)
    sinusoidal = "+proj=sinu +R=6371007.181 +units=m"
    tile = source(np.ones((100, 100)), (1e6, 0.0, -5e7, 0.0, -1e6, 5e7), sinusoidal)
    with pytest.raises(TornError, match="projection ends"):
        fetch(tile, window.geobox)
