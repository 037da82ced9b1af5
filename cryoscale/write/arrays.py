"""The arrays of a zone's map: names, types, no data and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NODATA = 255
"""What stands for no data in the u1 arrays."""


@dataclass(frozen=True)
class Spec:
    """How one array is stored."""

    dtype: str
    fill: int
    by_class: bool
    attributes: Mapping[str, Any]


ARRAYS: Mapping[str, Spec] = {
    "probability": Spec(
        "uint8", NODATA, True, {"long_name": "class probability times 250", "valid_range": [0, 250]}
    ),
    "label": Spec("uint8", NODATA, False, {"long_name": "most probable class"}),
    "confidence": Spec(
        "uint8",
        NODATA,
        False,
        {
            "long_name": "confidence times 250; the group's cryoscale:confidence says in what",
            "valid_range": [0, 250],
        },
    ),
    "disagreement": Spec(
        "uint8",
        NODATA,
        False,
        {"long_name": "standard deviation between overlapping tiles, times 250", "valid_range": [0, 250]},
    ),
    "source_date": Spec(
        "int32",
        0,
        False,
        {
            "long_name": "date of the image under the pixel",
            "units": "days since 1970-01-01",
            "calendar": "proleptic_gregorian",
            "_FillValue": 0,
        },
    ),
    "n_clear": Spec("uint16", 0, False, {"long_name": "clear images of the season", "units": "1"}),
    "modalities": Spec(
        "uint8",
        0,
        False,
        {
            "long_name": "modalities that were present",
            "flag_masks": [1, 2, 4, 8, 16],
            "flag_meanings": "optical thermal terrain velocity insar",
        },
    ),
}
"""The arrays of a zone's group, by name."""
