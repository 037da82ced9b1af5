"""The picture of error prediction: risk-coverage curves of every sign of doubt."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from cryoscale.learn.confidence import ErrorPrediction

_INK = "#15191f"
_STYLES = {
    "softmax": ("#2b6f9e", "-"),
    "entropy": ("#3f9c6b", "-"),
    "layer": ("#8a63b0", ":"),
    "tile agreement": ("#b35c00", "-"),
    "softmax x agreement": ("#2b6f9e", "--"),
    "entropy x agreement": ("#3f9c6b", "--"),
    "softmax + agreement, learnt": ("#c2185b", "-."),
}


def chart(found: ErrorPrediction) -> bytes:
    """A PNG: share of errors among the surest pixels, against the share of pixels kept."""
    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    ax = figure.subplots()
    rankings = found.rankings()
    pixels, errors = rankings["softmax"].total
    for name, (colour, style) in _STYLES.items():
        if name in rankings:
            coverage, risk = rankings[name].curve()
            label = f"{name}: AURC {100 * rankings[name].aurc:.3f} %"
            ax.plot(100 * coverage, 100 * risk, style, color=colour, linewidth=1.5, label=label)
    kept = np.linspace(1 / 200, 1, 200)
    perfect = np.maximum(kept - (1 - errors / pixels), 0) / kept
    best = f"perfect order: AURC {100 * rankings['softmax'].best:.3f} %"
    ax.plot(100 * kept, 100 * perfect, color=_INK, linewidth=1, label=best)
    ax.axhline(100 * errors / pixels, color="#9aa3ad", linewidth=0.8, label="no order at all")
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 115 * errors / pixels if errors else 1)
    ax.set_xlabel("pixels kept, the surest first, %")
    ax.set_ylabel("errors among them, %")
    ax.set_title(
        f"What finds the errors of the map ({pixels:,} pixels, {errors:,} wrong)", loc="left", color=_INK
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
