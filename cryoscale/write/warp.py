"""Layers of all zones on one frame: every n-th pixel of them, a strip at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject

from cryoscale.grid import one_way, transformer
from cryoscale.write.furniture import Frame
from cryoscale.write.zonal import affine_of

NODATA = 255
_LONGEST_PX = 2400
"""No side of the warped picture is longer; more would not be seen at this size of page."""
_FLATTEST, _TALLEST = 0.25, 1.4
"""Height of a frame over its width: browsers draw no picture of any length, and furniture needs room."""
_LEAST_M = 500.0
"""Width of a frame, so that the shortest scale bar has room."""
_STRIP_PX = 256
"""Rows of the picture that are read at once: dask keeps an account of every chunk that it is asked for."""


def frame_of(mosaics: Mapping[int, xr.Dataset], longest_px: int = _LONGEST_PX) -> Frame:
    """The frame around all valid pixels, in a transverse Mercator through their middle.

    It has a shape that fits on a page, with unmapped ground beside what is longer or smaller than that.
    """
    lons, lats = [], []
    for epsg, dataset in mosaics.items():
        thin = _thin(dataset["label"])
        valid = thin.values != NODATA
        rows = np.flatnonzero(valid.any(axis=1))
        # the first and the last valid pixel of each row draw the rim of the mapped area
        cols = np.concatenate(
            [valid.argmax(axis=1)[rows], valid.shape[1] - 1 - valid[:, ::-1].argmax(axis=1)[rows]]
        )
        x, y = thin["x"].values[cols], thin["y"].values[np.tile(rows, 2)]
        if rows.size:
            lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(x, y)
            lons.append(lon)
            lats.append(lat)
    if not lons:  # nothing is valid: an empty frame around the first window
        return frame_of({e: d.assign(label=d["label"] * 0) for e, d in mosaics.items()}, longest_px)
    lon, lat = one_way(np.concatenate(lons)), np.concatenate(lats)
    middle = (lon.min() + lon.max()) / 2
    crs = f"+proj=tmerc +lon_0={middle:.6f} +lat_0={lat.mean():.6f} +k=1 +ellps=WGS84 +units=m"
    x, y = transformer("EPSG:4326", crs).transform(lon, lat)
    margin = 0.01 * max(np.ptp(x), np.ptp(y)) + 50.0
    width, height = np.ptp(x) + 2 * margin, np.ptp(y) + 2 * margin
    width = max(width, height / _TALLEST, _LEAST_M)
    height = max(height, width * _FLATTEST)
    across, up = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    west, south, east, north = across - width / 2, up - height / 2, across + width / 2, up + height / 2
    return Frame(crs, west, south, east, north, max(10.0, max(east - west, north - south) / longest_px))


def _thin(data: xr.DataArray) -> xr.DataArray:
    """Every n-th pixel, so that no side is longer than the picture can show; read a strip at a time."""
    step = max(1, max(data.shape) // _LONGEST_PX)
    strips = [
        data[top : top + _STRIP_PX * step : step, ::step].load()
        for top in range(0, data.shape[0], _STRIP_PX * step)
    ]
    return xr.concat(strips, "y") if len(strips) > 1 else strips[0]


def _warp(
    data: xr.DataArray, epsg: int, frame: Frame, resampling: Resampling, nodata: float
) -> NDArray[np.float32]:
    """A layer on the frame; strip by strip, as it may have four times the picture's pixels."""
    target = np.full(frame.shape, nodata, np.float32)
    step = max(1, max(data.shape) // _LONGEST_PX)
    to_zone = transformer(frame.crs, f"EPSG:{epsg}")
    for rows, _ in strips(frame.shape[0]):
        at = frame.affine @ Affine.translation(0, rows.start)
        north, south = at.f, at.f + at.e * (rows.stop - rows.start)
        bounds_m = to_zone.transform_bounds(frame.west_m, south, frame.east_m, north)
        found = _part(data, bounds_m, step)
        if found is not None:
            part, affine = found
            reproject(
                np.ascontiguousarray(part.values, np.float32),
                target[rows],
                src_transform=affine,
                src_crs=f"EPSG:{epsg}",
                src_nodata=nodata,
                dst_transform=at,
                dst_crs=CRS.from_user_input(frame.crs).to_wkt(),
                dst_nodata=nodata,
                resampling=resampling,
            )
    return target


def _part(
    data: xr.DataArray, bounds_m: tuple[float, float, float, float], step: int
) -> tuple[xr.DataArray, Affine] | None:
    """Every n-th pixel within bounds and two around them, of whole strides from the layer's corner.

    With where they lie, since a single row or column does not tell.
    """
    affine = affine_of(data)
    thinned = Affine.translation((1 - step) / 2, (1 - step) / 2) @ Affine.scale(step)
    if not np.isfinite(bounds_m).all():  # beyond what the projection can tell
        return data[::step, ::step].load(), affine @ thinned
    west, south, east, north = bounds_m
    slices = []
    for first, last, origin, size_m, count in (
        (north, south, affine.f, affine.e, data.shape[0]),
        (west, east, affine.c, affine.a, data.shape[1]),
    ):
        start = math.floor((first - origin) / size_m / step) - 2
        stop = math.ceil((last - origin) / size_m / step) + 2
        slices.append(slice(max(start, 0) * step, min(max(stop, 0) * step, count), step))
    rows, cols = slices
    part = data[rows, cols]
    at = affine @ Affine.translation(cols.start, rows.start) @ thinned
    return (part.load(), at) if part.size else None


def warp_bytes(
    mosaics: Mapping[int, xr.Dataset], name: str, frame: Frame, nodata: int = NODATA
) -> NDArray[np.uint8]:
    """A layer of bytes of all zones on the frame (y, x), the nearest pixel, ``nodata`` where none is."""
    return _nearest(mosaics, name, frame, float(nodata)).astype(np.uint8)


def warp_days(mosaics: Mapping[int, xr.Dataset], name: str, frame: Frame) -> NDArray[np.float32]:
    """A layer of dates of all zones on the frame (y, x), days since 1970, NaN where there is none."""
    days = {
        epsg: dataset.assign({name: (dataset[name] - np.datetime64(0, "ns")) / np.timedelta64(1, "D")})
        for epsg, dataset in mosaics.items()
    }
    return _nearest(days, name, frame, float("nan"))


def _nearest(
    mosaics: Mapping[int, xr.Dataset], name: str, frame: Frame, nodata: float
) -> NDArray[np.float32]:
    merged = np.full(frame.shape, nodata, np.float32)
    for epsg, dataset in mosaics.items():
        warped = _warp(dataset[name], epsg, frame, Resampling.nearest, nodata)
        gap = np.isnan(merged) if np.isnan(nodata) else merged == nodata
        merged = np.where(gap, warped, merged)
    return merged


def warp_all(background: Mapping[int, xr.Dataset], name: str, frame: Frame) -> NDArray[np.float32]:
    """A layer of all zones on the frame (y, x), NaN where there is none."""
    merged = np.full(frame.shape, np.nan, np.float32)
    for epsg, dataset in background.items():
        if name in dataset:
            warped = _warp(dataset[name], epsg, frame, Resampling.bilinear, float("nan"))
            merged = np.where(np.isnan(merged), warped, merged)
    return merged


def strips(height: int) -> Iterator[tuple[slice, slice]]:
    """Rows of a picture, a strip at a time, and the same with a row more on both sides."""
    for top in range(0, height, _STRIP_PX):
        bottom = min(top + _STRIP_PX, height)
        yield slice(top, bottom), slice(max(top - 1, 0), min(bottom + 1, height))
