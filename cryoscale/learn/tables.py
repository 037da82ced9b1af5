"""An evaluation as tables that people read: Markdown, in the form of the papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cryoscale.learn.evaluate import Evaluation
from cryoscale.learn.examine import Examination
from cryoscale.learn.reliability import Reliability
from cryoscale.learn.scores import Scores
from cryoscale.learn.strata import DEBRIS, STRATA, ice_recall

CLEAN = 1
LONGEST_LIST = 40
"""Glaciers that the text names; the JSON has all."""

_ORDER = ("clean_ice", "debris_covered_ice", "water", "vegetation", "background")
"""Classes in the order of the papers' tables."""

AS_MAPPED = "as mapped"


def markdown(
    title: str, found: Examination, without: Mapping[str, Evaluation], notes: Sequence[str] = ()
) -> str:
    """All tables of an evaluation, with what was left out and predicted again under ``without``."""
    sections = [
        f"# {title}",
        *notes,
        _scores(found.scores),
        _confusion(found.scores),
        _boundaries(found),
        *(_areas(year, area.summary(), area.rows()) for year, area in found.areas.items()),
        _probabilities(found, without),
        _without(found, without),
        *_strata(found),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is words, the others are figures."""
    lines = [list(map(str, header)), ["---", *["---:"] * (len(header) - 1)]]
    lines += [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None, digits: int = 2) -> str:
    """A share as per cent, a dash where there is none."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"


def _scores(scores: Scores) -> str:
    rows = {row["class"]: row for row in scores.rows()}
    names = [name for name in _ORDER if name in rows] + ["mean"]
    cells = [" / ".join(percent(rows[name][key]) for key in ("iou", "recall", "precision")) for name in names]
    header = ["", *(name.replace("_", " ") for name in names), "accuracy"]
    body = table(header, [["this map", *cells, percent(scores.accuracy)]])
    note = f"IoU / recall / precision, per cent, of {scores.pixels:,} pixels. {_mean_of(scores)}"
    return f"## Scores\n\n{note}\n\n{body}"


def _mean_of(scores: Scores) -> str:
    """Which classes a mean is over."""
    names = ", ".join(name.replace("_", " ") for name in scores.true_classes)
    return f"Means are over the classes that truth has: {names}."


def _confusion(scores: Scores) -> str:
    names = [name.replace("_", " ") for name in scores.classes]
    rows = [
        [name, *(f"{n:,}" for n in line), f"{line.sum():,}"]
        for name, line in zip(names, scores.confusion, strict=True)
    ]
    body = table(["true \\ mapped", *names, "sum"], rows)
    return f"## Confusion matrix\n\nPixels of 10 m.\n\n{body}"


def _boundaries(found: Examination) -> str:
    words = {"glacier": "glacier outline", "debris": "clean ice / debris"}
    ways = {
        "mapped_to_true": "from mapped to true",
        "true_to_mapped": "from true to mapped",
        "both": "both ways",
    }
    rows = []
    for kind, boundary in found.boundaries.items():
        for way, direction in ways.items():
            distances = getattr(boundary, way)
            if distances.edges:
                reach_m = 10 * distances.reach_px
                metres = [distances.mean_m, distances.quantile_m(0.5), distances.quantile_m(0.95)]
                shown = [
                    "-" if math.isnan(m) else f"over {reach_m:.0f}" if math.isinf(m) else f"{m:.1f}"
                    for m in metres
                ]
                shares = [distances.within(1), distances.within(2), distances.beyond / distances.edges]
                rows.append([words[kind], direction, *shown, *(percent(s, 1) for s in shares)])
    if not rows:
        return ""
    header = [
        "boundary",
        "distance",
        "mean m",
        "median m",
        "95th pct m",
        "% within 1 px",
        "% within 2 px",
        "% beyond",
    ]
    note = "Pixel edges with truth and map known on both sides; the mean is over those within reach."
    return f"## Boundary distance\n\n{note}\n\n{table(header, rows)}"


def _areas(year: int, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    keys = ("true_km2", "mapped_km2", "missed_km2", "added_km2")

    def line(row: Mapping[str, Any]) -> list[str]:
        return [*(f"{row[key]:.3f}" for key in keys), f"{row['bias_pct']:+.1f}"]

    body = [[row["id"], *line(row)] for row in rows[:LONGEST_LIST]]
    if len(rows) > LONGEST_LIST:
        body.append([f"and {len(rows) - LONGEST_LIST} smaller", *["..."] * 5])
    body.append([f"all {len(rows)}", *line(summary)])
    header = ["glacier", "true km²", "mapped km²", "missed km²", "added km²", "bias %"]
    note = (
        f"Outlines: {summary['outlines']}. Added is mapped ice outside that lies within "
        f"{summary['reach_m']:.0f} m; farther away lie {summary['loose_km2']:.3f} km² more. Median bias "
        f"{summary['median_bias_pct']:+.1f} %, median of its size {summary['median_abs_bias_pct']:.1f} %."
    )
    return f"## Area of each glacier, {year}\n\n{note}\n\n{table(header, body)}"


def reliabilities(found: Examination, without: Mapping[str, Evaluation]) -> dict[str, Reliability]:
    """What the reliability diagram shows, by name: before and after temperature scaling."""
    shown = {}
    if "calibration" in without:
        shown["temperature 1, predicted again"] = without["calibration"].reliability
    if found.reliability.count.sum():
        shown[AS_MAPPED] = found.reliability
    after = found.temperature.after
    if after is not None and found.temperature.temperatures is not None:
        first, second = found.temperature.temperatures
        shown[f"another temperature ({first:.2f}, {second:.2f}) on the map"] = after
    return shown


def _probabilities(found: Examination, without: Mapping[str, Evaluation]) -> str:
    rows = [
        [name, percent(reliability.ece), f"{reliability.count.sum():,}"]
        for name, reliability in reliabilities(found, without).items()
    ]
    if not rows:
        return ""
    if found.temperature.after is not None:
        rows[-1][1] += f" (before {percent(found.temperature.before.ece)})"
    body = table(["probabilities", "ECE %", "pixels"], rows)
    classes = table(
        ["class", "ECE % of its own probability"],
        [
            [name.replace("_", " "), percent(found.stated.of_class(k).ece)]
            for k, name in enumerate(found.scores.classes)
        ],
    )
    proper = f"Brier score {found.stated.brier:.4f}, log loss {found.stated.log_loss:.4f}."
    return f"## Probabilities\n\n{proper}\n\n{body}\n\n{classes}"


def without_rows(found: Examination, without: Mapping[str, Evaluation]) -> dict[str, Scores]:
    """Scores as mapped, and with each modality left out."""
    return {
        AS_MAPPED: found.scores,
        **{name: e.scores for name, e in without.items() if name != "calibration"},
    }


def _without(found: Examination, without: Mapping[str, Evaluation]) -> str:
    rows = without_rows(found, without)
    if len(rows) < 2:
        return ""
    body = [
        [
            name if name == AS_MAPPED else "only optical" if name == "all-but-optical" else f"without {name}",
            *(percent(v) for v in (s.accuracy, s.mean_iou, s.iou[CLEAN], s.iou[DEBRIS], s.recall[DEBRIS])),
        ]
        for name, s in rows.items()
    ]
    header = ["predicted again", "accuracy", "mean IoU", "IoU clean ice", "IoU debris", "recall debris"]
    return f"## A modality missing\n\nPer cent. {_mean_of(found.scores)}\n\n{table(header, body)}"


def _strata(found: Examination) -> list[str]:
    sections = []
    scores = found.strata.scores()
    for stratum in STRATA:
        if stratum.name not in scores:
            continue
        rows = [_stratum_row(label, s, stratum.only) for label, s in scores[stratum.name].items()]
        unit = f", {stratum.unit}" if stratum.unit else ""
        if stratum.only is None:
            header = ["", "pixels", "accuracy", "mean IoU", "IoU clean ice", "IoU debris", "ice found"]
            note = "Per cent. Each mean is over the classes that truth has there."
        else:
            header = ["", "pixels", "debris found as debris", "found as ice of either kind"]
            note = "Per cent."
        sections.append(f"## By {stratum.title}{unit}\n\n{note}\n\n{table(header, rows)}")
    return sections


def _stratum_row(label: str, scores: Scores, only: int | None) -> list[str]:
    if only is None:
        figures = [scores.accuracy, scores.mean_iou, scores.iou[CLEAN], scores.iou[DEBRIS]]
    else:
        figures = [scores.recall[only]]
    return [label, f"{scores.pixels:,}", *map(percent, [*figures, ice_recall(scores)])]
