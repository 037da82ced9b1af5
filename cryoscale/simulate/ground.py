"""What of a range stays from date to date: its materials, their pattern, and where snow lies first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.simulate.illumination import Light, Sun, direct_light, sky_view

if TYPE_CHECKING:
    from cryoscale.simulate.terrain import MountainRange

F32 = NDArray[np.float32]

MATERIALS = ("snow", "firn", "ice", "rock", "wet_rock", "water", "vegetation")
"""What a pixel is mixed from; wet rock is debris that the ice under it keeps moist."""

AXES = 4
"""Independent patterns, one for each principal axis of a class's covariance that is drawn."""


@dataclass(frozen=True)
class Ground:
    """A range in one year, with what its pictures of all dates share; arrays (y, x) in its own frame.

    ``relief_m`` is what blocks, gullies and hummocks add to the height below what a surface model
    holds; ``snow_bias_m`` is added to the height to find where snow lies, ``snow_held`` is the share that
    steep faces keep, ``firn`` outlives the summer, ``patterns`` (a, y, x) is standard normal.
    """

    range: MountainRange
    year: int
    sky: F32
    relief_m: F32
    snow_bias_m: F32
    snow_held: F32
    firn: F32
    patterns: F32

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.sky.shape[0], self.sky.shape[1]

    def key(self, *parts: int) -> int:
        """A seed for what happens to this range in this year, told apart by ``parts``."""
        return key_of(self.range.seed, self.year, *parts)

    def centre_deg(self) -> tuple[float, float]:
        """Longitude and latitude of the middle."""
        rows, cols = self.shape
        x = self.range.west_m + 0.5 * cols * RESOLUTION_M
        y = self.range.north_m - 0.5 * rows * RESOLUTION_M
        lon, lat = transformer(self.range.crs, "EPSG:4326").transform(x, y)
        return float(lon), float(lat)

    def light(self, sun: Sun) -> Light:
        """Light under ``sun``."""
        return Light(direct_light(self.range.elevation_m, RESOLUTION_M, sun, self.relief_m), self.sky)

    def snow(self, line_m: float, key: int) -> F32:
        """Share (y, x) of each pixel under seasonal snow; its line is ``line_m`` above equilibrium.

        Snow lies lower on faces turned from the noon sun, in hollows and on bare ice, higher on
        warm debris, slides off faces steeper than some 50 degrees, and is patchy at its edge.
        """
        line = float(self.range.ela_m + line_m)
        drift = 25.0 * standard_noise(self.shape, 40.0, 4, key, 0.7)
        cover = smooth_step(self.range.elevation_m + self.snow_bias_m + drift, line - 50.0, line + 90.0)
        # Firn is cold and bright: what falls on it stays, in patches, below the snow line too.
        return np.asarray(np.maximum(cover * self.snow_held, 0.5 * self.firn), np.float32)

    def mixture(self, snow: F32) -> F32:
        """Share (m, y, x) of each of MATERIALS in every pixel, under the share ``snow`` of seasonal snow."""
        ice = (self.range.glacier_id > 0).astype(np.float32)
        debris = self.range.debris_thickness_m
        cover = ice * (1.0 - np.exp(-debris / np.float32(0.02)))
        # Thin debris is kept wet by the ice that melts under it; thick debris is dry at its surface.
        wet = cover * np.float32(0.8) * np.exp(-debris / np.float32(0.25))
        water = self.range.water.astype(np.float32)
        ice *= 1.0 - water
        open_share = 1.0 - snow
        cover, wet = np.minimum(cover, ice), np.minimum(wet, ice)
        green = self.range.vegetation_fraction * (1.0 - ice) * (1.0 - water)
        bare = np.clip(1.0 - ice - water - green, 0.0, 1.0)
        firn = np.minimum(self.firn, ice - cover)
        parts = (firn, ice - cover - firn, bare + cover - wet, wet, water, green)
        return np.stack([snow, *(part * open_share for part in parts)]).astype(np.float32)


def survey_ground(mountain_range: MountainRange, year: int) -> Ground:
    """Work out once what every date of ``year`` needs."""
    z, seed = mountain_range.elevation_m, mountain_range.seed
    patterns = np.stack(
        [standard_noise(z.shape, 100.0 - 15.0 * k, 6, key_of(seed, 7, k), 0.72) for k in range(AXES)]
    )
    bias, held = _snow_shape(mountain_range)
    wave = 35.0 * standard_noise(z.shape, 60.0, 4, key_of(seed, year, 3))
    firn = smooth_step(z - np.float32(mountain_range.ela_m) + wave, -40.0, 70.0)
    firn *= (mountain_range.glacier_id > 0) & ~mountain_range.water
    sky = sky_view(z, RESOLUTION_M)
    return Ground(mountain_range, year, sky, _fine_relief(mountain_range), bias, held, firn, patterns)


