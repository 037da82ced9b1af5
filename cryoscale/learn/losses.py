"""Losses over labelled pixels, each a function of sums, so that batches can be shared between processes.

``sums`` adds over pixels: those of a batch are those of its parts together, whatever process holds them.
``value`` turns them into the loss. Pixels labelled 255 enter no sum. Logits are (n,k,h,w), labels (n,h,w).

* cross-entropy with class weights w: ``sum w_y (-log p_y) / sum w_y``.
* focal (Lin et al. 2017, https://arxiv.org/abs/1708.02002): ``sum w_y (1 - p_y)^gamma (-log p_y) / sum w_y``.
* Tversky (Salehi et al. 2017, https://arxiv.org/abs/1706.05721): the mean over the classes that have a pixel
  of ``1 - TP / (TP + alpha FP + beta FN)``, TP = sum p t, FP = sum p (1 - t), FN = sum (1 - p) t.
* Dice (Milletari et al. 2016, https://arxiv.org/abs/1606.04797, without the squares): Tversky with
  alpha = beta = 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cryoscale.learn.recipe import LossConfig
from cryoscale.learn.scores import NO_DATA


@dataclass(frozen=True)
class Loss:
    """A loss as what adds up over pixels, and what follows from the sums."""

    sums: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], Tensor]

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch: logits (n,k,h,w), labels (n,h,w) int64."""
        return self.value(self.sums(logits, labels))


def make_loss(config: LossConfig, weights: Tensor) -> Loss:
    """The loss of a recipe; ``weights`` (k,) are those of the classes."""
    if config.kind in ("dice", "tversky"):
        alpha, beta = (0.5, 0.5) if config.kind == "dice" else (config.alpha, config.beta)
        return Loss(_overlaps, lambda sums: _tversky(sums, alpha, beta))
    gamma = config.gamma if config.kind == "focal" else 0.0
    return Loss(lambda logits, labels: _weighted(logits, labels, weights, gamma), _quotient)


def _weighted(logits: Tensor, labels: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """(2,): the weighted sum of the pixels' losses, and the sum of their weights."""
    if gamma == 0:
        total = functional.cross_entropy(
            logits, labels, weight=weights, ignore_index=NO_DATA, reduction="sum"
        )
    else:
        plain = functional.cross_entropy(logits, labels, ignore_index=NO_DATA, reduction="none")
        # -expm1(-ce) is 1 - p without the cancellation near p = 1; the clamp keeps the power's slope finite.
        missing = (-torch.expm1(-plain)).clamp_min(torch.finfo(plain.dtype).tiny)
        known = labels != NO_DATA
        total = (weights[torch.where(known, labels, 0)] * known * missing**gamma * plain).sum()
    # Counted first and weighted in float64: a float32 sum over a million pixels would lose digits.
    # Not by bincount, which asks a GPU for the largest label, and so waits for it.
    counts = torch.stack([(labels == k).sum() for k in range(len(weights))])
    return torch.stack([total, (counts.double() @ weights.double()).to(total.dtype)])


def _quotient(sums: Tensor) -> Tensor:
    # A batch without a labelled pixel would be 0/0 and end the training; few pixels of a common class weigh
    # less than 1 in all, and are a mean nonetheless.
    return sums[0] / sums[1].clamp_min(torch.finfo(sums.dtype).tiny)


def _overlaps(logits: Tensor, labels: Tensor) -> Tensor:
    """(3, k): true positives, false positives and false negatives of every class, softly counted."""
    known = (labels != NO_DATA).unsqueeze(1)
    truth = functional.one_hot(torch.where(known[:, 0], labels, 0), logits.shape[1]).movedim(-1, 1)
    truth = truth.to(logits.dtype) * known
    given = logits.softmax(1) * known
    hit = (given * truth).sum((0, 2, 3))
    return torch.stack([hit, given.sum((0, 2, 3)) - hit, truth.sum((0, 2, 3)) - hit])


def _tversky(sums: Tensor, alpha: float, beta: float) -> Tensor:
    hit, false, missed = sums
    present = (hit + missed).detach() > 0.5  # whole pixels, softly counted: above rounding, below one
    index = hit / (hit + alpha * false + beta * missed).clamp_min(torch.finfo(sums.dtype).eps)
    mean: Tensor = torch.where(present, 1 - index, 0.0).sum() / present.sum().clamp_min(1)
    return mean
