"""The 30-channel stack: from the physical inputs of a window to what a model takes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.errors import InputError
from cryoscale.features import insar, memory, spectral, terrain, texture
from cryoscale.features.channels import BANDS, CHANNELS, LONG_NAMES, MODALITIES, TABLE, UNITS, Channel
from cryoscale.features.inputs import (
    INPUTS_OF_MODALITY,
    PAIR,
    PASSED_THROUGH,
    check_grid,
    coords_of,
    has_pair,
    plane,
    require_all,
)
from cryoscale.features.lazy import is_lazy, map_with_halo
from cryoscale.features.packing import Packed, pack
from cryoscale.features.pca import PcaBasis, fit_pca, fit_pca_on, sample_clear_pixels

__all__ = [
    "BANDS",
    "CHANNELS",
    "HALO_PX",
    "LONG_NAMES",
    "MODALITIES",
    "TABLE",
    "UNITS",
    "Channel",
    "PcaBasis",
    "build_stack",
    "fit_pca",
    "fit_pca_on",
    "modalities",
    "pack_inputs",
    "sample_clear_pixels",
    "with_radar",
]

HALO_PX = max(terrain.HALO_PX, texture.HALO_PX, insar.HALO_PX)
"""Pixels that a window must be read wider on each side so that its inside is exact."""

_AT = {name: position for position, name in enumerate(CHANNELS)}

_ROWS_AT_ONCE = 16
"""The 12 bands of so many rows of a block fill a core's cache of a megabyte or two."""

OnMissing = Literal["nan", "fail"]
Planes = dict[str, NDArray[Any]]


def build_stack(
    dataset: xr.Dataset, *, pca: PcaBasis | Mapping[str, Any] | None = None, on_missing: OnMissing = "nan"
) -> xr.DataArray:
    """The stack (channel, y, x), float32, of the inputs (y, x) of a window on the 10 m grid.

    Numpy in, numpy out; with a dask array in, the stack is lazy and of the same values, bit for bit.
    So is the stack of a part, on the pixels at least ``HALO_PX`` from the part's rim, given the
    same basis. Without one the basis is fitted on a seeded sample of the clear pixels (of dask
    arrays, that reads the sample's chunks at once); it is in ``attrs["pca"]``, None where no two
    pixels are clear.

    Args:
        dataset: any of the 12 bands (reflectance), ``LST`` (K), ``elevation`` (m), ``velocity`` (m/yr),
            ``coherence`` (1) and ``phase`` (rad), or a pair ``slc1``, ``slc2`` (complex) that fills
            whichever of these two is not delivered. NaN is no data.
        pca: the basis that travels with the weights.
        on_missing: ``"nan"`` makes an absent input a NaN channel, ``"fail"`` an error.

    Raises:
        InputError: if the data are not on a north-up 10 m grid of dimensions y and x, or if an input is
            absent and ``on_missing`` is ``"fail"``.
    """
    check_grid(dataset)
    if on_missing not in ("nan", "fail"):
        raise InputError(f"on_missing={on_missing!r}", "'nan' or 'fail'", "choose one of the two")
    if on_missing == "fail":
        require_all(dataset)
    basis = _basis_for(dataset, pca)
    inputs = _inputs(dataset)
    fill = functools.partial(_fill_named, tuple(inputs), basis)
    data: Any
    if any(is_lazy(array) for array in inputs.values()):
        data = map_with_halo(fill, list(inputs.values()), planes=len(CHANNELS), halo_px=HALO_PX)
    else:
        data = fill(*inputs.values(), shape=(dataset.sizes["y"], dataset.sizes["x"]))
    attrs = {
        "units": dict(UNITS),
        "long_names": dict(LONG_NAMES),
        "pca": None if basis is None else basis.to_dict(),
    }
    if "crs" in dataset.attrs:
        attrs["crs"] = dataset.attrs["crs"]
    return xr.DataArray(
        data,
        dims=("channel", "y", "x"),
        coords={"channel": list(CHANNELS), **coords_of(dataset)},
        attrs=attrs,
        name="features",
    )


def pack_inputs(
    dataset: xr.Dataset, channels: Sequence[str], *, pca: PcaBasis | None, on_missing: OnMissing = "nan"
) -> Packed:
    """What ``channels`` of :func:`build_stack` are made of, as numbers of 16 bits; see :mod:`packing`.

    Args:
        dataset: as there, and loaded; a radar pair is taken by :func:`with_radar` first.
        channels: those that a model takes.
        pca: the basis of the principal components among them.
        on_missing: as there.

    Raises:
        InputError: as there.
    """
    check_grid(dataset)
    if on_missing == "fail":
        require_all(dataset)
    given = [name for name in (*BANDS, *PASSED_THROUGH) if name in dataset.data_vars]
    shape = (dataset.sizes["y"], dataset.sizes["x"])
    return pack({name: plane(dataset, name).values for name in given}, shape, channels, pca)


def with_radar(dataset: xr.Dataset) -> xr.Dataset:
    """Loaded inputs with coherence and phase among them: those of the radar pair where none are delivered.

    Raises:
        InputError: the two images of the pair are none of a pair.
    """
    if not has_pair(dataset) or {"coherence", "phase"} <= set(dataset.data_vars):
        return dataset
    slc1, slc2 = (np.ascontiguousarray(plane(dataset, name).values, np.complex64) for name in PAIR)
    computed = zip(("coherence", "phase"), insar.coherence_phase(slc1, slc2), strict=True)
    more = {name: (("y", "x"), values) for name, values in computed if name not in dataset.data_vars}
    return dataset.assign(more)


