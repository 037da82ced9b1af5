"""Whether a GPU makes channels of bands itself, of numbers that are sent in the place of 30 channels.

A pixel then takes 36 bytes of what an actor's process can take in (``INTAKE_BYTES_S`` of
:mod:`cryoscale.infer.wire`) and not 60. That saves something only where the network is quicker than its
channels arrive, and what making them takes comes on top of the network. Both are measured on the run's own
GPU and blocks before it begins, and the answers must be as like those of float32 as those of a precision,
since numbers stand for bands to half a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.features.packing import bytes_a_pixel
from cryoscale.grid import Block
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.infer.wire import BYTES_A_CHANNEL, INTAKE_BYTES_S
from cryoscale.models.parity import REFERENCE, Choice, in_words, likeness, passes
from cryoscale.settings import Settings
from cryoscale.specimen import Specimen, corners

TURNS = 5
"""Times that channels of a block's tiles are made, after one that warms up; the median of all is taken."""


@dataclass(frozen=True)
class Derivation:
    """What making channels on the device costs, saves and changes.

    Attributes:
        tile_s: of the network, for a tile.
        make_s: of the device, for the channels of a tile's share of a block.
        channels_s, numbers_s: in which an actor's process takes that share in, as channels and as numbers.
        agreement: share of the valid pixels with the class that float32 gives channels of the workers.
        difference: mean absolute difference of their probabilities.
        class_iou: the least intersection over union of a class with that of float32.
    """

    tile_s: float
    make_s: float
    channels_s: float
    numbers_s: float
    agreement: float
    difference: float
    class_iou: float

    @property
    def gain(self) -> float:
        """By how much a GPU maps more, at most: of what it took, over what it takes."""
        return max(self.tile_s, self.channels_s) / max(self.tile_s + self.make_s, self.numbers_s)

    @property
    def passes(self) -> bool:
        """Whether answers are as like as those of another precision have to be."""
        return passes(self.agreement, self.difference, self.class_iou)

    @property
    def pays(self) -> bool:
        """Whether channels are to be made on the device."""
        return self.passes and self.gain > 1.0

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        times = {name: float(f"{getattr(self, name):.3g}") for name in ("tile_s", "make_s")}
        taken_in = {name: float(f"{getattr(self, name):.3g}") for name in ("channels_s", "numbers_s")}
        alike = {
            "agreement": round(self.agreement, 6),
            "class_iou": round(self.class_iou, 6),
            "difference": float(f"{self.difference:.3g}"),
        }
        return {**times, **taken_in, **alike, "gain": round(self.gain, 3), "pays": self.pays}

    def __str__(self) -> str:
        told = (
            f"channels made on the GPU: {1e3 * self.make_s:.3g} ms a tile beside {1e3 * self.tile_s:.3g} of "
            f"the network, and {1e3 * self.numbers_s:.3g} ms of intake and not {1e3 * self.channels_s:.3g}, "
            f"{in_words(self.agreement, self.difference, self.class_iou)}"
        )
        return told + (f": {self.gain:.2f} times as quick" if self.pays else ", not taken")


def is_open(settings: Settings) -> bool:
    """Whether a trial may find that channels are best made on the device: beside that of the precision.

    Not for a network that is asked several times a tile, turned or with dropout, which outruns nothing.
    """
    model = settings.model
    asked = model.derive_on == "auto" and model.precision == "auto" and model.weights is not None
    return asked and model.passes == 1


def outruns_intake(choice: Choice, settings: Settings, channels: Sequence[str]) -> bool:
    """Whether the network in the precision chosen is quicker than an actor takes its channels in.

    In float32 it is not.
    """
    if choice.precision == REFERENCE:
        return False
    return choice.seconds_a_tile < _taken_in_s(settings, BYTES_A_CHANNEL * len(channels))


def try_deriving(
    load: Callable[[str], Any], precision: str, specimen: Specimen, settings: Settings
) -> Derivation:
    """Costs and savings on the device of what ``load`` loads.

    Args:
        load: makes the model in a precision, as it is served, but for the reference.
        precision: that of the run.
        specimen: tiles of the run, and what they are made of.
        settings: of the run.
    """
    import torch

    from cryoscale.infer.derive import Deriver

    wanted = load(REFERENCE)(specimen.tiles, *_codes(specimen))
    model = load(precision)
    device = model.network.device
    tiles, took = [], []
    for packed in specimen.packed:
        make = Deriver(packed.recipe, device)
        numbers = torch.from_numpy(packed.numbers.view(np.int16)).to(device)
        for turn in range(1 + TURNS):
            begun = time.perf_counter()
            made = make(numbers)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                took.append((time.perf_counter() - begun) / made[0].numel())
        tiles += corners(made.cpu().numpy(), settings.tile_px)
    answers = model(np.stack(tiles), *_codes(specimen))
    px_a_tile = _px_a_tile(settings)
    channels = specimen.packed[0].recipe.channels
    return Derivation(
        float(model.seconds_a_tile()),
        float(np.median(took)) * px_a_tile,
        _taken_in_s(settings, BYTES_A_CHANNEL * len(channels)),
        _taken_in_s(settings, bytes_a_pixel(channels)),
        *likeness(answers, wanted, specimen.valid),
    )


def _codes(specimen: Specimen) -> tuple[NDArray[np.float32], ...]:
    return () if specimen.codes is None else (specimen.codes,)


def _taken_in_s(settings: Settings, bytes_px: int) -> float:
    """Seconds in which an actor's process takes in what is sent for a tile."""
    return _px_a_tile(settings) * bytes_px / INTAKE_BYTES_S


def _px_a_tile(settings: Settings) -> float:
    """Pixels that are sent for each tile of a whole block, its rim among them."""
    block = Block(32645, 0, 0, settings.block_px)
    outer = read_window(block, settings.tile_px, settings.model.overlap)
    stride = stride_px(settings.tile_px, settings.model.overlap)
    a_side = len(tile_origins(0, settings.block_px, settings.tile_px, stride))
    return outer.height * outer.width / a_side**2
