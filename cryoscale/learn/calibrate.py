"""Calibration of finished weights: a temperature, and a curve from confidence to observed accuracy.

Only the card changes; the tensors stay as they are, byte for byte. The model is asked through the predictor
that serves it, so any architecture will do: the logarithm of its probabilities stands for the logits,
from which it differs by a constant a pixel that no softmax sees.

A mean over flips or over dropout is less sure than a single answer, so that it has a curve of its own. Its
temperature is that of the single answers, within the mean: it is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.infer.encode import Confidence, confidence
from cryoscale.learn.reliability import RELIABILITY_BINS, Reliability
from cryoscale.learn.scores import NO_DATA
from cryoscale.learn.suited import SuitedPatches
from cryoscale.models import weights
from cryoscale.models.curve import Calibration
from cryoscale.models.loading import load_predictor
from cryoscale.models.predictor import Predictor
from cryoscale.models.protocol import PredictsTiles

PIXELS_A_PATCH = 4096
"""Labelled pixels that are drawn from each patch, with a fixed seed: neighbours say the same again."""

CURVE_BINS = 40
PIXELS_A_BIN = 200
"""Points of the curve at most, and pixels behind each at least (a tenth of all, where there are few)."""

LOG_TEMPERATURES = (-3.0, 3.0)
"""Where the temperature's logarithm is looked for."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """How the model is asked, as a run's ``flips`` and ``mc_dropout`` say; 0 samples switch dropout off."""

    flips: bool = False
    mc_dropout: int = 0

    @property
    def once(self) -> bool:
        """Whether a single answer counts."""
        return self == Asked()


@dataclass(frozen=True)
class Sample:
    """Drawn pixels: the logarithm of their probabilities at temperature 1 (m, k), and labels (m,).

    Of a mean over several answers it is at the temperature of the card. The logarithm may be off by a
    constant a pixel, so logits will do.
    """

    log_probability: NDArray[np.float64]
    label: NDArray[np.uint8]

    def at(self, temperature: float) -> NDArray[np.float32]:
        """Probabilities (m, k) at another temperature."""
        scaled = self.log_probability / temperature
        odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)

    def loss(self, temperature: float) -> float:
        """Mean negative log-likelihood of the labels at a temperature."""
        scaled = self.log_probability / temperature
        top = scaled.max(axis=1)
        total = np.log(np.exp(scaled - top[:, np.newaxis]).sum(axis=1)) + top
        return float(np.mean(total - scaled[np.arange(len(self.label)), self.label]))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Where the most probable class is the label (m,)."""
        return np.asarray(self.log_probability.argmax(axis=1) == self.label)


@dataclass(frozen=True)
class Figures:
    """Calibration errors (ECE) on one split, before and after: of the winner's probability, of entropy."""

    split: str
    pixels: int
    accuracy: float
    ece_before: float
    ece_after: float
    entropy_before: float
    entropy_after: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Calibrated:
    """A card with its new temperature and curve, the old temperature, and figures a split."""

    card: weights.Card
    temperature_before: float
    figures: tuple[Figures, ...]
    out: str | None

    @property
    def note(self) -> str | None:
        """What to know of figures that nothing was held back for."""
        if len(self.figures) > 1:
            return None
        split = self.figures[0].split
        return f"no patches were held out: the figures are those of split {split}, which was fitted on"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        curve = self.card.calibration
        return {
            "temperature": {"before": self.temperature_before, "after": self.card.temperature},
            "calibration": curve.model_dump(mode="json") if curve else None,
            "splits": {figures.split: figures.to_dict() for figures in self.figures},
            "note": self.note,
            "out": self.out,
        }


def fit_temperature(sample: Sample) -> float:
    """The temperature at which the labels are likeliest. Guo et al. 2017, https://arxiv.org/abs/1706.04599."""
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(
        lambda log_t: sample.loss(float(np.exp(log_t))), bounds=LOG_TEMPERATURES, method="bounded"
    )
    return float(np.exp(best.x))


