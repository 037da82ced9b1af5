"""Which of several ways to run a network is the quickest that still gives its answer.

A shorter or reordered arithmetic moves probabilities, by how much depends on the very weights: so every
candidate runs beside torch in float32 on tiles of the run itself, and is taken only where it passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE = "fp32"
"""What the others are held against."""

LEAST_AGREEMENT = 0.995
"""Share of the valid pixels that must get the same class."""

LEAST_CLASS_IOU = 0.98
"""Intersection over union that each class must have with that of float32.

Pooled over all pixels, a class of less than half a percent of them could be lost whole. bf16 keeps 99.1 % of
every class of the demo's network that can be judged; at borders a small one loses more than a large one.
"""

CLASS_PX = 500
"""Pixels that a class takes, in float32 or in what is held against it, to be judged: fewer are a border's."""

LEAST_PX = 5000
"""Valid pixels without which nothing is judged, and float32 taken."""

MOST_DIFFERENCE = 0.01
"""Mean absolute difference of the valid pixels' probabilities, at most."""

Load = Callable[[str], Callable[..., NDArray[np.float32]]]
"""A model by its precision; or its network as it is served, with the tiles of a ``batch``."""


@dataclass(frozen=True)
class Parity:
    """How one way to run the network compares with torch in float32, on the same tiles.

    Attributes:
        precision: its name.
        agreement: share of the valid pixels with the same class.
        difference: mean absolute difference of their probabilities.
        seconds_a_tile: the median of the calls after the first, which compiles; or of the network alone,
            where a model tells it.
        class_iou: the least intersection over union of a class with that of float32; see :data:`CLASS_PX`.
        why_not: why it could not be tried.
    """

    precision: str
    agreement: float = 0.0
    difference: float = 1.0
    seconds_a_tile: float = float("inf")
    class_iou: float = 0.0
    why_not: str = ""

    @property
    def passes(self) -> bool:
        """Whether it may be used in the place of float32."""
        return passes(self.agreement, self.difference, self.class_iou)

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        if self.why_not:
            return {"precision": self.precision, "why_not": self.why_not}
        return {
            "precision": self.precision,
            "agreement": round(self.agreement, 6),
            "class_iou": round(self.class_iou, 6),
            "difference": float(f"{self.difference:.3g}"),
            "seconds_a_tile": float(f"{self.seconds_a_tile:.3g}"),
            "passes": self.passes,
        }

    def __str__(self) -> str:
        if self.why_not:
            return f"{self.precision}: {self.why_not}"
        told = f"{self.precision}: {1000 * self.seconds_a_tile:.3g} ms a tile"
        alike = in_words(self.agreement, self.difference, self.class_iou)
        return f"{told}, {alike}" + ("" if self.passes else ", not taken")


def passes(agreement: float, difference: float, class_iou: float) -> bool:
    """Whether answers are so like those of float32 that they may stand in their place."""
    of_classes = agreement >= LEAST_AGREEMENT and class_iou >= LEAST_CLASS_IOU
    return of_classes and difference <= MOST_DIFFERENCE


def in_words(agreement: float, difference: float, class_iou: float) -> str:
    """The figures of :func:`likeness`, for a line that is printed."""
    of_classes = f"{100 * agreement:.2f} % of pixels alike, IoU of each class {100 * class_iou:.2f} % or more"
    return f"{of_classes}, probabilities {difference:.2g} apart"


@dataclass(frozen=True)
class Choice:
    """The precision to take, and what all that were tried showed."""

    precision: str
    tried: tuple[Parity, ...]

    @property
    def seconds_a_tile(self) -> float:
        """Of the network in that precision; infinite where it was not tried."""
        return next((one.seconds_a_tile for one in self.tried if one.precision == self.precision), math.inf)

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        return {"precision": self.precision, "tried": [parity.to_dict() for parity in self.tried]}


def choose(
    load: Load,
    candidates: Sequence[str],
    tiles: NDArray[np.float32],
    valid: NDArray[np.bool_],
    location: NDArray[np.float32] | None = None,
) -> Choice:
    """The quickest of float32 and ``candidates`` that passes on ``tiles``; float32 if these show too little.

    Args:
        load: makes the model in a precision; whatever it raises counts against the candidate alone.
        candidates: precisions beside float32.
        tiles: features (n, c, h, w) of the run, physical units, NaN for what is missing.
        valid: the pixels (n, h, w) that are compared.
        location: codes (n, 4), for a model that takes them.
    """
    if (found := np.count_nonzero(valid)) < LEAST_PX:
        too_few = f"not tried: {found} valid pixels show too little, {LEAST_PX} are needed"
        return Choice(REFERENCE, tuple(Parity(name, why_not=too_few) for name in candidates))
    wanted, seconds = _answers(load(REFERENCE), tiles, location)
    tried = [Parity(REFERENCE, 1.0, 0.0, seconds, 1.0)]
    for name in candidates:
        try:
            answers, seconds = _answers(load(name), tiles, location)
        except Exception as error:  # a library that cannot run this network is no reason to stop
            tried.append(Parity(name, why_not=f"cannot be had: {' '.join(str(error).split())[:200]}"))
            continue
        agreement, difference, class_iou = likeness(answers, wanted, valid)
        tried.append(Parity(name, agreement, difference, seconds, class_iou))
    usable = [parity for parity in tried if parity.passes]
    return Choice(min(usable, key=lambda parity: parity.seconds_a_tile).precision, tuple(tried))


def _answers(
    model: Callable[..., NDArray[np.float32]],
    tiles: NDArray[np.float32],
    location: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], float]:
    """Probabilities (n, k, h, w), and how long a tile takes once all is compiled.

    A tile at a time, or as many as a model's ``batch`` says: it then takes as long for fewer.
    """
    found, took = [], []
    at_once = int(getattr(model, "batch", 1))
    for start in (0, *range(0, len(tiles), at_once)):
        part = slice(start, start + at_once)
        codes = () if location is None else (location[part],)
        begun = time.perf_counter()
        found.append(model(tiles[part], *codes))
        took.append((time.perf_counter() - begun) / at_once)
    alone = getattr(model, "seconds_a_tile", None)
    return np.concatenate(found[1:]), float(np.median(took[1:]) if alone is None else alone())


def likeness(
    answers: NDArray[np.float32], wanted: NDArray[np.float32], valid: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """How like the valid pixels (n, h, w) of two answers are, of probabilities (n, k, h, w).

    Returns:
        The share of pixels with the same class, the mean absolute difference of probabilities, and the least
        IoU of a class that takes :data:`CLASS_PX` in either. Nothing is alike where an answer is not finite.
    """
    if not np.isfinite(answers).all():
        return 0.0, 1.0, 0.0
    ours, theirs = answers.argmax(axis=1)[valid], wanted.argmax(axis=1)[valid]
    classes = answers.shape[1]
    both = np.bincount(ours[ours == theirs], minlength=classes)
    taken, expected = (np.bincount(labels, minlength=classes) for labels in (ours, theirs))
    judged = np.maximum(taken, expected) >= CLASS_PX
    iou = both[judged] / (taken + expected - both)[judged]
    apart = np.abs(answers - wanted).mean(axis=1)[valid]
    return float((ours == theirs).mean()), float(apart.mean()), float(iou.min(initial=1.0))
