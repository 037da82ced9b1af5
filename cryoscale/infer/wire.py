"""Features on their way to an actor that rounds them to bf16 anyway: rounded before they are sent.

A pixel of 30 channels is 120 bytes in float32 and 60 so. At 2,500 tiles/s and 50 % overlap a GPU is sent 46
Mpixel/s (blocks of 2048 with their halo), which are 5.5 against 2.8 GB/s: between machines more than 25
Gbit/s carry against less, and half the time of the core that copies it into page-locked memory. The map stays
the same to the last bit, as the network is given the very numbers that it would have rounded to itself; so
there is nothing to gate.

Digital numbers would be 34 bytes (twelve bands, temperature, elevation, velocity, coherence and phase in 2
each). But bands are resampled to 10 m and composited, so that no whole numbers are left to send; elevation in
2 bytes makes steps of its slopes; and the 13 channels that are derived would have to be made again on the
device, by a second implementation that is only nearly equal. ``python -m benchmarks.wire`` reckons what it
would save on a link: nothing that the network could use, unless it is slower than 25 Gbit/s. An actor's
process takes in less than a link brings: 1.99 GB/s on two cores, 1,806 tiles/s at 50 % overlap, and 18 bands
of 16 bits would be 3,009 (``benchmarks/results/scaling.jsonl``). That is what they would win, where 139
workers of two cores feed one GPU over a network, or 46 with three dates; on its own machine features are
mapped and not sent at all. With fewer it is the reading that a GPU waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cryoscale.kernel import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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
