"""Channels exchanged between patches that lie on a GPU, and what the model there then takes them for.

The twin of :func:`cryoscale.learn.importance.permuted`, whose arrays would cross to the GPU once for every
permutation: of each group of patches they do so once, standardised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoscale.learn.counts import confusion_on_device
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.models.serving import arithmetic, standardised

if TYPE_CHECKING:
    from cryoscale.models.predictor import Predictor


@dataclass(frozen=True, eq=False)
class Group:
    """Patches on the device of a model.

    Attributes:
        predictor: the model.
        x: standardised stacks (n,c,p,p).
        y: labels (n,p,p) int64.
        location: codes (n,4), where the model takes them.
        batch: patches that the model is given at once.
    """

    predictor: Predictor
    x: Tensor
    y: Tensor
    location: Tensor | None
    batch: int

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        x: NDArray[np.float32],
        y: NDArray[np.uint8],
        location: NDArray[np.float32] | None,
        batch: int,
    ) -> Group:
        """Physical stacks, labels and codes, brought to the device."""
        device, (mean, std) = predictor.device, predictor.standard
        on = torch.empty(x.shape, device=device)
        for slot, one in enumerate(x):
            on[slot] = standardised(torch.from_numpy(one).to(device), mean, std)
        codes = None if location is None else torch.from_numpy(location).to(device)
        return cls(predictor, on, torch.from_numpy(y).to(device).long(), codes, batch)

    @torch.inference_mode()
    def count(self, columns: Sequence[int], donors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Confusion matrix (k,k) with some channels exchanged.

        Args:
            columns: the channels, exchanged jointly.
            donors: whom each patch (n,), or each pixel (n*p*p,), has them from.
        """
        n, size = len(self.x), self.x[0, 0].numel()
        giving = torch.from_numpy(donors).to(self.x.device)
        total = torch.zeros((len(CLASS_NAMES),) * 2, dtype=torch.int64, device=self.x.device)
        for start in range(0, n, self.batch):
            here = slice(start, start + self.batch)
            part = self.x[here].clone()
            for column in columns:
                if len(giving) == n:
                    part[:, column] = self.x[giving[here], column]
                else:
                    flat = giving[start * size : (start + self.batch) * size]
                    part[:, column] = self.x[:, column].reshape(-1)[flat].reshape(part[:, column].shape)
            total += confusion_on_device(self.y[here], self._labels(part, here))
        found: NDArray[np.int64] = total.cpu().numpy()
        return found

    def _labels(self, x: Tensor, here: slice) -> Tensor:
        codes = () if self.location is None else (self.location[here],)
        bf16 = self.predictor.precision.startswith("bf16")
        with arithmetic(x.device), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            logits: Tensor = self.predictor.model(x.contiguous(memory_format=torch.channels_last), *codes)
        return logits.argmax(1)
