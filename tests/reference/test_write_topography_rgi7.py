"""The glaciers around Hintereisferner: against the RGI 7's own figures, and against GDAL.

The RGI 7 took the Copernicus DEM of 2011 to 2015, the sample is SRTM of 2000 at three arc seconds, so that
figures differ by what the ice has lost and by what 90 m do not resolve. Three of the 23 glaciers reach
beyond the sample and are left out.
"""

from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from rasterio.features import geometry_mask

from cryoscale.grid import Window
from cryoscale.read.assets import BANDS
from cryoscale.read.lattice import ArraySource, Lattice
from cryoscale.read.sample import resample
from cryoscale.write import quicklook
from cryoscale.write.ground import Ground
from cryoscale.write.topography import topography
from cryoscale.write.zonal import affine_of
from tests.reference.conftest import gdaldem

EPSG = 32632


@pytest.fixture(scope="module")
def elevation(shared_data):
    """The sample on 40 m of the zone's grid, brought there as a run does."""
    with rasterio.open(shared_data / "hintereis" / "hef_srtm.tif") as raster:
        source = ArraySource(
            Lattice("EPSG:4326", tuple(raster.transform)[:6], *raster.shape),
            raster.read(1).astype(np.float32),
        )
    window = Window(EPSG, -519_840, 62_240, 2800, 2560)
    z = quicklook.thinned(resample(source, window.geobox, BANDS["elevation"].resampling))
    y, x = (axis.reshape(-1, quicklook.FACTOR).mean(axis=1) for axis in window.coordinates())
    return xr.DataArray(z, dims=("y", "x"), coords={"y": y, "x": x})


@pytest.fixture(scope="module")
def glaciers(shared_data):
    return gpd.read_file(shared_data / "hintereis" / "rgi7g_hef_complex.shp")


@pytest.fixture(scope="module")
def differences(elevation, glaciers):
    """Ours less the RGI's, a row a glacier that the sample covers."""
    ground = Ground({EPSG: elevation}, "SRTM")
    rows = []
    for glacier in glaciers.itertuples():
        ours = ground.under(glacier.geometry).values
        if ours["dem_void_fraction"] > 0.02:
            continue
        per_degree = 111_320 * math.cos(math.radians(glacier.termlat))
        row = {
            name: ours[name] - getattr(glacier, name) for name in ("zmin_m", "zmax_m", "zmed_m", "zmean_m")
        }
        row["slope_deg"] = ours["slope_deg"] - glacier.slope_deg
        row["aspect_deg"] = (ours["aspect_deg"] - glacier.aspect_deg + 180) % 360 - 180
        row["sectors"] = min((ours["aspect_sec"] - glacier.aspect_sec) % 8, 1)
        row["lmax"] = ours["lmax_m"] / glacier.lmax_m - 1
        row["terminus_m"] = math.hypot(
            (ours["termlon"] - glacier.termlon) * per_degree, (ours["termlat"] - glacier.termlat) * 111_320
        )
        rows.append(row)
    return pd.DataFrame(rows)


def test_elevations_are_those_of_the_rgi_within_what_the_models_differ(differences):
    assert len(differences) == 20
    middle = differences.abs().median()
    assert middle["zmed_m"] < 30.0
    assert middle["zmean_m"] < 30.0
    assert middle["zmin_m"] < 40.0
    assert middle["zmax_m"] < 40.0
    assert differences["zmed_m"].abs().max() < 60.0


def test_slopes_and_aspects_are_those_of_the_rgi(differences):
    assert differences["slope_deg"].abs().median() < 1.5
    assert differences["aspect_deg"].abs().median() < 10.0
    assert differences["sectors"].sum() <= 3


def test_lengths_and_termini_are_those_of_the_rgi(differences):
    assert differences["lmax"].abs().median() < 0.05
    assert differences["lmax"].abs().mean() < 0.10
    assert differences["terminus_m"].median() < 60.0


def test_figures_of_the_rgi_are_missed_where_the_ground_is_another(elevation, glaciers):
    # what the bounds above are worth: the same glaciers 1 km to the east
    ground = Ground({EPSG: elevation.assign_coords(x=elevation["x"] - 1000.0)}, "SRTM")
    off = []
    for glacier in glaciers.itertuples():
        ours = ground.under(glacier.geometry).values
        if ours["dem_void_fraction"] < 0.02:
            off.append(abs(ours["slope_deg"] - glacier.slope_deg))
    assert np.median(off) > 1.5


def test_statistics_are_those_of_gdal_s_slope_and_a_brute_force_mask(
    gdal,
    tmp_path,
    elevation,
    glaciers,
):
    shapes = glaciers.geometry.to_crs(EPSG)
    # the helper lays arrays on a grid of 10 m, so that a quarter of the height has the slope of the whole
    slope = gdaldem(gdal, tmp_path, elevation.values / 4, "slope", alg="ZevenbergenThorne")
    affine = affine_of(elevation)
    for shape in shapes:
        ours = topography(shape, elevation)
        if ours.void_fraction > 0.02:
            continue
        left, top = (int(v) for v in ~affine * (shape.bounds[0], shape.bounds[3]))
        right, bottom = (int(v) + 1 for v in ~affine * (shape.bounds[2], shape.bounds[1]))
        part = np.s_[top:bottom, left:right]
        z = np.kron(elevation.values[part], np.ones((20, 20)))
        fine = affine * affine.translation(left, top) * affine.scale(1 / 20)
        inside = geometry_mask([shape], z.shape, fine, invert=True)
        steep = np.kron(slope[part], np.ones((20, 20)))
        assert ours.zmean_m == pytest.approx(z[inside].mean(), abs=0.3)
        # between the elevations of two cells, which are far apart where there are few
        assert ours.zmed_m == pytest.approx(np.median(z[inside]), abs=1.0 if shape.area > 1e5 else 5.0)
        assert ours.slope_deg == pytest.approx(np.nanmean(steep[inside]), abs=0.05)
