from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cryoscale.errors import WeightsError
from cryoscale.models import weights
from cryoscale.models.bandratio import BRIGHTNESS_THRESHOLD, NDVI_THRESHOLD, NDWI_THRESHOLD, BandRatio
from cryoscale.models.cryonet import CryoNet

reflectances = arrays(np.float32, (1, 5, 3, 4), elements=st.floats(-0.125, 1.5, width=32))


@given(reflectances)
def test_the_most_probable_class_is_that_of_the_rules_and_probabilities_sum_to_one(
    pixels: np.ndarray,
) -> None:
    found = BandRatio(channels=("B02", "B03", "B04", "B08", "B11"))(pixels)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert found.min() >= 0
    for at in np.ndindex(3, 4):
        blue, green, red, nir, swir = (float(max(value, 0)) for value in pixels[0, :, at[0], at[1]])
        ratio = max(red, 1e-3) / max(swir, 1e-3)
        ndwi = (green - nir) / (green + nir) if green + nir else 0.0
        ndvi = (nir - red) / (nir + red) if nir + red else 0.0
        margins = (ratio / 2.8 - 1, blue - BRIGHTNESS_THRESHOLD, nir - BRIGHTNESS_THRESHOLD)
        margins += (ndwi - NDWI_THRESHOLD, ndvi - NDVI_THRESHOLD)
        if min(abs(margin) for margin in margins) < 1e-5:
            continue  # on a threshold, rounding may decide either way
        if min(margins[:3]) > 0:
            expected = 1
        elif ndwi > NDWI_THRESHOLD:
            expected = 3
        else:
            expected = 4 if ndvi > NDVI_THRESHOLD else 0
        assert int(found[0, :, at[0], at[1]].argmax()) == expected


@given(reflectances, st.integers(0, 4), st.integers(0, 2), st.integers(0, 3))
def test_a_pixel_depends_on_itself_alone(pixels: np.ndarray, band: int, row: int, col: int) -> None:
    predict = BandRatio(channels=("B02", "B03", "B04", "B08", "B11"))
    changed = pixels.copy()
    changed[0, band, row, col] = np.nan
    expected, found = predict(pixels), predict(changed)
    assert np.isnan(found[0, :, row, col]).all()
    found[0, :, row, col] = expected[0, :, row, col]
    np.testing.assert_array_equal(found, expected)


@cache
def a_pair() -> tuple[Path, bytes]:
    path = Path(mkdtemp()) / "net.safetensors"
    arguments = {"in_channels": 1, "classes": 2, "encoder": "resnet10w16", "decoder_channels": [16] * 5}
    card = weights.Card(
        architecture="cryonet",
        arguments=arguments,
        channels=("B02",),
        mean=(0.0,),
        std=(1.0,),
        classes=("a", "b"),
    )
    torch.manual_seed(0)
    weights.save(CryoNet(**arguments), card, path)
    return path, path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_byte_changed_or_cut_off_anywhere_is_refused_in_one_line(data: st.DataObject) -> None:
    path, whole = a_pair()
    header = 8 + int.from_bytes(whole[:8], "little")
    at = data.draw(st.one_of(st.integers(0, 15), st.integers(0, header), st.integers(0, len(whole) - 1)))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        flip = data.draw(st.integers(1, 255))
        damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
    path.write_bytes(damaged)
    try:
        with pytest.raises(WeightsError) as caught:
            weights.load(path)
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(whole)
    weights.load(path)
