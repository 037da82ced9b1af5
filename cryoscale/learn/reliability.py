"""Whether stated probabilities can be believed: reliability, proper scores, and what a temperature mends.

All of it is counted from the bytes of the mosaic, so that parts add up to the whole, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import Window
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA

PROBABILITY_SCALE = 250.0
RELIABILITY_BINS = 10

_LEVELS = int(PROBABILITY_SCALE) + 1
_LEAST = 0.5 / PROBABILITY_SCALE
"""What stands in a logarithm for a stored 0, which is anything below half a step."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """How far stated probability and observed accuracy agree, in equal bins of the winning probability.

    Attributes:
        count: pixels in each bin (bins,).
        probability_sum: sum of their winning probabilities (bins,).
        correct: how many of them have the right class (bins,).
    """

    count: NDArray[np.int64]
    probability_sum: NDArray[np.float64]
    correct: NDArray[np.int64]

    @classmethod
    def of(
        cls, truth: NDArray[np.uint8], winner: NDArray[np.uint8], probability: NDArray[Any], bins: int
    ) -> Reliability:
        """Counts of pixels by their winning probability; truth or winner 255 is left out."""
        valid = (truth != NO_DATA) & (winner != NO_DATA)
        p = probability[valid].astype(np.float64)
        right = (truth == winner)[valid]
        index = _bins(p, bins)
        return cls(
            np.bincount(index, minlength=bins).astype(np.int64),
            np.bincount(index, weights=p, minlength=bins).astype(np.float64),
            np.bincount(index[right], minlength=bins).astype(np.int64),
        )

    @classmethod
    def none(cls, bins: int = RELIABILITY_BINS) -> Reliability:
        """Of no pixel."""
        return cls(np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins, np.int64))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], bins: int = RELIABILITY_BINS) -> Reliability:
        """The reliability that :meth:`to_dict` wrote."""
        found = cls.none(bins)
        for row in values["bins"]:
            index = round(row["to"] * bins) - 1
            found.count[index] = row["pixels"]
            found.probability_sum[index] = row["probability"] * row["pixels"]
            found.correct[index] = round(row["accuracy"] * row["pixels"])
        return found

    def __add__(self, other: Reliability) -> Reliability:
        """Of both areas together."""
        return Reliability(
            self.count + other.count,
            self.probability_sum + other.probability_sum,
            self.correct + other.correct,
        )

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between probability and accuracy, weighted by pixels.

        Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
        """
        total = int(self.count.sum())
        return float(np.abs(self.probability_sum - self.correct).sum() / total) if total else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the expected calibration error, and a row for each bin with pixels."""
        edges = np.linspace(0, 1, len(self.count) + 1)
        rows = [
            {
                "from": round(float(edges[i]), 6),
                "to": round(float(edges[i + 1]), 6),
                "pixels": int(n),
                "probability": float(self.probability_sum[i] / n),
                "accuracy": float(self.correct[i] / n),
            }
            for i, n in enumerate(self.count)
            if n
        ]
        return {"ece": self.ece if rows else None, "bins": rows}


def _bins(p: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    # Rounded first: stored probabilities lie on bin edges, which binary fractions miss either way.
    index: NDArray[np.int64] = np.clip(np.ceil(np.round(p * bins, 9)).astype(np.int64) - 1, 0, bins - 1)
    return index


@dataclass(frozen=True, eq=False)
class Stated:
    """How often each class was given each probability, and how often it then was the truth.

    Attributes:
        pixels: by class and stored value 0-250 (k, 251).
        hits: those of them whose truth is the class (k, 251).
    """

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(CLASS_NAMES), _LEVELS), np.int64))
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(CLASS_NAMES), _LEVELS), np.int64))

    def add(self, truth: NDArray[np.uint8], stored: NDArray[np.uint8]) -> None:
        """Count the pixels of truth (y, x) and stored probabilities (k, y, x); 255 is left out."""
        known = (truth != NO_DATA) & (stored != NO_DATA).all(axis=0)
        true = truth[known]
        for k, values in enumerate(stored):
            given = values[known]
            self.pixels[k] += np.bincount(given, minlength=_LEVELS)
            self.hits[k] += np.bincount(given[true == k], minlength=_LEVELS)

    @property
    def total(self) -> int:
        """Pixels counted."""
        return int(self.pixels[0].sum())

    @property
    def brier(self) -> float:
        """Brier's score over all classes, 0 (sure and right) to 2 (sure and wrong); NaN of no pixel.

        Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
        """
        p = np.arange(_LEVELS) / PROBABILITY_SCALE
        total = (self.pixels * p**2 - 2 * self.hits * p + self.hits).sum()
        return float(total / self.total) if self.total else float("nan")

    @property
    def log_loss(self) -> float:
        """Mean negative logarithm of the true class's probability; a stored 0 counts as 0.002."""
        p = np.maximum(np.arange(_LEVELS) / PROBABILITY_SCALE, _LEAST)
        return float(-(self.hits * np.log(p)).sum() / self.total) if self.total else float("nan")

    def of_class(self, k: int, bins: int = RELIABILITY_BINS) -> Reliability:
        """Reliability of one class's probability, whether it wins or not."""
        p = np.arange(_LEVELS) / PROBABILITY_SCALE
        index = _bins(p, bins)
        return Reliability(
            np.bincount(index, self.pixels[k], bins).astype(np.int64),
            np.bincount(index, self.pixels[k] * p, bins).astype(np.float64),
            np.bincount(index, self.hits[k], bins).astype(np.int64),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "brier": self.brier if self.total else None,
            "log_loss": self.log_loss if self.total else None,
            "per_class": {
                name: self.of_class(k).to_dict() for k, name in enumerate(CLASS_NAMES[: len(self.pixels)])
            },
        }


