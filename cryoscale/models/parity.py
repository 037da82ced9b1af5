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
        why_not: why it could not be tried.
    """

    precision: str
    agreement: float = 0.0
    difference: float = 1.0
    seconds_a_tile: float = float("inf")
    why_not: str = ""

    @property
    def passes(self) -> bool:
        """Whether it may be used in the place of float32."""
        return passes(self.agreement, self.difference)

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        if self.why_not:
            return {"precision": self.precision, "why_not": self.why_not}
        return {
            "precision": self.precision,
            "agreement": round(self.agreement, 6),
            "difference": float(f"{self.difference:.3g}"),
            "seconds_a_tile": float(f"{self.seconds_a_tile:.3g}"),
            "passes": self.passes,
        }

    def __str__(self) -> str:
        if self.why_not:
            return f"{self.precision}: {self.why_not}"
        told = f"{self.precision}: {1000 * self.seconds_a_tile:.3g} ms a tile"
        likeness = f"{100 * self.agreement:.2f} % of pixels alike, probabilities {self.difference:.2g} apart"
        return f"{told}, {likeness}" + ("" if self.passes else ", not taken")


def passes(agreement: float, difference: float) -> bool:
    """Whether answers are so like those of float32 that they may stand in their place."""
    return agreement >= LEAST_AGREEMENT and difference <= MOST_DIFFERENCE


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
    """The quickest of float32 and ``candidates`` that passes on ``tiles``.

    Args:
        load: makes the model in a precision; whatever it raises counts against the candidate alone.
        candidates: precisions beside float32.
        tiles: features (n, c, h, w) of the run, physical units, NaN for what is missing.
        valid: the pixels (n, h, w) that are compared.
        location: codes (n, 4), for a model that takes them.

    Raises:
        ValueError: no pixel is valid, so that nothing could be compared.
    """
    if not valid.any():
        raise ValueError("no valid pixel to compare precisions on")
    wanted, seconds = _answers(load(REFERENCE), tiles, location)
    tried = [Parity(REFERENCE, 1.0, 0.0, seconds)]
    for name in candidates:
        try:
            answers, seconds = _answers(load(name), tiles, location)
        except Exception as error:  # a library that cannot run this network is no reason to stop
            tried.append(Parity(name, why_not=f"cannot be had: {' '.join(str(error).split())[:200]}"))
            continue
        tried.append(Parity(name, *likeness(answers, wanted, valid), seconds))
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
) -> tuple[float, float]:
    """Share of the valid pixels (n, h, w) with the same class, and the mean difference of probabilities.

    The absolute one, of probabilities (n, k, h, w); nothing is alike where an answer is not finite.
    """
    if not np.isfinite(answers).all():
        return 0.0, 1.0
    alike = answers.argmax(axis=1)[valid] == wanted.argmax(axis=1)[valid]
    apart = np.abs(answers - wanted).mean(axis=1)[valid]
    return float(alike.mean()), float(apart.mean())
