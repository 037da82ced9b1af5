"""Sentinel-2 L2A of a simulated range: reflectance, digital numbers and scene classification."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M
from cryoscale.kernel import kernel
from cryoscale.simulate.ground import AXES, MATERIALS, Ground, standard_noise
from cryoscale.simulate.illumination import Light, Sun, gain, sun_position, utc_of_solar_time
from cryoscale.simulate.lattice import Lattice, block_mean
from cryoscale.simulate.regime import HIMALAYA, OpticalDate, Regime
from cryoscale.simulate.spectra import BANDS, CLOUD_MEAN, SPECTRA, shade_ratio
from cryoscale.simulate.weather import clouds

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

BAND_RESOLUTION_M = dict(zip(BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20), strict=True))
"""Native pixel size of each band in metres."""

OVERPASS_SOLAR_HOUR = 10.5
"""Mean local solar time at which Sentinel-2 passes (descending node)."""

WHITE_NOISE = 0.0025
"""Standard deviation of each pixel's own noise in reflectance."""

DARKEST = 0.001
"""Least reflectance that is rendered."""

_STRIP = 16
"""Rows that are mixed at a time, so that their terms stay in cache."""

_SPREAD = {
    "snow": 0.6,
    "firn": 0.3,
    "ice": 0.6,
    "rock": 0.75,
    "wet_rock": 0.75,
    "water": 0.6,
    "vegetation": 0.8,
}
"""Share of a class's standard deviation that one scene shows; the rest is between places and dates."""

_WET = np.linspace(0.93, 0.78, len(BANDS))
"""What moisture leaves of rock's reflectance: it darkens the short-wave infrared most (Lobell & Asner
2002, https://doi.org/10.2136/sssaj2002.7220)."""


_BROWN = (0.05, 0.07, 0.10, 0.14, 0.17, 0.19, 0.21, 0.24, 0.26, 0.27, 0.32, 0.23)
"""Reflectance (b,) of dead grass over soil: rising steadily, without the step at 0.7 um that living leaves
have; a parametrisation in the manner of dry grass in Asner 1998, https://doi.org/10.1016/S0034-4257(98)00014-5."""

_HAZE = np.array((1.15, 1.0, 0.84, 0.68, 0.63, 0.59, 0.55, 0.51, 0.48, 0.43, 0.21, 0.14))
"""Colour of haze (b,) relative to 490 nm: the wavelength to the power of -1.3 (Angstrom's law)."""


@dataclass(frozen=True)
class OpticalScene:
    """What an overpass sees of the whole range, in the range's own frame."""

    when: datetime
    sun: Sun
    reflectance: F32
    cloud: F32
    cloud_shadow: F32
    water: F32


def _coefficients(regime: Regime) -> F32:
    """(m * (1 + axes), b): mean of each material, then its scaled principal axes."""
    tint = np.linspace(-regime.rock_tint, regime.rock_tint, len(BANDS))
    rock = regime.rock_brightness * (1.0 + tint)
    factors = {"rock": rock, "wet_rock": rock * _WET}
    rows = []
    for name in MATERIALS:
        spectrum = SPECTRA["rock" if name == "wet_rock" else name]
        factor = factors.get(name, np.ones(len(BANDS)))
        mean = np.asarray(spectrum.mean)
        if name == "vegetation":
            mean = mean + regime.plants_brown * (np.asarray(_BROWN) - mean)
        rows.append(mean[None] * factor)
        rows.append(spectrum.axes(AXES).T * factor * _SPREAD[name])
    return np.concatenate(rows).astype(np.float32)


def blend_spectra(shares: F32, patterns: F32, key: int, regime: Regime = HIMALAYA) -> F32:
    """Reflectance (b, y, x) in level light of pixels mixed from MATERIALS by ``shares`` (m, y, x).

    The deviation from the class means follows each class's covariance and is correlated in space
    by the ``patterns`` (a, y, x), alike for all classes of a place; pixels add white noise.
    """
    _, rows, cols = shares.shape
    coefficients = np.ascontiguousarray(_coefficients(regime).T)
    rng = np.random.default_rng([key, 5])
    out: F32 = np.empty((len(BANDS), rows, cols), np.float32)
    terms: F32 = np.empty((len(MATERIALS), 1 + AXES, _STRIP, cols), np.float32)
    for top in range(0, rows, _STRIP):
        strip = slice(top, min(top + _STRIP, rows))
        part = terms[:, :, : strip.stop - top]
        part[:, 0] = shares[:, strip]
        np.multiply(shares[:, None, strip], patterns[None, :, strip], out=part[:, 1:])
        mixed = coefficients @ part.reshape(coefficients.shape[1], -1)
        mixed += rng.standard_normal(mixed.shape, np.float32) * np.float32(WHITE_NOISE)
        out[:, strip] = mixed.reshape(len(BANDS), -1, cols)
    return out


