"""The tables of the benchmark, in the form of the study's, from what the jobs have found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.jobs import Job, done_path, missing, outcome
from benchmarks.accuracy.plan import SUBJECT, seeded
from benchmarks.accuracy.scales import LEARNERS, MODELS, NETWORKS, Place
from benchmarks.accuracy.steps import Bench, without
from cryoscale.learn.scores import Scores

ORDER = ("clean_ice", "debris_covered_ice", "water", "vegetation", "background")
"""Classes in the order of the study's tables."""

Planned = frozenset[str]
"""Names of the jobs that should have been done."""

_FULL = ("clean ice", "debris", "water", "vegetation", "background", "mean", "accuracy")
_TITLES = {
    "cryonet": "CryoNet",
    "unet": "U-Net",
    "deeplabv3plus": "DeepLabV3+",
    "segformer": "SegFormer",
    "glavitu": "GlaViTU",
    "random-forest": "random forest",
    "band-ratio": "band ratio",
}


@dataclass(frozen=True)
class Table:
    """A table with its number in the study's manner, what it holds, and rows of text."""

    number: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def markdown(self) -> str:
        """As a section of a page."""
        lines = [f"## Table {self.number}", "", self.caption, ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "---|" * len(self.columns))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def percent(value: float | None) -> str:
    """A share as per cent with two digits; a dash where there is none."""
    return "-" if value is None or value != value else f"{100 * value:.2f}"


def full_row(scores: Scores) -> tuple[str, ...]:
    """IoU / recall / precision of each class and their means, and overall accuracy, in per cent."""
    by_class = {row["class"]: row for row in scores.rows()}
    cells = [
        " / ".join(percent(by_class[name][key]) for key in ("iou", "recall", "precision"))
        for name in (*ORDER, "mean")
    ]
    return (*cells, percent(scores.accuracy))


def short_row(scores: Scores) -> tuple[str, ...]:
    """Mean IoU, that of clean ice and of debris, and overall accuracy, in per cent."""
    by_class = {row["class"]: row for row in scores.rows()}
    names = ("mean", "clean_ice", "debris_covered_ice")
    return (*(percent(by_class[name]["iou"]) for name in names), percent(scores.accuracy))


def mapped(bench: Bench, places: Sequence[Place], name: str) -> Scores | None:
    """Scores of all maps of ``places`` by one model together; None where one is not made."""
    jobs = [f"map-{place.name}-{name}" for place in places]
    if not jobs or not all(done_path(bench.out, job).exists() for job in jobs):
        return None
    found = [Scores.from_dict(outcome(bench.out, job)["scores"]) for job in jobs]
    return sum(found[1:], found[0])


def tables(bench: Bench, jobs: Sequence[Job] = ()) -> list[Table]:
    """The tables whose maps are made; a dash for what ``jobs`` should have made and have not."""
    planned = frozenset(job.name for job in jobs)
    parts = (_comparison, _seeds, _modalities, _splits, _transfer, _cost)
    return [table for table in (part(bench, planned) for part in parts) if table.rows]


def _wanted(bench: Bench, places: Sequence[Place], name: str, planned: Planned) -> bool:
    """Whether a model has a row: its maps are made, or should have been."""
    maps = [f"map-{place.name}-{name}" for place in places]
    return bool(maps) and (planned.issuperset(maps) or mapped(bench, places, name) is not None)


def _rows(
    bench: Bench, places: Sequence[Place], names: Sequence[tuple[str, str]], planned: Planned
) -> tuple[tuple[str, ...], ...]:
    wanted = [(title, name) for title, name in names if _wanted(bench, places, name, planned)]
    found = [(title, mapped(bench, places, name)) for title, name in wanted]
    return tuple(
        (title, *(full_row(scores) if scores is not None else ("-",) * len(_FULL))) for title, scores in found
    )


def _short(scores: Scores | None) -> tuple[str, ...]:
    return short_row(scores) if scores is not None else ("-",) * len(_SHORT)


def _comparison(bench: Bench, planned: Planned) -> Table:
    regimes = ", ".join(sorted({place.regime for place in bench.scale.test}))
    caption = (
        f"All models on the test ranges ({len(bench.scale.test)}; regimes that none was trained in: "
        f"{regimes}), "
        "by blended mosaics: IoU / recall / precision, per cent. Simulated ranges."
    )
    names = [(_TITLES[m], m) for m in MODELS]
    return Table("I", caption, ("model", *_FULL), _rows(bench, bench.scale.test, names, planned))


def spread(values: Sequence[float]) -> str:
    """The mean of shares and, of more than one, the lowest and the highest, as per cent; a dash for none."""
    known = [value for value in values if value == value]
    if not known:
        return "-"
    mean = percent(sum(known) / len(known))
    return mean if len(known) == 1 else f"{mean} ({percent(min(known))} to {percent(max(known))})"


