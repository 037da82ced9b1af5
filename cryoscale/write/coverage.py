"""Where the maps of a year have data: what lies under cloud has not vanished, it was not seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import shapely
import xarray as xr
from affine import Affine
from shapely.geometry import Polygon

from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.write import zones
from cryoscale.write.polygons import burned
from cryoscale.write.zonal import affine_of, on_own_side, pixels_over

_NODATA = 255
_HELD_PX = 4_000_000
"""Of the map over one outline, read at once."""
_PIXEL_KM2 = (RESOLUTION_M / 1000.0) ** 2


class Coverage:
    """The pixels of a year's zones that have a class.

    Args:
        labels: by EPSG code, classes (y, x) on the zone's own grid, lazy, 255 for no data. Zones reach over
            their common borders, where each counts on its own side.
    """

    def __init__(self, labels: Mapping[int, xr.DataArray]) -> None:
        self._labels = dict(labels)
        self._cuts = zones.cuts(sorted(self._labels))

    def share(self, outline: Polygon) -> float:
        """Of an outline (degrees), the share of its area over which the maps have data, 0-1."""
        seen_px = sum(self._seen_px(outline, epsg) for epsg in self._labels)
        area_km2 = float(zones.area_km2(np.array([outline], object))[0])
        return min(seen_px * _PIXEL_KM2 / area_km2, 1.0)

    def _seen_px(self, outline: Polygon, epsg: int) -> int:
        label = self._labels[epsg]
        to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
        shape = shapely.transform(outline, lambda xy: np.column_stack(to_zone.transform(*xy.T)))
        if not np.isfinite(shape.bounds).all():  # on the other side of the globe
            return 0
        affine = affine_of(label)
        rows, cols = pixels_over(shape.bounds, affine, (label.sizes["y"], label.sizes["x"]))
        if not cols:
            return 0
        seen, step = 0, max(_HELD_PX // len(cols), 1)
        for row in rows[::step]:
            part = label.isel(y=slice(row, min(row + step, rows.stop)), x=slice(cols.start, cols.stop))
            size = part.sizes["y"], part.sizes["x"]
            inside = burned(shape, affine * Affine.translation(cols.start, row), size)
            inside &= on_own_side(part, epsg, self._cuts[epsg])
            seen += int(np.count_nonzero(inside & (part.values != _NODATA)))
        return seen
