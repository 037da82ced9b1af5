"""A quarter-resolution true-colour picture and relief of what a run saw, for maps, reports and inventories.

``OUT/quicklook.zarr/<year>/<epsg>``: ``B04``, ``B03``, ``B02`` (reflectance) and ``elevation`` (m),
float32 at 40 m, each pixel the mean of sixteen, and the ``evidence`` of :mod:`cryoscale.write.evidence`. One
shard a block as in the mosaic, so that blocks write side by side. It decides no pixel: no marker keeps a
checksum of it, its chunks carry their own. It may be deleted once a run is finished, whose outlines can then
not be drawn again: they would lack what only elevation and evidence tell, and
:func:`cryoscale.sealing.require_kept` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from cryoscale.grid import Block, Window
from cryoscale.write import store
from cryoscale.write.objects import Objects

FACTOR = 4
LAYERS = ("B04", "B03", "B02", "elevation")
EVIDENCE = ("ice", "debris", "nir", "ndsi", "day", "persistence", "dates", "velocity", "coherence")
"""Layers of the array ``evidence``, see :mod:`cryoscale.write.evidence`."""

_COMPRESSOR = ZstdCodec(level=3, checksum=True)
"""So that a flipped bit is an error where it is read, and no other elevation; runs begun before have none."""


def url_of(out: str) -> str:
    """The quicklook's store of the run at ``out``."""
    return f"{out}/quicklook.zarr"


