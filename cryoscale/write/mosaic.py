"""The map on disk: Zarr v3, one group a year and zone, one shard a block.

Every array is sharded so that a block of the run is exactly one shard of it: whoever writes a block
replaces whole objects and never reads or locks anything, so that blocks can be written in any
order, by any number of writers, and again. zarr replaces a local file by renaming, an object store
by one put, so that a reader sees the old shard or the new one and never half of one.

Inside a shard the chunks are 256 x 256 pixels of a single class: whoever looks at one class reads a
fifth of the bytes, and a chunk is one tile of a web map. An array that holds nothing but its fill
value in a block is not stored there at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.errors import GroupNotFoundError

from cryoscale.errors import OutputError
from cryoscale.grid import Block, Window
from cryoscale.write.arrays import ARRAYS, NODATA, Spec
from cryoscale.write.levels import build_levels
from cryoscale.write.objects import Entry, Objects
from cryoscale.write.store import (
    COMPRESSOR,
    consolidate,
    create_axes,
    geo_attributes,
    inner_chunk_px,
    open_overwriting,
    open_resting,
    open_store,
)

__all__ = [
    "ARRAYS",
    "NODATA",
    "BlockRecord",
    "block_entries",
    "build_levels",
    "create",
    "open_mosaic",
    "open_overview",
    "read_block_checksum",
    "stamps",
    "window_of_map",
    "write_block",
    "zone_entries",
    "zones",
]


@dataclass(frozen=True)
class BlockRecord:
    """What lies in the store for one block.

    Attributes:
        checksum: ``sha256:…`` over the names, lengths and bytes of the block's shards.
        stored_bytes: length of those shards together.
    """

    checksum: str
    stored_bytes: int


def create(
    store_url: str | os.PathLike[str],
    *,
    year: int,
    window: Window,
    block_px: int,
    classes: Sequence[str],
    attrs: Mapping[str, Any],
) -> None:
    """Makes the empty group ``<year>/<epsg>`` of a mosaic; doing it again changes nothing.

    Args:
        store_url: local path or fsspec URL of the store, e.g. ``OUT/mosaic.zarr``.
        year: the year mapped.
        window: the zone's pixels, aligned to blocks.
        block_px: edge of a block, and so of a shard.
        classes: names of the classes in the order of the model.
        attrs: what the run says of itself; must go into JSON.

    Raises:
        OutputError: if the group is there and has another window, block edge or classes.
        ValueError: if the window is not aligned to blocks.
    """
    if any(edge % block_px for edge in (window.row, window.col, window.height, window.width)):
        raise ValueError(f"{window} is not aligned to blocks of {block_px} pixels")
    store, path = open_store(store_url), _path(year, window.epsg)
    identity = {
        "cryoscale:window": [window.row, window.col, window.height, window.width],
        "cryoscale:block_px": block_px,
        "cryoscale:classes": list(classes),
    }
    if _is_complete(store, path):
        _refuse_another(zarr.open_group(store, path=path, mode="r"), identity, f"{store_url}/{path}")
        return
    root = zarr.open_group(store, mode="a", zarr_format=3)
    group = root.require_group(path)
    for name, spec in ARRAYS.items():
        _create_array(group, name, spec, (len(classes), *window.shape), block_px, list(classes))
    _create_coordinates(group, window, classes)
    # last, since a group with these attributes counts as complete
    group.update_attributes(
        dict(attrs) | {"Conventions": "CF-1.11"} | geo_attributes(window) | {"year": year} | identity
    )
    consolidate(store)


def write_block(
    store_url: str | os.PathLike[str],
    year: int,
    block: Block,
    arrays: Mapping[str, NDArray[Any]] | xr.Dataset,
) -> BlockRecord:
    """Writes the shards of one block, whole, and says what then lies in the store.

    Args:
        store_url: the store that :func:`create` made.
        year: the year mapped.
        block: the block; its edge is that of the store's shards.
        arrays: arrays by the names of :data:`ARRAYS`, ``(y, x)`` or ``(class, y, x)``, in the integer
            encoding of the store. One that is left out becomes no data.

    Raises:
        OutputError: if the store does not hold this block.
        ValueError: if an array is unknown, of another shape or not an integer.
    """
    group = _group(open_overwriting(store_url), year, block.epsg)
    row, col = _shard_of(group, block)
    y = slice(row * block.size_px, (row + 1) * block.size_px)
    x = slice(col * block.size_px, (col + 1) * block.size_px)
    # all of them before the first is written: a block that is refused leaves its shards as they were
    for target, values in _encoded(group, block, arrays):
        target[..., y, x] = values
    return read_block_checksum(store_url, year, block)


def settle(store_url: str | os.PathLike[str], year: int, block: Block) -> None:
    """Has a block's shards survive a power cut, before a marker says that they are there."""
    Objects(os.fspath(store_url)).settle(list(_shard_keys(store_url, year, block).values()))


