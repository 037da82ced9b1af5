from __future__ import annotations

import numpy as np
import pytest

from cryoscale.errors import InputError
from cryoscale.features.stack import CHANNELS
from cryoscale.models.bandratio import BANDS, CLASSES, OPTICAL_CHANNELS, BandRatio

#                    B02   B03   B04   B08   B11
SNOW = (0.80, 0.80, 0.78, 0.70, 0.02)  # ratio 39
BARE_ICE = (0.35, 0.36, 0.34, 0.24, 0.02)  # ratio 17; NDWI 0.2, yet ice
DEBRIS = (0.13, 0.15, 0.16, 0.18, 0.22)  # ratio 0.7
CLEAR_LAKE = (0.05, 0.05, 0.02, 0.01, 0.002)  # ratio 10, dark; NDWI 0.67
SILTY_LAKE = (0.12, 0.17, 0.11, 0.03, 0.01)  # ratio 11, bright in blue, dark in B08; NDWI 0.7
MEADOW = (0.03, 0.06, 0.04, 0.35, 0.18)  # NDVI 0.79
SHADOW = (0.03, 0.02, 0.01, 0.015, 0.002)  # ratio 5, dark; NDWI 0.14, NDVI 0.2


def pixel(values: tuple[float, ...]) -> np.ndarray:
    """Features (1, 12, 1, 1) with the five bands given and the others 0."""
    features = np.zeros((1, 12, 1, 1), np.float32)
    for band, value in zip(BANDS, values, strict=True):
        features[0, OPTICAL_CHANNELS.index(band)] = value
    return features


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (SNOW, "clean_ice"),
        (BARE_ICE, "clean_ice"),
        (DEBRIS, "background"),
        (CLEAR_LAKE, "water"),
        (SILTY_LAKE, "water"),
        (MEADOW, "vegetation"),
        (SHADOW, "background"),
    ],
)
def test_surfaces_with_textbook_spectra_get_their_class(values: tuple[float, ...], name: str) -> None:
    found = BandRatio()(pixel(values))[0, :, 0, 0]
    assert CLASSES[int(found.argmax())] == name
    assert found.max() > 0.6
    assert found[2] == 0  # debris-covered ice is never claimed


def test_probability_is_a_half_on_the_threshold_and_rises_as_the_logistic_of_the_log_ratio() -> None:
    for ratio in (2.8, 2.8 * np.exp(0.1), 2.8 / np.exp(0.2)):
        # NDVI and NDWI far below their thresholds, so that ice and background share what there is.
        found = BandRatio()(pixel((0.5, 0.3, 0.56, 0.5, 0.56 / ratio)))[0, :, 0, 0]
        margin = (
            np.log(ratio / 2.8) / 0.1
        )  # ice has it, background its negative: odds are of twice the margin
        np.testing.assert_allclose(found[1], 1 / (1 + np.exp(-2 * margin)), atol=1e-3)


def test_the_threshold_is_an_argument() -> None:
    features = pixel((0.5, 0.5, 0.5, 0.5, 0.2))  # ratio 2.5
    assert BandRatio()(features)[0, 1, 0, 0] < 0.2
    assert BandRatio(2.0)(features)[0, 1, 0, 0] > 0.8
    assert BandRatio(brightness=0.6, threshold=2.0)(features)[0, 1, 0, 0] < 0.2


@pytest.mark.parametrize("band", BANDS)
def test_a_missing_band_leaves_no_probability(band: str) -> None:
    features = pixel(SNOW)
    features[0, OPTICAL_CHANNELS.index(band)] = np.nan
    assert np.isnan(BandRatio()(features)).all()


def test_bands_that_are_not_used_may_be_missing() -> None:
    features = pixel(SNOW)
    features[0, OPTICAL_CHANNELS.index("B09")] = np.nan
    assert BandRatio()(features)[0, 1, 0, 0] > 0.9


def test_all_zero_and_negative_reflectances_are_background() -> None:
    for value in (0.0, -0.05):
        found = BandRatio()(np.full((1, 12, 2, 2), value, np.float32))
        assert (found.argmax(axis=1) == 0).all()


def test_channels_may_come_in_any_order() -> None:
    expected = BandRatio()(pixel(BARE_ICE))
    turned = BandRatio(channels=OPTICAL_CHANNELS[::-1])
    np.testing.assert_array_equal(turned(pixel(BARE_ICE)[:, ::-1]), expected)


def test_its_channels_are_the_optical_ones_of_the_stack() -> None:
    assert CHANNELS[:12] == OPTICAL_CHANNELS


@pytest.mark.parametrize("threshold", [0, -1, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        BandRatio(threshold)


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="without B08, B11"):
        BandRatio(channels=("B02", "B03", "B04"))
    with pytest.raises(InputError, match=r"\(n, 12, h, w\)"):
        BandRatio()(np.zeros((1, 30, 4, 4), np.float32))
