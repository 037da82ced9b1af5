"""However odd ice, terrain and older glaciers are: the glaciers are a partition of the ice."""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cryoscale.write.divides import Divided, Least, carry, divide
from cryoscale.write.flowsheds import Rules, Terrain
from cryoscale.write.partition import borders_of

SIZE_PX, CELL_M = 70, 40.0
SMALL = Rules(smoothing_m=30.0, pass_m=20.0, least_km2=0.02)
"""Many small glaciers."""
seeds = st.integers(0, 2**32 - 1)


def rough_terrain(rng: np.random.Generator) -> Terrain:
    """Hills, with gaps and sometimes with steps that make flats."""
    relief = ndimage.gaussian_filter(rng.normal(size=(SIZE_PX, SIZE_PX)), rng.uniform(1.5, 6.0))
    elevation = 3000.0 + 300.0 * relief / relief.std()
    if rng.random() < 0.3:
        elevation = np.floor(elevation / 50.0) * 50.0
    gaps = ndimage.gaussian_filter(rng.normal(size=elevation.shape), 4.0)
    elevation[gaps > np.quantile(gaps, rng.uniform(0.7, 1.0))] = np.nan
    return Terrain(elevation.astype(np.float32), Affine(CELL_M, 0, 400_000, 0, -CELL_M, 5_000_000))


def ragged_ice(rng: np.random.Generator) -> shapely.Geometry:
    """An outline with inlets, necks and holes, that may reach beyond the terrain; often of several parts."""
    centre = np.array([400_000, 5_000_000]) + np.array([1, -1]) * CELL_M * SIZE_PX / 2
    bodies = shapely.points(centre + rng.uniform(-1300, 1300, (9, 2)))
    ice = shapely.union_all(shapely.buffer(bodies, rng.uniform(100, 600, 9), quad_segs=4))
    holes = shapely.points(centre + rng.uniform(-1300, 1300, (12, 2)))
    return ice.difference(shapely.union_all(shapely.buffer(holes, rng.uniform(5, 200, 12), quad_segs=3)))


def assert_partition(found: Divided, ice: shapely.Geometry) -> None:
    assert shapely.coverage_is_valid(found.polygons)
    assert shapely.is_valid(found.polygons).all()
    assert {polygon.geom_type for polygon in found.polygons} == {"Polygon"}
    assert np.isclose(shapely.area(found.polygons).sum(), ice.area, rtol=1e-10, atol=0)
    # what is border and not outline is there twice
    shared = borders_of(found.polygons).length.sum()
    assert np.isclose(shapely.length(found.polygons).sum(), ice.length + 2 * shared, rtol=1e-9)
    assert set(map(tuple, shapely.get_coordinates(ice))) <= set(
        map(tuple, shapely.get_coordinates(found.polygons))
    )


@given(seeds)
@settings(max_examples=15)
def test_glaciers_by_terrain_are_a_partition_of_the_ice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ice = ragged_ice(rng)
    found = divide(ice, rough_terrain(rng), SMALL)
    assert_partition(found, ice)
    parts = shapely.get_parts(ice)
    of_part = [
        shapely.area(found.polygons[parts[at].covers(shapely.point_on_surface(found.polygons))])
        for at in range(len(parts))
    ]
    for part, areas in zip(parts, of_part, strict=True):
        assert areas.min() >= min(SMALL.least_km2 * 1e6, part.area) * (1 - 1e-9)


@given(seeds)
@settings(max_examples=15)
def test_glaciers_carried_forward_are_a_partition_and_old_ice_stays_with_its_glacier(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ice, before, terrain = ragged_ice(rng), ragged_ice(rng), rough_terrain(rng)
    sites = shapely.MultiPoint(shapely.get_coordinates(before)[:: rng.integers(5, 30)])
    cells = shapely.get_parts(shapely.voronoi_polygons(sites, extend_to=before))
    older = shapely.get_parts(shapely.intersection(cells, before))
    older = older[shapely.get_type_id(older) == shapely.GeometryType.POLYGON]
    least_km2 = rng.choice([0.0, 0.01, 0.05])
    found = carry(ice, older, terrain if rng.random() < 0.7 else None, SMALL, Least(least_km2))
    assert_partition(found, ice)
    for part in shapely.get_parts(ice):
        own = found.polygons[part.covers(shapely.point_on_surface(found.polygons))]
        assert shapely.area(own).min() >= min(least_km2 * 1e6, part.area) * (1 - 1e-9)
    for polygon, owner in zip(found.polygons, found.older.tolist(), strict=True):
        others = np.delete(older, owner) if owner >= 0 else older
        # only scraps change hands
        assert (
            shapely.area(shapely.get_parts(shapely.intersection(others, polygon))).max(initial=0)
            <= max(10_000.0, least_km2 * 1e6) + 1.0
        )
