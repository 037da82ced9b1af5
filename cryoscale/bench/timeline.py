"""A run as a picture: a lane for each stage, a bar for each block that was in it, and how full it was."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cryoscale.ledger import Marker

STAGES = {"read": "#2b7bba", "features": "#5b9a68", "predict": "#c8442c", "write": "#8c5a1e"}
_INK, _GREY = "#15191f", "#8a929c"


@dataclass(frozen=True)
class Span:
    """One block in one stage: from when to when, seconds since the run's first block began."""

    stage: str
    begin_s: float
    end_s: float


def spans(markers: Sequence[Marker]) -> list[Span]:
    """Of every block and stage, in the order in which they began; without blocks that do not say when."""
    known = [marker for marker in markers if marker.starts]
    if not known:
        return []
    zero = min(min(marker.starts.values()) for marker in known)
    found = [
        Span(stage, start - zero, start - zero + marker.seconds.get(stage, 0.0))
        for marker in known
        for stage, start in marker.starts.items()
        if stage in STAGES
    ]
    return sorted(found, key=lambda span: span.begin_s)


def lanes(of_stage: Sequence[Span]) -> list[int]:
    """For each span the first row of its lane that is free when it begins."""
    free: list[float] = []
    rows = []
    for span in of_stage:
        row = next((row for row, until in enumerate(free) if until <= span.begin_s + 1e-3), len(free))
        if row == len(free):
            free.append(0.0)
        free[row] = span.end_s
        rows.append(row)
    return rows


def draw(markers: Sequence[Marker], *, title: str, caption: str) -> bytes:
    """The picture as PNG.

    Raises:
        ValueError: no block says when its stages began.
    """
    found = spans(markers)
    if not found:
        raise ValueError("no block of this run says when its stages began")
    end = max(span.end_s for span in found)
    by_stage = {stage: [span for span in found if span.stage == stage] for stage in STAGES}
    rows = {stage: lanes(own) for stage, own in by_stage.items()}
    heights = [max(rows[stage], default=0) + 1 for stage in STAGES]
    figure = Figure(
        figsize=(11, 1.6 + 0.24 * sum(heights) + 0.35 * len(STAGES)), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, fontweight="bold", color=_INK, x=0.01, ha="left")
    figure.supxlabel(caption, fontsize=7.5, color=_GREY, x=0.01, ha="left")
    panels = figure.subplots(len(STAGES), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (stage, colour) in zip(panels, STAGES.items(), strict=True):
        own = by_stage[stage]
        begins = np.array([span.begin_s for span in own])
        lasts = np.array([span.end_s for span in own]) - begins
        axes.barh(
            rows[stage], lasts, left=begins, height=0.82, color=colour, edgecolor="white", linewidth=0.4
        )
        share = float(lasts.sum()) / end
        axes.set_title(
            f"{stage}: {share:.2f} blocks at once on average, {lasts.mean() if own else 0:.2f} s a block",
            fontsize=8.5,
            loc="left",
            color=_INK,
        )
        axes.set_yticks([])
        axes.set_ylim(max(rows[stage], default=0) + 0.6, -0.6)
        axes.set_xlim(0, end)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=8)
    panels[-1].set_xlabel("seconds since the first block began", fontsize=8.5)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()
