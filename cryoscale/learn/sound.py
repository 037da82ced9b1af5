"""Whether anything can be learnt from a patch set: checked before a training begins, one line where not."""

from __future__ import annotations

from cryoscale.errors import ConfigError, SourceError
from cryoscale.features.stack import CHANNELS
from cryoscale.learn.patches import Patches
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.scores import CLASS_NAMES


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
    counts, held_back = (
        patches.class_counts(patches.indices(split), len(CLASS_NAMES)) for split in ("train", "validation")
    )
    if not held_back.any():
        given = "validation patches without any labelled pixel"
        raise SourceError(given, "labels to choose the best epoch by", "look at the labels")
    absent = [name for name, n in zip(CLASS_NAMES, counts, strict=True) if not n]
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
