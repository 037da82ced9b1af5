"""From a recipe to a weights file: patches, training, temperature, scores, card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cryoscale.errors import SourceError, WeightsError
from cryoscale.learn.augment import OPTICAL_ONLY
from cryoscale.learn.evaluate import score_patches
from cryoscale.learn.loop import Fit, Progress, fit, fit_temperature
from cryoscale.learn.patches import Patches
from cryoscale.learn.recipe import TrainConfig, load_config
from cryoscale.learn.samples import from_simulation
from cryoscale.learn.scores import CLASS_NAMES, Scores
from cryoscale.models import weights
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.predictor import Predictor

__all__ = ["Fit", "TrainConfig", "load_config", "train", "train_from_config"]


def train(
    config: TrainConfig, *, out: Path, work: Path | None = None, progress: Progress | None = None
) -> weights.Card:
    """Trains a CryoNet by a recipe, and writes its weights to ``out`` and its card beside them.

    Args:
        config: the recipe.
        out: path of the weights, ``X.safetensors``.
        work: folder for what a resumed training needs: patches, the state after each epoch, and
            ``curves.json``; by default the recipe's, or ``X.training`` beside ``out``. A training that was
            killed goes on from its last whole epoch; a finished one only writes the weights again.
        progress: called with a dict after every made region, step and epoch (its ``kind``).

    Returns:
        The card, with scores on the validation and test patches, also without the modalities
        that are commonly absent.

    Raises:
        WeightsError: if ``out`` does not end in .safetensors.
        SourceError: if the patch set is absent or has no training or no validation patches.
        OutputError: if the work folder holds a training by another recipe.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}", "a path that ends in .safetensors", "rename it")
    work = work or config.work or out.with_suffix(".training")
    work.mkdir(parents=True, exist_ok=True)
    patches = _patches(config, work, progress)
    arguments = {
        "in_channels": len(patches.channels),
        "classes": len(CLASS_NAMES),
        **config.architecture_arguments,
    }
    torch.manual_seed(config.seed)
    fitted = fit(
        CryoNet(**arguments), patches, config, state_path=work / "state.safetensors", progress=progress
    )
    held_back = patches.indices("validation")
    card = weights.Card(
        architecture="cryonet",
        arguments=arguments,
        channels=patches.channels,
        mean=tuple(map(float, fitted.standard.mean)),
        std=tuple(map(float, fitted.standard.std)),
        pca=patches.attrs["pca"],
        classes=CLASS_NAMES,
        temperature=fit_temperature(fitted.model, fitted.standard, patches, held_back),
        training=_training(config, patches, fitted),
        split=patches.attrs["split"],
        licence=config.licence,
    )
    card = card.model_copy(update={"metrics": _metrics(fitted.model, card, patches)})
    return weights.save(fitted.model, card, out)


def _patches(config: TrainConfig, work: Path, progress: Progress | None) -> Patches:
    if config.simulation is None:
        assert config.patches is not None  # the recipe has one of the two
        patches = Patches.open(config.patches)
    else:
        patches = from_simulation(config.simulation, work / "patches.zarr", progress=progress)
    for split in ("train", "validation"):
        if not len(patches.indices(split)):
            given = f"{len(patches)} patches, none of them for {split}"
            raise SourceError(
                given, "patches for training and for validation", "add ranges, or lower min_labelled"
            )
    return patches


def _training(config: TrainConfig, patches: Patches, fitted: Fit) -> dict[str, Any]:
    """What the card says of the training: the recipe, the data, and how it went."""
    return {
        "name": config.name,
        "description": config.description,
        "recipe": config.model_dump(mode="json", exclude={"name", "description", "licence", "work"}),
        "patches": {split: len(patches.indices(split)) for split in ("train", "validation", "test")},
        "source": patches.attrs["source"],
        "class_pixels": dict(zip(CLASS_NAMES, fitted.class_counts, strict=True)),
        "best_epoch": fitted.best_epoch,
        "seconds": round(sum(row["seconds"] for row in fitted.curves), 1),
        "validation_mean_iou": [round(row["validation_mean_iou"], 4) for row in fitted.curves],
        "torch": torch.__version__,
    }


def _metrics(model: torch.nn.Module, card: weights.Card, patches: Patches) -> dict[str, Any]:
    """Scores through the predictor that serves the weights, on what was held back."""
    predict = Predictor(model, card, precision="fp32")
    metrics: dict[str, Scores] = {}
    for split in ("validation", "test"):
        indices = patches.indices(split)
        if len(indices):
            metrics[split] = score_patches(predict, patches, indices)
            metrics[f"{split}_without_{'_'.join(OPTICAL_ONLY)}"] = score_patches(
                predict, patches, indices, absent=OPTICAL_ONLY
            )
    return {name: scores.to_dict() for name, scores in metrics.items()}


def train_from_config(
    path: str | Path, out: str | Path, *, work: str | Path | None = None, quiet: bool = False
) -> weights.Card:
    """:func:`train` by the recipe in a YAML file, with live progress on the terminal unless ``quiet``.

    Raises:
        ConfigError: if the recipe is not one; and whatever :func:`train` raises.
    """
    config = load_config(Path(path))
    folder = None if work is None else Path(work)
    if quiet:
        return train(config, out=Path(out), work=folder)
    with live_progress() as progress:
        return train(config, out=Path(out), work=folder, progress=progress)


@contextmanager
def live_progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar for what is under way and a line for every epoch, on the terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("preparing", total=None)

        def show(event: dict[str, Any]) -> None:
            if event["kind"] in ("region", "cut"):
                text = f"{'simulating' if event['kind'] == 'region' else 'cutting'} range {event['region']}"
                bar.update(task, description=text, completed=event["done"], total=event["regions"])
            elif event["kind"] == "step":
                text = f"epoch {event['epoch']}  loss {event['loss']:.3f}"
                bar.update(task, description=text, completed=event["step"], total=event["steps"])
            else:
                bar.console.print(
                    f"epoch {event['epoch']:>3}/{event['epochs']}  loss {event['loss']:.4f}  "
                    f"validation loss {event['validation_loss']:.4f}  "
                    f"mean IoU {event['validation_mean_iou']:.4f}  "
                    f"accuracy {event['validation_accuracy']:.4f}  {event['seconds']:.0f} s"
                )

        yield show
