"""Label, probability and confidence of a zone as cloud-optimised GeoTIFFs, for whoever reads no Zarr.

The COG driver of GDAL (https://gdal.org/en/stable/drivers/raster/cog.html) arranges a file from one that is
complete. That one is written block by block into a temporary file, and only where the map has a shard: the
rest is sparse in both, so that neither memory nor disk grows with the rectangle around the map.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from rasterio.enums import ColorInterp
from rasterio.windows import Window as PixelWindow

from cryoscale.grid import RESOLUTION_M
from cryoscale.write import mosaic
from cryoscale.write.store import open_store
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


@dataclass(frozen=True)
class _Layer:
    """How one array becomes a file: names of its bands, and how its overviews are made."""

    bands: Sequence[str]
    overviews: str
    tags: Mapping[str, str]


def write_cogs(out: str, year: int, epsg: int, folder: Path) -> list[Path]:
    """Writes ``<epsg>-label.tif``, ``-probability.tif`` and ``-confidence.tif`` of a year and zone.

    Pixels are those of the mosaic, 255 where there is no data. Overviews of the label hold the commonest
    class, those of the others means of what is known. Bands of probability are the classes, in order.

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
    stored: dict[str, list[PixelWindow]] = {name: [] for name in ARRAYS}
    for block, name, _ in mosaic.zone_entries(url, year, epsg):
        if name in stored:
            rows, cols = block.window.slices_in(window)
            stored[name].append(PixelWindow.from_slices(rows, cols))
    classes = [str(name) for name in group.attrs["cryoscale:classes"]]  # type: ignore[union-attr]
    west, _, _, north = window.bounds_m
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "nodata": mosaic.NODATA,
        "height": window.height,
        "width": window.width,
        "crs": f"EPSG:{epsg}",
        "transform": rasterio.transform.from_origin(west, north, RESOLUTION_M, RESOLUTION_M),
    }
    written = []
    for name, layer in _layers(classes, group).items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        target = folder / f"{epsg}-{name}.tif"
        _write(target, array, stored[name], profile, layer)
        written.append(target)
    return written


def _layers(classes: Sequence[str], group: zarr.Group) -> dict[str, _Layer]:
    told = {name: str(group[name].attrs.get("long_name", "")) for name in ARRAYS}
    meaning = " ".join(f"{value}={name}" for value, name in enumerate(classes))
    confidence = str(group.attrs.get("cryoscale:confidence", told["confidence"]))
    return {
        "label": _Layer(["label"], "MODE", {"long_name": told["label"], "classes": meaning}),
        "probability": _Layer(list(classes), "AVERAGE", {"long_name": told["probability"]}),
        "confidence": _Layer(["confidence"], "AVERAGE", {"long_name": confidence}),
    }


def _write(
    target: Path,
    array: zarr.Array[Any],
    windows: Sequence[PixelWindow],
    profile: dict[str, Any],
    layer: _Layer,
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MB, GDAL_NUM_THREADS=os.cpu_count() or 1),
    ):
        plain, arranged = Path(scratch, "plain.tif"), Path(scratch, "cog.tif")
        _write_plain(plain, array, windows, profile, layer)
        rasterio.shutil.copy(
            plain,
            arranged,
            driver="COG",
            blocksize=_TILE_PX,
            compress="DEFLATE",
            overview_resampling=layer.overviews,
            sparse_ok=True,
            bigtiff="IF_SAFER",
        )
        move(arranged, target)


def _write_plain(
    path: Path, array: zarr.Array[Any], windows: Sequence[PixelWindow], profile: dict[str, Any], layer: _Layer
) -> None:
    """A tiled GeoTIFF that is read once, hence barely compressed."""
    with rasterio.open(
        path,
        "w",
        **profile,
        count=len(layer.bands),
        tiled=True,
        blockxsize=_TILE_PX,
        blockysize=_TILE_PX,
        interleave="band",
        compress="ZSTD",
        zstd_level=1,
        sparse_ok=True,
        bigtiff="YES",
    ) as file:
        file.descriptions = tuple(layer.bands)
        file.update_tags(**layer.tags)
        if layer.overviews == "MODE":
            file.colorinterp = [ColorInterp.palette]
            colours = dict(enumerate(CLASS_COLOURS.values()))
            file.write_colormap(1, {**colours, mosaic.NODATA: (0, 0, 0, 0)})
        else:
            file.scales = (SCALE,) * len(layer.bands)
        for window in sorted(windows, key=lambda w: (w.row_off, w.col_off)):
            rows, cols = window.toslices()
            values = np.asarray(array[..., rows, cols])
            file.write(values if values.ndim == 3 else values[np.newaxis], window=window)
