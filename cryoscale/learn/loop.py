"""The training loop: Adam over a patch set, resumable to the bit on a CPU.

The protocol follows the published CryoNet study (Barzegar et al. 2026, https://arxiv.org/abs/2605.21527):
Adam, learning rate 3e-4, weight decay 1e-4, class-frequency weights. Everything random is drawn from
(seed, epoch), so an epoch is a pure function of the state before it, and a run that was killed goes on
from its last whole epoch to the same result: to the bit on a CPU with as many threads; on a GPU up to the
order in which its kernels add.

Precision: bf16 needs no loss scale, its exponents are those of fp32; fp16 scales the loss, and leaves out
steps whose scaled gradient overflows. On a CPU only fp32 is offered: in torch 2.13 the backward pass of the
deepest scSE gate (a 1x1 convolution of 3072 channels) in bf16 corrupts memory there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import convert_conv2d_weight_memory_format

from cryoscale.errors import ConfigError, TrainingError
from cryoscale.learn import calibrate
from cryoscale.learn.checkpoint import TrainState, load_state, save_state
from cryoscale.learn.counts import confusion_on_device
from cryoscale.learn.feed import Batch, Feed, Standard, standard_of
from cryoscale.learn.losses import make_loss
from cryoscale.learn.patches import Patches
from cryoscale.learn.places import code_of
from cryoscale.learn.ranks import ALONE, Ranks
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA, Scores
from cryoscale.models.predictor import choose_device

__all__ = ["Fit", "Progress", "Standard", "Start", "class_weights", "fit", "fit_temperature", "standard_of"]

Progress = Callable[[dict[str, Any]], None]

HOLD_BYTES = 2 << 30
"""Patches are kept in memory up to this."""

LOOK = 16
"""Steps on a GPU from one look at the losses to the next."""

TOLD_AT_ONCE = 16
"""Patches that a GPU is asked about at once after a training; a CPU gains nothing by more than one."""


@dataclass(frozen=True)
class Start:
    """Where a training starts from.

    Attributes:
        standard: of the channels; None takes the mean and deviation of the training patches.
        fine_tuned: whether the network's weights were learnt before: they are then judged before
            anything is learnt, and stay the best ones until an epoch is better.
        ranks: the processes that train together.
        more: what identifies the training beside its recipe.
    """

    standard: Standard | None = None
    fine_tuned: bool = False
    ranks: Ranks = ALONE
    more: str = ""


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` leaves: the best network, its standardisation, and how it got there.

    ``scores`` are those of the best epoch on the validation patches, ``class_counts`` the labelled pixels
    of each class in the training patches, ``curves`` one row of figures an epoch.
    """

    model: torch.nn.Module
    standard: Standard
    scores: Scores
    best_epoch: int
    class_counts: list[int]
    curves: list[dict[str, Any]]


def class_weights(counts: NDArray[np.int64], power: float) -> NDArray[np.float32]:
    """Loss weights (k,) that fall with class frequency: ``(mean count / count) ** power``, mean 1.

    Power 1 is the inverse frequency; 0.5 costs the common classes less precision. A class without any
    pixel gets weight 0.
    """
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = (counts[present].mean() / counts[present]) ** power
    weights[present] /= weights[present].mean()
    return weights.astype(np.float32)


def fit(
    model: torch.nn.Module,
    patches: Patches,
    config: TrainConfig,
    *,
    state_path: Path,
    start: Start | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[TrainState, Standard], None] | None = None,
) -> Fit:
    """Trains ``model`` in place on the training patches; returns it with its best epoch's weights.

    Best is the highest mean IoU on the validation patches, over the classes that they have.
    ``state_path`` holds the state after the last whole epoch; where it exists and was made by the same
    configuration, training goes on from it. ``on_epoch`` is called by the first process after each state
    that it has written, and for the one that is gone on from: a kill may have come between the two.

    Raises:
        TrainingError: if the loss is no longer finite, or a state cannot be written; the last one is kept.
        ConfigError: if batches, precision and network do not go together.
        OutputError: if ``state_path`` holds a state of another training.
    """
    start = start or Start()
    loop = _Loop(model, patches, config, start)
    fingerprint = f"{config.fingerprint}{start.more}"
    state = load_state(state_path, fingerprint) or TrainState()
    if state.epoch or state.best:
        state.restore(loop.model, loop.optimizer)
        loop.scaler.load_state_dict(state.scaler)
        if on_epoch and start.ranks.first and state.epoch < loop.epochs:
            on_epoch(state, loop.standard)

    def keep(row: dict[str, Any], scores: Scores) -> None:
        state.curves.append(row)
        state.record(row["epoch"], loop.model, loop.optimizer, scores)
        state.scaler = loop.scaler.state_dict()
        if start.ranks.first:
            save_state(state, state_path, fingerprint)
            if on_epoch:
                on_epoch(state, loop.standard)
        if progress:
            progress({"kind": "epoch", "epochs": loop.epochs, **row})

    if start.fine_tuned and not state.best:
        began = time.perf_counter()
        scores, loss = loop.validate()
        keep(_row(0, None, loss, scores, 0.0, began), scores)
    for epoch in range(state.epoch, loop.epochs):
        began = time.perf_counter()
        trained, rate = loop.train_epoch(epoch, progress)
        scores, loss = loop.validate()
        keep(_row(epoch + 1, trained, loss, scores, rate, began), scores)
    loop.model.load_state_dict(state.best)
    loop.model.eval()
    scores = Scores.from_dict(state.best_scores)
    return Fit(loop.model, loop.standard, scores, state.best_epoch, loop.class_counts.tolist(), state.curves)