def observe(ground: Ground, overpass: OpticalDate) -> OpticalScene:
    """Render one overpass over the whole range: bottom-of-atmosphere reflectance, cloud and shadow."""
    lon, lat = ground.centre_deg()
    when = utc_of_solar_time(overpass.day(ground.year), OVERPASS_SOLAR_HOUR, lon)
    sun = sun_position(when, lon, lat)
    key = ground.key(when.timetuple().tm_yday)
    snow = ground.snow(overpass.snow_line_m, key)
    shares = ground.mixture(snow)
    reflectance = blend_spectra(shares, ground.patterns, key, ground.range.regime)
    sky = clouds(ground.shape, overpass.cloud, sun, key + 1)
    _apply_light(reflectance, ground.light(sun), sky.shadow, ground.range.water)
    if ground.range.regime.haze > 0.0:
        reflectance += np.float32(ground.range.regime.haze) * _HAZE.astype(np.float32)[:, None, None]
    billow = 1.0 + 0.07 * standard_noise(ground.shape, 30.0, 4, key + 2)
    covered = sky.opacity > 0.0
    for band, mean in enumerate(CLOUD_MEAN):
        under = reflectance[band][covered]
        reflectance[band][covered] += sky.opacity[covered] * (np.float32(mean) * billow[covered] - under)
    np.maximum(reflectance, DARKEST, out=reflectance)
    return OpticalScene(when, sun, reflectance, sky.opacity, sky.shadow, shares[MATERIALS.index("water")])


def _apply_light(reflectance: F32, light: Light, cloud_shadow: F32, water: NDArray[np.bool_]) -> None:
    """Put terrain illumination and cloud shadow on ``reflectance`` (b, y, x), in place."""
    shaded = Light(light.direct * (1.0 - 0.96 * cloud_shadow), light.sky)
    for band, ratio in enumerate(shade_ratio()):
        factor = gain(shaded, float(ratio))
        # Water mirrors the sky: its reflectance in shadow falls less than the ground's.
        reflectance[band] *= np.where(water, 0.5 + 0.5 * factor, factor)


@kernel
def _encode(reflectance: F32, offset: float, out: U16) -> None:
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            value = reflectance[j, i]
            if np.isfinite(value):
                out[j, i] = np.uint16(min(max(np.rint((value - offset) * 1e4), 1.0), 65535.0))
            else:
                out[j, i] = np.uint16(0)


def to_digital(reflectance: F32, offset: float) -> U16:
    """Digital numbers (y, x) of ``reflectance``: (r - offset) * 10000, at least 1; 0 where NaN."""
    out: U16 = np.empty(reflectance.shape, np.uint16)
    _encode(reflectance, offset, out)
    return out


def band_on(scene: OpticalScene, lattice: Lattice, band: str) -> F32:
    """Reflectance (y, x) of ``band`` in its native pixels on a granule's 10 m ``lattice``; NaN outside."""
    fine = lattice.sample(scene.reflectance[BANDS.index(band)])
    factor = BAND_RESOLUTION_M[band] // int(RESOLUTION_M)
    return fine if factor == 1 else block_mean(fine, factor)


def classify(scene: OpticalScene, lattice: Lattice, bands: dict[str, F32]) -> U8:
    """Scene classification (y, x) at 20 m with Sen2Cor's codes from the ``bands`` at 20 m.

    Codes: 0 no data, 2 dark, 3 cloud shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud of
    medium and high probability, 10 thin cirrus, 11 snow or ice. Source: Sentinel-2 L2A ATBD,
    https://step.esa.int/thirdparties/sen2cor/2.10.0/docs/S2-PDGS-MPC-L2A-ATBD-V2.10.0.pdf.
    """
    green, red, nir, swir = bands["B03"], bands["B04"], bands["B8A"], bands["B11"]
    cloud, shadow, water = (
        block_mean(lattice.sample(field), 2) for field in (scene.cloud, scene.cloud_shadow, scene.water)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        ndsi, ndvi = (green - swir) / (green + swir), (nir - red) / (nir + red)
        code = np.full(green.shape, 5, np.uint8)
        code[(red < 0.05) & (nir < 0.07) & (swir < 0.07)] = 2
        code[(ndvi > 0.36) & (nir > 0.12)] = 4
        code[(ndsi > 0.42) & (nir > 0.11) & (green > 0.12)] = 11
        code[water > 0.5] = 6
        code[shadow > 0.4] = 3
        code[cloud > 0.12] = 10
        code[cloud > 0.28] = 8
        code[cloud > 0.5] = 9
    code[~np.isfinite(green)] = 0
    return code
