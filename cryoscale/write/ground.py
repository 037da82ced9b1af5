"""The ground under outlines: what the elevation that a run has seen says of each of them.

A run keeps the elevation model that it read, thinned to 40 m, beside its map
(:mod:`cryoscale.write.quicklook`): it lies on disk, block by block, on the grid of each UTM zone, so
that nothing has to be fetched again at the run's end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import shapely
import xarray as xr
from pyproj import Proj
from scipy import ndimage
from shapely.geometry import LineString, Polygon

from cryoscale.grid import transformer, turned, utm_epsg, zone_bounds_deg
from cryoscale.write.centreline import Centreline, centreline
from cryoscale.write.inventory import Description
from cryoscale.write.topography import topography
from cryoscale.write.zonal import affine_of

_HELD_PX = 4_000_000
"""Of the elevation over one outline, held at once; over a larger one it is read strip by strip."""
_MARGIN_PX = 2

_Shape = TypeVar("_Shape", Polygon, LineString)


class Ground:
    """The elevation of a year's zones.

    Args:
        elevations: by EPSG code, elevation (y, x) in m on the zone's own grid, lazy, NaN for no data.
        dem_source: name of the elevation model.
    """

    def __init__(self, elevations: Mapping[int, xr.DataArray], dem_source: str) -> None:
        self._elevations = dict(elevations)
        self._dem_source = dem_source

    def under(self, outline: Polygon) -> Description:
        """The columns of the elevation model and the hypsometry of one outline (degrees)."""
        centre = shapely.point_on_surface(outline)
        epsg, shape, elevation = self._below(outline)
        if elevation is None:
            return Description({"dem_void_fraction": 1.0})
        found = topography(shape, elevation, north_deg=_convergence_deg(epsg, centre.x, centre.y))
        if found.terminus is None:
            return Description({"dem_void_fraction": 1.0})
        line = centreline(shape, elevation)
        lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*found.terminus)
        columns = {
            "termlon": turned(lon, centre.x),  # as the outline has it
            "termlat": lat,
            "zmin_m": found.zmin_m,
            "zmax_m": found.zmax_m,
            "zmed_m": found.zmed_m,
            "zmean_m": found.zmean_m,
            "slope_deg": found.slope_deg,
            "aspect_deg": found.aspect_deg,
            "aspect_sec": found.aspect_sec,
            "dem_source": self._dem_source,
            "lmax_m": None if line is None else round(line.length_m),
            "dem_void_fraction": found.void_fraction,
        }
        return Description(columns, found.hypsometry)

    @property
    def elevations(self) -> Mapping[int, xr.DataArray]:
        """By EPSG code, as they were given."""
        return self._elevations

    def line(self, outline: Polygon, crs: str = "EPSG:4326") -> Centreline | None:
        """The main centre line of an outline (degrees) in a CRS; None where there is none."""
        epsg, shape, elevation = self._below(outline)
        found = None if elevation is None else centreline(shape, elevation)
        if found is None:
            return None
        line = _projected(found.line, f"EPSG:{epsg}", crs)
        if crs == "EPSG:4326":  # as the outline has it
            west, _, east, _ = outline.bounds
            line = shapely.transform(
                line, lambda xy: np.column_stack([turned(xy[:, 0], (west + east) / 2), xy[:, 1]])
            )
        return replace(found, line=line)

    def _below(self, outline: Polygon) -> tuple[int, Polygon, xr.DataArray | None]:
        """The zone of an outline (degrees), the outline in its metres, and the elevation over it."""
        centre = shapely.point_on_surface(outline)
        epsg = self.zone_of(centre.x, centre.y)
        shape = _projected(outline, "EPSG:4326", f"EPSG:{epsg}")
        return epsg, shape, self._over(shape, epsg)

    def around(self, shape: Polygon, epsg: int, margin_m: float) -> xr.DataArray | None:
        """Elevation (y, x) over a shape (m) of a zone and a margin, in memory; None where there is none."""
        found = self._over(shapely.box(*shape.bounds).buffer(margin_m, join_style="mitre"), epsg)
        return None if found is None else found.load()

    def zone_of(self, lon_deg: float, lat_deg: float) -> int:
        """The zone of a place, or of those that were mapped the one beside it."""
        own = utm_epsg(lon_deg, lat_deg)
        if own in self._elevations:
            return own

        def away(epsg: int) -> tuple[bool, float]:
            west, south, east, north = zone_bounds_deg(epsg)
            turn = (lon_deg - (west + east) / 2 + 180.0) % 360.0 - 180.0
            return not south <= lat_deg <= north, abs(turn)

        return min(self._elevations, key=away)

    def _over(self, shape: Polygon, epsg: int) -> xr.DataArray | None:
        """Elevation over a shape (m) of a zone, what its own map has not from those of the others."""
        own = _cut(self._elevations[epsg], shape.bounds)
        others = {}
        for other, elevation in self._elevations.items():
            if other != epsg:
                bounds = transformer(f"EPSG:{epsg}", f"EPSG:{other}").transform_bounds(*shape.bounds)
                if not np.isfinite(bounds).all():  # on the other side of the globe
                    continue
                part = _cut(elevation, bounds)
                if part is not None:
                    others[other] = part
        if not others:
            return own
        affine = affine_of(self._elevations[epsg])
        whole = _lattice(shape.bounds, affine.a, (affine.c, affine.f))
        if own is not None:
            whole = own.reindex_like(whole, method="nearest", tolerance=affine.a / 4).load()
        for other, part in others.items():
            _fill(whole, epsg, part, other)
        return whole


def _projected(shape: _Shape, crs: str, to: str) -> _Shape:
    convert = transformer(crs, to)
    return shapely.transform(shape, lambda xy: np.column_stack(convert.transform(*xy.T)))


def _cut(elevation: xr.DataArray, bounds: tuple[float, float, float, float]) -> xr.DataArray | None:
    """The pixels over a box and a few around it; None where there is none."""
    affine = affine_of(elevation)
    left, top = ~affine * (bounds[0], bounds[3])
    right, bottom = ~affine * (bounds[2], bounds[1])
    y = slice(max(math.floor(top) - _MARGIN_PX, 0), max(math.ceil(bottom) + _MARGIN_PX, 0))
    x = slice(max(math.floor(left) - _MARGIN_PX, 0), max(math.ceil(right) + _MARGIN_PX, 0))
    part = elevation.isel(y=y, x=x)
    if min(part.shape) < 2:
        return None
    return part.load() if part.size <= _HELD_PX else part


def _lattice(
    bounds: tuple[float, float, float, float], step_m: float, corner: tuple[float, float]
) -> xr.DataArray:
    """Nothing but NaN over a box, on the lattice of pixels with one corner there."""
    west = math.floor((bounds[0] - corner[0]) / step_m) - _MARGIN_PX
    east = math.ceil((bounds[2] - corner[0]) / step_m) + _MARGIN_PX
    top = math.floor((corner[1] - bounds[3]) / step_m) - _MARGIN_PX
    bottom = math.ceil((corner[1] - bounds[1]) / step_m) + _MARGIN_PX
    y = corner[1] - (np.arange(top, bottom) + 0.5) * step_m
    x = corner[0] + (np.arange(west, east) + 0.5) * step_m
    empty = np.full((y.size, x.size), np.nan, np.float32)
    return xr.DataArray(empty, dims=("y", "x"), coords={"y": y, "x": x})


def _fill(whole: xr.DataArray, epsg: int, part: xr.DataArray, other: int) -> None:
    """Put the elevation of another zone, linear between its pixels, where there is none yet."""
    row, col = np.nonzero(~np.isfinite(whole.values))
    x, y = transformer(f"EPSG:{epsg}", f"EPSG:{other}").transform(
        whole["x"].values[col], whole["y"].values[row]
    )
    place = ~affine_of(part) * (np.asarray(x), np.asarray(y))
    at = np.array([place[1] - 0.5, place[0] - 0.5])
    whole.values[row, col] = ndimage.map_coordinates(
        np.asarray(part.values), at, order=1, mode="constant", cval=np.nan
    )


@lru_cache(maxsize=128)
def _projection(epsg: int) -> Proj:
    return Proj(epsg)


def _convergence_deg(epsg: int, lon_deg: float, lat_deg: float) -> float:
    """Azimuth of the grid's north in a place, clockwise from true north."""
    return float(_projection(epsg).get_factors(lon_deg, lat_deg).meridian_convergence)
