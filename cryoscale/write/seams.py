"""A number for the seams of a map: how much more it jumps across block or tile borders than inside.

For each line on which borders lie, the mean absolute difference between the two pixels on either side
is set against that of the pixel pairs one to a few pixels away. A score of 1 says that nobody can tell
the borders from the interior; 1.2 says that the map jumps there by a fifth more. How far the score
strays without any seam is measured on the same map: it is taken again along lines a part of the period
away, where there are no borders, and the spread of those is the standard error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.grid import Window, window_of

_NODATA = 255
_BESIDE_PX = (2, 4, 6, 8)
"""How far from a border the pairs lie that it is compared with, on both sides. Even, since bands of
20 m and a network's doublings make pairs at even places jump more than those at odd ones."""

_MOST_LINES = 48
"""Lines of a map that are compared in either direction, evenly spread where there are more."""

_FEWEST_LINES = 20

_HELD_PX = 1 << 22
"""Pixels of a class up to which a map is read once and held; of a larger one parts are drawn."""

_PART_PX, _MOST_PARTS = 2048, 32
"""Edge of those, and how many with data are compared: drawn at random, yet for a map always the same."""

_CONTROLS = 8
"""Sets of lines without borders that the spread is taken from."""


@dataclass(frozen=True)
class SeamScore:
    """How visible the borders are.

    Attributes:
        score: mean jump across borders over the mean jump beside them, over the same ratio along lines
            without borders; NaN where nothing can be compared, 1 where the map is flat on both.
        standard_error: spread of the score along lines where there are no borders; NaN where none fit.
        lines: number of border lines compared.
    """

    score: float
    standard_error: float
    lines: int

    @property
    def telling(self) -> bool:
        """Whether there are enough borders for the score to mean something."""
        return self.lines >= _FEWEST_LINES


def seam_score(
    values: xr.DataArray | NDArray[np.uint8],
    period_px: int,
    *,
    offset_px: tuple[int, int] = (0, 0),
    categorical: bool = False,
) -> SeamScore:
    """Seam score of a ``(y, x)`` u1 map, 255 no data, with borders every ``period_px`` pixels.

    Args:
        values: one class's probability, or with ``categorical`` the label, where a jump counts 1.
        period_px: distance of the borders: the block's edge, or the stride of the tiles; at least 18.
        offset_px: world row and column of the map's first pixel, since borders lie at multiples of
            ``period_px`` from the zone's origin.
        categorical: whether the values are names rather than amounts.

    Raises:
        ValueError: if the period is so short that pairs beside one border reach the next.
    """
    if period_px < 2 * max(_BESIDE_PX) + 2:
        raise ValueError(f"borders every {period_px} pixels leave no interior to compare with")
    row, col = offset_px
    return _score(
        [_compare(values, period_px, (row + shift, col + shift), categorical) for shift in _shifts(period_px)]
    )


def seam_score_of_maps(mosaics: Mapping[int, xr.Dataset], period_px: int) -> SeamScore:
    """Seam score over the probabilities of all classes in the maps of all zones (by EPSG code).

    The place of the borders follows from the maps' coordinates. Of a map that is too large to hold,
    parts are drawn, and a line counts once in each.
    """
    compared: dict[int, list[NDArray[np.float64]]] = {
        shift: [np.empty((0, 4))] for shift in _shifts(period_px)
    }
    for epsg, dataset in mosaics.items():
        window = window_of(dataset, epsg)
        for row, col, part in _parts(dataset["probability"], window):
            for shift, lines in compared.items():
                lines.append(_compare(part, period_px, (row + shift, col + shift), False))
    return _score([np.concatenate(lines) for lines in compared.values()])


