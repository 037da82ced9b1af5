"""The report of a run: one HTML file that needs nothing beside itself.

Everything shown comes from :class:`Report`; what was not given is left out, and what was missing in
the run (scenes, modalities, blocks) is said.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from cryoscale.write.seams import SeamScore
from cryoscale.write.sheet import Plate
from cryoscale.write.store import put

LARGEST = 50
"""Outlines of a year that are listed."""
ROWS_SHOWN = 200
"""Of blocks and of scenes, so that a report stays one page that a browser opens."""
_EMPTY = "\u2013"
COLUMNS = (
    ("glac_id", "Outline"),
    ("cenlon", "Longitude °"),
    ("cenlat", "Latitude °"),
    ("area_km2", "Area km²"),
    ("area_low_km2", "90 % from"),
    ("area_high_km2", "to"),
    ("debris_fraction", "Under debris"),
    ("zmed_m", "Median m"),
    ("lmax_m", "Length m"),
    ("src_date", "Image date"),
    ("confidence", "Confidence"),
)
"""Of the inventory that the table of outlines shows, with their headings."""


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found, each 0-1; NaN where the class does not occur."""

    name: str
    iou: float
    precision: float
    recall: float


@dataclass(frozen=True)
class SceneRow:
    """How one optical scene did: blocks that prefer it, took pixels of it, lie near it; shares 0-1."""

    year: int
    scene: str
    preferred: int
    read: int
    blocks: int
    clear_share: float
    snow_share: float


@dataclass(frozen=True)
class BlockRow:
    """Which scene a block prefers, what it shows there (shares 0-1) and why it is that one."""

    block: str
    scene: str
    clear_share: float
    snow_share: float
    reason: str


@dataclass(frozen=True)
class Outlines:
    """The outlines of a year: how many, of which area, and the table of the largest."""

    count: int
    area_km2: float
    largest: pd.DataFrame


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        title: name of the run.
        simulated: whether the imagery is simulated; a banner then says so first.
        map_png: the picture of the range.
        map_caption: the line below it.
        plates: further pictures, of what lies behind the map.
        summary: facts in the order to be shown, e.g. ``{"Blocks": "24 of 24"}``.
        timings_s: seconds by stage, summed over blocks.
        seams: seam scores by what the borders are (``"blocks of 1024 px"``).
        scores: by name of the model, the scores of its classes against the truth.
        truth: what the scores were taken against.
        outlines: by year, how many outlines there are and the largest.
        files: addresses below the run of what other programs read, and what it is.
        scenes_read: identifiers of the scenes used.
        scenes_failed: scenes that could not be read, with the reason.
        choices: how the optical scenes did, the most preferred first; empty where none was preferred.
        choice_of_blocks: the same block by block, with the reason.
        blocks_set_aside: blocks that failed, with the reason.
        counts: how many there are of ``scenes_read`` and the four that follow, where those are but the
            first ``ROWS_SHOWN``.
        modalities: share of the region's pixels (0-1) that each modality covered.
        model: the model's card, shown as it is.
        citation: how to cite the run and the method.
        made: when and by which version.
    """

    title: str
    simulated: bool = False
    map_png: bytes | None = None
    map_caption: str = ""
    plates: Sequence[Plate] = ()
    summary: Mapping[str, str] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    seams: Mapping[str, SeamScore] = field(default_factory=dict)
    scores: Mapping[str, Sequence[ClassScore]] = field(default_factory=dict)
    truth: str = ""
    outlines: Mapping[int, Outlines] = field(default_factory=dict)
    files: Sequence[tuple[str, str]] = ()
    scenes_read: Sequence[str] = ()
    scenes_failed: Sequence[tuple[str, str]] = ()
    choices: Sequence[SceneRow] = ()
    choice_of_blocks: Sequence[BlockRow] = ()
    blocks_set_aside: Sequence[tuple[str, str]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    modalities: Mapping[str, float] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    citation: str = ""
    made: str = ""


def write_report(out: str | os.PathLike[str], report: Report) -> str:
    """Writes ``OUT/report.html`` (a local folder or an fsspec URL) and returns where it lies.

    Raises:
        OutputError: if it cannot be written.
    """
    target = f"{os.fspath(out).rstrip('/')}/report.html"
    put(target, render(report).encode())
    return target


def render(report: Report) -> str:
    """The report as HTML; every text from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("cryoscale", "write"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "duration": _duration}
    picture = base64.b64encode(report.map_png).decode() if report.map_png else ""
    plates = [(one, base64.b64encode(one.webp).decode()) for one in report.plates]
    total_s = sum(report.timings_s.values())
    page: str = environment.get_template("report.html").render(
        report=report,
        picture=picture,
        plates=plates,
        total_s=total_s,
        mean_iou={name: _mean_iou(scores) for name, scores in report.scores.items()},
        outlines=[_outline_table(year, found) for year, found in sorted(report.outlines.items())],
        missing=[name for name, share in report.modalities.items() if share == 0.0],
        partial=[name for name, share in report.modalities.items() if 0.0 < share < 1.0],
        model=[
            (key, _shown(value)) for key, value in report.model.items() if value not in (None, "", {}, [])
        ],
    )
    return page


def _outline_table(year: int, found: Outlines) -> dict[str, Any]:
    columns = [(name, heading) for name, heading in COLUMNS if name in found.largest.columns]
    rows = [
        [(_cell(name, row[name]), _sort_key(row[name])) for name, _ in columns]
        for _, row in found.largest.iterrows()
    ]
    return {
        "year": year,
        "count": found.count,
        "shown": len(found.largest),
        "area_km2": found.area_km2,
        "headings": [heading for _, heading in columns],
        "rows": rows,
    }


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return _EMPTY
    if isinstance(value, pd.Timestamp):
        return str(value.date())
    if name in ("cenlon", "cenlat"):
        return f"{value:.4f}"
    if name == "debris_fraction":
        return _percent(value)
    if name.endswith("_m"):
        return f"{value:.0f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _sort_key(value: Any) -> str:
    """What the page sorts a cell by; nothing where it is empty."""
    if pd.isna(value):
        return ""
    return value.isoformat() if isinstance(value, pd.Timestamp) else str(value)


def _number(value: float) -> str:
    return _EMPTY if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    """A share as per cent; 0 and 100 are none and all, never what is only near them."""
    if 0.0 < value < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= value < 1.0 else f"{100 * value:.0f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _mean_iou(scores: Sequence[ClassScore]) -> float:
    """Over the classes that truth has: others have no recall, and IoU 0 as soon as one pixel is mapped so."""
    known = [one.iou for one in scores if not math.isnan(one.recall)]
    return sum(known) / len(known) if known else math.nan


def _shown(value: Any) -> str:
    """A value of the card in a line: long lists are counted, not printed."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        numbers = bool(value) and all(isinstance(one, (int, float)) for one in value)
        if numbers and len(value) > 8:
            return f"{len(value)} numbers"
        return ", ".join(_shown(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
