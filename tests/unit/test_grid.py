from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cryoscale.grid import (
    Block,
    Window,
    blocks_over,
    utm_epsg,
    window_of,
    window_over_bounds,
    zone_bounds_deg,
)

windows = st.builds(
    Window,
    st.just(32645),
    st.integers(-400_000, 400_000),
    st.integers(0, 90_000),
    st.integers(1, 3000),
    st.integers(1, 3000),
)


def test_the_geobox_of_a_window_has_its_bounds_and_pixel_centres() -> None:
    window = Window(32645, -300_002, 40_001, 7, 5)
    box = window.geobox.boundingbox
    assert (box.left, box.bottom, box.right, box.top) == window.bounds_m
    y, x = window.coordinates()
    np.testing.assert_array_equal(window.geobox.coordinates["y"].values, y)
    np.testing.assert_array_equal(window.geobox.coordinates["x"].values, x)


@given(windows, st.sampled_from([256, 512, 2048]))
def test_blocks_over_a_window_cover_each_of_its_pixels_once(window: Window, size: int) -> None:
    parts = [block.window.intersect(window) for block in blocks_over(window, size)]
    assert all(part is not None for part in parts)
    assert sum(part.height * part.width for part in parts if part) == window.height * window.width


@given(windows)
def test_a_window_is_read_back_from_its_coordinates_and_from_its_bounds(window: Window) -> None:
    y, x = window.coordinates()
    assert window_of(xr.Dataset(coords={"y": y, "x": x}), window.epsg) == window
    assert window_over_bounds(window.epsg, window.bounds_m) == window


def test_coordinates_off_the_lattice_are_refused() -> None:
    y, x = Window(32645, 0, 0, 4, 4).coordinates()
    with pytest.raises(ValueError, match="world lattice"):
        window_of(xr.Dataset(coords={"y": y + 3.0, "x": x}), 32645)


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (86.9, 28.0, 32645),
        (83.9999, 28.0, 32644),
        (84.0, 28.0, 32645),
        (-72.5, -38.8, 32718),
        (180.0, 10.0, 32601),
        (179.999, -10.0, 32760),
        (-180.0, 70.0, 32601),
    ],
)
def test_a_place_lies_in_its_utm_zone(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(lon, lat) == epsg


def test_the_strip_of_a_zone_is_six_degrees() -> None:
    assert zone_bounds_deg(32645) == (84.0, 0.0, 90.0, 90.0)
    assert zone_bounds_deg(32718) == (-78.0, -90.0, -72.0, 0.0)
    with pytest.raises(ValueError, match="no WGS 84"):
        zone_bounds_deg(4326)


def test_blocks_of_half_the_size_lie_inside_those_of_the_double() -> None:
    small, large = Block(32645, -301, 93, 512), Block(32645, -151, 46, 1024)
    assert small.window.intersect(large.window) == small.window
