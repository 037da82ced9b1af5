"""The kernels of :mod:`gates` in Triton, https://triton-lang.org, which comes with torch for GPUs.

A map is (n, p, c) to them: images, pixels, channels side by side. Every program owns what it writes, and
sums over pixels are left in parts that one more kernel adds up in order, so that no result depends on which
program was the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 4096
"""Numbers a program holds at once: 32 of each of its 128 threads."""

_WIDTH = 128
"""Channels at once, where they are added up."""

_STEPS = 8
"""Times that many a program looks at, before it adds up over its threads."""

_JOIN_MANY = 512
_JOIN_FEW = 32, 64, 4
_JOIN_MORE = 8, 256, 4
"""Pixels a program joins, channels at once, and warps: up to ``_JOIN_MANY`` channels and beyond; the best of
six each on an H200."""

_MOST_SKIPS = 4


def mean(x: Tensor, bias: Tensor | None) -> Tensor:
    """As :func:`gates.mean`."""
    n, c, pixels = _sizes(x)
    width = min(_WIDTH, _power(c))
    rows = min(_power(pixels), _ELEMENTS // width)
    parts = triton.cdiv(pixels, rows * _STEPS)
    sums = torch.empty((n, parts, c), dtype=torch.float32, device=x.device)
    grid = (n, parts, triton.cdiv(c, width))
    _sums[grid](x, x if bias is None else bias, sums, pixels, c, rows, width, _STEPS, bias is not None)
    return _mean_of_parts(sums, pixels, x.dtype)


def rectify_(x: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
    """As :func:`gates.rectify_`."""
    n, c, pixels = _sizes(x)
    if other is not None:
        _sizes(other)
    count = n * pixels * c
    block = 2048
    _rectify[(triton.cdiv(count, block),)](
        x, bias, x if other is None else other, count, c, block, other is not None
    )
    return x


def rectified_pool(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`gates.rectified_pool`."""
    n, c, _ = _sizes(rectify_(x, bias, None))
    height, width = x.shape[2:]
    rows, cols = (height + 1) // 2, (width + 1) // 2
    out = torch.empty((n, c, rows, cols), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    count = rows * cols * c
    block = 1024
    _pool[(triton.cdiv(count, block), n)](x, out, count, height, width, cols, c, block)
    return x, out


def attend(x: Tensor, bias: Tensor, weight: Tensor, offset: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`gates.attend`."""
    n, c, pixels = _sizes(x)
    width = _power(c)
    rows = min(_power(pixels), max(1, _ELEMENTS // width))
    steps = max(1, min(_STEPS, pixels // rows))
    parts = triton.cdiv(pixels, rows * steps)
    out = torch.empty_like(x)
    sums = torch.empty((n, parts, c), dtype=torch.float32, device=x.device)
    _attend[(n, parts)](x, bias, weight, offset, channel, out, sums, pixels, c, rows, width, steps)
    return out, _mean_of_parts(sums, pixels, x.dtype)


def join(low: Tensor, skips: Sequence[Tensor], weight: Tensor, offset: Tensor, channel: Tensor) -> Tensor:
    """As :func:`gates.join`, of at most four skips."""
    if not 1 <= len(skips) <= _MOST_SKIPS:
        raise ValueError(f"{len(skips)} skips, 1 to {_MOST_SKIPS} can be joined")
    n, first, _ = _sizes(low)
    _, _, pixels = _sizes(skips[0])
    counts = [_sizes(skip)[1] for skip in skips] + [0] * (_MOST_SKIPS - len(skips))
    given = [*skips, *[skips[0]] * (_MOST_SKIPS - len(skips))]
    total = first + sum(counts)
    height, width = skips[0].shape[2:]
    out = torch.empty(
        (n, total, height, width), dtype=low.dtype, device=low.device, memory_format=torch.channels_last
    )
    rows, at_once, warps = _JOIN_FEW if total <= _JOIN_MANY else _JOIN_MORE
    rows = min(_power(pixels), rows)
    grid = (n, triton.cdiv(pixels, rows))
    sizes = pixels, width, first, *counts, total, rows, at_once
    _join[grid](low, *given, weight, offset, channel, out, *sizes, num_warps=warps)
    return out


def double(low: Tensor) -> Tensor:
    """As :func:`gates.double`."""
    n, c, pixels = _sizes(low)
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
    n, c, pixels = _sizes(logits)
    height, width = logits.shape[2:]
    out = torch.empty((n, height, width, classes), dtype=torch.float32, device=logits.device)
    rows = 512
    grid = (triton.cdiv(n * pixels, rows),)
    _softmax[grid](logits, bias, out, n * pixels, 1.0 / temperature, c, classes, rows, _power(classes))
    return out


def _mean_of_parts(sums: Tensor, pixels: int, dtype: torch.dtype) -> Tensor:
    n, parts, c = sums.shape
    out = torch.empty((n, c), dtype=dtype, device=sums.device)
    width = min(128, _power(c))
    _means[(n, triton.cdiv(c, width))](sums, out, parts, 1.0 / pixels, c, width, min(64, _power(parts)))
    return out


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Images, channels and pixels of a map that lies channels last."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"a map of strides {x.stride()}, channels last is expected")
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]


def _power(of: int) -> int:
    """The power of two that is not below it."""
    return 1 << max(0, of - 1).bit_length()


@triton.jit
def _sums(
    x,
    bias,
    sums,
    pixels,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
    RECTIFY: tl.constexpr,
):
    image, part = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside = c < C
    base = image.to(tl.int64) * pixels * C
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    for step in range(STEPS):
        p = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask = (p < pixels)[:, None] & inside[None, :]
        v = tl.load(x + base + p[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        if RECTIFY:
            b = tl.load(bias + c, mask=inside, other=0.0)
            v = tl.where(mask, tl.maximum(v + b[None, :], 0.0), 0.0)
        total += v
    parts = tl.num_programs(1)
    tl.store(sums + (image * parts + part) * C + c, tl.sum(total, axis=0), mask=inside)


@triton.jit
def _means(sums, out, parts, share, C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    image = tl.program_id(0)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = c < C
    total = tl.zeros([WIDTH], tl.float32)
    for start in range(0, parts, ROWS):
        part = start + tl.arange(0, ROWS)
        mask = (part < parts)[:, None] & inside[None, :]
        v = tl.load(sums + (image * parts + part)[:, None] * C + c[None, :], mask=mask, other=0.0)
        total += tl.sum(v, axis=0)
    tl.store(out + image * C + c, (total * share).to(out.dtype.element_ty), mask=inside)


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
    channel,
    by_pixel,
    out,
    C: tl.constexpr,
    TOTAL: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The channels of some pixels, gated, to their place; read a second time, from a cache."""
    for start in range(0, C, WIDTH):
        c = start + tl.arange(0, WIDTH)
        inside = c < C
        mask = there[:, None] & inside[None, :]
        v = tl.load(x + rows[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        by_channel = tl.sigmoid(tl.load(channel + c, mask=inside, other=0.0).to(tl.float32))
        gated = v * (by_pixel[:, None] + by_channel[None, :])
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
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    C3: tl.constexpr,
    C4: tl.constexpr,
    TOTAL: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = p < pixels
    rows = image * pixels + p
    half = (p // across // 2) * (across // 2) + (p % across) // 2
    coarse = image * (pixels // 4) + half
    dot = _dot(low, coarse, there, weight, C0, ROWS, WIDTH)
    dot += _dot(skip1, rows, there, weight + C0, C1, ROWS, WIDTH)
    if C2 > 0:
        dot += _dot(skip2, rows, there, weight + C0 + C1, C2, ROWS, WIDTH)
    if C3 > 0:
        dot += _dot(skip3, rows, there, weight + C0 + C1 + C2, C3, ROWS, WIDTH)
    if C4 > 0:
        dot += _dot(skip4, rows, there, weight + C0 + C1 + C2 + C3, C4, ROWS, WIDTH)
    by_pixel = tl.sigmoid(dot + tl.load(offset))
    gate, to = channel + image * TOTAL, out + rows[:, None] * TOTAL
    _lay(low, coarse, there, gate, by_pixel, to, C0, TOTAL, WIDTH)
    _lay(skip1, rows, there, gate + C0, by_pixel, to + C0, C1, TOTAL, WIDTH)
    if C2 > 0:
        _lay(skip2, rows, there, gate + C0 + C1, by_pixel, to + C0 + C1, C2, TOTAL, WIDTH)
    if C3 > 0:
        _lay(skip3, rows, there, gate + C0 + C1 + C2, by_pixel, to + C0 + C1 + C2, C3, TOTAL, WIDTH)
    if C4 > 0:
        before: tl.constexpr = C0 + C1 + C2 + C3
        _lay(skip4, rows, there, gate + before, by_pixel, to + before, C4, TOTAL, WIDTH)


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
