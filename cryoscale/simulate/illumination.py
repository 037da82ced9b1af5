"""Where the sun stands, which ground it reaches, and how much of that an L2A product leaves in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]

PENUMBRA_M = 8.0
"""Depth under the shadow's surface at which no sun is left: a sun 0.53 degrees wide, some 900 m away."""

RESIDUAL = 0.5
"""Exponent of the terrain effect that is left after terrain correction: 0 none, 1 all of it."""


@dataclass(frozen=True)
class Sun:
    """Direction of the sun: degrees above the horizon, degrees clockwise from north."""

    elevation_deg: float
    azimuth_deg: float

    @property
    def toward(self) -> tuple[float, float, float]:
        """Unit vector to the sun: east, north, up."""
        high, turn = math.radians(self.elevation_deg), math.radians(self.azimuth_deg)
        return math.sin(turn) * math.cos(high), math.cos(turn) * math.cos(high), math.sin(high)


@dataclass(frozen=True)
class Light:
    """Light on the ground relative to a level place in the open, both (y, x).

    ``direct`` is the sun's share (1 level, 0 in shadow), ``sky`` the visible share of the sky.
    """

    direct: F32
    sky: F32


def _declination_and_equation(when: datetime) -> tuple[float, float]:
    """Declination of the sun (rad) and equation of time (minutes)."""
    start = datetime(when.year, 1, 1, tzinfo=UTC)
    turn = 2.0 * math.pi * (when - start).total_seconds() / (365.2422 * 86400.0)
    c, s = [math.cos(k * turn) for k in range(4)], [math.sin(k * turn) for k in range(4)]
    declination = (
        (0.006918 - 0.399912 * c[1] + 0.070257 * s[1])
        + (-0.006758 * c[2] + 0.000907 * s[2])
        + (-0.002697 * c[3] + 0.00148 * s[3])
    )
    equation = 229.18 * (0.000075 + 0.001868 * c[1] - 0.032077 * s[1] - 0.014615 * c[2] - 0.040849 * s[2])
    return declination, equation


def sun_position(when: datetime, lon_deg: float, lat_deg: float) -> Sun:
    """Where the sun stands at the time ``when`` (with a time zone) over a place, to about 0.3 degrees.

    Source: Spencer, J. W. 1971, in the form of NOAA's solar equations,
    https://gml.noaa.gov/grad/solcalc/solareqns.PDF. Refraction is left out.
    """
    when = when.astimezone(UTC)
    declination, equation = _declination_and_equation(when)
    hours = when.hour + when.minute / 60.0 + when.second / 3600.0
    hour_angle = math.radians((hours + equation / 60.0 + lon_deg / 15.0 - 12.0) * 15.0)
    lat = math.radians(lat_deg)
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.sin(declination) * math.cos(lat) - math.cos(declination) * math.cos(hour_angle) * math.sin(
        lat
    )
    up = math.sin(declination) * math.sin(lat) + math.cos(declination) * math.cos(hour_angle) * math.cos(lat)
    return Sun(math.degrees(math.asin(up)), math.degrees(math.atan2(east, north)) % 360.0)


