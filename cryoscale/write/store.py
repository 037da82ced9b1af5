"""Where a mosaic lies: store URLs, the GeoZarr attributes of a group, consolidated metadata.

A store URL is a local path or anything fsspec opens (``s3://…``, ``gs://…``, ``memory://…``); what a
remote filesystem needs beyond the URL (endpoint, key) comes from fsspec's own configuration
(https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from cryoscale.errors import OutputError, StoreUnavailableError
from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.patience import patiently_awaited
from cryoscale.room import full_disk_told
from cryoscale.write import disk
from cryoscale.write.held import HeldStore
from cryoscale.write.objects import Objects, filesystem, local_path

CHUNK_PX = 256
"""Longest edge of the chunks inside a shard."""

COMPRESSOR = ZstdCodec(level=3)
"""How chunks are compressed."""

_CONVENTIONS = {
    "proj": {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
        "description": "Coordinate reference system information for geospatial data",
    },
    "spatial": {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial:",
        "description": "Spatial coordinate information",
    },
    "multiscales": {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
        "uuid": "d35379db-88df-4056-af3a-620245f8e347",
        "name": "multiscales",
        "description": "Multiscale layout of zarr datasets",
    },
}


class _PatientStore(FsspecStore):
    """A remote store of which every request is repeated while the server is away.

    Per object and not per region of an array: an object is put whole, so that a repeat is harmless,
    and what xarray reads lazily long after :func:`open_store` is repeated as well.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        return await self._patiently(partial(super().get, key, prototype, byte_range))

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        await self._patiently(partial(super().set, key, value, byte_range))

    async def delete(self, key: str) -> None:
        self._check_writable()
        path = f"{self.path}/{key}"
        # not zarr's: s3fs's _rm does not look at what the server could not delete
        with contextlib.suppress(FileNotFoundError):
            await self._patiently(partial(self.fs._rm_file, path))

    async def delete_dir(self, prefix: str) -> None:
        await self._patiently(partial(super().delete_dir, prefix))

    async def exists(self, key: str) -> bool:
        return bool(await self._patiently(partial(super().exists, key)))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> Any:
        return await self._patiently(partial(super().get_partial_values, prototype, list(key_ranges)))

    async def list(self) -> AsyncIterator[str]:
        for key in await self._patiently(partial(_gathered, super().list)):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for key in await self._patiently(partial(_gathered, super().list_dir, prefix)):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in await self._patiently(partial(_gathered, super().list_prefix, prefix)):
            yield key

    async def getsize(self, key: str) -> int:
        return int(await self._patiently(partial(super().getsize, key)))

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await patiently_awaited(self.fs.unstrip_protocol(self.path), call)


