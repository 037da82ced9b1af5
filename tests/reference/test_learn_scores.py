"""Scores against scikit-learn, the independent oracle."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from sklearn import metrics

from cryoscale.learn.examine import Examination
from cryoscale.learn.importance import PARTS, _figures
from cryoscale.learn.scores import CLASS_NAMES, Scores, confusion_matrix, score_arrays, score_mosaic
from cryoscale.learn.tables import markdown


def random_pair(seed, shape=(90, 70), classes=5, ignored=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.7, truth, rng.integers(0, classes, shape)).astype(np.uint8)
    truth[rng.random(shape) < ignored] = 255
    predicted[rng.random(shape) < ignored] = 255
    return truth, predicted


@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_scikit_learn_on_random_maps(seed):
    truth, predicted = random_pair(seed)
    scores = score_arrays([(truth, predicted)])
    valid = (truth != 255) & (predicted != 255)
    t, p = truth[valid], predicted[valid]
    options = {"labels": range(5), "average": None, "zero_division": np.nan}
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(t, p, labels=range(5)))
    np.testing.assert_allclose(scores.iou, metrics.jaccard_score(t, p, labels=range(5), average=None))
    np.testing.assert_allclose(scores.precision, metrics.precision_score(t, p, **options))
    np.testing.assert_allclose(scores.recall, metrics.recall_score(t, p, **options))
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(t, p))
    assert scores.mean_iou == pytest.approx(metrics.jaccard_score(t, p, average="macro"))
    assert scores.support.tolist() == np.bincount(t, minlength=5).tolist()


def test_a_class_that_occurs_nowhere_does_not_enter_the_means():
    truth, predicted = random_pair(3, classes=3)
    scores = score_arrays([(truth, predicted)])
    valid = (truth != 255) & (predicted != 255)
    assert np.isnan(scores.iou[3:]).all()
    assert np.isnan(scores.recall[3:]).all()
    expected = metrics.jaccard_score(truth[valid], predicted[valid], average="macro")
    assert scores.mean_iou == pytest.approx(expected)


def test_a_class_that_only_the_map_has_is_of_iou_zero_and_in_no_mean():
    scores = score_arrays([(np.zeros(4, np.uint8), np.array([0, 0, 0, 3], np.uint8))])
    assert scores.iou[3] == 0.0
    assert scores.precision[3] == 0.0
    assert np.isnan(scores.recall[3])
    assert scores.mean_iou == scores.mean_recall == 0.75
    assert scores.mean_precision == 1


def test_means_are_scikit_learns_over_the_labels_of_truth_and_tables_name_them():
    truth, predicted = random_pair(6)
    truth[truth == 3] = 0
    scores = score_arrays([(truth, predicted)])
    valid = (truth != 255) & (predicted != 255)
    options = {"labels": [0, 1, 2, 4], "average": "macro"}
    assert scores.iou[3] == 0
    for mean, score in (
        (scores.mean_iou, metrics.jaccard_score),
        (scores.mean_precision, metrics.precision_score),
        (scores.mean_recall, metrics.recall_score),
    ):
        assert mean == pytest.approx(score(truth[valid], predicted[valid], **options))
    assert "the mean is of background, clean_ice, debris_covered_ice, vegetation" in str(scores)
    text = markdown("t", Examination(parts={"2018/32645": scores}), {})
    assert _figures(scores.confusion, PARTS["overall"]) == (scores.mean_iou, scores.accuracy)
    assert "truth has: background, clean ice, debris covered ice, vegetation." in text


def test_a_mosaic_scored_in_row_bands_equals_the_whole_scored_at_once():
    truth, predicted = random_pair(8, shape=(5000, 17))
    dataset = xr.Dataset({"label": (("y", "x"), predicted)}).chunk({"y": 600})
    assert score_mosaic(dataset, truth) == score_arrays([(truth, predicted)])
    assert score_mosaic(predicted, truth) == score_arrays([(truth, predicted)])


def test_scores_survive_json_and_say_what_is_absent():
    truth, predicted = random_pair(5, classes=4)
    scores = score_arrays([(truth, predicted)])
    written = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert Scores.from_dict(written) == scores
    assert written["per_class"]["vegetation"]["iou"] is None
    table = str(scores)
    assert all(name in table for name in CLASS_NAMES)
    assert "accuracy" in table


def test_an_empty_comparison_has_no_scores_but_can_be_written():
    empty = score_arrays([])
    assert empty.pixels == 0
    assert np.isnan(empty.mean_iou)
    assert np.isnan(empty.accuracy)
    json.dumps(empty.to_dict(), allow_nan=False)
    assert "-" in str(empty)


def test_shapes_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(np.zeros((2, 2)), np.zeros((2, 3)), 5)
    with pytest.raises(ValueError, match="shape"):
        score_mosaic(np.zeros((2, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"0\.\.4"):
        confusion_matrix(np.array([5]), np.array([0]), 5)
