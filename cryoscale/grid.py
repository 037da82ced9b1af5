"""The world-anchored grid: one 10 m pixel lattice a UTM zone, on which blocks and tiles lie.

A *world pixel* of a zone is counted from the zone's origin (easting 0, northing 0): column
``c`` spans eastings ``[10 c, 10 c + 10)`` and row ``r`` spans northings ``(-10 r - 10, -10 r]``,
so that rows grow southwards as in an image; on the northern hemisphere rows are negative. Nothing
here depends on a run's region, which is what makes a region's run equal the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

RESOLUTION_M = 10.0
"""Edge of a pixel in metres."""

ZONE_COLLAR_M = 100.0
"""How far a zone's map reaches over its meridian, so that one exact cut can join two zones."""

_RESOLUTION = int(RESOLUTION_M)


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of world pixels ``[row, row+height) x [col, col+width)`` of zone ``epsg``."""

    epsg: int
    row: int
    col: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east, north in metres of the zone's grid."""
        return (
            self.col * RESOLUTION_M,
            -(self.row + self.height) * RESOLUTION_M,
            (self.col + self.width) * RESOLUTION_M,
            -self.row * RESOLUTION_M,
        )

    def pad(self, px: int) -> Window:
        """The window grown by ``px`` pixels on each side (shrunk where negative)."""
        return Window(self.epsg, self.row - px, self.col - px, self.height + 2 * px, self.width + 2 * px)

    def intersect(self, other: Window) -> Window | None:
        """The pixels common to both, or None; windows of two zones have none."""
        if self.epsg != other.epsg:
            return None
        row, col = max(self.row, other.row), max(self.col, other.col)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.col + self.width, other.col + other.width)
        if bottom <= row or right <= col:
            return None
        return Window(self.epsg, row, col, bottom - row, right - col)

    def slices_in(self, outer: Window) -> tuple[slice, slice]:
        """(y, x) slices that cut this window out of an array laid on ``outer``."""
        row, col = self.row - outer.row, self.col - outer.col
        return slice(row, row + self.height), slice(col, col + self.width)

    @property
    def geobox(self) -> GeoBox:
        """The window as an odc GeoBox (10 m, north up)."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        west, _, _, north = self.bounds_m
        affine = Affine(RESOLUTION_M, 0.0, west, 0.0, -RESOLUTION_M, north)
        return GeoBox(self.shape, affine, f"EPSG:{self.epsg}")

    def coordinates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel-centre northings ``y`` (descending) and eastings ``x``, in metres."""
        y = -(np.arange(self.row, self.row + self.height, dtype=np.float64) + 0.5) * RESOLUTION_M
        x = (np.arange(self.col, self.col + self.width, dtype=np.float64) + 0.5) * RESOLUTION_M
        return y, x


@dataclass(frozen=True, order=True)
class Block:
    """The unit of work: block ``(row, col)`` of edge ``size_px`` on the zone's lattice of blocks.

    Blocks lie at multiples of their edge from the zone's origin, whatever region is mapped.
    """

    epsg: int
    row: int
    col: int
    size_px: int

    @property
    def window(self) -> Window:
        """The block's own pixels."""
        return Window(self.epsg, self.row * self.size_px, self.col * self.size_px, self.size_px, self.size_px)

    @property
    def key(self) -> str:
        """A name that is a valid file name and unique within a zone, e.g. ``r-303_c48``."""
        return f"r{self.row}_c{self.col}"

    @classmethod
    def from_key(cls, epsg: int, key: str, size_px: int) -> Block:
        """The block of a zone that :attr:`key` names."""
        row, _, col = key.removeprefix("r").partition("_c")
        return cls(epsg, int(row), int(col), size_px)


def turned(lon_deg: Any, centre_deg: Any) -> Any:
    """Longitudes within half a turn of ``centre_deg``, which may lead beyond 180; arrays that broadcast."""
    return centre_deg + (lon_deg - centre_deg + 180.0) % 360.0 - 180.0