def utc_of_solar_time(day: date, solar_hour: float, lon_deg: float) -> datetime:
    """The time (UTC, to the second) at which apparent solar time at ``lon_deg`` is ``solar_hour``."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    guess = midnight + timedelta(hours=solar_hour - lon_deg / 15.0)
    moved = guess - timedelta(minutes=_declination_and_equation(guess)[1])
    return moved.replace(microsecond=0)


def _along_sun(z: F32, sun: Sun) -> tuple[F32, bool, bool, float]:
    """``z`` turned so that the sun stands towards row 0; whether transposed, flipped; columns a row."""
    east, north, _ = sun.toward
    d_row, d_col = -north, east
    transposed = abs(d_row) < abs(d_col)
    if transposed:
        z, d_row, d_col = z.T, d_col, d_row
    flipped = d_row > 0
    if flipped:
        z, d_row = z[::-1], -d_row
    return z, transposed, flipped, d_col / -d_row


def sunlit_share(elevation_m: F32, pixel_m: float, sun: Sun) -> F32:
    """Share of the sun's disc that each place (y, x) sees past the terrain: 0 in cast shadow, 1 in the sun.

    Rows are sheared so that rays to the sun run along columns; there the shadow's surface is a
    running maximum, so that the cost is that of one pass, whatever the relief. The sun must be up.
    """
    z, transposed, flipped, shear = _along_sun(np.asarray(elevation_m, np.float32), sun)
    rows, cols = z.shape
    drop = pixel_m * math.hypot(1.0, shear) * math.tan(math.radians(sun.elevation_deg))
    offsets = shear * np.arange(rows)
    first = math.floor(offsets.min()) - 1
    width = cols + math.ceil(offsets.max()) - first + 2
    surface = np.full(width, -np.inf, np.float32)
    share = np.empty_like(z)
    own = np.empty(width, np.float32)
    for row in range(rows):
        whole = math.floor(offsets[row])
        part = np.float32(offsets[row] - whole)
        line = np.pad(z[row], 1, mode="edge")
        at = slice(whole - first, whole - first + cols + 1)
        own.fill(-np.inf)
        own[at] = line[:-1] * part + line[1:] * (1.0 - part)
        surface = np.maximum(surface - np.float32(drop), own)
        # Shear back the light, not the depth of the shadow: that would widen deep shadows by a pixel.
        light = 1.0 - np.minimum((surface[at] - own[at]) / np.float32(PENUMBRA_M), 1.0)
        share[row] = light[:-1] * (1.0 - part) + light[1:] * part
    share = share[::-1] if flipped else share
    return np.ascontiguousarray(share.T if transposed else share)


def direct_light(elevation_m: F32, pixel_m: float, sun: Sun, relief_m: F32 | None = None) -> F32:
    """Sunlight on the terrain (y, x) relative to level ground, 0 in attached and cast shadows.

    ``relief_m`` is finer relief that tilts the faces but is too small to cast shadows.
    """
    faces = elevation_m if relief_m is None else elevation_m + relief_m
    rise_south, rise_east = np.gradient(faces, np.float32(pixel_m))
    east, north, high = (np.float32(part) for part in sun.toward)
    facing = (high - rise_east * east + rise_south * north) / np.sqrt(1.0 + rise_east**2 + rise_south**2)
    lit = sunlit_share(elevation_m, pixel_m, sun)
    return np.asarray(np.clip(facing / high, 0.0, 2.5) * lit, np.float32)


def sky_view(elevation_m: F32, pixel_m: float) -> F32:
    """Visible share of the sky (y, x), approximately.

    A tilted face sees (1 + cos slope) / 2 of the sky; a hollow sees less the deeper it lies under
    the mean height of its surroundings.
    """
    rise_south, rise_east = np.gradient(elevation_m, np.float32(pixel_m))
    up = 1.0 / np.sqrt(1.0 + rise_east**2 + rise_south**2)
    # The surroundings are smooth, so that a grid eight times coarser holds them.
    coarse = elevation_m[4::8, 4::8]
    around = ndimage.gaussian_filter(coarse, 400.0 / (8.0 * pixel_m), truncate=2.5)
    zoom = np.divide(elevation_m.shape, coarse.shape)
    around = ndimage.zoom(around, zoom, order=1, grid_mode=True, mode="nearest")
    hollow = np.clip((around - elevation_m) / np.float32(1100.0), 0.0, 0.35)
    return np.asarray(0.5 * (1.0 + up) * (1.0 - hollow), np.float32)


def gain(light: Light, shade_ratio: float) -> F32:
    """Factor (y, x) on a band's reflectance that an imperfect terrain correction leaves.

    ``shade_ratio`` is what a cast shadow leaves in this band; level, open ground has 1.
    """
    sunlit = light.direct ** np.float32(RESIDUAL)
    return np.asarray(shade_ratio * light.sky + (1.0 - shade_ratio) * sunlit, np.float32)
