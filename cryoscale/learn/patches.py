"""Patch sets on disk: stacks, labels, where they lie, and which split they belong to, as one Zarr group.

Layout (Zarr v3): ``x`` (n, channel, p, p) float16 or float32, physical units, NaN = absent;
``y`` (n, p, p) u1, 255 = not to be learnt; many patches a shard and one a chunk, so that a set of a mountain
range is thousands of files rather than millions, and one patch is still one range request. Beside them, for
each patch, where it lies and what it was made from (``row``, ``col``, ``epsg``, ``region``,
``composite``, ``split``, ``year``, ``day``), and its quality (``labelled``, ``clear``,
``modalities``, ``doubtful`` and ``class_pixels`` (n, class), see :func:`quality_of`); and ``quality``
(n, p, p) u1, the bits ``FLAGS`` of each pixel, which older sets do not have. The attributes hold
the channel names, the PCA basis, the names behind the composite numbers, what the patches were made from,
and a sha256 of all stacks and labels (``content_sha256``). A set without ``complete: true`` was interrupted
and is made anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cryoscale.errors import OutputError, SourceError
from cryoscale.learn.quality import FLAGS, flags_of, quality_of
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA
from cryoscale.models.weights import PcaCard
from cryoscale.room import full_disk_told
from cryoscale.write import store

SPLITS: tuple[str, ...] = ("train", "validation", "test", "unused")

SHARD_BYTES = 64_000_000
"""Stacks in a shard, uncompressed: what the writer holds, and at most what one file has."""

_PLACE = {
    "row": "i4",
    "col": "i4",
    "epsg": "i4",
    "region": "i4",
    "composite": "u1",
    "split": "u1",
    "year": "i2",
    "day": "i4",
}
_QUALITY = {"labelled": "f4", "clear": "f4", "modalities": "u1", "doubtful": "f4"}
_COLUMNS = {**_PLACE, **_QUALITY, "class_pixels": "i4"}

_TOLD: dict[str, TypeAdapter[Any]] = {
    "composites": TypeAdapter(list[str]),
    "pca": TypeAdapter(PcaCard | None),
    "split": TypeAdapter(str | None),
}
"""Attributes and their form; not every set has those that the card of weights takes, pca and split."""


@dataclass(frozen=True)
class Place:
    """Where a patch lies and what it was made from; row and col are world pixels of the zone.

    ``year`` is the season, ``day`` the median date of its optical pixels in days since 1970-01-01; 0 where
    not known.
    """

    epsg: int
    row: int
    col: int
    region: int
    composite: str
    split: str
    year: int = 0
    day: int = 0


class PatchWriter:
    """Appends patches to a new set; what stood at ``path`` (a folder or fsspec URL) before is overwritten.

    Shards are written whole and once; the columns come last. A kill at any moment leaves a set
    that says of itself that it is not complete. Wherever it writes, a full disk raises NoRoomError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, channels: Sequence[str], patch_px: int, dtype: str = "float16"
    ) -> None:
        self._path = os.fspath(path)
        self._channels = tuple(channels)
        self._composites: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._content = hashlib.sha256()
        self._token: str | None = uuid.uuid4().hex
        c, p = len(channels), patch_px
        self._shard = max(1, SHARD_BYTES // (c * p * p * np.dtype(dtype).itemsize))
        self._arrays: dict[str, Any] = {}
        with self._full_disk_told():
            self._group = store.create_group(path)
            self._group.attrs.update(
                {"channels": list(channels), "composites": [], "complete": False, "writer": self._token}
            )
            self._group.attrs["quality_bits"] = dict(FLAGS)
            for name, shape, kind in (
                ("x", (c, p, p), dtype),
                ("y", (p, p), "u1"),
                ("quality", (p, p), "u1"),
            ):
                self._arrays[name] = self._group.create_array(
                    name,
                    shape=(0, *shape),
                    chunks=(1, *shape),
                    shards=(self._shard, *shape),
                    dtype=kind,
                    compressors=store.COMPRESSOR,
                )
        self._pending: list[tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint8]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.uint8],
        place: Place,
        why: NDArray[np.uint8] | None = None,
    ) -> None:
        """Appends one stack (c,p,p) with its labels (p,p), and flags (p,p) that neither of them tells.

        Raises:
            InputError: a label that is neither a class nor 255.
        """
        if place.composite not in self._composites:
            self._composites.append(place.composite)
        flags = flags_of(x, y, self._channels)
        self._rows.append(
            {
                **{name: getattr(place, name) for name in _PLACE},
                "composite": self._composites.index(place.composite),
                "split": SPLITS.index(place.split),
                **quality_of(x, y, flags, self._channels),
            }
        )
        stored = x.astype(self._arrays["x"].dtype)
        for array in (stored, y):
            self._content.update(array.tobytes())
        self._pending.append((stored, y, flags if why is None else flags | why))
        if len(self._pending) == self._shard:
            self._flush()

    def _flush(self) -> None:
        """Writes what waits as one shard."""
        with self._full_disk_told():
            for name, values in zip(self._arrays, zip(*self._pending, strict=True), strict=True):
                self._arrays[name].append(np.stack(values))
        self._pending = []

    def _full_disk_told(self) -> AbstractContextManager[None]:
        return full_disk_told(
            self._path, "make room and start the same command again, which makes the patches anew"
        )

    def column(self, name: str) -> NDArray[Any]:
        """One value for each patch so far, by the name of the column."""
        return np.array([row[name] for row in self._rows], _COLUMNS[name])

    def indices(self, *splits: str) -> NDArray[np.int64]:
        """Numbers of the patches so far that belong to one of the splits."""
        wanted = [SPLITS.index(split) for split in splits]
        return np.flatnonzero(np.isin(self.column("split"), wanted))

    def reassign(self, indices: NDArray[np.int64], splits: NDArray[np.str_]) -> None:
        """Puts patches into other splits, one name for each number."""
        for index, split in zip(indices, splits, strict=True):
            self._rows[int(index)]["split"] = SPLITS.index(str(split))

    @property
    def is_mine(self) -> bool:
        """Whether what lies at the path still is this writer's: no other has begun there meanwhile."""
        try:
            found = zarr.open_group(store.open_store(self._path, read_only=True), mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            return False
        return found.attrs.get("writer") == self._token

    def finish(self, **attributes: Any) -> Patches:
        """Writes what is left, marks the set complete, with these JSON attributes, and opens it.

        Raises:
            OutputError: another writer has begun at the same path, whose set it now is.
        """
        if not self.is_mine:
            given = f"output {self._path}, which another process has begun to write meanwhile"
            raise OutputError(given, "one at a time", "wait for it, or give another --out")
        if self._pending:
            self._flush()
        with self._full_disk_told():
            for name, kind in _COLUMNS.items():
                shape = (len(self), len(CLASS_NAMES)) if name == "class_pixels" else (len(self),)
                chunks = (65536, *shape[1:])
                column = self._group.create_array(name, shape=shape, chunks=chunks, dtype=kind)
                if len(self):
                    column[:] = self.column(name)
            told = {"composites": self._composites, "content_sha256": self._content.hexdigest()}
            kept = {name: value for name, value in self._group.attrs.asdict().items() if name != "writer"}
            self._group.attrs.put({**kept, **attributes, **told, "complete": True})
        self._token = None
        return Patches(self._group)


class Patches:
    """A patch set opened for reading; unless told to hold more, only the batch asked for is in memory."""

    def __init__(self, group: zarr.Group) -> None:
        self._x: Any = group["x"]
        self._y: Any = group["y"]
        self._quality: Any = group["quality"] if "quality" in group.array_keys() else None
        self._name = str(group.store_path)
        self._held: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        self._hold_bytes = 0
        self.attrs: dict[str, Any] = json.loads(json.dumps(group.attrs.asdict()))
        self.channels: tuple[str, ...] = tuple(self.attrs["channels"])
        columns: dict[str, Any] = {name: group[name] for name in _COLUMNS}
        self.columns: dict[str, NDArray[Any]] = {
            name: np.asarray(column[:], np.float64 if _COLUMNS[name][0] == "f" else np.int64)
            for name, column in columns.items()
        }

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Patches:
        """Opens the set at ``path``, a folder or fsspec URL.

        Raises:
            SourceError: if there is none, if its making was interrupted, or if another version made it.
        """
        what, do = "a patch set that cryoscale has made", "make the patches first"
        try:
            group = zarr.open_group(store.open_store(path, read_only=True), mode="r")
            complete = bool(group.attrs.get("complete", False))
        except (FileNotFoundError, NotADirectoryError, zarr.errors.GroupNotFoundError):
            raise SourceError(f"patches {path}", what, do) from None
        if not complete:
            raise SourceError(f"patches {path}, whose making was interrupted", what, do)
        missing = sorted({"x", "y", *_COLUMNS} - set(group.array_keys()))
        missing += [f"the attribute {name}" for name in ("channels", "composites") if name not in group.attrs]
        if missing:
            raise SourceError(f"patches {path} without {', '.join(missing)}", what, "make the patches anew")
        try:
            patches = cls(group)
        except (ValueError, TypeError, OSError) as error:
            raise _damaged(path, " ".join(str(error).split())) from None
        if fault := patches._fault():
            raise _damaged(path, fault)
        return patches

    def _fault(self) -> str | None:
        """What does not fit together among arrays and attributes, in words; None where all does."""
        n, c, p = len(self), len(self.channels), self.patch_px
        shapes = {"x": (self._x.shape, (n, c, p, p)), "y": (self._y.shape, (n, p, p))}
        if self._quality is not None:
            shapes["quality"] = self._quality.shape, (n, p, p)
        for name, column in self.columns.items():
            shapes[name] = column.shape, (n, len(CLASS_NAMES)) if name == "class_pixels" else (n,)
        for name, (found, wanted) in shapes.items():
            if tuple(found) != wanted:
                return f"{name} of shape {tuple(found)}, not {wanted}"
        if self._y.dtype != np.uint8:
            return f"labels of type {self._y.dtype}, not uint8"
        for name, kind in _TOLD.items():
            try:
                kind.validate_python(self.attrs.get(name))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                return f"the attribute {'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}"
        for name, names in (("split", SPLITS), ("composite", self.attrs["composites"])):
            if n and not 0 <= self.columns[name].min() <= self.columns[name].max() < len(names):
                return f"a number in {name} that stands for nothing"
        return None

    def __len__(self) -> int:
        return int(self._x.shape[0])

    @property
    def patch_px(self) -> int:
        """Edge of a patch in pixels."""
        return int(self._x.shape[-1])

    @property
    def identity(self) -> str:
        """What tells this set from another, wherever it lies: a sha256 of its attributes and columns.

        The attributes hold that of stacks and labels. Sets of older versions do not: of those the columns
        speak, which were computed from both.
        """
        found = hashlib.sha256(json.dumps(self.attrs, sort_keys=True).encode())
        for name in sorted(self.columns):
            found.update(self.columns[name].tobytes())
        return found.hexdigest()

    def indices(self, split: str) -> NDArray[np.int64]:
        """Numbers of the patches of a split ("train", "validation", "test", "unused")."""
        return np.flatnonzero(self.columns["split"] == SPLITS.index(split))

    def place(self, index: int) -> Place:
        """Where a patch lies and what it was made from."""
        row = {name: int(self.columns[name][index]) for name in _PLACE}
        composite, split = self.attrs["composites"][row.pop("composite")], SPLITS[row.pop("split")]
        return Place(**row, composite=composite, split=split)

    def hold(self, limit_bytes: int) -> None:
        """Keeps what is read in memory, up to a limit: a patch is read for every crop and in every epoch."""
        self._hold_bytes = limit_bytes

    def read(
        self, index: int, crop: tuple[slice, slice] = (slice(None), slice(None))
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Stack (c,p,p) float32 and labels (p,p) u1 of one patch, or of a part of it."""
        x, y = self.stored(index)
        return np.array(x[:, *crop], np.float32), np.array(y[crop])

    def stored(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Stack (c,p,p) in the type it is stored in, and labels (p,p) u1, of one patch; not to be changed."""
        return self._held.get(int(index)) or self._load(int(index))

    @property
    def nbytes_each(self) -> int:
        """What one patch takes, stack and labels, in the types they are stored in."""
        return int(math.prod(self._x.shape[1:]) * self._x.dtype.itemsize + math.prod(self._y.shape[1:]))

    def flags(self, index: int) -> NDArray[np.uint8]:
        """``FLAGS`` (p,p) of one patch; of a set that was made before there were any, what x and y tell."""
        if self._quality is None:
            return flags_of(*self.read(index), self.channels)
        return np.asarray(self._quality[int(index)], np.uint8)

    def _load(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """One patch off the disk.

        Raises:
            SourceError: if it cannot be read, or has other labels than were counted when it was made.
        """
        try:
            pair = np.asarray(self._x[index]), np.asarray(self._y[index], np.uint8)
        except (ValueError, RuntimeError) as error:  # what codecs raise for broken bytes
            raise _damaged(self._name, f"patch {index}: {' '.join(str(error).split())}") from error
        counted = self.columns["class_pixels"][index]
        found = np.bincount(pair[1].ravel(), minlength=NO_DATA + 1)
        if not np.array_equal(found[: len(counted)], counted) or found[len(counted) : NO_DATA].any():
            raise _damaged(self._name, f"patch {index} with other labels than were counted")
        size = sum(array.nbytes for array in pair)
        if size <= self._hold_bytes:
            self._hold_bytes -= size
            self._held[index] = pair
        return pair

    def batches(
        self, indices: Sequence[int] | NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """Batches (n,c,p,p) and (n,p,p) of at most ``size`` patches, in the order given."""
        for start in range(0, len(indices), size):
            pairs = [self.read(index) for index in indices[start : start + size]]
            yield np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])

    def refuse_empty(self, indices: Sequence[int] | NDArray[np.int64]) -> None:
        """Raises where these patches hold nothing to learn or to judge by; reads up to the first that does.

        Raises:
            SourceError: if none of them has a finite value in any channel.
        """
        if len(indices) and not any(np.isfinite(self.stored(index)[0]).any() for index in indices):
            raise _damaged(self._name, f"{len(indices)} patches without a single value")

    def statistics(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of every channel (c,) over the finite pixels of these patches.

        Infinite values count as absent, as they do to the model. A channel without any value gets mean 0,
        and one that never varies gets deviation 1: standardised, both are then 0 everywhere, which is
        what an absent channel is to the model.

        Raises:
            SourceError: if no patch has a value.
        """
        self.refuse_empty(indices)
        count, mean, squares = (np.zeros(len(self.channels)) for _ in range(3))
        for index in indices:
            x = self.read(index)[0].astype(np.float64).reshape(len(self.channels), -1)
            x[np.isinf(x)] = np.nan
            n = np.isfinite(x).sum(axis=1)
            part = np.nansum(x, axis=1) / np.maximum(n, 1)
            delta, total = part - mean, count + n
            share = n / np.maximum(total, 1)
            # Chan, Golub and LeVeque (1983): merging (count, mean, sum of squared deviations) of two parts
            # keeps the digits that a difference of large sums would lose on elevations.
            squares += np.nansum((x - part[:, np.newaxis]) ** 2, axis=1) + delta**2 * count * share
            mean, count = mean + delta * share, total
        std = np.sqrt(squares / np.maximum(count, 1))
        return mean, np.where(std > 0, std, 1.0)

    def class_counts(self, indices: Sequence[int] | NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Labelled pixels of each class (k,) in these patches."""
        counts: NDArray[np.int64] = self.columns["class_pixels"][np.asarray(indices, np.int64)].sum(axis=0)
        return counts[:classes]


def _damaged(path: object, fault: str) -> SourceError:
    given = f"patches {path}, which are damaged or were altered ({fault})"
    return SourceError(given, "the set as cryoscale made it", "fetch or make the patches anew")
