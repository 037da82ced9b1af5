"""Random changes to training patches that keep them physically true.

What a flip or a quarter turn does to each channel, were the ground itself turned:

* Aspect is an angle on the ground and turns with it; turning the image alone would teach that north
  faces lie anywhere. Slope, and everything that is one number of one pixel (reflectance, indices, LST,
  elevation, PCA, tasselled cap), stays. Velocity is the magnitude of (vx, vy) and stays, as does
  coherence, a magnitude too.
* GLCM dissimilarity is the mean over the offsets 0, 45, 90 and 135 degrees. Flips and quarter turns
  permute these four, and a pair and its reverse count alike, so the channel turns as an image.
* Wrapped phase is a scalar of the pixel (range, height and air along the line of sight): its values move
  with the pixels and do not change; only an angle in the plane of the map would have to turn. But the
  sensor turns with the image. A mirror east-west makes an ascending pass a descending one, which flies
  too; a quarter turn makes a pass that no satellite flies, and what ties phase gradients to slope and
  aspect there (topographic residue and downhill motion, both projected on the line of sight) is not what
  nature shows. The network is not told the line of sight, so it could not rely on that tie anyway. Two
  things about phase are arbitrary in nature as well and can be drawn on top: its zero (reference point,
  air; ``phase_offset``) and its sign (which image comes first, the processor's custom; ``phase_sign``).
* What cannot be turned is the sun. Shade lies on the north-western slopes in morning scenes of the
  northern hemisphere, LST follows the aspect, and glaciers prefer some aspects. Flips teach not to rely on
  any of that: good under another sun, a loss where these are always the same (``flips: false``).

Dropping whole modalities prepares the network for places where a sensor never flew, in the same form that
the stack gives them: NaN. An offset of the elevation changes neither slope nor aspect; it does loosen the
bond between height and temperature, which is meant: the height of the snow line is local.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cryoscale.document import Written
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


class AugmentConfig(Written):
    """What is changed at random, drawn anew for every patch in every epoch.

    Attributes:
        flips: the eight flips and quarter turns of the square, equally likely.
        drop: probability that a modality is absent, each drawn by itself.
        drop_together: probability that thermal, velocity and radar are all absent at once; never, unless
            asked for.
        elevation_jitter_m: standard deviation (m) of an offset added to a patch's elevation, so that
            classes are learnt by relief and surface rather than by the height of the training ranges.
        phase_offset: add one angle to the wrapped phase of a patch, any being equally likely.
        phase_sign: change the sign of a patch's phase every other time.
    """

    flips: bool = True
    drop: dict[str, float] = Field(
        default={"thermal": 0.12, "velocity": 0.12, "insar": 0.12, "terrain": 0.03}
    )
    drop_together: float = Field(default=0.0, ge=0.0, le=1.0)
    elevation_jitter_m: float = Field(default=0.0, ge=0.0)
    phase_offset: bool = False
    phase_sign: bool = False

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


def wrapped(angle_rad: NDArray[np.float32]) -> NDArray[np.float32]:
    """Angles in (-pi, pi]; NaN stays NaN."""
    turns = np.ceil((angle_rad.astype(np.float64) - np.pi) / (2 * np.pi))
    # The float32 nearest to pi is above pi; the one below keeps to the range that the channel promises.
    edge = np.nextafter(np.float32(np.pi), np.float32(0))
    out: NDArray[np.float32] = np.clip((angle_rad - 2 * np.pi * turns).astype(np.float32), -edge, edge)
    return out


def drop_modalities(
    x: NDArray[np.float32], channels: Sequence[str], modalities: Sequence[str]
) -> NDArray[np.float32]:
    """A copy of stacks (..., c, h, w) with the channels of the named modalities set to NaN."""
    absent = {name for modality in modalities for name in DROPPABLE[modality]}
    out = x.copy()
    out[..., [i for i, name in enumerate(channels) if name in absent], :, :] = np.nan
    return out


@dataclass(frozen=True)
class Variant:
    """What was drawn for one patch; drawn apart from its use, since processes that share a batch all draw."""

    quarters: int
    mirror: bool
    offset: float
    dropped: tuple[str, ...]
    phase_turn_rad: float
    phase_sign: int

    @classmethod
    def draw(cls, config: AugmentConfig, rng: np.random.Generator) -> Variant:
        """The next variant of the generator."""
        # These draws happen whatever the settings, so that switching one change off leaves the others as
        # they were; those of the phase are made only if asked for, which leaves older recipes as they were.
        quarters, mirror, offset = int(rng.integers(4)), bool(rng.integers(2)), float(rng.standard_normal())
        chances = {name: float(rng.random()) for name in DROPPABLE}
        together = float(rng.random())
        dropped = {name for name, chance in chances.items() if chance < config.drop.get(name, 0.0)}
        if together < config.drop_together:
            dropped |= set(OPTICAL_ONLY)
        return cls(
            quarters=quarters if config.flips else 0,
            mirror=mirror and config.flips,
            offset=offset,
            dropped=tuple(sorted(dropped)),
            phase_turn_rad=float(rng.uniform(-np.pi, np.pi)) if config.phase_offset else 0.0,
            phase_sign=1 - 2 * int(rng.integers(2)) if config.phase_sign else 1,
        )


def apply(
    variant: Variant,
    x: NDArray[np.float32],
    y: NDArray[np.uint8],
    channels: Sequence[str],
    config: AugmentConfig,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One patch (c,h,w) and its labels (h,w), changed as drawn."""
    if variant.quarters or variant.mirror:
        x, y = turn(x, y, channels, quarters=variant.quarters, mirror=variant.mirror)
    x = drop_modalities(x, channels, variant.dropped)
    if config.elevation_jitter_m and "elevation" in channels:
        x[list(channels).index("elevation")] += config.elevation_jitter_m * variant.offset
    if (variant.phase_turn_rad or variant.phase_sign < 0) and "phase" in channels:
        index = list(channels).index("phase")
        x[index] = wrapped(variant.phase_sign * x[index] + np.float32(variant.phase_turn_rad))
    return x, y


def augment(
    x: NDArray[np.float32],
    y: NDArray[np.uint8],
    channels: Sequence[str],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A random variant of one patch (c,h,w) and its labels (h,w), as the generator decides."""
    return apply(Variant.draw(config, rng), x, y, channels, config)
