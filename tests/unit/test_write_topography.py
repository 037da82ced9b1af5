from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely.geometry import Polygon, box

from cryoscale.write import topography as topography_module
from cryoscale.write.topography import Topography, hypsometry, sector, topography, weighted_median

WEST, NORTH, STEP_M = 600_000.0, 5_200_000.0, 40.0


def model(z: NDArray[np.float64]) -> xr.DataArray:
    """Elevation (y, x) on cells of 40 m."""
    rows, cols = z.shape
    y = NORTH - (np.arange(rows) + 0.5) * STEP_M
    x = WEST + (np.arange(cols) + 0.5) * STEP_M
    return xr.DataArray(z, dims=("y", "x"), coords={"y": y, "x": x})


def centres(rows: int, cols: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres east and north of the upper left corner, (y, x)."""
    east, south = np.meshgrid((np.arange(cols) + 0.5) * STEP_M, (np.arange(rows) + 0.5) * STEP_M)
    return east, -south


def plane(slope_deg: float, facing_deg: float, rows: int = 60, cols: int = 70) -> NDArray[np.float64]:
    east, north = centres(rows, cols)
    down = math.sin(math.radians(facing_deg)) * east + math.cos(math.radians(facing_deg)) * north
    return 3000.0 - math.tan(math.radians(slope_deg)) * down


def star(seed: int, reach_m: float = 900.0) -> Polygon:
    """A jagged ring of which no part lies on the grid, with a hole."""
    random = np.random.default_rng(seed)
    angle = np.sort(random.uniform(0, 2 * np.pi, 40))
    reach = reach_m * random.uniform(0.5, 1.0, 40)
    middle = WEST + 1413.7, NORTH - 1207.1
    ring = np.column_stack([middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle)])
    made = shapely.make_valid(Polygon(ring).buffer(0)).difference(shapely.Point(middle).buffer(171.3))
    return max(shapely.get_parts(made), key=shapely.area)


@pytest.mark.parametrize("facing", [0.0, 33.0, 90.0, 135.0, 201.0, 270.0, 359.5])
def test_a_tilted_plane_has_its_slope_and_aspect_and_the_elevations_of_its_outline(facing: float) -> None:
    outline = star(1)
    found = topography(outline, model(plane(17.0, facing)))
    assert found.slope_deg == pytest.approx(17.0, abs=1e-9)
    assert found.aspect_deg == pytest.approx(facing, abs=1e-9)
    assert found.aspect_sec == 1 + round(facing / 45) % 8
    middle = outline.centroid
    down = math.sin(math.radians(facing)) * (middle.x - WEST)
    down += math.cos(math.radians(facing)) * (middle.y - NORTH)
    # of a plane the mean is the elevation of the centroid
    assert found.zmean_m == pytest.approx(3000.0 - math.tan(math.radians(17.0)) * down, abs=0.2)
    assert found.void_fraction == 0.0


def test_the_grid_s_north_turns_the_aspect_and_nothing_else() -> None:
    straight = topography(star(2), model(plane(10.0, 358.0)))
    turned = topography(star(2), model(plane(10.0, 358.0)), north_deg=3.0)
    assert turned.aspect_deg == pytest.approx(1.0)
    assert (turned.slope_deg, turned.zmed_m) == (straight.slope_deg, straight.zmed_m)


def test_a_dome_falls_to_all_sides_and_has_no_aspect_but_half_of_it_has() -> None:
    east, north = centres(61, 61)
    top = 30.5 * STEP_M
    dome = model(4000.0 - 0.3 * np.hypot(east - top, north + top))
    middle = shapely.Point(WEST + top, NORTH - top)
    whole = topography(middle.buffer(1000.0), dome)
    assert math.isnan(whole.aspect_deg)
    assert whole.aspect_sec == 9
    # at the very top differences cancel out: one cell of 1,964
    assert whole.slope_deg == pytest.approx(math.degrees(math.atan(0.3)), abs=0.1)
    half = middle.buffer(1000.0) & box(middle.x, middle.y - 2000, middle.x + 2000, middle.y + 2000)
    assert topography(half, dome).aspect_deg == pytest.approx(90.0, abs=0.5)


def test_the_aspect_is_the_mean_of_unit_vectors_however_steep_each_of_them_is() -> None:
    east, north = centres(60, 70)
    ridge = 30 * STEP_M
    # steep to the east in the north, gentle to the north in the south, the same area of both
    z = np.where(north > -ridge, -1.2 * east, -0.05 * north)
    halves = box(WEST + 400.0, NORTH - 1100.0, WEST + 2000.0, NORTH - 700.0) | box(
        WEST + 400.0, NORTH - 1700.0, WEST + 2000.0, NORTH - 1300.0
    )
    found = [topography(part, model(z)).aspect_deg for part in halves.geoms]
    assert sorted(found) == pytest.approx([0.0, 90.0], abs=1e-6)
    joined = halves | box(WEST + 1160.0, NORTH - 1400.0, WEST + 1170.0, NORTH - 1000.0)
    assert topography(joined, model(z)).aspect_deg == pytest.approx(45.0, abs=0.5)


def test_a_cell_that_the_outline_hardly_touches_is_neither_the_lowest_nor_the_highest() -> None:
    z = np.full((20, 20), 3000.0)
    z[5, 5], z[5, 10] = 2000.0, 4000.0
    inner = box(WEST + 6 * STEP_M, NORTH - 10 * STEP_M, WEST + 10 * STEP_M, NORTH - 4 * STEP_M)
    found = topography(inner.buffer(10.0, join_style="mitre"), model(z))  # a quarter of the cells around it
    assert (found.zmin_m, found.zmax_m) == (3000.0, 3000.0)
    found = topography(inner.buffer(30.0, join_style="mitre"), model(z))
    assert (found.zmin_m, found.zmax_m) == (2000.0, 4000.0)


def test_flat_ice_has_no_aspect() -> None:
    found = topography(star(3), model(np.full((60, 70), 2500.0)))
    assert (found.slope_deg, found.aspect_sec) == (0.0, 9)
    assert found.zmin_m == found.zmed_m == found.zmax_m == 2500.0


@pytest.mark.parametrize("seed", range(4))
def test_cells_count_by_the_share_of_them_that_lies_in_the_outline(seed: int) -> None:
    z = np.random.default_rng(seed).uniform(2000, 3000, (60, 70))
    outline = star(seed)
    west = WEST + np.arange(70) * STEP_M
    north = NORTH - np.arange(60)[:, np.newaxis] * STEP_M
    cells = shapely.box(west, north - STEP_M, west + STEP_M, north)
    share = shapely.area(shapely.intersection(cells, outline)) / STEP_M**2  # exactly
    found = topography(outline, model(z))
    assert found.zmean_m == pytest.approx(np.average(z, weights=share), abs=1.0)
    assert found.zmin_m == pytest.approx(z[share > 0.52].min(), abs=3.0)
    assert found.zmax_m == pytest.approx(z[share > 0.52].max(), abs=3.0)
    order = np.argsort(z.ravel())
    passed = np.cumsum(share.ravel()[order])
    middle = z.ravel()[order][np.searchsorted(passed, passed[-1] / 2)]
    assert found.zmed_m == pytest.approx(middle, abs=5.0)


def test_an_outline_along_pixels_of_ten_metres_counts_exactly() -> None:
    outline = box(WEST + 110.0, NORTH - 370.0, WEST + 250.0, NORTH - 130.0) - box(
        WEST + 150.0, NORTH - 250.0, WEST + 180.0, NORTH - 200.0
    )
    z = np.random.default_rng(9).uniform(2000, 3000, (12, 12))
    fine = np.kron(z, np.ones((4, 4)))
    inside = np.zeros((48, 48), bool)
    inside[13:37, 11:25] = True
    inside[20:25, 15:18] = False
    assert topography(outline, model(z)).zmean_m == pytest.approx(fine[inside].mean(), abs=1e-9)


def test_two_heights_are_two_bands_by_their_areas() -> None:
    z = np.full((40, 40), 2649.9)
    z[:, 25:] = 2800.0
    outline = box(WEST + 400.0, NORTH - 800.0, WEST + 1360.0, NORTH - 400.0)
    found = topography(outline, model(z)).hypsometry
    assert found is not None
    assert found.lowest_m == 2600
    assert found.thousandths == (625, 0, 0, 0, 375)  # 600 m and 360 m of 960


@given(
    st.lists(
        st.tuples(st.floats(-400, 8800, width=32), st.floats(1e-3, 1.0)),
        min_size=1,
        max_size=60,
    )
)
def test_bands_sum_to_a_thousand_and_none_is_off_by_one(cells: list[tuple[float, float]]) -> None:
    z, weight = np.array(cells).T
    found = hypsometry(z, weight)
    assert sum(found.thousandths) == 1000
    for band, share in enumerate(found.thousandths):
        low = found.lowest_m + 50 * band
        exact = 1000 * weight[(z >= low) & (z < low + 50)].sum() / weight.sum()
        assert abs(share - exact) < 1.0
    assert found.thousandths[0] > 0 or 1000 * weight[z < found.lowest_m + 50].sum() < weight.sum()


@given(st.lists(st.floats(0, 4000), min_size=1, max_size=50))
def test_the_median_of_equal_weights_is_numpy_s(values: list[float]) -> None:
    z = np.array(values)
    assert weighted_median(z, np.full(z.size, 0.7)) == pytest.approx(np.median(z), abs=1e-6)


def test_a_double_weight_counts_like_two_cells() -> None:
    z, weight = np.array([1.0, 5.0, 9.0]), np.array([1.0, 1.0, 4.0])
    assert weighted_median(z, weight) == pytest.approx(np.interp(3.0, [0.5, 1.5, 4.0], z))


@given(st.integers(0, 1000), st.integers(1, 3))
def test_a_quarter_turn_of_the_ground_turns_the_aspect_and_leaves_the_rest(seed: int, turns: int) -> None:
    z = plane(14.0, seed % 360, 60, 60) + np.random.default_rng(seed).normal(0, 5, (60, 60))
    outline = star(seed, 800.0)
    middle = WEST + 30 * STEP_M, NORTH - 30 * STEP_M
    turned = shapely.affinity.rotate(outline, 90 * turns, origin=middle)  # like rot90 against the clock
    before, after = topography(outline, model(z)), topography(turned, model(np.rot90(z, turns)))
    assert (after.aspect_deg - before.aspect_deg + 90 * turns + 180) % 360 == pytest.approx(180, abs=0.3)
    assert after.slope_deg == pytest.approx(before.slope_deg, abs=0.05)
    assert after.zmed_m == pytest.approx(before.zmed_m, abs=1.0)


def test_the_terminus_is_the_lowest_point_of_the_outer_ring() -> None:
    outline = star(5)
    z = plane(12.0, 140.0) + np.random.default_rng(5).normal(0, 3, (60, 70))
    found = topography(outline, model(z)).terminus
    assert found is not None
    assert outline.exterior.distance(shapely.Point(found)) < 1e-6
    dense = shapely.get_coordinates(shapely.segmentize(outline.exterior, 1.0))
    at = xr.DataArray(dense[:, 0], dims="p"), xr.DataArray(dense[:, 1], dims="p")
    along = model(z).interp(x=at[0], y=at[1]).values
    here = model(z).interp(x=found[0], y=found[1]).item()
    assert here <= np.percentile(along, 2)
    assert here == pytest.approx(along.min(), abs=2.0)


def test_voids_count_in_nothing_and_their_share_is_told() -> None:
    z = plane(20.0, 90.0)
    outline = box(WEST + 400.0, NORTH - 1200.0, WEST + 1200.0, NORTH - 400.0)
    holed = z.copy()
    holed[:, 20:] = np.nan  # from 800 m, half of the outline
    whole, half = topography(outline, model(z)), topography(outline, model(holed))
    assert whole.void_fraction == 0.0
    assert half.void_fraction == pytest.approx(0.5)
    assert half.zmean_m == pytest.approx(z[10:30, 10:20].mean())
    assert half.slope_deg == pytest.approx(20.0)
    assert half.aspect_deg == pytest.approx(90.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_complete_model_has_no_void_under_the_smallest_glaciers(seed: int) -> None:
    outline = shapely.Point(WEST + 1413.7 + 7.3 * seed, NORTH - 1207.1 + 3.1 * seed).buffer(56.4)
    assert outline.area / 1e6 == pytest.approx(0.01, rel=0.01)
    assert topography(outline, model(plane(20.0, 90.0))).void_fraction == 0.0


def test_what_lies_beyond_the_model_is_void() -> None:
    outline = box(WEST - 400.0, NORTH - 800.0, WEST + 400.0, NORTH - 400.0)
    found = topography(outline, model(plane(20.0, 90.0)))
    assert found.void_fraction == pytest.approx(0.5)
    assert found.slope_deg == pytest.approx(20.0)


@pytest.mark.parametrize("void", ["no data", "elsewhere"])
def test_without_elevation_nothing_is_said(void: str) -> None:
    z = np.full((60, 70), np.nan) if void == "no data" else plane(5.0, 0.0)
    outline = star(1) if void == "no data" else shapely.affinity.translate(star(1), 50_000.0)
    found = topography(outline, model(z))
    assert found.void_fraction == 1.0
    assert (found.terminus, found.hypsometry, found.aspect_sec) == (None, None, 9)
    assert all(math.isnan(value) for value in (found.zmin_m, found.zmed_m, found.slope_deg))


def test_a_glacier_smaller_than_a_cell_has_the_elevation_of_its_cell() -> None:
    found = topography(
        box(WEST + 415.0, NORTH - 425.0, WEST + 425.0, NORTH - 415.0), model(plane(30.0, 45.0))
    )
    assert found.zmin_m == found.zmax_m == found.zmed_m == pytest.approx(plane(30.0, 45.0)[10, 10])
    assert found.void_fraction == 0.0
    assert found.aspect_deg == pytest.approx(45.0)


def test_strips_and_laziness_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = model(plane(20.0, 60.0) + np.random.default_rng(4).normal(0, 9, (60, 70)))
    whole = topography(star(4), z)
    monkeypatch.setattr(topography_module, "_STRIP_ROWS", 7)
    parts = topography(star(4), z.chunk({"y": 16, "x": 16}))
    for name in Topography.__dataclass_fields__:
        if name != "hypsometry":
            assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
    assert parts.hypsometry == whole.hypsometry


def test_sectors_are_those_of_the_rgi() -> None:
    azimuths = [0.0, 22.4, 22.6, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0, 337.4, 337.6, 359.9]
    assert [sector(a) for a in azimuths] == [1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 1]
    assert sector(math.nan) == 9
