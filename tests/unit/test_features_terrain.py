"""Slope and aspect of surfaces whose answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from cryoscale.features.terrain import slope_aspect


def plane(rise_east, rise_north, shape=(7, 9), pixel_m=10.0):
    """A plane that rises by so many metres a metre; rows run southwards."""
    y, x = np.mgrid[: shape[0], : shape[1]] * pixel_m
    return (2000 + rise_east * x - rise_north * y).astype(np.float32)


@pytest.mark.parametrize(
    ("rise_east", "rise_north", "facing_deg"),
    [
        (0.0, -1.0, 0.0),
        (-1.0, -1.0, 45.0),
        (-1.0, 0.0, 90.0),
        (-1.0, 1.0, 135.0),
        (0.0, 1.0, 180.0),
        (1.0, 1.0, 225.0),
        (1.0, 0.0, 270.0),
        (1.0, -1.0, 315.0),
    ],
)
def test_a_plane_faces_where_it_falls_and_is_as_steep_as_its_gradient(rise_east, rise_north, facing_deg):
    slope, aspect = slope_aspect(plane(rise_east, rise_north))
    inside = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(
        slope[inside], np.degrees(np.arctan(np.hypot(rise_east, rise_north))), rtol=1e-6
    )
    np.testing.assert_allclose(aspect[inside], facing_deg, atol=1e-4)


def test_flat_ground_has_slope_and_aspect_zero():
    slope, aspect = slope_aspect(np.full((5, 5), 4321.5, np.float32))
    assert (slope[1:-1, 1:-1] == 0).all()
    assert (aspect[1:-1, 1:-1] == 0).all()


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_the_rim_and_the_neighbours_of_a_hole_are_no_data(hole):
    z = plane(0.1, 0.2, (9, 9))
    z[4, 5] = hole
    slope, aspect = slope_aspect(z)
    expected = np.ones((9, 9), bool)
    expected[1:-1, 1:-1] = False
    expected[3:6, 4:7] = True
    np.testing.assert_array_equal(np.isnan(slope), expected)
    np.testing.assert_array_equal(np.isnan(aspect), expected)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (5, 2), (3, 3), (0, 4)])
def test_ground_smaller_than_the_window_is_no_data_throughout(shape):
    slope, aspect = slope_aspect(np.zeros(shape, np.float32))
    assert slope.shape == aspect.shape == shape
    assert np.isfinite(slope).sum() == (1 if shape == (3, 3) else 0)


def test_aspect_stays_below_360_where_rounding_would_reach_it():
    # Falls to the north and a hair to the west: 359.9999999 degrees before rounding to float32.
    _, aspect = slope_aspect(plane(1e-9, -1.0, pixel_m=1e6).astype(np.float32), pixel_m=1e6)
    z = np.array([[0, 0, 0], [1e6, 0, 1e6], [2e6, 2e6, 2e6 + 0.25]], np.float32)
    _, other = slope_aspect(z)
    for result in (aspect, other):
        inside = result[np.isfinite(result)]
        assert inside.size
        assert (inside < 360).all()
        assert (inside >= 0).all()
    assert other[1, 1] in (0.0, np.nextafter(np.float32(360), np.float32(0)))


@pytest.mark.parametrize("relief_m", [1e-3, 1.0, 30.0, 3000.0])
def test_angles_are_those_of_numpys_arc_tangents_rounded_to_float32(relief_m):
    # Whole steps make many diagonals and multiples of 22.5 degrees, where the angle's octant changes.
    rng = np.random.default_rng(5)
    whole = rng.integers(-3, 4, (120, 150)) * relief_m
    for z in (whole.astype(np.float32), rng.normal(0, relief_m, (120, 150)).astype(np.float32)):
        d = z.astype(float)
        column = d[:-2] + 2 * d[1:-1] + d[2:]
        row = d[:, :-2] + 2 * d[:, 1:-1] + d[:, 2:]
        rise_east, rise_north = (column[:, 2:] - column[:, :-2]) / 80, (row[:-2] - row[2:]) / 80
        facing = np.degrees(np.arctan2(-rise_east, -rise_north)) % 360
        facing[(rise_east == 0) & (rise_north == 0)] = 0
        slope, aspect = (found[1:-1, 1:-1] for found in slope_aspect(z))
        steepness = np.degrees(np.arctan(np.hypot(rise_east, rise_north)))
        np.testing.assert_array_max_ulp(slope, steepness.astype(np.float32), maxulp=1)
        np.testing.assert_array_max_ulp(aspect, (facing.astype(np.float32) % 360), maxulp=1)
