"""COGs of the kind of a Sentinel-2 scene and of an elevation model, and the items that point at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
from shapely.geometry import box, mapping

from cryoscale.grid import Window, transformer
from cryoscale.simulate.catalog import write_cog
from cryoscale.simulate.survey import Raster

EPSG = 32645
SPECTRAL = ("B02", "B03", "B04", "B08", "B11")
FINE = SPECTRAL[:4]
"""On the lattice already, so that no way has a reason to differ."""


def write_scenes(folder: Path, file_px: int, count: int) -> tuple[Window, list[str]]:
    """COGs of some scenes and of an elevation model in degrees; where they lie, and the scenes' names."""
    rng = np.random.default_rng(0)
    whole = Window(EPSG, -310_000, 48_000, file_px, file_px)
    west, south, east, north = whole.bounds_m
    names = [f"scene{number}" for number in range(count)]
    for name in names:
        for band in SPECTRAL:
            step = 10.0 if band in FINE else 20.0
            size = int(file_px * 10 / step)
            # noise of some hundred counts on a slow swell compresses about as reflectance of mountains does
            swell = 3000 + 2000 * np.sin(np.arange(size) / 90)[:, None] * np.cos(np.arange(size) / 70)
            digital = (swell + rng.normal(0, 150, (size, size))).astype(np.uint16)
            write_cog(folder / name / f"{band}.tif", Raster(digital, f"EPSG:{EPSG}", west, north, step), 0)
    bounds = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform_bounds(west, south, east, north)
    step = 1 / 3600
    shape = int((bounds[3] - bounds[1]) / step), int((bounds[2] - bounds[0]) / step)
    heights = (4000 + np.cumsum(rng.normal(0, 5, shape), axis=0)).astype(np.float32)
    write_cog(
        folder / "dem" / "elevation.tif", Raster(heights, "EPSG:4326", bounds[0], bounds[3], step), None
    )
    return whole, names


def items_at(url: str, names: Sequence[str], bands: Sequence[str], region: Window) -> list[pystac.Item]:
    """Items with the fields that all ways need, whose files lie below ``url``."""
    wide = region.pad(60)
    bounds = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform_bounds(*wide.bounds_m)
    found = []
    for number, name in enumerate(names):
        moment = datetime(2018, 10, 1 + number, tzinfo=UTC)
        properties = {
            "s2:processing_baseline": "02.12",
            "proj:epsg": 4326 if "elevation" in bands else EPSG,
        }
        item = pystac.Item(name, mapping(box(*bounds)), list(bounds), moment, properties)
        for band in bands:
            asset = pystac.Asset(f"{url}/{name}/{band}.tif", media_type="image/tiff", roles=["data"])
            item.add_asset(band, asset)
        found.append(item)
    return found