def _seeds(bench: Bench, planned: Planned) -> Table:
    caption = (
        "Every learner trained once a seed, which decides its first weights and the order, turns and gaps of "
        "the same patches: mean and, in brackets, lowest and highest of mean IoU and IoU of debris on the "
        "test ranges, and of mean IoU in the transfer regime before and after fine-tuning, per cent. "
        "Simulated ranges."
    )
    test, transfer = bench.scale.test, bench.scale.transfer
    rows = []
    for model in LEARNERS:
        names = [model]
        while _wanted(bench, test, seeded(model, len(names) + 1), planned):
            names.append(seeded(model, len(names) + 1))
        if len(names) == 1:
            continue
        columns = (
            (test, "", "mean"),
            (test, "", "debris_covered_ice"),
            (transfer, "", "mean"),
            (transfer, "-tuned", "mean"),
        )
        cells = []
        for places, suffix, of in columns:
            found = [mapped(bench, places, f"{name}{suffix}") for name in names]
            cells.append(spread([_iou(scores, of) for scores in found if scores is not None]))
        done = sum(mapped(bench, test, name) is not None for name in names)
        rows.append((_TITLES[model], str(done), *cells))
    heads = ("mean IoU", "debris", "transfer, before: mean IoU", "after: mean IoU")
    return Table("of seeds", caption, ("model", "seeds", *heads), tuple(rows))


def _iou(scores: Scores, of: str) -> float:
    return float(next(row["iou"] for row in scores.rows() if row["class"] == of))


def _modalities(bench: Bench, planned: Planned) -> Table:
    caption = (
        f"{_TITLES[SUBJECT]} on the test ranges without some modalities: left out of the run of the "
        f"network that "
        "has learnt all of them (with random dropping), or left out of training too. IoU / recall / "
        "precision, "
        "per cent. Simulated ranges."
    )
    names = [("all channels", SUBJECT)]
    names += [
        (f"run without {', '.join(m)}", f"{SUBJECT}-dropped-{'-'.join(m)}") for m in bench.scale.dropped
    ]
    names += [
        (f"trained and run without {', '.join(m)}", f"{SUBJECT}-{without(m)}") for m in bench.scale.ablations
    ]
    return Table("II", caption, ("inputs", *_FULL), _rows(bench, bench.scale.test, names, planned))


def _splits(bench: Bench, planned: Planned) -> Table:
    caption = (
        f"{_TITLES[SUBJECT]} by the random split of patches (the study's) and by the blocked split (whole "
        f"ranges "
        "held back): what each says of itself on the patches that it held back, and what its maps of the "
        "test "
        "ranges are worth. Per cent. Simulated ranges."
    )
    heads = tuple(f"{where}: {what}" for where in ("held back", "test") for what in _SHORT)
    rows = []
    for title, name in (("random", f"{SUBJECT}-random"), ("blocked", SUBJECT)):
        if not _wanted(bench, bench.scale.test, name, planned):
            continue
        job = f"train-{name}"
        done = done_path(bench.out, job).exists()
        held = Scores.from_dict(outcome(bench.out, job)["held_back"]) if done else None
        rows.append((title, *_short(held), *_short(mapped(bench, bench.scale.test, name))))
    return Table("III", caption, ("split", *heads), tuple(rows))


_SHORT = ("mean IoU", "clean", "debris", "accuracy")


def _transfer(bench: Bench, planned: Planned) -> Table:
    regimes = ", ".join(sorted({place.regime for place in bench.scale.transfer}))
    steps = bench.scale.tuning["iterations"]
    caption = (
        f"Transfer to the regime {regimes}, before and after {steps} steps of fine-tuning on "
        f"{len(bench.scale.tune)} other range(s) of it: mean IoU, IoU of clean ice and of debris, accuracy, "
        "per cent. Simulated ranges."
    )
    heads = tuple(f"{when}: {what}" for when in ("before", "after") for what in _SHORT)
    rows = []
    for model in MODELS:
        before = mapped(bench, bench.scale.transfer, model)
        after = mapped(bench, bench.scale.transfer, f"{model}-tuned") if model in NETWORKS else None
        if _wanted(bench, bench.scale.transfer, model, planned):
            rows.append((_TITLES[model], *_short(before), *_short(after)))
    return Table("V", caption, ("model", *heads), tuple(rows))


