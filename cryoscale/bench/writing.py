"""A block's layers into the map's shards, beside xarray's writer into the same store layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from cryoscale.bench import ground
from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.processor import cpu_s
from cryoscale.write import mosaic
from cryoscale.write.store import COMPRESSOR


def measure(size_px: int) -> Figure:
    """One writer, checksums included; limit: what the shards hold as one plain file in the same folder.

    Neither waits until the disk has it: a run's shards are not synced, and so the limit is what the system's
    memory for files takes, not what the disk does.
    """
    layers, block = ground.layers(size_px), ground.block_of(size_px)
    amount = sum(layer.nbytes for layer in layers.values()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "mosaic.zarr")
        names = [str(number) for number in range(ground.CLASSES)]
        mosaic.create(store, year=ground.YEAR, window=block.window, block_px=size_px, classes=names, attrs={})
        took = seconds(lambda: mosaic.write_block(store, ground.YEAR, block, layers))
        begun = cpu_s()
        stored = mosaic.write_block(store, ground.YEAR, block, layers).stored_bytes
        cpu = cpu_s() - begun
        plain = Path(folder) / "plain"
        content = np.random.default_rng(0).bytes(stored)
        plain_s = seconds(lambda: plain.write_bytes(content))
        rival_s = seconds(lambda: by_xarray(layers, Path(folder) / "xarray.zarr", size_px))
    return Figure(
        "writing",
        amount / took,
        "MB/s",
        amount / plain_s,
        "the bytes that are stored, as one plain file into the system's memory for files, not to its disk",
        Rival("xarray.to_zarr", amount / rival_s, "the same shards and chunks, without checksums"),
        {
            "block_px": size_px,
            "stored_over_layers": rounded(stored / 1e6 / amount),
            "cpu_seconds": rounded(cpu),
        },
    )


def by_xarray(layers: dict[str, NDArray[np.generic]], path: Path, size_px: int) -> None:
    """The same arrays by the writer that people know."""
    dataset = xr.Dataset(
        {
            name: (("class", "y", "x") if layer.ndim == 3 else ("y", "x"), layer)
            for name, layer in layers.items()
        }
    )
    chunk = min(256, size_px)
    encoding = {
        name: {
            "chunks": (1, chunk, chunk) if layer.ndim == 3 else (chunk, chunk),
            "shards": layer.shape,
            "compressors": COMPRESSOR,
        }
        for name, layer in layers.items()
    }
    dataset.to_zarr(zarr.storage.LocalStore(path), mode="w", encoding=encoding, consolidated=False)
