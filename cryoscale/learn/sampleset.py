"""A patch set asked for, and told to people: counts, shares, leakage; and whether it can be learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cryoscale.errors import ConfigError, InputError
from cryoscale.features.channels import MODALITIES
from cryoscale.learn.patches import SPLITS, Patches
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.learn.splits import GAP_PX, Ground, SplitRule, leak_of

MIN_PATCHES = 2
"""Fewer in a split make neither a training nor a score."""


class SampleConfig(BaseModel):
    """What ``cryoscale samples`` is asked for; the README and ``--help`` say what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outlines: tuple[Path, ...] = ()
    debris: tuple[Path, ...] = ()
    corrections: tuple[Path, ...] = ()
    truth: Path | None = None
    resample: bool = False
    weights: Path | None = None
    patch_px: int = Field(default=256, ge=32, le=4096, multiple_of=32)
    stride_px: int = Field(default=128, ge=1)
    min_labelled: float = Field(default=0.2, ge=0.0, le=1.0)
    rim_px: float = Field(default=0.0, ge=0.0, le=100.0)
    max_water_slope_deg: float | None = Field(default=None, ge=0.0, le=90.0)
    dtype: Literal["float16", "float32"] = "float16"
    split: Literal["blocked", "random", "leave-one-out"] = "blocked"
    held_out: tuple[str, ...] = ()
    fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    block_px: int = Field(default=1024, ge=1)
    gap_px: int = Field(default=GAP_PX, ge=0)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=1, le=64)

    @model_validator(mode="after")
    def _fits_together(self) -> SampleConfig:
        if self.stride_px > self.patch_px:
            raise ValueError("the stride is larger than the patch, which leaves gaps")
        if self.fraction + self.test_fraction >= 1:
            raise ValueError("fraction and test_fraction leave nothing to train on")
        if (self.split == "leave-one-out") != bool(self.held_out):
            raise ValueError("leave-one-out and held_out (the name of a run) go together")
        if self.held_out and self.test_fraction:
            raise ValueError("leave-one-out tests on whole runs: test_fraction would change nothing")
        if (self.truth is None) != bool(self.outlines or self.debris):
            raise ValueError("give outlines and debris, or truth")
        if bool(self.outlines) != bool(self.debris):
            raise ValueError("glacier outlines without debris outlines would label debris as clean ice")
        if self.truth is not None and (self.rim_px or self.max_water_slope_deg is not None):
            raise ValueError(
                "rim_px and max_water_slope_deg are rules for outlines: a truth is taken as it is"
            )
        if self.resample and self.truth is None:
            raise ValueError("resample without truth would change nothing")
        return self


def checked(**given: Any) -> SampleConfig:
    """A configuration of what was given.

    Raises:
        ConfigError: a value does not fit, told in one line.
    """
    try:
        return SampleConfig(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        value = f"--{name.replace('_', '-')} {first['input']}" if name else "options that do not fit"
        raise ConfigError(value, first["msg"].removeprefix("Value error, "), "correct it") from None


def require_learnable(splits: NDArray[np.str_], class_pixels: NDArray[np.int64], rule: SplitRule) -> None:
    """Refuses splits (n,) that nothing can be learnt from, given pixels of each class a patch (n, k).

    Raises:
        InputError: a split has fewer than two patches, or training lacks a class that others have. What only
            a region has that is left out may be lacking: that is what it was left out to show.
    """
    for split in rule.splits:
        count = int((splits == split).sum())
        if count < MIN_PATCHES:
            dropped = int((splits == "unused").sum())
            raise InputError(
                f"{count} patches for {split} ({len(splits)} cut, {dropped} dropped to keep splits apart)",
                f"at least {MIN_PATCHES} for each split",
                "lower --block-px, --gap-px, --stride or --min-labelled, or add runs",
            )
    learnt = class_pixels[splits == "train"].sum(axis=0)
    # no other seed or block brings into training what lies in a region left out, or on ground shared with it
    could_be = np.isin(splits, ["train", "validation"]) | (rule.kind != "leave-one-out")
    for name, here, anywhere in zip(CLASS_NAMES, learnt, class_pixels[could_be].sum(axis=0), strict=True):
        if anywhere and not here:
            raise InputError(
                f"a training split without a pixel of {name}, of which there are {anywhere}",
                "every class in training",
                "give another --seed or a smaller --block-px, or add a run that has it",
            )


def summarise(
    patches: Patches, out: str, *, left_out: Sequence[dict[str, Any]] = (), notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The summary of a set as JSON values: counts by split, region and class, quality, leakage, sources."""
    names = patches.attrs["regions"]
    by_split = {split: patches.indices(split) for split in SPLITS}
    ground = Ground(
        **{name: patches.columns[name] for name in ("epsg", "row", "col")}, patch_px=patches.patch_px
    )
    splits = np.array(SPLITS)[patches.columns["split"]]
    return {
        "out": out,
        "patches": {split: len(found) for split, found in by_split.items()},
        "patch_px": patches.patch_px,
        "class_pixels": {split: _by_class(patches, found) for split, found in by_split.items()},
        "regions": {
            name: {
                split: int((patches.columns["region"][found] == int(number)).sum())
                for split, found in by_split.items()
            }
            for number, name in names.items()
        },
        "quality": _quality(patches),
        "split": patches.attrs["split"],
        "split_rule": patches.attrs["split_rule"],
        "shared_ground": leak_of(ground, splits),
        "source": patches.attrs["source"],
        "notes": [*notes, *_lacks(patches)],
        "blocks_left_out": list(left_out),
        "scenes_failed": patches.attrs["source"].get("scenes_failed", []),
    }


def _lacks(patches: Patches) -> list[str]:
    """What the set has no pixel of to learn from, as notes."""
    everywhere = _by_class(patches, np.arange(len(patches)))
    learnt = _by_class(patches, patches.indices("train"))
    return [
        f"no pixel of {name} in training, of which there are {count}: allow_absent: [{name}] trains without"
        if count
        else f"no pixel of {name} anywhere: it cannot be learnt from this"
        for name, count in everywhere.items()
        if not learnt[name]
    ]


def _by_class(patches: Patches, indices: NDArray[np.int64]) -> dict[str, int]:
    counts = patches.class_counts(indices, len(CLASS_NAMES))
    return {name: int(count) for name, count in zip(CLASS_NAMES, counts, strict=True)}


def _quality(patches: Patches) -> dict[str, Any]:
    columns = patches.columns
    present = {name: float((columns["modalities"] & bit > 0).mean()) for name, bit in MODALITIES.items()}
    return {
        "labelled_share": float(columns["labelled"].mean()),
        "clear_share": float(columns["clear"].mean()),
        "doubtful_share": float(columns["doubtful"].mean()),
        "patches_with": present,
    }
