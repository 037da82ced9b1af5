"""The training loop: weighted cross-entropy and Adam over a patch set, resumable to the bit on a CPU.

The protocol follows the published CryoNet study (Barzegar et al. 2026, https://arxiv.org/abs/2605.21527):
Adam, learning rate 3e-4, weight decay 1e-4, class-frequency weights. Everything random is drawn from
(seed, epoch), so an epoch is a pure function of the state before it, and a run that was killed goes on
from its last whole epoch to the same result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format

from cryoscale.learn import calibrate
from cryoscale.learn.augment import augment
from cryoscale.learn.checkpoint import TrainState, load_state, save_state
from cryoscale.learn.patches import Patches
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA, Scores, confusion_matrix
from cryoscale.models.predictor import choose_device

Progress = Callable[[dict[str, Any]], None]

HOLD_BYTES = 2 << 30
"""Patches are kept in memory up to this."""


@dataclass(frozen=True)
class Standard:
    """Per-channel mean and deviation (c,): physical values in, network input out."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __call__(self, x: NDArray[np.float32]) -> torch.Tensor:
        """Standardised batch (n,c,h,w); NaN becomes 0, the training mean."""
        scaled = (x - self.mean[:, np.newaxis, np.newaxis]) / self.std[:, np.newaxis, np.newaxis]
        return torch.from_numpy(np.nan_to_num(scaled, nan=0.0)).to(memory_format=torch.channels_last)


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
    curves: list[dict[str, float]]


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
    progress: Progress | None = None,
) -> Fit:
    """Trains ``model`` in place on the training patches; returns it with its best epoch's weights.

    Best is the highest mean IoU on the validation patches. ``state_path`` holds the state after the last
    whole epoch; where it exists and was made by the same configuration, training goes on from it.
    """
    device = choose_device(config.device)
    loop = _Loop(model, patches, config, device)
    state = load_state(state_path, config.fingerprint) or TrainState()
    if state.epoch:
        state.restore(model, loop.optimizer)
    for epoch in range(state.epoch, config.epochs):
        started = time.perf_counter()
        loss = loop.train_epoch(epoch, progress)
        scores, validation_loss = loop.validate()
        state.curves.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "validation_loss": validation_loss,
                "validation_mean_iou": scores.mean_iou,
                "validation_accuracy": scores.accuracy,
                "seconds": round(time.perf_counter() - started, 2),
            }
        )
        state.record(epoch + 1, model, loop.optimizer, scores)
        save_state(state, state_path, config.fingerprint)
        state_path.with_name("curves.json").write_text(json.dumps(state.curves, indent=1))
        if progress:
            progress({"kind": "epoch", "epochs": config.epochs, **state.curves[-1]})
    model.load_state_dict(state.best)
    model.eval()
    scores = Scores.from_dict(state.best_scores)
    return Fit(model, loop.standard, scores, state.best_epoch, loop.class_counts.tolist(), state.curves)