def one_way(lon_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitudes (n,) counted on over 180 degrees, where that keeps them and their middle together."""
    on: NDArray[np.float64] = turned(lon_deg, lon_deg[0])
    return on if np.ptp(on) < np.ptp(lon_deg) - 1.0 else lon_deg


def utm_epsg(lon_deg: float, lat_deg: float) -> int:
    """EPSG code of the WGS 84 / UTM zone by the six-degree rule (no Norway or Svalbard exceptions).

    The exceptions of 32V and Svalbard are left out on purpose: they would make the cut between two
    zones a staircase, and the scale error that they avoid is far below a pixel.
    """
    lon = (lon_deg + 180.0) % 360.0 - 180.0
    zone = min(int((lon + 180.0) // 6.0) + 1, 60)
    return (32600 if lat_deg >= 0 else 32700) + zone


def zone_bounds_deg(epsg: int) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees of the part of the world that zone ``epsg`` maps."""
    zone = epsg % 100
    if epsg // 100 not in (326, 327) or not 1 <= zone <= 60:
        raise ValueError(f"EPSG:{epsg} is no WGS 84 / UTM zone (32601-32660 or 32701-32760)")
    west = -180.0 + 6.0 * (zone - 1)
    south, north = (0.0, 90.0) if epsg < 32700 else (-90.0, 0.0)
    return west, south, west + 6.0, north


def window_of(data: Any, epsg: int) -> Window:
    """The world window on which an object with ``x`` and ``y`` pixel-centre coordinates (m) lies.

    Raises:
        ValueError: if the coordinates are not those of the zone's 10 m lattice.
    """
    y, x = np.asarray(data["y"].values, float), np.asarray(data["x"].values, float)
    row, col = -y[0] / RESOLUTION_M - 0.5, x[0] / RESOLUTION_M - 0.5
    window = Window(epsg, round(row), round(col), y.size, x.size)
    expected_y, expected_x = window.coordinates()
    if not (np.allclose(y, expected_y, atol=1e-3) and np.allclose(x, expected_x, atol=1e-3)):
        raise ValueError(f"coordinates are not on the {_RESOLUTION} m world lattice of EPSG:{epsg}")
    return window


def blocks_over(window: Window, size_px: int) -> Iterator[Block]:
    """The blocks of edge ``size_px`` that share a pixel with ``window``, row by row."""
    rows = range(window.row // size_px, math.ceil((window.row + window.height) / size_px))
    cols = range(window.col // size_px, math.ceil((window.col + window.width) / size_px))
    for row in rows:
        for col in cols:
            yield Block(window.epsg, row, col, size_px)


def location_code(window: Window) -> NDArray[np.float32]:
    """Sine and cosine of latitude and of longitude (4,) of the window's centre: where a tile lies.

    The code of a tile is a function of the tile alone, so that no block or run has a say in it.
    """
    x = (window.col + window.width / 2) * RESOLUTION_M
    y = -(window.row + window.height / 2) * RESOLUTION_M
    lon_deg, lat_deg = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform(x, y)
    lat, lon = math.radians(lat_deg), math.radians(lon_deg)
    return np.array([math.sin(lat), math.cos(lat), math.sin(lon), math.cos(lon)], np.float32)


def window_over_bounds(epsg: int, bounds_m: tuple[float, float, float, float]) -> Window:
    """The smallest window that covers ``bounds_m`` (west, south, east, north in metres)."""
    west, south, east, north = bounds_m
    col, row = math.floor(west / RESOLUTION_M), math.floor(-north / RESOLUTION_M)
    right, bottom = math.ceil(east / RESOLUTION_M), math.ceil(-south / RESOLUTION_M)
    return Window(epsg, row, col, bottom - row, right - col)


@lru_cache(maxsize=128)
def transformer(source: str, target: str) -> Any:
    """A pyproj transformer in x, y order; cached, since making one costs milliseconds."""
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


@lru_cache(maxsize=128)
def central_meridian_deg(crs: str) -> float:
    """The meridian in the middle of a projection, 0 where it has none."""
    from pyproj import CRS

    operation = CRS.from_user_input(crs).coordinate_operation
    named = operation.params if operation is not None else ()
    return float(next((one.value for one in named if one.name.startswith("Longitude of ")), 0.0))
