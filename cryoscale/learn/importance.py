"""Which channels a model lives on: the drop of its scores when a channel no longer belongs to its patch.

The patches of a split are put in a random order and cut into groups that fit in memory. Within a group the
patches are strung on one random cycle, and for every channel in turn each patch gets that channel's whole
plane from the next one on the cycle, its other channels and its labels staying as they are. No patch keeps
its own plane; the plane keeps its spatial form, and all of the channel's values still occur as often.
This is the permutation "across samples" of the CryoNet study (https://arxiv.org/abs/2605.21527); the
method is that of Breiman 2001, https://doi.org/10.1023/A:1010933404324. ``by="pixels"`` exchanges single
pixels instead, which also destroys texture, and so says how much a network needs of a channel in any form.

Each group is read once, and all permutations and repeats are made from it in memory. A repeat has one cycle
for all channels, so that their differences are those of the channels, and a group of channels that is
permuted jointly stays consistent in itself. Channels that say the same hide each other: take one
away, and the others stand in for it. The groups show what the single bars hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import InputError, SourceError
from cryoscale.features.channels import BANDS
from cryoscale.learn.scores import CLASS_NAMES, Scores, confusion_matrix
from cryoscale.learn.suited import SuitedPatches

Progress = Callable[[int, int], None]
Ask = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]
"""Physical features (n,c,h,w) and the numbers of their patches (n,) to probabilities (n,k,h,w)."""

Pair = tuple[NDArray[np.float32], NDArray[np.uint8]]

Count = Callable[[Sequence[int], NDArray[np.int64]], NDArray[np.int64]]
"""Channels (none: all stay), and whom patches or pixels have them from, to a confusion matrix (k,k)."""

Hold = Callable[[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]], Count]
"""Stacks (n,c,p,p), labels (n,p,p) and numbers (n,) of a group of patches to what asks a model of them."""

_DERIVED = (
    *("NDVI", "NDSI", "NDWI", "NDGI", "GLCM_dissimilarity"),
    *("PCA1", "PCA2", "PCA3", "TC_brightness", "TC_greenness", "TC_wetness"),
)

GROUPS: Mapping[str, tuple[str, ...]] = {
    "optical bands": BANDS,
    "indices": ("NDVI", "NDSI", "NDWI", "NDGI"),
    "thermal": ("LST",),
    "terrain": ("elevation", "slope", "aspect"),
    "texture": ("GLCM_dissimilarity",),
    "velocity": ("velocity",),
    "insar": ("coherence", "phase"),
    "PCA": ("PCA1", "PCA2", "PCA3"),
    "tasselled cap": ("TC_brightness", "TC_greenness", "TC_wetness"),
    "all from optical": (*BANDS, *_DERIVED),
}
"""Channels that are permuted jointly; the last group holds the bands and everything that is made of them."""

PARTS: Mapping[str, int | None] = {"overall": None, "clean ice": 1, "debris-covered ice": 2}
"""Of what a drop is told: all classes, or one."""

NO_TEST = "no patches for test: measured on those for validation, which the best epoch was chosen by"

HOLD_BYTES = 1 << 30
"""A group of patches takes at most this; what is permuted is one batch more."""


@dataclass(frozen=True)
class Permuting:
    """How channels are exchanged.

    Attributes:
        repeats: how many permutations of each channel.
        seed: of the groups and of the permutations.
        by: ``planes``, from patch to patch, or single ``pixels`` among all patches of a group.
        batch: patches that the model is given at once.
        hold_bytes: memory for a group's stacks; a group has at least two patches.
    """

    repeats: int = 3
    seed: int = 0
    by: str = "planes"
    batch: int = 16
    hold_bytes: int = HOLD_BYTES

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("seed", 0), ("batch", 1)):
            if getattr(self, name) < least:
                given = f"{name} {getattr(self, name)}"
                raise InputError(given, f"{least} or more", "give another number")
        if self.by not in ("planes", "pixels"):
            raise InputError(f"by {self.by!r}", "planes or pixels", "name one of these")


@dataclass(frozen=True)
class Drop:
    """How far IoU (overall, its mean) and accuracy (of a class, its recall) fell, one value a repeat."""

    iou: tuple[float, ...]
    accuracy: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: mean, sample standard deviation over the repeats, and the repeats."""
        return {
            name: {
                "mean": _finite(np.mean(values)),
                "std": _finite(_std(values)),
                "repeats": [_finite(value) for value in values],
            }
            for name, values in (("iou", self.iou), ("accuracy", self.accuracy))
        }


