"""Which sign of doubt in a finished map finds its errors: the softmax, its entropy, or tiles that disagree.

Judged on the mosaic as it lies on disk against label rasters. All layers are bytes, so pixels and errors
are counted by their values, and every figure is exact whatever the size of the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.grid import Window, window_of
from cryoscale.infer.encode import SCALE, confidence, encode_share
from cryoscale.learn.ranking import Ranking
from cryoscale.learn.reliability import RELIABILITY_BINS, Reliability
from cryoscale.learn.scan import groups, parts_of
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA
from cryoscale.learn.truth import Truth, truth_of

SIGNALS = ("softmax", "entropy", "layer")
"""The winner's probability, 1 - normalised entropy of the stored probabilities, the layer ``confidence``."""

HALF_PX = 256
"""Edge of the squares whose chequerboard makes two halves: what is learnt on one is tried on the other."""

_LEVELS = SCALE + 1
_LAYERS = ("label", "probability", "confidence", "disagreement")

Counts = NDArray[np.int64]
"""Pixels and errors (2) by half (2), mapped class (k), signal (s), its byte and that of disagreement."""


def no_counts() -> Counts:
    """Of no pixel."""
    return np.zeros((2, 2, len(CLASS_NAMES), len(SIGNALS), _LEVELS, _LEVELS), np.int64)


def count(mosaic: Mapping[str, NDArray[np.uint8]], truth: NDArray[np.uint8], window: Window) -> Counts:
    """Counts of a window of a mosaic (arrays by name) against truth (y, x).

    Left out is what either side does not know.
    """
    label, disagreement = mosaic["label"], mosaic["disagreement"]
    known = (truth != NO_DATA) & (label != NO_DATA) & (mosaic["confidence"] != NO_DATA)
    probability = mosaic["probability"][:, known].astype(np.float32)
    spread = confidence((probability / probability.sum(axis=0))[:, np.newaxis])[0]
    signals = (probability.max(axis=0).astype(np.int64), encode_share(spread), mosaic["confidence"][known])
    rows = (window.row + np.arange(window.height)) // HALF_PX
    cols = (window.col + np.arange(window.width)) // HALF_PX
    half = ((rows[:, np.newaxis] + cols) % 2)[known]
    wrong = (label != truth)[known]
    out = no_counts()
    for number, signal in enumerate(signals):
        place = (half, label[known], signal, disagreement[known])
        cell = np.ravel_multi_index(
            [axis.astype(np.int64) for axis in place], (2, len(CLASS_NAMES), _LEVELS, _LEVELS)
        )
        for which, cells in enumerate((cell, cell[wrong])):
            found = np.bincount(cells, minlength=out[0, :, :, 0].size)
            out[which, :, :, number] = found.reshape(out[0, :, :, 0].shape)
    return out


