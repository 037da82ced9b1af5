"""What people see in the terminal: a progress bar while a run goes, tables when it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cryoscale.learn.scores import Scores

if TYPE_CHECKING:
    from cryoscale.demo import DemoResult
    from cryoscale.drive import Outcome
    from cryoscale.drive import Progress as RunProgress
    from cryoscale.models.weights import Card
    from cryoscale.plan import Plan
    from cryoscale.read.snapshot import Changes
    from cryoscale.results import Status, Verification

_EVERY_S = 5.0


class Console:
    """The terminal; a bar where there is one, a line now and then where output goes to a file."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = rich.console.Console(stderr=quiet, quiet=quiet, highlight=False, soft_wrap=True)
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
        text = f"{rate / 1e3:,.0f} kpixel/s, {_duration(left_s)} left"
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

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # --- results --------------------------------------------------------------------------------

    def plan(self, plan: Plan) -> None:
        """What ``cryoscale plan`` prints."""
        self.say(
            f"{plan.name}: {plan.region_km2:,.1f} km2, {plan.blocks} blocks, {plan.tiles:,} tiles"
            f"{f', each predicted {plan.passes} times' if plan.passes > 1 else ''}, "
            f"at most {_bytes(plan.read_bytes)} read (uncompressed)"
        )
        rows = [
            (z.year, f"EPSG:{z.epsg}", z.blocks, f"{z.pixels:,}", f"{z.tiles:,}", _bytes(z.read_bytes))
            for z in plan.zones
        ]
        self._table(("year", "zone", "blocks", "pixels", "tiles", "read at most"), rows)
        self._table(("period/modality", "scenes"), list(plan.scenes.items()))
        if plan.missing:
            self.say(f"missing modalities: {', '.join(plan.missing)}")

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
        failed = sorted(
            {(scene, cause) for marker in outcome.computed for scene, cause in marker.scenes_failed}
        )
        for scene, cause in failed:
            self.say(f"scene not read: {scene}: {cause}")
        self.say(
            f"{len(outcome.computed)} blocks computed, {outcome.skipped} were done already, "
            f"{len(outcome.set_aside)} set aside"
        )
        self.say(f"in {outcome.out}: mosaic.zarr, inventory/, map.png, report.html")

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

    def card(self, card: Card, path: str) -> None:
        """How a training ended: the scores that the card records."""
        for split, scores in card.metrics.items():
            if isinstance(scores, dict) and "confusion" in scores:
                self.say(f"{split}:")
                self.evaluation(Scores.from_dict(scores))
        self.say(f"wrote {path} and its card")

    def status(self, status: Status) -> None:
        """What ``cryoscale status`` prints."""
        self.say(
            f"{status.name}: {status.done} of {status.total} blocks done, {len(status.set_aside)} set aside, "
            f"{status.area_km2:,.1f} km2 mapped"
        )
        if status.seconds:
            self._table(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in status.seconds.items()])
        for reason, blocks in status.causes().items():
            self.say(f"set aside, {len(blocks)} blocks: {reason}: {', '.join(blocks[:5])}")
        for scene, cause in status.scenes_failed:
            self.say(f"scene not read: {scene}: {cause}")

    def verification(self, found: Verification) -> None:
        """What ``cryoscale verify`` prints."""
        for name in found.damaged:
            self.say(f"damaged: {name}")
        self.say(f"{found.checked} blocks read back, {len(found.damaged)} damaged")

    def _table(self, header: Sequence[str], rows: Sequence[Sequence[Any]] | Sequence[Any]) -> None:
        table = Table(box=None, pad_edge=False)
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self._out.print(table)


def _pct(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )
