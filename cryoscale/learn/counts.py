"""Confusion matrices of tensors, counted where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoscale.learn.scores import CLASS_NAMES, NO_DATA


def confusion_on_device(truth: Tensor, predicted: Tensor) -> Tensor:
    """As :func:`cryoscale.learn.scores.confusion_matrix`, of int64 labels; (k,k) int64 on their device.

    Truth is 0..k-1 or 255, which is left out; what is predicted is 0..k-1.
    """
    k = len(CLASS_NAMES)
    cell = torch.where(truth == NO_DATA, k * k, truth * k + predicted)
    return torch.bincount(cell.flatten(), minlength=k * k + 1)[: k * k].reshape(k, k)
