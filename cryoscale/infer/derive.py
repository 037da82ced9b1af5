"""Channels made on the device of a model, of inputs that came as numbers of 16 bits.

The same channels as :func:`cryoscale.features.stack.build_stack` makes on a worker, which is the oracle: from
the same values grey levels, indices and elevation are the same bits; slope, aspect, texture and projections
are computed in float64 there and here, and agree to the rounding of float32. What numbers leave out of the
inputs is told in :mod:`cryoscale.features.packing`.

A strip of rows is made at a time, by torch's own steps, all of them bound by memory, beside the network's
long ones on a stream of their own. What takes the same steps takes them together, since starting one costs
the host as much as some megabytes cost a GPU: ``python -m benchmarks.wire`` counts both.
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
from cryoscale.features.packing import CELLS, HALO_PX
from cryoscale.features.spectral import INDEX_BANDS, TASSELLED_CAP
from cryoscale.features.terrain import HALO_PX as HORN_PX
from cryoscale.features.texture import HALO_PX as GLCM_PX
from cryoscale.features.texture import LEVELS, WINDOW_PX
from cryoscale.grid import RESOLUTION_M

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cryoscale.features.packing import Recipe
    from cryoscale.features.pca import PcaBasis
    from cryoscale.infer.predict import Carried

STRIP_ROWS = 256
"""Rows at a time: at 2304 pixels a step is 2.4 MB a plane, and a block's first batch waits for 640 rows."""

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
        at = {name: number for number, name in enumerate(recipe.channels)}
        cells = {name: number for number, name in enumerate(n for n in recipe.inputs if n in CELLS)}

        def places(names: Iterable[str], among: Mapping[str, int]) -> Tensor:
            """On the device, where a list would be sent anew each time."""
            return torch.tensor([among[name] for name in names], dtype=torch.long, device=device)

        def column(values: Iterable[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)[:, None, None]

        self._at, self._cells, self._device = at, cells, device
        self._a_unit = column((CELLS[name].a_unit for name in cells), torch.float32)
        self._before = column((CELLS[name].first - 1 for name in cells), torch.int32)
        own = [name for name in cells if name in at]
        self._own = places(own, at), places(own, cells)
        pairs = {name: of for name, of in INDEX_BANDS.items() if name in at and cells.keys() >= set(of)}
        first, second = ([of[which] for of in pairs.values()] for which in (0, 1))
        self._indices = places(pairs, at), places(first, cells), places(second, cells)
        known = _AXES if recipe.pca is not None else _AXES[3:]
        axes = [name for name in known if name in at and cells.keys() >= set(BANDS)]
        self._projected = places(axes, at), places(BANDS if axes else (), cells)
        self._starts, self._weights = (of.to(device) for of in _projection(recipe.pca, axes))
        self._velocity = len(cells) if "velocity" in recipe.inputs else None
        self._elevation = recipe.planes - 2 if "elevation" in recipe.inputs else None

    def __call__(self, numbers: Tensor) -> Tensor:
        """Channels (c, y, x) float32, physical units, NaN = missing.

        Args:
            numbers: (plane, y + 2 * ``HALO_PX``, x + 2 * ``HALO_PX``), the bits in int16, of which torch
                knows more than of uint16.
        """
        at, inner = self._at, _inner(numbers, HALO_PX)
        out = torch.full((len(at), *inner.shape[1:]), math.nan, device=self._device)
        values = self._values(inner[: len(self._cells)])
        to, of = self._own
        out[to] = values[of]
        to, first, second = self._indices
        out[to] = normalized_difference(values[first], values[second])
        to, of = self._projected
        if len(to):
            flat = values[of].double().flatten(1)
            out[to] = torch.addmm(self._starts, self._weights, flat).float().view(-1, *inner.shape[1:])
        if self._elevation is not None:
            upper, lower = numbers[self._elevation : self._elevation + 2].int()
            elevation = ((upper << 16) | (lower & 0xFFFF)).view(torch.float32)
            made = {"elevation": _inner(elevation, HALO_PX)}
            if at.keys() & {"slope", "aspect"}:
                made["slope"], made["aspect"] = slope_aspect(_inner(elevation, HALO_PX - HORN_PX))
            for name in made.keys() & at.keys():
                out[at[name]] = made[name]
        if self._velocity is not None and "velocity" in at:
            out[at["velocity"]] = inner[self._velocity].view(torch.float16)
        if "GLCM_dissimilarity" in at and "B08" in self._cells:
            near = _inner(numbers[self._cells["B08"]], HALO_PX - GLCM_PX)
            out[at["GLCM_dissimilarity"]] = glcm_dissimilarity(_levels(near))
        return out

    def _values(self, numbers: Tensor) -> Tensor:
        """Inputs (n, y, x) that are numbered by cells, in physical units."""
        number = numbers.int() & 0xFFFF
        cell = number + self._before
        middle = torch.where(cell == 0, 0.0, (cell + 0.5) / self._a_unit)
        return torch.where(number == 0, math.nan, middle)


def _projection(pca: PcaBasis | None, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Starts (k, 1) and weights (k, 12) of some axes, as those of :class:`spectral.Projection`."""
    basis = (np.zeros((3, len(BANDS))), np.zeros(len(BANDS))) if pca is None else (pca.components, pca.mean)
    axes = np.concatenate([basis[0], TASSELLED_CAP])
    mean = np.concatenate([np.broadcast_to(basis[1], (3, len(BANDS))), np.zeros((3, len(BANDS)))])
    chosen = [_AXES.index(name) for name in names]
    starts = [0.0 - math.fsum(products) for products in axes[chosen] * mean[chosen]]
    return torch.tensor(starts, dtype=torch.float64)[:, None], torch.from_numpy(axes[chosen])


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
    """Planes (..., y, x) without their rim."""
    return plane[..., rim_px : plane.shape[-2] - rim_px, rim_px : plane.shape[-1] - rim_px]
