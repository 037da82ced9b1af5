"""From a recipe to a weights file: patches, training, temperature, scores, card."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoscale.errors import ConfigError, ExtraError, InputError, SourceError, WeightsError
from cryoscale.features.stack import PcaBasis
from cryoscale.learn.alone import alone_in
from cryoscale.learn.augment import OPTICAL_ONLY
from cryoscale.learn.checkpoint import TrainState, told_as
from cryoscale.learn.curves import draw_curves, save_curves
from cryoscale.learn.evaluate import score_patches
from cryoscale.learn.loop import Fit, Progress, Standard, Start, fit, fit_temperature
from cryoscale.learn.patches import Patches
from cryoscale.learn.progress import live_progress
from cryoscale.learn.ranks import Ranks, join
from cryoscale.learn.recipe import ModelConfig, TrainConfig, load_config
from cryoscale.learn.samples import from_simulation
from cryoscale.learn.scores import CLASS_NAMES, Scores
from cryoscale.learn.sound import refuse_unfit
from cryoscale.models import weights
from cryoscale.models.predictor import Predictor, count_parameters

__all__ = ["Fit", "TrainConfig", "load_config", "train", "train_from_config"]

REDRAW_S = 10.0
"""Curves are drawn after every epoch that ends this long after the last drawing, and after the last one."""

BEST = "best.safetensors"
"""The best weights so far, in the work folder."""

FOREST = "random-forest"
"""The learner that is not trained by gradients."""


def train(
    config: TrainConfig, *, out: Path, work: Path | None = None, progress: Progress | None = None
) -> weights.Card:
    """Trains a network by a recipe, and writes its weights to ``out`` and its card beside them.

    Args:
        config: the recipe.
        out: path of the weights, ``X.safetensors``. ``X.curves.png`` beside it shows how it goes.
        work: folder for what a resumed training needs: patches, the state after each epoch, and
            ``curves.json``; by default the recipe's, or ``X.training`` beside ``out``. The best weights so
            far lie there as ``best.safetensors`` with a card (temperature 1), fit for use while training
            goes on or if it never ends; a finished training puts ``out`` in their place. A training that
            was killed goes on from its last whole epoch; a finished one only writes the weights again.
        progress: called with a dict for the model and after every made region, step and epoch (its ``kind``).

    Started by torch's launcher (``torchrun -m cryoscale train``), all processes train one network; see
    :mod:`cryoscale.learn.ranks`.

    Returns:
        The card, with scores on the validation and test patches, also without the modalities
        that are commonly absent.

    Raises:
        WeightsError: if ``out`` does not end in .safetensors, or the initial weights do not fit.
        SourceError: if the patch set is absent, or nothing can be learnt from it.
        ConfigError: if the recipe's parts do not go together, or the initial weights would be replaced.
        OutputError: if a folder or other JSON is in the way of what is to be written, or the work folder
            holds a training by another recipe, or on other patches, or another process trains in it.
        NoRoomError: if the disk is full while patches are simulated, which are then made anew.
        TrainingError: if the loss is no longer finite or the disk is full; the last whole epoch is kept.
    """
    weights.require_place(out, _picture(out))
    work = work or config.work or out.with_suffix(".training")
    _refuse_to_replace_initial(config, out, work / BEST)
    with join(config.device, config.batch) as ranks, alone_in(work) if ranks.first else nullcontext():
        progress = progress if ranks.first else None
        patches = _patches(config, work, ranks, progress)
        run = _Run(config, patches, out, work, ranks)
        refuse_unfit(patches, config, by_gradient=run.architecture != FOREST)
        if progress:
            progress(run.describe())
        if run.architecture == FOREST:  # of which several processes would each fit the same
            fitted = run.fit_forest() if ranks.first else None
        else:
            fitted = run.fit(progress)
        card = run.finish(fitted) if ranks.first and fitted else None
        ranks.wait()
    return card or weights.read_card(out)


def _refuse_to_replace_initial(config: TrainConfig, *written: Path) -> None:
    """The weights that a training starts from are asked for again when it goes on after a kill."""
    first = config.initial
    if first is None or not first.exists():
        return
    if any(path.exists() and path.samefile(first) for path in written):
        given = f"initial {first}, which this training would replace"
        # what is known of them is their content: a training goes on from a copy
        raise ConfigError(
            given, "weights that stay", "copy them, with their card, and name the copy as initial"
        )


def _picture(out: Path) -> Path:
    return out.parent / f"{out.stem}.curves.png"  # with_suffix would not take a path without a name


def _patches(config: TrainConfig, work: Path, ranks: Ranks, progress: Progress | None) -> Patches:
    if config.simulation is None:
        assert config.patches is not None  # the recipe has one of the two
        patches = Patches.open(config.patches)
        for name in ("pca", "split", "source"):
            if patches.attrs.get(name) is None:
                given = f"patches {config.patches} without the attribute {name}"
                raise SourceError(given, "what the weights' card has to say of them", "make the patches anew")
        return patches
    work.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        basis = None if config.initial is None else weights.read_card(config.initial).pca
        from_simulation(
            config.simulation,
            work / "patches.zarr",
            progress=progress,
            basis=None if basis is None else PcaBasis.from_dict(basis.model_dump()),
        )
    ranks.wait()
    return Patches.open(work / "patches.zarr")


@dataclass
class _Run:
    """One training: what it is given, and the card of what it has reached."""

    config: TrainConfig
    patches: Patches
    out: Path
    work: Path
    ranks: Ranks
    initial: weights.Card | None = field(init=False, default=None)
    drawn_s: float = field(init=False, default=float("-inf"))

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.seed)
        if self.config.initial is not None:
            self.model, self.initial = weights.load(self.config.initial, channels=self.patches.channels)
            weights.refuse_other_classes(self.initial.classes)
            self.architecture, self.arguments = self.initial.architecture, self.initial.arguments
            self._refuse_another_model(self.initial)
            if self.architecture == FOREST:
                given = f"initial {self.config.initial}, a {FOREST}, which cannot be trained on"
                raise ConfigError(given, "a network", "leave initial out, which fits a new forest")
        else:
            wanted = self.config.model or ModelConfig()
            self.architecture = wanted.name
            self.arguments = {
                "in_channels": len(self.patches.channels),
                "classes": len(CLASS_NAMES),
                **wanted.arguments,
            }
            self.model = _built(self.architecture, self.arguments)

    def _refuse_another_model(self, initial: weights.Card) -> None:
        """What the initial weights were trained for and what the recipe and the patches say must agree."""
        wanted, path = self.config.model, self.config.initial
        arguments = {k: v for k, v in initial.arguments.items() if k not in ("in_channels", "classes")}
        if wanted is not None and (wanted.name, wanted.arguments) != (initial.architecture, arguments):
            given = f"model {wanted.name} {wanted.arguments} with initial {path}"
            expected = f"its {initial.architecture} {arguments}"
            raise ConfigError(given, expected, "leave model out, or correct it")
        basis = self.patches.attrs["pca"]
        theirs = initial.pca.model_dump() if initial.pca else None
        if not _same_basis(basis, theirs):
            given = f"patches whose principal components are not those of {path}"
            do = f"make the patches with cryoscale samples --weights {path}"
            raise WeightsError(given, "the basis in its card, which channels 25-27 were learnt in", do)

    def describe(self) -> dict[str, Any]:
        """The event that tells of the model before anything is learnt."""
        encoder = getattr(self.model, "encoder", None) if self.config.freeze_encoder else None
        frozen = 0 if encoder is None else sum(p.numel() for p in encoder.parameters())
        return {
            "kind": "model",
            "name": self.architecture,
            "parameters": count_parameters(self.model),
            "trainable": count_parameters(self.model) - frozen,
            "train": len(self.patches.indices("train")),
            "validation": len(self.patches.indices("validation")),
        }

    def fit(self, progress: Progress | None) -> Fit:
        """Training by gradients, with what is kept after every epoch."""
        start = Start(
            standard=self._initial_standard(),
            fine_tuned=self.initial is not None,
            ranks=self.ranks,
            more=self._identity(),
        )
        return fit(
            self.model,
            self.patches,
            self.config,
            state_path=self.work / "state.safetensors",
            start=start,
            progress=progress,
            on_epoch=self._after_epoch,
        )

    def fit_forest(self) -> Fit:
        """A random forest over the pixels of the training patches; there is nothing to resume."""
        from cryoscale.learn.forest import fit_forest
        from cryoscale.learn.loop import standard_of

        standard = self._initial_standard() or standard_of(self.patches)
        train, held_back = self.patches.indices("train"), self.patches.indices("validation")
        began = time.perf_counter()
        self.model = fit_forest(
            self.patches, train, standard, arguments=self.arguments, seed=self.config.seed
        )
        seconds = round(time.perf_counter() - began, 2)
        counts = self.patches.class_counts(train, len(CLASS_NAMES)).tolist()
        card = self._card(standard, best_epoch=0, rows=[], counts=counts)
        scores = score_patches(Predictor(self.model, card, precision="fp32"), self.patches, held_back)
        row = {"epoch": 0, "validation_mean_iou": scores.mean_iou, "seconds": seconds}
        return Fit(self.model, standard, scores, 0, counts, [row])

    def _initial_standard(self) -> Standard | None:
        if self.initial is None:
            return None
        return Standard(np.array(self.initial.mean, np.float32), np.array(self.initial.std, np.float32))

    def _identity(self) -> str:
        """What a state belongs to beside the recipe: the weights it began with, and the patches."""
        first = self.initial
        told = [self.patches.identity, *((first.sha256, first.mean, first.std) if first else ())]
        return hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()[:16]

    def _after_epoch(self, state: TrainState, standard: Standard) -> None:
        if state.best_epoch == state.epoch:
            card = self._card(standard, best_epoch=state.best_epoch, rows=state.curves, counts=[])
            card = card.model_copy(update={"metrics": {"validation": state.best_scores}})
            with told_as(self._best):
                weights.save(self.model, card, self._best)
        save_curves(state.curves, self.work / "curves.json")
        if time.monotonic() - self.drawn_s >= REDRAW_S:
            self._draw(state.curves, state.best_epoch)

    def _draw(self, rows: list[dict[str, Any]], best_epoch: int) -> None:
        draw_curves(rows, _picture(self.out), title=self.config.name, best_epoch=best_epoch)
        self.drawn_s = time.monotonic()

    @property
    def _best(self) -> Path:
        return self.work / BEST

    def finish(self, fitted: Fit) -> weights.Card:
        """Temperature, scores and card of the best epoch; writes the weights."""
        held_back = self.patches.indices("validation")
        card = self._card(
            fitted.standard, best_epoch=fitted.best_epoch, rows=fitted.curves, counts=fitted.class_counts
        )
        temperature = fit_temperature(fitted.model, fitted.standard, self.patches, held_back)
        card = card.model_copy(update={"temperature": temperature})
        card = card.model_copy(update={"metrics": _metrics(fitted.model, card, self.patches)})
        with told_as(self.out):
            card = weights.save(fitted.model, card, self.out)
        if self.architecture != FOREST:
            self._draw(fitted.curves, fitted.best_epoch)
        for path in (self._best, weights.card_path(self._best)):
            path.unlink(missing_ok=True)
        return card

    def _card(
        self, standard: Standard, *, best_epoch: int, rows: list[dict[str, Any]], counts: list[int]
    ) -> weights.Card:
        card = weights.Card(
            architecture=self.architecture,
            arguments=self.arguments,
            channels=self.patches.channels,
            mean=tuple(map(float, standard.mean)),
            std=tuple(map(float, standard.std)),
            pca=self.patches.attrs["pca"],
            classes=CLASS_NAMES,
            split=self.patches.attrs["split"],
            licence=self.config.licence,
        )
        if not rows:
            return card
        return card.model_copy(update={"training": self._training(best_epoch, rows, counts)})

    def _training(self, best_epoch: int, rows: list[dict[str, Any]], counts: list[int]) -> dict[str, Any]:
        """What the card says of the training: the recipe, the data, and how it went."""
        splits = ("train", "validation", "test")
        return {
            "name": self.config.name,
            "description": self.config.description,
            "parameters": count_parameters(self.model),
            "recipe": self.config.model_dump(mode="json", exclude={"name", "description", "licence", "work"}),
            "initial_sha256": self.initial.sha256 if self.initial else None,
            "processes": self.ranks.size,
            "patches": {split: len(self.patches.indices(split)) for split in splits},
            "source": self.patches.attrs["source"],
            "class_pixels": dict(zip(CLASS_NAMES, counts, strict=False)),
            "best_epoch": best_epoch,
            "epochs_done": rows[-1]["epoch"],
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "validation_mean_iou": [round(row["validation_mean_iou"], 4) for row in rows],
            "torch": torch.__version__,
        }


def _same_basis(left: dict[str, Any], right: dict[str, Any] | None) -> bool:
    return right is not None and all(
        np.allclose(left[key], right[key], rtol=1e-4, atol=1e-6) for key in right
    )


def _built(architecture: str, arguments: dict[str, Any]) -> torch.nn.Module:
    try:
        return weights.architecture(architecture)(**arguments)
    except ExtraError:
        raise
    except (InputError, TypeError, ValueError, RuntimeError) as error:  # one that no memory holds among them
        why = str(error).partition("\n")[0]
        given = f"model {architecture} with {json.dumps(arguments)} ({why})"
        raise ConfigError(given, "arguments that it takes", "correct the recipe") from None


def _metrics(model: torch.nn.Module, card: weights.Card, patches: Patches) -> dict[str, Any]:
    """Scores through the predictor that serves the weights, on what was held back."""
    predict = Predictor(model, card)
    metrics: dict[str, Scores] = {}
    for split in ("validation", "test"):
        indices = patches.indices(split)
        if len(indices):
            metrics[split] = score_patches(predict, patches, indices)
            metrics[f"{split}_without_{'_'.join(OPTICAL_ONLY)}"] = score_patches(
                predict, patches, indices, absent=OPTICAL_ONLY
            )
    return {name: scores.to_dict() for name, scores in metrics.items()}


def speaks() -> bool:
    """Whether this process talks to people: of those that train together, the first one does."""
    return os.environ.get("RANK", "0") == "0"


def train_from_config(
    path: str | Path, out: str | Path, *, work: str | Path | None = None, quiet: bool = False
) -> weights.Card:
    """:func:`train` by the recipe in a YAML file, with live progress on the terminal unless ``quiet``.

    Raises:
        ConfigError: if the recipe is not one; and whatever :func:`train` raises.
    """
    config = load_config(Path(path))
    folder = None if work is None else Path(work)
    with nullcontext() if quiet or not speaks() else live_progress() as progress:
        return train(config, out=Path(out), work=folder, progress=progress)
