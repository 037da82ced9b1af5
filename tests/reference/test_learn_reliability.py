"""Reliability and proper scores against scikit-learn, and temperatures of which the answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from cryoscale.grid import Window
from cryoscale.learn.evaluate import evaluate
from cryoscale.learn.reliability import TEMPERATURES, MapTemperature, Reliability, Stated
from tests.reference.test_learn_evaluate import INNER, random_map, write_raster, write_run

WINDOW = Window(32645, -3072, 48_640, 512, 640)


def stored_probabilities(seed, shape=(120, 130), sharpness=1.0):
    """Bytes (k, y, x) that sum to 250, and truth drawn from the probabilities before they were sharpened."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(5, 0.5), shape).transpose(2, 0, 1)
    truth = (rng.random(shape) > np.cumsum(p, axis=0)).sum(axis=0).clip(0, 4).astype(np.uint8)
    sharp = p**sharpness / (p**sharpness).sum(axis=0)
    stored = np.floor(sharp * 250).astype(np.int64)
    stored[stored.argmax(axis=0), *np.indices(shape)] += 250 - stored.sum(axis=0)
    return stored.astype(np.uint8), truth


def winner(stored):
    return stored.argmax(axis=0).astype(np.uint8)


@pytest.fixture
def stated():
    stored, truth = stored_probabilities(1)
    found = Stated()
    found.add(truth[:50], stored[:, :50])
    found.add(truth[50:], stored[:, 50:])
    return found, stored, truth


def test_brier_score_and_log_loss_are_scikit_learns(stated):
    found, stored, truth = stated
    p = stored.reshape(5, -1).T / 250
    brier = sum(metrics.brier_score_loss(truth.ravel() == k, p[:, k]) for k in range(5))
    assert found.brier == pytest.approx(brier)
    floored = np.maximum(p, 0.5 / 250)
    own = floored[np.arange(len(p)), truth.ravel()]
    assert found.log_loss == pytest.approx(-np.log(own).mean())
    sure = (p > 0).all(axis=1)  # where nothing is floored scikit-learn's is the same
    part = Stated()
    part.add(truth.ravel()[sure][np.newaxis], stored.reshape(5, -1)[:, sure][:, np.newaxis])
    assert part.log_loss == pytest.approx(metrics.log_loss(truth.ravel()[sure], p[sure], labels=range(5)))


@pytest.mark.parametrize("k", range(5))
def test_each_classs_curve_is_scikit_learns(stated, k):
    found, stored, truth = stated
    p = stored[k].ravel() / 250
    # moved off the edges of bins, on which binary fractions fall to either side
    observed, mean = calibration_curve(truth.ravel() == k, np.clip(p - 1e-6, 0, 1), n_bins=10)
    rows = found.of_class(k).to_dict()["bins"]
    np.testing.assert_allclose([row["accuracy"] for row in rows], observed)
    np.testing.assert_allclose([row["probability"] for row in rows], mean, atol=2e-6)


def test_the_winners_curve_is_scikit_learns_and_survives_json(stated):
    _, stored, truth = stated
    label, p = winner(stored), stored.max(axis=0) / 250
    found = Reliability.of(truth, label, p, 10)
    observed, mean = calibration_curve((truth == label).ravel(), p.ravel() - 1e-6, n_bins=10)
    rows = found.to_dict()["bins"]
    np.testing.assert_allclose([row["accuracy"] for row in rows], observed)
    np.testing.assert_allclose([row["probability"] for row in rows], mean, atol=2e-6)
    again = Reliability.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.correct, found.correct)
    assert again.ece == pytest.approx(found.ece)


def test_no_pixel_has_no_score_and_one_without_data_does_not_count(stated):
    found, stored, truth = stated
    assert np.isnan(Stated().brier)
    assert Stated().to_dict()["log_loss"] is None
    truth, stored = truth.copy(), stored.copy()
    more = Stated()
    truth[:30] = 255
    stored[:, 60:] = 255
    more.add(truth, stored)
    assert more.total == 30 * 130
    assert found.total == 120 * 130


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_the_temperature_found_undoes_that_of_the_map(sharpness):
    """Probabilities raised to a power are those of logits times it; a temperature of the power mends that."""
    stored, truth = stored_probabilities(2, WINDOW.shape, sharpness)
    found = MapTemperature()
    found.add(WINDOW, truth, winner(stored), stored)
    first, second = found.temperatures
    assert first == pytest.approx(sharpness, rel=0.13)
    assert second == pytest.approx(sharpness, rel=0.13)
    assert found.after.ece < 0.02
    if sharpness != 1:
        assert found.before.ece > 0.1
        assert found.after.ece < found.before.ece / 4


