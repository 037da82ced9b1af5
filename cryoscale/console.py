"""What people see in the terminal: a progress bar while a run goes, tables when it is done."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cryoscale.learn.scores import Scores
from cryoscale.terminal import Terminal
from cryoscale.watch import duration

if TYPE_CHECKING:
    from cryoscale.demo import DemoResult
    from cryoscale.forecast.plan import Plan
    from cryoscale.judge import Judgement
    from cryoscale.learn.calibrate import Calibrated
    from cryoscale.learn.confidence import ErrorPrediction
    from cryoscale.learn.importance import Importance
    from cryoscale.models.weights import Card
    from cryoscale.outcome import Outcome
    from cryoscale.outcome import Progress as RunProgress
    from cryoscale.read.snapshot import Changes
    from cryoscale.results import Status
    from cryoscale.scenes import SceneUse
    from cryoscale.verify import Verification
    from cryoscale.watch import Frame

_EVERY_S = 5.0
_NO_LIMIT = 10_000
"""Characters, more than any line has."""

_SCENES_SHOWN = 12
_FAULTS_SHOWN = 50


class Console:
    """The terminal; a bar where there is one, a line now and then where output goes to a file."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = Terminal(stderr=quiet, quiet=quiet, highlight=False, emoji=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._told = 0.0

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_bar()

    def say(self, text: str) -> None:
        """One line."""
        self._out.print(text, markup=False)

    def stage(self, text: str) -> None:
        """A step of the run begins."""
        self._stop_bar()
        self._out.print(f"• {text}", markup=False)

    def progress(self, state: RunProgress) -> None:
        """Blocks done, pixels a second and time left."""
        finished = state.done + state.set_aside
        rate = state.pixels_per_s
        # Blocks that an earlier session did took none of this one's time.
        left_s = (state.total - finished) * state.elapsed_s / max(finished - state.skipped, 1)
        text = f"{rate / 1e3:,.0f} kpixel/s, {duration(left_s)} left"
        if state.set_aside:
            text += f", {state.set_aside} set aside"
        if self._out.is_terminal:
            self._show_bar(finished, state.total, text)
        elif finished == state.total or time.monotonic() - self._told > _EVERY_S:
            self._told = time.monotonic()
            self._out.print(f"  {finished}/{state.total} blocks, {text}", markup=False)

    def _show_bar(self, finished: int, total: int, text: str) -> None:
        if self._bar is None:
            columns = (
                TextColumn("  blocks"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._out)
            self._task = self._bar.add_task("blocks", total=total, note=text)
            self._bar.start()
        self._bar.update(self._task, completed=finished, total=total, note=text)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, total) that shows a bar where there is a terminal."""
        task: Any = None

        def show(done: int, total: int) -> None:
            nonlocal task
            if not self._out.is_terminal:
                return
            if self._bar is None:
                columns = (TextColumn(f"  {what}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                self._bar = Progress(*columns, console=self._out)
                task = self._bar.add_task(what, total=total)
                self._bar.start()
            self._bar.update(task, completed=done, total=total)

        return show

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # --- results --------------------------------------------------------------------------------

    def plan(self, plan: Plan) -> None:
        """What ``cryoscale plan`` prints."""
        passes = f", each predicted {plan.passes} times" if plan.passes > 1 else ""
        self.say(
            f"{plan.name}: {plan.region_km2:,.1f} km2, {plan.blocks} blocks, {plan.tiles_with_data:,} tiles "
            f"to predict{passes}, {plan.fetches:,.0f} chunks of {_bytes(plan.fetched_bytes)} to fetch "
            f"({_bytes(plan.distinct_bytes)} where neighbours share them, {_bytes(plan.read_bytes)} decoded)"
        )
        rows = [
            (
                z.year,
                f"EPSG:{z.epsg}",
                z.blocks,
                ", ".join(f"{count} {reason}" for reason, count in z.dropped.items()) or "-",
                f"{z.pixels:,}",
                f"{z.tiles_with_data:,}",
                f"{z.fetches:,.0f}",
                _bytes(z.fetched_bytes),
            )
            for z in plan.zones
        ]
        header = ("year", "zone", "blocks", "not mapped for", "pixels", "tiles", "fetches", "bytes")
        self._table(header, rows)
        keys = sorted({*plan.scenes, *plan.sources})
        sources = [(k, plan.scenes.get(k, "-"), plan.sources.get(k, {})) for k in keys]
        self._table(
            ("period/modality", "scenes", "fetches", "bytes", "decoded"),
            [
                (
                    key,
                    scenes,
                    f"{one.get('fetches', 0):,.0f}",
                    *(_bytes(one.get(n, 0)) for n in ("fetched_bytes", "bytes_read")),
                )
                for key, scenes, one in sources
            ],
        )
        for modality, days in plan.dates.items():
            self.say(f"{modality}: scenes of {', '.join(days)} alone")
        self._plan_work(plan)
        if plan.missing:
            self.say(f"missing modalities: {', '.join(plan.missing)}")
        for note in plan.notes:
            self.say(f"note: {note}")

    def _plan_work(self, plan: Plan) -> None:
        """Seconds, money and disk, as far as rates and prices are known."""
        work, money, disk = plan.work, plan.money, plan.disk
        if work is not None:
            stages = {"read": work.read_s, "features": work.features_s, "write": work.write_s}
            stages[f"predict on {work.predicts_on or 'a device without a rate'}"] = work.predict_s
            told = ", ".join(f"{k} {'?' if v is None else duration(v)}" for k, v in stages.items())
            self.say(f"processor time ({plan.profile.name}): {told}")
            if work.wall_s is not None:
                self.say(f"blocks done in about {duration(work.wall_s)} of the clock")
        if money:
            told = ", ".join(f"{name} {value:,.3g}" for name, value in money.items())
            shared = f" ({plan.money_shared['total']:,.3g} where neighbours share chunks)"
            self.say(f"money: {told}{shared if 'bytes' in money else ''}")
        if disk is not None:
            parts = {
                "map": disk.mosaic,
                "levels": disk.levels,
                "quicklook": disk.quicklook,
                "ledger": disk.ledger,
                "COGs": disk.cogs,
            }
            free = "" if disk.free is None else f"; {_bytes(disk.free)} free"
            told = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
            self.say(f"disk: {_bytes(disk.total)} ({told}){free}")

    def changes(self, changes: Changes | None) -> None:
        """What ``cryoscale run --refresh`` found."""
        if changes is None:
            self.say("refresh: no run lies there yet, so there is nothing to compare with")
            return
        for line in changes.lines():
            self.say(line)
        self.say(f"refresh: {changes} since the run was begun")

    def outcome(self, outcome: Outcome) -> None:
        """How a run ended."""
        for record in outcome.set_aside:
            self.say(
                f"set aside: block {record.block.key} of {record.year}, EPSG:{record.epsg}: {record.reason}"
            )
        for scene, cause in sorted(outcome.scenes_failed):
            self.say(f"scene not read: {scene}: {cause}")
        self.say(
            f"{outcome.computed} blocks computed, {outcome.skipped} were done already, "
            f"{len(outcome.set_aside)} set aside"
        )
        self.say(outcome.left or f"in {outcome.out}: mosaic.zarr, inventory/, map.png, report.html")

    def demo(self, result: DemoResult) -> None:
        """Scores against the simulator's truth, beside the classical method's."""
        self.say("Simulated imagery: a made-up mountain range, no real place.")
        self.evaluation(result.scores, result.baseline)
        self.outcome(result.outcome)
        times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
        self.say(f"{result.total_s:.0f} s in all: {times}")

    def evaluation(self, scores: Scores, baseline: Scores | None = None) -> None:
        """IoU, precision and recall a class in per cent."""
        header = ["class", "IoU", "precision", "recall"] + (["IoU of band ratio"] if baseline else [])
        rows = [
            [row["class"], *(_pct(row[key]) for key in ("iou", "precision", "recall"))]
            for row in scores.rows()
        ]
        for row, other in zip(rows, baseline.rows() if baseline else (), strict=False):
            row.append(_pct(other["iou"]))
        self._table(header, rows)
        self.say(f"overall accuracy {_pct(scores.accuracy)} %")

    def judgement(self, judged: Judgement) -> None:
        """What ``cryoscale evaluate`` found beside the scores, a line each."""
        found = judged.found
        for kind, boundary in found.boundaries.items():
            both = boundary.both
            if both.edges:
                self.say(
                    f"{kind} boundary: half within {_metres(both.quantile_m(0.5))}, 95 % within "
                    f"{_metres(both.quantile_m(0.95))}, {_pct(both.within(1))} % within a pixel"
                )
        for year, areas in found.areas.items():
            total = areas.summary()
            if total["glaciers"]:
                self.say(
                    f"{year}: {total['glaciers']} glaciers, {total['true_km2']:.2f} km2 true, "
                    f"{total['mapped_km2']:.2f} km2 mapped ({total['bias_pct']:+.1f} %), median bias "
                    f"{total['median_bias_pct']:+.1f} %"
                )
        if found.reliability.count.sum():
            self.say(f"calibration error {_pct(found.reliability.ece)} %")
        for name, again in judged.without.items():
            self.say(
                f"without {name}: accuracy {_pct(again.scores.accuracy)} %, mean IoU "
                f"{_pct(again.scores.mean_iou)} %, calibration error {_pct(again.reliability.ece)} %"
            )
        self.say(f"in {judged.out}: evaluation.json, tables.md and pictures")

    def importance(self, found: Importance, leading: int) -> None:
        """What ``cryoscale importance`` found: drops of IoU in percentage points, mean and deviation."""
        parts = list(found.baseline)
        for name, rows in (
            ("channel", found.leading("overall", leading)),
            ("jointly", found.leading("overall", among=found.groups)),
        ):
            among = found.channels if name == "channel" else found.groups
            table = [
                [row, *(_drop(among[row][part].iou) for part in parts), _drop(among[row]["overall"].accuracy)]
                for row, _ in rows
            ]
            self._table([name, "IoU", "of clean", "of debris", "accuracy"], table)
        stated = ", ".join(f"{part} {_pct(iou)}" for part, (iou, _) in found.baseline.items())
        self.say(f"drops in percentage points, +- their deviation over repeats; IoU before: {stated} %")
        if note := found.settings.get("note"):
            self.say(note)

    def calibrated(self, found: Calibrated) -> None:
        """What ``cryoscale calibrate`` found."""
        before, after = found.temperature_before, found.card.temperature
        self.say(f"temperature {before:.3f} before, {after:.3f} after")
        header = ("split", "pixels", "accuracy", "ECE before", "after", "of entropy, before", "after")
        rows = [
            (
                one.split,
                f"{one.pixels:,}",
                *(f"{100 * v:.2f}" for v in (one.accuracy, one.ece_before, one.ece_after)),
                *(f"{100 * v:.2f}" for v in (one.entropy_before, one.entropy_after)),
            )
            for one in found.figures
        ]
        self._table(header, rows)
        if found.note:
            self.say(found.note)
        self.say(f"wrote {found.out} and its card" if found.out else "nothing written: give --out to keep it")

    def error_prediction(self, found: ErrorPrediction) -> None:
        """What ``cryoscale confidence`` found."""
        rows = [
            (name, f"{100 * r.aurc:.3f}", f"{100 * (r.aurc - r.best):.3f}", f"{r.auroc:.3f}")
            for name, r in found.rankings().items()
        ]
        self._table(("sign of doubt", "AURC %", "excess %", "AUROC"), rows)
        ece = ", ".join(f"{name} {100 * value:.2f}" for name, value in found.calibration_errors().items())
        self.say(f"calibration error in %: {ece}; the layer holds {found.layer}")
        self.say(found.verdict)

    def card(self, card: Card, path: str) -> None:
        """How a training ended: the scores that the card records."""
        for split, scores in card.metrics.items():
            if isinstance(scores, dict) and "confusion" in scores:
                self.say(f"{split}:")
                self.evaluation(Scores.from_dict(scores))
        self.say(f"wrote {path} and its card")

    def samples(self, summary: Mapping[str, Any]) -> None:
        """What ``cryoscale samples`` made: patches and class shares by split, and what to know."""
        names = list(next(iter(summary["class_pixels"].values())))
        rows = []
        for split, count in summary["patches"].items():
            pixels = summary["class_pixels"][split]
            total = max(sum(pixels.values()), 1)
            rows.append([split, count, *(f"{100 * pixels[name] / total:.1f} %" for name in names)])
        self._table(
            ("split", "patches", *(name.split("_covered")[0].replace("_", " ") for name in names)), rows
        )
        by_region = [(name, *counts.values()) for name, counts in summary["regions"].items()]
        self._table(("region", *summary["patches"]), by_region)
        quality = summary["quality"]
        self.say(
            f"labelled {100 * quality['labelled_share']:.0f} %, of which label and spectrum disagree on "
            f"{100 * quality['doubtful_share']:.1f} %"
        )
        self.say(f"{100 * summary['shared_ground']:.0f} % of what is held back shares ground with training")
        for note in summary["notes"]:
            self.say(f"note: {note}")
        for block in summary["blocks_left_out"]:
            self.say(f"not read: block {block['block']} of {block['region']}: {block['reason']}")
        for one in summary["scenes_failed"]:
            self.say(
                f"not read: scene {one['scene']}, of which {one['region']} was mapped: {one['reason']}; "
                "bring it back and make the set anew"
            )
        stem = summary["out"].removesuffix(".zarr")
        self.say(f"wrote {summary['out']}, {stem}.json, and {stem}.png: look at it before you train")

    def watching(self, frames: Iterable[Frame]) -> None:
        """What ``cryoscale status --watch`` shows: one picture that changes, or a line a frame in a pipe."""
        if not self._out.is_terminal:
            for frame in frames:
                self.say(frame.line())
            return
        with Live(console=self._out, auto_refresh=False) as shown:
            for frame in frames:
                shown.update(Text("\n".join(frame.lines())), refresh=True)

    def totals(self, status: Status, told: Sequence[tuple[str, str]]) -> None:
        """What ``cryoscale status`` adds from the markers of the blocks; of these scenes was told already."""
        self.say(status.mapped())
        if status.seconds:
            self._table(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in status.seconds.items()])
        self._scenes(status.scenes_used)
        for scene, cause in status.scenes_failed:
            if (scene, cause) not in told:
                self.say(f"scene not read: {scene}: {cause}")
        for name, cause in status.sample_failed:
            self.say(f"principal components fitted without {name}: {cause}")

    def _scenes(self, uses: Sequence[SceneUse]) -> None:
        """Which optical scenes the blocks prefer, and what they show over the ice."""
        shown = uses[:_SCENES_SHOWN]
        for use in shown:
            self.say(
                f"scene {use.scene}: preferred in {use.preferred} of {use.blocks} blocks of {use.year}, read "
                f"in {use.read}; over the ice {100 * use.clear_share:.0f} % clear, "
                f"{100 * use.snow_share:.0f} % of it fresh snow"
            )
        if len(uses) > len(shown):
            self.say(f"and {len(uses) - len(shown)} more scenes: see --json or report.html")

    def verification(self, found: Verification) -> None:
        """What ``cryoscale verify`` prints."""
        for fault in found.faults[:_FAULTS_SHOWN]:
            self.say(f"{fault.kind} {fault.where}: {fault.reason}")
        if len(found.faults) > _FAULTS_SHOWN:
            self.say(f"and {len(found.faults) - _FAULTS_SHOWN} more: see --json")
        for place in found.set_aside[:_FAULTS_SHOWN]:
            self.say(f"set aside: {place}")
        pace = found.seconds_per_1000_blocks
        self.say(
            f"{found.checked} of {found.planned} planned blocks read back in {found.seconds:.1f} s"
            f"{f' ({pace:.0f} s a thousand)' if pace else ''}: {len(found.faults)} faults, "
            f"{len(found.set_aside)} blocks set aside"
        )
        if found.sound:
            self.say("the run is finished, and all of it is what was written")
        elif all(fault.repair for fault in found.faults):
            self.say("the command that made the run mends this: start it again")
        else:
            self.say("what cannot be mended by running again: give a new --out, or --new-run")

    def _table(self, header: Sequence[str], rows: Sequence[Sequence[Any]] | Sequence[Any]) -> None:
        table = Table(box=None, pad_edge=False)
        for number, name in enumerate(header):
            # a number that is cut short is another number, so a narrow terminal wraps the line instead
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        options = self._out.options.update(max_width=_NO_LIMIT)
        table.width = Measurement.get(self._out, options, table).maximum
        self._out.print(table)


def _drop(values: Sequence[float]) -> str:
    mean = 100 * sum(values) / len(values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" + (f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _metres(distance_m: float) -> str:
    return "more than was looked for" if math.isinf(distance_m) else f"{distance_m:.0f} m"


def _pct(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
