"""What makes pixels of a range hard or easy to map, known without error: the strata of an evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import RESOLUTION_M
from cryoscale.simulate.ground import Ground
from cryoscale.simulate.illumination import direct_light, sun_position, utc_of_solar_time
from cryoscale.simulate.lattice import Lattice
from cryoscale.simulate.regime import OpticalDate, Season
from cryoscale.simulate.sensors import OVERPASS_SOLAR_HOUR

F32 = NDArray[np.float32]

STRATA = ("debris_thickness_m", "shadow", "slope_deg")

_NO_STRATUM = 255


def slope_deg(elevation_m: F32) -> F32:
    """Slope (y, x) of heights on the 10 m grid in degrees; NaN at the rim.

    Source: Horn 1981, https://doi.org/10.1109/PROC.1981.11918, whose weights are those of a Sobel filter.
    """
    rise = [
        ndimage.sobel(elevation_m, axis=axis, mode="constant", cval=np.nan) / (8.0 * RESOLUTION_M)
        for axis in (0, 1)
    ]
    return np.asarray(np.degrees(np.arctan(np.hypot(*rise))), np.float32)


def shadow(ground: Ground, overpass: OpticalDate) -> NDArray[np.uint8]:
    """1 where terrain takes all direct sun at ``overpass`` (faces turned away, cast shadows), else 0."""
    lon, lat = ground.centre_deg()
    sun = sun_position(utc_of_solar_time(overpass.day(ground.year), OVERPASS_SOLAR_HOUR, lon), lon, lat)
    return (direct_light(ground.range.elevation_m, RESOLUTION_M, sun) <= 0.0).astype(np.uint8)


def strata_on(ground: Ground, lattice: Lattice, season: Season) -> dict[str, tuple[NDArray[Any], float]]:
    """The strata (y, x) on a zone's 10 m ``lattice`` by name, each with its no-data value.

    Debris and shadow are those of the nearest pixel, as the truth is.
    """
    debris = lattice.nearest(ground.range.debris_thickness_m, np.nan)
    slope = slope_deg(lattice.sample(ground.range.elevation_m))
    out: dict[str, tuple[NDArray[Any], float]] = {
        "debris_thickness_m": (debris, np.nan),
        "slope_deg": (slope, np.nan),
    }
    if season.optical:
        dark = lattice.nearest(shadow(ground, season.clearest), _NO_STRATUM)
        out["shadow"] = (dark, _NO_STRATUM)
    return out
