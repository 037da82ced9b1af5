"""Label, probability and confidence of a zone as cloud-optimised GeoTIFFs, for whoever reads no Zarr.

The COG driver of GDAL (https://gdal.org/en/stable/drivers/raster/cog.html) arranges a file from one that is
complete. That one is written shard by shard into a temporary file, and only where the map has a shard: the
rest is sparse in both, so that neither memory nor disk grows with the rectangle around the map. Overviews
are the coarser levels that the map has already, put where GDAL looks for them: its own took 14 s a hundred
blocks of nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from rasterio.enums import ColorInterp
from rasterio.windows import Window as PixelWindow

from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.write import mosaic
from cryoscale.write.objects import Objects
from cryoscale.write.store import level_name, open_store
from cryoscale.write.vectors import move

ARRAYS: tuple[str, ...] = ("label", "probability", "confidence")
"""Of the mosaic's arrays, those that are written."""

CLASS_COLOURS: Mapping[str, tuple[int, int, int, int]] = {
    "background": (120, 110, 100, 255),
    "clean_ice": (120, 190, 235, 255),
    "debris_covered_ice": (150, 95, 45, 255),
    "water": (25, 80, 160, 255),
    "vegetation": (80, 140, 60, 255),
}
"""Red, green, blue, alpha of the classes in the label's colour table."""

SCALE = 1.0 / 250.0
"""What a value of probability and confidence is to be multiplied by."""

_TILE_PX = 512
_CACHE_MB = 128
"""Of GDAL's blocks in memory; its default is a share of the machine's."""


def write_cogs(out: str, year: int, epsg: int, folder: Path) -> list[Path]:
    """Writes ``<epsg>-label.tif``, ``-probability.tif`` and ``-confidence.tif`` of a year and zone.

    Pixels are those of the mosaic, 255 where there is no data, and so are the overviews: means of what is
    known, and the class of the largest mean probability. Bands of probability are the classes, in order.

    Args:
        out: the run's folder or URL.
        year: the year mapped.
        epsg: the UTM zone.
        folder: where to write; each file appears whole or not at all.

    Raises:
        OutputError: there is no such map, or a file cannot be written.
    """
    url = mosaic.store_url_of(out)
    window = mosaic.window_of_map(url, year, epsg)
    group = zarr.open_group(open_store(url, read_only=True), path=f"{year}/{epsg}", mode="r")
    return [_write(Objects(url), group, name, window, folder / f"{epsg}-{name}.tif") for name in ARRAYS]


def _write(store: Objects, group: zarr.Group, name: str, window: Window, target: Path) -> Path:
    with (
        tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MB, GDAL_NUM_THREADS=os.cpu_count() or 1),
    ):
        plain, arranged = Path(scratch, "plain.tif"), Path(scratch, "cog.tif")
        level = plain
        for factor in mosaic.factors(group):
            _write_level(store, group, name, window, factor, level)
            level = Path(f"{level}.ovr")  # GDAL's place for the overview of a file, also of an overview
        rasterio.shutil.copy(
            plain,
            arranged,
            driver="COG",
            blocksize=_TILE_PX,
            compress="DEFLATE",
            overviews="AUTO",
            sparse_ok=True,
            bigtiff="IF_SAFER",
        )
        move(arranged, target)
    return target


def _write_level(
    store: Objects, group: zarr.Group, name: str, window: Window, factor: int, path: Path
) -> None:
    """A tiled GeoTIFF of one level, which is read once and hence barely compressed."""
    where = name if factor == 1 else f"{level_name(factor)}/{name}"
    array = group[where]
    assert isinstance(array, zarr.Array)
    west, _, _, north = window.bounds_m
    pixel_m = RESOLUTION_M * factor
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        nodata=mosaic.NODATA,
        height=array.shape[-2],
        width=array.shape[-1],
        count=1 if array.ndim == 2 else array.shape[0],
        crs=f"EPSG:{window.epsg}",
        transform=rasterio.transform.from_origin(west, north, pixel_m, pixel_m),
        tiled=True,
        blockxsize=_TILE_PX,
        blockysize=_TILE_PX,
        interleave="band",
        compress="ZSTD",
        zstd_level=1,
        sparse_ok=True,
        bigtiff="YES",
    ) as file:
        _tell(file, group, name)
        for rows, cols in _stored(store, f"{group.path}/{where}", array):
            values = np.asarray(array[..., rows, cols])
            part = PixelWindow.from_slices(rows, cols)
            file.write(values if values.ndim == 3 else values[np.newaxis], window=part)


def _tell(file: Any, group: zarr.Group, name: str) -> None:
    """What bands are called, what their values mean, and how classes are coloured."""
    classes = [str(one) for one in group.attrs["cryoscale:classes"]]  # type: ignore[union-attr]
    told = str(group[name].attrs.get("long_name", name))
    if name == "label":
        file.colorinterp = [ColorInterp.palette]
        colours = {value: CLASS_COLOURS[one] for value, one in enumerate(classes) if one in CLASS_COLOURS}
        file.write_colormap(1, {**colours, mosaic.NODATA: (0, 0, 0, 0)})
        meaning = " ".join(f"{value}={one}" for value, one in enumerate(classes))
        file.update_tags(long_name=told, classes=meaning)
        return
    file.scales = (SCALE,) * file.count
    file.descriptions = tuple(classes) if name == "probability" else (name,)
    file.update_tags(long_name=str(group.attrs.get(f"cryoscale:{name}", told)))


def _stored(store: Objects, path: str, array: zarr.Array[Any]) -> list[tuple[slice, slice]]:
    """The parts of an array that have a shard, row by row."""
    assert array.shards is not None
    height, width = array.shards[-2:]
    places = sorted(tuple(map(int, entry.key.split("/")[-2:])) for entry in store.list(f"{path}/c"))
    return [
        (
            slice(row * height, min((row + 1) * height, array.shape[-2])),
            slice(col * width, min((col + 1) * width, array.shape[-1])),
        )
        for row, col in places
    ]
