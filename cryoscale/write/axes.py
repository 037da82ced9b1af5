"""The axis along which a front moves, and places in its box: how far along it, how far to the side.

The axis of a terminus is that of the curvilinear box of Lea et al. (2014,
https://doi.org/10.3189/2014JoG13J061): the glacier's centre line, whose last part, over twice the front's
width, is replaced by a straight line to the middle of the front, since it ends at the lowest point, which may
be any on a level shore. So the axis of a front beside the middle of its tongue lies at a slant: for one 90 m
off the middle of a tongue of 300 m a displacement comes out 5 % too large. Any other front has a straight
axis at right angles to the chord of its ends.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiLineString, Polygon
from shapely.ops import substring

from cryoscale.grid import transformer, turned, utm_epsg
from cryoscale.write.ground import Ground

Floats = NDArray[np.float64]

_STEP_M = 5.0
"""Longest edge of a front where the axis is bent."""
_KEPT_M = 5000.0
"""Of the centre line above a front."""
_STRAY_M = 5.0
"""An axis may stray so far from its centre line for fewer vertices."""
_LED_WIDTHS, _LEAST_WIDTHS = 2.0, 1.0
_DECIMALS = 7


def axis_of(front: MultiLineString, at_terminus: bool, outline: Polygon, ground: Ground | None) -> str:
    """The axis of a front of a glacier, all in degrees, as WKT: a line from the ice to the water.

    Its longitudes go on beyond 180 where those of the front do.
    """
    epsg, line = _in_metres(front)
    to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
    shape = shapely.transform(outline, lambda xy: np.column_stack(to_zone.transform(*xy.T)))
    found = ground.line(outline, f"EPSG:{epsg}") if at_terminus and ground is not None else None
    main = None if found is None else found.line
    axis = None if main is None else along(main, line)
    axis = across(line, shape) if axis is None else axis
    lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*shapely.get_coordinates(axis).T)
    lon = turned(lon, front.centroid.x)  # as the outline has it
    return str(shapely.to_wkt(LineString(np.column_stack([lon, lat])), rounding_precision=_DECIMALS))


def _in_metres(front: MultiLineString) -> tuple[int, MultiLineString]:
    lon, lat = front.centroid.coords[0]
    epsg = utm_epsg(lon, lat)
    to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
    return epsg, shapely.transform(front, lambda xy: np.column_stack(to_zone.transform(*xy.T)))


def along(main: LineString, front: MultiLineString) -> LineString | None:
    """A centre line, from its head, led to the middle of a front and beyond (m).

    None if it has less than three times the front's width: what is as wide as long has no direction.
    """
    width = _width_m(front)
    middle = np.array(shapely.line_interpolate_point(_longest(front), 0.5, normalized=True).coords[0])
    vertices = np.asarray(shapely.get_coordinates(main), np.float64)
    near = shapely.distance(shapely.points(vertices), front) < _LED_WIDTHS * width
    above = vertices[: int(np.argmax(near)) if near.any() else len(vertices)]
    if len(above) < 2 or LineString(above).length < _LEAST_WIDTHS * width:
        return None
    kept = shapely.simplify(LineString(above), _STRAY_M)
    kept = substring(kept, max(kept.length - _KEPT_M, 0.0), kept.length)
    way = np.concatenate([shapely.get_coordinates(kept), middle[None]])
    onward = middle - way[-2]
    return LineString(np.concatenate([way, (middle + width * onward / np.hypot(*onward))[None]]))


def across(front: MultiLineString, outline: Polygon) -> LineString:
    """A line at right angles to a front (m), from the outline's inside to its outside."""
    xy = np.asarray(shapely.get_coordinates(_longest(front)), np.float64)
    first, last = xy[0], xy[-1]
    if (first == last).all():  # a ring
        last = xy[len(xy) // 2]
    width = max(float(np.hypot(*(last - first))), 1.0)
    chord = (last - first) / width
    normal = np.array([chord[1], -chord[0]])
    middle = np.array(shapely.line_interpolate_point(_longest(front), 0.5, normalized=True).coords[0])
    # by the areas of ice on either side, since a point beside a ragged front may lie on any
    discs = [shapely.Point(middle + sign * width / 2 * normal).buffer(width / 2) for sign in (1.0, -1.0)]
    sides = shapely.area(shapely.intersection(discs, outline))
    if sides[0] > sides[1]:
        normal = -normal
    return LineString([middle - width * normal, middle + width * normal])


def _longest(front: MultiLineString) -> LineString:
    return max(front.geoms, key=lambda part: part.length)


def _width_m(front: MultiLineString) -> float:
    """The longer side of the smallest box around a front, but not less than two pixels."""
    corners = shapely.get_coordinates(shapely.minimum_rotated_rectangle(front))
    return max(float(np.hypot(*np.diff(corners, axis=0).T).max(initial=0.0)), 20.0)


def in_box(line: LineString, axis: LineString) -> Floats:
    """Vertices of a line as (n, 2): metres along an axis and to its left; enough to be straight between.

    Beyond its ends the axis goes straight on.
    """
    way = np.asarray(shapely.get_coordinates(axis), np.float64)
    if len(way) > 2:
        line = shapely.segmentize(line, _STEP_M)
    points = np.asarray(shapely.get_coordinates(line), np.float64)
    best = np.full(len(points), np.inf)
    found = np.zeros((len(points), 2))
    walked = 0.0
    for index, (start, stop) in enumerate(pairwise(way)):
        length = float(np.hypot(*(stop - start)))
        ahead = (stop - start) / length
        offset = points - start
        passed, left = offset @ ahead, offset @ np.array([-ahead[1], ahead[0]])
        low = -np.inf if index == 0 else 0.0
        high = np.inf if index == len(way) - 2 else length
        on = np.clip(passed, low, high)
        distance = np.hypot(passed - on, left)
        closer = distance < best
        found[closer, 0] = walked + on[closer]
        found[closer, 1] = np.copysign(distance, left)[closer]
        best[closer] = distance[closer]
        walked += length
    return found
