"""Which patches are learnt from, which choose, and which are only looked at once.

A split leaks where two of its sides share ground: the same pixels, in the same year or another, in
the same composite or another, in one region or in two that overlap, on the grid of one UTM zone or of its
neighbour. Patches of the two sides are therefore held apart by the ground that they lie on, whatever they
were made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from cryoscale.errors import InputError
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import RESOLUTION_M, transformer

COARSEST_SOURCE_PX = 12
"""Pixels that a sample of the coarsest source reaches: velocity lies at 120 m and is read bilinearly."""

GAP_PX = 2 * (HALO_PX + COARSEST_SOURCE_PX) + 2
"""Default gap: patches further apart have no sample of any source in common, whichever kernel read it. A
network sees nothing outside its patch. What neighbours share by nature (weather, geology, one glacier)
reaches further: a wider gap costs patches and buys independence."""

_DRAWS = 64
_EARTH_M = 6_371_000.0


@dataclass(frozen=True, eq=False)
class Ground:
    """The squares of ground that patches lie on: zone, first world row and column (n,), and their edge."""

    epsg: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    patch_px: int

    def __len__(self) -> int:
        return len(self.epsg)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Ground:
        """The squares that are chosen."""
        return Ground(self.epsg[chosen], self.row[chosen], self.col[chosen], self.patch_px)

    def centres(self) -> NDArray[np.float64]:
        """Centres (n, 3) on a sphere in metres: the one frame in which no zone and no meridian ends."""
        lon, lat = np.empty(len(self)), np.empty(len(self))
        for epsg in np.unique(self.epsg):
            here = self.epsg == epsg
            x = (self.col[here] + self.patch_px / 2) * RESOLUTION_M
            y = -(self.row[here] + self.patch_px / 2) * RESOLUTION_M
            lon[here], lat[here] = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(x, y)
        lon, lat = np.radians(lon), np.radians(lat)
        axes = (np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat))
        return _EARTH_M * np.stack(axes, axis=1)

    def square(self, index: int, epsg: int) -> shapely.Polygon:
        """One square in metres of zone ``epsg``, its own or a neighbour."""
        west, north = self.col[index] * RESOLUTION_M, -self.row[index] * RESOLUTION_M
        edge = self.patch_px * RESOLUTION_M
        corners = np.array(
            [(west, north), (west + edge, north), (west + edge, north - edge), (west, north - edge)]
        )
        if epsg != self.epsg[index]:
            project = transformer(f"EPSG:{self.epsg[index]}", f"EPSG:{epsg}")
            corners = np.column_stack(project.transform(corners[:, 0], corners[:, 1]))
        return shapely.Polygon(corners)


def near(first: Ground, second: Ground, *, gap_px: int) -> NDArray[np.bool_]:
    """Which squares (n,) of ``first`` have a pixel within ``gap_px`` pixels of one of ``second``.

    On one zone's grid exactly so, counted along rows and columns; across zones a square counts as near up
    to half a gap and a pixel further, since two grids that are turned against each other have no common
    rows to count along.
    """
    from scipy.spatial import cKDTree

    found = np.zeros(len(first), bool)
    if not len(first) or not len(second):
        return found
    # Half diagonals of both and the gap, with room for the sphere, which is 0.6 % off, and for the zone's
    # scale.
    reach_m = 1.02 * np.sqrt(2) * (0.5 * first.patch_px + 0.5 * second.patch_px + gap_px + 2) * RESOLUTION_M
    around = cKDTree(first.centres()).query_ball_tree(cKDTree(second.centres()), reach_m)
    for index, others in enumerate(around):
        here = np.asarray(others, np.int64)
        same = second.epsg[here] == first.epsg[index]
        found[index] = _near_on_grid(first, index, second, here[same], gap_px) or any(
            _near_across(first, index, second, int(other), gap_px) for other in here[~same]
        )
    return found


def _near_on_grid(first: Ground, index: int, second: Ground, others: NDArray[np.int64], gap_px: int) -> bool:
    def close(one: int, many: NDArray[np.int64]) -> NDArray[np.bool_]:
        apart = many - one
        between = np.where(apart >= 0, apart - first.patch_px, -apart - second.patch_px)
        return np.asarray(between < gap_px)

    rows = close(int(first.row[index]), second.row[others])
    return bool((rows & close(int(first.col[index]), second.col[others])).any())


def _near_across(first: Ground, index: int, second: Ground, other: int, gap_px: int) -> bool:
    epsg = int(first.epsg[index])
    apart_m = first.square(index, epsg).distance(second.square(other, epsg))
    return bool(apart_m < (np.sqrt(2) * gap_px + 1) * RESOLUTION_M)


def random_split(n: int, *, fraction: float, seed: int, test_fraction: float = 0.0) -> NDArray[np.str_]:
    """Splits (n,) drawn at random, ``round(n * fraction)`` for validation, likewise for test.

    Patches that overlap land on both sides: scores on such a split flatter the model, and it exists to
    compare with published figures that were made so. The blocked split is the honest one.
    """
    out = np.full(n, "train", dtype="<U10")
    order = np.random.default_rng(seed).permutation(n)
    held, tested = round(n * fraction), round(n * test_fraction)
    out[order[:held]] = "validation"
    out[order[held : held + tested]] = "test"
    return out


def blocked_split(
    ground: Ground,
    class_pixels: NDArray[np.int64],
    *,
    block_px: int,
    gap_px: int,
    fraction: float,
    test_fraction: float = 0.0,
    seed: int,
) -> NDArray[np.str_]:
    """Splits (n,) by square blocks of ground, held apart by a gap.

    Args:
        ground: where the patches lie.
        class_pixels: labelled pixels of each class in each patch (n, k).
        block_px: edge of the blocks, which lie at its multiples; a patch belongs to the block of its centre.
        gap_px: see :func:`keep_apart`.
        fraction: share of the patches that validation takes, to the next whole block.
        test_fraction: the same for test.
        seed: of the draw.

    Of a few dozen draws that one is taken in which the held-back blocks have the most even share of every
    class, and, where there is such a draw, training has every class even then when the gap is cut: with a
    handful of blocks, a single draw leaves debris or water out as often as not.

    Raises:
        InputError: fewer blocks than splits.
    """
    centre = ground.patch_px // 2
    cells = np.stack(
        [ground.epsg, (ground.row + centre) // block_px, (ground.col + centre) // block_px], axis=1
    )
    blocks, block_of = np.unique(cells, axis=0, return_inverse=True)
    wanted = {"validation": fraction, **({"test": test_fraction} if test_fraction else {})}
    if len(blocks) <= len(wanted):
        raise InputError(
            f"{len(ground)} patches in {len(blocks)} block(s) of {block_px} px for {len(wanted) + 1} splits",
            "at least one block for each split",
            "give a smaller --block-px, or more runs",
        )
    sizes = np.bincount(block_of, minlength=len(blocks))
    pixels = np.zeros((len(blocks), class_pixels.shape[1]), np.int64)
    np.add.at(pixels, block_of, class_pixels)
    rng = np.random.default_rng(seed)
    drawn = [_draw(rng.permutation(len(blocks)), sizes, wanted) for _ in range(_DRAWS)]
    there = pixels.any(axis=0)
    first: NDArray[np.str_] | None = None
    for draw in sorted(drawn, key=lambda draw: _unevenness(draw, pixels, wanted)):
        splits = keep_apart(ground, draw[block_of], gap_px=gap_px)
        if (class_pixels[splits == "train"].any(axis=0) == there).all():
            return splits
        first = splits if first is None else first
    assert first is not None  # there are always draws
    return first


def _draw(order: NDArray[np.int64], sizes: NDArray[np.int64], wanted: dict[str, float]) -> NDArray[np.str_]:
    """The split of each block: held-back ones off the pile until they have their share of the patches."""
    out = np.full(len(order), "train", dtype="<U10")
    start = 0
    for left, (split, fraction) in zip(range(len(wanted), 0, -1), wanted.items(), strict=True):
        reached = np.cumsum(sizes[order[start:]]) >= fraction * sizes.sum()
        # At least one block stays for each split that follows, and for training.
        stop = min(start + int(reached.argmax()) + 1 if reached.any() else len(order), len(order) - left)
        out[order[start:stop]] = split
        start = stop
    return out


def _unevenness(draw: NDArray[np.str_], pixels: NDArray[np.int64], wanted: dict[str, float]) -> float:
    total = np.maximum(pixels.sum(axis=0), 1)
    present = pixels.sum(axis=0) > 0
    off = [
        np.abs(pixels[draw == split].sum(axis=0) / total - fraction)[present].sum() / fraction
        for split, fraction in wanted.items()
    ]
    return float(sum(off))


def keep_apart(ground: Ground, splits: NDArray[np.str_], *, gap_px: int) -> NDArray[np.str_]:
    """Splits (n,) in which no patch has ground within ``gap_px`` of a patch of another split.

    What stands in the way becomes "unused": a training patch near one for validation or test, and a
    validation patch near one for test.
    """
    out = splits.copy()
    for loses, against in (("train", ("test", "validation")), ("validation", ("test",))):
        losing, held = out == loses, np.isin(out, against)
        here = np.flatnonzero(losing)
        out[here[near(ground[losing], ground[held], gap_px=gap_px)]] = "unused"
    return out


def thin_out(ground: Ground, source: NDArray[np.int64], splits: NDArray[np.str_]) -> NDArray[np.str_]:
    """Splits (n,) in which validation and test patches of one source do not overlap.

    Every pixel then counts once in a score. ``source`` (n,) tells what patches were made from: of the same
    ground in two years, both are kept.
    """
    out = splits.copy()
    kept: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    p = ground.patch_px
    for index in np.lexsort((ground.col, ground.row)):
        if out[index] not in ("validation", "test"):
            continue
        row, col = int(ground.row[index]), int(ground.col[index])
        key = (int(source[index]), int(ground.epsg[index]))
        around = [(*key, row // p + dy, col // p + dx) for dy, dx in product((-1, 0, 1), repeat=2)]
        if any(abs(row - r) < p and abs(col - c) < p for cell in around for r, c in kept.get(cell, ())):
            out[index] = "unused"
        else:
            kept.setdefault((*key, row // p, col // p), []).append((row, col))
    return out


def leak_of(ground: Ground, splits: NDArray[np.str_]) -> float:
    """Share of the held-back patches that have ground in common with a training patch."""
    held = np.isin(splits, ("validation", "test"))
    return float(near(ground[held], ground[splits == "train"], gap_px=0).mean()) if held.any() else 0.0


@dataclass(frozen=True)
class SplitRule:
    """How patches are split: "blocked", "random", or "leave-one-out" with whole regions for test."""

    kind: str
    fraction: float
    test_fraction: float
    block_px: int
    gap_px: int
    seed: int

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have to have patches."""
        tested = self.kind == "leave-one-out" or self.test_fraction > 0
        return ("train", "validation", *(["test"] if tested else []))

    def describe(self, held_out: Sequence[str] = ()) -> str:
        """One sentence for the weights' card."""
        if self.kind == "random":
            shares = " and ".join(f"{v:.0%}" for v in (self.fraction, self.test_fraction) if v)
            return f"random {shares} of the patches held back; neighbours leak"
        blocks = f"blocks of {self.block_px} px, {self.gap_px} px apart, seed {self.seed}"
        if self.kind == "leave-one-out":
            return f"tested on {', '.join(held_out)}, left out whole; validation by {blocks}"
        return f"blocked: {blocks}"

    def to_dict(self) -> dict[str, Any]:
        """For the set's attributes: what the split was made by."""
        unused = {"random": ("block_px", "gap_px"), "leave-one-out": ("test_fraction",)}.get(self.kind, ())
        return {name: value for name, value in asdict(self).items() if name not in unused}


