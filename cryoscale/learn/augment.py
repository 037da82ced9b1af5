"""Random changes to training patches that keep them physically true.

Flips and quarter turns carry the aspect channel with them: it is an angle on the ground, so turning
the image without turning it would teach that north faces lie anywhere. Dropping whole modalities
prepares the network for places where a sensor never flew, in the same form that the stack gives them: NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cryoscale.features.turn import turn_map, turn_stack

DROPPABLE: dict[str, tuple[str, ...]] = {
    "thermal": ("LST",),
    "terrain": ("elevation", "slope", "aspect"),
    "velocity": ("velocity",),
    "insar": ("coherence", "phase"),
}
"""Channels of each modality that can be absent where the optical bands are present."""

OPTICAL_ONLY: tuple[str, ...] = ("thermal", "velocity", "insar")
"""What is absent where there is only optics and a terrain model, the commonest real case."""


class AugmentConfig(BaseModel):
    """What is changed at random, drawn anew for every patch in every epoch.

    Attributes:
        flips: the eight flips and quarter turns of the square, equally likely.
        drop: probability that a modality is absent, each drawn by itself.
        drop_together: probability that thermal, velocity and radar are all absent at once.
        elevation_jitter_m: standard deviation (m) of an offset added to a patch's elevation, so that
            classes are learnt by relief and surface rather than by the height of the training ranges.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flips: bool = True
    drop: dict[str, float] = {"thermal": 0.12, "velocity": 0.12, "insar": 0.12, "terrain": 0.03}
    drop_together: float = Field(default=0.15, ge=0.0, le=1.0)
    elevation_jitter_m: float = Field(default=0.0, ge=0.0)

    def model_post_init(self, _context: Any) -> None:
        """Refuses modalities that do not exist, and probabilities that are none."""
        for name, probability in self.drop.items():
            if name not in DROPPABLE or not 0.0 <= probability <= 1.0:
                raise ValueError(
                    f"drop: {name}: {probability} is not a probability of {', '.join(DROPPABLE)}"
                )


def turn(
    x: NDArray[np.float32], y: NDArray[np.uint8], channels: Sequence[str], *, quarters: int, mirror: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Mirrors a patch (c,h,w) and its labels (h,w) east-west (if asked), then turns them.

    As :func:`cryoscale.features.turn.turn_stack` does: counter-clockwise, and aspect goes along.
    """
    return turn_stack(x, channels, quarters, mirror), turn_map(y, quarters, mirror)


def drop_modalities(
    x: NDArray[np.float32], channels: Sequence[str], modalities: Sequence[str]
) -> NDArray[np.float32]:
    """A copy of stacks (..., c, h, w) with the channels of the named modalities set to NaN."""
    absent = {name for modality in modalities for name in DROPPABLE[modality]}
    out = x.copy()
    out[..., [i for i, name in enumerate(channels) if name in absent], :, :] = np.nan
    return out


def augment(
    x: NDArray[np.float32],
    y: NDArray[np.uint8],
    channels: Sequence[str],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A random variant of one patch (c,h,w) and its labels (h,w), as the generator decides."""
    # All draws happen whatever the settings, so that switching one change off leaves the others as they were.
    quarters, mirror, offset = int(rng.integers(4)), bool(rng.integers(2)), float(rng.standard_normal())
    chances = {name: float(rng.random()) for name in DROPPABLE}
    together = float(rng.random())
    if config.flips:
        x, y = turn(x, y, channels, quarters=quarters, mirror=mirror)
    dropped = {name for name, chance in chances.items() if chance < config.drop.get(name, 0.0)}
    if together < config.drop_together:
        dropped |= set(OPTICAL_ONLY)
    x = drop_modalities(x, channels, sorted(dropped))
    if config.elevation_jitter_m and "elevation" in channels:
        x[list(channels).index("elevation")] += config.elevation_jitter_m * offset
    return x, y