def modalities(dataset: xr.Dataset) -> xr.DataArray:
    """The bitmask (y, x), u1, of the modalities that have all their inputs at a pixel; lazy if they are.

    Bits as in ``MODALITIES``; an SLC pair counts as coherence and phase where neither image lacks data.

    Raises:
        InputError: if the data are not on a north-up 10 m grid of dimensions y and x.
    """
    check_grid(dataset)
    mask = xr.DataArray(np.zeros((dataset.sizes["y"], dataset.sizes["x"]), np.uint8), dims=("y", "x"))
    for modality, names in INPUTS_OF_MODALITY.items():
        present = [_present(dataset, name) for name in names]
        found = [where for where in present if where is not None]
        if len(found) == len(names):
            everywhere = functools.reduce(operator.and_, found)
            mask = mask | everywhere.astype(np.uint8) * np.uint8(MODALITIES[modality])
    mask = mask.assign_coords(coords_of(dataset)).rename("modalities")
    mask.attrs = {
        "long_name": "modalities present",
        "flag_masks": list(MODALITIES.values()),
        "flag_meanings": " ".join(MODALITIES),
    }
    return mask


def _present(dataset: xr.Dataset, name: str) -> xr.DataArray | None:
    """Where an input has data (y, x), or None if it is absent."""
    if name in dataset.data_vars:
        found: xr.DataArray = xr.ufuncs.isfinite(plane(dataset, name))
        return found
    if name in INPUTS_OF_MODALITY["insar"] and has_pair(dataset):
        first, second = (xr.ufuncs.abs(plane(dataset, image)) for image in PAIR)
        both: xr.DataArray = (first > 0) & (first < np.inf) & (second > 0) & (second < np.inf)
        return both
    return None


def _basis_for(dataset: xr.Dataset, pca: PcaBasis | Mapping[str, Any] | None) -> PcaBasis | None:
    if pca is not None:
        return pca if isinstance(pca, PcaBasis) else PcaBasis.from_dict(pca)
    try:
        return fit_pca_on(dataset)
    except InputError:
        # Nothing to fit on (no optical data, all cloud): PCA is then as missing as its bands are.
        return None


def _inputs(dataset: xr.Dataset) -> dict[str, Any]:
    """The arrays that make the stack, by name; the SLC pair only if it is needed."""
    given = [name for name in (*BANDS, *PASSED_THROUGH) if name in dataset.data_vars]
    if has_pair(dataset) and not {"coherence", "phase"} <= set(given):
        given += PAIR
    return {name: plane(dataset, name).data for name in given}


def _fill_named(
    names: tuple[str, ...],
    basis: PcaBasis | None,
    *arrays: NDArray[Any],
    shape: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """The 30 planes of one block, from its inputs in the order of ``names``."""
    return _fill(dict(zip(names, arrays, strict=True)), basis, shape or arrays[0].shape)


def _fill(planes: Planes, basis: PcaBasis | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The stack of one block; each kernel writes into its own planes, so nothing is held twice."""
    out = memory.empty((len(CHANNELS), *shape))
    made = _fill_spectral(planes, basis, out)
    for name in PASSED_THROUGH:
        if name in planes:
            out[_AT[name]] = planes[name]
            made.add(name)
    if "elevation" in planes:
        terrain.slope_aspect(out[_AT["elevation"]], out=(out[_AT["slope"]], out[_AT["aspect"]]))
        made |= {"slope", "aspect"}
    if "B08" in planes:
        texture.glcm_dissimilarity(out[_AT["B08"]], out=out[_AT["GLCM_dissimilarity"]])
        made.add("GLCM_dissimilarity")
    if set(PAIR) <= set(planes):
        slc1, slc2 = (np.ascontiguousarray(planes[name], np.complex64) for name in PAIR)
        computed = insar.coherence_phase(slc1, slc2)
        for name, plane in zip(("coherence", "phase"), computed, strict=True):
            if name not in planes:
                out[_AT[name]] = plane
                made.add(name)
    for name in CHANNELS:
        if name not in made:
            out[_AT[name]] = np.nan
    return out


def _fill_spectral(planes: Planes, basis: PcaBasis | None, out: NDArray[np.float32]) -> set[str]:
    """Write the bands that are given and what is made of them, a few rows at a time; the channels written.

    So the bands come from memory once: they are still in a cache when indices and projections read them.
    """
    given = [name for name in BANDS if name in planes]
    indices = {name: of for name, of in spectral.INDEX_BANDS.items() if set(of) <= set(given)}
    axes, mean, first_axis = spectral.TASSELLED_CAP, np.zeros(spectral.TASSELLED_CAP.shape), "TC_brightness"
    if basis is not None:
        axes = np.concatenate([basis.components, axes])
        mean = np.concatenate([np.broadcast_to(basis.mean, basis.components.shape), mean])
        first_axis = "PCA1"
    complete = len(given) == len(BANDS)
    projected = slice(_AT[first_axis], _AT["TC_wetness"] + 1) if complete else slice(0)
    projection = spectral.Projection.of(mean, axes)
    for first in range(0, out.shape[1], _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, out.shape[1])
        for name in given:
            out[_AT[name], first:last] = planes[name][first:last]
        for name, (a, b) in indices.items():
            pair = out[_AT[a], first:last], out[_AT[b], first:last]
            spectral.normalized_difference(*pair, out=out[_AT[name], first:last])
        if complete:
            projection.write(out[: len(BANDS)], (first, last), out[projected])
    return {*given, *indices, *CHANNELS[projected]}