TEMPERATURES = tuple(float(t) for t in np.geomspace(0.25, 4.0, 25))
"""Temperatures that are tried on the map; neighbours differ by an eighth."""

_CELL_PX = 256
_EVERY_PX = 2


class MapTemperature:
    """What one more temperature, on top of the map as it is, would do; cross-fitted.

    A temperature divides the logits of a tile before tiles are blended, so that what it did cannot be
    undone on the map (see :mod:`cryoscale.repredict` for that). What can be asked of any map is whether
    ``p ** (1 / T)``, normalised, would state the truth better. The world is cut into cells of 256 pixels
    in two colours, like a chessboard; T is chosen on either colour by Brier's score and judged on the other,
    so that the figure is not that of the pixels it was fitted on. Every second pixel of every second row
    counts. Log loss would hang on what stands for a stored 0, of which the bytes say only that it is small.
    """

    def __init__(self) -> None:
        self._brier = np.zeros((2, len(TEMPERATURES)))
        self._reliability = [[Reliability.none() for _ in TEMPERATURES] for _ in range(2)]
        self._powers = [(np.arange(_LEVELS) / PROBABILITY_SCALE) ** (1 / t) for t in TEMPERATURES]

    def add(
        self,
        window: Window,
        truth: NDArray[np.uint8],
        label: NDArray[np.uint8],
        stored: NDArray[np.uint8],
    ) -> None:
        """Count the pixels of truth and label (y, x) and stored probabilities (k, y, x) on a window."""
        thin = tuple(slice(-start % _EVERY_PX, None, _EVERY_PX) for start in (window.row, window.col))
        y, x = (
            (start + np.arange(length)) // _CELL_PX
            for start, length in ((window.row, window.height), (window.col, window.width))
        )
        colour = ((y[thin[0], np.newaxis] + x[np.newaxis, thin[1]]) % 2).astype(np.int64)
        truth, label, stored = truth[thin], label[thin], stored[:, *thin]
        known = (truth != NO_DATA) & (stored != NO_DATA).all(axis=0)
        truth, label, stored, colour = truth[known], label[known], stored[:, known], colour[known]
        for half in (0, 1):
            here = colour == half
            self._count(half, truth[here], label[here], stored[:, here])

    def _count(
        self, half: int, truth: NDArray[np.uint8], label: NDArray[np.uint8], stored: NDArray[np.uint8]
    ) -> None:
        if not truth.size:
            return
        top, right = stored.max(axis=0), np.take_along_axis(stored, truth[np.newaxis].astype(np.int64), 0)[0]
        for number, (temperature, power) in enumerate(zip(TEMPERATURES, self._powers, strict=True)):
            p = power[stored]
            total = p.sum(axis=0)
            self._brier[half, number] += float(
                ((p**2).sum(axis=0) / total**2 - 2 * power[right] / total + 1).sum()
            )
            # Rounded class by class, a pixel's bytes need not sum to 250; at 1 it is the map as it states it.
            stated = power[top] if temperature == 1 else power[top] / total
            self._reliability[half][number] += Reliability.of(truth, label, stated, RELIABILITY_BINS)

    @property
    def temperatures(self) -> tuple[float, float] | None:
        """Chosen on the one half for the other, and the other way round; None where a half is empty."""
        if not all(half[0].count.sum() for half in self._reliability):
            return None
        # Of those that score alike, as all do on a map of zeros and ones, the nearest to 1.
        order = np.abs(np.log(TEMPERATURES)).argsort(kind="stable")
        first, second = (TEMPERATURES[int(order[brier[order].argmin()])] for brier in self._brier)
        return first, second

    @property
    def before(self) -> Reliability:
        """Of the map as it is, on the pixels that were counted."""
        at = TEMPERATURES.index(1.0)
        return self._reliability[0][at] + self._reliability[1][at]

    @property
    def after(self) -> Reliability | None:
        """Of the map with each half under the temperature that the other half chose."""
        if self.temperatures is None:
            return None
        first, second = (TEMPERATURES.index(t) for t in self.temperatures)
        return self._reliability[1][first] + self._reliability[0][second]

    def to_dict(self) -> dict[str, Any] | None:
        """Plain values for JSON; None where there is too little to say."""
        if self.temperatures is None or self.after is None:
            return None
        return {
            "temperatures": [round(t, 4) for t in self.temperatures],
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }
