"""Which scene a glaciologist would take: little cloud and little seasonal snow over the ice nearby.

A scene's cloud cover says nothing of one glacier, and a share over a block would move the map with the
size of its blocks. Shares are therefore counted on a lattice of cells that belongs to the world, and
interpolated between the cells' middles: every pixel has a score for each scene that is a function of the
pixel and the scenes alone, and changes so slowly that no edge of a cell shows in the image.

The glacierised part is found in the scenes themselves, as what is snow or ice in nearly all of their
clear looks. Known outlines are not asked: they only say which blocks can be left out, and must not change
a pixel of the others. Ice under debris is not found; it lies beside ice that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cryoscale.grid import RESOLUTION_M, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

CELL_PX = 128
"""Edge of a cell: 1.28 km, the width of a large valley glacier (choice)."""

SAMPLE_PX = 4
"""Pixels from one sample to the next: 40 m, a thousand samples a cell (choice)."""

REACH_PX = 2 * CELL_PX
"""How far from a pixel its score may look: to the far edge of the next cell."""

CHOICE_BANDS = ("SCL", "B05", "B8A", "B11")
"""What the shares are counted from. All have 20 m pixels, so that looking costs a tenth of reading."""

ICE_NDSI = 0.4
"""Index of snow and ice above which a sample is one or the other.

(red - SWIR) / (red + SWIR) with the red edge B05 for red, since green has 10 m pixels and costs as much as
the other three together: Xiao, Shen and Qin (2001), doi:10.1080/01431160119766.
"""

ICE_NIR = 0.11
"""Near infrared (B8A) below which such a sample is water (Hall et al. 1995, as for the composite)."""

SNOW_NIR = 0.5
"""Near infrared above which snow or ice is fresh snow: bare ice stays below (choice, a fixed value so that
neighbouring cells agree)."""

HOPELESS_CLOUD_PCT = 95.0
"""Cloud cover of a whole scene above which it is not even looked at (choice): in the little that it leaves
clear there are gaps between clouds, not a glacier. Below, one that is over ``max_cloud_pct`` costs a block
one coarse band, and three more where that shows any ground."""

_PERSISTENT = (3, 4)
"""Three of four clear looks have to show snow or ice (choice)."""

_ICE_WEIGHT = 1024
"""What a sample of the glacierised part weighs against one beside it, so that ground without a glacier has
a ranking too and next to a glacier does not matter."""

_HIDDEN, _BARE, _ICE, _SNOW = 0, 1, 2, 3


def search_limit_pct(max_cloud_pct: float | None) -> float | None:
    """Cloud cover of a scene up to which it is worth finding, for a limit that holds over the ice."""
    return None if max_cloud_pct is None else max(max_cloud_pct, HOPELESS_CLOUD_PCT)


@dataclass(frozen=True)
class Share:
    """How one scene does over the glacierised part of a window.

    Attributes:
        scene: id of the item.
        cloud_share: of the part that cloud, shadow or a lack of data hides, 0 to 1.
        snow_share: of the clear part that fresh snow covers, 0 to 1; 1 where nothing is clear.
        rank: 1 is the best over the whole window; single pixels follow the cells around them.
    """

    scene: str
    cloud_share: float
    snow_share: float
    rank: int


def sample_codes(planes: Mapping[str, NDArray[np.float32]], clear: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """What each sample (y, x) shows: 0 nothing, 1 bare ground, 2 ice or old snow, 3 fresh snow."""
    red, nir, swir = (np.maximum(planes[name], 0.0) for name in CHOICE_BANDS[1:])
    total = red + swir
    index = np.divide(red - swir, total, out=np.zeros_like(total), where=total > 0)
    frozen = (index > ICE_NDSI) & (nir > ICE_NIR)
    codes = np.where(frozen, np.where(nir > SNOW_NIR, _SNOW, _ICE), _BARE)
    return np.where(clear & np.isfinite(total) & np.isfinite(nir), codes, _HIDDEN).astype(np.uint8)


@dataclass(frozen=True)
class Choice:
    """Counts of scenes on the cells around a window; scenes are in the order that breaks ties.

    Attributes:
        cells: (rows, columns) of cells, in cells of the world: first row, first column, height, width.
        weight: (y, x) of cells, int64: weighted samples.
        clear, snow: (scene, y, x) of cells, int64: weighted samples that are clear, and that are snow.
    """

    scenes: tuple[str, ...]
    cells: Window
    weight: NDArray[np.int64]
    clear: NDArray[np.int64]
    snow: NDArray[np.int64]

    def score(self, scene: str, window: Window) -> NDArray[np.float32]:
        """Cloud share plus snow share around each pixel (y, x) of ``window``; the least is the best."""
        number = self.scenes.index(scene)
        clear, snow = self.clear[number], self.snow[number]
        return self._spread(1.0 - clear / self.weight + _ratio(snow, clear), window)

    def cloud(self, scene: str, window: Window) -> NDArray[np.float32]:
        """Share around each pixel (y, x) of ``window`` that the scene hides, counted over the ice."""
        return self._spread(1.0 - self.clear[self.scenes.index(scene)] / self.weight, window)

    def _spread(self, cell: NDArray[np.float64], window: Window) -> NDArray[np.float32]:
        """Values of cells (y, x), interpolated to the pixels of ``window``."""
        top, down = _between(window.row, window.height, self.cells.row)
        left, right = _between(window.col, window.width, self.cells.col)
        across = cell[:, left] * (1.0 - right) + cell[:, left + 1] * right
        spread = across[top] * (1.0 - down[:, None]) + across[top + 1] * down[:, None]
        return np.asarray(spread, np.float32)

    def shares(self, window: Window) -> tuple[Share, ...]:
        """The scenes from the best on over the cells that ``window`` touches, ties by date and id."""
        rows = _touched(window.row, window.height, self.cells.row)
        columns = _touched(window.col, window.width, self.cells.col)
        weight = int(self.weight[rows, columns].sum())
        found = []
        for number, scene in enumerate(self.scenes):
            clear = int(self.clear[number, rows, columns].sum())
            snow = int(self.snow[number, rows, columns].sum())
            found.append((1.0 - clear / weight, snow / clear if clear else 1.0, scene))
        order = sorted(range(len(found)), key=lambda n: (found[n][0] + found[n][1], n))
        return tuple(
            Share(found[n][2], round(found[n][0], 4), round(found[n][1], 4), rank)
            for rank, n in enumerate(order, 1)
        )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.ones(part.shape), where=whole > 0)


def _touched(first: int, count: int, origin: int) -> slice:
    return slice(first // CELL_PX - origin, (first + count - 1) // CELL_PX + 1 - origin)


def _between(first: int, count: int, origin: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each pixel, the cell whose middle lies before its own, and how far on it is to the next."""
    place = (np.arange(first, first + count) + 0.5) / CELL_PX - 0.5
    whole = np.floor(place)
    return whole.astype(np.int64) - origin, place - whole