def fit_curve(stated: NDArray[np.float32], right: NDArray[np.bool_]) -> Calibration:
    """The rising curve from stated confidence (m,) to the share that was right (m,), by isotonic regression.

    Pixels are put into equal bins of confidence; from below, a bin with too few joins the next.
    Maslov et al. 2025, https://doi.org/10.1038/s41467-024-54956-x, calibrate confidence by entropy so.
    """
    from scipy.optimize import isotonic_regression

    number = np.clip((stated * CURVE_BINS).astype(np.int64), 0, CURVE_BINS - 1)
    columns = [
        np.bincount(number, weights=values, minlength=CURVE_BINS)
        for values in (np.ones(len(stated)), stated.astype(np.float64), right.astype(np.float64))
    ]
    bins = [np.zeros(3)]
    least = min(PIXELS_A_BIN, max(len(stated) // 10, 1))
    for row in np.stack(columns, axis=1):
        bins[-1] = bins[-1] + row
        if bins[-1][0] >= least:
            bins.append(np.zeros(3))
    rest = bins.pop()
    bins[-1] = bins[-1] + rest
    count, total, hits = np.array(bins).T
    accuracy = np.clip(isotonic_regression(hits / count, weights=count).x, 0.0, 1.0)
    return Calibration(
        confidence=tuple(map(float, total / count)),
        accuracy=tuple(map(float, accuracy)),
        count=tuple(map(int, count)),
    )


def draw(
    predictor: PredictsTiles, patches: SuitedPatches, indices: NDArray[np.int64], progress: Progress
) -> Sample:
    """Up to ``PIXELS_A_PATCH`` labelled pixels of each patch with what the model says of them."""
    rng = np.random.default_rng(0)
    logs, labels = [], []
    for done, index in enumerate(indices):
        x, y = patches.read(index)
        drawn = rng.permutation(np.flatnonzero(y.ravel() != NO_DATA))[:PIXELS_A_PATCH]
        answer = patches.ask(predictor, x[np.newaxis], indices[done : done + 1])[0]
        answer = answer.reshape(-1, y.size)[:, drawn].astype(np.float64)
        # What float32 rounded to 0 is some e-45 at most: without a floor one such pixel decides it all.
        logs.append(np.log(np.maximum(answer, np.finfo(np.float32).tiny)).T)
        labels.append(y.ravel()[drawn])
        progress(done + 1, len(indices))
    return Sample(np.concatenate(logs), np.concatenate(labels))


def calibrate(
    path: Path,
    patch_set: str | Path,
    *,
    split: str = "validation",
    held_out: str = "test",
    asked: Asked = Asked(),
    out: Path | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Fits temperature and curve of the weights ``path`` on a split, and judges them on another one.

    Of a mean over several answers the curve alone.

    Args:
        path: the weights, ``X.safetensors``.
        patch_set: patches with the channels of the weights.
        split: what to fit on.
        held_out: what to judge on beside it; left out where the set has no such patches.
        asked: what the curve is for: single answers, or a mean as runs may choose it.
        out: where weights with the new card go; may be ``path``, whose card is then replaced. None
            writes nothing.
        progress: called with patches done and their number.

    Raises:
        WeightsError: if the weights cannot be used, or ``out`` does not end in .safetensors.
        OutputError: if a folder is in the way of ``out`` or its card.
        NoRoomError: if the disk of ``out`` is full.
        InputError: if the model cannot be asked so.
        SourceError: if the patches do not fit the weights, or cannot teach a calibration.
    """
    if out is not None:
        weights.require_place(out)
    patches = SuitedPatches(patch_set, weights.read_card(path))
    indices = patches.indices(split)
    # whether anything can be judged on the other split is known before the model is asked for an hour
    kept = patches.indices(held_out) if held_out != split and patches.has(held_out) else None
    predictor, card = _predictor(path, asked)
    tell = progress or (lambda done, total: None)
    sample = draw(predictor, patches, indices, tell)
    _require_errors(sample, split)
    temperature = fit_temperature(sample) if asked.once else 1.0
    curve = fit_curve(_stated(sample, temperature), sample.right).model_copy(update=vars(asked))
    new = card.model_copy(update={"calibration": curve})
    if asked.once:
        new = new.model_copy(update={"temperature": temperature})
    figures = [_figures(split, sample, (card, new), asked)]
    if kept is not None:
        rest = draw(predictor, patches, kept, tell)
        figures.append(_figures(held_out, rest, (card, new), asked))
    record = {"split": split, "splits": {one.split: one.to_dict() for one in figures}}
    new = new.model_copy(update={"metrics": {**card.metrics, "calibration": record}})
    if out is not None:
        weights.copy_with_card(path, new, out)
    return Calibrated(new, card.temperature, tuple(figures), None if out is None else str(out))


def _predictor(path: Path, asked: Asked) -> tuple[PredictsTiles, weights.Card]:
    """What answers: at temperature 1 where it is asked once, else as it is served; and the card."""
    if not asked.once:
        return load_predictor(weights=path, **vars(asked)), weights.read_card(path)
    model, card = weights.load(path)
    return Predictor(model, card.model_copy(update={"temperature": 1.0})), card


def _require_errors(sample: Sample, split: str) -> None:
    """What is always right, or always wrong, says nothing of how sure to be."""
    right = int(sample.right.sum())
    if right in (0, len(sample.right)):
        given = f"split {split!r}, on which the model is {'always' if right else 'never'} right"
        raise SourceError(given, "pixels of both kinds", "calibrate on other patches")


def _stated(sample: Sample, temperature: float) -> NDArray[np.float32]:
    """Confidence by entropy (m,) at a temperature, uncalibrated."""
    return np.asarray(confidence(_as_map(sample.at(temperature)))[0])


def _as_map(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (m, k) of pixels as a map (k, 1, m)."""
    return np.ascontiguousarray(probability.T)[:, np.newaxis]


def _figures(split: str, sample: Sample, cards: tuple[weights.Card, weights.Card], asked: Asked) -> Figures:
    """Figures by the old card and the new one."""
    before, after = (card.temperature if asked.once else 1.0 for card in cards)
    winner = sample.log_probability.argmax(axis=1).astype(np.uint8)

    def ece(stated: NDArray[np.float32]) -> float:
        return Reliability.of(sample.label, winner, stated, RELIABILITY_BINS).ece

    def entropy(card: weights.Card, temperature: float) -> NDArray[np.float32]:
        how = Confidence("entropy", card.curve(**vars(asked)))
        return np.asarray(how(_as_map(sample.at(temperature)))[0])

    return Figures(
        split=split,
        pixels=len(sample.label),
        accuracy=float(sample.right.mean()),
        ece_before=ece(sample.at(before).max(axis=1)),
        ece_after=ece(sample.at(after).max(axis=1)),
        entropy_before=ece(entropy(cards[0], before)),
        entropy_after=ece(entropy(cards[1], after)),
    )
