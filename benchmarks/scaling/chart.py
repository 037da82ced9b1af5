"""The simulated runs as a picture: throughput by GPUs, and how busy a GPU is by its workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter, PercentFormatter, ScalarFormatter

_INK, _GREY, _PALE = "#15191f", "#6b7480", "#c9ced4"
_COLOURS = ("#c8442c", "#2b7bba")
_SMALL = 8

Case = Mapping[str, Any]


def chart(results: Mapping[str, Any], path: Path) -> None:
    """Draw the cases of the benchmark: a column for each speed, a colour for each form."""
    cases: Sequence[Case] = results["cases"]
    speeds = sorted({case["tiles_s"] for case in cases})
    figure = Figure(figsize=(13, 8.2), dpi=130)
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(speeds), sharey="row", squeeze=False)
    figure.subplots_adjust(left=0.065, right=0.985, top=0.845, bottom=0.105, hspace=0.42, wspace=0.08)
    for column, tiles_s in enumerate(speeds):
        own = [case for case in cases if case["tiles_s"] == tiles_s]
        _throughput(grid[0, column], own, results)
        _busy(grid[1, column], own)
        grid[0, column].set_title(
            f"a GPU of {tiles_s:,} tiles/s (assumed)", loc="left", fontsize=10, fontweight="bold", color=_INK
        )
    grid[0, 0].set_ylabel("blocks a second", fontsize=9)
    grid[1, 0].set_ylabel("GPU predicting, share of time", fontsize=9)
    _head(figure, cases, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")


def _head(figure: Figure, cases: Sequence[Case], results: Mapping[str, Any]) -> None:
    figure.text(
        0.065,
        0.965,
        f"Where a run of {results['blocks']:,} blocks stops scaling",
        fontsize=14,
        fontweight="bold",
        color=_INK,
    )
    forms = list(dict.fromkeys(case["form"] for case in cases))
    for number, (form, colour) in enumerate(zip(forms, _COLOURS, strict=True)):
        x = 0.065 + 0.36 * number
        figure.text(x, 0.925, f"\u25cf a block travels as {form}", fontsize=9.5, color=colour, va="center")
    hours = results["finish_s_a_block"] * results["blocks"] / 3600
    checks = " and ".join(f"{row['error_pct']:+.0f} %" for row in results["validation"])
    figure.text(
        0.065,
        0.022,
        "Simulated from stage times measured on one machine; speeds of GPUs and the cluster are assumed, not "
        f"measured. With 1 and 2 workers the simulator was off by {checks}.\nNot in it: what follows the "
        f"last block: by benchmarks.memory up to {hours:,.2g} h of one process for as many, full of ice.",
        fontsize=_SMALL,
        color=_GREY,
        linespacing=1.5,
    )


def _throughput(axes: Axes, cases: Sequence[Case], results: Mapping[str, Any]) -> None:
    gpus = [row["gpus"] for row in cases[0]["by_gpus"]]
    per_gpu = 1 / cases[0]["job"]["predict_s"]
    axes.plot(gpus, [n * per_gpu for n in gpus], color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    for name, limit in results["limits_blocks_s"].items():
        axes.axhline(limit, color=_PALE, linewidth=1, zorder=0)
        axes.text(
            gpus[0],
            limit * 1.06,
            f"{name} {limit:.3g}/s",
            fontsize=_SMALL,
            color=_GREY,
            va="bottom",
            clip_on=True,
        )
    for number, (case, colour) in enumerate(zip(cases, _COLOURS, strict=True)):
        rows = case["by_gpus"]
        axes.plot(gpus, [row["blocks_s"] for row in rows], "o-", color=colour, markersize=3.5, linewidth=1.8)
        _mark_stop(axes, case, colour, number)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(gpus)
    axes.set_xlim(gpus[0] * 0.85, gpus[-1] * 1.18)
    top = max(row["tiles_s"] / row["tiles_a_block"] for row in results["cases"]) * gpus[-1]
    low = min(row["blocks_s"] for case in results["cases"] for row in case["by_gpus"])
    axes.set_ylim(low * 0.22, top * 1.6)
    _plain(axes, "GPUs")
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    _along(axes, gpus, per_gpu)


def _along(axes: Axes, gpus: Sequence[int], per_gpu: float) -> None:
    """The words of the dashed line, along its upper end."""
    start, end = axes.transData.transform([(n, n * per_gpu) for n in (gpus[0], gpus[-1])])
    axes.annotate(
        "GPUs never wait",
        start + 0.87 * (end - start),
        xycoords="figure pixels",
        rotation=math.degrees(math.atan2(end[1] - start[1], end[0] - start[0])),
        fontsize=_SMALL,
        color=_GREY,
        ha="center",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )


def _mark_stop(axes: Axes, case: Case, colour: str, number: int) -> None:
    """A ring where scaling stops, and in the lower corner what stops it, a line for each form."""
    stops = case["stops"]
    rows = case["by_gpus"]
    if stops is not None:
        row = next(row for row in rows if row["gpus"] == stops["gpus"])
        axes.plot([row["gpus"]], [row["blocks_s"]], "o", markersize=11, markerfacecolor="none", color=colour)
        told = f"stops at {stops['gpus']} GPUs: {stops['by']}"
    else:
        told = f"scales to {rows[-1]['gpus']} GPUs; there held by {case['last_held_by']}"
    busy = rows[0]["busy"]["actors"]
    axes.text(
        0.985,
        0.115 - 0.075 * number,
        f"{told}; one GPU {100 * busy:.0f} % busy",
        fontsize=_SMALL,
        color=colour,
        ha="right",
        transform=axes.transAxes,
    )


def _busy(axes: Axes, cases: Sequence[Case]) -> None:
    axes.axhline(0.9, color=_PALE, linewidth=1, zorder=0)
    for number, (case, colour) in enumerate(zip(cases, _COLOURS, strict=True)):
        rows = case["by_workers"]
        axes.plot(
            [row["workers"] for row in rows],
            [row["busy"] for row in rows],
            "o-",
            color=colour,
            markersize=3.5,
            linewidth=1.8,
        )
        most = max(row["busy"] for row in rows)
        need, share = case["workers_a_gpu"], "90 %" if most >= 0.9 else f"its most, {100 * most:.0f} %"
        held = "" if most >= 0.9 else f"; {case['most_held_by']} holds it"
        axes.text(
            0.985,
            1.13 - 0.075 * number,
            f"{need:.0f} workers a GPU for {share}{held}",
            fontsize=_SMALL,
            color=colour,
            ha="right",
            transform=axes.transAxes,
        )
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.04)
    axes.set_xticks([4, 8, 16, 32, 64, 128, 256])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    _plain(axes, "CPU workers a GPU (one core and two tasks each)")


def _plain(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, fontsize=9)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(color="#eef0f2", zorder=0)