class _UnreadChunks(WrapperStore[Store]):
    """A store in which chunks and shards are written without a look at what lies there.

    zarr (3.1.6) reads the old shard before it writes one, even the whole of it, and fails where the
    old one is torn: a damaged block could not be written again.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Any:
        return None if "/c/" in key else await self._store.get(key, prototype, byte_range)


async def _gathered(listing: Callable[..., AsyncIterator[str]], *arguments: str) -> Sequence[str]:
    return [key async for key in listing(*arguments)]


def open_store(store_url: str | os.PathLike[str], *, read_only: bool = False) -> Store:
    """The zarr store at a local path or an fsspec URL; a remote one bears with a server that is away."""
    path = local_path(store_url)
    if path is not None:
        return LocalStore(path, read_only=read_only)
    fs, path = filesystem(os.fspath(store_url), asynchronous=True)
    return _PatientStore(fs, read_only=read_only, path=path)


def open_resting(store_url: str | os.PathLike[str]) -> Store:
    """As :func:`open_store`, to cut many windows out of what nobody writes as long as it is open.

    Over a network what was read last is held (:class:`HeldStore`); of a disk the system does that.
    """
    store = open_store(store_url, read_only=True)
    return store if isinstance(store, LocalStore) else HeldStore(store)


def open_overwriting(store_url: str | os.PathLike[str]) -> Store:
    """As :func:`open_store`, to write whole shards and chunks into: it finds none of those that are there."""
    return _UnreadChunks(open_store(store_url))


def create_group(store_url: str | os.PathLike[str]) -> zarr.Group:
    """A group without anything in it at a path or URL, in the place of all that lay there.

    A local folder is emptied and stays, which zarr's mode "w" would remove together with a lock on it.
    """
    path = local_path(store_url)
    if path is None:
        return zarr.open_group(open_store(store_url), mode="w")
    disk.empty(path)
    return zarr.open_group(open_store(store_url), mode="a")


def put(url: str | os.PathLike[str], content: bytes) -> None:
    """Writes one file, local or remote, whole or not at all; replaces what was there.

    Raises:
        OutputError: if it cannot be written.
        NoRoomError: if the disk is full or over quota.
        StoreUnavailableError: if a remote store does not answer for long.
    """
    target = os.fspath(url)
    root, slash, key = target.rpartition("/")
    if root.endswith(":/"):
        root += "/"
    try:
        with full_disk_told(target):
            Objects(root or slash or ".").put(key, content)
    except (OutputError, StoreUnavailableError):
        raise
    except OSError as error:
        raise OutputError(target, "a path that can be written", f"choose another: {error}") from error


def geo_attributes(window: Window, factor: int = 1) -> dict[str, Any]:
    """GeoZarr ``proj:`` and ``spatial:`` attributes of a group on ``window``, ``factor`` times coarser.

    Source: https://github.com/zarr-conventions/geo-proj, https://github.com/zarr-conventions/spatial
    """
    west, south, east, north = window.bounds_m
    pixel_m = RESOLUTION_M * factor
    return {
        "zarr_conventions": [_CONVENTIONS["proj"], _CONVENTIONS["spatial"]],
        "proj:code": f"EPSG:{window.epsg}",
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [west, south, east, north],
        "spatial:shape": [window.height // factor, window.width // factor],
        "spatial:transform_type": "affine",
        "spatial:transform": [pixel_m, 0.0, west, 0.0, -pixel_m, north],
        "spatial:registration": "pixel",
    }


def multiscale_attributes(window: Window, factors: list[int]) -> dict[str, Any]:
    """GeoZarr ``multiscales`` attributes of a group whose own arrays are the finest level.

    Source: https://github.com/zarr-conventions/multiscales
    """
    layout: list[dict[str, Any]] = []
    for previous, factor in zip([0, *factors], factors, strict=False):
        geo = geo_attributes(window, factor)
        entry: dict[str, Any] = {"asset": level_name(factor)}
        if previous:
            step = factor / previous
            entry["derived_from"] = level_name(previous)
            entry["transform"] = {"scale": [step, step], "translation": [0.0, 0.0]}
        else:
            entry["transform"] = {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}
        layout.append(entry | {key: geo[key] for key in ("spatial:shape", "spatial:transform")})
    return {
        "zarr_conventions": [_CONVENTIONS[name] for name in ("proj", "spatial", "multiscales")],
        "multiscales": {"layout": layout, "resampling_method": "average"},
    }


def level_name(factor: int) -> str:
    """Path of the level ``factor`` times coarser, relative to its zone's group ("." is the group)."""
    return "." if factor == 1 else f"x{factor}"


def create_axes(group: zarr.Group, y: NDArray[np.float64], x: NDArray[np.float64], epsg: int) -> None:
    """Writes pixel-centre coordinates (m) and the CF grid mapping of a zone into a group."""
    for name, values, cf_name in (
        ("y", y, "projection_y_coordinate"),
        ("x", x, "projection_x_coordinate"),
    ):
        axis = group.create_array(
            name,
            shape=values.shape,
            dtype="float64",
            chunks=values.shape,
            dimension_names=(name,),
            attributes={"standard_name": cf_name, "units": "m", "axis": name.upper()},
            overwrite=True,
        )
        axis[:] = values
    mapping = CRS.from_epsg(epsg).to_cf()
    mapping["spatial_ref"] = mapping["crs_wkt"]
    group.create_array("spatial_ref", shape=(), dtype="int64", attributes=mapping, overwrite=True)


def inner_chunk_px(block_px: int) -> int:
    """Edge of the chunks inside a shard: the largest divisor of the block's edge up to 256 pixels."""
    return next(size for size in range(min(block_px, CHUNK_PX), 0, -1) if block_px % size == 0)


def consolidate(store: Store) -> None:
    """Gathers the metadata of the whole store in its root, where ``xr.open_zarr`` looks for it."""
    with warnings.catch_warnings():
        # Zarr v3 has no word on consolidated metadata yet; without it xarray warns at every opening
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(store)
