"""The recipe of a training: one YAML file, unknown keys are errors."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from cryoscale.document import Written, read_document
from cryoscale.errors import ConfigError
from cryoscale.learn.augment import AugmentConfig
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.models.weights import ARCHITECTURES
from cryoscale.read.composite import Method

TILE_MULTIPLE = 32
"""Patches and crops are multiples of this: the encoder halves five times."""


class SimulationConfig(Written):
    """Patches from simulated mountain ranges.

    Attributes:
        train_seeds: ranges to learn from.
        validation_seeds: ranges that choose the best epoch and set the temperature.
        test_seeds: ranges that are only looked at once, at the end.
        size: size of every range, as the simulator names it.
        regimes: what kind of place and season the ranges of a split are (names of the simulator), taken in
            turn; a split that is not named has the demo's.
        composites: the ways of compositing: training ranges take them in turn, the others take the first,
            which should be the one that runs use.
        patch_px: edge of a patch.
        stride_px: distance between training patches; validation and test patches do not overlap.
        min_labelled: least share of a patch's pixels that has both optics and a label.
        split: "blocked" keeps the ranges apart; "random" throws the patches of the training and
            validation ranges together and holds back ``random_fraction`` of them, which leaks between
            neighbours and exists for comparison with published figures.
        random_fraction: share held back by the random split.
        dtype: how stacks are stored.
    """

    train_seeds: tuple[int, ...] = Field(min_length=1)
    validation_seeds: tuple[int, ...] = ()
    test_seeds: tuple[int, ...] = ()
    size: str = "small"
    regimes: dict[Literal["train", "validation", "test"], tuple[str, ...]] = Field(default={})
    composites: tuple[Method, ...] = Field(default=("least_snow",), min_length=1)
    patch_px: int = Field(default=256, ge=TILE_MULTIPLE, multiple_of=TILE_MULTIPLE)
    stride_px: int = Field(default=128, ge=1)
    min_labelled: float = Field(default=0.2, ge=0.0, le=1.0)
    split: Literal["blocked", "random"] = "blocked"
    random_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    dtype: Literal["float16", "float32"] = "float16"

    @model_validator(mode="after")
    def _seeds_are_kept_apart(self) -> SimulationConfig:
        seeds = (*self.train_seeds, *self.validation_seeds, *self.test_seeds)
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed occurs twice among train, validation and test seeds")
        if self.split == "blocked" and not self.validation_seeds:
            raise ValueError("a blocked split needs validation_seeds")
        return self

    @property
    def fingerprint(self) -> str:
        """What tells one patch set from another."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ModelConfig(Written):
    """Which network, by the name of ``models.weights.ARCHITECTURES``, and its own arguments.

    ``in_channels`` and ``classes`` follow from the data and are not given here.
    """

    name: str = "cryonet"
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_known_and_leaves_the_data_alone(self) -> ModelConfig:
        if self.name not in ARCHITECTURES:
            raise ValueError(f"{self.name} is none of {', '.join(ARCHITECTURES)}")
        for name in ("in_channels", "classes"):
            if name in self.arguments:
                raise ValueError(f"{name} follows from the patches: leave it out")
        return self


class LossConfig(Written):
    """What is minimised; the formulas are in ``learn.losses``.

    Attributes:
        kind: "cross_entropy" and "focal" weigh the classes by frequency (``class_weight_power``); "dice" and
            "tversky" are means over the classes, which makes them alike.
        alpha: of tversky: what a pixel costs that is wrongly given to the class.
        beta: of tversky: what a pixel of the class costs that is missed.
        gamma: of focal: how fast pixels that are nearly right stop to count.
    """

    kind: Literal["cross_entropy", "dice", "tversky", "focal"] = "cross_entropy"
    alpha: float = Field(default=0.3, gt=0)
    beta: float = Field(default=0.7, gt=0)
    gamma: float = Field(default=2.0, ge=0)

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> LossConfig:
        known = {"tversky": {"alpha", "beta"}, "focal": {"gamma"}}.get(self.kind, set())
        idle = self.model_fields_set - known - {"kind"}
        if idle:
            raise ValueError(f"{self.kind} has no {', '.join(sorted(idle))}")
        return self


