"""The classical method as a model like any other: band ratio and indices with thresholds, numpy only.

Clean ice and snow are bright in red and dark in the short-wave infrared (Paul et al. 2016,
https://doi.org/10.3390/rs8070575); debris-covered ice looks like the rock around it and is never
found. It needs no weights and works on a single pixel, so it is the baseline that everyone can run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
"""Names of the classes; a label is an index into them."""

OPTICAL_CHANNELS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""What it is given by default: five bands are used, and all twelve say where optical data are missing."""

BANDS = ("B02", "B03", "B04", "B08", "B11")
"""The bands that the method needs."""

RATIO_THRESHOLD = 2.8
"""B04/B11 above which a pixel is ice or snow, as used for Sentinel-2 in glacier surveys."""

BRIGHTNESS_THRESHOLD = 0.07
"""Reflectance that ice must exceed in B02 and in B08.

Short-wave infrared is about 0 of everything dark, so the ratio says little of shadowed rock and of water.
Paul et al. (2016) add a threshold in blue against shadow, which depends on the scene. B08 is against water,
which where silty is bright in blue, but dark in the near infrared. Of public labelled L2A pixels
(https://github.com/RaineyAbe/glacier-snow-cover-mapping, four glaciers, summer 2021) the ratio alone takes
66 % of the water for ice, with B02 62 %, with both none; of the ice 97 % is found with and without, of the
shadowed snow 88 % without and 86 % with.
"""

NDWI_THRESHOLD = 0.17
NDVI_THRESHOLD = 0.3
"""Water and vegetation as in the labels of the CryoNet study, https://arxiv.org/abs/2605.21527."""

RATIO_SCALE = 0.1
"""Softness of the ratio in log units: a ratio 10 % above the threshold is a logit of 1."""

REFLECTANCE_SCALE = 0.01
INDEX_SCALE = 0.03
"""Softness of reflectances and indices: so far above the threshold is a logit of 1."""

_FLOOR = 1e-3
"""Least reflectance in the ratio, about the noise of L2A; two bands of zero make a ratio of 1."""


class BandRatio:
    """Features (n, c, h, w) float32 to class probabilities (n, 5, h, w) float32, pixel by pixel.

    The rules: ice where B04/B11 > ``threshold`` and B02 and B08 are bright enough; else water where
    NDWI > 0.17; else vegetation where NDVI > 0.3; else background. Each class scores the least margin, in
    logits, by which the conditions on its way hold; a softmax over the scores makes probabilities, so
    the most probable class is always that of the rules, and it is unsure only close to a threshold.

    Args:
        threshold: of the ratio B04/B11, above 0.
        brightness: least reflectance of ice in B02 and B08.
        channels: names of the channels that it will be given; must hold the five bands.

    Raises:
        InputError: if a threshold or the channels make no sense, or features have other channels.
    """

    classes = CLASSES
    pca: dict[str, Any] | None = None
    tile_multiple = 1
    needs_halo = False
    needs_location = False

    def __init__(
        self,
        threshold: float = RATIO_THRESHOLD,
        *,
        brightness: float = BRIGHTNESS_THRESHOLD,
        channels: Sequence[str] = OPTICAL_CHANNELS,
    ) -> None:
        if not 0 < threshold < np.inf:
            raise InputError(f"a ratio threshold of {threshold}", "a number above 0", "try 2.8")
        missing = [band for band in BANDS if band not in channels]
        if missing:
            given = f"channels without {', '.join(missing)}"
            raise InputError(given, f"channels with {', '.join(BANDS)}", "add the bands")
        self.threshold, self.brightness, self.channels = threshold, brightness, tuple(channels)
        self._at = [self.channels.index(band) for band in BANDS]

    def __call__(
        self, features: NDArray[np.float32], _location: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """Probabilities (n, 5, h, w); NaN where one of the five bands is."""
        if features.ndim != 4 or features.shape[1] != len(self.channels):
            given, expected = f"features of shape {features.shape}", f"(n, {len(self.channels)}, h, w)"
            raise InputError(given, expected, "stack the channels in the order of .channels")
        # Inputs of indices are clipped to >= 0 first, as for the channels of the same names.
        bands = [np.maximum(features[:, at], 0, dtype=np.float32) for at in self._at]
        blue, green, red, nir, swir = bands
        log_ratio = np.log(np.maximum(red, _FLOOR) / np.maximum(swir, _FLOOR))
        ice = (log_ratio - np.float32(np.log(self.threshold))) / np.float32(RATIO_SCALE)
        for band in (blue, nir):
            ice = np.minimum(ice, (band - np.float32(self.brightness)) / np.float32(REFLECTANCE_SCALE))
        water = (_index(green, nir) - np.float32(NDWI_THRESHOLD)) / np.float32(INDEX_SCALE)
        vegetation = (_index(nir, red) - np.float32(NDVI_THRESHOLD)) / np.float32(INDEX_SCALE)

        scores = np.full((features.shape[0], len(CLASSES), *features.shape[2:]), -np.inf, np.float32)
        scores[:, 0] = np.minimum(np.minimum(-ice, -water), -vegetation)
        scores[:, 1] = ice
        scores[:, 3] = np.minimum(-ice, water)
        scores[:, 4] = np.minimum(np.minimum(-ice, -water), vegetation)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def describe(self) -> dict[str, Any]:
        """What a run's manifest records of the model."""
        return {
            "name": "band-ratio",
            "sha256": None,
            "parameters": 0,
            "precision": "fp32",
            "device": "cpu",
            "channels": list(self.channels),
            "classes": list(self.classes),
            "temperature": 1.0,
            "thresholds": {
                "ratio": self.threshold,
                "brightness": self.brightness,
                "ndwi": NDWI_THRESHOLD,
                "ndvi": NDVI_THRESHOLD,
            },
        }


def _index(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """(left - right) / (left + right), 0 where both are 0, NaN where one is."""
    total = left + right
    total[total == 0] = 1
    return (left - right) / total
