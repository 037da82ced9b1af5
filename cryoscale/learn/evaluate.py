"""Judging: a finished run against truth rasters, and weights against a patch set.

The scores of a run come from its mosaic as it lies on disk, read with plain xarray, so that what is judged is
what users get; nothing is predicted again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.learn.augment import drop_modalities
from cryoscale.learn.patches import Patches
from cryoscale.learn.places import code_of
from cryoscale.learn.reliability import PROBABILITY_SCALE, Reliability
from cryoscale.learn.scan import groups, parts_of
from cryoscale.learn.scores import CLASS_NAMES, Scores, confusion_matrix
from cryoscale.learn.truth import Truth, truth_of

__all__ = ["PROBABILITY_SCALE", "Evaluation", "Reliability", "Truth", "evaluate", "score_patches"]


@dataclass(frozen=True)
class Evaluation:
    """Scores and reliability of a run: of each ``<year>/<epsg>``, and of all of them together."""

    scores: Scores
    reliability: Reliability
    parts: dict[str, Scores]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "scores": self.scores.to_dict(),
            "reliability": self.reliability.to_dict(),
            "parts": {name: scores.to_dict() for name, scores in self.parts.items()},
        }

    def save(self, path: Path) -> None:
        """Writes :meth:`to_dict` as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        ece = (
            f"{'calibration error':<20}{100 * self.reliability.ece:>8.2f}"
            if self.reliability.count.sum()
            else ""
        )
        return "\n".join(filter(None, [str(self.scores), ece]))


def evaluate(run_out: str | Path, truth: Truth, *, years: Sequence[int] | None = None) -> Evaluation:
    """Scores of a finished run's mosaics against truth labels.

    Args:
        run_out: output folder or fsspec URL of the run.
        truth: labels 0..4 (255 or the file's no-data value: not known) as GeoTIFF: one file for all
            zones, a folder with one ``<epsg>.tif`` a zone, or ``<year>/<epsg>.tif`` where years differ, or
            paths by EPSG code. A raster off the lattice is resampled to the nearest pixel.
        years: which years; None takes all.

    A pixel counts in the UTM zone that its centre lies in, and so once. A square of 1024 pixels is in memory.

    Raises:
        SourceError: if there is no mosaic, no truth for one of its zones, a truth that holds what is no
            label, or nothing that truth and map have in common.
    """
    scores = Scores(np.zeros((len(CLASS_NAMES),) * 2, np.int64))
    reliability, parts = Reliability.none(), {}
    for year, epsg in groups(run_out, years):
        part, reliable = _evaluate_zone(run_out, year, epsg, truth_of(truth, epsg, year))
        parts[f"{year}/{epsg}"] = part
        scores, reliability = scores + part, reliability + reliable
    refuse_nothing_in_common(scores, run_out, truth)
    return Evaluation(scores, reliability, parts)


def refuse_nothing_in_common(scores: Scores, run_out: str | Path, truth: Truth) -> None:
    """Raises SourceError where no pixel could be compared, of which every score would be a hole."""
    if not scores.pixels:
        given = truth if isinstance(truth, Path) else ", ".join(map(str, truth.values()))
        raise SourceError(
            f"truth {given} without a known pixel where run {run_out} has mapped",
            "labels of the ground that the run covers, in its zones",
            "check the place and the CRS of the raster",
        )


def _evaluate_zone(out: str | Path, year: int, epsg: int, truth: Path) -> tuple[Scores, Reliability]:
    confusion = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    reliability = Reliability.none()
    for part in parts_of(out, year, epsg, truth):
        known, label = part.inner(part.truth), part.inner(part.label)
        confusion += confusion_matrix(known, label, len(CLASS_NAMES))
        stored = part.probability()
        if stored is not None:
            winning = stored.max(axis=0) / PROBABILITY_SCALE
            reliability += Reliability.of(known, label, winning, len(reliability.count))
    return Scores(confusion), reliability


Predict = Callable[..., NDArray[np.float32]]

ON_GPU_AT_ONCE = 16
"""Patches that a GPU is asked about at once."""


def score_patches(
    predict: Predict,
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    *,
    absent: Sequence[str] = (),
) -> Scores:
    """Scores of a model on patches, with the modalities named in ``absent`` taken away.

    Args:
        predict: physical features (n,c,h,w) to probabilities (n,k,h,w); takes location codes (n,4) too if it
            ``needs_location``.
        patches: the set.
        indices: which of its patches.
        absent: of "thermal", "terrain", "velocity", "insar".
    """
    confusion = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    located = bool(getattr(predict, "needs_location", False))
    # A CPU gains nothing by several at once, and they would change the last bits.
    at_once = ON_GPU_AT_ONCE if getattr(getattr(predict, "device", None), "type", "cpu") == "cuda" else 1
    for start, (x, y) in zip(range(0, len(indices), at_once), patches.batches(indices, at_once), strict=True):
        part = indices[start : start + at_once]
        where = [np.stack([code_of(patches, int(index)) for index in part])] if located else []
        labels = predict(drop_modalities(x, patches.channels, absent), *where).argmax(axis=1)
        confusion += confusion_matrix(y, labels, len(CLASS_NAMES))
    return Scores(confusion)
