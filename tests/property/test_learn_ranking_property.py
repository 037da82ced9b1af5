"""Risk-coverage figures from counts against brute force over sorted pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cryoscale.learn.ranking import Ranking

pixels_of = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40)


def ranking_of(pixels: list[tuple[int, bool]]) -> Ranking:
    """The ranking of single pixels (score, wrong) by way of counts."""
    levels = np.arange(5)
    n = np.array([sum(score == level for score, _ in pixels) for level in levels])
    e = np.array([sum(score == level and wrong for score, wrong in pixels) for level in levels])
    return Ranking.of(levels.astype(float), n, e)


def brute_aurc(wrong_in_order: list[float]) -> float:
    """Mean share of errors over all prefixes."""
    total, risks = 0.0, []
    for number, wrong in enumerate(wrong_in_order, 1):
        total += wrong
        risks.append(total / number)
    return float(np.mean(risks))


@given(pixels_of)
def test_aurc_is_that_of_sorted_pixels_with_ties_spread_evenly(pixels: list[tuple[int, bool]]) -> None:
    ordered = sorted(pixels, key=lambda pixel: -pixel[0])
    spread = [
        float(np.mean([wrong for other, wrong in pixels if other == score])) for score, _ in ordered
    ]  # the expectation of a tied pixel's error over all orders
    assert ranking_of(pixels).aurc == pytest.approx(brute_aurc(spread), abs=1e-9)


def test_spreading_ties_is_the_mean_over_all_orders() -> None:
    tied = [True, False, False, True, False]
    expected = np.mean([brute_aurc([float(w) for w in order]) for order in itertools.permutations(tied)])
    assert ranking_of([(2, wrong) for wrong in tied]).aurc == pytest.approx(expected)


@given(st.permutations(range(12)), st.lists(st.booleans(), min_size=12, max_size=12))
def test_without_ties_it_is_plain_sorting(order: list[int], wrong: list[bool]) -> None:
    score, errors = np.array(order, float), np.array(wrong, int)
    got = Ranking.of(score, np.ones(12, int), errors)
    assert got.aurc == pytest.approx(brute_aurc([float(errors[i]) for i in np.argsort(-score)]))


@given(pixels_of)
def test_no_order_is_better_than_the_perfect_one(pixels: list[tuple[int, bool]]) -> None:
    ranking = ranking_of(pixels)
    expected = brute_aurc(sorted(float(wrong) for _, wrong in pixels))
    assert ranking.best == pytest.approx(expected, abs=1e-9)
    assert ranking.aurc >= ranking.best - 1e-12


@given(pixels_of)
def test_auroc_is_scikit_learns(pixels: list[tuple[int, bool]]) -> None:
    wrong = [w for _, w in pixels]
    got = ranking_of(pixels).auroc
    if len(set(wrong)) < 2:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(roc_auc_score([not w for w in wrong], [s for s, _ in pixels]))


@given(pixels_of)
def test_only_the_order_of_scores_counts(pixels: list[tuple[int, bool]]) -> None:
    ranking = ranking_of(pixels)
    stretched = Ranking.of(np.array([0.0, 0.1, 7.0, 7.5, 1e6]), *_columns(pixels))
    assert stretched.aurc == ranking.aurc
    merged = Ranking.of(np.zeros(5), *_columns(pixels))
    assert merged.aurc == pytest.approx(np.mean([w for _, w in pixels]))


def _columns(pixels: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    n = np.bincount([s for s, _ in pixels], minlength=5)
    return n, np.bincount([s for s, w in pixels if w], minlength=5)


@given(pixels_of)
def test_the_curve_ends_at_everything(pixels: list[tuple[int, bool]]) -> None:
    coverage, risk = ranking_of(pixels).curve()
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(np.mean([w for _, w in pixels]))
    assert (np.diff(coverage) > 0).all()


def test_a_billion_pixels_are_counted_as_well_as_a_few() -> None:
    n = np.array([10**9, 10**9])
    e = np.array([10**3, 10**6])
    # risk is about e/n in the first half; in the second it climbs to the mean
    first = 1e-6
    j = np.linspace(0, 1, 2001)[1:]
    second = np.mean((1e3 + 1e6 * j) / (1e9 * (1 + j)))
    got = Ranking.of(np.array([1.0, 0.0]), n, e).aurc
    assert got == pytest.approx((first + second) / 2, rel=1e-3)
