"""The end of a row of the lattice as one kernel in Triton; :class:`merge.Merger` in steps is its oracle.

Sixty steps of torch read and write the probabilities of a row over and over, which is some twentieth of what
the network takes for it; here each pixel gathers its tiles once and leaves as bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from cryoscale.infer.encode import NO_DATA, SCALE

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK = 128
"""Pixels a program."""


def finish(
    kept: Tensor,
    hann: Tensor,
    valid: Tensor,
    bands: Mapping[str, Tensor],
    misfit: Tensor,
    *,
    row: int,
    down: int,
    phase: int,
    stride: int,
    entropy: bool,
) -> Tensor:
    """Blend and encode rows of pixels; what the confidence is read off (h, w) comes back, float32.

    Args:
        kept: tiles (deep, cols, s, s, k) float32 of the last rows of the lattice, row r at ``r % deep``.
        hann: weights (s,) along an axis.
        valid: mask (h, w) of the pixels to map.
        bands: ``probability`` (k, h, w), ``label`` and ``disagreement`` (h, w), u1, of the same pixels.
        misfit: int32 (1,), set to 1 where a valid pixel got no finite answer.
        row: of the lattice, counted from 0.
        down: rows between its origin and the first row of pixels.
        phase: columns between the first tile's origin and the first column of pixels.
        stride: distance of the tiles.
        entropy: whether confidence is by entropy, else by the largest share.
    """
    deep, cols, size, _, classes = kept.shape
    height, width = valid.shape
    sure = torch.empty(valid.shape, dtype=torch.float32, device=valid.device)
    probability, label, disagreement = (bands[name] for name in ("probability", "label", "disagreement"))
    _finish[(triton.cdiv(width, _BLOCK), height)](
        kept,
        hann,
        valid.view(torch.uint8),
        probability,
        label,
        disagreement,
        sure,
        misfit,
        row,
        down,
        phase,
        width,
        valid.stride(0),
        probability.stride(0),
        label.stride(0),
        float(SCALE),
        stride,
        size,
        cols,
        deep,
        classes,
        triton.next_power_of_2(classes),
        _BLOCK,
        NO_DATA,
        entropy,
    )
    return sure


@triton.jit
def _byte(share, SCALE, NOTHING: tl.constexpr):
    """Nearest whole number of ``SCALE * share``, ties to even as torch rounds; NaN becomes no data."""
    scaled = tl.minimum(tl.maximum(share, 0.0), 1.0) * SCALE
    # beyond 2^23 a float32 has no fraction left, and adding rounds to even
    nearest = (scaled + 12582912.0) - 12582912.0
    return tl.where(share == share, nearest, NOTHING)


@triton.jit
def _finish(
    kept,
    hann,
    valid,
    probability,
    label,
    disagreement,
    sure,
    misfit,
    row,
    down,
    phase,
    width,
    valid_row,
    plane,
    band_row,
    scale,
    STRIDE: tl.constexpr,
    SIZE: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    K: tl.constexpr,
    KS: tl.constexpr,
    BLOCK: tl.constexpr,
    NOTHING: tl.constexpr,
    ENTROPY: tl.constexpr,
):
    y = tl.program_id(1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = x < width
    k = tl.arange(0, KS)
    one = k < K
    across = phase + x
    mean = tl.zeros([BLOCK, KS], tl.float32)
    spread = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for a in tl.static_range(DEEP):
        above = DEEP - 1 - a
        inside = down + y + above * STRIDE
        weight_y = tl.load(hann + inside, mask=inside < SIZE, other=0.0)
        inside = tl.minimum(inside, SIZE - 1)
        slot = (row - above + DEEP) % DEEP
        for b in tl.static_range(DEEP):
            before = DEEP - 1 - b
            at = across % STRIDE + before * STRIDE
            covered = there & (at < SIZE)
            weight = weight_y * tl.load(hann + at, mask=covered, other=0.0)
            which = tl.where(covered, across // STRIDE - before, 0)
            place = ((slot * COLS + which).to(tl.int64) * SIZE + inside) * SIZE + tl.where(covered, at, 0)
            tile = tl.load(
                kept + place[:, None] * K + k[None, :], mask=covered[:, None] & one[None, :], other=0.0
            )
            total += weight
            share = weight / tl.maximum(total, 1.1754943508222875e-38)
            ahead = tile - mean
            mean += share[:, None] * ahead
            spread += weight * tl.sum(ahead * (tile - mean), axis=1)
    apart = tl.sqrt(tl.maximum(spread / total, 0.0))
    ok = there & (tl.load(valid + y * valid_row + x, mask=there, other=0) != 0)
    finite = (apart == apart) & (apart != float("inf"))
    if tl.max(tl.where(ok & (finite == 0), 1, 0), axis=0) > 0:
        tl.store(misfit, 1)
    out = y * band_row + x
    packed = tl.where(ok[:, None], _byte(mean, scale, NOTHING), NOTHING)
    planes = probability + out[:, None] + k[None, :].to(tl.int64) * plane
    tl.store(planes, packed.to(tl.uint8), mask=there[:, None] & one[None, :])
    only = tl.where(one[None, :], mean, -1.0)
    largest = tl.argmax(only, axis=1, tie_break_left=True)
    tl.store(label + out, tl.where(ok, largest, NOTHING).to(tl.uint8), mask=there)
    tl.store(disagreement + out, tl.where(ok, _byte(apart, scale, NOTHING), NOTHING).to(tl.uint8), mask=there)
    if ENTROPY:
        log = tl.log(tl.maximum(mean, 1.1754943508222875e-38))
        spent = -tl.sum(tl.where(one[None, :], mean * log, 0.0), axis=1)
        certain = tl.minimum(tl.maximum(1.0 - spent / tl.log(K * 1.0), 0.0), 1.0)
        certain = tl.where(spent == spent, certain, spent)
    else:
        certain = tl.max(only, axis=1)
    tl.store(sure + y * width + x, certain, mask=there)