def _row(
    epoch: int, loss: float | None, validation_loss: float, scores: Scores, rate: float, began: float
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": loss,
        "validation_loss": validation_loss,
        "validation_mean_iou": scores.mean_iou,
        "validation_accuracy": scores.accuracy,
        "validation_iou": dict(zip(scores.classes, map(float, scores.iou), strict=True)),
        "learning_rate": rate,
        "seconds": round(time.perf_counter() - began, 2),
    }


def choose_training_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of the forward pass: "auto" is bf16 on a GPU that has it, fp32 elsewhere.

    Raises:
        ConfigError: if the device cannot train in it.
    """
    if device.type != "cuda":
        if precision in ("bf16", "fp16"):
            raise ConfigError(f"precision {precision} on a CPU", "fp32 or auto there", "correct the recipe")
        return torch.float32
    if precision == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


class _Loop:
    """The parts that an epoch needs, made once."""

    def __init__(self, model: torch.nn.Module, patches: Patches, config: TrainConfig, start: Start) -> None:
        self.config, self.ranks = config, start.ranks
        self.device = choose_device(self.ranks.device(config.device))
        self.dtype = choose_training_precision(config.precision, self.device)
        self.feed = Feed(
            patches,
            config,
            self.ranks,
            located=bool(getattr(model, "needs_location", False)),
            device=self.device,
            standard=start.standard,
        )
        self.standard = self.feed.standard
        self.class_counts = patches.class_counts(self.feed.train_indices, len(CLASS_NAMES))
        weights = class_weights(self.class_counts, config.class_weight_power)
        self.loss = make_loss(config.loss, torch.from_numpy(weights).to(self.device))
        model = self.ranks.synchronise_norms(model.to(self.device), self.device)
        self.model = convert_conv2d_weight_memory_format(model, torch.channels_last)
        if config.freeze_encoder:
            self._encoder().requires_grad_(False)
        self.wrapped = self.ranks.wrap(self.model, self.device)
        learnt = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(
            learnt,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # one kernel instead of thousands; on a CPU its sums are others than those of older trainings
            fused=self.device.type == "cuda" or None,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.total = config.iterations or config.epochs * self.feed.steps
        self.epochs = math.ceil(self.total / self.feed.steps)
        patches.hold(HOLD_BYTES)

    def _encoder(self) -> torch.nn.Module:
        encoder = getattr(self.model, "encoder", None)
        if not isinstance(encoder, torch.nn.Module):
            given = f"freeze_encoder for a {type(self.model).__name__}"
            raise ConfigError(given, "a network with an encoder", "leave freeze_encoder out")
        return encoder

    def train_epoch(self, epoch: int, progress: Progress | None) -> tuple[float, float]:
        """One pass over the training patches; returns the mean loss and the last learning rate."""
        # Dropout draws from torch's own generator: seeded here, an epoch does not depend on those before.
        entropy = np.random.SeedSequence([self.config.seed, epoch, self.ranks.rank])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        self.model.train()
        if self.config.freeze_encoder:
            self._encoder().eval()  # or its batch norms would go on taking statistics
        first = epoch * self.feed.steps
        steps = min(self.feed.steps, self.total - first)
        losses: list[torch.Tensor] = []
        rate, told = 0.0, float("nan")
        for step, batch in enumerate(self.feed.training(epoch, steps)):
            rate = self.config.rate_at(first + step, self.total)
            losses.append(self._step(batch, rate))
            # To read a loss off a GPU is to wait for all steps before it.
            if self.device.type == "cpu" or (step + 1) % LOOK == 0 or step + 1 == steps:
                told = _finite(losses[-LOOK:], f"epoch {epoch + 1}, step {step + 1}")
            if progress:
                progress({"kind": "step", "epoch": epoch + 1, "step": step + 1, "steps": steps, "loss": told})
        return float(np.mean([float(loss) for loss in losses])), rate

    def _step(self, batch: Batch, rate: float) -> torch.Tensor:
        """One step; its loss, the second head's share of it left out, which may not be computed yet."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, value = self._training_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over the processes, of gradients that are parts of a sum.
        torch.autograd.backward(self.scaler.scale(loss * self.ranks.size))
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _training_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What is minimised, and of it the part that validation has too: a second head counts apart."""
        try:
            with self._mixed():
                answer = self.wrapped(*batch.inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            given = f"batch {self.config.batch} on {self.ranks.size} processes"
            raise ConfigError(given, "2 patches a process, for batch norm", "raise the batch") from None
        logits, *auxiliary = answer if isinstance(answer, tuple) else (answer,)
        loss = self._loss(logits, batch)
        value = loss.detach()
        for other in auxiliary:
            loss = loss + float(getattr(self.model, "auxiliary_weight", 1.0)) * self._loss(other, batch)
        return loss, value

    @torch.inference_mode()
    def validate(self) -> tuple[Scores, float]:
        """Scores and loss on the validation patches, all of them as one batch, however many fit into one."""
        self.model.eval()
        self.ranks.share_buffers(self.model)
        confusion = torch.zeros((len(CLASS_NAMES),) * 2, dtype=torch.int64, device=self.device)
        # of one pixel without a label, which adds nothing: a process may have no share of any batch
        logits = torch.zeros((1, len(CLASS_NAMES), 1, 1), device=self.device)
        unknown = torch.full((1, 1, 1), NO_DATA, device=self.device)
        sums = self.loss.sums(logits, unknown).double()
        for batch in self.feed.validation():
            if batch is None:
                continue
            with self._mixed():
                logits = self.model(*batch.inputs)
            sums += self.loss.sums(logits.float(), batch.y)
            confusion += confusion_on_device(batch.y, logits.argmax(1))
        scores = Scores(self.ranks.total(confusion).cpu().numpy())
        loss = float(self.loss.value(self.ranks.total(sums)))
        return scores, loss if len(self.feed.validation_indices) else float("nan")

    def _mixed(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.loss.value(self.ranks.total(self.loss.sums(logits.float(), batch.y)))


def _finite(losses: Sequence[torch.Tensor], where: str) -> float:
    """The last of these losses.

    Raises:
        TrainingError: if one is not finite.
    """
    values = torch.stack(list(losses)).tolist()
    for value in values:
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in {where}; the state of the last whole epoch is "
                "kept: look at the patches, or start afresh with a lower learning_rate or clip_norm"
            )
    return float(values[-1])


@torch.inference_mode()
def fit_temperature(
    model: torch.nn.Module, standard: Standard, patches: Patches, indices: Sequence[int] | NDArray[np.int64]
) -> float:
    """Temperature that minimises the negative log-likelihood of the labels under softmax(logits / T).

    Guo et al. 2017, https://arxiv.org/abs/1706.04599. Up to 2000 labelled pixels are drawn from each patch,
    with a fixed seed; without any the temperature is 1.
    """
    rng = np.random.default_rng(0)
    device = next(iter(model.state_dict().values())).device
    at_once = 1 if device.type == "cpu" else TOLD_AT_ONCE
    model.eval()
    logits, labels = [], []
    for start in range(0, len(indices), at_once):
        part = indices[start : start + at_once]
        stacks, truths = zip(*map(patches.read, part), strict=True)
        inputs = [standard(np.stack(stacks)).to(device)]
        if getattr(model, "needs_location", False):
            inputs.append(torch.from_numpy(np.stack([code_of(patches, int(i)) for i in part])).to(device))
        for out, y in zip(model(*inputs).float().cpu(), truths, strict=True):
            known = np.flatnonzero(y.ravel() != NO_DATA)
            drawn = rng.permutation(known)[:2000]
            logits.append(out.flatten(1)[:, drawn].T.double().numpy())
            labels.append(y.ravel()[drawn])
    if not labels or not sum(map(len, labels)):
        return 1.0
    return calibrate.fit_temperature(calibrate.Sample(np.concatenate(logits), np.concatenate(labels)))