def _fine_relief(mountain_range: MountainRange) -> F32:
    """Metres (y, x) of relief at a few pixels: hummocks on debris, gullies on slopes, none on ice."""
    z = mountain_range.elevation_m
    slope = np.hypot(*np.gradient(ndimage.gaussian_filter(z, 2.0), np.float32(RESOLUTION_M)))
    rocky = 0.4 + 1.6 * np.clip(slope, 0.0, 1.2)
    hummocky = 1.8 * np.clip(mountain_range.debris_thickness_m / 0.15, 0.0, 1.0)
    amplitude = np.where(mountain_range.glacier_id > 0, hummocky, rocky) * ~mountain_range.water
    return np.asarray(
        amplitude * standard_noise(z.shape, 8.0, 3, key_of(mountain_range.seed, 29), 0.55), np.float32
    )


def _snow_shape(mountain_range: MountainRange) -> tuple[F32, F32]:
    """Metres by which each place (y, x) seems higher to snow, and the share that stays on it."""
    z, seed = mountain_range.elevation_m, mountain_range.seed
    smooth = ndimage.gaussian_filter(z, 3.0)
    down_south, rise_east = np.gradient(smooth, np.float32(RESOLUTION_M))
    # Rows grow southwards: where height grows with the row the face looks north.
    shaded = np.float32(mountain_range.regime.shady_side) * down_south
    bias = 330.0 * shaded / np.sqrt(1.0 + rise_east**2 + down_south**2)
    bias += 70.0 * standard_noise(z.shape, 110.0, 3, key_of(seed, 21))
    bias += 45.0 * standard_noise(z.shape, 14.0, 4, key_of(seed, 22), 0.75)
    bias += np.clip((ndimage.gaussian_filter(z, 8.0) - smooth) * 6.0, -60.0, 60.0)
    bias -= 90.0 * np.clip(mountain_range.debris_thickness_m / 0.2, 0.0, 1.0)
    bias += 60.0 * ((mountain_range.glacier_id > 0) & (mountain_range.debris_thickness_m < 0.01))
    steep_deg = np.degrees(np.arctan(np.hypot(*np.gradient(z, np.float32(RESOLUTION_M)))))
    steep_deg += 3.0 * standard_noise(z.shape, 20.0, 3, key_of(seed, 23))
    # Shaded faces keep flutes of snow on slopes where sunny ones shed it.
    steep_deg -= 9.0 * shaded / np.sqrt(1.0 + rise_east**2 + down_south**2)
    held = (1.0 - smooth_step(steep_deg.astype(np.float32), 42.0, 60.0)) * ~mountain_range.water
    return bias.astype(np.float32), held.astype(np.float32)


def key_of(*parts: int) -> int:
    """A seed for noise that depends on all ``parts``."""
    return int(np.random.default_rng(parts).integers(1 << 31))


def standard_noise(
    shape: tuple[int, int], cell_px: float, octaves: float, key: int, gain: float = 0.6
) -> F32:
    """Isotropic noise (y, x) with mean 0 and standard deviation 1, correlated over ``cell_px``.

    Amplitude falls by ``gain`` an octave from there and ends ``octaves`` further down. It is made
    in the frequency domain, hence periodic: what leaves on one side comes in on the other.
    """
    rows, cols = shape
    white = np.random.default_rng(key).standard_normal(shape, np.float32)
    spectrum = fft.rfft2(white, workers=2)
    fy, fx = np.fft.fftfreq(rows)[:, None].astype(np.float32), np.fft.rfftfreq(cols)[None].astype(np.float32)
    square = (fy**2 + fx**2) * np.float32(cell_px**2)
    # An octave of a plane holds frequencies in proportion to f squared, hence the 1 beside the gain.
    fall = np.float32(-0.5 * (1.0 - np.log2(gain)))
    spectrum *= (1.0 + square) ** fall * np.exp(square * np.float32(-(4.0**-octaves)))
    spectrum[0, 0] = 0.0
    field = fft.irfft2(spectrum, s=shape, workers=2)
    return np.asarray(field / np.float32(max(float(field.std()), 1e-12)), np.float32)


def smooth_step(x: F32, low: float, high: float) -> F32:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)
