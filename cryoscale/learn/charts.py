"""An evaluation as pictures (PNG): each function makes one, and gives its bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M
from cryoscale.learn.boundary import BoundaryDistance
from cryoscale.learn.errormap import ADDED, BOTH, MISSED, MIXED, NEITHER, UNKNOWN, ErrorMap
from cryoscale.learn.reliability import Reliability
from cryoscale.learn.scores import Scores
from cryoscale.learn.strata import DEBRIS, STRATA, Stratum, ice_recall

INK, GREY, BLUE, BROWN, GREEN, RED = "#15191f", "#8a929c", "#2b7bba", "#8c5a1e", "#5b9a68", "#c8442c"
"""Blue stands for clean ice, brown for debris; they keep apart without colour, by lightness."""

CLEAN = 1
_SHORT = {"debris_covered_ice": "debris-\ncovered ice", "clean_ice": "clean ice"}
_DISTANCES_M = np.array([0.0, 1e-6, 10, 20, 30, 50, 100, 200, 500, 1000, 2000])
_ERRORS = {
    BOTH: ("Ice, as true", "#9fc6e0"),
    MIXED: ("Ice, of the other kind", "#b08d57"),
    MISSED: ("Ice that was missed", "#1f2f8f"),
    ADDED: ("Mapped, and is no ice", "#d1351b"),
}


def _sheet(width_in: float, height_in: float, title: str, caption: str) -> Figure:
    figure = Figure(figsize=(width_in, height_in), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, fontweight="bold", color=INK, x=0.01, ha="left")
    if caption:
        figure.supxlabel(caption, fontsize=7.5, color=GREY, x=0.01, ha="left")
    return figure


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e7ea", linewidth=0.8)


def confusion(scores: Scores, caption: str = "") -> bytes:
    """Confusion matrix: colour is the share of the true class, with area and share written in."""
    figure = _sheet(6.6, 5.6, "Confusion matrix", caption)
    axes = figure.add_subplot()
    names = [_SHORT.get(name, name) for name in scores.classes]
    share = scores.confusion / np.maximum(scores.support, 1)[:, np.newaxis]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, col), value in np.ndenumerate(share):
        km2 = scores.confusion[row, col] * (RESOLUTION_M / 1000) ** 2
        text = f"{100 * value:.1f} %\n{km2:,.{2 if km2 >= 0.1 else 4}f} km²" if scores.support[row] else "-"
        axes.text(
            col, row, text, ha="center", va="center", fontsize=8, color="white" if value > 0.55 else INK
        )
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("mapped", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    return _png(figure)


def reliability(shown: Mapping[str, Reliability], caption: str = "") -> bytes:
    """Reliability diagram of several probabilities by name, over how many pixels state each."""
    figure = _sheet(5.6, 6.2, "Reliability", caption)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    axes.annotate(
        "what it should be", (0.52, 0.55), rotation=45, fontsize=7.5, color=GREY, rotation_mode="anchor"
    )
    colours = [GREY, BLUE, BROWN] if len(shown) > 2 else [BLUE, BROWN]
    for (name, found), colour in zip(shown.items(), colours, strict=False):
        some = found.count > 0
        p = found.probability_sum[some] / found.count[some]
        accuracy = found.correct[some] / found.count[some]
        label = f"{name}: ECE {100 * found.ece:.2f} %"
        axes.plot(p, accuracy, "o-", color=colour, markersize=4, linewidth=1.4, label=label)
        below.plot(p, 100 * found.count[some] / found.count.sum(), "o-", color=colour, markersize=3)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_ylabel("share that is right", fontsize=9)
    below.set_xlabel("probability of the mapped class", fontsize=9)
    below.set_ylabel("% of pixels", fontsize=9)
    below.set(yscale="log", ylim=(1e-3, 150))
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    for each in (axes, below):
        _plain(each)
    return _png(figure)


def boundary(found: Mapping[str, BoundaryDistance], caption: str = "") -> bytes:
    """Histogram of boundary distances, both ways, a panel a kind of boundary."""
    figure = _sheet(9.0, 3.8, "Distance between mapped and true boundaries", caption)
    titles = {"glacier": "glacier outline", "debris": "clean ice / debris"}
    labels = ["0", *(f"to {m:g}" for m in _DISTANCES_M[2:]), "beyond"]
    at = np.arange(len(labels))
    for axes, (kind, distance) in zip(
        np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True
    ):
        ways = (
            ("mapped to true", distance.mapped_to_true, RED),
            ("true to mapped", distance.true_to_mapped, BLUE),
        )
        for shift, (name, one, colour) in zip((-0.2, 0.2), ways, strict=True):
            shares = np.append(one.histogram(_DISTANCES_M), one.beyond / max(one.edges, 1))
            median = one.quantile_m(0.5)
            label = f"{name}: median {median:.0f} m" if np.isfinite(median) else name
            axes.bar(at + shift, 100 * shares, 0.4, color=colour, label=label)
        axes.set_xticks(at, labels, fontsize=7, rotation=45)
        axes.set_xlabel("metres", fontsize=8)
        axes.set_ylabel("% of the boundary", fontsize=8)
        axes.set_title(titles.get(kind, kind), fontsize=9, loc="left")
        axes.legend(fontsize=7.5, frameon=False)
        _plain(axes)
    return _png(figure)


def areas(rows: list[dict[str, Any]], caption: str = "") -> bytes:
    """Mapped against true area, and bias by size, a point a glacier."""
    figure = _sheet(9.0, 4.2, f"Area of {len(rows)} glaciers", caption)
    left, right = figure.subplots(1, 2)
    true = np.array([row["true_km2"] for row in rows])
    mapped = np.array([row["mapped_km2"] for row in rows])
    bias = np.array([row["bias_pct"] for row in rows])
    low, high = (
        0.7 * min(true.min(), mapped[mapped > 0].min(initial=np.inf)),
        1.4 * max(true.max(), mapped.max()),
    )
    left.plot([low, high], [low, high], color=GREY, linewidth=0.8, linestyle="--")
    # a glacier that was missed altogether has no place on a logarithmic axis, and is put on its rim
    dots: dict[str, Any] = {"s": 22, "edgecolor": "white", "linewidth": 0.4, "clip_on": False, "zorder": 3}
    left.scatter(true, np.maximum(mapped, low), color=BLUE, **dots)
    left.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    left.set_xlabel("true area, km²", fontsize=9)
    left.set_ylabel("mapped area, km²", fontsize=9)
    right.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
    top = 1.15 * max(10.0, float(np.percentile(np.abs(bias), 98)))
    right.scatter(true, np.clip(bias, -top, top), color=BROWN, **dots)
    right.set(xscale="log", ylim=(-1.05 * top, 1.05 * top))
    right.set_xlabel("true area, km²", fontsize=9)
    right.set_ylabel("bias of the mapped area, %", fontsize=9)
    for axes in (left, right):
        _plain(axes)
    return _png(figure)


def strata(found: Mapping[str, Mapping[str, Scores]], caption: str = "") -> bytes:
    """Bars by class of each stratum, a panel a stratum; how much ground each class has is written below."""
    shown = [stratum for stratum in STRATA if stratum.name in found]
    figure = _sheet(1.0 + 4.6 * len(shown), 4.0, "By what the ground is like", caption)
    for axes, stratum in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        classes = found[stratum.name]
        _bars(axes, _series(stratum, list(classes.values())), _with_area(classes))
        axes.set_title(stratum.title + (f", {stratum.unit}" if stratum.unit else ""), fontsize=9, loc="left")
    return _png(figure)


def _series(stratum: Stratum, classes: list[Scores]) -> dict[str, tuple[str, list[float]]]:
    ice = [float(r) if (r := ice_recall(s)) is not None else float("nan") for s in classes]
    if stratum.only is not None:
        found = [float(s.recall[stratum.only]) for s in classes]
        return {"debris found as debris": (BROWN, found), "found as ice of either kind": (BLUE, ice)}
    return {
        "accuracy": (GREY, [s.accuracy for s in classes]),
        "IoU clean ice": (BLUE, [float(s.iou[CLEAN]) for s in classes]),
        "IoU debris": (BROWN, [float(s.iou[DEBRIS]) for s in classes]),
    }


def _with_area(classes: Mapping[str, Scores]) -> list[str]:
    pixel_km2 = (RESOLUTION_M / 1000) ** 2
    return [f"{label}\n{scores.pixels * pixel_km2:,.2f} km²" for label, scores in classes.items()]


def without(rows: Mapping[str, Scores], caption: str = "") -> bytes:
    """Bars with each modality left out and the map predicted again."""
    figure = _sheet(1.6 + 1.35 * len(rows), 4.0, "A modality missing", caption)
    names = {"all-but-optical": "only\noptical"}
    labels = [n if n == "as mapped" else names.get(n, f"without\n{n}") for n in rows]
    series = {
        "mean IoU": (GREY, [s.mean_iou for s in rows.values()]),
        "IoU clean ice": (BLUE, [float(s.iou[CLEAN]) for s in rows.values()]),
        "IoU debris": (BROWN, [float(s.iou[DEBRIS]) for s in rows.values()]),
    }
    _bars(figure.add_subplot(), series, labels)
    return _png(figure)


def _bars(axes: Axes, series: Mapping[str, tuple[str, list[float]]], labels: list[str]) -> None:
    width = 0.82 / len(series)
    for number, (name, (colour, shares)) in enumerate(series.items()):
        x = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * width
        height = 100 * np.nan_to_num(np.array(shares))
        axes.bar(x, height, width * 0.94, color=colour, label=name)
        for at, share in zip(x, shares, strict=True):
            text = "-" if np.isnan(share) else f"{100 * share:.0f}"
            axes.text(at, 100 * np.nan_to_num(share) + 1, text, ha="center", fontsize=6.5, color=INK)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("%", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", ncols=len(series))
    _plain(axes)


def errors(found: ErrorMap, relief: NDArray[np.float32] | None, title: str, caption: str = "") -> bytes:
    """Map of what was right, missed and added, over relief (y, x, 0-1 on the codes' pixels) where given."""
    cut = found.known() or (slice(None), slice(None))
    codes = found.codes[cut]
    height, width = codes.shape
    figure = _sheet(9.0, min(12.0, 1.0 + 9.0 * height / width), title, caption)
    axes = figure.add_subplot()
    west, _, _, north = found.whole.bounds_m
    pixel_km = found.step * RESOLUTION_M / 1000
    top, left = (
        north / 1000 - cut[0].indices(10**9)[0] * pixel_km,
        west / 1000 + cut[1].indices(10**9)[0] * pixel_km,
    )
    extent = (left, left + width * pixel_km, top - height * pixel_km, top)
    options: dict[str, Any] = {"extent": extent, "interpolation": "none"}
    ground = np.where(codes == UNKNOWN, np.nan, 0.9 if relief is None else 0.35 + 0.6 * relief[cut])
    axes.imshow(ground, cmap="gray", vmin=0, vmax=1, **options)
    values = list(_ERRORS)
    layer = np.full(codes.shape, np.nan)
    for number, code in enumerate(values):
        layer[codes == code] = number
    colours = ListedColormap([colour for _, colour in _ERRORS.values()])
    axes.imshow(layer, cmap=colours, vmin=-0.5, vmax=len(values) - 0.5, alpha=0.88, **options)
    axes.set_xlabel(f"easting, km (EPSG:{found.whole.epsg})", fontsize=8)
    axes.set_ylabel("northing, km", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.ticklabel_format(useOffset=False)
    counted = {code: float((codes == code).mean()) for code in values}
    compared = float((codes != UNKNOWN).mean()) or 1.0
    handles = [
        Patch(facecolor=colour, label=f"{name}: {100 * counted[code] / compared:.1f} %")
        for code, (name, colour) in _ERRORS.items()
    ]
    rest = 100 * float((codes == NEITHER).mean()) / compared
    handles.append(Patch(facecolor="#aaaaaa", label=f"No ice, as true: {rest:.1f} %"))
    handles.append(Patch(facecolor="white", edgecolor=GREY, linewidth=0.6, label="Not compared"))
    axes.legend(
        handles=handles, fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3
    )
    return _png(figure)
