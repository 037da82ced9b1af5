"""What two or more years have all seen: pixels of outlines with data in every one of their maps.

A difference of two years is one of ice only where both have looked. Pixels of all maps lie on one lattice
(:mod:`cryoscale.grid`), so that a pixel of one year is the same ground in another, and 255 in the label says
that a year has not seen it. Outlines are counted one at a time, and a large one strip by strip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import shapely
import zarr
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from cryoscale.archive.index import Archive, Entry
from cryoscale.grid import Window, transformer, utm_epsg, window_over_bounds
from cryoscale.write import zones
from cryoscale.write.arrays import NODATA
from cryoscale.write.mosaic import window_of_map
from cryoscale.write.polygons import burned, explode
from cryoscale.write.store import open_store
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS

_STEP_PX = 2048


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of a version, read window by window."""

    archive: Archive
    entry: Entry

    @property
    def _url(self) -> str:
        return f"{self.archive.folder('mosaics', self.entry)}/mosaic.zarr"

    @cached_property
    def _windows(self) -> dict[int, Window]:
        return {epsg: window_of_map(self._url, self.entry.year, epsg) for epsg in self.entry.zones}

    @cached_property
    def _groups(self) -> dict[int, zarr.Group]:
        # zarr itself and no Dask: of a region of 100,000 blocks every cut would walk through the graph of all
        store = open_store(self._url, read_only=True)
        return {
            epsg: zarr.open_group(store, path=f"{self.entry.year}/{epsg}", mode="r", use_consolidated=False)
            for epsg in self.entry.zones
        }

    def labels(self, window: Window) -> NDArray[np.uint8]:
        """Labels (y, x) of a window; 255 where this year has seen nothing."""
        return self._read("label", window)

    def ice(self, window: Window) -> NDArray[np.float64]:
        """Probability of ice (y, x) of a window, 0-1; NaN where this year has seen nothing."""
        clean, debris = (self._read("probability", window, one) for one in (CLEAN_ICE, DEBRIS))
        return np.where(clean == NODATA, np.nan, (clean.astype(float) + debris) / 250.0)

    def _read(self, name: str, window: Window, band: int | None = None) -> NDArray[np.uint8]:
        found = np.full(window.shape, NODATA, np.uint8)
        own = self._windows.get(window.epsg)
        both = None if own is None else window.intersect(own)
        if own is None or both is None:
            return found
        source: Any = self._groups[window.epsg][name]
        rows, cols = both.slices_in(own)
        found[both.slices_in(window)] = source[rows, cols] if band is None else source[band, rows, cols]
        return found

    def zone_of(self, lon_deg: float, lat_deg: float) -> int:
        """The zone of a place, or the first where its own was not mapped."""
        own = utm_epsg(lon_deg, lat_deg)
        return own if own in self.entry.zones else self.entry.zones[0]


@dataclass(frozen=True)
class Counts:
    """Pixels of an outline's ice: all, under debris, and of both those that every other year has seen."""

    ice: int = 0
    debris: int = 0
    seen: int = 0
    seen_debris: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def count(outline: BaseGeometry, own: Maps, others: Sequence[Maps]) -> Counts:
    """The ice pixels of an outline (degrees) of one year's map, and how many of them all others have seen."""
    total = Counts()
    for shape, window in _pieces(outline, own):
        total += _counted(shape, window, own, others)
    return total


def looked_at(outline: BaseGeometry, maps: Maps) -> tuple[float, float]:
    """Share of an outline (degrees) that a year's map has data of, and share of that which is ice."""
    pixels = seen = ice = 0
    for shape, window in _pieces(outline, maps):
        label, inside = maps.labels(window), _inside(shape, window)
        pixels += int(np.count_nonzero(inside))
        seen += int(np.count_nonzero(inside & (label != NODATA)))
        ice += int(np.count_nonzero(inside & np.isin(label, (CLEAN_ICE, DEBRIS))))
    return seen / pixels if pixels else 0.0, ice / seen if seen else float("nan")


def _pieces(outline: BaseGeometry, maps: Maps) -> Iterator[tuple[Polygon, Window]]:
    """The parts of an outline (degrees) in each zone's metres, on its own side, with windows over them."""
    polygons = explode(outline)
    for epsg, cut in zones.cuts(sorted(maps.entry.zones)).items():
        to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
        # an outline's longitudes may go on beyond 180, and so may the zone's side
        for by_deg in (-360.0, 0.0, 360.0):
            for part in explode(zones.clip(zones.turn(polygons, by_deg), cut)):
                shape = shapely.transform(part, lambda xy, to=to_zone: np.column_stack(to.transform(*xy.T)))
                for window in _strips(window_over_bounds(epsg, shape.bounds)):
                    yield shape, window


def _inside(shape: Polygon, window: Window) -> NDArray[np.bool_]:
    west, _, _, north = window.bounds_m
    return burned(shape, Affine(10.0, 0.0, west, 0.0, -10.0, north), window.shape)


def _counted(shape: Polygon, window: Window, own: Maps, others: Sequence[Maps]) -> Counts:
    label = own.labels(window)
    ice = _inside(shape, window) & np.isin(label, (CLEAN_ICE, DEBRIS))
    seen = ice.copy()
    for other in others:
        if seen.any():
            seen &= other.labels(window) != NODATA
    debris = label == DEBRIS
    return Counts(*(int(np.count_nonzero(one)) for one in (ice, ice & debris, seen, seen & debris)))


def _strips(window: Window) -> Iterator[Window]:
    for row in range(0, window.height, _STEP_PX):
        for col in range(0, window.width, _STEP_PX):
            height, width = min(_STEP_PX, window.height - row), min(_STEP_PX, window.width - col)
            yield Window(window.epsg, window.row + row, window.col + col, height, width)
