"""The kernels of :mod:`gates` in Triton, https://triton-lang.org, which comes with torch for GPUs.

A map is (n, p, c) to them: images, pixels, channels side by side. Means are in :mod:`triton_means`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cryoscale.models.triton_means import ELEMENTS, STEPS, mean_of_parts, power, sizes_of

_JOIN_MANY = 512
_JOIN_FEW = 32, 64, 4
_JOIN_MORE = 8, 256, 4
"""Pixels a program joins, channels at once, and warps: up to ``_JOIN_MANY`` channels and beyond; the best of
six each on an H200."""

_MOST_SKIPS = 4


def rectify_(x: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
    """As :func:`gates.rectify_`."""
    n, c, pixels = sizes_of(x)
    if other is not None:
        sizes_of(other)
    count = n * pixels * c
    block = 2048
    _rectify[(triton.cdiv(count, block),)](
        x, bias, x if other is None else other, count, c, block, other is not None
    )
    return x


def rectified_pool(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`gates.rectified_pool`."""
    n, c, _ = sizes_of(rectify_(x, bias, None))
    height, width = x.shape[2:]
    rows, cols = (height + 1) // 2, (width + 1) // 2
    out = torch.empty((n, c, rows, cols), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    count = rows * cols * c
    block = 1024
    _pool[(triton.cdiv(count, block), n)](x, out, count, height, width, cols, c, block)
    return x, out


def attend(x: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`gates.attend`."""
    n, c, pixels = sizes_of(x)
    width = power(c)
    rows = min(power(pixels), max(1, ELEMENTS // width))
    steps = max(1, min(STEPS, pixels // rows))
    parts = triton.cdiv(pixels, rows * steps)
    out = torch.empty_like(x)
    sums = torch.empty((n, parts, c), dtype=torch.float32, device=x.device)
    _attend[(n, parts)](x, bias, weight, offset, channel, out, sums, pixels, c, rows, width, steps)
    return out, mean_of_parts(sums, pixels, x.dtype)


def attend_by_place(x: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, channel: Tensor) -> Tensor:
    """As :func:`gates.attend` of neighbourhoods, without the means of what is written."""
    n, c, pixels = sizes_of(x)
    height, width = x.shape[2:]
    at_once = power(c)
    rows = min(power(pixels), max(1, ELEMENTS // at_once))
    out, gate = torch.empty_like(x), _held_rows(channel, height)
    grid = (n, triton.cdiv(pixels, rows))
    _attend_by_place[grid](
        x,
        bias,
        weight,
        offset,
        gate,
        out,
        pixels,
        width,
        _steps(gate, width),
        c,
        rows,
        at_once,
        gate.shape[2],
    )
    return out


def join(low: Tensor, skips: Sequence[Tensor], weight: Tensor, offset: Tensor, channel: Tensor) -> Tensor:
    """As :func:`gates.join`, of at most four skips."""
    if not 1 <= len(skips) <= _MOST_SKIPS:
        raise ValueError(f"{len(skips)} skips, 1 to {_MOST_SKIPS} can be joined")
    n, first, _ = sizes_of(low)
    _, _, pixels = sizes_of(skips[0])
    counts = [sizes_of(skip)[1] for skip in skips] + [0] * (_MOST_SKIPS - len(skips))
    given = [*skips, *[skips[0]] * (_MOST_SKIPS - len(skips))]
    total = first + sum(counts)
    height, width = skips[0].shape[2:]
    out = torch.empty(
        (n, total, height, width), dtype=low.dtype, device=low.device, memory_format=torch.channels_last
    )
    by_place = channel.ndim == 4
    gate = _held_rows(channel, height) if by_place else channel
    places, steps = (gate.shape[2], _steps(gate, width)) if by_place else (0, 0.0)
    rows, at_once, warps = _JOIN_FEW if total <= _JOIN_MANY else _JOIN_MORE
    rows = min(power(pixels), rows)
    grid = (n, triton.cdiv(pixels, rows))
    sizes = pixels, width, steps, first, *counts, total, rows, at_once, places
    _join[grid](low, *given, weight, offset, gate, out, *sizes, num_warps=warps)
    return out


def double(low: Tensor) -> Tensor:
    """As :func:`gates.double`."""
    n, c, pixels = sizes_of(low)
    height, width = low.shape[2:]
    out = torch.empty(
        (n, c, 2 * height, 2 * width), dtype=low.dtype, device=low.device, memory_format=torch.channels_last
    )
    count = 4 * pixels * c
    block = 1024
    _double[(triton.cdiv(count, block), n)](low, out, count, 2 * width, pixels, c, block)
    return out


def softmax(logits: Tensor, bias: Tensor, classes: int, temperature: float) -> Tensor:
    """As :func:`gates.softmax`."""
    n, c, pixels = sizes_of(logits)
    height, width = logits.shape[2:]
    out = torch.empty((n, height, width, classes), dtype=torch.float32, device=logits.device)
    rows = 512
    grid = (triton.cdiv(n * pixels, rows),)
    _softmax[grid](logits, bias, out, n * pixels, 1.0 / temperature, c, classes, rows, power(classes))
    return out


def _held_rows(channel: Tensor, height: int) -> Tensor:
    """Gates (n, h, cols, c) float32 of every row, of what their sigmoid takes (n, rows, cols, c).

    As :func:`spread` has them in one direction; the other is had where a map is gated, two of them a number.
    """
    n, places, cols, c = channel.shape
    out = torch.empty((n, height, cols, c), dtype=torch.float32, device=channel.device)
    block = 1024
    steps = (places + 1) / (height - 1)
    _spread_rows[(n * height, triton.cdiv(cols * c, block))](
        channel, out, height, steps, places, cols * c, block
    )
    return out


def _steps(gate: Tensor, width: int) -> float:
    """From one pixel of a row to the next, in columns of the gates held out to the rim."""
    return (gate.shape[2] + 1) / (width - 1)


@triton.jit
def _spread_rows(channel, out, height, steps, places, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < COUNT
    place = (row % height).to(tl.float32) * steps
    upper = tl.minimum(place.to(tl.int32), places)
    share = place - upper.to(tl.float32)
    base = channel + (row // height).to(tl.int64) * places * COUNT + at
    above, below = tl.maximum(upper - 1, 0), tl.minimum(upper, places - 1)
    a = tl.sigmoid(tl.load(base + above * COUNT, mask=inside, other=0.0).to(tl.float32))
    b = tl.sigmoid(tl.load(base + below * COUNT, mask=inside, other=0.0).to(tl.float32))
    tl.store(out + row.to(tl.int64) * COUNT + at, a + share * (b - a), mask=inside)


@triton.jit
def _gate_between(gate, rows, cols, there, c, inside, steps, TOTAL: tl.constexpr, PLACES: tl.constexpr):
    """Gates of some pixels' channels, between those left and right of them in their rows."""
    place = cols.to(tl.float32) * steps
    right = tl.minimum(place.to(tl.int32), PLACES)
    share = place - right.to(tl.float32)
    base = rows * PLACES
    mask = there[:, None] & inside[None, :]
    first, second = base + tl.maximum(right - 1, 0), base + tl.minimum(right, PLACES - 1)
    a = tl.load(gate + first[:, None] * TOTAL + c[None, :], mask=mask, other=0.0)
    b = tl.load(gate + second[:, None] * TOTAL + c[None, :], mask=mask, other=0.0)
    return a + share[:, None] * (b - a)


@triton.jit
def _rectify(x, bias, other, count, C: tl.constexpr, BLOCK: tl.constexpr, OTHER: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if OTHER:
        v += tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
    v = tl.maximum(v + tl.load(bias + at % C, mask=mask, other=0.0), 0.0)
    tl.store(x + at, v.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _attend(
    x,
    bias,
    weight,
    offset,
    channel,
    out,
    sums,
    pixels,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
):
    image, part = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, WIDTH)
    inside = c < C
    b = tl.load(bias + c, mask=inside, other=0.0)
    w = tl.load(weight + c, mask=inside, other=0.0)
    by_channel = tl.sigmoid(tl.load(channel + image * C + c, mask=inside, other=0.0).to(tl.float32))
    start = tl.load(offset)
    base = image.to(tl.int64) * pixels * C
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    for step in range(STEPS):
        p = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask = (p < pixels)[:, None] & inside[None, :]
        at = base + p[:, None] * C + c[None, :]
        v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        v = tl.maximum(v + b[None, :], 0.0)
        by_pixel = tl.sigmoid(tl.sum(v * w[None, :], axis=1) + start)
        gated = (v * (by_pixel[:, None] + by_channel[None, :])).to(out.dtype.element_ty)
        tl.store(out + at, gated, mask=mask)
        # of what was written, as whoever reads it would add it up
        total += tl.where(mask, gated.to(tl.float32), 0.0)
    tl.store(sums + (image * tl.num_programs(1) + part) * C + c, tl.sum(total, axis=0), mask=inside)


@triton.jit
def _attend_by_place(
    x,
    bias,
    weight,
    offset,
    gate,
    out,
    pixels,
    across,
    steps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    PLACES: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, WIDTH)
    inside = c < C
    p = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = p < pixels
    mask = there[:, None] & inside[None, :]
    at = (image * pixels + p)[:, None] * C + c[None, :]
    v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    v = tl.maximum(v + tl.load(bias + c, mask=inside, other=0.0)[None, :], 0.0)
    w = tl.load(weight + c, mask=inside, other=0.0)
    by_pixel = tl.sigmoid(tl.sum(v * w[None, :], axis=1) + tl.load(offset))
    row = image * (pixels // across) + p // across
    by_channel = _gate_between(gate, row, p % across, there, c, inside, steps, C, PLACES)
    tl.store(out + at, (v * (by_pixel[:, None] + by_channel)).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _dot(x, rows, there, weight, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Products (ROWS,) of the channels of some pixels with the gate's weights."""
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, C, WIDTH):
        c = start + tl.arange(0, WIDTH)
        inside = c < C
        v = tl.load(x + rows[:, None] * C + c[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        w = tl.load(weight + c, mask=inside, other=0.0)
        total += tl.sum(v.to(tl.float32) * w[None, :], axis=1)
    return total


@triton.jit
def _lay(
    x,
    rows,
    there,
    gate,
    row,
    col,
    steps,
    by_pixel,
    out,
    C: tl.constexpr,
    TOTAL: tl.constexpr,
    WIDTH: tl.constexpr,
    PLACES: tl.constexpr,
):
    """The channels of some pixels, gated, to their place; read a second time, from a cache."""
    for start in range(0, C, WIDTH):
        c = start + tl.arange(0, WIDTH)
        inside = c < C
        mask = there[:, None] & inside[None, :]
        v = tl.load(x + rows[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        if PLACES > 0:
            by_channel = _gate_between(gate, row, col, there, c, inside, steps, TOTAL, PLACES)
        else:
            by_channel = tl.sigmoid(tl.load(gate + c, mask=inside, other=0.0).to(tl.float32))[None, :]
        gated = v * (by_pixel[:, None] + by_channel)
        tl.store(out + c[None, :], gated.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _join(
    low,
    skip1,
    skip2,
    skip3,
    skip4,
    weight,
    offset,
    channel,
    out,
    pixels,
    across,
    steps,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    C3: tl.constexpr,
    C4: tl.constexpr,
    TOTAL: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    PLACES: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = p < pixels
    rows = image * pixels + p
    y, col = p // across, p % across
    coarse = image * (pixels // 4) + (y // 2) * (across // 2) + col // 2
    dot = _dot(low, coarse, there, weight, C0, ROWS, WIDTH)
    dot += _dot(skip1, rows, there, weight + C0, C1, ROWS, WIDTH)
    if C2 > 0:
        dot += _dot(skip2, rows, there, weight + C0 + C1, C2, ROWS, WIDTH)
    if C3 > 0:
        dot += _dot(skip3, rows, there, weight + C0 + C1 + C2, C3, ROWS, WIDTH)
    if C4 > 0:
        dot += _dot(skip4, rows, there, weight + C0 + C1 + C2 + C3, C4, ROWS, WIDTH)
    by_pixel = tl.sigmoid(dot + tl.load(offset))
    to = out + rows[:, None] * TOTAL
    row = image * (pixels // across) + y
    gate = channel if PLACES > 0 else channel + image * TOTAL  # by place each row has its own
    _lay(low, coarse, there, gate, row, col, steps, by_pixel, to, C0, TOTAL, WIDTH, PLACES)
    at: tl.constexpr = C0
    _lay(skip1, rows, there, gate + at, row, col, steps, by_pixel, to + at, C1, TOTAL, WIDTH, PLACES)
    if C2 > 0:
        at2: tl.constexpr = C0 + C1
        _lay(skip2, rows, there, gate + at2, row, col, steps, by_pixel, to + at2, C2, TOTAL, WIDTH, PLACES)
    if C3 > 0:
        at3: tl.constexpr = C0 + C1 + C2
        _lay(skip3, rows, there, gate + at3, row, col, steps, by_pixel, to + at3, C3, TOTAL, WIDTH, PLACES)
    if C4 > 0:
        at4: tl.constexpr = C0 + C1 + C2 + C3
        _lay(skip4, rows, there, gate + at4, row, col, steps, by_pixel, to + at4, C4, TOTAL, WIDTH, PLACES)


@triton.jit
def _pool(x, out, count, height, width, cols, C: tl.constexpr, BLOCK: tl.constexpr):
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    c, place = at % C, at // C
    y, left = 2 * (place // cols) - 1, 2 * (place % cols) - 1
    base = x + image * height * width * C
    # what was rectified is never below zero, and the middle of the nine is always on the map
    largest = tl.zeros([BLOCK], tl.float32)
    for dy in tl.static_range(3):
        for dx in tl.static_range(3):
            row, col = y + dy, left + dx
            on = there & (row >= 0) & (row < height) & (col >= 0) & (col < width)
            v = tl.load(base + (row * width + col) * C + c, mask=on, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, v)
    tl.store(out + image * count + at, largest.to(out.dtype.element_ty), mask=there)


@triton.jit
def _double(low, out, count, across, pixels, C: tl.constexpr, BLOCK: tl.constexpr):
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    c, place = at % C, at // C
    coarse = (place // across // 2) * (across // 2) + (place % across) // 2
    v = tl.load(low + image * pixels * C + coarse * C + c, mask=there)
    tl.store(out + image * count + at, v, mask=there)


@triton.jit
def _softmax(
    logits,
    bias,
    out,
    count,
    share,
    C: tl.constexpr,
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    p, c = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (p < count)[:, None] & (c < CLASSES)[None, :]
    v = tl.load(logits + p[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=c < CLASSES, other=0.0)
    v = tl.where((c < CLASSES)[None, :], (v + b[None, :]) * share, -float("inf"))
    grown = tl.exp(v - tl.max(v, axis=1)[:, None])
    tl.store(out + p[:, None] * CLASSES + c[None, :], grown / tl.sum(grown, axis=1)[:, None], mask=mask)
