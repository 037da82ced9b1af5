"""Patch sets on disk: stacks, labels, where they lie, and which split they belong to, as one Zarr group.

Layout (Zarr v3): ``x`` (n, channel, p, p) float16 or float32, physical units, NaN = absent;
``y`` (n, p, p) u1, 255 = not to be learnt; ``row``, ``col``, ``epsg``, ``region``, ``composite``,
``split`` (n,) integers. The attributes hold the channel names, the PCA basis, the names behind the
composite numbers, and what the patches were made from. A set without ``complete: true`` was
interrupted and is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.learn.scores import NO_DATA

SPLITS: tuple[str, ...] = ("train", "validation", "test", "unused")

_COLUMNS = {"row": "i4", "col": "i4", "epsg": "i4", "region": "i4", "composite": "u1", "split": "u1"}


@dataclass(frozen=True)
class Place:
    """Where a patch lies and what it was made from; row and col are world pixels of the zone."""

    epsg: int
    row: int
    col: int
    region: int
    composite: str
    split: str


class PatchWriter:
    """Appends patches to a new set; what stood at ``path`` before is overwritten."""

    def __init__(self, path: Path, *, channels: Sequence[str], patch_px: int, dtype: str = "float16") -> None:
        self._group = zarr.open_group(path, mode="w")
        self._group.attrs.update({"channels": list(channels), "composites": [], "complete": False})
        self._composites: list[str] = []
        c, p = len(channels), patch_px
        self._group.create_array("x", shape=(0, c, p, p), chunks=(1, c, p, p), dtype=dtype)
        self._group.create_array("y", shape=(0, p, p), chunks=(1, p, p), dtype="u1")
        for name, kind in _COLUMNS.items():
            self._group.create_array(name, shape=(0,), chunks=(65536,), dtype=kind)

    def add(self, x: NDArray[np.float32], y: NDArray[np.uint8], place: Place) -> None:
        """Appends one stack (c,p,p) with its labels (p,p)."""
        if place.composite not in self._composites:
            self._composites.append(place.composite)
        row = {
            "x": x.astype(self._array("x").dtype),
            "y": y,
            "row": place.row,
            "col": place.col,
            "epsg": place.epsg,
            "region": place.region,
            "composite": self._composites.index(place.composite),
            "split": SPLITS.index(place.split),
        }
        for name, value in row.items():
            array = self._array(name)
            array.append(np.asarray(value, array.dtype)[np.newaxis])

    def indices(self, *splits: str) -> NDArray[np.int64]:
        """Numbers of the patches so far that belong to one of the splits."""
        wanted = [SPLITS.index(split) for split in splits]
        return np.flatnonzero(np.isin(self._array("split")[:], wanted))

    def reassign(self, indices: NDArray[np.int64], splits: NDArray[np.str_]) -> None:
        """Puts patches into other splits, one name for each number."""
        column = self._array("split")[:]
        column[indices] = [SPLITS.index(split) for split in splits]
        self._array("split")[:] = column

    def finish(self, **attributes: Any) -> Patches:
        """Marks the set complete, with these JSON attributes, and opens it."""
        self._group.attrs.update({**attributes, "composites": self._composites, "complete": True})
        return Patches(self._group)

    def _array(self, name: str) -> Any:
        return self._group[name]


class Patches:
    """A patch set opened for reading; unless told to hold more, only the batch asked for is in memory."""

    def __init__(self, group: zarr.Group) -> None:
        self._x: Any = group["x"]
        self._y: Any = group["y"]
        self._held: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        self._hold_bytes = 0
        self.attrs: dict[str, Any] = json.loads(json.dumps(group.attrs.asdict()))
        self.channels: tuple[str, ...] = tuple(self.attrs["channels"])
        columns: dict[str, Any] = {name: group[name] for name in _COLUMNS}
        self.columns: dict[str, NDArray[np.int64]] = {
            name: np.asarray(column[:], np.int64) for name, column in columns.items()
        }

    @classmethod
    def open(cls, path: Path) -> Patches:
        """Opens the set at ``path``.

        Raises:
            SourceError: if there is none, or if its making was interrupted.
        """
        what, do = "a patch set that cryoscale has made", "make the patches first"
        try:
            group = zarr.open_group(path, mode="r")
            complete = bool(group.attrs.get("complete", False))
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            raise SourceError(f"patches {path}", what, do) from None
        if not complete:
            raise SourceError(f"patches {path}, whose making was interrupted", what, do)
        return cls(group)

    def __len__(self) -> int:
        return int(self._x.shape[0])

    @property
    def patch_px(self) -> int:
        """Edge of a patch in pixels."""
        return int(self._x.shape[-1])

    def indices(self, split: str) -> NDArray[np.int64]:
        """Numbers of the patches of a split ("train", "validation", "test", "unused")."""
        return np.flatnonzero(self.columns["split"] == SPLITS.index(split))

    def place(self, index: int) -> Place:
        """Where a patch lies and what it was made from."""
        row = {name: int(column[index]) for name, column in self.columns.items()}
        composite, split = self.attrs["composites"][row.pop("composite")], SPLITS[row.pop("split")]
        return Place(**row, composite=composite, split=split)

    def hold(self, limit_bytes: int) -> None:
        """Keeps what is read in memory, up to a limit: a patch is read for every crop and in every epoch."""
        self._hold_bytes = limit_bytes

    def read(
        self, index: int, crop: tuple[slice, slice] = (slice(None), slice(None))
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Stack (c,p,p) float32 and labels (p,p) u1 of one patch, or of a part of it."""
        x, y = self._held.get(int(index)) or self._load(int(index))
        return np.array(x[:, *crop], np.float32), np.array(y[crop])

    def _load(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        pair = np.asarray(self._x[index]), np.asarray(self._y[index], np.uint8)
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

    def statistics(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of every channel (c,) over the finite pixels of these patches.

        A channel without any value gets mean 0, and one that never varies gets deviation 1: standardised,
        both are then 0 everywhere, which is what an absent channel is to the model.
        """
        count, mean, squares = (np.zeros(len(self.channels)) for _ in range(3))
        for index in indices:
            x = self.read(index)[0].astype(np.float64).reshape(len(self.channels), -1)
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
        counts = np.zeros(NO_DATA + 1, np.int64)
        for index in indices:
            counts += np.bincount(self._y[int(index)].ravel(), minlength=NO_DATA + 1)
        return counts[:classes]


def random_split(n: int, *, fraction: float, seed: int) -> NDArray[np.str_]:
    """Splits (n,) "train"/"validation" drawn at random, ``round(n * fraction)`` of them for validation.

    Patches that overlap land on both sides: scores on such a split flatter the model, and it exists to
    compare with published figures that were made so. The blocked split is the honest one.
    """
    out = np.full(n, "train", dtype="<U10")
    out[np.random.default_rng(seed).permutation(n)[: round(n * fraction)]] = "validation"
    return out


def blocked_split(
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    regions: NDArray[np.int64],
    *,
    patch_px: int,
    block_px: int,
    fraction: float,
    seed: int,
) -> NDArray[np.str_]:
    """Splits (n,) by square blocks of ground: no pixel is in both training and validation.

    Args:
        rows: first world row of each patch (n,).
        cols: first world column (n,).
        regions: number of the region (and zone) that each patch lies in (n,).
        patch_px: edge of a patch.
        block_px: edge of the blocks, which lie at its multiples.
        fraction: share of the blocks, at least one, that is held back.
        seed: of the draw.

    A patch that reaches into blocks of both kinds is "unused": dropping it is what keeps them apart.
    """
    # Steps of at most a block from the first pixel to the last meet every block that the patch touches.
    steps = sorted({min(step, patch_px - 1) for step in range(0, patch_px + block_px, block_px)})
    touches = [
        np.stack([regions, (rows + dy) // block_px, (cols + dx) // block_px], axis=1)
        for dy in steps
        for dx in steps
    ]
    corners = np.stack(touches, axis=1)
    blocks, inverse = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    held = np.zeros(len(blocks), bool)
    held[np.random.default_rng(seed).permutation(len(blocks))[: max(1, round(len(blocks) * fraction))]] = True
    touched = held[inverse].reshape(corners.shape[:2])
    out = np.full(len(rows), "unused", dtype="<U10")
    out[touched.all(axis=1)] = "validation"
    out[~touched.any(axis=1)] = "train"
    return out
