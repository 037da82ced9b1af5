"""Complexes with known divides, and what has none."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from shapely.affinity import translate
from shapely.geometry import LineString, MultiPolygon, Point, box

from cryoscale.errors import InputError
from cryoscale.write.divides import Divided, Least, carry, divide
from cryoscale.write.flowsheds import Rules, Terrain, absorb
from cryoscale.write.partition import borders_of
from tests.terrains import CELL_M, NORTH, WEST, terrain, valleys

UTM = "EPSG:32632"


def local(shape: shapely.Geometry) -> shapely.Geometry:
    """A shape in metres east and south of the corner, on the map."""
    return shapely.transform(shape, lambda xy: np.column_stack([WEST + xy[:, 0], NORTH - xy[:, 1]]))


def is_partition(found: Divided, outline: shapely.Geometry) -> bool:
    """Whether glaciers have neither gap nor overlap, are of one piece, and keep the outline's vertices."""
    vertices, kept = (set(map(tuple, shapely.get_coordinates(one))) for one in (outline, found.polygons))
    return bool(
        shapely.coverage_is_valid(found.polygons)
        and shapely.is_valid(found.polygons).all()
        and {polygon.geom_type for polygon in found.polygons} == {"Polygon"}
        and vertices <= kept
        and np.isclose(shapely.area(found.polygons).sum(), outline.area, rtol=1e-12, atol=0)
    )


ROOF = terrain(lambda x, y: 3500 - 0.3 * np.abs(x - 3010) - 0 * y, 6000, 4000)
ON_ROOF = local(box(1000, 1000, 5000, 3000))


def test_a_roof_is_divided_along_its_ridge_exactly_to_a_cell() -> None:
    found = divide(ON_ROOF, ROOF)
    assert is_partition(found, ON_ROOF)
    assert found.polygons.size == 2
    (line,) = borders_of(found.polygons).lines
    assert np.abs(shapely.get_coordinates(line)[:, 0] - (WEST + 3010)).max() <= CELL_M
    assert line.length == pytest.approx(2000, rel=0.01)
    assert set(found.source) == {"dem"}


def test_a_divide_has_no_staircase() -> None:
    azimuth = np.radians(30)
    slanted = terrain(
        lambda x, y: 3500 - 0.4 * np.abs((x - 3000) * np.cos(azimuth) + (y - 2500) * np.sin(azimuth)),
        6000,
        5000,
    )
    found = divide(local(box(1000, 800, 5000, 4200)), slanted)
    (line,) = borders_of(found.polygons).lines
    ends = shapely.get_coordinates(line)[[0, -1]]
    # the stairs of cells would be a third longer than the straight line
    assert line.length < 1.03 * np.hypot(*(ends[1] - ends[0]))


def test_a_plane_is_one_glacier_whichever_way_it_falls() -> None:
    for east, south in ((0.0, 0.2), (0.13, 0.15), (-0.2, 0.01), (0.0, 0.0)):
        plane = terrain(lambda x, y, e=east, s=south: 3000 - e * x - s * y, 6000, 6000)
        outline = local(Point(3000, 3000).buffer(2000))
        assert divide(outline, plane).polygons.tolist() == [outline]


def test_a_tributary_belongs_to_the_glacier_that_it_joins() -> None:
    lines = [(3000, 500, 3600, 3000, 7500, 2500), (6500, 2000, 3600, 3000, 5000, 2900)]
    outline = local(
        shapely.union_all([LineString([(x0, y0), (x1, y1)]).buffer(450) for x0, y0, _, x1, y1, _ in lines])
    )
    assert divide(outline, terrain(valleys(lines, 0.35), 8000, 8500)).polygons.size == 1


def test_valleys_that_share_a_col_are_two_glaciers() -> None:
    lines = [(3000, 3900, 3500, 3000, 500, 2500), (3000, 4100, 3500, 3000, 7500, 2500)]
    outline = local(box(2500, 800, 3500, 7200))
    found = divide(outline, terrain(valleys(lines, 0.35), 6000, 8000))
    assert is_partition(found, outline)
    assert found.polygons.size == 2
    assert shapely.get_coordinates(borders_of(found.polygons).lines)[:, 1] == pytest.approx(
        NORTH - 4000, abs=CELL_M
    )


