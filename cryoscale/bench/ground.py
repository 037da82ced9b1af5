"""Input of the workloads: bands, features and layers of one block, made up and repeatable.

Speeds of these stages do not depend on what a pixel holds, beside NaN and compression; so values are smooth
with noise on them, as imagery is, and a few pixels are missing.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.features.channels import BANDS
from cryoscale.features.pca import PcaBasis
from cryoscale.grid import Block, Window
from cryoscale.infer.tiles import stride_px, tile_origins
from cryoscale.write.arrays import ARRAYS

EPSG, YEAR = 32645, 2018
CLASSES = 5
PCA = PcaBasis(np.full(len(BANDS), 0.3), np.eye(3, len(BANDS)))
"""Any basis: what it holds does not change how long a projection takes."""

_MISSING = 0.02
_INPUTS = {"LST": (270.0, 5.0), "elevation": (5000.0, 400.0), "velocity": (20.0, 10.0)}
_RADAR = {"coherence": (0.5, 0.2), "phase": (0.0, 1.0)}


def block_of(size_px: int) -> Block:
    """A block around 87 E, 28 N."""
    return Block(EPSG, 309_000 // size_px, 49_000 // size_px, size_px)


def origins(window: Window, tile_px: int, overlap: float) -> list[tuple[int, int]]:
    """World (row, col) of every tile that touches a window, row by row."""
    stride = stride_px(tile_px, overlap)
    rows = tile_origins(window.row, window.row + window.height, tile_px, stride)
    cols = tile_origins(window.col, window.col + window.width, tile_px, stride)
    return [(row, col) for row in rows for col in cols]


def bands(size_px: int, *, halo_px: int = 0) -> xr.Dataset:
    """All inputs (y, x) of the 30 channels, float32, on a block and its halo."""
    window = block_of(size_px).window.pad(halo_px)
    y, x = window.coordinates()
    rng = np.random.default_rng(1)
    planes = {name: (0.3, 0.1) for name in BANDS} | _INPUTS | _RADAR
    data = {name: (("y", "x"), _plane(rng, window.shape, *of)) for name, of in planes.items()}
    missing = ndimage.zoom(rng.random((8, 8)), np.array(window.shape) / 8, order=1) < _MISSING
    for name in BANDS:
        data[name][1][missing] = np.nan
    return xr.Dataset(data, coords={"y": y, "x": x}, attrs={"crs": f"EPSG:{EPSG}"})


def tiles(count: int, tile_px: int) -> NDArray[np.float32]:
    """Probabilities (n, k, h, w) of tiles."""
    raw = np.random.default_rng(2).random((count, CLASSES, tile_px, tile_px), np.float32)
    return np.asarray(raw / raw.sum(axis=1, keepdims=True), np.float32)


def layers(size_px: int) -> dict[str, NDArray[np.generic]]:
    """A block's arrays as they are written: smooth fields in bytes, as maps are."""
    rng = np.random.default_rng(3)
    shape = (size_px, size_px)
    probability = np.stack([_plane(rng, shape, 125.0, 40.0) for _ in range(CLASSES)])
    found: dict[str, NDArray[np.generic]] = {
        "probability": np.clip(probability, 0, 250).astype(np.uint8),
        "label": probability.argmax(axis=0).astype(np.uint8),
    }
    for name, spec in ARRAYS.items():
        if name not in found:
            found[name] = np.clip(_plane(rng, shape, 100.0, 20.0), 0, 250).astype(spec.dtype)
    return found


def _plane(
    rng: np.random.Generator, shape: tuple[int, int], mean: float, spread: float
) -> NDArray[np.float32]:
    coarse = rng.standard_normal((max(shape[0] // 32, 2), max(shape[1] // 32, 2))).astype(np.float32)
    smooth = ndimage.zoom(coarse, np.array(shape) / coarse.shape, order=1)
    noise = rng.standard_normal(shape, np.float32)
    return np.asarray(mean + spread * (smooth + 0.05 * noise), np.float32)
