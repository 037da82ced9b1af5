"""Channels made on the device of a model, of inputs that came as numbers of 16 bits.

The same channels as :func:`cryoscale.features.stack.build_stack` makes on a worker, which is the oracle: from
the same values grey levels, indices and elevation are the same bits; slope, aspect, texture and projections
are computed in float64 there and here, and agree to the rounding of float32. What numbers leave out of the
inputs is told in :mod:`cryoscale.features.packing`.

A strip of rows is made at a time, by torch's own steps: some eighty a strip, all of them bound by memory, and
beside the network's long ones on a stream of their own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cryoscale.features.channels import BANDS
from cryoscale.features.packing import CELLS, HALO_PX, planes_of
from cryoscale.features.spectral import INDEX_BANDS, TASSELLED_CAP
from cryoscale.features.terrain import HALO_PX as HORN_PX
from cryoscale.features.texture import HALO_PX as GLCM_PX
from cryoscale.features.texture import LEVELS, WINDOW_PX
from cryoscale.grid import RESOLUTION_M

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryoscale.features.packing import Recipe
    from cryoscale.infer.predict import Carried

STRIP_ROWS = 128
"""Rows at a time: at 2304 pixels a step of torch is 1.2 MB a plane, long beside what starting it takes."""

_AXES = ("PCA1", "PCA2", "PCA3", "TC_brightness", "TC_greenness", "TC_wetness")

_OFFSETS = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Rows and columns to a pixel's neighbour at 0, 45, 90 and 135 degrees; a difference has no direction."""


def derived(packed: Carried) -> Carried:
    """Features of what came as numbers, all at once and on the CPU, for a model that takes arrays."""
    assert packed.recipe is not None
    make = Deriver(packed.recipe, torch.device("cpu"))
    numbers = torch.from_numpy(np.require(packed.array, requirements=["C", "W"]).view(np.int16))
    made = [make(numbers[:, rows.start : rows.stop + 2 * HALO_PX]) for rows in strips(numbers.shape[1])]
    array = torch.cat(made, dim=1).numpy()
    return replace(packed, array=array, extent=packed.extent.pad(-HALO_PX), recipe=None)


def strips(rows: int) -> Iterator[slice]:
    """Rows of channels, some at a time, that so many ``rows`` of numbers make."""
    return (
        slice(first, min(first + STRIP_ROWS, rows - 2 * HALO_PX))
        for first in range(0, rows - 2 * HALO_PX, STRIP_ROWS)
    )


class Deriver:
    """Makes the channels of a recipe on a device.

    Args:
        recipe: what numbers stand for, and which channels are wanted.
        device: where numbers lie.

    Attributes:
        halo_px: how much further numbers reach on each side than channels.
        strip_rows: how many rows of channels are best made at a time.
    """

    halo_px = HALO_PX
    strip_rows = STRIP_ROWS

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe = recipe
        self._first: dict[str, int] = {}
        at = 0
        for name in recipe.inputs:
            self._first[name] = at
            at += planes_of(name)
        axes, mean = np.concatenate([np.zeros((3, len(BANDS))), TASSELLED_CAP]), np.zeros((6, len(BANDS)))
        if recipe.pca is not None:
            axes[:3], mean[:3] = recipe.pca.components, recipe.pca.mean
        starts = [0.0 - math.fsum(products) for products in axes * mean]
        self._axes = torch.tensor(axes, dtype=torch.float64, device=device)
        self._starts = torch.tensor(starts, dtype=torch.float64, device=device)[:, None]

    def __call__(self, numbers: Tensor) -> Tensor:
        """Channels (c, y, x) float32, physical units, NaN = missing.

        Args:
            numbers: (plane, y + 2 * ``HALO_PX``, x + 2 * ``HALO_PX``), the bits in int16, of which torch
                knows more than of uint16.
        """
        height, width = (size - 2 * HALO_PX for size in numbers.shape[1:])
        inputs = {name: self._values(name, numbers) for name in self._recipe.inputs}
        own = {name: _inner(plane, HALO_PX) for name, plane in inputs.items()}
        shape = (len(self._recipe.channels), height, width)
        out = torch.full(shape, math.nan, dtype=torch.float32, device=numbers.device)
        at = {name: number for number, name in enumerate(self._recipe.channels)}
        for name in at.keys() & own.keys():
            out[at[name]] = own[name]
        for name, (a, b) in INDEX_BANDS.items():
            if name in at and a in own and b in own:
                out[at[name]] = normalized_difference(own[a], own[b])
        if at.keys() & set(_AXES) and own.keys() >= set(BANDS):
            projected = self._projected(torch.stack([own[band] for band in BANDS]))
            for name, plane in zip(_AXES, projected, strict=True):
                if name in at and not (name.startswith("PCA") and self._recipe.pca is None):
                    out[at[name]] = plane
        if at.keys() & {"slope", "aspect"} and "elevation" in inputs:
            for name, plane in zip(("slope", "aspect"), self._slopes(inputs["elevation"]), strict=True):
                if name in at:
                    out[at[name]] = plane
        if "GLCM_dissimilarity" in at and "B08" in inputs:
            near = _inner(numbers[self._first["B08"]], HALO_PX - GLCM_PX)
            out[at["GLCM_dissimilarity"]] = glcm_dissimilarity(_levels(near))
        return out

    def _values(self, name: str, numbers: Tensor) -> Tensor:
        """An input (y, x) in physical units."""
        plane = numbers[self._first[name]]
        if name == "velocity":
            return plane.view(torch.float16).float()
        if name == "elevation":
            lower = numbers[self._first[name] + 1].int() & 0xFFFF
            return ((plane.int() << 16) | lower).view(torch.float32)
        cells, number = CELLS[name], plane.int() & 0xFFFF
        cell = number + (cells.first - 1)
        middle = torch.where(cell == 0, 0.0, (cell + 0.5) / cells.a_unit)
        return torch.where(number == 0, math.nan, middle)

    def _projected(self, bands: Tensor) -> Tensor:
        """The bands (12, y, x) on all axes, as (6, y, x)."""
        flat = bands.double().flatten(1)
        return torch.addmm(self._starts, self._axes, flat).float().view(-1, *bands.shape[1:])

    def _slopes(self, elevation: Tensor) -> tuple[Tensor, Tensor]:
        return slope_aspect(_inner(elevation, HALO_PX - HORN_PX))


