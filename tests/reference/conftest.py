"""What several references share: gdaldem, called in the GDAL that rasterio brings along."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin


@pytest.fixture(scope="session")
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