def create(out: str, *, year: int, window: Window, block_px: int) -> None:
    """An empty quicklook of one year and zone; one that is there already is left alone."""
    group = zarr.open_group(store.open_store(url_of(out)), path=f"{year}/{window.epsg}", mode="a")
    if "cryoscale:window" in group.attrs:
        return
    size = block_px // FACTOR
    shape = (window.height // FACTOR, window.width // FACTOR)
    for name in LAYERS:
        group.create_array(
            name,
            shape=shape,
            dtype="float32",
            chunks=(size, size),
            fill_value=float("nan"),
            compressors=_COMPRESSOR,
            dimension_names=("y", "x"),
            overwrite=True,
        )
    group.create_array(
        "evidence",
        shape=(len(EVIDENCE), *shape),
        dtype="float16",
        chunks=(len(EVIDENCE), size, size),
        fill_value=float("nan"),
        compressors=_COMPRESSOR,
        dimension_names=("layer", "y", "x"),
        attributes={"layers": list(EVIDENCE)},
        overwrite=True,
    )
    y, x = (axis.reshape(-1, FACTOR).mean(axis=1) for axis in window.coordinates())
    store.create_axes(group, y, x, window.epsg)
    place = [window.row, window.col, window.height, window.width]
    group.attrs.update({**store.geo_attributes(window, FACTOR), "cryoscale:window": place})


def write_block(out: str, year: int, block: Block, layers: Mapping[str, NDArray[np.float32]]) -> None:
    """Thin the block's layers (y, x) at 10 m, where given, and write them in their place."""
    group, place = place_of(out, year, block)
    for name in LAYERS:
        if name in layers:
            group[name][place] = thinned(layers[name])  # type: ignore[index]


def settle(out: str, year: int, block: Block) -> None:
    """Has a block's part, evidence with it, survive a power cut, before a marker says that it is there."""
    group, (rows, cols) = place_of(out, year, block)
    row, col = (one.start // (one.stop - one.start) for one in (rows, cols))
    keys = [f"{name}/c/{row}/{col}" for name in LAYERS] + [f"evidence/c/0/{row}/{col}"]
    Objects(url_of(out)).settle([f"{group.path}/{key}" for key in keys])


def place_of(out: str, year: int, block: Block) -> tuple[zarr.Group, tuple[slice, slice]]:
    """The quicklook of a block's year and zone, to write in, and the block's rows and columns in it."""
    group = zarr.open_group(
        store.open_overwriting(url_of(out)),
        path=f"{year}/{block.epsg}",
        mode="r+",
        zarr_format=3,
        use_consolidated=False,
    )
    return group, _part(_window_of(group, block.epsg), block)


def _window_of(group: zarr.Group, epsg: int) -> Window:
    return Window(epsg, *(int(v) for v in group.attrs["cryoscale:window"]))  # type: ignore[union-attr,arg-type]


def _part(outer: Window, block: Block) -> tuple[slice, slice]:
    rows, cols = (slice(s.start // FACTOR, s.stop // FACTOR) for s in block.window.slices_in(outer))
    return rows, cols


@dataclass(frozen=True)
class _Zone:
    """The arrays of a year and zone; none where there is no quicklook, or where it cannot be opened."""

    window: Window | None = None
    arrays: Mapping[str, zarr.Array[Any]] = field(default_factory=dict)
    fault: str | None = None


class Proof:
    """Whether the quicklook of the run at ``out`` can be read; what is not there, as it may be, is right."""

    def __init__(self, out: str) -> None:
        self._zone = cache(partial(_opened, out))

    def of_zone(self, year: int, epsg: int) -> str | None:
        """Why the part of a year and zone cannot be opened, in a line, or None."""
        return self._zone(year, epsg).fault

    def of_block(self, year: int, block: Block) -> str | None:
        """Why a block's part cannot be read, in a line, or None; of a zone that cannot be opened, None."""
        zone = self._zone(year, block.epsg)
        if zone.window is None:
            return None
        for name, array in zone.arrays.items():
            try:
                array[(..., *_part(zone.window, block))]
            except (RuntimeError, ValueError) as error:  # does not decompress, or to another length
                return f"{name} of quicklook.zarr cannot be read: {_line(error)}"
        return None


def _opened(out: str, year: int, epsg: int) -> _Zone:
    try:
        root = store.open_store(url_of(out), read_only=True)
        group = zarr.open_group(root, path=f"{year}/{epsg}", mode="r", zarr_format=3, use_consolidated=False)
        arrays = {name: array for name, array in group.arrays() if name in (*LAYERS, "evidence")}
        return _Zone(_window_of(group, epsg), arrays)
    except FileNotFoundError:
        return _Zone()
    except (ValueError, KeyError, TypeError) as error:  # of metadata that are not what they were
        return _Zone(fault=_line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def thinned(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means (y/4, x/4) of the valid pixels of each 4 x 4; NaN where there is none."""
    valid = np.isfinite(layer)
    if valid.all():
        return np.asarray(_sums(layer) / np.float32(FACTOR**2), np.float32)
    count = _sums(valid.view(np.uint8))
    total = _sums(np.where(valid, layer, np.float32(0.0)))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _sums(layer: NDArray[Any]) -> NDArray[Any]:
    """Sums (y/4, x/4) of each 4 x 4; first down the columns, which is four times as quick as at once."""
    rows, cols = layer.shape[0] // FACTOR, layer.shape[1] // FACTOR
    strips = layer.reshape(rows, FACTOR, -1).sum(axis=1, dtype=layer.dtype)
    return np.asarray(strips.reshape(rows, cols, FACTOR).sum(axis=2, dtype=layer.dtype))


def open_quicklook(out: str, year: int, epsg: int) -> xr.Dataset:
    """The quicklook of one year and zone, read where it is cut; dims (y, x), 40 m."""
    root = store.open_resting(url_of(out))
    opened: xr.Dataset = xr.open_zarr(
        root, group=f"{year}/{epsg}", consolidated=False, chunks=None, zarr_format=3
    )
    return opened


def open_elevation(out: str, year: int, epsg: int) -> xr.DataArray:
    """The elevation (y, x) of one year and zone, 40 m, read where it is cut.

    There is no Dask behind it: of a region of 100,000 blocks every small cut would walk through the graph of
    all.

    Raises:
        FileNotFoundError: there is no quicklook of that year and zone.
    """
    root = store.open_resting(url_of(out))
    opened = xr.open_zarr(root, group=f"{year}/{epsg}", consolidated=False, chunks=None, zarr_format=3)
    elevation: xr.DataArray = opened["elevation"]
    return elevation
