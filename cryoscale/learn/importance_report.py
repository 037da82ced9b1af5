"""Channel importance on disk: figures, and a picture of the leading channels and of groups of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryoscale.write.store import put

if TYPE_CHECKING:
    from cryoscale.learn.importance import Drop, Importance

LEADING = 15
"""Channels that a panel shows."""

_IOU, _ACCURACY, _INK = "#2b6f9e", "#b35c00", "#15191f"
_PARTS = {
    "overall": ("Overall", "mean IoU", "accuracy"),
    "clean ice": ("Clean ice", "IoU", "recall"),
    "debris-covered ice": ("Debris-covered ice", "IoU", "recall"),
}


def save(found: Importance, folder: Path) -> None:
    """Writes ``importance.json`` and ``importance.png`` into a folder."""
    text = json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n"
    put(folder / "importance.json", text.encode())
    put(folder / "importance.png", chart(found))


def chart(found: Importance) -> bytes:
    """A PNG of six panels: the 15 leading channels of each part, and below them the groups."""
    figure = Figure(figsize=(15, 8.6), layout="constrained")
    above, below = figure.subplots(2, 3, height_ratios=(3, 2))
    for column, (part, (title, iou, accuracy)) in enumerate(_PARTS.items()):
        stated = found.baseline[part]
        note = f"{iou} {stated[0]:.3f}, {accuracy} {stated[1]:.3f}" if np.isfinite(stated[0]) else "absent"
        _bars(above[column], found.leading(part, LEADING), f"{title}  ({note})", iou, accuracy)
        groups = found.leading(part, among=found.groups)
        _bars(below[column], groups, f"{title}, groups permuted jointly", iou, accuracy)
    unit = "planes between patches" if found.settings["by"] == "planes" else "single pixels between patches"
    figure.suptitle(
        f"Drop of scores when a channel is permuted: {unit}, {found.settings['patches']} patches, "
        f"{found.settings['repeats']} repeats",
        color=_INK,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _bars(ax: Axes, rows: Sequence[tuple[str, Drop]], title: str, iou: str, accuracy: str) -> None:
    """Horizontal bars, largest on top, with the standard deviation over the repeats as whiskers."""
    ax.set_title(title, loc="left", fontsize=10, color=_INK)
    if not rows or not np.isfinite(_mean(rows[0][1].iou)):
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no such pixels in these patches", ha="center", transform=ax.transAxes, color=_INK)
        return
    y = np.arange(len(rows))
    for values, offset, colour, name in (
        ([drop.iou for _, drop in rows], -0.2, _IOU, iou),
        ([drop.accuracy for _, drop in rows], 0.2, _ACCURACY, accuracy),
    ):
        spread = [np.std(one, ddof=1) if len(one) > 1 else 0.0 for one in values]
        ax.barh(y + offset, [100 * _mean(one) for one in values], 0.38, color=colour, label=f"drop of {name}")
        ax.errorbar(
            [100 * _mean(one) for one in values],
            y + offset,
            xerr=[100 * float(one) for one in spread],
            fmt="none",
            ecolor=_INK,
            elinewidth=0.8,
        )
    ax.set_yticks(y, [name.replace("_", " ") for name, _ in rows], fontsize=8)
    ax.invert_yaxis()
    ax.axvline(0, color=_INK, linewidth=0.8)
    ax.set_xlabel("percentage points", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    # below the axes, as bars of negative drops may reach any place within
    ax.legend(
        fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
