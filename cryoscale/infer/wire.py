"""Features on their way to an actor that rounds them to bf16 anyway: rounded before they are sent.

A pixel of 30 channels is 120 bytes in float32 and 60 so. At 2,500 tiles/s and 50 % overlap a GPU is sent 46
Mpixel/s (blocks of 2048 with their halo), which are 5.5 against 2.8 GB/s: between machines more than 25
Gbit/s carry against less, and half the time of the core that copies it into page-locked memory. The map stays
the same to the last bit, as the network is given the very numbers that it would have rounded to itself; so
there is nothing to gate.

What the channels are made of is 36 bytes (:mod:`cryoscale.features.packing`), from which a device can make
them itself (:mod:`derive`). Links would not ask for it (``python -m benchmarks.wire``), but an actor's
process takes in less than a link brings: 2.3 GB/s on two cores, 2,090 tiles/s at 50 % overlap as channels
and 3,480 as numbers (``benchmarks/results/scaling.jsonl``). That matters where a network does more and some
160 workers of two cores feed its GPU over a network, or 50 with three dates; on its own machine features are
mapped and not sent at all. With fewer it is the reading that a GPU waits for. So whether channels are made
there is found out before a run (:mod:`cryoscale.deriving`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from cryoscale.kernel import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BYTES_A_CHANNEL: Final = 2
"""Of a pixel's channel, as it is sent."""

INTAKE_BYTES_S: Final = 2.3e9
"""Of one actor's process: benchmarks/results/scaling.jsonl, on 2 cores that who sends has a share in; the
median of turns that took from 1.3 to 2.9, as others share the machine."""

NARROW = np.dtype(np.uint16)
"""Of an array that holds standardised features as the bits of bf16, which numpy does not know."""

Standard = tuple["Sequence[float]", "Sequence[float]"]
"""Mean and deviation of the channels."""


def narrow(
    features: NDArray[np.float32], standard: Standard, out: NDArray[np.uint16] | None = None
) -> NDArray[np.uint16]:
    """Standardised features (c, h, w) as the bits of bf16; what is not finite becomes NaN.

    Args:
        features: float32, physical units.
        standard: mean and deviation (c,) of the model's card.
        out: where they go; a new array by default.
    """
    mean, std = (np.asarray(of, np.float32) for of in standard)
    bits = np.empty(features.shape, NARROW) if out is None else out
    for channel, plane in enumerate(features):
        _narrow(np.ascontiguousarray(plane, np.float32), mean[channel], std[channel], bits[channel])
    return bits


@kernel
def _narrow(plane: NDArray[np.float32], mean: np.float32, std: np.float32, bits: NDArray[np.uint16]) -> None:
    """One channel (h, w), rounded to the nearest, ties to even, as torch rounds."""
    height, width = plane.shape
    row = np.empty(width, np.float32)
    raw = row.view(np.uint32)
    for y in range(height):
        for x in range(width):
            row[x] = (plane[y, x] - mean) / std
        for x in range(width):
            rounded = (raw[x] + np.uint32(0x7FFF) + ((raw[x] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
                16
            )
            finite = (raw[x] & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
            bits[y, x] = np.uint16(rounded) if finite else np.uint16(0x7FC0)
