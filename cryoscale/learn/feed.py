"""What a training eats: batches of changed crops to learn from, and whole patches to be judged by.

Everything random is drawn from (seed, epoch), for the whole batch, by every process that shares it;
only the crops of the own share are then read. On a GPU the patches lie on it, where they fit, and are changed
there (:mod:`cryoscale.learn.resident`): the same crops, to the rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryoscale.learn.augment import Variant, apply
from cryoscale.learn.patches import Patches
from cryoscale.learn.places import code_of
from cryoscale.learn.ranks import Ranks
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.resident import Crop, Resident, fits


@dataclass(frozen=True)
class Standard:
    """Per-channel mean and deviation (c,): physical values in, network input out."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __call__(self, x: NDArray[np.float32]) -> torch.Tensor:
        """Standardised batch (n,c,h,w); what is not finite becomes 0, the training mean."""
        scaled = (x - self.mean[:, np.newaxis, np.newaxis]) / self.std[:, np.newaxis, np.newaxis]
        known = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
        return torch.from_numpy(known).to(memory_format=torch.channels_last)

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (c,1,1) on a device."""
        mean, std = (torch.from_numpy(values).to(device)[:, None, None] for values in (self.mean, self.std))
        return mean, std


def standard_of(patches: Patches) -> Standard:
    """Mean and deviation of the channels over the training patches."""
    mean, std = patches.statistics(patches.indices("train"))
    return Standard(mean.astype(np.float32), std.astype(np.float32))


@dataclass(frozen=True)
class Batch:
    """Standardised stacks (n,c,h,w), labels (n,h,w) int64, and, if they are wanted, the location codes (n,4)
    of their centres; all on the device."""

    x: torch.Tensor
    y: torch.Tensor
    location: torch.Tensor | None

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """What the network is called with."""
        return (self.x,) if self.location is None else (self.x, self.location)


class Feed:
    """The batches of a training, this process's share of each.

    Args:
        patches: the set.
        config: the recipe.
        ranks: the processes that train together.
        located: whether the network wants to know where crops lie.
        device: where batches go.
        standard: of the channels; None takes the mean and deviation of the training patches.
    """

    def __init__(
        self,
        patches: Patches,
        config: TrainConfig,
        ranks: Ranks,
        *,
        located: bool,
        device: torch.device,
        standard: Standard | None = None,
    ) -> None:
        self.patches, self.config, self.ranks, self.located = patches, config, ranks, located
        self.device = device
        self.train_indices, self.validation_indices = patches.indices("train"), patches.indices("validation")
        # Whole batches only: batch norm cannot train on a single crop, and the rest has its turn next epoch.
        self.steps = len(self.train_indices) * config.crops // config.batch
        needed = np.concatenate([self.train_indices, self.validation_indices])
        self._resident = (
            Resident(patches, needed, config.augment, device) if fits(patches, len(needed), device) else None
        )
        self.standard = standard or self._standard()
        self._mean, self._std = self.standard.on(device)

    def _standard(self) -> Standard:
        if self._resident is None:
            return standard_of(self.patches)
        mean, std = self._resident.statistics(self.train_indices)
        return Standard(mean.astype(np.float32), std.astype(np.float32))

    def training(self, epoch: int, steps: int) -> Iterator[Batch]:
        """The first ``steps`` batches of an epoch."""
        rng = np.random.default_rng([self.config.seed, epoch])
        order = rng.permutation(np.repeat(self.train_indices, self.config.crops))
        for step in range(steps):
            chosen = order[step * self.config.batch : (step + 1) * self.config.batch]
            drawn = [self._draw(int(index), rng) for index in chosen]
            yield self._batch(self.ranks.share(drawn))

    def validation(self) -> Iterator[Batch | None]:
        """The validation patches as they are; None where this process has no share of a batch."""
        whole = [Crop(int(index), 0, 0, self.patches.patch_px) for index in self.validation_indices]
        for start in range(0, len(whole), self.config.batch):
            share = self.ranks.share(whole[start : start + self.config.batch])
            yield self._batch(share) if share else None

    def _draw(self, index: int, rng: np.random.Generator) -> Crop:
        whole = self.patches.patch_px
        size = min(self.config.crop_px or whole, whole)
        row, col = map(int, rng.integers(0, whole - size + 1, 2))
        return Crop(index, row, col, size, Variant.draw(self.config.augment, rng))

    def _batch(self, crops: Sequence[Crop]) -> Batch:
        location = None
        if self.located:
            location = torch.from_numpy(np.stack([self._code(crop) for crop in crops])).to(self.device)
        if self._resident is not None:
            return Batch(*self._resident.batch(crops, self._mean, self._std), location)
        pairs = [self._read(crop) for crop in crops]
        x = self.standard(np.stack([x for x, _ in pairs])).to(self.device)
        y = torch.from_numpy(np.stack([y for _, y in pairs]).astype(np.int64)).to(self.device)
        return Batch(x, y, location)

    def _read(self, crop: Crop) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        here = (slice(crop.row, crop.row + crop.size), slice(crop.col, crop.col + crop.size))
        x, y = self.patches.read(crop.index, here)
        if crop.variant is None:
            return x, y
        return apply(crop.variant, x, y, self.patches.channels, self.config.augment)

    def _code(self, crop: Crop) -> NDArray[np.float32]:
        return code_of(self.patches, crop.index, row=crop.row, col=crop.col, size_px=crop.size)
