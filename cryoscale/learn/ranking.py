"""How well a confidence ranks errors: risk-coverage curves from counts, exact, ties included.

A map that leaves out its least sure pixels covers less and errs less. The risk-coverage curve says how
much, and the area under it (AURC) sums up how well confidence finds the errors: Geifman, Uziel and
El-Yaniv 2019, https://arxiv.org/abs/1805.08206. Smaller is better. Part of it is the error rate itself, which
no ranking can mend; what is left is the excess AURC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ranking:
    """Pixels and errors (m,) of groups of equal confidence, most sure first.

    Within a group the order is unknown, so everything is the expectation over all orders of its pixels.
    """

    pixels: NDArray[np.int64]
    errors: NDArray[np.int64]

    @classmethod
    def of(cls, score: NDArray[np.float64], pixels: NDArray[np.int64], errors: NDArray[np.int64]) -> Ranking:
        """The ranking by a score (m,), large = sure, of groups that may share a score; empty ones go."""
        used = pixels > 0
        _, rank = np.unique(-score[used], return_inverse=True)
        return cls(
            np.bincount(rank, weights=pixels[used]).astype(np.int64),
            np.bincount(rank, weights=errors[used]).astype(np.int64),
        )

    @cached_property
    def total(self) -> tuple[int, int]:
        """All pixels, and all errors."""
        return int(self.pixels.sum()), int(self.errors.sum())

    @property
    def aurc(self) -> float:
        """Mean, over all n, of the share of errors among the n surest pixels; NaN without pixels."""
        n, e = self.pixels.astype(np.float64), self.errors.astype(np.float64)
        if not n.sum():
            return float("nan")
        before, errors_before = np.cumsum(n) - n, np.cumsum(e) - e
        # The risk after j pixels of a group is (E + j e/n) / (N + j); summed over j this is
        # e + (E - N e/n) (H(N + n) - H(N)), with H the harmonic numbers.
        rate = e / n
        harmonic = _harmonic(before + n) - _harmonic(before)
        return float((e + (errors_before - before * rate) * harmonic).sum() / n.sum())

    @property
    def best(self) -> float:
        """The AURC of the perfect ranking, which puts every error last."""
        n, e = self.total
        return Ranking(np.array([n - e, e]), np.array([0, e])).without_empty().aurc

    @property
    def auroc(self) -> float:
        """Probability that a right pixel is surer than a wrong one, ties by half; NaN without either."""
        right = (self.pixels - self.errors).astype(np.float64)
        wrong = self.errors.astype(np.float64)
        if not right.sum() or not wrong.sum():
            return float("nan")
        after = wrong.sum() - np.cumsum(wrong)
        return float((right * (after + wrong / 2)).sum() / (right.sum() * wrong.sum()))

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coverage and risk (m,) after each group."""
        n = np.cumsum(self.pixels)
        return n / n[-1], np.cumsum(self.errors) / n

    def without_empty(self) -> Ranking:
        """The same without groups of no pixel."""
        used = self.pixels > 0
        return Ranking(self.pixels[used], self.errors[used])


def _harmonic(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonic numbers, up to a constant."""
    from scipy.special import digamma

    return np.asarray(digamma(n + 1))