def cells_around(window: Window) -> Window:
    """The cells, counted in cells of the world, that scores on ``window`` are interpolated between."""
    half = CELL_PX // 2
    row, col = (window.row - half) // CELL_PX, (window.col - half) // CELL_PX
    bottom = (window.row + window.height - 1 + half) // CELL_PX + 1
    right = (window.col + window.width - 1 + half) // CELL_PX + 1
    return Window(window.epsg, row, col, bottom - row, right - col)


def pixels_of(cells: Window) -> Window:
    """The world pixels of a window counted in cells."""
    return Window(
        cells.epsg, cells.row * CELL_PX, cells.col * CELL_PX, cells.height * CELL_PX, cells.width * CELL_PX
    )


def sample_grid(cells: Window) -> GeoBox:
    """The grid of samples over ``cells``; like that of pixels it is anchored in the world."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    west, _, _, north = pixels_of(cells).bounds_m
    step, many = RESOLUTION_M * SAMPLE_PX, CELL_PX // SAMPLE_PX
    shape = (cells.height * many, cells.width * many)
    return GeoBox(shape, Affine(step, 0.0, west, 0.0, -step, north), f"EPSG:{cells.epsg}")


def choose(
    scenes: Sequence[str], window: Window, look: Callable[[str, GeoBox], NDArray[np.uint8] | None]
) -> Choice:
    """Counts what ``scenes`` show on the cells around ``window``.

    Args:
        scenes: ids in the order that breaks ties.
        window: pixels that are to be ranked.
        look: gives the codes (y, x) of :func:`sample_codes` of a scene on a grid, or None where it has
            nothing there or cannot be read.
    """
    cells = cells_around(window)
    grid = sample_grid(cells)
    seen = [look(scene, grid) for scene in scenes]
    clear_looks, frozen_looks = np.zeros(grid.shape, np.int32), np.zeros(grid.shape, np.int32)
    for codes in seen:
        if codes is not None:
            clear_looks += codes != _HIDDEN
            frozen_looks += codes >= _ICE
    part, whole = _PERSISTENT
    glacierised = (frozen_looks * whole >= clear_looks * part) & (frozen_looks > 0)
    weight = np.where(glacierised, _ICE_WEIGHT, 1).astype(np.int64)
    nothing = np.zeros((cells.height, cells.width), np.int64)
    clear = [nothing if codes is None else _count(weight * (codes != _HIDDEN)) for codes in seen]
    snow = [nothing if codes is None else _count(weight * (codes == _SNOW)) for codes in seen]
    stack = (len(scenes), cells.height, cells.width)
    return Choice(
        tuple(scenes),
        cells,
        _count(weight),
        np.array(clear, np.int64).reshape(stack),
        np.array(snow, np.int64).reshape(stack),
    )


def _count(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over the samples of each cell: (y, x) of cells. Whole numbers, so that order cannot matter."""
    many = CELL_PX // SAMPLE_PX
    height, width = values.shape
    sums: NDArray[np.int64] = values.reshape(height // many, many, width // many, many).sum(axis=(1, 3))
    return sums
