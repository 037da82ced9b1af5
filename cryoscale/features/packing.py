"""The inputs of a block as numbers of 16 bits, of which a device makes the channels itself.

A pixel of 30 channels is 60 bytes in bf16 (:mod:`cryoscale.infer.wire`); what they are made of is 36: twelve
bands, temperature, velocity, coherence and phase in 2 each, and elevation in 4, since steps of an elevation
would become steps of its slopes. The rest is made where it is needed (:mod:`cryoscale.infer.derive`).

Bands, temperature, coherence and phase are numbered by cells of equal width, a whole number of them to a grey
level of the texture. A number stands for the middle of its cell, but for the cell that begins at 0, which
stands for 0: reflectances are clipped there, and an index of two that are 0 is 0. So grey levels, elevation
and clipping are exact, and the rest is off by half a cell, 3e-5 of a reflectance, where a digital number of
Sentinel-2 is 1e-4. Values beyond the cells become the nearest; what is not finite is number 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoscale.features import terrain, texture
from cryoscale.features.channels import BANDS, CHANNELS
from cryoscale.features.pca import PcaBasis
from cryoscale.features.spectral import INDEX_BANDS
from cryoscale.kernel import kernel

HALO_PX: Final = max(terrain.HALO_PX, texture.HALO_PX)
"""Pixels that inputs reach further, on each side, than the channels made of them."""

_HALF, _WHOLE = "velocity", "elevation"

_MOST = 2**16 - 2
"""The last cell; they are counted from 0, and a cell's number is one more."""


@dataclass(frozen=True)
class Cells:
    """Cells of equal width, 1 / ``a_unit``, the first of which begins at ``first`` cells from 0."""

    a_unit: int
    first: int = 0


CELLS: Final[Mapping[str, Cells]] = {
    **dict.fromkeys(BANDS, Cells(2**14, -(2**12))),  # reflectance from -0.25 to 3.75
    "LST": Cells(2**7),  # K, up to 511
    "coherence": Cells(2**15),  # up to 2
    "phase": Cells(2**13, -(2**15)),  # rad, from -4 to 4
}
"""Inputs that are numbered by cells, in the order of their planes. After them come ``velocity``, a float of
16 bits, up to 65 km a year, and the two halves of ``elevation``'s float of 32, the upper one first."""


@dataclass(frozen=True)
class Recipe:
    """What numbers stand for, and what is to be made of them.

    Attributes:
        inputs: names of the inputs, in the order of their planes.
        channels: names of the channels that are wanted, in their order.
        pca: the basis of the principal components; None where none is wanted.
    """

    inputs: tuple[str, ...]
    channels: tuple[str, ...]
    pca: PcaBasis | None

    @property
    def planes(self) -> int:
        """How many planes of numbers there are."""
        return sum(planes_of(name) for name in self.inputs)


@dataclass(frozen=True, eq=False)
class Packed:
    """Numbers (plane, y, x) u16 of a window and :data:`HALO_PX` around it, and what they stand for."""

    numbers: NDArray[np.uint16]
    recipe: Recipe


def planes_of(name: str) -> int:
    """How many planes of numbers an input takes."""
    return 2 if name == _WHOLE else 1


def bytes_a_pixel(channels: Iterable[str] = CHANNELS) -> int:
    """What a pixel takes of which ``channels`` are to be made, none of their inputs missing."""
    return 2 * sum(planes_of(name) for name in inputs_for(channels))


def inputs_for(channels: Iterable[str]) -> tuple[str, ...]:
    """Names of the inputs that ``channels`` are made of, in the order of their planes."""
    wanted = {name for channel in channels for name in _inputs_of(channel)}
    return tuple(name for name in (*CELLS, _HALF, _WHOLE) if name in wanted)


def _inputs_of(channel: str) -> Sequence[str]:
    if channel in INDEX_BANDS:
        return INDEX_BANDS[channel]
    if channel in ("slope", "aspect"):
        return (_WHOLE,)
    if channel == "GLCM_dissimilarity":
        return ("B08",)
    return BANDS if channel.startswith(("PCA", "TC_")) else (channel,)


def pack(
    planes: Mapping[str, NDArray[Any]],
    shape: tuple[int, int],
    channels: Sequence[str],
    pca: PcaBasis | None,
) -> Packed:
    """The inputs as numbers.

    Args:
        planes: inputs (y, x) in physical units, NaN = missing; one that is absent is missing everywhere,
            and so are the channels made of it.
        shape: of all of them.
        channels: those that a model takes.
        pca: the basis of the principal components among them.
    """
    inputs = tuple(name for name in inputs_for(channels) if name in planes)
    recipe = Recipe(inputs, tuple(channels), pca)
    numbers = np.empty((recipe.planes, *shape), np.uint16)
    at = 0
    for name in inputs:
        plane = np.ascontiguousarray(planes[name], np.float32)
        if name in CELLS:
            _number(plane, CELLS[name].a_unit, CELLS[name].first, numbers[at])
        elif name == _HALF:
            _shorten(plane, numbers[at])
        else:
            _halve(plane, numbers[at], numbers[at + 1])
        at += planes_of(name)
    return Packed(numbers, recipe)


@kernel
def _number(plane: NDArray[np.float32], a_unit: int, first: int, out: NDArray[np.uint16]) -> None:
    """Widths are powers of two, so that scaling is exact, and what is just below a cell stays so."""
    scale, most, zero = np.float32(a_unit), np.float32(_MOST), np.float32(0.0)
    offset = np.float32(first)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            value = plane[y, x]
            cell = np.floor(value * scale) - offset
            cell = zero if cell < zero else cell
            cell = most if cell > most else cell
            there = abs(value) < np.inf  # and so not NaN
            out[y, x] = np.uint16(np.int32(cell) + 1) if there else np.uint16(0)


@kernel
def _shorten(plane: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
    """Floats of 16 bits, to the nearest, ties to even; what is beyond the largest becomes it.

    Brought to the exponents of the shorter ones by a power of two, so that whole numbers do the rest; below
    6e-5 it may round twice, to a neighbour some 6e-8 away.
    """
    width = plane.shape[1]
    row = np.empty(width, np.float32)
    raw, scale = row.view(np.uint32), np.float32(2.0**-112)
    for y in range(plane.shape[0]):
        for x in range(width):
            row[x] = abs(plane[y, x]) * scale
        for x in range(width):
            rounded = (raw[x] + np.uint32(0x0FFF) + ((raw[x] >> np.uint32(13)) & np.uint32(1))) >> np.uint32(
                13
            )
            short = np.uint32(0x7BFF) if rounded > np.uint32(0x7BFF) else rounded
            short |= np.uint32(0x8000) if plane[y, x] < 0.0 else np.uint32(0)
            there = abs(plane[y, x]) < np.inf
            out[y, x] = np.uint16(short) if there else np.uint16(0x7E00)


@kernel
def _halve(plane: NDArray[np.float32], upper: NDArray[np.uint16], lower: NDArray[np.uint16]) -> None:
    """The two halves of the bits of a float."""
    raw = plane.view(np.uint32)
    for y in range(raw.shape[0]):
        for x in range(raw.shape[1]):
            upper[y, x] = np.uint16(raw[y, x] >> np.uint32(16))
            lower[y, x] = np.uint16(raw[y, x] & np.uint32(0xFFFF))
