"""Resampling held against GDAL's warper and against a plain reading of the definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.vrt import WarpedVRT
from rasterio.warp import Resampling, reproject
from scipy.ndimage import map_coordinates

from cryoscale.grid import Window
from cryoscale.read.raster import open_raster
from cryoscale.read.sample import fetch, resample

WINDOW = Window(32645, -310_000, 48_000, 200, 210)


def write(path: Path, values: NDArray[Any], crs: str, transform: Affine, nodata: float | None) -> Path:
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata) as file:
        file.write(values, 1)
    return path


def ours(path: Path, method: Any, nodata: float | None = None) -> NDArray[np.float32]:
    with open_raster(str(path), nodata) as source:
        part = fetch(source, WINDOW.geobox)
    assert part is not None
    got = resample(part, WINDOW.geobox, method)
    assert got is not None
    return got


def test_bands_of_20_and_60_m_equal_gdals_bilinear_bit_for_bit_holes_included(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    west, _, _, north = WINDOW.bounds_m
    for res in (20, 60):
        values = rng.integers(1, 12_000, (2400 // res + 8, 2400 // res + 8)).astype(np.uint16)
        values[rng.random(values.shape) < 0.05] = 0
        # the file says nothing about no data: the rule of the table has to
        path = write(
            tmp_path / f"{res}.tif",
            values,
            "EPSG:32645",
            Affine(res, 0, west - res, 0, -res, north + res),
            None,
        )
        want = np.full(WINDOW.shape, np.nan, np.float32)
        with rasterio.open(path) as file:
            reproject(
                rasterio.band(file, 1),
                want,
                src_nodata=0,
                dst_nodata=np.nan,
                dst_crs="EPSG:32645",
                dst_transform=WINDOW.geobox.affine,
                resampling=Resampling.bilinear,
            )
        assert np.isnan(want).any()
        np.testing.assert_array_equal(ours(path, "bilinear", nodata=0.0), want)


def rough_terrain(folder: Path) -> tuple[Path, NDArray[Any], Affine]:
    """Steep and rough: a metre or so from pixel to pixel."""
    bounds = Transformer.from_crs(32645, 4326, always_xy=True).transform_bounds(*WINDOW.pad(30).bounds_m)
    step = 1 / 3600
    transform = Affine(step, 0, bounds[0], 0, -step, bounds[3])
    shape = int((bounds[3] - bounds[1]) / step), int((bounds[2] - bounds[0]) / step)
    rng = np.random.default_rng(1)
    values = (4000 + np.cumsum(rng.normal(0, 5, shape), axis=0)).astype(np.float32)
    return write(folder / "dem.tif", values, "EPSG:4326", transform, -32767.0), values, transform


def test_elevation_equals_the_exact_transformation_of_every_pixel(tmp_path: Path) -> None:
    path, values, transform = rough_terrain(tmp_path)
    y, x = WINDOW.coordinates()
    lon, lat = Transformer.from_crs(32645, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    at = [(lat - transform.f) / transform.e - 0.5, (lon - transform.c) / transform.a - 0.5]
    want = map_coordinates(values.astype(float), at, order=1)
    np.testing.assert_allclose(ours(path, "bilinear"), want, atol=2e-3)


def test_cubic_elevation_equals_gdals_warper_once_that_is_told_to_be_precise(tmp_path: Path) -> None:
    path, _, _ = rough_terrain(tmp_path)
    with (
        rasterio.open(path) as file,
        WarpedVRT(
            file,
            crs="EPSG:32645",
            transform=WINDOW.geobox.affine,
            height=WINDOW.height,
            width=WINDOW.width,
            resampling=Resampling.cubic,
            tolerance=1e-4,
        ) as warped,
    ):
        want = warped.read(1)
    np.testing.assert_allclose(ours(path, "cubic"), want, atol=0.02)
