"""The state of a training after a whole epoch: one safetensors file, replaced as a whole, never pickled.

Tensors are named ``model/...`` (the last epoch's weights), ``best/...`` and ``optimizer/<parameter>/<key>``;
everything else is JSON in the header. One file, so that weights and optimiser can never be of two epochs.
What cannot be written (a full disk) ends the training in one line and leaves the state before it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cryoscale.errors import OutputError, TrainingError
from cryoscale.learn.scores import Scores

Tensors = dict[str, torch.Tensor]


@dataclass
class TrainState:
    """Where a training stands: ``epoch`` whole epochs are done."""

    epoch: int = 0
    curves: list[dict[str, Any]] = field(default_factory=list)
    best_scores: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    model: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    optimizer: Tensors = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    def record(
        self, epoch: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, scores: Scores
    ) -> None:
        """Takes over the state after ``epoch``; keeps the weights as best if the mean IoU has risen.

        Raises:
            TrainingError: if a weight is not finite; the state stays as it was.
        """
        tensors = _copy(model.state_dict())
        for name, value in tensors.items():
            if not math.isfinite(float(value.double().sum())):
                raise TrainingError(
                    f"the weights are no longer finite after epoch {epoch} ({name}); the state of epoch "
                    f"{self.epoch} is kept: lower learning_rate or set clip_norm"
                )
        self.epoch, self.model = epoch, tensors
        self.optimizer = {
            f"{index}/{key}": value.detach().cpu().contiguous()
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        best = Scores.from_dict(self.best_scores).mean_iou if self.best_scores else float("-inf")
        # The first epoch counts as best even without any validation pixel, so that there is always one.
        if not self.best or scores.mean_iou > best:
            self.best, self.best_scores, self.best_epoch = self.model, scores.to_dict(), epoch

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Puts weights and optimiser back to where they stood."""
        model.load_state_dict(self.model)
        states: dict[int, Tensors] = {}
        for name, value in self.optimizer.items():
            index, key = name.split("/")
            states.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path``, which takes its place once written whole: a kill leaves the older one.

    Raises:
        TrainingError: if it cannot be written; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with told_as(path):
        try:
            yield part
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def told_as(path: Path) -> Iterator[None]:
    """Whatever keeps ``path`` from being written becomes one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be written ({error}); what was there before is kept: make room and train again, "
            "which goes on from the last whole epoch"
        ) from error


def save_state(state: TrainState, path: Path, fingerprint: str) -> None:
    """Writes the state in the place of the one before.

    Raises:
        TrainingError: if it cannot be written; the one before stays.
    """
    tensors = {
        f"{part}/{name}": value
        for part in ("model", "best", "optimizer")
        for name, value in getattr(state, part).items()
    }
    plain = {
        "fingerprint": fingerprint,
        "epoch": state.epoch,
        "curves": state.curves,
        "best_scores": state.best_scores,
        "best_epoch": state.best_epoch,
        "scaler": state.scaler,
    }
    # safetensors refuses two names for one memory, which best and model are after a best epoch.
    separate = {name: value.clone() for name, value in tensors.items()}
    with replacing(path) as part:
        save_file(separate, part, {"state": json.dumps(plain)})


def load_state(path: Path, fingerprint: str) -> TrainState | None:
    """The state at ``path``, or None where there is none.

    Raises:
        OutputError: if the file is no state, or was left by a training with other settings or patches.
    """
    if not path.exists():
        return None
    do = "remove it to start afresh, or choose another work folder"
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads(file.metadata()["state"])
            names = file.keys()
            tensors: Tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise OutputError(f"training state {path}", "a state that cryoscale has saved", do) from None
    if plain.pop("fingerprint") != fingerprint:
        given = f"training state {path} of other settings or other patches"
        raise OutputError(given, "the state of this recipe on these patches", do)
    return TrainState(
        **plain,
        model=_part(tensors, "model/"),
        best=_part(tensors, "best/"),
        optimizer=_part(tensors, "optimizer/"),
    )


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _copy(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
