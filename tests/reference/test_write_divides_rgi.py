"""Divides against those that people drew: the complex of Hintereisferner in the RGI 7, Columbia Glacier."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.warp import Resampling, reproject

from cryoscale.write.divides import Divided, carry, divide
from cryoscale.write.flowsheds import Terrain
from cryoscale.write.partition import borders_of


def terrain_around(path: Path, outline: shapely.Geometry, epsg: int, cell_m: float) -> Terrain:
    """An elevation model on cells of the given size in a UTM zone, NaN beyond it."""
    west, south, east, north = shapely.buffer(outline, 600).bounds
    affine = Affine(cell_m, 0, west, 0, -cell_m, north)
    elevation = np.full((int((north - south) / cell_m), int((east - west) / cell_m)), np.nan, np.float32)
    with rasterio.open(path) as model:
        reproject(
            model.read(1).astype(np.float32),
            elevation,
            src_transform=model.transform,
            src_crs=model.crs,
            dst_transform=affine,
            dst_crs=f"EPSG:{epsg}",
            dst_nodata=np.nan,
            resampling=Resampling.cubic_spline,
        )
    return Terrain(elevation, affine)


@pytest.fixture(scope="module")
def hintereis(shared_data: Path) -> tuple[gpd.GeoDataFrame, shapely.Polygon, Terrain]:
    """The glaciers, their complex, and SRTM of 90 m resampled to 30 m; it covers all but the north-east."""
    folder = shared_data / "hintereis"
    glaciers = gpd.read_file(folder / "rgi7g_hef_complex.shp").to_crs(32632)
    (outline,) = gpd.read_file(folder / "rgi7c_hef.shp").to_crs(32632).geometry
    return glaciers, outline, terrain_around(folder / "hef_srtm.tif", outline, 32632, 30.0)


def score(found: Divided, glaciers: gpd.GeoDataFrame, terrain: Terrain) -> tuple[float, int]:
    """Area-weighted mean, over glaciers that the terrain covers by half, of the best IoU there; how many."""
    known = np.isfinite(terrain.elevation)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    west, north = terrain.affine * (columns[0], rows[0])
    east, south = terrain.affine * (columns[-1] + 1, rows[-1] + 1)
    covered = shapely.box(west, south, east, north)
    ours, areas, best = shapely.intersection(found.polygons, covered), [], []
    for glacier in glaciers.geometry:
        there = glacier.intersection(covered)
        if there.area > glacier.area / 2:
            common = shapely.area(shapely.intersection(ours, there))
            best.append((common / (shapely.area(ours) + there.area - common)).max())
            areas.append(there.area)
    return float(np.average(best, weights=areas)), len(areas)


def test_terrain_alone_divides_the_complex_of_hintereisferner_nearly_as_the_rgi_does(hintereis) -> None:
    glaciers, outline, terrain = hintereis
    found = divide(outline, terrain)
    iou, count = score(found, glaciers, terrain)
    assert count == 21
    assert iou >= 0.84  # 0.80 is asked for, 0.85 is reached
    assert 23 <= found.polygons.size <= 40
    assert shapely.coverage_is_valid(found.polygons)
    assert shapely.area(found.polygons).sum() == pytest.approx(outline.area, rel=1e-12)
    largest = glaciers.geometry[glaciers.area.idxmax()]
    assert (
        shapely.intersection(found.polygons[np.argmax(shapely.area(found.polygons))], largest).area
        > 0.75 * largest.area
    )


def test_divides_of_the_rgi_are_carried_forward_to_the_same_ice_exactly(hintereis) -> None:
    glaciers, outline, terrain = hintereis
    found = carry(outline, np.asarray(glaciers.geometry.array, object), terrain)
    assert found.older.tolist() == list(range(len(glaciers)))
    assert set(found.source) == {"rgi"}
    assert shapely.area(found.polygons) == pytest.approx(glaciers.area.to_numpy(), rel=1e-9)


@pytest.mark.parametrize("shift_m", [(0.0, 0.0), (25.0, -15.0)])
def test_divides_of_the_rgi_are_carried_forward_to_ice_mapped_anew(
    hintereis, shift_m: tuple[float, float]
) -> None:
    # ice that lost 20 m all around, or that lies off the older outlines by most of an image's pixels
    glaciers, outline, terrain = hintereis
    mapped = shapely.affinity.translate(outline.buffer(-20.0), *shift_m)
    found = carry(mapped, np.asarray(glaciers.geometry.array, object), terrain)
    truth = gpd.GeoDataFrame(geometry=glaciers.intersection(mapped), crs=32632)
    iou, _ = score(found, truth, terrain)
    assert iou >= 0.98
    assert (found.source == "rgi").all()
    assert shapely.coverage_is_valid(found.polygons)


def test_a_glacier_that_the_older_inventory_lacks_is_found_by_the_terrain(hintereis) -> None:
    glaciers, outline, terrain = hintereis
    hintereisferner = glaciers.index[glaciers["glac_name"] == "Hintereisferner"][0]
    others = np.asarray(glaciers.geometry.drop(hintereisferner).array, object)
    found = carry(outline, others, terrain)
    new = found.polygons[found.source == "dem"]
    assert (
        shapely.area(shapely.intersection(new, glaciers.geometry[hintereisferner])).sum()
        > 0.95 * shapely.area(new).sum()
    )
    assert new[0].area > 0.7 * glaciers.area[hintereisferner]


def test_shared_divides_are_as_long_as_the_rgi_says(shared_data: Path) -> None:
    folder = shared_data / "hintereis"
    glaciers = gpd.read_file(folder / "rgi7g_hef_complex.shp")
    found = borders_of(np.asarray(glaciers.geometry.array, object))
    names = glaciers["rgi_id"].to_numpy()[found.pairs].tolist()
    published = gpd.read_file(folder / "rgi7g_hef_intersects.shp")
    expected = published.groupby(["rgi_g_id_1", "rgi_g_id_2"])["length_m"].sum()
    lengths = [Geod(ellps="WGS84").geometry_length(line) for line in found.lines]
    ours = pd.Series(lengths, pd.MultiIndex.from_tuples(map(tuple, names)))
    assert ours[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-3)
    (hintereisferner,) = gpd.read_file(folder / "rgi7g_hef.shp")["rgi_id"]
    assert sum(hintereisferner in pair for pair in ours.index) == len(expected)


def test_a_glacier_of_935_km2_with_many_branches_stays_one(shared_data: Path) -> None:
    folder = shared_data / "columbia"
    (outline,) = gpd.read_file(folder / "01_rgi60_Columbia.shp").to_crs(32606).geometry
    found = divide(outline, terrain_around(folder / "dem_Columbia.tif", outline, 32606, 80.0))
    assert shapely.area(found.polygons).max() > 0.97 * outline.area
    assert found.polygons.size < 12
