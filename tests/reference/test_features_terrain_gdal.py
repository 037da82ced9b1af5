"""Slope and aspect against GDAL's own gdaldem, called in the GDAL that rasterio brings along."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from cryoscale.features.terrain import slope_aspect
from cryoscale.simulate.strata import slope_deg as simulated_slope


@pytest.fixture(scope="module")
def gdal():
    """libgdal as ctypes sees it: beside rasterio where that is a wheel, else the system's."""
    bundled = sorted(Path(rasterio.__file__).parent.parent.glob("rasterio.libs/libgdal*"))
    path = str(bundled[0]) if bundled else ctypes.util.find_library("gdal")
    if path is None:
        pytest.skip("no libgdal beside rasterio and none on the system")
    library = ctypes.CDLL(path)
    library.GDALOpen.restype = ctypes.c_void_p
    library.GDALOpen.argtypes = [ctypes.c_char_p, ctypes.c_int]
    library.GDALClose.argtypes = [ctypes.c_void_p]
    library.GDALDEMProcessingOptionsNew.restype = ctypes.c_void_p
    library.GDALDEMProcessingOptionsNew.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_void_p]
    library.GDALDEMProcessingOptionsFree.argtypes = [ctypes.c_void_p]
    library.GDALDEMProcessing.restype = ctypes.c_void_p
    library.GDALDEMProcessing.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_int),
    ]
    library.GDALAllRegister()
    return library


def gdaldem(gdal, folder, z, mode, *options, alg="Horn"):
    """``gdaldem MODE -alg ALG OPTIONS`` of an array on a 10 m grid."""
    source, target = folder / "z.tif", folder / f"{mode}.tif"
    profile = {"driver": "GTiff", "height": z.shape[0], "width": z.shape[1], "count": 1, "dtype": "float32"}
    grid = from_origin(500_000, 3_100_000, 10, 10)
    with rasterio.open(source, "w", crs="EPSG:32645", transform=grid, nodata=np.nan, **profile) as raster:
        raster.write(z, 1)
    words = [b"-alg", alg.encode(), *(option.encode() for option in options), None]
    given = gdal.GDALDEMProcessingOptionsNew((ctypes.c_char_p * len(words))(*words), None)
    opened = gdal.GDALOpen(str(source).encode(), 0)
    made = gdal.GDALDEMProcessing(str(target).encode(), opened, mode.encode(), None, given, None)
    assert made, "gdaldem failed"
    for handle in (made, opened):
        gdal.GDALClose(handle)
    gdal.GDALDEMProcessingOptionsFree(given)
    with rasterio.open(target) as raster:
        return raster.read(1, masked=True).filled(np.nan)


def rough(shape=(80, 90)):
    """Smoothed noise on a tilt: ridges, hollows, steps."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (3.0 * x - 1.5 * y + 60 * np.sin(x / 7) * np.cos(y / 5) + rng.normal(0, 4, shape)).astype(
        np.float32
    )


def tilted():
    y, x = np.mgrid[:30, :40]
    return (4.0 * x + 2.0 * y).astype(np.float32)


@pytest.mark.parametrize("make", [tilted, rough])
def test_slope_and_aspect_agree_with_gdal_on_a_tilted_plane_and_on_rough_ground(gdal, tmp_path, make):
    z = make()
    slope, aspect = slope_aspect(z)
    # gdaldem sums in float32: near sea level, so that its rounding stays small.
    np.testing.assert_allclose(slope, gdaldem(gdal, tmp_path, z, "slope"), atol=2e-4)
    difference = aspect - gdaldem(gdal, tmp_path, z, "aspect", "-zero_for_flat")
    turned = (difference + 180) % 360 - 180
    assert np.nanmax(np.abs(turned)) < 2e-3
    np.testing.assert_array_equal(np.isnan(turned), np.isnan(slope))


def test_no_data_and_flat_ground_agree_with_gdal(gdal, tmp_path):
    z = rough((40, 40))
    z[10:13, 20] = np.nan
    z[25:35, 5:15] = 1234.0
    slope, aspect = slope_aspect(z)
    np.testing.assert_array_equal(np.isnan(slope), np.isnan(gdaldem(gdal, tmp_path, z, "slope")))
    theirs = gdaldem(gdal, tmp_path, z, "aspect", "-zero_for_flat")
    np.testing.assert_array_equal(aspect[27:33, 7:13], theirs[27:33, 7:13])


def test_the_simulators_slope_of_its_truth_agrees_with_gdal(gdal, tmp_path):
    z = rough()
    np.testing.assert_allclose(simulated_slope(z), gdaldem(gdal, tmp_path, z, "slope"), atol=2e-3)
