"""A coregistered, geocoded Sentinel-1 SLC pair of a simulated range: speckle, coherence, phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M
from cryoscale.simulate.ground import MATERIALS, Ground, standard_noise
from cryoscale.simulate.lattice import Lattice

F32 = NDArray[np.float32]
C64 = NDArray[np.complex64]

WAVELENGTH_M = 0.05546576
"""Sentinel-1 C-band."""

INCIDENCE_DEG = 39.0
LOOK_AZIMUTH_DEG = 102.0
"""Ground azimuth from the scene to the satellite, on a descending pass (heading 192, looking right)."""

NOISE_DB = -26.0
"""Backscatter that equals the receiver's noise; it is all that is left in radar shadow."""

SLANT_RANGE_M = 850e3
BASELINE_M = 60.0
"""Distance to the satellite and perpendicular baseline of the pair; both set the height sensitivity."""

HEIGHT_ERROR_M = 6.0
"""Error of the elevation model whose topographic phase was removed."""

DAYS = 24

COHERENCE = {
    "snow": 0.42,
    "firn": 0.45,
    "ice": 0.40,
    "rock": 0.82,
    "wet_rock": 0.70,
    "water": 0.08,
    "vegetation": 0.30,
}
"""Coherence of each material after 24 days where nothing flows. In the range that 24-day C-band pairs
over glaciers show: stable ground high, ice low whatever covers it, water none (Lippl et al. 2018,
Automatic delineation of debris-covered glaciers using InSAR coherence,
https://doi.org/10.1017/jog.2018.70)."""

DECAY_M_YR = 9.0
"""Speed at which flow (rotation and shear of the scatterers) has lowered coherence to 1/e."""

BACKSCATTER_DB = {
    "snow": -13.0,
    "firn": -9.0,
    "ice": -12.0,
    "rock": -8.0,
    "wet_rock": -8.5,
    "water": -20.0,
    "vegetation": -10.0,
}


@dataclass(frozen=True)
class RadarPair:
    """What the pair holds of the whole range, in the range's own frame, all (y, x).

    ``power`` is linear backscatter, ``coherence`` the model's 0..1, ``phase_rad`` is unwrapped.
    """

    power: F32
    coherence: F32
    phase_rad: F32


def coherence_model(ground: Ground, shares: F32, key: int) -> F32:
    """Coherence (y, x) after 24 days of pixels mixed by ``shares``, falling with the speed of the ice."""
    still = sum(shares[k] * np.float32(COHERENCE[name]) for k, name in enumerate(MATERIALS))
    speed = np.hypot(ground.range.velocity_east_m_yr, ground.range.velocity_north_m_yr)
    # Sliding scree, rockfall and layover spoil steep faces, and patches anywhere change by chance.
    slope = np.hypot(*np.gradient(ground.range.elevation_m, np.float32(RESOLUTION_M)))
    still = still ** np.float32(ground.range.regime.decorrelation)
    local = 1.0 + 0.09 * standard_noise(ground.shape, 60.0, 5, key) - 0.22 * np.clip(slope - 0.8, 0.0, 1.2)
    # Where ice melts and settles the surface is renewed even when it stands.
    settled = np.where(ground.range.glacier_id > 0, np.float32(0.85), np.float32(1.0))
    flowing = np.exp(-speed / np.float32(DECAY_M_YR))
    return np.asarray(np.clip(still * flowing * settled * local, 0.03, 0.92), np.float32)


def phase_model(ground: Ground, key: int) -> F32:
    """Interferometric phase (y, x) in rad: error of the DEM, atmosphere, and displacement in 24 days."""
    site = ground.range
    look, turn = math.radians(INCIDENCE_DEG), math.radians(LOOK_AZIMUTH_DEG)
    per_metre = 4.0 * math.pi * BASELINE_M / (WAVELENGTH_M * SLANT_RANGE_M * math.sin(look))
    phase = per_metre * HEIGHT_ERROR_M * standard_noise(ground.shape, 45.0, 3, key + 1)
    phase += 0.9 * standard_noise(ground.shape, 320.0, 2, key + 2)
    phase += np.float32(0.7e-3) * (site.elevation_m - np.float32(site.ela_m))
    away = -(site.velocity_east_m_yr * math.sin(turn) + site.velocity_north_m_yr * math.cos(turn)) * math.sin(
        look
    )
    return np.asarray(phase + away * np.float32(DAYS / 365.25 * 4.0 * math.pi / WAVELENGTH_M), np.float32)


def observe_radar(ground: Ground, snow_line_m: float | None = None) -> RadarPair:
    """Render backscatter, coherence and phase.

    ``snow_line_m`` is relative to the equilibrium line; that of the range's regime unless given.
    """
    key = ground.key(31)
    line_m = ground.range.regime.radar_snow_line_m if snow_line_m is None else snow_line_m
    shares = ground.mixture(ground.snow(line_m, key))
    linear = [np.float32(10.0 ** (BACKSCATTER_DB[name] / 10.0)) for name in MATERIALS]
    level = sum(shares[k] * linear[k] for k in range(len(MATERIALS)))
    echo = level * _slope_brightness(ground.range.elevation_m)
    power = np.asarray(echo + np.float32(10.0 ** (NOISE_DB / 10.0)), np.float32)
    coherence = coherence_model(ground, shares, key + 1) * echo / power
    return RadarPair(power, np.asarray(coherence, np.float32), phase_model(ground, key + 2))


def _slope_brightness(elevation_m: F32) -> F32:
    """Brightening of faces turned to the satellite and darkening of those turned away (y, x)."""
    rise_south, rise_east = np.gradient(elevation_m, np.float32(RESOLUTION_M))
    look, turn = math.radians(INCIDENCE_DEG), math.radians(LOOK_AZIMUTH_DEG)
    toward = rise_east * math.sin(turn) - rise_south * math.cos(turn)
    up = 1.0 / np.sqrt(1.0 + rise_east**2 + rise_south**2)
    facing = np.clip((math.cos(look) - toward * math.sin(look)) * up, 0.03, 1.0)
    return np.asarray((facing / math.cos(look)) ** 1.5, np.float32)


def pair_on(pair: RadarPair, lattice: Lattice, key: int) -> tuple[C64, C64]:
    """The two complex images (y, x) on a granule's 10 m ``lattice``; 0 outside the range.

    Speckle is circular Gaussian; E[s1 conj(s2)] = power * coherence * exp(i phase).
    """
    power, coherence = lattice.sample(pair.power, 0.0), lattice.sample(pair.coherence, 0.0)
    phase = lattice.sample(pair.phase_rad, 0.0)
    rng = np.random.default_rng([key, 77])
    amplitude = np.sqrt(0.5 * power)

    def speckle() -> C64:
        parts = rng.standard_normal((*power.shape, 2), np.float32)
        return np.asarray(parts.view(np.complex64)[..., 0])

    first = speckle()
    second = coherence * first + np.sqrt(1.0 - coherence**2) * speckle()
    turned = np.exp(-1j * phase.astype(np.complex64))
    return (amplitude * first).astype(np.complex64), (amplitude * second * turned).astype(np.complex64)
