"""Labels from real outlines and masks, held against point-in-polygon tests and the masks themselves."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio.features import shapes

from cryoscale.errors import SourceError
from cryoscale.grid import window_over_bounds
from cryoscale.learn.labels import CLEAN_ICE, DEBRIS, LabelRules, label_window
from cryoscale.learn.outlines import read_outlines
from cryoscale.learn.truth import open_truth

HEF = shapely.box(10.65, 46.75, 10.95, 46.95)


def no_index(window):
    return {"ndwi": np.full(window.shape, -0.5, np.float32), "ndvi": np.zeros(window.shape, np.float32)}


@pytest.fixture
def rgi7(shared_data):
    return read_outlines([shared_data / "hintereis" / "rgi7g_hef_complex.shp"], "glacier outlines", [HEF])


def test_rgi_7_outlines_say_which_version_and_dates_they_are_of(rgi7, shared_data):
    source = rgi7.sources[0]
    assert source["polygons"] == 23
    assert source["rgi_version"] == "7.0"
    dates = gpd.read_file(shared_data / "hintereis" / "rgi7g_hef_complex.shp")["src_date"]
    assert source["src_date"] == [str(dates.min())[:10], str(dates.max())[:10]]
    assert rgi7.years == (int(str(dates.min())[:4]), int(str(dates.max())[:4]))
    assert rgi7.meets(HEF)
    assert not rgi7.meets(shapely.box(86.7, 27.8, 87.0, 28.0))


def test_hintereisferner_s_labels_are_the_pixels_whose_centres_lie_in_its_outlines(rgi7):
    """Every hundredth pixel of the complex, by a point-in-polygon test in degrees."""
    window = window_over_bounds(32632, tuple(rgi7.in_zone(32632).total_bounds)).pad(5)
    none = rgi7.frame.iloc[:0]
    labels, _ = label_window(window, glaciers=rgi7.in_zone(32632), debris=none, **no_index(window))
    area_km2 = (labels == CLEAN_ICE).sum() * 1e-4
    # RGI 7's own area, from an equal-area projection; UTM's scale is off by at most 0.08 % of it.
    assert area_km2 == pytest.approx(rgi7.frame["area_km2"].sum(), rel=2e-3)
    y, x = (axis[::10] for axis in window.coordinates())
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    inside = shapely.contains_xy(shapely.union_all(rgi7.frame.geometry.to_numpy()), lon, lat)
    # An outline's straight line in degrees bends by millimetres in metres.
    assert ((labels[::10, ::10] == CLEAN_ICE) != inside).mean() < 2e-4
    assert inside.sum() > 5000


def test_nunataks_of_rgi_7_stay_holes(rgi7):
    metres = rgi7.in_zone(32632)
    holes = [shapely.Polygon(ring) for part in metres.geometry.explode() for ring in part.interiors]
    hole = max(holes, key=lambda h: h.area)
    window = window_over_bounds(32632, hole.bounds)
    labels, _ = label_window(window, glaciers=metres, debris=metres.iloc[:0], **no_index(window))
    y, x = window.coordinates()
    rock = shapely.contains_xy(hole, *np.meshgrid(x, y))
    assert rock.sum() > 10
    assert (labels[rock] == 0).all()


def polygons_of_mask(path):
    with rasterio.open(path) as source:
        mask = (source.read(1) == 1).astype(np.uint8)
        found = shapes(mask, mask=mask == 1, transform=source.transform)
        return (
            gpd.GeoDataFrame(geometry=[shapely.geometry.shape(g) for g, _ in found], crs=source.crs),
            mask,
            source,
        )


def test_liligo_s_masks_come_back_from_their_polygons(shared_data):
    """Ice, firn and debris of 30 m partition the glacier; three by three pixels of 10 m are one of theirs."""
    folder = shared_data / "liligo"
    debris, debris_mask, source = polygons_of_mask(folder / "debrisMask_30m.tif")
    glacier, glacier_mask, _ = polygons_of_mask(folder / "glacierMask_30m.tif")
    west, south, east, north = source.bounds
    # The mask's corner lies 5 m off the lattice: a centre of ours is then on no edge of theirs.
    assert (west % 10, north % 10) == (5, 5)
    window = window_over_bounds(32643, (west, south, east, north))
    labels, _ = label_window(window, glaciers=glacier, debris=debris, **no_index(window))
    y, x = window.coordinates()
    rows, cols = ((north - y) / 30).astype(int), ((x - west) / 30).astype(int)
    rows, cols = np.clip(rows, 0, 479), np.clip(cols, 0, 345)
    known = np.ix_(rows, cols)
    expected = np.where(debris_mask[known] == 1, DEBRIS, np.where(glacier_mask[known] == 1, CLEAN_ICE, 0))
    inner = (slice(1, -1), slice(1, -1))
    on_edge = ((north - y) % 30 == 0)[:, None] | ((x - west) % 30 == 0)
    agree = (labels == expected) | on_edge
    assert agree[inner].all()
    assert (labels == DEBRIS).sum() > 1000
    rim, _ = label_window(
        window, glaciers=glacier, debris=debris, rules=LabelRules(rim_px=2), **no_index(window)
    )
    kept = rim != 255
    assert 0.5 < kept[labels > 0].mean() < 1
    np.testing.assert_array_equal(rim[kept], labels[kept])


def test_a_real_mask_at_30_m_is_off_the_grid_and_its_nan_is_not_background(shared_data):
    path = shared_data / "liligo" / "debrisMask_30m.tif"
    with rasterio.open(path) as source:
        bounds, values = source.bounds, source.read(1)
    window = window_over_bounds(32643, tuple(bounds))
    with (
        pytest.raises(SourceError, match=r"pixels of 30 m.*--resample"),
        open_truth(path, window, on_lattice=True),
    ):
        pass
    with open_truth(path, window) as read:
        found = read(window)
    assert (found == 255).mean() == pytest.approx(np.isnan(values).mean(), abs=0.01)
    assert set(np.unique(found)) == set(np.unique(values[np.isfinite(values)]).astype(int)) | {255}


def test_outlines_are_projected_once_for_a_zone(rgi7):
    assert rgi7.in_zone(32632) is rgi7.in_zone(32632)
    assert rgi7.in_zone(32633).crs == 32633
