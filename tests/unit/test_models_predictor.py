from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cryoscale.errors import InputError
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.predictor import Predictor
from cryoscale.models.weights import Card

CHANNELS = ("B02", "B04", "slope")
MEAN, STD, TEMPERATURE = (0.3, 0.2, 20.0), (0.2, 0.1, 15.0), 1.5


def a_predictor(net: torch.nn.Module | None = None, **keywords: Any) -> Predictor:
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "classes": 4, "encoder": "resnet10w16", "decoder_channels": (32,) * 5}
    card = Card(
        architecture="cryonet",
        arguments=arguments,
        channels=CHANNELS,
        mean=MEAN,
        std=STD,
        classes=tuple("abcd"),
        temperature=TEMPERATURE,
    )
    return Predictor(net or CryoNet(**arguments), card, device="cpu", **keywords)


def some_features(n: int = 4, size: int = 64, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = np.random.default_rng(seed)
    scale = np.array(STD, np.float32)[:, None, None]
    features = generator.normal(size=(n, 3, size, size)).astype(np.float32) * scale
    features[generator.random(features.shape) < 0.1] = np.nan
    return features


class Echo(torch.nn.Module):
    """Logits are the first channel as the network gets it, and zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros_like(x[:, :1])
        return torch.cat([x[:, :1], zero, zero, zero], dim=1)


def test_features_are_standardised_and_logits_divided_by_the_temperature_before_the_softmax() -> None:
    features = np.full((1, 3, 32, 32), 0.7, np.float32)  # channel 0 is (0.7 - 0.3) / 0.2 = 2 deviations
    found = a_predictor(Echo())(features)[0, :, 5, 5]
    e = np.exp(2 / TEMPERATURE)
    np.testing.assert_allclose(found, [e / (e + 3), 1 / (e + 3), 1 / (e + 3), 1 / (e + 3)], rtol=1e-6)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_what_is_missing_enters_as_the_training_mean(missing: float) -> None:
    predict, features = a_predictor(), some_features(1)
    gone, mean = features.copy(), features.copy()
    gone[:, 2], mean[:, 2] = missing, MEAN[2]
    np.testing.assert_array_equal(predict(gone), predict(mean))


def test_probabilities_are_float32_in_zero_to_one_and_sum_to_one() -> None:
    found = a_predictor()(some_features())
    assert found.shape == (4, 4, 64, 64)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_answer_is_bit_equal_whatever_else_is_in_the_batch_and_wherever_it_stands(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        predict, features = a_predictor(threads=threads), some_features()
        expected = predict(features)
        np.testing.assert_array_equal(predict(features[::-1])[::-1], expected)
        np.testing.assert_array_equal(predict(features[2:3])[0], expected[2])
        others = some_features(seed=1)
        others[1] = features[3]
        np.testing.assert_array_equal(predict(others)[1], expected[3])
    finally:
        torch.set_num_threads(before)


def test_other_numbers_of_threads_change_probabilities_by_rounding_only() -> None:
    before, features, found = torch.get_num_threads(), some_features(), []
    try:
        for threads in (1, 2, 3):
            found.append(a_predictor(threads=threads)(features))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-3)


def test_bf16_stays_close_to_fp32_and_auto_means_fp32_on_cpu() -> None:
    features = some_features()
    exact, automatic = a_predictor(precision="fp32"), a_predictor()
    assert automatic.precision == "fp32"
    np.testing.assert_array_equal(automatic(features), exact(features))
    # A head of small weights keeps an untrained network from saturating, where nothing could be compared.
    for predict in (exact, low := a_predictor(precision="bf16")):
        predict.model.segmentation_head[0].weight.data.mul_(0.01)
    found, expected = low(features), exact(features)
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_inputs_are_left_as_they_were_and_may_be_views_or_of_other_types() -> None:
    predict, features = a_predictor(), some_features()
    copy, expected = features.copy(), predict(features)
    np.testing.assert_array_equal(features, copy)
    np.testing.assert_array_equal(predict(features.astype(np.float64)), expected)
    turned = np.ascontiguousarray(features.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(predict(turned), expected)
    locked = features.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(predict(locked), expected)


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((1, 3, 60, 64), "multiples of 32"),
        ((1, 3, 64, 0), "multiples of 32"),
        ((1, 4, 64, 64), r"\(n, 3, h, w\)"),
        ((3, 64, 64), r"\(n, 3, h, w\)"),
        ((0, 3, 64, 64), r"\(n, 3, h, w\)"),
    ],
)
def test_features_that_do_not_fit_are_refused(shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(InputError, match=match):
        a_predictor()(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("keywords", "match"),
    [({"precision": "fp8"}, "auto, fp32, bf16"), ({"threads": 0}, "1 or more")],
)
def test_settings_that_cannot_be_had_are_refused(keywords: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        a_predictor(**keywords)


@pytest.mark.parametrize("device", ["tpu9", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    predictor = a_predictor()
    with pytest.raises(InputError, match="device"):
        Predictor(predictor.model, predictor.card, device=device)


def test_the_description_names_what_ran() -> None:
    described = a_predictor(precision="bf16").describe()
    assert described["precision"] == "bf16"
    assert described["parameters"] == sum(p.numel() for p in a_predictor().model.parameters())
