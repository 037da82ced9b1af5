"""Judging: a finished run against truth rasters, and weights against a patch set.

The scores of a run come from its mosaic as it lies on disk, read with plain xarray, so that what is judged is
what users get; nothing is predicted again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.grid import Window, window_of
from cryoscale.learn.augment import drop_modalities
from cryoscale.learn.patches import Patches
from cryoscale.learn.places import code_of
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA, Scores, confusion_matrix
from cryoscale.learn.truth import in_zone, open_truth

PROBABILITY_SCALE = 250.0
RELIABILITY_BINS = 10

_ROWS_AT_ONCE = 1024


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
        # Rounded first: stored probabilities lie on bin edges, which binary fractions miss either way.
        index = np.clip(np.ceil(np.round(p * bins, 9)).astype(np.int64) - 1, 0, bins - 1)
        right = (truth == winner)[valid]
        return cls(
            np.bincount(index, minlength=bins).astype(np.int64),
            np.bincount(index, weights=p, minlength=bins).astype(np.float64),
            np.bincount(index[right], minlength=bins).astype(np.int64),
        )

    @classmethod
    def none(cls, bins: int = RELIABILITY_BINS) -> Reliability:
        """Of no pixel."""
        return cls(np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins, np.int64))

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


Truth = Path | Mapping[int, Path]


def evaluate(run_out: Path, truth: Truth, *, years: Sequence[int] | None = None) -> Evaluation:
    """Scores of a finished run's mosaics against truth labels.

    Args:
        run_out: output folder of the run.
        truth: labels 0..4 (255 or the file's no-data value: not known) as GeoTIFF: one file for all
            zones, a folder with one ``<epsg>.tif`` a zone, or paths by EPSG code. A raster off the lattice
            is resampled to the nearest pixel.
        years: which years; None takes all.

    A pixel counts in the UTM zone that its centre lies in, and so once, although mosaics reach over their
    zone's border. At most 1024 rows of a zone are in memory.

    Raises:
        SourceError: if there is no mosaic, or no truth for one of its zones.
    """
    scores = Scores(np.zeros((len(CLASS_NAMES),) * 2, np.int64))
    reliability, parts = Reliability.none(), {}
    for year, epsg, path in _groups(run_out, years):
        with xr.open_zarr(path, consolidated=False, mask_and_scale=False, chunks=None) as mosaic:
            part, reliable = _evaluate_zone(mosaic, epsg, _truth_of(truth, epsg))
        parts[f"{year}/{epsg}"] = part
        scores, reliability = scores + part, reliability + reliable
    return Evaluation(scores, reliability, parts)


def _groups(run_out: Path, years: Sequence[int] | None) -> Iterator[tuple[int, int, Path]]:
    found = [
        (int(path.parent.name), int(path.name), path)
        for path in sorted((run_out / "mosaic.zarr").glob("*/*"))
        if path.parent.name.isdigit() and path.name.isdigit()
    ]
    wanted = [group for group in found if years is None or group[0] in years]
    if not wanted:
        have = ", ".join(sorted({str(year) for year, _, _ in found})) or "none"
        raise SourceError(
            f"run {run_out} with mosaics of the years {have}",
            f"mosaics of {'any year' if years is None else ', '.join(map(str, years))}",
            "give the output folder of a finished run",
        )
    return iter(wanted)


def _truth_of(truth: Truth, epsg: int) -> Path:
    if isinstance(truth, Mapping):
        path = truth.get(epsg)
    else:
        path = truth / f"{epsg}.tif" if truth.is_dir() else truth
    if path is None or not path.is_file():
        raise SourceError(f"truth {path or truth}", f"a raster of labels for EPSG:{epsg}", "check the path")
    return path


def _evaluate_zone(mosaic: xr.Dataset, epsg: int, truth_path: Path) -> tuple[Scores, Reliability]:
    whole = window_of(mosaic, epsg)
    confusion = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    reliability = Reliability.none()
    with open_truth(truth_path, whole) as read:
        for start in range(0, whole.height, _ROWS_AT_ONCE):
            height = min(_ROWS_AT_ONCE, whole.height - start)
            window = Window(epsg, whole.row + start, whole.col, height, whole.width)
            rows = slice(start, start + height)
            labels = mosaic["label"][rows].values
            truth = np.where(in_zone(window), read(window), np.uint8(NO_DATA))
            confusion += confusion_matrix(truth, labels, len(CLASS_NAMES))
            if "probability" in mosaic:
                stored = mosaic["probability"][:, rows].values.max(axis=0)
                reliability += Reliability.of(
                    truth, labels, stored / PROBABILITY_SCALE, len(reliability.count)
                )
    return Scores(confusion), reliability


Predict = Callable[..., NDArray[np.float32]]


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
    for index, (x, y) in zip(indices, patches.batches(indices, 1), strict=True):
        where = [code_of(patches, int(index))[np.newaxis]] if located else []
        labels = predict(drop_modalities(x, patches.channels, absent), *where).argmax(axis=1)
        confusion += confusion_matrix(y, labels, len(CLASS_NAMES))
    return Scores(confusion)
