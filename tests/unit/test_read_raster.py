"""What of a file is no data: by its item, its own tag, its mask, and what processors fill with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from cryoscale.grid import Window
from cryoscale.read.assets import Encoding
from cryoscale.read.band import AssetSpec, read_asset
from cryoscale.read.raster import open_raster

WINDOW = Window(32645, -310_000, 48_000, 4, 4)
ALL = slice(0, 4)


def write(path: Path, values: NDArray[Any], nodata: float | None = None, bands: int = 1) -> Path:
    west, _, _, north = WINDOW.bounds_m
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": values.dtype}
    transform = from_origin(west, north, 10, 10)
    with rasterio.open(path, "w", **profile, crs="EPSG:32645", transform=transform, nodata=nodata) as file:
        file.write(values, 1)
    return path


def test_the_scale_of_a_file_is_known_where_an_overview_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((64, 64), 75, np.uint8))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (40.0,), (3.0,)
        file.build_overviews([2, 4])
    for coarse_m in (None, 40.0):
        with open_raster(str(path), coarse_m=coarse_m) as source:
            assert source.scaling == (40.0, 3.0)
    assert source.lattice.width == 16


def gaps(path: Path, nodata: float | None = None) -> NDArray[np.bool_]:
    with open_raster(str(path), nodata) as source:
        return np.asarray(np.isnan(source.cut(ALL, ALL)))


def grey(dtype: type = np.int16) -> NDArray[Any]:
    return np.arange(16, dtype=dtype).reshape(4, 4) + dtype(100)


def test_no_data_of_the_item_and_of_the_file_both_hold(tmp_path: Path) -> None:
    values = grey()
    values[0, 0], values[1, 1] = -32768, -9999
    path = write(tmp_path / "a.tif", values, nodata=-32768)
    assert np.argwhere(gaps(path, -9999.0)).tolist() == [[0, 0], [1, 1]]
    assert np.argwhere(gaps(path)).tolist() == [[0, 0]]


@pytest.mark.parametrize("given", [-3.40282e38, -3.4028234663852886e38, -1.7976931348623157e308])
def test_the_least_float_is_no_data_however_many_digits_an_item_gives_it(
    tmp_path: Path, given: float
) -> None:
    values = grey(np.float32)
    values[2, 3] = np.finfo(np.float32).min
    assert np.argwhere(gaps(write(tmp_path / "a.tif", values), given)).tolist() == [[2, 3]]


def test_pixels_behind_a_files_own_mask_are_no_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", grey())
    mask = np.full((4, 4), 255, np.uint8)
    mask[3, 1] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert np.argwhere(gaps(path)).tolist() == [[3, 1]]
    assert np.argwhere(gaps(path, 100.0)).tolist() == [[0, 0], [3, 1]]


def test_pixels_that_an_alpha_band_leaves_out_are_no_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", grey(np.uint8), bands=2)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha)
        alpha = np.full((4, 4), 255, np.uint8)
        alpha[0, 2] = 0
        file.write(alpha, 2)
    assert np.argwhere(gaps(path)).tolist() == [[0, 2]]


def test_digital_number_0_of_a_reflectance_is_no_data_whatever_its_item_says(tmp_path: Path) -> None:
    values = np.full((4, 4), 2000, np.uint16)
    values[1, 2], values[2, 1] = 0, 65535
    path = write(tmp_path / "B04.tif", values)
    got, _ = read_asset(AssetSpec("a", "B04", str(path), Encoding(1e-4, -0.1, 65535.0), None), WINDOW.geobox)
    assert got is not None
    assert np.argwhere(np.isnan(got)).tolist() == [[1, 2], [2, 1]]


def test_a_scaled_image_of_complex_numbers_keeps_both_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((4, 4), 2 + 4j, np.complex64))
    values, _ = read_asset(AssetSpec("a", "slc1", str(path), Encoding(0.5, 0.0, None), None), WINDOW.geobox)
    assert values is not None
    np.testing.assert_array_equal(values, np.full((4, 4), 1 + 2j, np.complex64))
