"""How much of many blocks lies in a region and under scenes: shares of pixels, and tiles that hold data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod
from shapely.geometry import shape

from cryoscale.forecast.windows import Floats, Windows
from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.infer.tiles import stride_px
from cryoscale.read.session import touches
from cryoscale.region import ZoneRegion

if TYPE_CHECKING:
    from pystac import Item

_EDGE_DEG = 0.05
"""Steps in which a region's edges are followed: the area of a box of 65 degrees is a ten-millionth off."""

_POINTS = 2_000_000
"""Points that all blocks are looked at in, at most 32 x 32 and at least 4 x 4 a block."""


def area_km2(region: Any) -> float:
    """Of polygons in longitude and latitude on the ellipsoid of WGS 84.

    Their edges are straight in degrees, as those that are mapped; a geodesic between the ends of an edge
    along a parallel would leave it towards the pole.
    """
    geod = Geod(ellps="WGS84")
    parts = shapely.get_parts(shapely.segmentize(region, _EDGE_DEG))
    return sum(abs(geod.geometry_area_perimeter(part)[0]) for part in parts) / 1e6


def footprints(items: Sequence[Item], windows: Windows) -> Any:
    """The union of what ``items`` say that they show, in metres of the windows' zone."""
    bounds = windows.bounds_deg()
    around = (bounds[:, 0].min(), bounds[:, 1].min(), bounds[:, 2].max(), bounds[:, 3].max())
    middle = (around[0] + around[2]) / 2
    told = {repr(item.geometry): item.geometry for item in items if item.geometry}
    shapes = shapely.make_valid(np.array([shape(geometry) for geometry in told.values()], object))
    chosen = [one for one in shapes if touches(_bounds(one), around)]
    to_zone = transformer("EPSG:4326", f"EPSG:{windows.epsg}")

    def project(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
        lon = middle + (lonlat[:, 0] - middle + 180.0) % 360.0 - 180.0
        return np.column_stack(to_zone.transform(lon, lonlat[:, 1]))

    return shapely.union_all([shapely.transform(shapely.segmentize(one, 0.25), project) for one in chosen])


def _bounds(geometry: Any) -> tuple[float, float, float, float]:
    west, south, east, north = geometry.bounds
    return west, south, east, north


def shares(windows: Windows, zone: ZoneRegion, shown: Any) -> tuple[Floats, Floats]:
    """Shares (n,) of each window's pixels that a scene shows, and that also lie in the region."""
    if not len(windows):
        return np.zeros(0), np.zeros(0)
    many = int(np.clip(np.sqrt(_POINTS / len(windows)), 4, 32))
    place = (np.arange(many) + 0.5) / many
    down, across = (grid.ravel() for grid in np.meshgrid(place, place, indexing="ij"))
    x = (windows.col[:, None] + across * windows.width[:, None]) * RESOLUTION_M
    y = -(windows.row[:, None] + down * windows.height[:, None]) * RESOLUTION_M
    seen = _holds(shown, x, y)
    inside = seen & _holds(zone.projected(), x, y)
    return seen.mean(axis=1), inside.mean(axis=1)


def _holds(geometry: Any, x: Floats, y: Floats) -> NDArray[np.bool_]:
    shapely.prepare(geometry)
    found: NDArray[np.bool_] = shapely.contains_xy(geometry, x.ravel(), y.ravel()).reshape(x.shape)
    return found


def tiles_with_data(
    windows: Windows, tile_px: int, overlap: float, shown: Any, share: Floats
) -> NDArray[np.int64]:
    """Tiles of each window (n,) that hold a pixel of it which a scene shows; only they are predicted."""
    hulls, down, across = windows.hulls(tile_px, overlap)
    stride = stride_px(tile_px, overlap)
    found = np.where(share > 0, down * across, 0)
    shapely.prepare(shown)
    for n in np.flatnonzero(share < 1.0):
        row = hulls.row[n] + stride * np.arange(down[n])
        col = hulls.col[n] + stride * np.arange(across[n])
        top = np.maximum(row, windows.row[n])[:, None]
        bottom = np.minimum(row + tile_px, windows.row[n] + windows.height[n])[:, None]
        left, right = (
            np.maximum(col, windows.col[n]),
            np.minimum(col + tile_px, windows.col[n] + windows.width[n]),
        )
        boxes = shapely.box(
            left * RESOLUTION_M, -bottom * RESOLUTION_M, right * RESOLUTION_M, -top * RESOLUTION_M
        )
        found[n] = int(shapely.intersects(shown, boxes).sum())
    return found.astype(np.int64)
