"""The state of a training after a whole epoch: one safetensors file, replaced as a whole, never pickled.

Tensors are named ``model/...`` (the last epoch's weights), ``best/...`` and ``optimizer/<parameter>/<key>``;
everything else is JSON in the header. One file, so that weights and optimiser can never be of two epochs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cryoscale.errors import OutputError
from cryoscale.learn.scores import Scores

Tensors = dict[str, torch.Tensor]


@dataclass
class TrainState:
    """Where a training stands: ``epoch`` whole epochs are done."""

    epoch: int = 0
    curves: list[dict[str, float]] = field(default_factory=list)
    best_scores: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    model: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    optimizer: Tensors = field(default_factory=dict)

    def record(
        self, epoch: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, scores: Scores
    ) -> None:
        """Takes over the state after ``epoch``; keeps the weights as best if the mean IoU has risen."""
        self.epoch, self.model = epoch, _copy(model.state_dict())
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


def save_state(state: TrainState, path: Path, fingerprint: str) -> None:
    """Writes the state beside ``path`` and then moves it there, so that a kill leaves the older one whole."""
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
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part_path = path.with_suffix(".part")
    # safetensors refuses two names for one memory, which best and model are after a best epoch.
    save_file(
        {name: value.clone() for name, value in tensors.items()}, part_path, {"state": json.dumps(plain)}
    )
    part_path.replace(path)


def load_state(path: Path, fingerprint: str) -> TrainState | None:
    """The state at ``path``, or None where there is none.

    Raises:
        OutputError: if the file is no state, or was left by a training with other settings.
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
        raise OutputError(f"training state {path} of other settings", "the state of this recipe", do)
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
