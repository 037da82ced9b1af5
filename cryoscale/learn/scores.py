"""Scores of a map against truth: a confusion matrix streamed over blocks, and what follows from it.

Everything is counted in int64 over pixels where both truth and map have a class (255, no data, is
left out on either side), so that scores of blocks add up to the scores of the whole, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLASS_NAMES: tuple[str, ...] = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
NO_DATA = 255

_ROWS_AT_ONCE = 2048


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts (truth class, predicted class) of two label arrays of one shape; 255 is left out.

    Raises:
        ValueError: if the shapes differ, or a label is neither a class nor 255.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, the map {predicted.shape}: they must be equal")
    valid = (truth != NO_DATA) & (predicted != NO_DATA)
    t, p = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
    if t.size and (min(t.min(), p.min()) < 0 or max(t.max(), p.max()) >= classes):
        raise ValueError(f"labels must be 0..{classes - 1} or {NO_DATA}")
    counts: NDArray[np.int64] = np.bincount(t * classes + p, minlength=classes * classes).astype(np.int64)
    return counts.reshape(classes, classes)


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    """Quotient, NaN where the denominator is 0: a class nobody saw has no score, not a bad one."""
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True, eq=False)
class Scores:
    """IoU, precision, recall and accuracy of a map, all from one confusion matrix (truth, predicted).

    A class that occurs neither in truth nor in the map has NaN. Where a class occurs on one side only,
    the ratio with an empty denominator (recall of a class that truth lacks, precision of a class that the
    map lacks) is NaN too and its IoU is 0. Means are over the classes that truth has: of one that it lacks,
    a single pixel in the map would be a member more with IoU 0, and cost a fifth of the mean.
    """

    confusion: NDArray[np.int64]
    classes: tuple[str, ...] = CLASS_NAMES

    def __post_init__(self) -> None:
        k = len(self.classes)
        if self.confusion.shape != (k, k):
            raise ValueError(f"confusion matrix {self.confusion.shape} does not fit {k} classes")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return self.classes == other.classes and np.array_equal(self.confusion, other.confusion)

    def __add__(self, other: Scores) -> Scores:
        """The scores of both areas together."""
        if self.classes != other.classes:
            raise ValueError(f"cannot add scores of {self.classes} and {other.classes}")
        return Scores(self.confusion + other.confusion, self.classes)

    @property
    def pixels(self) -> int:
        """Pixels that were compared."""
        return int(self.confusion.sum())

    @property
    def support(self) -> NDArray[np.int64]:
        """Pixels of truth per class (k,)."""
        support: NDArray[np.int64] = self.confusion.sum(axis=1)
        return support

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class (k,)."""
        hit = np.diagonal(self.confusion)
        return _ratio(hit, self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - hit)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the pixels mapped as a class that truly are it (k,)."""
        return _ratio(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of a class's true pixels that were mapped as it (k,)."""
        return _ratio(np.diagonal(self.confusion), self.confusion.sum(axis=1))

    @property
    def true_classes(self) -> tuple[str, ...]:
        """Names of the classes that truth has, which means are over."""
        return tuple(name for name, n in zip(self.classes, self.support, strict=True) if n)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that truth has."""
        return _mean(self.iou[self.support > 0])

    @property
    def mean_precision(self) -> float:
        """Mean precision over the classes that truth has, without those that the map lacks."""
        return _mean(self.precision[self.support > 0])

    @property
    def mean_recall(self) -> float:
        """Mean recall over the classes that truth has."""
        return _mean(self.recall)

    @property
    def accuracy(self) -> float:
        """Share of all compared pixels that have the right class."""
        return float(np.trace(self.confusion) / self.pixels) if self.pixels else float("nan")

    def rows(self) -> list[dict[str, Any]]:
        """One table row per class, then one of means: class, iou, precision, recall, pixels."""
        columns = (self.classes, self.iou, self.precision, self.recall, self.support)
        rows: list[dict[str, Any]] = [
            {"class": name, "iou": float(i), "precision": float(p), "recall": float(r), "pixels": int(n)}
            for name, i, p, r, n in zip(*columns, strict=True)
        ]
        mean = {"iou": self.mean_iou, "precision": self.mean_precision, "recall": self.mean_recall}
        return [*rows, {"class": "mean", **mean, "pixels": self.pixels}]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a score that does not exist is None."""
        *per_class, mean = [
            {key: None if isinstance(v, float) and np.isnan(v) else v for key, v in row.items()}
            for row in self.rows()
        ]
        return {
            "classes": list(self.classes),
            "pixels": self.pixels,
            "accuracy": self.accuracy if self.pixels else None,
            "mean": {key: mean[key] for key in ("iou", "precision", "recall")},
            "per_class": {row.pop("class"): row for row in per_class},
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scores:
        """The scores that :meth:`to_dict` wrote (only classes and confusion are read)."""
        return cls(np.asarray(values["confusion"], np.int64), tuple(values["classes"]))

    @classmethod
    def from_confusion(cls, confusion: ArrayLike, classes: Sequence[str] = CLASS_NAMES) -> Scores:
        """Scores of a confusion matrix (truth, predicted) of pixel counts."""
        return cls(np.asarray(confusion, np.int64), tuple(classes))

    def __str__(self) -> str:
        lines = [f"{'class':<20}{'IoU':>8}{'precision':>11}{'recall':>8}{'pixels':>13}"]
        for row in self.rows():
            figures = f"{_percent(row['iou'], 8)}{_percent(row['precision'], 11)}{_percent(row['recall'], 8)}"
            lines.append(f"{row['class']:<20}{figures}{row['pixels']:>13,}")
        lines.append(f"{'accuracy':<20}{_percent(self.accuracy, 8)}")
        if 0 < len(self.true_classes) < len(self.classes):
            lines.append(f"the mean is of {', '.join(self.true_classes)}: truth has no other class")
        return "\n".join(lines)


def _percent(value: float, width: int) -> str:
    return f"{'-':>{width}}" if np.isnan(value) else f"{100 * value:>{width}.2f}"


def score_arrays(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]], classes: Sequence[str] = CLASS_NAMES
) -> Scores:
    """Scores streamed over (truth, predicted) label arrays, one pair in memory at a time."""
    total = np.zeros((len(classes), len(classes)), np.int64)
    for truth, predicted in pairs:
        total += confusion_matrix(truth, predicted, len(classes))
    return Scores(total, tuple(classes))


def score_mosaic(labels: Any, truth: Any, classes: Sequence[str] = CLASS_NAMES) -> Scores:
    """Scores of a map's labels (y, x) against truth labels (y, x), row band by row band.

    Args:
        labels: a mosaic dataset with a ``label`` variable, or a label array.
        truth: label array of the same shape; 255 = not known, left out.
        classes: class names, in label order.

    Both may be lazy (dask or Zarr): at most 2048 rows of each are in memory.
    """
    mapped = labels["label"] if hasattr(labels, "data_vars") else labels
    if mapped.shape != truth.shape:
        raise ValueError(f"truth has shape {truth.shape}, the map {mapped.shape}: they must be equal")

    def bands() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for start in range(0, mapped.shape[0], _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            yield np.asarray(truth[rows]), np.asarray(mapped[rows])

    return score_arrays(bands(), classes)
