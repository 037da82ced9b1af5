"""How good patches are: shares of each, and flags of every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import InputError
from cryoscale.features.channels import BANDS, MODALITIES
from cryoscale.features.inputs import INPUTS_OF_MODALITY
from cryoscale.learn.labels import BACKGROUND, CLEAN_ICE, DEBRIS, VEGETATION, WATER
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA

FLAGS: Mapping[str, int] = {"clear": 1, "labelled": 2, "doubtful": 4, "rim": 8, "outside": 16}
"""Bits of a pixel: all optical bands are there; it is learnt from; label and spectrum disagree; it is too
close to the edge of ice or debris to be learnt, unless corrected by hand; it lies outside the region or in
the zone next door."""

SNOW_NDSI, SNOW_FREE_NDSI = 0.4, 0.2

STEEP_FOR_WATER_DEG = 15.0
"""Steeper ground holds no water; what an index takes for water there is mostly shade and snow."""


def quality_of(
    x: NDArray[np.float32], y: NDArray[np.uint8], flags: NDArray[np.uint8], channels: Sequence[str]
) -> dict[str, Any]:
    """How good a patch of stack (c,p,p), labels and flags (p,p) is, as its columns say it.

    ``labelled`` and ``clear`` are shares of its pixels, the latter of those with all optical bands that the
    set has; ``modalities`` has the bit of each modality whose inputs at least half of its pixels have;
    ``class_pixels`` counts labels. ``doubtful`` is the share of the labelled pixels whose label and NDSI
    disagree: clean ice below 0.2, or anything but ice and water above 0.4, where snow begins (Hall et al.
    1995, https://doi.org/10.1016/0034-4257(95)00137-P), and water on slopes. That may be seasonal snow or
    shade outside the outlines, or outlines that are off: worth a look, and no reason by itself to leave a
    patch out.

    Raises:
        InputError: a label that is neither a class nor 255.
    """
    counts = np.bincount(y.ravel(), minlength=NO_DATA + 1)
    strange = np.flatnonzero(counts[len(CLASS_NAMES) : NO_DATA]) + len(CLASS_NAMES)
    if strange.size:
        raise InputError(
            f"label {strange[0]} in a patch", f"0..{len(CLASS_NAMES) - 1}, or 255", "mend the labels"
        )
    clear, labelled, doubtful = (
        int(np.count_nonzero(flags & FLAGS[name])) for name in ("clear", "labelled", "doubtful")
    )
    there = {name: _there(x, INPUTS_OF_MODALITY[name], channels).mean() for name in MODALITIES}
    return {
        "labelled": labelled / y.size,
        "clear": clear / y.size,
        "modalities": sum(bit for name, bit in MODALITIES.items() if there[name] >= 0.5),
        "doubtful": doubtful / max(labelled, 1),
        "class_pixels": counts[: len(CLASS_NAMES)],
    }


def flags_of(x: NDArray[np.float32], y: NDArray[np.uint8], channels: Sequence[str]) -> NDArray[np.uint8]:
    """``FLAGS`` (p,p) of a stack (c,p,p) with labels (p,p): those that both tell by themselves."""
    found = np.zeros(y.shape, np.uint8)
    for name, mask in (
        ("clear", _there(x, BANDS, channels)),
        ("labelled", y != NO_DATA),
        ("doubtful", _doubtful(x, y, channels)),
    ):
        found[mask] |= FLAGS[name]
    return found


def _there(x: NDArray[np.float32], names: Sequence[str], channels: Sequence[str]) -> NDArray[np.bool_]:
    """Where those of the named channels that a set has are all there (p,p); nowhere, if it has none."""
    at = [channels.index(name) for name in names if name in channels]
    return np.asarray(np.isfinite(x[at]).all(axis=0)) if at else np.zeros(x.shape[1:], bool)


def _doubtful(x: NDArray[np.float32], y: NDArray[np.uint8], channels: Sequence[str]) -> NDArray[np.bool_]:
    """Where label and spectrum disagree (p,p)."""
    wrong = np.zeros(y.shape, bool)
    if "NDSI" in channels:
        ndsi = x[channels.index("NDSI")]
        ice, free = y == CLEAN_ICE, np.isin(y, (BACKGROUND, DEBRIS, VEGETATION))
        wrong |= (ice & (ndsi < SNOW_FREE_NDSI)) | (free & (ndsi > SNOW_NDSI))
    if "slope" in channels:
        wrong |= (y == WATER) & (x[channels.index("slope")] > STEEP_FOR_WATER_DEG)
    return wrong