class _Loop:
    """The parts that an epoch needs, made once."""

    def __init__(
        self, model: torch.nn.Module, patches: Patches, config: TrainConfig, device: torch.device
    ) -> None:
        self.config, self.patches, self.device = config, patches, device
        self.train_indices, self.validation_indices = patches.indices("train"), patches.indices("validation")
        mean, std = patches.statistics(self.train_indices)
        self.standard = Standard(mean.astype(np.float32), std.astype(np.float32))
        self.class_counts = patches.class_counts(self.train_indices, len(CLASS_NAMES))
        weights = class_weights(self.class_counts, config.class_weight_power)
        self.weights = torch.from_numpy(weights).to(device)
        self.model = convert_conv2d_weight_memory_format(model.to(device), torch.channels_last)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        # Whole batches only: batch norm cannot train on a single crop, and the rest has its turn next epoch.
        self.steps = max(1, len(self.train_indices) * config.crops // config.batch)
        patches.hold(HOLD_BYTES)

    def train_epoch(self, epoch: int, progress: Progress | None) -> float:
        """One pass over the training patches; returns the mean loss."""
        self.model.train()
        losses = []
        for step, (x, y) in enumerate(self._training_batches(epoch)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.rate_at(
                    (epoch * self.steps + step) / (self.config.epochs * self.steps)
                )
            loss = self._loss(self._forward(x), y)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            losses.append(float(loss.detach()))
            if progress:
                progress(
                    {
                        "kind": "step",
                        "epoch": epoch + 1,
                        "step": step + 1,
                        "steps": self.steps,
                        "loss": losses[-1],
                    }
                )
        return float(np.mean(losses))

    @torch.inference_mode()
    def validate(self) -> tuple[Scores, float]:
        """Scores and mean loss on the validation patches."""
        self.model.eval()
        confusion = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
        losses = []
        for x, y in self.patches.batches(self.validation_indices, self.config.batch):
            logits = self._forward(x)
            losses.append(float(self._loss(logits, y)))
            confusion += confusion_matrix(y, logits.argmax(1).cpu().numpy(), len(CLASS_NAMES))
        return Scores(confusion), float(np.mean(losses)) if losses else float("nan")

    def _forward(self, x: NDArray[np.float32]) -> torch.Tensor:
        batch = self.standard(x).to(self.device)
        # bf16 only on CUDA: on CPU the backward pass of wide scSE gates corrupts memory (torch 2.13).
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits: torch.Tensor = self.model(batch)
        return logits.float()

    def _loss(self, logits: torch.Tensor, y: NDArray[np.uint8]) -> torch.Tensor:
        target = torch.from_numpy(y.astype(np.int64)).to(self.device)
        total = functional.cross_entropy(
            logits, target, weight=self.weights, ignore_index=NO_DATA, reduction="sum"
        )
        # Not reduction="mean": a batch without a labelled pixel would be 0/0 and end the training.
        return total / self._weight_of(y)

    def _weight_of(self, y: NDArray[np.uint8]) -> float:
        counts = np.bincount(y.ravel(), minlength=NO_DATA + 1)[: len(CLASS_NAMES)]
        return max(float(counts @ self.weights.cpu().numpy()), 1.0)

    def _training_batches(self, epoch: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        rng = np.random.default_rng([self.config.seed, epoch])
        order = rng.permutation(np.repeat(self.train_indices, self.config.crops))
        for step in range(self.steps):
            chosen = order[step * self.config.batch : (step + 1) * self.config.batch]
            pairs = [self._variant(index, rng) for index in chosen]
            yield np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])

    def _variant(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        whole = self.patches.patch_px
        crop = min(self.config.crop_px or whole, whole)
        row, col = rng.integers(0, whole - crop + 1, 2)
        x, y = self.patches.read(index, (slice(row, row + crop), slice(col, col + crop)))
        return augment(x, y, self.patches.channels, self.config.augment, rng)


@torch.inference_mode()
def fit_temperature(
    model: torch.nn.Module, standard: Standard, patches: Patches, indices: Sequence[int] | NDArray[np.int64]
) -> float:
    """Temperature that minimises the negative log-likelihood of the labels under softmax(logits / T).

    Guo et al. 2017, https://arxiv.org/abs/1706.04599. Up to 2000 labelled pixels are drawn from each patch,
    with a fixed seed; without any the temperature is 1.
    """
    rng = np.random.default_rng(0)
    device = next(model.parameters()).device
    model.eval()
    logits, labels = [], []
    for index in indices:
        x, y = patches.read(index)
        known = np.flatnonzero(y.ravel() != NO_DATA)
        drawn = rng.permutation(known)[:2000]
        out = model(standard(x[np.newaxis]).to(device)).float().cpu()[0].flatten(1)
        logits.append(out[:, drawn].T.double().numpy())
        labels.append(y.ravel()[drawn])
    if not labels or not sum(map(len, labels)):
        return 1.0
    return calibrate.fit_temperature(calibrate.Sample(np.concatenate(logits), np.concatenate(labels)))
