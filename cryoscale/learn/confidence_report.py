"""Error prediction on disk: figures, and a picture of the risk-coverage curve of every sign of doubt."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryoscale.write.store import put

if TYPE_CHECKING:
    from cryoscale.learn.confidence import ErrorPrediction
    from cryoscale.learn.ranking import Ranking

_INK = "#15191f"
_STYLES = {
    "softmax": ("#2b6f9e", "-"),
    "entropy": ("#3f9c6b", "-"),
    "layer": ("#8a63b0", ":"),
    "tile agreement": ("#b35c00", "-"),
    "softmax x agreement": ("#2b6f9e", "--"),
    "entropy x agreement": ("#3f9c6b", "--"),
    "softmax + agreement, learnt": ("#c2185b", "-."),
    "entropy + agreement, learnt": ("#c79a00", "-."),
}


def save(found: ErrorPrediction, folder: Path) -> None:
    """Writes ``confidence.json`` and ``confidence.png`` (risk-coverage curves) into a folder."""
    text = json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n"
    put(folder / "confidence.json", text.encode())
    put(folder / "confidence.png", chart(found))


def chart(found: ErrorPrediction) -> bytes:
    """A PNG: share of errors among the surest pixels against the share kept, and the excess AURC as bars."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    rankings = found.rankings()
    pixels, errors = rankings["softmax"].total
    figure.suptitle(f"What finds the errors of the map: {pixels:,} pixels, {errors:,} wrong", color=_INK)
    _curves(left, rankings)
    excess = [100 * (ranking.aurc - ranking.best) for ranking in rankings.values()]
    right.barh(list(rankings), excess, color=[_STYLES[name][0] for name in rankings])
    for row, value in enumerate(excess):
        right.text(value, row, f" {value:.3f}", va="center", fontsize=8, color=_INK)
    right.invert_yaxis()
    right.set_xlim(0, 1.15 * max(excess) or 1)
    right.set_xlabel("excess AURC, percentage points (smaller is better)", fontsize=8)
    for ax in (left, right):
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _curves(ax: Axes, rankings: Mapping[str, Ranking]) -> None:
    """Risk-coverage curves, from where the softmax's surest pixels first err noticeably."""
    pixels, errors = rankings["softmax"].total
    coverage, risk = rankings["softmax"].curve()
    noticed = coverage[risk > errors / pixels / 100]
    for name, ranking in rankings.items():
        coverage, risk = ranking.curve()
        colour, style = _STYLES[name]
        # Pixels of equal confidence come in no order: their share of errors is that of the group.
        x, y = np.concatenate([[0], coverage]), np.concatenate([risk[:1], risk])
        ax.plot(100 * x, 100 * y, style, color=colour, linewidth=1.5, label=name)
    kept = np.linspace(1 / 500, 1, 500)
    perfect = np.maximum(kept - (1 - errors / pixels), 0) / kept
    ax.plot(100 * kept, 100 * perfect, color=_INK, linewidth=1, label="perfect order")
    ax.axhline(100 * errors / pixels, color="#9aa3ad", linewidth=0.8, label="no order at all")
    ax.set_xlim(90 * float(noticed[0]) if len(noticed) else 0, 100)
    ax.set_ylim(0, 105 * errors / pixels if errors else 1)
    ax.set_xlabel("pixels kept, the surest first, %", fontsize=8)
    ax.set_ylabel("errors among them, %", fontsize=8)
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, 0.95), labelspacing=0.3)
