"""Landsat Collection 2 surface temperature (ST_B10) and QA_PIXEL of a simulated range."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import RESOLUTION_M
from cryoscale.simulate.ground import MATERIALS, Ground, standard_noise
from cryoscale.simulate.illumination import Sun, sun_position, utc_of_solar_time
from cryoscale.simulate.lattice import Lattice, block_mean
from cryoscale.simulate.regime import ThermalDate
from cryoscale.simulate.weather import clouds

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]

SCALE_K, OFFSET_K = 0.00341802, 149.0
"""ST_B10 in kelvin = digital number * SCALE_K + OFFSET_K (Landsat 8-9 Collection 2 Level 2 guide,
https://www.usgs.gov/media/files/landsat-8-9-collection-2-level-2-science-product-guide)."""

FREEZING_K = 273.15
LAPSE_K_M = 0.0065
"""Fall of the air temperature with height."""

DEBRIS_SCALE_M = 0.10
"""Thickness of debris over which its surface warms from the ice's to the rock's temperature, as in
daytime thermal images of the Miage glacier (Mihalcea et al. 2008, https://doi.org/10.1016/j.coldregions.2007.03.004)."""

_OVERPASS_SOLAR_HOUR = 10.25
_FACTOR = 3

QA_FILL, QA_CLEAR, QA_WATER, QA_SNOW, QA_DILATED, QA_CLOUD, QA_SHADOW = (
    1,
    21824,
    21952,
    30048,
    21826,
    22280,
    23888,
)
"""QA_PIXEL values that Collection 2 gives to plain cases (same guide, table of pixel values)."""


@dataclass(frozen=True)
class ThermalScene:
    """What a Landsat overpass sees of the whole range, in the range's own frame."""

    when: datetime
    sun: Sun
    temperature_k: F32
    cloud: F32
    cloud_shadow: F32
    snow: F32
    water: F32


def surface_temperature(ground: Ground, snow: F32, direct: F32) -> F32:
    """Surface temperature (y, x) in K at mid-morning, under ``direct`` sun (1 on level ground).

    Air on the line of equilibrium is as cold as the regime has it. Snow and ice stay at or below
    freezing, rock warms by 17 K in level sun, debris in between by its thickness, water stays cool.
    """
    site = ground.range
    air = np.float32(FREEZING_K + site.regime.air_k) - np.float32(LAPSE_K_M) * (
        site.elevation_m - np.float32(site.ela_m)
    )
    sun = np.clip(direct, 0.0, 1.4)
    rock = air - 1.0 + 17.0 * sun
    ice = np.minimum(FREEZING_K, air - 1.5 + 3.0 * sun)
    water = 274.0 + 0.5 * np.maximum(air - 269.0, 0.0)
    green = air + 8.0 * sun
    warm = 1.0 - np.exp(-site.debris_thickness_m / np.float32(DEBRIS_SCALE_M))
    stony = np.where(site.glacier_id > 0, ice + (rock - ice) * warm, rock)
    plain = {"snow": ice, "firn": ice, "ice": ice, "rock": stony, "wet_rock": stony}
    plain |= {"water": water, "vegetation": green}
    shares = ground.mixture(snow)
    total = sum(shares[k] * plain[name] for k, name in enumerate(MATERIALS))
    return np.asarray(total, np.float32)


def observe_thermal(ground: Ground, overpass: ThermalDate) -> ThermalScene:
    """Render one Landsat overpass: temperature through the thermal sensor's 100 m footprint."""
    lon, lat = ground.centre_deg()
    when = utc_of_solar_time(overpass.day(ground.year), _OVERPASS_SOLAR_HOUR, lon)
    sun = sun_position(when, lon, lat)
    key = ground.key(when.timetuple().tm_yday, 2)
    snow = ground.snow(overpass.snow_line_m, key)
    kelvin = surface_temperature(ground, snow, ground.light(sun).direct)
    sky = clouds(ground.shape, overpass.cloud, sun, key + 1)
    # Ground in a cloud's shadow has begun to cool; ice has no heat above freezing to lose.
    kelvin -= 4.0 * sky.shadow * np.clip((kelvin - np.float32(FREEZING_K)) / 5.0, 0.0, 1.0)
    kelvin += sky.opacity * (258.0 - kelvin)
    kelvin = ndimage.gaussian_filter(kelvin, 42.0 / RESOLUTION_M, truncate=2.5)
    kelvin += 0.3 * standard_noise(ground.shape, 12.0, 2, key + 2)
    water = ground.range.water.astype(np.float32)
    return ThermalScene(when, sun, kelvin, sky.opacity, sky.shadow, snow, water)


def thermal_on(scene: ThermalScene, lattice: Lattice) -> tuple[U16, U16]:
    """ST_B10 and QA_PIXEL (y, x) at 30 m on a granule's 10 m ``lattice``; 0 and 1 are fill."""
    fields = (scene.temperature_k, scene.cloud, scene.cloud_shadow, scene.snow, scene.water)
    kelvin, cloud, shadow, snow, water = (block_mean(lattice.sample(field), _FACTOR) for field in fields)
    valid = np.isfinite(kelvin)
    digital = np.rint((np.where(valid, kelvin, OFFSET_K) - OFFSET_K) / SCALE_K)
    qa = np.full(kelvin.shape, QA_CLEAR, np.uint16)
    cases = (
        (snow > 0.5, QA_SNOW),
        (water > 0.5, QA_WATER),
        (shadow > 0.35, QA_SHADOW),
        (ndimage.maximum_filter(np.nan_to_num(cloud), 5) > 0.3, QA_DILATED),
        (cloud > 0.3, QA_CLOUD),
        (~valid, QA_FILL),
    )
    for where, value in cases:
        qa[where] = value
    return np.where(valid, digital, 0).astype(np.uint16), qa