@dataclass(frozen=True)
class Importance:
    """Drops of channels and groups by part (``overall``, ``clean ice``...), and what they are drops from."""

    baseline: Mapping[str, tuple[float, float]]
    channels: Mapping[str, Mapping[str, Drop]]
    groups: Mapping[str, Mapping[str, Drop]]
    settings: Mapping[str, Any]

    def leading(
        self, part: str, count: int | None = None, among: Mapping[str, Mapping[str, Drop]] | None = None
    ) -> list[tuple[str, Drop]]:
        """The channels (or groups) of the largest mean drop of IoU in a part, largest first."""
        rows = [(name, drops[part]) for name, drops in (among or self.channels).items()]
        return sorted(rows, key=lambda row: -float(np.mean(row[1].iou)))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def plain(rows: Mapping[str, Mapping[str, Drop]]) -> dict[str, Any]:
            return {
                name: {part: drop.to_dict() for part, drop in drops.items()} for name, drops in rows.items()
            }

        return {
            "baseline": {
                part: {"iou": _finite(iou), "accuracy": _finite(accuracy)}
                for part, (iou, accuracy) in self.baseline.items()
            },
            "channels": plain(self.channels),
            "groups": plain(self.groups),
            "members": {name: list(GROUPS[name]) for name in self.groups},
            **self.settings,
        }


def permutation_importance(
    ask: Ask,
    read: Callable[[int], Pair],
    indices: Sequence[int] | NDArray[np.int64],
    channels: Sequence[str],
    *,
    how: Permuting,
    progress: Progress | None = None,
    hold: Hold | None = None,
) -> Importance:
    """Importance of each channel, and of the groups that it has a member of.

    Args:
        ask: the model; a patch's number says where it lies, to a network that wants to know.
        read: number of a patch to its stack (c,p,p) and labels (p,p).
        indices: the patches, at least two.
        channels: names of the stack's channels.
        how: repeats, seed, what is exchanged, and how much is held in memory.
        progress: called with permutations done and their number.
        hold: asks the model of a group of patches instead of ``ask``.
    """
    hold = hold or partial(_held, ask, how.batch)
    groups = {
        name: tuple(list(channels).index(member) for member in members if member in channels)
        for name, members in GROUPS.items()
    }
    columns = {name: (number,) for number, name in enumerate(channels)}
    jobs = sorted({*columns.values(), *(members for members in groups.values() if members)})
    confusion = np.zeros((len(jobs), how.repeats, len(CLASS_NAMES), len(CLASS_NAMES)), np.int64)
    baseline = np.zeros(confusion.shape[2:], np.int64)
    parts = _groups(indices, read(int(indices[0]))[0].nbytes, how)
    for number, part in enumerate(parts):
        x, y = _stacked(read, part)
        rng = np.random.default_rng([how.seed, number])
        n = len(x) if how.by == "planes" else y.size
        donors = np.stack([_cycle(n, rng) for _ in range(how.repeats)])
        count = hold(x, y, part)
        baseline += count((), donors[0])
        for at, job in enumerate(jobs):
            confusion[at] += np.stack([count(job, row) for row in donors])
            if progress:
                progress(number * len(jobs) + at + 1, len(parts) * len(jobs))
    of = {job: _drops(baseline, confusion[at]) for at, job in enumerate(jobs)}
    return Importance(
        baseline={part: _figures(baseline, number) for part, number in PARTS.items()},
        channels={name: of[job] for name, job in columns.items()},
        groups={name: of[members] for name, members in groups.items() if members},
        settings={"patches": len(indices), "pixels": int(baseline.sum()), **vars(how)},
    )


def _held(
    ask: Ask, batch: int, x: NDArray[np.float32], y: NDArray[np.uint8], numbers: NDArray[np.int64]
) -> Count:
    def count(columns: Sequence[int], donors: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = permuted(ask, (x, y, numbers), columns, donors[np.newaxis], batch=batch)[0]
        return found

    return count


def permuted(
    ask: Ask,
    held: tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]],
    columns: Sequence[int],
    donors: NDArray[np.int64],
    *,
    batch: int,
) -> NDArray[np.int64]:
    """Confusion matrices (r, k, k) of the model with some channels exchanged, one for each row of donors.

    Args:
        ask: the model.
        held: stacks (n,c,p,p), which are left as they are, labels (n,p,p), and numbers of the patches (n,).
        columns: the channels that are exchanged, jointly.
        donors: whom each patch (r, n), or each pixel (r, n*p*p), has the channels from.
        batch: patches that the model is given at once, and that are copied.
    """
    x, y, numbers = held
    size = x.shape[-2] * x.shape[-1]
    found = []
    for row in donors:
        total = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
        for start in range(0, len(x), batch):
            part = x[start : start + batch].copy()
            for column in columns:
                if len(row) == len(x):
                    part[:, column] = x[row[start : start + batch], column]
                else:
                    flat = row[start * size : (start + batch) * size]
                    part[:, column] = x[:, column].reshape(-1)[flat].reshape(part[:, column].shape)
            here = slice(start, start + batch)
            total += _count(ask, part, y[here], numbers[here], batch)
        found.append(total)
    return np.stack(found)


