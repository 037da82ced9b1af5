"""The steps of CryoNet between its convolutions, each reading and writing its maps as rarely as it can.

An scSE gate scales a pixel's channel by ``sigmoid(a(channel)) + sigmoid(b(pixel))``, where ``a`` is a small
network of the channels' means over the whole map, and ``b`` a product over the pixel's own channels (Roy
et al. 2019, https://arxiv.org/abs/1808.08127). So only the means have to be known beforehand: with them
doubling, joining and gating are one reading and one writing (:func:`join`), bias, ReLU and gating another two
and one (:func:`mean`, :func:`attend`), and the means of what is written are had on the way, once for all who
join it.

On a GPU these are kernels in Triton (:mod:`triton_gates`, :mod:`triton_means`); elsewhere plain torch, which
is their oracle. Sums are added up in a fixed order: the same map gives the same bits every time.

Maps are (n, c, h, w), channels last in memory. What a gate knows of their channels, means and what the
sigmoid takes, is (n, c), or of tiles larger than those learnt from (n, rows, cols, c): of neighbourhoods,
which lie as :func:`squeeze` and :func:`spread` say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cryoscale.models.cryonet import spread, squeeze


@dataclass(frozen=True, eq=False)
class PixelGate:
    """Weights (c,) and offset (1,) of the product over a pixel's channels, float32."""

    weight: Tensor
    offset: Tensor


def mean(
    x: Tensor, bias: Tensor | None = None, cells: tuple[int, int] | None = None, *, doubled: bool = False
) -> Tensor:
    """Means of the channels of ``x``, or of ``relu(x + bias)``; in the precision of ``x``.

    Args:
        x: (n, c, h, w).
        bias: (c,) float32.
        cells: of :func:`squeeze_cells`; without them the means are (n, c), else (n, rows, cols, c).
        doubled: of neighbourhoods of the map at twice its size, which differ where cells part pixels.
    """
    if x.is_cuda:
        from cryoscale.models import triton_means

        if cells is None:
            return triton_means.mean(x, bias)
        return triton_means.mean_by_place(x, bias, cells, 2 if doubled else 1)
    if cells is None:
        return _mean(x, bias)
    wide = _rectified(x, bias)
    if doubled:
        wide = F.interpolate(wide, scale_factor=2.0, mode="nearest")
    return squeeze(wide, cells).permute(0, 2, 3, 1).to(x.dtype)


def rectify_(x: Tensor, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """``relu(x + bias [+ other])`` in the place of ``x``; bias (c,) float32, other like ``x``."""
    if x.is_cuda:
        from cryoscale.models import triton_gates

        return triton_gates.rectify_(x, bias, other)
    total = _rectified(x, bias, other)
    return x.copy_(total)


def attend(
    x: Tensor, bias: Tensor, pixel: PixelGate, channel: Tensor, cells: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Gated ``relu(x + bias)`` and its means by ``cells``; the channels' sigmoid takes ``channel``."""
    if x.is_cuda:
        from cryoscale.models import triton_gates

        if cells is None:
            return triton_gates.attend(x, bias, pixel.weight, pixel.offset, channel)
        gated = triton_gates.attend_by_place(x, bias, pixel.weight, pixel.offset, channel)
    else:
        gated = _gated([_rectified(x, bias)], pixel, channel).to(x.dtype)
        if cells is None:
            return gated, _mean(gated)
    return gated, mean(gated, cells=cells)  # which the kernel that gates by place has not on its way


def join(low: Tensor, skips: Sequence[Tensor], pixel: PixelGate, channel: Tensor) -> Tensor:
    """``low`` (n, *, h, w) doubled and ``skips`` (n, *, 2h, 2w) side by side, gated together."""
    if low.is_cuda:
        from cryoscale.models import triton_gates

        return triton_gates.join(low, skips, pixel.weight, pixel.offset, channel)
    doubled = F.interpolate(low, scale_factor=2.0, mode="nearest")
    return _gated([doubled.float(), *(skip.float() for skip in skips)], pixel, channel).to(low.dtype)


def double(low: Tensor) -> Tensor:
    """``low`` (n, c, h, w) at twice its size (n, c, 2h, 2w), every pixel four times."""
    if low.is_cuda:
        from cryoscale.models import triton_gates

        return triton_gates.double(low)
    return F.interpolate(low, scale_factor=2.0, mode="nearest")


def rectified_pool(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``relu(x + bias)`` in the place of ``x``, and its largest of 3 x 3 at every second pixel."""
    if x.is_cuda:
        from cryoscale.models import triton_gates

        return triton_gates.rectified_pool(x, bias)
    return rectify_(x, bias), F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def softmax(logits: Tensor, bias: Tensor, classes: int, temperature: float) -> Tensor:
    """Probabilities (n, h, w, classes) float32 of the first ``classes`` of ``logits + bias`` (n, k, h, w)."""
    if logits.is_cuda:
        from cryoscale.models import triton_gates

        return triton_gates.softmax(logits, bias, classes, temperature)
    last = (logits.float() + bias[:, None, None])[:, :classes].permute(0, 2, 3, 1) / temperature
    return torch.softmax(last, dim=-1).contiguous()


def _mean(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return _rectified(x, bias).mean(dim=(2, 3)).to(x.dtype)


def _rectified(x: Tensor, bias: Tensor | None, other: Tensor | None = None) -> Tensor:
    total = x.float()
    if other is not None:
        total = total + other.float()
    return total if bias is None else F.relu(total + bias[:, None, None])


def _gated(parts: Sequence[Tensor], pixel: PixelGate, channel: Tensor) -> Tensor:
    joined = torch.cat(list(parts), dim=1)
    by_pixel = torch.sigmoid((joined * pixel.weight[:, None, None]).sum(dim=1, keepdim=True) + pixel.offset)
    by_channel = torch.sigmoid(channel.float())
    if channel.ndim == 2:
        by_channel = by_channel[:, :, None, None]
    else:
        by_channel = spread(by_channel.permute(0, 3, 1, 2), joined.shape[-2:])
    return (joined * (by_channel + by_pixel)).contiguous(memory_format=torch.channels_last)