def _parts(layers: xr.DataArray, window: Window) -> Iterator[tuple[int, int, xr.DataArray]]:
    """What is compared of a map ``(class, y, x)``, read, with the world row and column of its first pixel."""
    if layers[0].size <= _HELD_PX:
        yield window.row, window.col, layers.load()
        return
    edge = _PART_PX
    # half an edge off the lattice, or borders of blocks would lie between parts
    rows = range(-((window.row - edge // 2) % edge), window.height, edge)
    cols = range(-((window.col - edge // 2) % edge), window.width, edge)
    places, taken = list(product(rows, cols)), 0
    for index in np.random.default_rng(0).permutation(len(places)).tolist():
        row, col = places[index]
        top, left = max(row, 0), max(col, 0)
        part = layers[:, top : row + edge, left : col + edge].load()
        if (part.values != _NODATA).any():
            yield window.row + top, window.col + left, part
            taken += 1
        if taken == _MOST_PARTS:
            return


def _shifts(period_px: int) -> list[int]:
    """0, then shifts to lines between the borders, none on a half, a quarter or an eighth of the period.

    The borders of tiles lie on such parts of the distance of those of blocks.
    """
    return [
        0,
        *sorted({period_px * (2 * part + 1) // (2 * _CONTROLS) // 2 * 2 for part in range(_CONTROLS)} - {0}),
    ]


def _score(compared: Sequence[NDArray[np.float64]]) -> SeamScore:
    """The score along the first lines, in units of what it is along the others, and the spread of those."""
    score, *controls = (_ratio(lines) for lines in compared)
    usable = [control for control in controls if np.isfinite(control)]
    lines = len(compared[0])
    if len(usable) < 2 or not all(usable):
        return SeamScore(score, float("nan"), lines)
    usual = float(np.mean(usable))
    return SeamScore(score / usual, float(np.std(usable, ddof=1)) / usual, lines)


def _compare(
    values: xr.DataArray | NDArray[np.uint8], period_px: int, offset_px: tuple[int, int], categorical: bool
) -> NDArray[np.float64]:
    """Per border line: sum and number of the jumps across it, sum and number of those beside it.

    Classes are summed, since where one jumps another does too.
    """
    if period_px < 2 * max(_BESIDE_PX) + 2:
        raise ValueError(f"borders every {period_px} pixels leave no interior to compare with")
    array = values if isinstance(values, xr.DataArray) else xr.DataArray(values, dims=("y", "x"))
    height, width = array.shape[-2:]
    reach, sums = max(_BESIDE_PX) + 1, []
    for line in _lines(height, offset_px[0], period_px):
        sums.append(_across(array[..., line - reach : line + reach, :].values, categorical))
    for line in _lines(width, offset_px[1], period_px):
        band = array[..., line - reach : line + reach].values
        sums.append(_across(band.swapaxes(-1, -2), categorical))
    return np.array([found for found in sums if found[1] > 0], float).reshape(-1, 4)


def _lines(size: int, offset: int, period: int) -> range:
    """Indices of the first pixel behind each border that has room for the comparison on both sides."""
    reach = max(_BESIDE_PX) + 1
    first = -offset % period
    while first < reach:
        first += period
    lines = range(first, size - reach + 1, period)
    return lines[:: -(-len(lines) // _MOST_LINES)] if len(lines) > _MOST_LINES else lines


def _across(band: NDArray[np.uint8], categorical: bool) -> tuple[float, int, float, int]:
    """Sum and number of jumps across a border, and of those beside it, where all pixels are valid.

    The border runs along the middle of the band ``(…, pixels across, pixels along)``.
    """
    reach = max(_BESIDE_PX) + 1
    valid = (band != _NODATA).all(axis=-2, keepdims=True)
    steps = np.diff(band.astype(np.int32), axis=-2) * valid
    jumps = (steps != 0) if categorical else np.abs(steps)
    beside = [reach - 1 + side * distance for distance in _BESIDE_PX for side in (-1, 1)]
    count = int(valid.sum())
    at_border, near = jumps[..., reach - 1, :], jumps[..., beside, :]
    return float(at_border.sum()), count, float(near.sum()), count * len(beside)


def _ratio(compared: NDArray[np.float64]) -> float:
    if not len(compared):
        return float("nan")
    border = compared[:, 0].sum() / compared[:, 1].sum()
    beside = compared[:, 2].sum() / compared[:, 3].sum()
    if beside == 0.0:
        return 1.0 if border == 0.0 else float("inf")
    return float(border / beside)