def read_block_checksum(store_url: str | os.PathLike[str], year: int, block: Block) -> BlockRecord:
    """Checksum of one block as it lies in the store, over the stored bytes of its shards.

    One flipped bit, a truncated shard or a shard that vanished gives another checksum.
    """
    keys = _shard_keys(store_url, year, block)
    # around zarr on purpose: a checksum must see the bytes as they lie there
    objects = Objects(os.fspath(store_url)).get_many(list(keys.values()))
    digest, total = hashlib.sha256(), 0
    for name in sorted(keys):
        stored = objects[keys[name]]
        length = -1 if stored is None else len(stored)
        digest.update(f"{name}:{length}:".encode())
        digest.update(stored or b"")
        total += max(length, 0)
    return BlockRecord(f"sha256:{digest.hexdigest()}", total)


def block_entries(store_url: str | os.PathLike[str], year: int, block: Block) -> dict[str, Entry | None]:
    """Size and stamp of one block's shards by the array's name, None where nothing is stored.

    No content is read. For many blocks :func:`zone_entries` asks an object store far less often.
    """
    store, keys = Objects(os.fspath(store_url)), _shard_keys(store_url, year, block)
    with ThreadPoolExecutor(len(keys)) as pool:
        return dict(zip(keys, pool.map(store.stat, keys.values()), strict=True))


def stamps(store_url: str | os.PathLike[str], year: int, block: Block) -> dict[str, tuple[int, str]]:
    """Length in bytes and stamp of each stored shard of a block by its array: what a marker keeps."""
    found = block_entries(store_url, year, block)
    return {name: (entry.size_bytes, entry.stamp) for name, entry in found.items() if entry is not None}