def assign(
    rule: SplitRule,
    ground: Ground,
    *,
    class_pixels: NDArray[np.int64],
    made_from: NDArray[np.int64],
    held_out: NDArray[np.bool_],
) -> NDArray[np.str_]:
    """Splits (n,) of patches by a rule.

    Args:
        rule: how.
        ground: where the patches lie.
        class_pixels: labelled pixels of each class in each patch (n, k).
        made_from: what each was made from, e.g. region, year and composite (n, m).
        held_out: patches of the regions that are left out (n,).

    Raises:
        InputError: fewer blocks than splits.
    """
    if rule.kind == "random":
        return random_split(
            len(ground), fraction=rule.fraction, test_fraction=rule.test_fraction, seed=rule.seed
        )
    splits = np.full(len(ground), "test", dtype="<U10")
    splits[~held_out] = blocked_split(
        ground[~held_out],
        class_pixels[~held_out],
        block_px=rule.block_px,
        gap_px=rule.gap_px,
        fraction=rule.fraction,
        test_fraction=0.0 if held_out.any() else rule.test_fraction,
        seed=rule.seed,
    )
    apart = keep_apart(ground, splits, gap_px=rule.gap_px)
    _, source = np.unique(made_from, axis=0, return_inverse=True)
    return thin_out(ground, source, apart)
