"""What the stack is made from: the inputs dataset of a window, checked and taken apart."""

from __future__ import annotations

import numpy as np
import xarray as xr

from cryoscale.errors import InputError
from cryoscale.features.channels import BANDS
from cryoscale.grid import RESOLUTION_M

PASSED_THROUGH = ("LST", "elevation", "velocity", "coherence", "phase")
"""Inputs that are channels as they come, besides the bands."""

PAIR = ("slc1", "slc2")
"""A coregistered radar pair, from which coherence and phase come where they are not delivered."""

INPUTS_OF_MODALITY: dict[str, tuple[str, ...]] = {
    "optical": BANDS,
    "thermal": ("LST",),
    "terrain": ("elevation",),
    "velocity": ("velocity",),
    "insar": ("coherence", "phase"),
}
"""A modality is present where all of these are; the pair counts as the two of ``insar``."""


def has_pair(dataset: xr.Dataset) -> bool:
    """Whether the dataset carries a radar pair."""
    return set(PAIR) <= set(dataset.data_vars)


def check_grid(dataset: xr.Dataset) -> None:
    """Raise InputError unless the data lie on a north-up 10 m grid of dimensions y and x."""
    if not {"y", "x"} <= set(dataset.sizes):
        raise InputError(
            f"a dataset of dimensions {tuple(dataset.sizes)}", "dimensions y and x", "rename the dimensions"
        )
    for name, step_m in (("y", -RESOLUTION_M), ("x", RESOLUTION_M)):
        if name not in dataset.coords or dataset.sizes[name] < 2:
            continue
        steps = np.diff(np.asarray(dataset.coords[name].values, float))
        if not np.allclose(steps, step_m, rtol=0.0, atol=1e-3):
            raise InputError(
                f"{name} coordinates in steps of {steps.min():g} to {steps.max():g}",
                f"pixel centres {step_m:g} m apart, north up",
                "resample to the 10 m grid of the UTM zone",
            )


def require_all(dataset: xr.Dataset) -> None:
    """Raise InputError that names, by modality, the inputs that are absent."""
    given = {str(name) for name in dataset.data_vars}
    if has_pair(dataset):
        given |= set(INPUTS_OF_MODALITY["insar"])
    absent = {
        modality: [name for name in names if name not in given]
        for modality, names in INPUTS_OF_MODALITY.items()
    }
    told = [f"{modality} ({', '.join(names)})" for modality, names in absent.items() if names]
    if told:
        raise InputError(
            f"inputs without {'; '.join(told)}",
            "every modality, since on_missing is 'fail'",
            "add the source, or set on_missing to 'nan'",
        )


def plane(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """One input (y, x) without its coordinates, so that nothing is aligned by them again."""
    variable = dataset[name]
    if set(variable.dims) != {"y", "x"}:
        raise InputError(
            f"{name} with dimensions {variable.dims}", "dimensions y and x", "composite over time first"
        )
    return variable.transpose("y", "x").reset_coords(drop=True).drop_vars(("y", "x"), errors="ignore")


def coords_of(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The y and x coordinates, as far as there are any."""
    return {name: dataset.coords[name] for name in ("y", "x") if name in dataset.coords}
