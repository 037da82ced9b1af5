"""How a training goes, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoscale.learn.checkpoint import replacing
from cryoscale.learn.scores import CLASS_NAMES

COLOURS = ("#8c8c8c", "#3b8fd6", "#8a5a2b", "#1b2f8f", "#3a8f3a")
"""Of the classes, as in the maps: grey, ice blue, brown, deep blue, green."""

Rows = Sequence[dict[str, Any]]


def save_curves(rows: Rows, path: Path) -> None:
    """Writes one row of figures an epoch as JSON; what has no value (NaN) is null.

    Raises:
        TrainingError: if it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(_plain(list(rows)), indent=1, allow_nan=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def draw_curves(rows: Rows, path: Path, *, title: str, best_epoch: int) -> None:
    """Draws loss, mean IoU, IoU of each class and learning rate over the epochs as a PNG.

    Raises:
        TrainingError: if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, mean), (classes, rate) = figure.subplots(2, 2, sharex=True)
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 40 else None

    def line(axes: Any, values: Sequence[float | None], label: str, colour: str) -> None:
        known = np.array([np.nan if value is None else value for value in values], float)
        axes.plot(epochs, known, label=label, color=colour, marker=marker, markersize=3, linewidth=1.4)

    line(loss, [row["loss"] for row in rows], "training (changed crops)", "#444444")
    line(loss, [row["validation_loss"] for row in rows], "validation", "#d1495b")
    line(mean, [row["validation_mean_iou"] for row in rows], "mean IoU", "#444444")
    line(mean, [row["validation_accuracy"] for row in rows], "overall accuracy", "#d1495b")
    for name, colour in zip(CLASS_NAMES, COLOURS, strict=True):
        line(classes, [row["validation_iou"].get(name) for row in rows], name.replace("_", " "), colour)
    line(rate, [row["learning_rate"] or None for row in rows], "at the epoch's last step", "#444444")
    for axes, name in (
        (loss, "loss"),
        (mean, "validation"),
        (classes, "validation IoU"),
        (rate, "learning rate"),
    ):
        axes.axvline(best_epoch, color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    for axes in (mean, classes):
        axes.set_ylim(0, 1)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", scilimits=(-3, 3))
    for axes in (classes, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(
        f"{title}: after epoch {epochs[-1]}, the best so far is {best_epoch} (dashed)", fontsize=11
    )
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)
