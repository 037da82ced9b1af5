"""A task that is learnt in seconds, for tests of training: patches whose classes one channel tells apart.

``python -m tests.toy_training train ...`` is the command line with the toy networks among the
architectures, so that processes of their own can train them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoscale.features.stack import CHANNELS
from cryoscale.learn.patches import PatchWriter, Place
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.train import train
from cryoscale.models import weights

PCA = {"mean": [0.1] * 12, "components": np.eye(3, 12).tolist()}
SMALL = {"encoder": "resnet10w16", "decoder_channels": [16, 16, 16, 16, 16]}


class Plain(nn.Module):
    """Two convolutions without batch norm, so that an image does not depend on its neighbours in a batch.

    Like a U-Net++ it has a weight that it never uses, which must stay as it is, weight decay or not.
    After ``sound_steps`` forward passes in training its logits are no longer finite, if that is given; if it
    is ``steep``, its very first gradient is not, though its loss is.
    """

    def __init__(
        self, in_channels: int, classes: int, sound_steps: int | None = None, steep: bool = False
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)
        self.idle = nn.Parameter(torch.ones(3))
        self.left = sound_steps
        self.bias = nn.Parameter(torch.zeros(1)) if steep else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(x))
        if self.bias is not None:
            y = y + self.bias.sqrt()
        if self.training and self.left is not None:
            self.left -= 1
            y = y * (1.0 if self.left >= 0 else float("inf"))
        return y


class Normed(Plain):
    """The same with a batch norm and dropout in its encoder, and a second head while training."""

    auxiliary_weight = 0.5

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes)
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
        )
        self.auxiliary = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Any:
        seen = self.encoder(x)
        return (self.head(seen), self.auxiliary(seen)) if self.training else self.head(seen)


class Located(nn.Module):
    """Knows nothing but where it is."""

    needs_location = True

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor, location: Tensor) -> Tensor:
        return self.head(location)[:, :, None, None].expand(-1, -1, *x.shape[2:])


TOYS = {
    name: f"tests.toy_training:{network.__name__}"
    for name, network in (("toy-plain", Plain), ("toy-normed", Normed), ("toy-located", Located))
}


@pytest.fixture(scope="module", autouse=True)
def toy_networks() -> Iterator[None]:
    """In a module that imports this, a recipe can name the toy networks; elsewhere nobody knows of them."""
    weights.ARCHITECTURES.update(TOYS)
    yield
    for name in TOYS:
        del weights.ARCHITECTURES[name]


def make_patches(
    path: Path,
    *,
    classes: int = 5,
    patch_px: int = 32,
    offset: float = 0.0,
    count: int = 12,
    seed: int = 0,
    **attrs: Any,
) -> Path:
    """Patches of which the last third is for validation; ``offset`` shifts the channel that tells classes."""
    rng = np.random.default_rng(seed)
    writer = PatchWriter(path, channels=CHANNELS, patch_px=patch_px)
    cell = patch_px // 4
    for i in range(count):
        y = np.repeat(np.repeat(rng.integers(0, classes, (4, 4)), cell, 0), cell, 1).astype(np.uint8)
        x = rng.normal(0.3, 0.05, (30, patch_px, patch_px)).astype(np.float32)
        x[1] += y * 0.3 + offset
        x[18], x[19], x[21] = 10, 45, np.nan
        # Patches differ in how much of them is labelled: a mean of means is no mean of pixels.
        y[: (i % 4) * cell] = 255
        split = "train" if i < count * 2 // 3 else "validation"
        writer.add(x, y, Place(32645, -310_000, 40_000 + patch_px * i, i, "median", split))
    writer.finish(**{"pca": PCA, "split": "by hand", "source": "a test", **attrs})
    return path


def recipe(patches: Path, **changes: Any) -> TrainConfig:
    """A recipe for the toy patches; a change to None leaves the setting out."""
    values: dict[str, Any] = {
        "name": "toy",
        "patches": patches,
        "model": {"name": "toy-plain"},
        "epochs": 3,
        "batch": 4,
        "learning_rate": 1e-2,
        "device": "cpu",
        "seed": 3,
    }
    given = {**values, **changes}
    return TrainConfig(**{name: value for name, value in given.items() if value is not None})


def trained(folder: Path) -> Path:
    """The folder, with sound ``patches.zarr`` and ``toy.safetensors`` trained on them."""
    torch.set_num_threads(1)
    train(recipe(make_patches(folder / "patches.zarr"), epochs=1), out=folder / "toy.safetensors")
    return folder


if __name__ == "__main__":
    from cryoscale.cli import main

    weights.ARCHITECTURES.update(TOYS)
    torch.set_num_threads(1)
    main()