def normalized_difference(a: Tensor, b: Tensor) -> Tensor:
    """(a - b) / (a + b) of two planes, each clipped to >= 0 first; 0 where both are 0."""
    p, q = a.clamp(min=0.0), b.clamp(min=0.0)
    total = p + q
    return torch.where(total == 0.0, 0.0, (p - q) / total)


def slope_aspect(elevation: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and aspect (y, x) in degrees of elevation (y + 2, x + 2) in metres, float32.

    After Horn (1981), https://doi.org/10.1109/PROC.1981.11918; NaN where one of the nine is not finite.
    """
    z = elevation.double()
    east = z[:-2, 2:] + 2.0 * z[1:-1, 2:] + z[2:, 2:]
    west = z[:-2, :-2] + 2.0 * z[1:-1, :-2] + z[2:, :-2]
    north = z[:-2, :-2] + 2.0 * z[:-2, 1:-1] + z[:-2, 2:]
    south = z[2:, :-2] + 2.0 * z[2:, 1:-1] + z[2:, 2:]
    rise_east, rise_north = (east - west) / (8.0 * RESOLUTION_M), (north - south) / (8.0 * RESOLUTION_M)
    slope = torch.rad2deg(torch.atan(torch.sqrt(rise_east * rise_east + rise_north * rise_north))).float()
    facing = torch.rad2deg(torch.atan2(-rise_east, -rise_north))
    facing = torch.where(facing < 0.0, facing + 360.0, facing).float()
    # 360 - 1e-6 rounds to 360, which the range leaves out; and what is flat faces nowhere
    flat = (facing >= 360.0) | ((rise_east == 0.0) & (rise_north == 0.0))
    there = torch.isfinite(rise_east) & torch.isfinite(rise_north) & torch.isfinite(z[1:-1, 1:-1])
    return torch.where(there, slope, math.nan), torch.where(there, torch.where(flat, 0.0, facing), math.nan)


def _levels(numbers: Tensor) -> Tensor:
    """Grey levels (y, x) of a band's numbers, -1 where it is missing."""
    cells, number = CELLS["B08"], numbers.int() & 0xFFFF
    cell = number + (cells.first - 1)
    grey = torch.div(cell, cells.a_unit // LEVELS, rounding_mode="floor").clamp(0, LEVELS - 1)
    return torch.where(number == 0, -1, grey)


def glcm_dissimilarity(grey: Tensor) -> Tensor:
    """The mean over the four offsets of the mean difference of pairs in the window, as (y, x) float32.

    ``grey`` reaches ``texture.HALO_PX`` further on each side; its sums are of whole numbers, and exact.
    """
    total = count = None
    for rows, cols in _OFFSETS:
        height, width = grey.shape[0] - rows, grey.shape[1] - abs(cols)
        left = grey[:height, max(-cols, 0) : max(-cols, 0) + width]
        right = grey[rows:, max(cols, 0) : max(cols, 0) + width]
        both = (left >= 0) & (right >= 0)
        pairs = torch.stack([torch.where(both, (left - right).abs(), 0), both.int()]).float()
        window = (WINDOW_PX - rows, WINDOW_PX - abs(cols))
        apart, many = functional.avg_pool2d(pairs[None], window, 1, divisor_override=1)[0].double()
        mean = apart / many.clamp(min=1.0)
        total = mean if total is None else total + mean
        count = (many > 0) if count is None else count.int() + (many > 0)
    assert total is not None
    assert count is not None
    none = (count == 0) | (_inner(grey, GLCM_PX) < 0)
    return torch.where(none, math.nan, (total / count.clamp(min=1)).float())


def _inner(plane: Tensor, rim_px: int) -> Tensor:
    """A plane (y, x) without its rim."""
    return plane[rim_px : plane.shape[0] - rim_px, rim_px : plane.shape[1] - rim_px]
