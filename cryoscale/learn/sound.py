"""Whether anything can be learnt from a patch set: checked before a training begins, one line where not."""

from __future__ import annotations

import numpy as np

from cryoscale.errors import ConfigError, SourceError
from cryoscale.features.stack import CHANNELS
from cryoscale.learn.patches import Patches
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA


def refuse_unfit(patches: Patches, config: TrainConfig, *, by_gradient: bool) -> None:
    """Raises unless the patches have the channels, the labels and the number that a training needs.

    Raises:
        SourceError: says what is missing: channels, patches of a split, labels, or a class.
        ConfigError: if the patches do not fill a batch.
    """
    _refuse_other_channels(patches.channels)
    for split in ("train", "validation"):
        if not len(patches.indices(split)):
            given = f"{len(patches)} patches, none of them for {split}"
            raise SourceError(
                given, "patches for training and for validation", "add ranges, or lower min_labelled"
            )
    crops = len(patches.indices("train")) * config.crops
    if by_gradient and crops < config.batch:
        given = f"{crops} crops of {len(patches.indices('train'))} training patches"
        raise ConfigError(given, f"a batch of {config.batch} or more", "lower batch, or add patches")
    counts = _label_counts(patches, "train")
    if not any(_label_counts(patches, "validation")):
        given = "validation patches without any labelled pixel"
        raise SourceError(given, "labels to choose the best epoch by", "look at the labels")
    absent = [name for name, n in zip(CLASS_NAMES, counts, strict=False) if not n]
    absent = [name for name in absent if name not in config.allow_absent]
    if absent:
        given = f"training patches without a pixel of {', '.join(absent)}"
        do = f"add patches that show it, or name it: allow_absent: [{', '.join(absent)}]"
        raise SourceError(given, "some of every class", do)


def _refuse_other_channels(channels: tuple[str, ...]) -> None:
    if channels == CHANNELS:
        return
    do = "make the samples again with this version"
    if len(channels) != len(CHANNELS):
        raise SourceError(f"patches of {len(channels)} channels", f"{len(CHANNELS)} channels", do)
    at = next(i for i, (left, right) in enumerate(zip(channels, CHANNELS, strict=True)) if left != right)
    raise SourceError(f"patches whose channel {at + 1} is {channels[at]}", CHANNELS[at], do)


def _label_counts(patches: Patches, split: str) -> list[int]:
    """Pixels of every label (255,) in a split."""
    counts = patches.class_counts(patches.indices(split), NO_DATA)
    strange = np.flatnonzero(counts[len(CLASS_NAMES) :]) + len(CLASS_NAMES)
    if len(strange):
        given = f"{split} patches with label {strange[0]} ({counts[strange[0]]} pixels)"
        expected = f"0 to {len(CLASS_NAMES) - 1}, or {NO_DATA} where it is not known"
        raise SourceError(given, expected, "correct the labels")
    return list(map(int, counts))
