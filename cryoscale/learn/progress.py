"""What a training says while it goes on: a bar for what is under way, a line for what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def live_progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that shows the events of a training on the terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cryoscale.terminal import Terminal

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Terminal()) as bar:
        task = bar.add_task("preparing", total=None)

        def show(event: dict[str, Any]) -> None:
            if event["kind"] in ("region", "cut"):
                text = f"{'simulating' if event['kind'] == 'region' else 'cutting'} range {event['region']}"
                bar.update(task, description=text, completed=event["done"], total=event["regions"])
            elif event["kind"] == "step":
                text = f"epoch {event['epoch']}  loss {event['loss']:.3f}"
                bar.update(task, description=text, completed=event["step"], total=event["steps"])
            else:
                # a line is one, whole, also in a file, and a name no markup
                bar.console.print(line(event), markup=False, highlight=False, soft_wrap=True)

        yield show


def line(event: dict[str, Any]) -> str:
    """A model or an epoch in one line."""
    if event["kind"] == "model":
        learnt = event["trainable"]
        part = "" if learnt == event["parameters"] else f", {_millions(learnt)} of them learnt"
        return (
            f"{event['name']}: {_millions(event['parameters'])} parameters{part}; "
            f"{event['train']} patches to learn from, {event['validation']} to judge by"
        )
    loss = "before training" if event["loss"] is None else f"loss {event['loss']:.4f}"
    return (
        f"epoch {event['epoch']:>3}/{event['epochs']}  {loss}  "
        f"validation loss {event['validation_loss']:.4f}  mean IoU {event['validation_mean_iou']:.4f}  "
        f"accuracy {event['validation_accuracy']:.4f}  {event['seconds']:.0f} s"
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count:,}"
