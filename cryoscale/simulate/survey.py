"""Elevation model (Copernicus GLO-30) and velocity mosaic (ITS_LIVE) of a simulated range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.simulate.ground import key_of, standard_noise
from cryoscale.simulate.lattice import locate, rim

if TYPE_CHECKING:
    import xarray as xr

    from cryoscale.simulate.terrain import MountainRange

F32 = NDArray[np.float32]

ARC_SECOND_DEG = 1.0 / 3600.0
VELOCITY_STEP_M = 120.0
VELOCITY_NODATA = -32767
VELOCITY_NOISE_M_YR = 1.3
"""Standard deviation of each component of an annual velocity mosaic over still ground."""


@dataclass(frozen=True)
class Raster:
    """An array (y, x), the outer corner of its first pixel and its pixel size in the units of ``crs``."""

    data: NDArray[np.generic]
    crs: str
    west: float
    north: float
    step: float


def elevation_tile(mountain_range: MountainRange) -> Raster:
    """The 30 m surface model: float32 metres on one arc-second, pixel centres on whole arc-seconds.

    The radar's height error is added: 0.4 m on level ground, more on steep ground.
    """
    ring = rim(mountain_range, "EPSG:4326")
    west, north = math.floor(ring[:, 0].min() * 3600) - 2, math.ceil(ring[:, 1].max() * 3600) + 2
    cols, rows = (
        math.ceil(ring[:, 0].max() * 3600) + 3 - west,
        north + 3 - math.floor(ring[:, 1].min() * 3600),
    )
    origin = ((west - 0.5) * ARC_SECOND_DEG, (north + 0.5) * ARC_SECOND_DEG)
    z = ndimage.gaussian_filter(mountain_range.elevation_m, 1.3, truncate=3.0)
    # The tile reaches some posts beyond the range, as its edge is not parallel to the meridians.
    lattice = locate(mountain_range, "EPSG:4326", origin, ARC_SECOND_DEG, (rows, cols))
    height, width = z.shape
    inner = type(lattice)(
        np.clip(lattice.row, 0, height - 1).astype(np.float32),
        np.clip(lattice.col, 0, width - 1).astype(np.float32),
    )
    posts = inner.sample(z)
    slope = np.hypot(*np.gradient(posts, np.float32(30.0)))
    error = standard_noise(posts.shape, 6.0, 3, key_of(mountain_range.seed, 41), 0.8)
    return Raster(
        posts + error * (0.4 + 1.6 * np.clip(slope, 0.0, 1.5)), "EPSG:4326", *origin, ARC_SECOND_DEG
    )


def grid_north_deg(mountain_range: MountainRange, epsg: int) -> float:
    """Angle by which the range's frame is turned against the grid of ``epsg``, counter-clockwise positive."""
    rows, cols = mountain_range.elevation_m.shape
    x = mountain_range.west_m + 0.5 * cols * RESOLUTION_M
    y = mountain_range.north_m - 0.5 * rows * RESOLUTION_M
    to_grid = transformer(mountain_range.crs, f"EPSG:{epsg}")
    (x0, y0), (x1, y1) = to_grid.transform(x, y), to_grid.transform(x + 1000.0, y)
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def velocity_mosaic(ranges: Sequence[MountainRange], epsg: int) -> xr.Dataset:
    """ITS_LIVE-like mosaic: vx, vy and v (y, x) in m/yr at 120 m in ``epsg``, the mean of ``ranges``.

    Integers with -32767 as no data, as in ITS_LIVE v2 (https://its-live.jpl.nasa.gov); components
    follow the axes of the map grid.
    """
    import xarray as xr
    from pyproj import CRS

    first = ranges[0]
    crs = f"EPSG:{epsg}"
    ring = rim(first, crs)
    west, south = (math.floor(v / VELOCITY_STEP_M) * VELOCITY_STEP_M for v in ring.min(axis=0))
    east, north = (math.ceil(v / VELOCITY_STEP_M) * VELOCITY_STEP_M for v in ring.max(axis=0))
    shape = (round((north - south) / VELOCITY_STEP_M), round((east - west) / VELOCITY_STEP_M))
    lattice = locate(first, crs, (west, north), VELOCITY_STEP_M, shape)
    turn = math.radians(grid_north_deg(first, epsg))
    sigma = 0.5 * VELOCITY_STEP_M / RESOLUTION_M
    fields = (
        np.mean([getattr(each, f"velocity_{axis}_m_yr") for each in ranges], axis=0)
        for axis in ("east", "north")
    )
    ve, vn = (lattice.sample(ndimage.gaussian_filter(field, sigma, truncate=2.0)) for field in fields)
    vx, vy = ve * math.cos(turn) - vn * math.sin(turn), ve * math.sin(turn) + vn * math.cos(turn)
    key = key_of(first.seed, 43)
    vx += VELOCITY_NOISE_M_YR * standard_noise(shape, 3.0, 2, key)
    vy += VELOCITY_NOISE_M_YR * standard_noise(shape, 3.0, 2, key + 1)
    x = west + (np.arange(shape[1]) + 0.5) * VELOCITY_STEP_M
    y = north - (np.arange(shape[0]) + 0.5) * VELOCITY_STEP_M
    data = {
        name: (("y", "x"), values.astype(np.float32), {"units": "meter/year", "grid_mapping": "mapping"})
        for name, values in (("vx", vx), ("vy", vy), ("v", np.hypot(vx, vy)))
    }
    mapping = {**CRS.from_epsg(epsg).to_cf(), "spatial_epsg": epsg}
    mapping["GeoTransform"] = f"{west} {VELOCITY_STEP_M} 0 {north} 0 {-VELOCITY_STEP_M}"
    dataset = xr.Dataset({**data, "mapping": ((), np.int8(0), mapping)}, coords={"y": y, "x": x})
    for name in data:
        dataset[name].encoding = {"dtype": "int16", "_FillValue": VELOCITY_NODATA, "chunks": shape}
    return dataset