def _cost(bench: Bench, planned: Planned) -> Table:
    caption = (
        "Size of the models, seconds of training (all else of the job included), seconds of mapping a "
        "test range, "
        "and expected calibration error on the test ranges (mean of the ranges, per cent)."
    )
    rows = []
    for model in MODELS:
        if not _wanted(bench, bench.scale.test, model, planned):
            continue
        maps = [f"map-{place.name}-{model}" for place in bench.scale.test]
        found = [outcome(bench.out, job) for job in maps if done_path(bench.out, job).exists()]
        seconds = f"{sum(one['seconds'] for one in found) / len(found):.0f}" if found else "-"
        errors = [one["ece"] for one in found if one["ece"] is not None]
        ece = percent(sum(errors) / len(errors)) if errors else "-"
        job = f"train-{model}"
        trained = outcome(bench.out, job) if done_path(bench.out, job).exists() else None
        size = f"{trained['parameters'] / 1e6:.2f} M" if trained and trained["parameters"] else "-"
        rows.append((_TITLES[model], size, f"{trained['seconds']:.0f}" if trained else "-", seconds, ece))
    columns = ("model", "parameters", "training s", "map s", "ECE")
    return Table("of costs", caption, columns, tuple(rows))


def importance_table(found: dict[str, Any], count: int = 15) -> Table:
    """The channels whose permutation costs most mean IoU, and what it costs clean ice and debris."""
    parts = ("overall", "clean ice", "debris-covered ice")

    def drop(row: dict[str, Any], part: str) -> float:
        return float(row[part]["iou"]["mean"] or 0.0)

    def ranked(rows: dict[str, Any], mark: str, count: int | None) -> list[tuple[str, ...]]:
        ordered = sorted(rows.items(), key=lambda item: -drop(item[1], "overall"))[:count]
        return [
            (f"{mark}{name}{mark}", *(percent(drop(row, part)) for part in parts)) for name, row in ordered
        ]

    rows = (*ranked(found["channels"], "", count), *ranked(found["groups"], "*", None))
    caption = (
        f"Fall of IoU (points of per cent) of {_TITLES[SUBJECT]} when a channel, or a group of channels "
        f"(slanted), "
        f"is exchanged between patches: the {count} channels of the largest fall of the mean, then all "
        f"groups. "
        "Simulated ranges."
    )
    return Table("of importance", caption, ("channel", "mean", "clean ice", "debris"), rows)


def importance_of_seeds(found: Sequence[dict[str, Any]], count: int = 15) -> Table:
    """:func:`importance_table` of several trainings: mean, lowest and highest fall, and place in each."""
    part = "overall"

    def drops(kind: str, name: str, part: str = part) -> list[float]:
        return [float(one[kind][name][part]["iou"]["mean"] or 0.0) for one in found]

    places = {name: [] for name in found[0]["channels"]}
    for one in found:
        ordered = sorted(places, key=lambda name: -float(one["channels"][name][part]["iou"]["mean"] or 0.0))
        for place, name in enumerate(ordered, 1):
            places[name].append(place)
    rows = []
    for kind, mark, most in (("channels", "", count), ("groups", "*", None)):
        names = sorted(found[0][kind], key=lambda name, kind=kind: -sum(drops(kind, name)))[:most]
        for name in names:
            cells = [spread(drops(kind, name)), spread(drops(kind, name, "debris-covered ice"))]
            where = ", ".join(map(str, places[name])) if kind == "channels" else ""
            rows.append((f"{mark}{name}{mark}", *cells, where))
    caption = (
        f"The same of {len(found)} trainings of {_TITLES[SUBJECT]}, each by another seed: mean and, in "
        "brackets, lowest and highest fall, and a channel's place among all in each training. "
        "Simulated ranges."
    )
    return Table("of importance by seed", caption, ("channel", "mean", "debris", "places"), tuple(rows))


def importances(bench: Bench) -> list[Table]:
    """The tables of importance, as far as it has been asked for and found."""
    found: list[dict[str, Any]] = []
    while done_path(bench.out, name := seeded("importance", len(found) + 1)).exists():
        found.append(outcome(bench.out, name))
    made = [importance_table(found[0])] if found else []
    return [*made, importance_of_seeds(found)] if len(found) > 1 else made


def page(bench: Bench, machine: str, jobs: Sequence[Job] = ()) -> str:
    """All tables as one page of markdown, which says what of ``jobs`` is not done."""
    found = [*tables(bench, jobs), *importances(bench)]
    head = (
        f"# Accuracy benchmark, scale {bench.scale.name}\n\n"
        "**Everything here is simulated**: the mountains, the scenes of every sensor, the labels. The "
        "figures compare "
        "models under one set of conditions; they say nothing about any real glacier.\n\n"
        f"{machine}\n"
    )
    undone = missing(jobs, bench.out)
    if undone:
        head += (
            f"\n**Not complete**: {len(undone)} of {len(jobs)} jobs are not done ({', '.join(undone)}). "
            "A dash stands for what they would have found.\n"
        )
    return "\n".join([head, *(table.markdown for table in found)])


def save(bench: Bench, machine: str, jobs: Sequence[Job] = ()) -> Path:
    """Writes the page beside the results."""
    path = bench.out / "tables.md"
    path.write_text(page(bench, machine, jobs), encoding="utf-8")
    return path