def zone_entries(
    store_url: str | os.PathLike[str], year: int, epsg: int
) -> Iterator[tuple[Block, str, Entry]]:
    """Every stored shard of a zone with its block and array, in no order, by listings alone.

    A stream, since a region has hundreds of thousands of them.
    """
    window = window_of_map(store_url, year, epsg)
    size_px = int(_group(open_store(store_url), year, epsg).attrs["cryoscale:block_px"])  # type: ignore[arg-type]
    store = Objects(os.fspath(store_url))
    for name in ARRAYS:
        for entry in store.list(f"{_path(year, epsg)}/{name}/c"):
            row, col = (int(part) for part in entry.key.split("/")[-2:])
            yield Block(epsg, row + window.row // size_px, col + window.col // size_px, size_px), name, entry


def window_of_map(store_url: str | os.PathLike[str], year: int, epsg: int) -> Window:
    """The pixels of a year and zone that a store holds."""
    attributes: dict[str, Any] = _group(open_store(store_url), year, epsg).attrs.asdict()
    return Window(epsg, *(int(value) for value in attributes["cryoscale:window"]))


def open_mosaic(
    out: str | os.PathLike[str], year: int, epsg: int, *, factor: int = 1, dask: bool = True
) -> xr.Dataset:
    """The map of one year and zone, lazily, with ``(class, y, x)`` and ``(y, x)`` arrays.

    Args:
        out: the run's folder or URL (``OUT``), or the store itself (``….zarr``).
        year: the year mapped.
        epsg: the UTM zone.
        factor: 1 for the map itself, 2, 4, … for the levels of :func:`build_levels`.
        dask: False for whoever only cuts windows out: of a region of 100,000 blocks every small cut would
            walk through the graph of all, and even on a small one it takes longer than to read it.

    Raises:
        OutputError: if there is no such map.
    """
    url = store_url_of(out)
    path = _path(year, epsg) + ("" if factor == 1 else f"/x{factor}")
    _group(open_store(url), year, epsg)
    root = open_store(url, read_only=True) if dask else open_resting(url)
    try:
        dataset: xr.Dataset = xr.open_zarr(
            root, group=path, mask_and_scale=True, chunks="auto" if dask else None, zarr_format=3
        )
    except (FileNotFoundError, GroupNotFoundError) as error:
        raise OutputError(
            f"{url}, whose own metadata or level x{factor} are not there",
            "a map as its run left it",
            "start the run again with the same configuration: it mends them",
        ) from error
    return dataset.set_coords([name for name in ("spatial_ref",) if name in dataset.data_vars])


def open_labels(out: str | os.PathLike[str], year: int, epsg: int) -> xr.DataArray:
    """The classes (y, x) of one year and zone, 255 for no data, read where they are cut.

    There is no Dask behind it: of a region of 100,000 blocks every small cut would walk through the graph of
    all.
    """
    root = open_resting(store_url_of(out))
    opened = xr.open_zarr(root, group=_path(year, epsg), consolidated=False, chunks=None, zarr_format=3)
    labels: xr.DataArray = opened["label"]
    return labels


def open_overview(out: str | os.PathLike[str], year: int, epsg: int, *, longest_px: int = 2400) -> xr.Dataset:
    """The finest level of one year and zone of which no side is longer than ``longest_px`` pixels.

    Where no level is small enough, the coarsest that was built. Read where it is cut, without Dask.
    """
    group = _group(open_store(store_url_of(out)), year, epsg)
    attributes: dict[str, Any] = group.attrs.asdict()
    longest = max(attributes["spatial:shape"])
    there = factors(group)
    fitting = [factor for factor in there if longest <= factor * longest_px]
    return open_mosaic(out, year, epsg, factor=fitting[0] if fitting else there[-1], dask=False)


def factors(group: zarr.Group) -> list[int]:
    """The levels of a zone's group that are there, 1 first and then the coarser ones."""
    attributes: dict[str, Any] = group.attrs.asdict()
    layout = attributes.get("multiscales", {}).get("layout", [])
    return [1, *sorted(int(entry["asset"].removeprefix("x")) for entry in layout if entry["asset"] != ".")]


def store_url_of(out: str | os.PathLike[str]) -> str:
    """The store of a run: ``OUT/mosaic.zarr``, or ``out`` itself where it is a store already."""
    url = os.fspath(out).rstrip("/")
    return url if url.endswith(".zarr") else f"{url}/mosaic.zarr"


def zones(out: str | os.PathLike[str], year: int) -> list[int]:
    """EPSG codes of the zones that a run has mapped in ``year``, ascending."""
    try:
        group = zarr.open_group(open_store(store_url_of(out), read_only=True), path=str(year), mode="r")
    except (FileNotFoundError, GroupNotFoundError):
        return []
    return sorted(int(name) for name in group.group_keys())


def _path(year: int, epsg: int) -> str:
    return f"{year}/{epsg}"


def _group(store: Store, year: int, epsg: int) -> zarr.Group:
    try:
        # beside consolidated metadata, which another writer may just be renewing
        return zarr.open_group(
            store, path=_path(year, epsg), mode="r+", zarr_format=3, use_consolidated=False
        )
    except (FileNotFoundError, GroupNotFoundError) as error:
        raise OutputError(
            f"{store}, year {year}, EPSG:{epsg}",
            "a mosaic that holds this year and zone",
            "run the map first, or correct the folder",
        ) from error


def _is_complete(store: Any, path: str) -> bool:
    """Whether a group was made to the end; what an interrupted creation left is made anew."""
    try:
        group = zarr.open_group(store, path=path, mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, GroupNotFoundError):
        return False
    return "cryoscale:window" in group.attrs


def _refuse_another(group: zarr.Group, identity: Mapping[str, Any], where: str) -> None:
    for key, wanted in identity.items():
        found = group.attrs.get(key)
        if found != wanted:
            raise OutputError(
                f"{where} with {key.removeprefix('cryoscale:')} {found}",
                f"{wanted}",
                "choose another output folder, or repeat the run with its own configuration",
            )


def _create_array(
    group: zarr.Group,
    name: str,
    spec: Spec,
    shape: tuple[int, int, int],
    block_px: int,
    classes: list[str],
) -> None:
    chunk_px = inner_chunk_px(block_px)
    attributes = dict(spec.attributes) | {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    if spec.fill == NODATA:
        attributes["nodata"] = NODATA
    if name == "label":
        attributes |= {"flag_values": list(range(len(classes))), "flag_meanings": " ".join(classes)}
    group.create_array(
        name,
        shape=shape if spec.by_class else shape[1:],
        dtype=spec.dtype,
        chunks=(1, chunk_px, chunk_px) if spec.by_class else (chunk_px, chunk_px),
        shards=(shape[0], block_px, block_px) if spec.by_class else (block_px, block_px),
        compressors=COMPRESSOR,
        fill_value=spec.fill,
        dimension_names=("class", "y", "x") if spec.by_class else ("y", "x"),
        attributes=attributes,
        overwrite=True,
    )


def _create_coordinates(group: zarr.Group, window: Window, classes: Sequence[str]) -> None:
    y, x = window.coordinates()
    create_axes(group, y, x, window.epsg)
    names = group.create_array(
        "class", shape=(len(classes),), dtype="str", dimension_names=("class",), overwrite=True
    )
    names[:] = np.array(list(classes))


def _shard_keys(store_url: str | os.PathLike[str], year: int, block: Block) -> dict[str, str]:
    """The key of one block's shard of each array, by the array's name."""
    row, col = _shard_of(_group(open_store(store_url), year, block.epsg), block)
    path = _path(year, block.epsg)
    return {
        name: f"{path}/{name}/c/{'0/' if spec.by_class else ''}{row}/{col}" for name, spec in ARRAYS.items()
    }


def _shard_of(group: zarr.Group, block: Block) -> tuple[int, int]:
    attributes: dict[str, Any] = group.attrs.asdict()
    row_px, col_px, height, width = attributes["cryoscale:window"]
    block_px = attributes["cryoscale:block_px"]
    row, col = block.row - row_px // block.size_px, block.col - col_px // block.size_px
    inside = 0 <= row < height // block.size_px and 0 <= col < width // block.size_px
    if block_px != block.size_px or not inside:
        raise OutputError(
            f"block {block.key} of {block.size_px} pixels",
            f"a block of {block_px} pixels within {height} x {width} from row {row_px}, column {col_px}",
            "write the blocks of the run that made the store",
        )
    return row, col


def _encoded(
    group: zarr.Group, block: Block, arrays: Mapping[str, NDArray[Any]] | xr.Dataset
) -> list[tuple[Any, NDArray[Any]]]:
    """Every array of the store with what a block puts there; no data where the block brings nothing."""
    unknown = {str(name) for name in arrays} - set(ARRAYS) - {"class", "y", "x", "spatial_ref"}
    if unknown:
        raise ValueError(f"a mosaic has no array {sorted(unknown)}; it has {sorted(ARRAYS)}")
    found = []
    for name, spec in ARRAYS.items():
        target = group[name]
        assert isinstance(target, zarr.Array)
        shape = (*target.shape[:-2], block.size_px, block.size_px)
        if name in arrays:
            values = _checked(name, np.asarray(arrays[name]), shape, spec)
        else:
            values = np.full(shape, spec.fill, spec.dtype)
        found.append((target, values))
    return found


def _checked(name: str, values: NDArray[Any], shape: tuple[int, ...], spec: Spec) -> NDArray[Any]:
    if values.shape != shape:
        raise ValueError(f"{name} of a block has shape {values.shape}, expected {shape}")
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} is {values.dtype}; encode it as {spec.dtype} first")
    limits = np.iinfo(spec.dtype)
    if values.dtype != spec.dtype and (values.min() < limits.min or values.max() > limits.max):
        raise ValueError(f"{name} holds {values.min()} to {values.max()}, outside {spec.dtype}")
    return values.astype(spec.dtype, copy=False)
