"""How far a terminus moved along the centre line, in metres, and how sure that is.

The centre line method: the place of a terminus in a year is the last point of the line that lies on that
year's ice (compared with others by Lea et al. 2014, https://doi.org/10.3189/2014JoG13J061). The line of the
older outline ends at its terminus, so that a retreat is told along it; an advance is told along the line of
the newer. A terminus is as sure as the map is: its 90 % interval reaches from where the probability of ice
along the line falls below 95 % to where it falls below 5 %, half a pixel at least. Errors of the two years
are taken as independent of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString
from shapely.geometry.base import BaseGeometry

from cryoscale.archive.coverage import Maps
from cryoscale.grid import transformer, window_over_bounds
from cryoscale.write.arrays import NODATA

_STEP_M = 5.0
_REACH_M = 300.0
"""How far to either side of a terminus its doubt is looked for."""
_AROUND_M = 50.0
"""How far beyond both termini the ground has to be seen in both years."""
_HALF_PIXEL_M = 5.0
_CERTAIN, _NONE = 0.95, 0.05
_MOST_M = 20_000.0
"""Farther than any terminus moves: such a line is of another glacier."""


@dataclass(frozen=True)
class Retreat:
    """Of a terminus along the centre line: metres back (advances are negative), and its 90 % interval."""

    retreat_m: float
    low_m: float
    high_m: float


@dataclass(frozen=True, eq=False)
class Side:
    """One year of a glacier: its ice and the centre line of its largest outline, degrees, and its maps."""

    ice: BaseGeometry
    line: LineString | None
    maps: Maps


def retreat(older: Side, newer: Side) -> Retreat | None:
    """How far the terminus went back; None without lines, or where either year has not seen the ground."""
    if older.line is None or newer.line is None:
        return None
    end = older.line.coords[-1]
    epsg = older.maps.zone_of(end[0], end[1])
    to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
    shapes = [
        shapely.transform(shape, lambda xy: np.column_stack(to_zone.transform(*xy.T)))
        for shape in (older.line, newer.line, older.ice, newer.ice)
    ]
    old_line, new_line, old_ice, new_ice = shapes
    back, forth = _short_of_end(old_line, new_ice), _short_of_end(new_line, old_ice)
    if back is None or forth is None:
        return None
    moved = back - forth
    if abs(moved) > _MOST_M:
        return None
    line = old_line if moved >= 0 else new_line
    old_at, new_at = (line.length, line.length - moved) if moved >= 0 else (line.length + moved, line.length)
    return _doubted(_Track(line, epsg), (older.maps, old_at), (newer.maps, new_at))


def _short_of_end(line: LineString, ice: BaseGeometry) -> float | None:
    """Length of a line beyond its last point on the ice; None where none of it is."""
    on = shapely.intersection(line, ice)
    if on.is_empty:
        return None
    last = max(line.project(shapely.Point(xy)) for xy in shapely.get_coordinates(on))
    return float(line.length - last)


@dataclass(frozen=True)
class _Track:
    """A centre line (m) of a zone, gone on straight beyond its terminus."""

    line: LineString
    epsg: int

    def points(self, at_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places (n, 2) at distances (n,) from the head."""
        length = self.line.length
        inside = shapely.get_coordinates(
            shapely.line_interpolate_point(self.line, np.clip(at_m, 0.0, length))
        )
        tip, before = (
            np.array(self.line.interpolate(at).coords[0]) for at in (length, max(length - _AROUND_M, 0.0))
        )
        ahead = (tip - before) / (np.hypot(*(tip - before)) or 1.0)
        return np.asarray(inside + np.maximum(at_m - length, 0.0)[:, np.newaxis] * ahead)

    def pixels(self, maps: Maps, at_m: NDArray[np.float64], *, ice: bool) -> NDArray[np.float64]:
        """Label, or probability of ice, of the pixels at distances from the head."""
        points = self.points(at_m)
        west, south, east, north = shapely.total_bounds(shapely.points(points))
        window = window_over_bounds(self.epsg, (west, south, east + 1, north + 1))
        values = maps.ice(window) if ice else maps.labels(window)
        left, _, _, top = window.bounds_m
        rows = np.clip(((top - points[:, 1]) // 10).astype(int), 0, window.height - 1)
        cols = np.clip(((points[:, 0] - left) // 10).astype(int), 0, window.width - 1)
        return np.asarray(values[rows, cols], np.float64)


def _doubted(track: _Track, older: tuple[Maps, float], newer: tuple[Maps, float]) -> Retreat | None:
    (old_maps, old_at), (new_maps, new_at) = older, newer
    first, last = max(min(old_at, new_at) - _AROUND_M, 0.0), max(old_at, new_at) + _AROUND_M
    between = np.arange(first, last + _STEP_M, _STEP_M)
    for maps in (old_maps, new_maps):
        if (track.pixels(maps, between, ice=False) == NODATA).any():
            return None
    old_up, old_down = _reach(track, old_maps, old_at)
    new_up, new_down = _reach(track, new_maps, new_at)
    moved = old_at - new_at
    # a retreat is larger than told where the old terminus lay farther down or the new one lies farther up
    return Retreat(moved, moved - math.hypot(old_up, new_down), moved + math.hypot(old_down, new_up))


def _reach(track: _Track, maps: Maps, at_m: float) -> tuple[float, float]:
    """How far up and down the line a terminus may lie."""
    steps = np.arange(0.0, _REACH_M + _STEP_M, _STEP_M)
    up = track.pixels(maps, np.maximum(at_m - steps, 0.0), ice=True)
    down = track.pixels(maps, at_m + steps, ice=True)
    return _first(up >= _CERTAIN, steps), _first(~(down > _NONE), steps)


def _first(certain: NDArray[np.bool_], steps: NDArray[np.float64]) -> float:
    """The first distance from which on it is certain, half a pixel at least."""
    found = np.flatnonzero(certain)
    return max(float(steps[found[0]]) if found.size else _REACH_M, _HALF_PIXEL_M)
