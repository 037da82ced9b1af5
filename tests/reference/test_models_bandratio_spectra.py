"""The band ratio on labelled Sentinel-2 pixels (RaineyAbe/glacier-snow-cover-mapping, MIT)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoscale.models.bandratio import OPTICAL_CHANNELS, BandRatio

SHARED = Path(os.environ.get("CRYOSCALE_SHARED", Path(__file__).parents[3] / "shared"))
SNOW, SHADOWED_SNOW, ICE, ROCK, WATER = 1, 2, 3, 4, 5


def test_ice_and_snow_are_found_and_rock_and_water_are_not() -> None:
    path = SHARED / "data" / "spectra" / "s2_l2a_labelled_pixels.csv"
    if not path.is_file():
        pytest.skip(f"no labelled pixels: {path} is absent")
    table = pd.read_csv(path)
    bands = [name.replace("B0", "B") for name in OPTICAL_CHANNELS]
    features = table[bands].to_numpy(np.float32).T[None, :, None]
    label = BandRatio()(features)[0, :, 0].argmax(axis=0)
    share = {kind: float((label[table["class"] == kind] == 1).mean()) for kind in range(1, 6)}
    assert share[SNOW] > 0.97
    assert share[ICE] > 0.96
    assert share[SHADOWED_SNOW] > 0.85
    assert share[ROCK] < 0.01
    assert share[WATER] < 0.01
    assert (label[table["class"] == WATER] == 3).mean() > 0.99