@dataclass(frozen=True, eq=False)
class ErrorPrediction:
    """Rankings of a run's pixels by each sign of doubt, from counts."""

    counts: Counts
    layer: str
    """What the run says that its layer ``confidence`` holds."""

    def rankings(self, mapped: int | None = None) -> dict[str, Ranking]:
        """Rankings by name: each signal, tile agreement, their product, and what was learnt of both.

        Args:
            mapped: only pixels mapped as this class; None takes all.
        """
        counts = self.counts.sum(axis=2) if mapped is None else self.counts[:, :, mapped]
        levels = np.arange(_LEVELS, dtype=np.float64)
        pixels, errors = counts.sum(axis=1)
        found = {
            name: Ranking.of(levels, pixels[number].sum(axis=1), errors[number].sum(axis=1))
            for number, name in enumerate(SIGNALS)
        }
        found["tile agreement"] = Ranking.of(-levels, pixels[0].sum(axis=0), errors[0].sum(axis=0))
        for number, name in enumerate(SIGNALS[:2]):
            product = np.outer(levels, SCALE - levels).ravel()
            found[f"{name} x agreement"] = Ranking.of(product, pixels[number].ravel(), errors[number].ravel())
            learnt = learnt_ranking(counts[0, :, number], counts[1, :, number])
            if learnt is not None:
                found[f"{name} + agreement, learnt"] = learnt
        return found

    def calibration_errors(self) -> dict[str, float]:
        """Expected calibration error of each signal read as a share of right pixels."""
        pixels, errors = self.counts.sum(axis=(1, 2, 5))
        levels = np.arange(_LEVELS)
        number = np.clip(-(-levels * RELIABILITY_BINS // SCALE) - 1, 0, RELIABILITY_BINS - 1)
        out = {}
        for at, name in enumerate(SIGNALS):
            columns = (pixels[at], pixels[at] * levels / SCALE, pixels[at] - errors[at])
            n, stated, right = (
                np.bincount(number, weights=values, minlength=RELIABILITY_BINS) for values in columns
            )
            reliability = Reliability(n.astype(np.int64), stated.astype(np.float64), right.astype(np.int64))
            out[name] = reliability.ece
        return out

    @property
    def verdict(self) -> str:
        """One sentence: whether tile disagreement finds errors better than the softmax, and adds to it."""
        rankings = self.rankings()
        softmax, tiles = (rankings[name].aurc for name in ("softmax", "tile agreement"))
        best = rankings["softmax"].best
        if softmax == best or not np.isfinite(softmax):
            return "There is nothing to rank: no errors, or a perfect order of them."
        share = (tiles - best) / (softmax - best)
        text = (
            f"Tile disagreement alone finds errors {'better' if share < 1 else 'worse'} than the softmax: "
            f"excess AURC {tiles - best:.5f} against {softmax - best:.5f}"
        )
        joint = rankings.get("softmax + agreement, learnt")
        if joint is None:
            return text + "."
        gain = 1 - (joint.aurc - best) / (softmax - best)
        return (
            f"{text}. Both together, learnt on one half of the map and tried on the other, have "
            f"{abs(gain):.1%} {'less' if gain > 0 else 'more'} excess than the softmax alone."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ece = self.calibration_errors()
        return {
            "layer": self.layer,
            "verdict": self.verdict,
            **_figures(self.rankings()),
            "calibration_error": {name: _finite(value) for name, value in ece.items()},
            "by_mapped_class": {
                name: _figures(self.rankings(number))
                for number, name in enumerate(CLASS_NAMES)
                if self.counts[0, :, number].any()
            },
        }


def learnt_ranking(pixels: NDArray[np.int64], errors: NDArray[np.int64]) -> Ranking | None:
    """The ranking by what a logistic regression learns of signal and disagreement, each half from the other.

    Args:
        pixels: by half (2), byte of the signal and byte of disagreement.
        errors: likewise.

    None where a half has no errors or nothing right to learn from.
    """
    sums = [(int(e.sum()), int(n.sum())) for n, e in zip(pixels, errors, strict=True)]
    if any(e in (0, n) for e, n in sums):
        return None
    levels = np.arange(_LEVELS)
    # Logarithms of doubt: a step from 249 to 250 means more than one from 125 to 126.
    doubt, apart = np.log((SCALE - levels + 1) / _LEVELS), np.log((levels + 1) / _LEVELS)
    features = np.stack([np.ones((_LEVELS, _LEVELS)), *np.meshgrid(doubt, apart, indexing="ij")], axis=-1)
    score = np.stack([-(features @ _logistic(features, pixels[1 - h], errors[1 - h])) for h in (0, 1)])
    return Ranking.of(score.ravel(), pixels.ravel(), errors.ravel())


def _logistic(
    features: NDArray[np.float64], pixels: NDArray[np.int64], errors: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Coefficients (f,) of the logistic regression of errors on the features (..., f) of cells."""
    from scipy.optimize import minimize

    used = pixels > 0
    x, n, e = features[used], pixels[used].astype(float), errors[used].astype(float)

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ w
        value = (n * np.logaddexp(0, z) - e * z).sum() / n.sum()
        slope = x.T @ (n / (1 + np.exp(-z)) - e) / n.sum()
        # A touch of ridge: cells that part right from wrong cleanly would send the coefficients off.
        return value + 1e-6 * float(w @ w), slope + 2e-6 * w

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)


def _figures(rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    first = rankings["softmax"]
    pixels, errors = first.total
    rows = {
        name: {
            "aurc": _finite(ranking.aurc),
            "excess": _finite(ranking.aurc - ranking.best),
            "auroc": _finite(ranking.auroc),
        }
        for name, ranking in rankings.items()
    }
    return {"pixels": pixels, "errors": errors, "best_aurc": _finite(first.best), "signals": rows}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def error_prediction(run: str | Path, truth: Truth, *, years: Sequence[int] | None = None) -> ErrorPrediction:
    """How well each sign of doubt in a finished run's maps finds their errors.

    Args:
        run: output folder or URL of the run.
        truth: labels 0..4 (255: not known), as :func:`cryoscale.learn.evaluate.evaluate` takes them.
        years: which years; None takes all.

    Raises:
        SourceError: if there is no map or no truth, or they have no known pixel in common.
    """
    counts, layers = no_counts(), set()
    for year, epsg in groups(run, years):
        for part in parts_of(run, year, epsg, truth_of(truth, epsg, year)):
            layers.add(str(part.mosaic.attrs.get("cryoscale:confidence", "one minus normalised entropy")))
            rows, cols = part.window.slices_in(window_of(part.mosaic, epsg))
            layer = {name: np.asarray(part.mosaic[name][..., rows, cols].values) for name in _LAYERS}
            counts += count(layer, part.inner(part.truth), part.window)
    if not counts[0].any():
        given = f"truth {truth} without a known pixel on the map of {run}"
        raise SourceError(given, "labels of the same place", "check both")
    return ErrorPrediction(counts, "; ".join(sorted(layers)))