def test_each_half_is_judged_under_the_temperature_that_the_other_chose():
    """By hand, on every fourth pixel: cells of 256 pixels of one colour state p, the others p squared."""
    stored, truth = stored_probabilities(3, WINDOW.shape)
    sharp, other = stored_probabilities(3, WINDOW.shape, 2.0)
    y, x = np.indices(WINDOW.shape)
    odd = ((y + WINDOW.row) // 256 + (x + WINDOW.col) // 256) % 2 == 1
    stored[:, odd], truth[odd] = sharp[:, odd], other[odd]
    found = MapTemperature()
    for top in (0, 201):  # parts that begin where no cell does
        rows = slice(top, top + 201 if top == 0 else None)
        part = Window(WINDOW.epsg, WINDOW.row + top, WINDOW.col, truth[rows].shape[0], WINDOW.width)
        found.add(part, truth[rows], winner(stored)[rows], stored[:, rows])
    assert found.temperatures == pytest.approx((1.0, 2.0), rel=0.13)
    thin = (y + WINDOW.row) % 2 + (x + WINDOW.col) % 2 == 0
    expected = Reliability.none()
    for half, temperature in ((~odd, found.temperatures[1]), (odd, found.temperatures[0])):
        p = stored[:, half & thin] / 250
        tempered = p ** (1 / temperature)
        tempered /= tempered.sum(axis=0)
        expected += Reliability.of(
            truth[half & thin],
            winner(stored[:, half & thin]),
            tempered.max(axis=0),
            10,
        )
    np.testing.assert_array_equal(found.after.count, expected.count)
    assert found.after.ece == pytest.approx(expected.ece)
    as_mapped = Reliability.of(truth[thin], winner(stored)[thin], stored.max(axis=0)[thin] / 250, 10)
    np.testing.assert_array_equal(found.before.count, as_mapped.count)
    assert found.before.ece == pytest.approx(as_mapped.ece, rel=1e-12)


def test_nothing_is_mended_on_a_map_that_is_right_about_how_sure_it_is():
    window, rng = Window(32645, -3072, 48_640, 256, 512), np.random.default_rng(4)
    p = rng.integers(225, 251, window.shape).astype(np.uint8)
    label = rng.integers(0, 5, window.shape).astype(np.uint8)
    second = ((label + 1) % 5).astype(np.uint8)
    stored = np.zeros((5, *window.shape), np.uint8)
    stored[label, *np.indices(window.shape)] = p
    stored[second, *np.indices(window.shape)] = 250 - p
    truth = np.where(rng.random(window.shape) < p / 250, label, second)
    sure = np.where(np.arange(5)[:, np.newaxis, np.newaxis] == label, 250, 0).astype(np.uint8)
    for true, bytes_ in ((truth, stored), (label, sure)):
        found = MapTemperature()
        found.add(window, true, label, bytes_)
        assert found.temperatures == (1.0, 1.0)
        assert found.after.ece == found.before.ece < 0.003


def test_before_is_the_map_where_its_bytes_sum_to_less_and_where_two_classes_tie():
    """Bytes are rounded class by class, and the label is the most probable class before that."""
    truth, label = np.zeros(WINDOW.shape, np.uint8), np.ones(WINDOW.shape, np.uint8)
    stored = np.zeros((5, *WINDOW.shape), np.uint8)
    stored[:2] = 124
    found = MapTemperature()
    found.add(WINDOW, truth, label, stored)
    row = found.before.to_dict()["bins"][0]
    assert row["probability"] == pytest.approx(124 / 250)
    assert row["accuracy"] == 0


def test_a_map_without_a_second_half_says_nothing_of_temperatures():
    assert MapTemperature().to_dict() is None
    assert 1.0 in TEMPERATURES


def test_a_run_at_an_fsspec_address_scores_like_one_on_disk(tmp_path):
    import fsspec

    label, probability, truth = random_map(INNER)
    write_run(tmp_path / "run", INNER, label, probability)
    write_raster(tmp_path / "t.tif", truth, INNER)
    here = evaluate(tmp_path / "run", tmp_path / "t.tif")
    fsspec.filesystem("memory").put(f"{tmp_path}/run/", "/scored-run/", recursive=True)
    there = evaluate("memory://scored-run", tmp_path / "t.tif")
    assert there.scores == here.scores
    assert there.to_dict() == here.to_dict()
