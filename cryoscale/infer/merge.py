"""Tiles blended and encoded where they were predicted: :mod:`blend` and :mod:`encode` on tensors.

A row of the lattice at a time. Once the tiles of a row are there, the pixels between its origin and the
next one's are complete: every pixel gathers its tiles, in the order of the world, in the running mean of
:mod:`blend`. Nothing is added into shared sums, so that neither the batch nor the order in which a device's
threads happen to run can show; and no more tiles are kept than those that still reach further down.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cryoscale.infer.blend import hann
from cryoscale.infer.encode import NO_DATA, SCALE
from cryoscale.infer.tiles import stride_px, tile_origins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cryoscale.grid import Window
    from cryoscale.infer.encode import Confidence
    from cryoscale.infer.predict import Tiling

log = logging.getLogger("cryoscale")

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One of the tiles on each pixel (y, x) of a row of the lattice: which, where in it, how much it counts.

    Attributes:
        above: rows of the lattice between the pixels' row and the tile's.
        inside: rows (y, 1) in the tile.
        which: its column (x,) of the lattice.
        at: columns (x,) in the tile.
        weight: (y, x).
        share: (y, x, 1) of the weights so far.
    """

    above: int
    inside: Tensor
    which: Tensor
    at: Tensor
    weight: Tensor
    share: Tensor


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
        self._cols = cols
        curve = confidence.curve
        self._curve = None if curve is None else Curve(*curve, device)
        self._done = 0
        self._misfit = torch.zeros(1, dtype=torch.int32, device=device)
        self._hann = torch.from_numpy(hann(self._tile_px).copy()).to(device)
        self._phase = window.col - cols[0]
        layers = {"probability": (classes, *shape)} | dict.fromkeys(
            ("label", "confidence", "disagreement"), shape
        )
        self._bands = {
            name: torch.full(of, NO_DATA, dtype=torch.uint8, device=device) for name, of in layers.items()
        }

    @cached_property
    def _geometry(self) -> tuple[list[_Layer], Tensor]:
        """The layers of tiles over the pixels of one row of the lattice, in order, and their total weight.

        Where the stride does not divide the tile some pixels have a layer fewer: there the weight is zero,
        and what is read in its place, finite as all answers are, adds nothing. All rows share this, as all
        tiles of a pixel that is to be mapped have been predicted.
        """
        device, down = self._valid.device, np.arange(self._stride)
        across = np.arange(self._window.col, self._window.col + self._window.width)
        total = torch.zeros((self._stride, self._window.width), device=device)
        layers = []
        for above in reversed(range(self._deep)):
            _, inside, weight_y = self._along(down, above)
            for before in reversed(range(self._deep)):
                origin, at, weight_x = self._along(across, before)
                which = np.where(weight_x > 0, (origin - self._cols[0]) // self._stride, 0)
                arrays = inside[:, None], which, at, weight_y[:, None], weight_x
                rows, columns, places, weights_y, weights_x = (
                    torch.from_numpy(of).to(device) for of in arrays
                )
                weight = weights_y * weights_x
                total += weight
                share = (weight / torch.clamp_min(total, _TINY))[..., None]
                layers.append(_Layer(above, rows, columns, places, weight, share))
        return layers, total

    def _along(
        self, world: NDArray[np.int64], back: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Of pixels along an axis: origin of their tile ``back`` before the newest, place in it, weight."""
        origin = (world // self._stride - back) * self._stride
        covered = world - origin < self._tile_px
        at = np.where(covered, world - origin, 0)
        return origin, at, np.where(covered, hann(self._tile_px)[at], np.float32(0))

    def put(self, row: int, col: int, answers: Tensor) -> None:
        """Take the tiles (n, s, s, k) from column ``col`` of the lattice's ``row`` on; rows come in order."""
        self.close(row)
        self._kept[row % self._deep, col : col + len(answers)] = answers

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
        valid = self._valid[part]
        into = {name: band[..., part, :] for name, band in self._bands.items()}
        if self._kept.shape[-1] > 1 and _has_kernel(valid.device):
            sure = self._finish_by_kernel(row, first - top, valid, into)
        else:
            sure = self._finish_by_steps(row, first, last, valid, into)
        into["confidence"].copy_(torch.where(valid, encode_share(self._calibrated(sure)), NO_DATA))

    def _finish_by_steps(
        self, row: int, first: int, last: int, valid: Tensor, into: dict[str, Tensor]
    ) -> Tensor:
        """All but the confidence of world rows [first, last), and what that is read off (h, w)."""
        mean, disagreement = self._blended(row, first, last)
        self._misfit |= (valid & ~torch.isfinite(disagreement)).any()
        found = {
            "probability": encode_share(mean).permute(2, 0, 1),
            "label": mean.argmax(dim=-1).to(torch.uint8),
            "disagreement": encode_share(disagreement),
        }
        for name, band in found.items():
            into[name].copy_(torch.where(valid, band, NO_DATA))
        return self._sure(mean)

    def _finish_by_kernel(self, row: int, down: int, valid: Tensor, into: dict[str, Tensor]) -> Tensor:
        """The same on a GPU, equal to rounding."""
        from cryoscale.infer import triton_merge

        where = {"row": row, "down": down, "phase": self._phase, "stride": self._stride}
        by_entropy = self._confidence.kind == "entropy"
        return triton_merge.finish(
            self._kept, self._hann, valid, into, self._misfit, **where, entropy=by_entropy
        )

    def _blended(self, row: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Mean (h, w, k) and disagreement (h, w) of world rows [first, last), as :class:`blend.Blender`.

        West's update in that module's order; weights and shares are known beforehand.
        """
        part = slice(first - self._rows[row], last - self._rows[row])
        layers, weights = self._geometry
        total, device = weights[part], self._valid.device
        mean = torch.zeros((*total.shape, self._kept.shape[-1]), device=device)
        spread = torch.zeros_like(total)
        for layer in layers:
            tile = self._kept[(row - layer.above) % self._deep][layer.which, layer.inside[part], layer.at]
            before = tile - mean
            mean.addcmul_(layer.share[part], before)
            spread.addcmul_(layer.weight[part], before.mul_(tile - mean).sum(dim=-1))
        return mean, torch.sqrt(torch.clamp_min(spread / total, 0.0))

    def _sure(self, mean: Tensor) -> Tensor:
        """Confidence (h, w) of mean (h, w, k), as :class:`encode.Confidence` before its curve."""
        classes = mean.shape[-1]
        if self._confidence.kind == "max":
            return mean.amax(dim=-1)
        if classes < 2:
            return torch.ones_like(mean[..., 0])
        entropy = torch.zeros_like(mean[..., 0])
        for share in mean.unbind(-1):
            entropy -= share * torch.log(torch.clamp_min(share, _TINY))
        return torch.clamp(1.0 - entropy / math.log(classes), 0.0, 1.0)

    def _calibrated(self, sure: Tensor) -> Tensor:
        by_entropy = self._confidence.kind == "entropy"
        return self._curve(sure) if self._curve is not None and by_entropy else sure


@lru_cache(maxsize=8)
def _has_kernel(device: torch.device) -> bool:
    """Whether rows can be finished by a kernel of our own, found out by building it for a single tile.

    Triton wants a C compiler and Python's headers, which a machine with a GPU may lack.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    try:
        from cryoscale.infer import triton_merge

        whole = torch.ones((8, 8), dtype=torch.bool, device=device)
        bands = {name: whole.to(torch.uint8) for name in ("label", "disagreement")}
        bands["probability"] = whole.to(torch.uint8).repeat(2, 1, 1)
        tile, weights = torch.zeros((1, 1, 8, 8, 2), device=device), torch.ones(8, device=device)
        misfit = torch.zeros(1, dtype=torch.int32, device=device)
        where = {"row": 0, "down": 0, "phase": 0, "stride": 8}
        triton_merge.finish(tile, weights, whole, bands, misfit, **where, entropy=True)
    except Exception as error:  # whatever a compiler, a loader or a driver may say
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("no kernel of our own can be built here, so that tiles are blended by torch: %s", reason)
        return False
    return True


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