class TrainConfig(Written):
    """Everything that decides the outcome of a training, except the machine.

    Attributes:
        name: of the model, for its card.
        description: of the model, for its card: what it is, and what it is not.
        licence: of the weights.
        simulation: patches made from simulated ranges; or
        patches: a patch set that lies ready, a folder or fsspec URL. One of the two.
        model: the network; by default the one of ``initial``, or CryoNet with its ResNet-101.
        initial: weights to start from (fine-tuning); channel statistics and PCA basis are kept from
            their card, since the first layers and every batch norm were learnt under them.
        freeze_encoder: leave the network's encoder, its batch norms' statistics included, as it is.
        epochs: passes over the training patches.
        iterations: steps in all, instead of ``epochs``; the last pass is cut short.
        batch: patches a step, over all processes together.
        learning_rate: of Adam, at its highest.
        weight_decay: of Adam.
        schedule: "constant"; "cosine": a linear rise over ``warmup`` and a cosine to zero; or
            "cosine_restarts": ``cycles`` cosines of equal length (SGDR, https://arxiv.org/abs/1608.03983).
        warmup: share of all steps, of "cosine".
        cycles: of "cosine_restarts".
        clip_norm: longest gradient of a step; None lets it be.
        precision: of the forward pass: auto is bf16 on a GPU and fp32 on a CPU; fp16 scales the loss.
        loss: what is minimised.
        class_weight_power: 1 weighs the loss by inverse class frequency, 0.5 by its root, 0 not at all.
        allow_absent: classes that may be without any training pixel; for any other that is an error.
        crop_px: edge of random crops of the training patches; None takes them whole.
        crops: crops of each patch an epoch, whose order is drawn at once and so has to fit in memory.
        augment: random changes to the training patches.
        seed: of the network's initial weights and of every draw.
        device: auto, cpu or cuda.
        work: folder for patches and states while training; by default one beside the weights.
    """

    name: str
    description: str = ""
    licence: str = "not stated"
    simulation: SimulationConfig | None = None
    patches: str | None = None
    model: ModelConfig | None = None
    initial: Path | None = None
    freeze_encoder: bool = False
    epochs: int = Field(default=100, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "constant"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    cycles: int = Field(default=4, ge=1)
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    loss: LossConfig = LossConfig()
    class_weight_power: float = Field(default=1.0, ge=0, le=1)
    allow_absent: tuple[str, ...] = ()
    crop_px: int | None = Field(default=None, ge=TILE_MULTIPLE, multiple_of=TILE_MULTIPLE)
    crops: int = Field(default=1, ge=1, le=10_000)
    augment: AugmentConfig = AugmentConfig()
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    work: Path | None = None

    @field_validator("patches", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _does_not_contradict_itself(self) -> TrainConfig:
        if (self.simulation is None) == (self.patches is None):
            raise ValueError("give either simulation or patches")
        if self.iterations is not None and "epochs" in self.model_fields_set:
            raise ValueError("give either epochs or iterations")
        if self.freeze_encoder and self.initial is None:
            raise ValueError("freeze_encoder without initial would freeze random weights")
        if self.loss.kind in ("dice", "tversky") and "class_weight_power" in self.model_fields_set:
            raise ValueError(f"{self.loss.kind} takes no class_weight_power: its classes count alike")
        unknown = set(self.allow_absent) - set(CLASS_NAMES)
        if unknown:
            raise ValueError(
                f"allow_absent: {', '.join(sorted(unknown))} is none of {', '.join(CLASS_NAMES)}"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """What tells one training from another: all but where it runs and what its card says in words.

        Where patches and initial weights lie is no part of it; what they hold is for the training to add.
        """
        words = {"device", "work", "name", "description", "licence"}
        told = self.model_dump_json(exclude={*words, "patches", "initial"})
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of ``steps`` in all."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine_restarts":
            # In whole numbers: a rounded quotient can fall short of a cycle's beginning, where the rate is 0.
            done = step * self.cycles % steps / steps
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        progress = step / steps
        if progress < self.warmup:
            return self.learning_rate * (0.05 + 0.95 * progress / self.warmup)
        return (
            self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))
        )


def load_config(path: Path) -> TrainConfig:
    """The recipe in a YAML file; ``patches`` and ``initial`` are looked up beside it, then in the folder.

    Raises:
        ConfigError: if the file is absent, no YAML mapping, or says something twice or not understood.
    """
    values = read_document(path, "recipe")
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path}", "a YAML mapping of settings", "start from the demo's recipe")
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        expected = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"recipe {path}: {where}", expected, "correct the recipe") from None
    beside: dict[str, str | Path] = {}
    if config.initial is not None and (path.parent / config.initial).exists():
        beside["initial"] = path.parent / config.initial
    if config.patches is not None and "://" not in config.patches and (path.parent / config.patches).exists():
        beside["patches"] = str(path.parent / config.patches)
    return config.model_copy(update=beside)
