"""Elevation, slope, aspect, lowest point and hypsometry of one glacier, from an elevation model.

Quantities are those of the RGI 7 (https://www.glims.org/rgi_user_guide/products/glacier_product.html). Every
cell counts by the share of it that the outline covers, found on a grid eight times as fine; on a
map's 40 m cells that is 5 m. Cells are read in strips,
so that memory holds the cells of the ice and one strip of the box around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import Polygon

from cryoscale.write.polygons import burned
from cryoscale.write.zonal import affine_of, pixels_over

Floats = NDArray[np.float64]

BAND_M = 50
"""Height of a band of the hypsometry, as in the RGI."""

NOT_ASSIGNED = 9
"""Sector of an aspect that there is none of."""

_FINER = 8
_STRIP_ROWS = 32
_LEAST_RESULTANT = 0.01
"""Mean of the unit vectors below which no direction prevails: flat ice, or a dome that falls to all sides."""


@dataclass(frozen=True)
class Hypsometry:
    """Shares of the area by bands of 50 m.

    Attributes:
        lowest_m: lower edge of the first band.
        thousandths: of each band from there upwards; they sum to 1000.
    """

    lowest_m: int
    thousandths: tuple[int, ...]


@dataclass(frozen=True)
class Topography:
    """What an elevation model says of one glacier; NaN and None where it says nothing.

    Attributes:
        zmin_m, zmax_m: of the cells that are at least half covered.
        zmed_m, zmean_m: weighted by area.
        slope_deg: mean of the cells' slopes.
        aspect_deg: of the mean of the unit vectors down the slope, clockwise from north, [0, 360).
        aspect_sec: 1 north, 2 north-east ... 8 north-west, 9 where no direction prevails.
        terminus: the lowest point of the outer ring (x, y), in the coordinates of the elevation model.
        hypsometry: by bands of 50 m.
        void_fraction: share of the area without elevation, which counts in none of the above.
    """

    zmin_m: float
    zmax_m: float
    zmed_m: float
    zmean_m: float
    slope_deg: float
    aspect_deg: float
    aspect_sec: int
    terminus: tuple[float, float] | None
    hypsometry: Hypsometry | None
    void_fraction: float


def topography(outline: Polygon, elevation: xr.DataArray, *, north_deg: float = 0.0) -> Topography:
    """What ``elevation`` (y, x) in m, NaN for no data, says of the ground inside ``outline``.

    Both lie in one projected CRS in metres; ``elevation`` may be lazy and reach beyond the outline, as it
    should by a cell, since slopes are central differences (Zevenbergen and Thorne 1987,
    https://doi.org/10.1002/esp.3290120107), as in the RGI 7.

    Args:
        outline: with its holes.
        elevation: north up, with evenly spaced coordinates.
        north_deg: azimuth of the grid's north, the meridian convergence; added to the aspect.
    """
    sums = _Sums()
    ring = _points_along(outline, abs(affine_of(elevation).a))
    for strip in _strips(outline.bounds, elevation):
        sums.add(outline, strip, ring)
    if not sums.z:
        nothing = math.nan
        return Topography(nothing, nothing, nothing, nothing, nothing, nothing, NOT_ASSIGNED, None, None, 1.0)
    z, weight = np.concatenate(sums.z), np.concatenate(sums.weight)
    core = z[weight >= 0.5] if (weight >= 0.5).any() else z
    total = float(weight.sum(dtype=np.float64))
    aspect_deg = _azimuth_deg(sums.east, sums.north, sums.steep_weight, north_deg)
    return Topography(
        zmin_m=float(core.min()),
        zmax_m=float(core.max()),
        zmed_m=weighted_median(z, weight),
        zmean_m=sums.weighted_z / total,
        slope_deg=sums.slope / sums.slope_weight if sums.slope_weight else math.nan,
        aspect_deg=aspect_deg,
        aspect_sec=sector(aspect_deg),
        terminus=sums.lowest,
        hypsometry=hypsometry(z, weight),
        void_fraction=_void_fraction(outline, elevation, sums.void_weight / (sums.void_weight + total)),
    )


def _void_fraction(outline: Polygon, elevation: xr.DataArray, void_within: float) -> float:
    """Share of an outline beyond a model and in its voids, which are such a share of what lies within it."""
    affine, (height, width) = affine_of(elevation), elevation.shape
    (west, north), (east, south) = affine * (0, 0), affine * (width, height)
    if shapely.box(west, south, east, north).covers(shapely.box(*outline.bounds)):
        return void_within
    within = shapely.clip_by_rect(outline, west, south, east, north).area / outline.area
    return float(1.0 - within * (1.0 - void_within))


def hypsometry(z: NDArray[np.floating], weight: NDArray[np.floating]) -> Hypsometry:
    """Thousandths of the weight by bands of 50 m; remainders go to the bands that were cut most."""
    band = np.floor(z / BAND_M).astype(np.int64)
    lowest = int(band.min())
    share = np.bincount(band - lowest, weight)
    exact = share * (1000.0 / share.sum())
    whole = np.floor(exact).astype(np.int64)
    missing = 1000 - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return Hypsometry(lowest * BAND_M, tuple(whole.tolist()))


def weighted_median(z: NDArray[np.floating], weight: NDArray[np.floating]) -> float:
    """Value in the middle of the weight, between two values where it falls between them."""
    order = np.argsort(z, kind="stable")
    z, weight = z[order], weight[order]
    passed = np.cumsum(weight, dtype=np.float64)
    return float(np.interp(passed[-1] / 2, passed - weight / 2, z))


def sector(aspect_deg: float) -> int:
    """The RGI's aspect sector of an azimuth: 1 north, 2 north-east ... 8 north-west, 9 for NaN."""
    if math.isnan(aspect_deg):
        return NOT_ASSIGNED
    return 1 + int((aspect_deg + 22.5) % 360.0 // 45.0)


@dataclass(frozen=True)
class _Strip:
    """Some rows of an elevation model over a glacier, with one cell around them."""

    z: Floats
    affine: Affine
    """Of the rows without the cell around them."""

    @property
    def inner(self) -> Floats:
        return self.z[1:-1, 1:-1]

    def coverage(self, outline: Polygon) -> Floats:
        """Share of each inner cell that lies in the outline."""
        rows, cols = self.inner.shape
        finer = self.affine * Affine.scale(1 / _FINER)
        inside = burned(outline, finer, (rows * _FINER, cols * _FINER))
        return np.asarray(inside.reshape(rows, _FINER, cols, _FINER).mean(axis=(1, 3)), np.float64)

    def rises(self) -> tuple[Floats, Floats]:
        """Rise to the east and to the north, m/m; NaN beside a void."""
        east = (self.z[1:-1, 2:] - self.z[1:-1, :-2]) / (2 * abs(self.affine.a))
        north = (self.z[:-2, 1:-1] - self.z[2:, 1:-1]) / (2 * abs(self.affine.e))
        return east, north

    def at(self, points: Floats) -> Floats:
        """Elevation at points (n, 2), linear between centres; NaN outside, beside a void and at its end."""
        col, row = ~self.affine * points.T
        inside = (row >= 0) & (row < self.inner.shape[0])
        found = np.full(len(points), np.nan)
        place = np.array([row[inside] + 0.5, col[inside] + 0.5])
        found[inside] = ndimage.map_coordinates(self.z, place, order=1, mode="constant", cval=np.nan)
        return found


@dataclass
class _Sums:
    """What strips add up to."""

    z: list[NDArray[np.float32]] = field(default_factory=list)
    weight: list[NDArray[np.float32]] = field(default_factory=list)
    void_weight: float = 0.0
    weighted_z: float = 0.0
    slope: float = 0.0
    slope_weight: float = 0.0
    east: float = 0.0
    north: float = 0.0
    steep_weight: float = 0.0
    lowest_m: float = math.inf
    lowest: tuple[float, float] | None = None

    def add(self, outline: Polygon, strip: _Strip, ring: Floats) -> None:
        """Take up one strip and the points of the outer ring that lie in it."""
        weight = strip.coverage(outline)
        known = (weight > 0) & np.isfinite(strip.inner)
        if known.any():
            # elevations come as float32, weights are 64ths: nothing is lost, and half the memory is saved
            self.z.append(strip.inner[known].astype(np.float32))
            self.weight.append(weight[known].astype(np.float32))
            self.weighted_z += float((strip.inner * weight)[known].sum())
        self.void_weight += float(weight[~np.isfinite(strip.inner)].sum())
        east, north = strip.rises()
        steepness = np.hypot(east, north)
        sloped = (weight > 0) & np.isfinite(steepness)
        self.slope += float((np.degrees(np.arctan(steepness)) * weight)[sloped].sum())
        self.slope_weight += float(weight[sloped].sum())
        steep = sloped & (steepness > 0)
        share = weight[steep] / steepness[steep]
        self.east -= float((east[steep] * share).sum())
        self.north -= float((north[steep] * share).sum())
        self.steep_weight += float(weight[steep].sum())
        self._look_along(strip, ring)

    def _look_along(self, strip: _Strip, ring: Floats) -> None:
        z = strip.at(ring)
        if np.isfinite(z).any() and np.nanmin(z) < self.lowest_m:
            at = int(np.nanargmin(z))
            self.lowest_m = float(z[at])
            self.lowest = (float(ring[at, 0]), float(ring[at, 1]))


def _strips(bounds: tuple[float, float, float, float], elevation: xr.DataArray) -> Iterator[_Strip]:
    """The rows of an elevation model over a box (m), few at a time; NaN beyond its end."""
    affine = affine_of(elevation)
    height, width = elevation.shape
    rows, cols = pixels_over(bounds, affine, (height, width))
    if not cols:
        return
    for first in rows[::_STRIP_ROWS]:
        last = min(first + _STRIP_ROWS, rows.stop)
        y, x = slice(max(first - 1, 0), last + 1), slice(max(cols.start - 1, 0), cols.stop + 1)
        read = np.asarray(elevation.isel(y=y, x=x).values, np.float64)
        around = ((first == 0, last == height), (cols.start == 0, cols.stop == width))
        z = np.pad(read, np.array(around, int), constant_values=np.nan)
        yield _Strip(z, affine * Affine.translation(cols.start, first))


def _points_along(outline: Polygon, step_m: float) -> Floats:
    """Vertices (n, 2) of the outer ring, and points between those that are farther apart than a step."""
    return np.asarray(shapely.get_coordinates(shapely.segmentize(outline.exterior, step_m)), np.float64)


def _azimuth_deg(east: float, north: float, weight: float, north_deg: float) -> float:
    """Direction of a sum of weighted unit vectors, NaN where they cancel out."""
    if math.hypot(east, north) <= _LEAST_RESULTANT * weight:
        return math.nan
    return (math.degrees(math.atan2(east, north)) + north_deg) % 360.0
