"""Tiles blended and encoded where they were predicted: :mod:`blend` and :mod:`encode` on tensors.

A row of the lattice at a time. Once the tiles of a row are there, the pixels between its origin and the
next one's are complete: every pixel gathers its tiles, in the order of the world, in the running mean of
:mod:`blend`. Nothing is added into shared sums, so that neither the batch nor the order in which a device's
threads happen to run can show; and no more tiles are kept than those that still reach further down.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cryoscale.infer.blend import hann
from cryoscale.infer.encode import NO_DATA, SCALE
from cryoscale.infer.tiles import stride_px, tile_origins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryoscale.grid import Window
    from cryoscale.infer.encode import Confidence
    from cryoscale.infer.predict import Tiling

_TINY = float(np.finfo(np.float32).tiny)


class Merger:
    """Probabilities of tiles to the bytes of a window, on one device.

    Args:
        window: the pixels wanted.
        tiling: the lattice.
        classes: how many, k.
        valid: mask (h, w) of the pixels to map, on the device; may still be filling from above.
        confidence: what the layer of that name holds.
    """

    def __init__(
        self, window: Window, tiling: Tiling, classes: int, valid: Tensor, confidence: Confidence
    ) -> None:
        self._window, self._valid, self._confidence = window, valid, confidence
        self._tile_px, self._stride = tiling.tile_px, stride_px(tiling.tile_px, tiling.overlap)
        rows = tile_origins(window.row, window.row + window.height, self._tile_px, self._stride)
        cols = tile_origins(window.col, window.col + window.width, self._tile_px, self._stride)
        self._rows, device = rows, valid.device
        # how many tiles, at most, cover a pixel along one axis
        self._deep = math.ceil(self._tile_px / self._stride)
        size, shape = self._tile_px, window.shape
        self._kept = torch.zeros((self._deep, len(cols), size, size, classes), device=device)
        self._weights = torch.from_numpy(hann(size).copy()).to(device)
        self._across = [self._column(cols, back) for back in reversed(range(self._deep))]
        curve = confidence.curve
        self._curve = None if curve is None else Curve(*curve, device)
        self._done = 0
        self._misfit = torch.zeros((), dtype=torch.bool, device=device)
        layers = {"probability": (classes, *shape)} | dict.fromkeys(
            ("label", "confidence", "disagreement"), shape
        )
        self._bands = {
            name: torch.full(of, NO_DATA, dtype=torch.uint8, device=device) for name, of in layers.items()
        }

    def _column(self, cols: range, back: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each column of the window: its tile ``back`` before the newest, the place in it, the weight."""
        world = np.arange(self._window.col, self._window.col + self._window.width)
        origin = (world // self._stride - back) * self._stride
        inside = world - origin
        covered = inside < self._tile_px
        which = np.where(covered, (origin - cols[0]) // self._stride, 0)
        at = np.where(covered, inside, 0)
        weight = np.where(covered, hann(self._tile_px)[at], np.float32(0))
        device = self._valid.device
        which_, at_, weight_ = (torch.from_numpy(np.ascontiguousarray(of)) for of in (which, at, weight))
        return which_.to(device), at_.to(device), weight_.to(device)

    def put(self, row: int, cols: Sequence[int], answers: Tensor) -> None:
        """Take the tiles (n, s, s, k) at columns ``cols`` of the lattice's ``row``; rows come in order."""
        self.close(row)
        # one by one: a list as an index would have to be sent, and torch waits for that
        for col, answer in zip(cols, answers, strict=True):
            self._kept[row % self._deep, col].copy_(answer)

    def close(self, before: int) -> None:
        """Finish all pixels above the origin of the lattice's row ``before``, counted from 0."""
        for row in range(self._done, before):
            self._finish(row)
        self._done = max(self._done, before)

    def result(self) -> tuple[dict[str, Tensor], Tensor]:
        """The bands as of :func:`encode.encode`, and whether a valid pixel got no finite answer; the end."""
        self.close(len(self._rows))
        return self._bands, self._misfit

    def _finish(self, row: int) -> None:
        top = self._rows[row]
        first, last = (
            max(top, self._window.row),
            min(top + self._stride, self._window.row + self._window.height),
        )
        if first >= last:
            return
        part = slice(first - self._window.row, last - self._window.row)
        mean, disagreement = self._blended(row, first, last)
        valid = self._valid[part]
        self._misfit |= (valid & ~torch.isfinite(disagreement)).any()
        shares = encode_share(mean)
        found = {
            "probability": shares.permute(2, 0, 1),
            "label": mean.argmax(dim=-1).to(torch.uint8),
            "confidence": encode_share(self._sure(mean)),
            "disagreement": encode_share(disagreement),
        }
        for name, band in found.items():
            self._bands[name][..., part, :] = torch.where(valid, band, NO_DATA)

    def _blended(self, row: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Mean (h, w, k) and disagreement (h, w) of world rows [first, last), as :class:`blend.Blender`."""
        height, width, classes = last - first, self._window.width, self._kept.shape[-1]
        device = self._valid.device
        mean = torch.zeros((height, width, classes), device=device)
        total = torch.zeros((height, width), device=device)
        spread = torch.zeros((height, width), device=device)
        for back in reversed(range(self._deep)):
            above = first - (self._rows[row] - back * self._stride)  # row of ``first`` in that tile
            count = min(height, self._tile_px - above)
            if count <= 0:
                continue
            inside = torch.arange(above, above + count, device=device)[:, None]
            for which, at, across in self._across:
                weight = self._weights[above : above + count, None] * across
                tile = self._kept[(row - back) % self._deep][which, inside, at]
                self._fold(tile, weight, mean[:count], total[:count], spread[:count])
        return mean, torch.sqrt(torch.clamp_min(spread / total, 0.0))

    @staticmethod
    def _fold(tile: Tensor, weight: Tensor, mean: Tensor, total: Tensor, spread: Tensor) -> None:
        """West's update, in the order of operations of :func:`blend._accumulate`.

        Where the stride does not divide the tile some pixels have a tile fewer: there the weight is zero, and
        what is read in its place, finite as all answers are, adds nothing.
        """
        total += weight
        share = weight / torch.clamp_min(total, _TINY)
        before = tile - mean
        mean += share[..., None] * before
        spread += (weight[..., None] * before * (tile - mean)).sum(dim=-1)

    def _sure(self, mean: Tensor) -> Tensor:
        """Confidence (h, w) of mean (h, w, k), as :class:`encode.Confidence`."""
        classes = mean.shape[-1]
        if self._confidence.kind == "max":
            return mean.amax(dim=-1)
        if classes < 2:
            plain = torch.ones_like(mean[..., 0])
        else:
            entropy = torch.zeros_like(mean[..., 0])
            for share in mean.unbind(-1):
                entropy -= share * torch.log(torch.clamp_min(share, _TINY))
            plain = torch.clamp(1.0 - entropy / math.log(classes), 0.0, 1.0)
        return plain if self._curve is None else self._curve(plain)


def encode_share(share: Tensor) -> Tensor:
    """Bytes ``round(250 * share)`` of a tensor in [0, 1]; NaN becomes 255."""
    scaled = torch.round(torch.clamp(share, 0.0, 1.0) * SCALE)
    return torch.where(torch.isnan(scaled), NO_DATA, scaled).to(torch.uint8)


class Curve:
    """``numpy.interp`` on tensors: straight between points (x, y) with rising x, level beyond them."""

    def __init__(self, x: Sequence[float], y: Sequence[float], device: torch.device) -> None:
        self._x, self._y = (torch.tensor(of, dtype=torch.float64, device=device) for of in (x, y))
        self._slope = (self._y[1:] - self._y[:-1]) / (self._x[1:] - self._x[:-1])

    def __call__(self, values: Tensor) -> Tensor:
        """The curve at values (h, w), float32."""
        wide = torch.clamp(values.double(), self._x[0], self._x[-1])
        if len(self._x) == 1:
            return self._y[0].expand(values.shape).float()
        left = torch.clamp(torch.searchsorted(self._x, wide, right=True) - 1, 0, len(self._slope) - 1)
        return (self._slope[left] * (wide - self._x[left]) + self._y[left]).float()