def cap(lobes: int) -> Terrain:
    """An ice cap of 5 km radius; between its lobes the rim stands 400 m above their ends."""

    def surface(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        away, azimuth = np.hypot(x - 6000, y - 6000), np.arctan2(y - 6000, x - 6000)
        return 2000 - 0.1 * away - 0.04 * away * np.cos(lobes * azimuth) * bool(lobes)

    return terrain(surface, 12_000, 12_000, 60.0)


def test_an_even_ice_cap_is_one_glacier() -> None:
    assert divide(local(Point(6000, 6000).buffer(5000)), cap(0)).polygons.size == 1


def test_an_ice_cap_with_outlets_is_cut_in_equal_sectors() -> None:
    outline = local(Point(6000, 6000).buffer(5000))
    found = divide(outline, cap(4))
    assert is_partition(found, outline)
    assert shapely.area(found.polygons) == pytest.approx(outline.area / 4, rel=0.02)


def test_ice_flows_around_a_nunatak_and_into_a_valley() -> None:
    def crater(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 3000 - 0.3 * np.abs(np.hypot(x - 6000, y - 6000) - 3000)

    ring = local(Point(6000, 6000).buffer(4500).difference(Point(6000, 6000).buffer(1500)))
    found = divide(ring, terrain(crater, 12_000, 12_000, 60.0))
    assert is_partition(found, ring)
    radii = np.sqrt([polygon.envelope.area / 4 for polygon in found.polygons])
    assert sorted(radii) == pytest.approx([3000, 4500], abs=60)

    slope = terrain(lambda x, y: 3000 - 0.2 * y - 0 * x, 6000, 6000)
    holed = local(box(1000, 1000, 5000, 5000).difference(Point(3000, 3000).buffer(400)))
    assert divide(holed, slope).polygons.size == 1


def test_a_complex_without_elevation_stays_whole_and_says_so() -> None:
    elsewhere = translate(ON_ROOF, 50_000, -80_000)
    blank = Terrain(np.full((50, 50), np.nan, np.float32), ROOF.affine)
    for outline, model in (
        (ON_ROOF, None),
        (elsewhere, ROOF),
        (translate(ON_ROOF, 0, 9_000), ROOF),
        (ON_ROOF, blank),
    ):
        found = divide(outline, model)
        assert found.polygons.tolist() == [outline]
        assert found.source.tolist() == ["none"]


def test_ice_without_elevation_stays_with_its_neighbour() -> None:
    gappy = ROOF.elevation.copy()
    gappy[:, 100:] = np.nan  # east of 4,000 m, of ice from 3,010 to 5,000 m
    found = divide(ON_ROOF, Terrain(gappy, ROOF.affine))
    assert is_partition(found, ON_ROOF)
    assert found.polygons.size == 2


def test_the_bodies_of_several_parts_are_told_apart() -> None:
    both = MultiPolygon([local(box(1000, 1000, 2500, 3000)), local(box(3500, 1000, 5000, 3000))])
    assert divide(both, ROOF).polygons.tolist() == list(both.geoms)


@pytest.mark.parametrize("size_m", [0.5, 9.0, 45.0])
def test_ice_smaller_than_a_cell_is_one_glacier(size_m: float) -> None:
    outline = local(box(3000, 2000, 3000 + size_m, 2000 + size_m))
    assert divide(outline, ROOF).polygons.tolist() == [outline]
    assert carry(outline, np.array([ON_ROOF], object), ROOF).older.tolist() == [0]


def test_slivers_go_to_the_neighbour_with_the_longest_border() -> None:
    # 3 meets 0 along 5 and 1 along 2; 4 meets only 3; 2 is small but meets nobody
    pairs = np.array([[0, 1], [0, 3], [1, 3], [3, 4]])
    goes_to = absorb(np.array([9.0, 8.0, 0.1, 1.0, 0.5]), np.full(5, 2.0), pairs, np.array([1.0, 5, 2, 1]))
    assert goes_to.tolist() == [0, 1, 2, 0, 0]
    # two slivers together may be large enough
    goes_to = absorb(
        np.array([9.0, 1.5, 1.0]), np.full(3, 2.0), np.array([[0, 1], [1, 2]]), np.array([1.0, 3.0])
    )
    assert goes_to.tolist() == [0, 1, 1]


# --- carried forward ------------------------------------------------------------------------------


def older_glaciers() -> gpd.GeoDataFrame:
    """Three glaciers on the roof, whose divides are not where the terrain has its own."""
    shapes = [box(1000, 1000, 2500, 3000), box(2500, 1000, 5000, 1800), box(2500, 1800, 5000, 3000)]
    return gpd.GeoDataFrame({"rgi_id": ["A", "B", "C"]}, geometry=[local(shape) for shape in shapes], crs=UTM)


def test_older_divides_stay_where_they_were() -> None:
    older = older_glaciers()
    found = carry(ON_ROOF, np.asarray(older.geometry.array, object), ROOF)
    assert found.older.tolist() == [0, 1, 2]
    assert shapely.equals(found.polygons, older.geometry.array).all()
    assert found.source.tolist() == ["rgi"] * 3


@pytest.mark.parametrize("model", [ROOF, None], ids=["terrain", "none"])
def test_ice_that_came_later_goes_to_the_next_glacier_and_ice_that_went_leaves_the_rest(
    model: Terrain | None,
) -> None:
    older = np.asarray(older_glaciers().geometry.array, object)
    grown = local(box(800, 1150, 5300, 3200))
    found = carry(grown, older, model)
    assert is_partition(found, grown)
    assert found.older.tolist() == [0, 1, 2]
    for polygon, before in zip(found.polygons, older, strict=True):
        assert polygon.covers(before.intersection(grown).buffer(-1e-6))
    expected = [
        local(box(800, 1150, 2500, 3200)),
        local(box(2500, 1150, 5300, 1800)),
        local(box(2500, 1800, 5300, 3200)),
    ]
    for polygon, whole in zip(found.polygons, expected, strict=True):
        assert polygon.intersection(whole).area > 0.98 * whole.area


def test_new_ice_keeps_to_its_flowshed_where_the_terrain_knows_it() -> None:
    older = np.array([local(box(1000, 1000, 2400, 3000)), local(box(3100, 1000, 5000, 3000))], object)
    by_flow, by_distance = carry(ON_ROOF, older, ROOF), carry(ON_ROOF, older, None)
    (ridge,), (middle,) = borders_of(by_flow.polygons).lines, borders_of(by_distance.polygons).lines
    assert shapely.get_coordinates(ridge)[:, 0] == pytest.approx(WEST + 3010, abs=CELL_M)
    assert shapely.get_coordinates(middle)[:, 0] == pytest.approx(WEST + 2750, abs=30)


def test_ice_in_a_flowshed_of_its_own_is_a_new_glacier() -> None:
    older = np.array([local(box(1000, 1000, 3200, 3000))], object)
    found = carry(ON_ROOF, older, ROOF)
    assert is_partition(found, ON_ROOF)
    assert list(zip(found.older.tolist(), found.source, strict=True)) == [(0, "rgi"), (-1, "dem")]
    assert found.polygons[0].area == pytest.approx(older[0].area, rel=1e-9)


def test_parts_of_a_glacier_that_fell_apart_go_on_from_it() -> None:
    older = np.asarray(older_glaciers().geometry.array, object)
    pieces = [
        local(box(1000, 1000, 2500, 1700)),
        local(box(1000, 1900, 2500, 3000)),
        local(box(2600, 1000, 4900, 3000)),
    ]
    assert carry(shapely.MultiPolygon(pieces), older, ROOF).older.tolist() == [0, 0, 1, 2]


def test_a_scrap_of_a_neighbour_s_outline_makes_no_glacier() -> None:
    older = np.array([local(box(1000, 1000, 4996, 3000)), local(box(4996, 1000, 9000, 3000))], object)
    assert carry(ON_ROOF, older, ROOF).older.tolist() == [0]  # 4 m of the second reach on the ice


@pytest.mark.parametrize(("south_m", "stays"), [(1100, False), (1160, True)])  # 0.0068 and 0.0109 km2 of it
def test_what_is_left_of_a_small_glacier_stays_one_where_it_is_large_enough(
    south_m: int, stays: bool
) -> None:
    ice, small = local(box(1000, 1000, 1400, 1400)), local(box(1332, 980, 1432, south_m))
    older = np.array([ice.difference(small), small], object)
    assert carry(ice, older, None).older.tolist() == [0, 1]  # more than half of it, and no least area
    found = carry(ice, older, None, least=Least(0.01))
    assert found.older.tolist() == ([0, 1] if stays else [0])
    assert is_partition(found, ice)


def test_glaciers_below_the_least_area_go_to_the_neighbour_with_the_longest_border() -> None:
    # the second has 800 m in common with the first, 400 m with the third, 600 m with the last
    shapes = [box(1000, 1000, 2500, 3000), box(2500, 1000, 2700, 1800), box(2700, 1000, 5000, 1600)]
    shapes.insert(2, box(2500, 1000, 5000, 3000).difference(shapely.union_all(shapes)))
    older = np.array([local(shape) for shape in shapes], object)
    found = carry(ON_ROOF, older, ROOF, least=Least(0.2))
    assert is_partition(found, ON_ROOF)
    assert found.older.tolist() == [0, 2, 3]
    assert found.polygons[0].equals(older[0] | older[1])
    assert carry(ON_ROOF, older, ROOF, least=Least(0.1)).older.tolist() == [0, 1, 2, 3]


def test_new_glaciers_are_held_to_the_least_area_too() -> None:
    nothing = np.empty(0, object)
    assert carry(ON_ROOF, nothing, ROOF, least=Least(3.9)).polygons.size == 2  # of 4 km2 each
    assert carry(ON_ROOF, nothing, ROOF, least=Least(4.1)).polygons.size == 1
    half = Least(2.1, lambda parts: shapely.area(parts) / 2)
    assert carry(ON_ROOF, nothing, ROOF, least=half).polygons.size == 1


def test_heights_of_vertices_are_left_out() -> None:
    older = np.asarray(older_glaciers().geometry.array, object)
    flat, high = (
        carry(ON_ROOF, older, ROOF),
        carry(shapely.force_3d(ON_ROOF, 9.0), shapely.force_3d(older, 7.0), ROOF),
    )
    assert not shapely.has_z(high.polygons).any()
    assert shapely.equals_exact(flat.polygons, high.polygons).all()


def test_without_older_glaciers_the_terrain_divides() -> None:
    far = np.asarray(older_glaciers().translate(90_000, 0).array, object)
    for older in (far[:0], far):
        found = carry(ON_ROOF, older, ROOF)
        assert found.older.tolist() == [-1, -1]
        assert found.source.tolist() == ["dem", "dem"]


def test_shared_divides_are_told_pair_by_pair() -> None:
    older = np.asarray(older_glaciers().geometry.array, object)
    assert borders_of(older).pairs.tolist() == [[1, 2]]  # the first one's corner lies on no vertex of theirs
    found = borders_of(carry(ON_ROOF, older, ROOF).polygons)
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert found.length.tolist() == pytest.approx([800, 1200, 2500])


# --- bad input ------------------------------------------------------------------------------------


def test_an_elevation_model_in_degrees_or_upside_down_will_not_do() -> None:
    for affine in (Affine(30, 0, 0, 0, 30, 0), Affine(30, 0, 0, 0, -60, 0), Affine(30, 1, 0, 1, -30, 0)):
        with pytest.raises(InputError, match="north up and square cells"):
            Terrain(np.zeros((3, 3), np.float32), affine)


def test_rules_decide_what_is_one_glacier() -> None:
    # two tongues side by side; the ridge between them is 400 m from their ends and some 150 m higher
    lines = [(x, 500, 3400, x, 5500, 2400) for x in (2600, 3400)]
    side_by_side = terrain(valleys(lines, 0.4), 6000, 6000)
    outline = local(box(2200, 1000, 3800, 5000))  # 3.2 km2 to each: the published reach is 640 m

    def count(**rules: float) -> int:
        return divide(outline, side_by_side, Rules(smoothing_m=0.0, **rules)).polygons.size

    assert count() == 1
    assert count(reach=0.2) == 2
    assert count(reach_most_m=350.0) == 2
    assert count(reach_up_m=130.0) == 2
    assert count(reach=0.2, pass_m=130.0) == 2
    assert count(reach=0.2, pass_m=170.0) == 1
    assert count(reach=0.2, least_km2=3.5) == 1


def test_the_surroundings_of_a_wide_glacier_do_not_reach_over_its_ridge() -> None:
    wide = local(box(2500, 200, 3520, 5800))
    ridge = terrain(lambda x, y: 3500 - 0.6 * np.abs(x - 3010) - 0 * y, 6000, 6000)
    assert divide(wide, ridge).polygons.size == 2  # the ridge is 510 m from the eaves, the reach 610 m
