"""Means of maps' channels in Triton, https://triton-lang.org, over the whole map or its neighbourhoods.

Every program owns what it writes, and sums over pixels are left in parts that one more kernel adds up in
order, so that no result depends on which program was the first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Numbers a program holds at once: 32 of each of its 128 threads."""

STEPS = 8
"""Times that many a program looks at, before it adds up over its threads."""

_WIDTH = 128
"""Channels at once, where they are added up."""


def mean(x: Tensor, bias: Tensor | None) -> Tensor:
    """As :func:`gates.mean`."""
    n, c, pixels = sizes_of(x)
    width = min(_WIDTH, power(c))
    rows = min(power(pixels), ELEMENTS // width)
    parts = triton.cdiv(pixels, rows * STEPS)
    sums = torch.empty((n, parts, c), dtype=torch.float32, device=x.device)
    grid = (n, parts, triton.cdiv(c, width))
    _sums[grid](x, x if bias is None else bias, sums, pixels, c, rows, width, STEPS, bias is not None)
    return mean_of_parts(sums, pixels, x.dtype)


def mean_by_place(x: Tensor, bias: Tensor | None, cells: tuple[int, int], scale: int) -> Tensor:
    """As :func:`gates.mean` of neighbourhoods, of the map at ``scale`` times its size."""
    n, c, _ = sizes_of(x)
    height, width = x.shape[2:]
    down, across = cells
    at_once = min(_WIDTH, power(c))
    blocks = triton.cdiv(c, at_once)
    # rows first, each over the columns of every cell; then the rows of the cells of every neighbourhood
    sums = torch.empty((n, height, across, c), dtype=torch.float32, device=x.device)
    given = x, x if bias is None else bias, sums, height, width
    _row_sums[(n * height, across, blocks)](
        *given, across, scale, c, at_once, _in_cell(width, across, at_once), bias is not None
    )
    out = torch.empty((n, down - 1, across - 1, c), dtype=x.dtype, device=x.device)
    _neighbourhoods[(n, (down - 1) * (across - 1), blocks)](
        sums, out, height, width, down, across, scale, c, at_once, _in_cell(height, down, at_once)
    )
    return out


def _in_cell(length: int, cells: int, at_once: int) -> int:
    """Pixels of a cell's edge that a program looks at together, beside ``at_once`` channels."""
    return min(power(triton.cdiv(length, cells)), max(1, ELEMENTS // at_once))


def mean_of_parts(sums: Tensor, pixels: int, dtype: torch.dtype) -> Tensor:
    """Means (n, c) of sums (n, parts, c) float32 over that many pixels in all."""
    n, parts, c = sums.shape
    out = torch.empty((n, c), dtype=dtype, device=sums.device)
    width = min(128, power(c))
    _means[(n, triton.cdiv(c, width))](sums, out, parts, 1.0 / pixels, c, width, min(64, power(parts)))
    return out


def sizes_of(x: Tensor) -> tuple[int, int, int]:
    """Images, channels and pixels of a map that lies channels last."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"a map of strides {x.stride()}, channels last is expected")
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]


def power(of: int) -> int:
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
def _row_sums(
    x,
    bias,
    sums,
    height,
    width,
    across,
    scale,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    COLS: tl.constexpr,
    RECTIFY: tl.constexpr,
):
    row, cell = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside = c < C
    # columns of the scaled map, as adaptive pooling parts them
    first = cell * width * scale // across
    behind = ((cell + 1) * width * scale + across - 1) // across
    total = tl.zeros([WIDTH], tl.float32)
    for start in range(first // scale, (behind + scale - 1) // scale, COLS):
        col = start + tl.arange(0, COLS)
        times = tl.minimum(behind, (col + 1) * scale) - tl.maximum(first, col * scale)
        mask = (times > 0)[:, None] & inside[None, :]
        v = tl.load(x + (row * width + col)[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        if RECTIFY:
            v = tl.maximum(v + tl.load(bias + c, mask=inside, other=0.0)[None, :], 0.0)
        total += tl.sum(tl.where(mask, v * times.to(tl.float32)[:, None], 0.0), axis=0)
    tl.store(sums + (row * across + cell) * C + c, total, mask=inside)


@triton.jit
def _neighbourhoods(
    sums,
    out,
    height,
    width,
    down,
    across,
    scale,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    image, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside = c < C
    total = tl.zeros([WIDTH], tl.float32)
    for beside in range(4):  # the cells of a neighbourhood, each as its own mean
        y, cell = place // (across - 1) + beside // 2, place % (across - 1) + beside % 2
        first = y * height * scale // down
        behind = ((y + 1) * height * scale + down - 1) // down
        left = cell * width * scale // across
        right = ((cell + 1) * width * scale + across - 1) // across
        part = tl.zeros([WIDTH], tl.float32)
        for start in range(first // scale, (behind + scale - 1) // scale, ROWS):
            row = start + tl.arange(0, ROWS)
            times = tl.minimum(behind, (row + 1) * scale) - tl.maximum(first, row * scale)
            mask = (times > 0)[:, None] & inside[None, :]
            at = ((image * height + row) * across + cell)[:, None] * C + c[None, :]
            v = tl.load(sums + at, mask=mask, other=0.0)
            part += tl.sum(tl.where(mask, v * times.to(tl.float32)[:, None], 0.0), axis=0)
        total += part / ((behind - first) * (right - left)).to(tl.float32)
    at = (image * tl.num_programs(1) + place) * C + c
    tl.store(out + at, (total / 4).to(out.dtype.element_ty), mask=inside)
