"""The 30 channels of a block from bands in memory, beside the same channels by well-known libraries."""

from __future__ import annotations

import tracemalloc
from importlib.util import find_spec
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.bench import ground
from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.bench.limits import Limits
from cryoscale.features import spectral, texture
from cryoscale.features.channels import BANDS, CHANNELS
from cryoscale.features.stack import HALO_PX, build_stack

LIBRARIES = {"skimage": "scikit-image", "xrspatial": "xarray-spatial", "sklearn": "scikit-learn"}
"""Modules of the library route, and what to install for them."""

_TEXTURE_PX = 24
"""Edge of the part that scikit-image's loop is timed on; it takes a good tenth of a millisecond a pixel."""


def measure(size_px: int, limits: Limits) -> Figure:
    """One core on one block with its halo; limit: inputs read and channels written once, at copy speed.

    That is the speed of one thread that copies into memory it already has. Stacks follow one another as in a
    run, each in the memory of the last (:mod:`cryoscale.features.memory`). New memory the system clears
    before it is first written: what a plain copy of the inputs into new planes reaches is told too.
    """
    inputs = ground.bands(size_px, halo_px=HALO_PX)
    pixels = inputs["B02"].size
    tracemalloc.start()
    held = build_stack(inputs, pca=ground.PCA)
    stays, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stack_bytes = held.nbytes
    del held
    took = seconds(lambda: build_stack(inputs, pca=ground.PCA))
    plain_s = seconds(lambda: copied(inputs))
    moved = sum(band.nbytes for band in inputs.data_vars.values()) + stack_bytes
    band = inputs["B08"].to_numpy()
    texture_s = seconds(lambda: texture.glcm_dissimilarity(band)) / pixels
    rival, more = _libraries(inputs, texture_s)
    return Figure(
        "features",
        pixels / took / 1e6,
        "Mpixel/s a core",
        pixels / (moved / limits.copy_gb_s / 1e9) / 1e6,
        "inputs read and 30 channels written once at copy speed",
        rival,
        {
            "block_px": size_px,
            "memory_over_output": rounded(1 + (peak - stays) / stack_bytes),
            "plain_copy_mpx_s": rounded(pixels / plain_s / 1e6),
            **more,
        },
    )


def copied(inputs: xr.Dataset) -> NDArray[np.float32]:
    """As many planes as a stack has, in new memory: the inputs as they are, then zeros."""
    out = np.empty((len(CHANNELS), *inputs["B02"].shape), np.float32)
    for plane, band in zip(out, inputs.data_vars.values(), strict=False):
        plane[:] = band.data
    out[len(inputs.data_vars) :] = 0.0
    return out


def _libraries(inputs: xr.Dataset, texture_s: float) -> tuple[Rival, dict[str, Any]]:
    """The library route, and how many times faster our texture is than scikit-image's loop."""
    missing = [name for module, name in LIBRARIES.items() if find_spec(module) is None]
    if missing:
        return Rival("library route", None, f"not installed: {', '.join(missing)}"), {"glcm_times": None}
    filled = inputs.fillna(0.0)  # scikit-learn and scikit-image know no missing pixels
    pixels = filled["B02"].size
    loop_s = seconds(lambda: glcm_loop(filled["B08"].to_numpy()[:_TEXTURE_PX, :_TEXTURE_PX]), turns=2)
    loop_s /= (_TEXTURE_PX - 2 * texture.HALO_PX) ** 2
    rest_s = seconds(lambda: all_but_texture(filled), turns=2) / pixels
    note = (
        f"texture by scikit-image's loop, timed on {_TEXTURE_PX} x {_TEXTURE_PX} px; slope and aspect by "
        "xarray-spatial, components by scikit-learn, all else by numpy"
    )
    rival = Rival("scikit-image, xarray-spatial, scikit-learn", 1e-6 / (loop_s + rest_s), note)
    return rival, {
        "glcm_times": rounded(loop_s / texture_s),
        "library_mpx_s_without_texture": rounded(1e-6 / rest_s),
    }


def glcm_loop(band: NDArray[np.float32]) -> NDArray[np.float64]:
    """Dissimilarity of every whole window of a band (y, x), as scikit-image's gallery loops over patches."""
    from skimage.feature import graycomatrix, graycoprops

    grey = np.clip(np.floor(band * texture.LEVELS), 0, texture.LEVELS - 1).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (texture.WINDOW_PX, texture.WINDOW_PX))
    out = np.empty(windows.shape[:2])
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    for index in np.ndindex(*out.shape):
        matrix = graycomatrix(windows[index], [1], angles, texture.LEVELS, symmetric=True, normed=True)
        out[index] = graycoprops(matrix, "dissimilarity").mean()
    return out


def all_but_texture(inputs: xr.Dataset) -> NDArray[np.float32]:
    """The 29 other channels of inputs without a gap, (channel, y, x), by libraries."""
    from sklearn.decomposition import PCA
    from xrspatial import aspect, slope

    cube = np.stack([inputs[name].to_numpy() for name in BANDS])
    rows = cube.reshape(len(BANDS), -1).T
    planes = [*cube]
    for a, b in spectral.INDEX_BANDS.values():
        first, second = (np.maximum(inputs[name].to_numpy(), 0.0) for name in (a, b))
        total = first + second
        planes.append(np.divide(first - second, total, out=np.zeros_like(total), where=total != 0))
    basis = PCA(3)
    basis.mean_, basis.components_ = ground.PCA.mean, ground.PCA.components
    basis.explained_variance_ = np.ones(3)
    for axes in (basis.transform(rows), rows @ spectral.TASSELLED_CAP.T.astype(np.float32)):
        planes += [axis.reshape(cube.shape[1:]) for axis in axes.T]
    elevation = inputs["elevation"]
    planes += [slope(elevation).to_numpy(), aspect(elevation).to_numpy()]
    planes += [inputs[name].to_numpy() for name in ("LST", "elevation", "velocity", "coherence", "phase")]
    return np.stack(planes).astype(np.float32)