def _groups(
    indices: Sequence[int] | NDArray[np.int64], patch_bytes: int, how: Permuting
) -> list[NDArray[np.int64]]:
    """The patches in a random order, in as few groups of two or more as memory allows, of equal size."""
    order = np.random.default_rng(how.seed).permutation(np.asarray(indices))
    room = max(how.hold_bytes // patch_bytes, 2)
    return np.array_split(order, max(1, min(-(-len(order) // room), len(order) // 2)))


def _stacked(read: Callable[[int], Pair], group: NDArray[np.int64]) -> Pair:
    """Stacks (n,c,p,p) and labels (n,p,p) of a group."""
    for slot, index in enumerate(group):
        one_x, one_y = read(int(index))
        if not slot:
            x = np.empty((len(group), *one_x.shape), np.float32)
            y = np.empty((len(group), *one_y.shape), np.uint8)
        x[slot], y[slot] = one_x, one_y
    return x, y


def _cycle(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random permutation (n,) of one cycle: nobody keeps their own."""
    order = rng.permutation(n)
    donors = np.empty(n, np.int64)
    donors[order] = np.roll(order, -1)
    return donors


def _count(
    ask: Ask, x: NDArray[np.float32], y: NDArray[np.uint8], numbers: NDArray[np.int64], batch: int
) -> NDArray[np.int64]:
    total = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    for start in range(0, len(x), batch):
        here = slice(start, start + batch)
        labels = ask(x[here], numbers[here]).argmax(axis=1)
        total += confusion_matrix(y[here], labels, len(CLASS_NAMES))
    return total


def _figures(confusion: NDArray[np.int64], number: int | None) -> tuple[float, float]:
    """IoU and accuracy: of a class (its recall), or overall, where the IoU is the mean of truth's classes."""
    scores = Scores(confusion)
    if number is None:
        return scores.mean_iou, scores.accuracy
    if not scores.support[number]:
        return float("nan"), float("nan")
    return float(scores.iou[number]), float(scores.recall[number])


def _drops(baseline: NDArray[np.int64], confusion: NDArray[np.int64]) -> dict[str, Drop]:
    found = {}
    for part, number in PARTS.items():
        iou, accuracy = _figures(baseline, number)
        fallen = [_figures(one, number) for one in confusion]
        found[part] = Drop(tuple(iou - f[0] for f in fallen), tuple(accuracy - f[1] for f in fallen))
    return found


def _std(values: Sequence[float]) -> float:
    """Sample standard deviation; a single value has none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def importance(
    path: Path,
    patch_set: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    how: Permuting = Permuting(),
    progress: Progress | None = None,
    precision: str = "fp32",
) -> Importance:
    """Importance of the channels of the weights ``path`` on a split of a patch set.

    Args:
        path: the weights, ``X.safetensors``.
        patch_set: patches with the channels of the weights.
        split: which of its patches; None takes those for test, or, where the set has none, those for
            validation, and the result says so.
        limit: at most so many of them, drawn by the seed.
        how: repeats, seed, what is exchanged, and how much is held in memory.
        progress: called with permutations done and their number.
        precision: of the network, see :data:`cryoscale.models.predictor.PRECISIONS`.

    Raises:
        WeightsError: if the weights cannot be used.
        SourceError: if the patches do not fit the weights, hold no value, or are fewer than two.
    """
    from cryoscale.learn.exchange import Group
    from cryoscale.models import weights
    from cryoscale.models.predictor import Predictor

    patches = SuitedPatches(patch_set, weights.read_card(path))
    told = None if split or patches.has("test") else NO_TEST
    split = split or ("validation" if told else "test")
    indices = patches.indices(split)
    if limit is not None:
        indices = np.sort(np.random.default_rng(how.seed).permutation(indices)[:limit])
    if len(indices) < 2:
        given = f"{len(indices)} patch of split {split!r} of {patch_set}"
        raise SourceError(given, "two or more to exchange channels between", "take more patches")
    model, card = weights.load(path)
    predictor = Predictor(model, card, precision=precision)

    def hold(x: NDArray[np.float32], y: NDArray[np.uint8], numbers: NDArray[np.int64]) -> Count:
        return Group.of(predictor, x, y, patches.codes(predictor, numbers), how.batch).count

    found = permutation_importance(
        lambda x, numbers: patches.ask(predictor, x, numbers),
        patches.read,
        indices,
        card.channels,
        how=how,
        progress=progress,
        hold=hold if predictor.device.type == "cuda" else None,
    )
    of = {"weights": card.sha256, "architecture": card.architecture, "split": split, "note": told}
    return replace(found, settings={**of, **found.settings})
