"""Probabilities as bytes: what travels back from the actor and lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cryoscale.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 250
"""Value of a byte that stands for 1."""

NO_DATA = 255
"""Value of a byte without data, in every band."""

KINDS = ("entropy", "max")
"""What the layer ``confidence`` may hold."""

_ROWS_AT_A_TIME = 128


def encode_share(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bytes ``round(250 * share)`` of an array of any shape in [0, 1]; NaN becomes 255."""
    with np.errstate(invalid="ignore"):
        scaled = np.rint(np.clip(share, 0.0, 1.0) * np.float32(SCALE))
    return np.where(np.isnan(scaled), np.float32(NO_DATA), scaled).astype(np.uint8)


def confidence(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 - Shannon entropy / log(k) over the classes of probability (k, y, x), as (y, x) in [0, 1].

    1 where one class has it all, 0 where all have the same, NaN where there is no data.
    """
    classes = probability.shape[0]
    if classes < 2:
        return np.where(np.isnan(probability[0]), np.float32(np.nan), np.float32(1.0))
    # The limit of p log p at 0 is 0; the smallest normal number stands in where the log is not finite.
    floor = np.float32(np.finfo(np.float32).tiny)
    entropy = np.zeros(probability.shape[1:], np.float32)
    for share in probability:
        entropy -= share * np.log(np.maximum(share, floor))
    return np.asarray(np.clip(1.0 - entropy / np.float32(np.log(classes)), 0.0, 1.0), np.float32)


@dataclass(frozen=True)
class Confidence:
    """What the layer ``confidence`` of a map holds: ``entropy`` or ``max`` (the winner's probability).

    ``curve`` holds rising confidences and the accuracies observed there, as a weights card has them. Where
    it is given, confidence by entropy is read off it, straight between its points and level beyond them:
    it then is a share of right pixels. Maslov et al. 2025, https://doi.org/10.1038/s41467-024-54956-x.
    """

    kind: str = "entropy"
    curve: tuple[Sequence[float], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"confidence {self.kind!r}", f"one of {', '.join(KINDS)}", "name one of these")

    def __call__(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Confidence (y, x) in [0, 1] of probability (k, y, x); NaN where there is no data."""
        if self.kind == "max":
            return np.asarray(probability.max(axis=0), np.float32)
        plain = confidence(probability)
        return plain if self.curve is None else np.interp(plain, *self.curve).astype(np.float32)


PLAIN = Confidence()


def encode(
    probability: NDArray[np.float32], disagreement: NDArray[np.float32], how: Confidence = PLAIN
) -> dict[str, NDArray[np.uint8]]:
    """Bands of a map as u1: ``probability`` (k, y, x), ``label``, ``confidence``, ``disagreement`` (y, x).

    The label is the most probable class before rounding, the lower index where two are equal; confidence
    is as ``how`` says. All four are 0-250 (the label a class index), 255 = no data.
    """
    rows = probability.shape[1]
    bands = {
        "probability": np.empty(probability.shape, np.uint8),
        "label": np.empty(probability.shape[1:], np.uint8),
        "confidence": np.empty(probability.shape[1:], np.uint8),
        "disagreement": encode_share(disagreement),
    }
    for start in range(0, rows, _ROWS_AT_A_TIME):  # bounds the temporaries
        part = slice(start, start + _ROWS_AT_A_TIME)
        shares = probability[:, part]
        bands["probability"][:, part] = encode_share(shares)
        missing = np.isnan(shares).any(axis=0)
        bands["label"][part] = np.where(missing, NO_DATA, np.argmax(shares, axis=0))
        bands["confidence"][part] = encode_share(how(shares))
    return bands
