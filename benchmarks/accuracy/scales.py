"""How large the benchmark is: which ranges, which networks, how long they train."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cryoscale.errors import InputError

NETWORKS = ("cryonet", "unet", "deeplabv3plus", "segformer", "glavitu")
LEARNERS = (*NETWORKS, "random-forest")
MODELS = (*LEARNERS, "band-ratio")

OPTICAL_ONLY = ("thermal", "velocity", "insar")
"""What is absent where there is only optics and a terrain model."""


@dataclass(frozen=True)
class Place:
    """A simulated range: its seed, and the name of its regime."""

    seed: int
    regime: str

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"{self.regime}-{self.seed}"


@dataclass(frozen=True)
class Scale:
    """One size of the benchmark; everything in it decides the outcome but ``workers``, ``heavy``, ``wide``.

    Attributes:
        name: of the scale.
        size: of every range, as the simulator names it.
        train: ranges that all models learn from.
        validation: ranges that choose the best epoch and set the temperature.
        test: ranges that Tables I, II and III are about; their regimes are in no other split.
        tune: ranges of the transfer regime that models are fine-tuned on.
        tune_validation: ranges that choose the best epoch of fine-tuning.
        transfer: ranges of the transfer regime that Table V is about.
        patch_px: edge of a patch, and of a tile when ranges are mapped.
        stride_px: distance between training patches.
        recipe: what every training has in common (keys of a training recipe).
        tuning: what every fine-tuning has in common.
        arguments: of each learner.
        ablations: modalities left out, each row trained without them anew.
        dropped: modalities left out when ranges are mapped with the CryoNet that has learnt all.
        importance: permutations of each channel and most patches that they are made on.
        workers: jobs at once, each a process of one thread; 0 runs all in this process.
        heavy: most trainings and the like at once on a GPU; None leaves it to ``workers``.
        wide: processes or threads of a job that can use several, on as many cores at least.
        block_px: blocks of work of the runs that map the ranges.
        overlap: of their tiles, the study's unless a scale says otherwise.
    """

    name: str
    size: str
    train: tuple[Place, ...]
    validation: tuple[Place, ...]
    test: tuple[Place, ...]
    tune: tuple[Place, ...]
    tune_validation: tuple[Place, ...]
    transfer: tuple[Place, ...]
    patch_px: int
    stride_px: int
    recipe: Mapping[str, Any]
    tuning: Mapping[str, Any]
    arguments: Mapping[str, Mapping[str, Any]]
    ablations: tuple[tuple[str, ...], ...] = (("insar",), OPTICAL_ONLY)
    dropped: tuple[tuple[str, ...], ...] = (
        ("terrain",),
        ("velocity",),
        ("insar",),
        OPTICAL_ONLY,
    )
    importance: tuple[int, int] = (2, 48)
    workers: int = 2
    block_px: int = 512
    overlap: float = 0.5
    heavy: int | None = None
    wide: int = 1
    composites: tuple[str, ...] = field(default=("least_snow", "median"))

    @property
    def fingerprint(self) -> str:
        """What tells the results of one scale from those of another."""
        told = {name: value for name, value in asdict(self).items() if name not in _HOW_FAST}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


_HOW_FAST = ("workers", "heavy", "wide")


def places(first_seed: int, count: int, *regimes: str) -> tuple[Place, ...]:
    """``count`` ranges of rising seeds, the regimes in turn."""
    return tuple(Place(first_seed + k, regimes[k % len(regimes)]) for k in range(count))


TRAINED_IN = ("himalaya", "himalaya-late")
TESTED_IN = ("himalaya-early", "karakoram")
TRANSFERRED_TO = ("alps",)

_RECIPE: dict[str, Any] = {
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "class_weight_power": 0.5,
    "augment": {"elevation_jitter_m": 300.0, "drop_together": 0.15},
    "seed": 1,
}

TINY = Scale(
    name="tiny",
    size="tiny",
    train=places(501, 1, *TRAINED_IN),
    validation=places(511, 1, "himalaya"),
    test=places(521, 1, "himalaya-early"),
    tune=places(531, 1, *TRANSFERRED_TO),
    tune_validation=places(532, 1, *TRANSFERRED_TO),
    transfer=places(533, 1, *TRANSFERRED_TO),
    patch_px=64,
    stride_px=64,
    recipe={**_RECIPE, "iterations": 6, "batch": 8, "crop_px": 64, "crops": 1, "learning_rate": 3e-3},
    tuning={"iterations": 4, "batch": 4, "crop_px": 64, "learning_rate": 5e-4, "class_weight_power": 0.5},
    arguments={
        "cryonet": {"encoder": "resnet10w16", "decoder_channels": [32, 16, 16, 16, 16]},
        "random-forest": {"trees": 10, "leaves": 64, "pixels_per_class": 500},
    },
    ablations=(("insar",),),
    dropped=(),
    importance=(1, 2),
    workers=0,
    block_px=256,
    overlap=0.25,
    composites=("least_snow",),
)
"""A minute or two, in the tests: it shows that all steps fit together, and nothing about any model."""

CPU = Scale(
    name="cpu",
    size="small",
    train=places(401, 8, *TRAINED_IN),
    validation=places(411, 2, *TRAINED_IN),
    test=places(421, 2, *TESTED_IN),
    tune=places(431, 1, *TRANSFERRED_TO),
    tune_validation=places(432, 1, *TRANSFERRED_TO),
    transfer=places(433, 1, *TRANSFERRED_TO),
    patch_px=256,
    stride_px=256,
    recipe={**_RECIPE, "iterations": 1000, "batch": 8, "crop_px": 128, "crops": 8, "learning_rate": 1e-3},
    tuning={"iterations": 60, "batch": 8, "crop_px": 128, "learning_rate": 2e-4, "class_weight_power": 0.5},
    arguments={
        "cryonet": {"encoder": "resnet18w16", "decoder_channels": [128, 64, 32, 16, 16]},
        "unet": {"encoder": "tu-test_resnet", "decoder_channels": [128, 64, 32, 16, 16]},
        "deeplabv3plus": {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": 128},
        "segformer": {"encoder": "mit_b0", "decoder_channels": 128},
        "glavitu": {"width": 16, "blocks": 6, "mlp": 64, "tile_px": 256},
        "random-forest": {},
    },
)
"""An hour on two cores, with networks of about a million parameters."""

FULL = Scale(
    name="full",
    size="small",
    train=places(401, 16, *TRAINED_IN),
    validation=places(451, 4, *TRAINED_IN),
    test=places(461, 2, *TESTED_IN),
    tune=places(471, 2, *TRANSFERRED_TO),
    tune_validation=places(473, 1, *TRANSFERRED_TO),
    transfer=places(474, 1, *TRANSFERRED_TO),
    patch_px=256,
    stride_px=256,
    recipe={**_RECIPE, "iterations": 396, "batch": 16, "crops": 4, "learning_rate": 3e-4},
    # Crops enough for two passes: after each, a gigabyte of state is written.
    tuning={"iterations": 60, "batch": 16, "crops": 8, "learning_rate": 1e-4, "class_weight_power": 0.5},
    arguments={
        "cryonet": {"encoder": "resnet101"},
        "unet": {"encoder": "resnet101"},
        "deeplabv3plus": {"encoder": "resnet101"},
        "segformer": {"encoder": "mit_b2"},
        "glavitu": {"tile_px": 256},
        "random-forest": {},
    },
    importance=(2, 128),
    block_px=1024,
    workers=16,
    heavy=6,
    wide=24,
)
"""The networks of the study, for one GPU of 80 GB or more and 16 cores; not run to its end yet."""

SCALES = {scale.name: scale for scale in (TINY, CPU, FULL)}


def scale_named(name: str) -> Scale:
    """The scale of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in SCALES:
        raise InputError(f"scale {name!r}", f"one of {', '.join(SCALES)}", "choose one of these")
    return SCALES[name]
