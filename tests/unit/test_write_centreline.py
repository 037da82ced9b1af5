from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import shapely
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csgraph
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Polygon, box
from skimage.graph import MCP_Geometric

from cryoscale.write import centreline as module
from cryoscale.write.centreline import Centreline, centreline

WEST, NORTH, STEP_M = 400_000.0, 5_300_000.0, 40.0
MIDDLE = WEST + 4000.0, NORTH - 4000.0


def model(z: NDArray[np.float64]) -> xr.DataArray:
    y = NORTH - (np.arange(z.shape[0]) + 0.5) * STEP_M
    x = WEST + (np.arange(z.shape[1]) + 0.5) * STEP_M
    return xr.DataArray(z, dims=("y", "x"), coords={"y": y, "x": x})


def around() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres east and north of the middle, (y, x)."""
    at = (np.arange(200) + 0.5) * STEP_M - 4000.0
    east, south = np.meshgrid(at, at)
    return east, -south


def line_of(outline: Polygon, z: NDArray[np.float64]) -> Centreline:
    found = centreline(outline, model(z))
    assert found is not None
    return found


def along(turn_deg: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres along and across a valley that runs down to the east before it is turned."""
    east, north = around()
    turn = math.radians(turn_deg)
    return math.cos(turn) * east + math.sin(turn) * north, math.cos(turn) * north - math.sin(turn) * east


@pytest.mark.parametrize("turn", [0.0, 27.0, 45.0, 80.0])
def test_a_straight_tongue_is_as_long_as_it_is_however_it_lies(turn: float) -> None:
    tongue = rotate(translate(box(-2000, -250, 2000, 250), *MIDDLE), turn, origin=MIDDLE)
    down, across = along(turn)
    found = line_of(tongue, 3000.0 - 0.15 * down + 1e-5 * across**2)
    # head and terminus lie somewhere on the two ends, 500 m wide
    assert found.length_m == pytest.approx(4000.0, rel=0.02)
    assert found.length_m == found.line.length


def test_a_bent_tongue_is_measured_around_its_bend_and_not_across() -> None:
    east, north = around()
    radius, angle = np.hypot(east, north), np.arctan2(north, east)
    ring = shapely.Point(MIDDLE).buffer(2400.0, 64) - shapely.Point(MIDDLE).buffer(1600.0, 64)
    tongue = ring - box(MIDDLE[0], MIDDLE[1] - 3000, MIDDLE[0] + 3000, MIDDLE[1])  # three quarters of it
    # from the east (angle 0) against the clock down to the south (270)
    z = 3500.0 - 150.0 * np.where(angle < -1e-9, angle + 2 * np.pi, angle) + 2e-4 * (radius - 2000.0) ** 2
    found = line_of(tongue, z)
    assert found.length_m == pytest.approx(1.5 * np.pi * 2000.0, rel=0.05)
    # it keeps to the middle, except at its ends
    inner = [p for p in found.line.coords[10:-10]]
    assert all(abs(math.dist(p, MIDDLE) - 2000.0) < 250.0 for p in inner)
    assert shapely.covers(tongue.buffer(1.0), found.line)


def test_of_two_arms_the_longer_one_counts() -> None:
    east, north = around()
    trunk, long_arm, short_arm = (
        LineString([(0, -3000), (0, 0)]),
        LineString([(0, 0), (-2000, 2200)]),
        LineString([(0, 0), (900, 1000)]),
    )
    outline = translate(shapely.union_all([trunk, long_arm, short_arm]).buffer(250.0), *MIDDLE)
    # the short arm reaches higher, so that height alone would choose it
    z = 3000.0 + 0.1 * north + np.where(east > 0, 0.4 * east, 0.0)
    found = line_of(outline, z)
    expected = 3250.0 + long_arm.length + 250.0
    assert found.length_m == pytest.approx(expected, rel=0.05)
    assert found.line.coords[0][0] < MIDDLE[0] - 1500.0


def test_the_line_runs_from_ring_to_ring_and_down() -> None:
    _, north = around()
    outline = translate(LineString([(300, 2500), (-200, 500), (100, -2500)]).buffer(300.0), *MIDDLE)
    found = line_of(outline, 3000.0 + 0.2 * north)
    ends = shapely.points([found.line.coords[0], found.line.coords[-1]])
    assert (shapely.distance(outline.exterior, ends) < 1e-6).all()
    assert ends[0].y - ends[1].y > 5000.0


def test_the_cheapest_routes_are_those_of_scikit_image() -> None:
    random = np.random.default_rng(3)
    inside = random.random((40, 50)) < 0.8
    inside[0, 0] = True
    cost = random.uniform(1, 100, inside.shape)
    number = np.full(inside.shape, -1, np.int64)
    number[inside] = np.arange(inside.sum())
    ours = csgraph.dijkstra(module._graph(cost, number), directed=False, indices=0)
    theirs, _ = MCP_Geometric(np.where(inside, cost, -1.0)).find_costs([(0, 0)])
    np.testing.assert_allclose(ours, theirs[inside])


def test_a_route_goes_around_rock_and_not_over_it() -> None:
    _, north = around()
    rock = translate(box(-700, -100, 700, 100), *MIDDLE)
    outline = translate(box(-1000, -2000, 1000, 2000), *MIDDLE) - rock
    found = line_of(outline, 3000.0 + 0.2 * north)
    assert found.line.intersection(rock.buffer(-60.0)).is_empty


def test_voids_take_what_lies_nearest_and_without_elevation_there_is_no_line() -> None:
    down, across = along(0.0)
    z = 3000.0 - 0.15 * down + 1e-5 * across**2
    tongue = translate(box(-2000, -250, 2000, 250), *MIDDLE)
    whole = line_of(tongue, z)
    z[:, 90:110] = np.nan
    assert line_of(tongue, z).length_m == pytest.approx(whole.length_m, rel=0.02)
    assert centreline(tongue, model(np.full((200, 200), np.nan))) is None
    assert centreline(translate(tongue, 90_000.0), model(z)) is None


def test_a_coarser_grid_of_a_large_glacier_gives_almost_the_same_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down, across = along(30.0)
    z = 3000.0 - 0.15 * down + 1e-5 * across**2
    tongue = rotate(translate(box(-3500, -900, 3500, 900), *MIDDLE), 30.0, origin=MIDDLE)
    fine = line_of(tongue, z)
    monkeypatch.setattr(module, "MOST_CELLS", 900)
    coarse = line_of(tongue, z)
    steps = [math.dist(a, b) for a, b in pairwise(coarse.line.coords)]
    assert np.median(steps) > 100.0  # it was coarser
    assert coarse.length_m == pytest.approx(fine.length_m, rel=0.05)


@pytest.mark.parametrize("side_m", [12.0, 40.0, 110.0])
def test_the_smallest_glacier_has_a_length_of_its_own_size(side_m: float) -> None:
    down, _ = along(0.0)
    tiny = translate(box(0, 0, side_m, side_m), MIDDLE[0] + 13.0, MIDDLE[1] + 7.0)
    assert 0.8 * side_m <= line_of(tiny, 3000.0 - 0.3 * down).length_m <= 2.0 * side_m


def test_flat_ice_has_a_line_too() -> None:
    found = line_of(translate(box(-500, -200, 500, 200), *MIDDLE), np.full((200, 200), 2000.0))
    assert 0.0 < found.length_m < 2000.0
