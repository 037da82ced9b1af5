"""Probabilities as bytes, against plain definitions."""

from __future__ import annotations

import numpy as np
import scipy.stats

from cryoscale.infer.encode import NO_DATA, confidence, encode, encode_share


def shares(classes: int = 5, shape: tuple[int, int] = (300, 17)) -> np.ndarray:
    """Random probabilities (k, y, x), some all on one class, some equal, a corner without data."""
    values = np.random.default_rng(3).dirichlet(np.full(classes, 0.3), shape).astype(np.float32)
    probability = np.moveaxis(values, -1, 0).copy()
    probability[:, 0] = np.eye(classes, dtype=np.float32)[1][:, None]
    probability[:, 1] = 1 / classes
    probability[:, -3:, -5:] = np.nan
    return probability


def test_shares_survive_the_byte_to_half_a_step() -> None:
    values = np.linspace(0, 1, 10_001, dtype=np.float32)
    back = encode_share(values) / np.float32(250)
    assert np.abs(back - values).max() <= 0.5 / 250 + 1e-6
    np.testing.assert_array_equal(
        encode_share(np.array([0, 1, np.nan, 1 + 1e-6, -1e-7], "f4")), [0, 250, 255, 250, 0]
    )


def test_every_byte_means_itself() -> None:
    shares = np.array([*(np.arange(251) / 250), np.nan], np.float32)
    np.testing.assert_array_equal(encode_share(shares), [*range(251), NO_DATA])


def test_confidence_is_one_minus_the_normalised_entropy_of_scipy() -> None:
    probability = shares()
    expected = 1 - scipy.stats.entropy(probability.astype(float), base=5, axis=0)
    np.testing.assert_allclose(confidence(probability), expected, atol=2e-6)
    assert (confidence(probability)[0] == 1).all()
    np.testing.assert_allclose(confidence(probability)[1], 0, atol=1e-6)
    assert (confidence(np.ones((1, 2, 2), np.float32)) == 1).all()


def test_the_bands_of_a_map_agree_with_one_another() -> None:
    probability = shares()
    disagreement = np.where(np.isnan(probability[0]), np.nan, 0.25).astype(np.float32)
    bands = encode(probability, disagreement)
    missing = np.isnan(probability[0])
    assert {name: band.dtype.str for name, band in bands.items()} == dict.fromkeys(bands, "|u1")
    np.testing.assert_array_equal(bands["probability"], encode_share(probability))
    np.testing.assert_array_equal(bands["label"][~missing], probability.argmax(axis=0)[~missing])
    np.testing.assert_array_equal(bands["confidence"], encode_share(confidence(probability)))
    np.testing.assert_array_equal(bands["disagreement"][~missing], 62)
    for band in bands.values():
        np.testing.assert_array_equal(band == NO_DATA, np.broadcast_to(missing, band.shape))


def test_bytes_of_a_part_are_the_part_of_the_bytes() -> None:
    probability = shares()
    disagreement = probability[0]
    whole = encode(probability, disagreement)
    part = encode(probability[:, 37:201, 3:14], disagreement[37:201, 3:14])
    for name, band in part.items():
        np.testing.assert_array_equal(band, whole[name][..., 37:201, 3:14], err_msg=name)
