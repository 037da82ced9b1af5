"""Patches that lie on a device as they are stored, and crops of them, changed and standardised there.

A core changes some 40 crops of 256 pixels a second, and a GPU learns from ten times as many. What is done
here to a batch is what :func:`cryoscale.learn.augment.apply` and then :class:`cryoscale.learn.feed.Standard`
do to its crops one by one, to the last bit on a CPU; what is drawn at random is drawn there, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoscale.learn.augment import DROPPABLE, AugmentConfig, Variant
from cryoscale.learn.patches import Patches

READERS = 8
"""Threads that read patches off the disk: decompressing them leaves the interpreter free."""

AT_ONCE = 64
"""Patches that are read ahead of the device."""

SHARE = 0.25
"""Of a device's free memory, what patches may take: the network's activations need the rest."""


@dataclass(frozen=True)
class Crop:
    """A part of a patch: its number, where the part begins, how large it is, and how it is changed."""

    index: int
    row: int
    col: int
    size: int
    variant: Variant | None = None


def fits(patches: Patches, count: int, device: torch.device) -> bool:
    """Whether so many patches find room on a GPU beside what learns from them; False for any other device."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return count * patches.nbytes_each <= SHARE * free


class Resident:
    """Some patches of a set on a device: stacks (n,c,p,p) in the type they are stored in, labels (n,p,p) u1.

    Args:
        patches: the set.
        indices: numbers of the patches that are wanted.
        config: of the changes; which of them a crop has, is drawn beforehand.
        device: where they go.

    Raises:
        SourceError: if a patch cannot be read.
    """

    def __init__(
        self,
        patches: Patches,
        indices: Sequence[int] | NDArray[np.int64],
        config: AugmentConfig,
        device: torch.device,
    ) -> None:
        self.channels, self.config, self.device = patches.channels, config, device
        self._slots = {int(index): slot for slot, index in enumerate(indices)}
        wanted = list(self._slots)
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(wanted), AT_ONCE):
                read = pool.map(patches.stored, wanted[start : start + AT_ONCE])
                for slot, pair in enumerate(read, start):
                    x, y = map(torch.from_numpy, pair)
                    if not slot:
                        self._x = torch.empty((len(wanted), *x.shape), dtype=x.dtype, device=device)
                        self._y = torch.empty((len(wanted), *y.shape), dtype=y.dtype, device=device)
                    self._x[slot].copy_(x)
                    self._y[slot].copy_(y)

    def statistics(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As :meth:`cryoscale.learn.patches.Patches.statistics`, of patches that lie here."""
        count, mean, squares = (
            torch.zeros(len(self.channels), dtype=torch.float64, device=self.device) for _ in range(3)
        )
        for index in indices:
            x = self._x[self._slots[int(index)]].flatten(1).double()
            known = x.isfinite()
            x = torch.where(known, x, 0.0)
            n = known.sum(1)
            part = x.sum(1) / n.clamp_min(1)
            delta, total = part - mean, count + n
            share = n / total.clamp_min(1)
            apart = torch.where(known, x - part[:, None], 0.0)
            squares += apart.square().sum(1) + delta.square() * count * share
            mean, count = mean + delta * share, total
        std = (squares / count.clamp_min(1)).sqrt().cpu().numpy()
        return mean.cpu().numpy(), np.where(std > 0, std, 1.0)

    def batch(self, crops: Sequence[Crop], mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised stacks (n,c,h,w) float32 and labels (n,h,w) int64 of crops of one size.

        Args:
            crops: of patches that lie here.
            mean: of the channels (c,1,1), on the device.
            std: their deviation (c,1,1).
        """
        size = crops[0].size
        x = torch.empty((len(crops), len(self.channels), size, size), dtype=self._x.dtype, device=self.device)
        y = torch.empty((len(crops), size, size), dtype=torch.uint8, device=self.device)
        for slot, crop in enumerate(crops):
            rows, cols = slice(crop.row, crop.row + size), slice(crop.col, crop.col + size)
            at = self._slots[crop.index]
            x[slot] = _turned(self._x[at, :, rows, cols], crop.variant)
            y[slot] = _turned(self._y[at, rows, cols], crop.variant)
        changed = x.float()
        variants = [crop.variant for crop in crops if crop.variant is not None]
        if variants:
            self._change(changed, variants)
        known = changed.sub_(mean).div_(std).nan_to_num_(0.0, 0.0, 0.0)
        return known.contiguous(memory_format=torch.channels_last), y.long()

    def _change(self, x: Tensor, variants: Sequence[Variant]) -> None:
        """Changes the values of stacks (n,c,h,w), which are turned already, in place."""
        told = np.array([self._told(variant) for variant in variants], np.float32)
        # One small array in one copy: what is drawn for the batch, and which channels it loses.
        table = torch.from_numpy(told).to(self.device, non_blocking=True)[:, :, None, None]
        mirrored, quarter_deg, turned, offset, sign, phase_rad, shifted = table[:, :7].unbind(1)
        names = list(self.channels)
        if "aspect" in names:
            aspect = x[:, names.index("aspect")]
            slope = x[:, names.index("slope")] if "slope" in names else aspect
            angle = torch.remainder(mirrored * aspect - quarter_deg, 360.0)
            angle = torch.where((angle >= 360.0) | (slope == 0), 0.0, angle)
            x[:, names.index("aspect")] = torch.where(turned > 0, angle, aspect)
        x.masked_fill_(table[:, 7:] > 0, torch.nan)
        if self.config.elevation_jitter_m and "elevation" in names:
            x[:, names.index("elevation")] += offset
        if "phase" in names and any(v.phase_turn_rad or v.phase_sign < 0 for v in variants):
            phase = x[:, names.index("phase")]
            moved = _wrapped(sign * phase + phase_rad)
            x[:, names.index("phase")] = torch.where(shifted > 0, moved, phase)

    def _told(self, variant: Variant) -> list[float]:
        """What was drawn, as the columns of a table."""
        lost = {name for modality in variant.dropped for name in DROPPABLE[modality]}
        return [
            -1.0 if variant.mirror else 1.0,
            90.0 * variant.quarters,
            float(bool(variant.quarters or variant.mirror)),
            self.config.elevation_jitter_m * variant.offset,
            float(variant.phase_sign),
            variant.phase_turn_rad,
            float(bool(variant.phase_turn_rad or variant.phase_sign < 0)),
            *(float(name in lost) for name in self.channels),
        ]


def _turned(values: Tensor, variant: Variant | None) -> Tensor:
    """Maps (..., h, w), mirrored and turned as :func:`cryoscale.features.turn.turn_map` does."""
    if variant is None:
        return values
    return torch.rot90(values.flip(-1) if variant.mirror else values, variant.quarters, (-2, -1))


def _wrapped(angle_rad: Tensor) -> Tensor:
    """As :func:`cryoscale.learn.augment.wrapped`."""
    turns = torch.ceil((angle_rad.double() - np.pi) / (2 * np.pi))
    edge = float(np.nextafter(np.float32(np.pi), np.float32(0)))
    return (angle_rad - 2 * np.pi * turns).float().clamp(-edge, edge)
