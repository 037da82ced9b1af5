"""Class probabilities of a block from its features: cut tiles, predict in batches, blend.

Only numpy: the network is a callable ``(n, c, h, w) -> (n, k, h, w)``, so that everything here
runs and is tested without one. Memory is the features, one batch, and accumulators of the block's
own pixels; the tiles of a block never exist all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.errors import OperatorError, WeightsError
from cryoscale.features.channels import TABLE
from cryoscale.grid import Block, Window, location_code, window_of
from cryoscale.infer.blend import Blender
from cryoscale.infer.tiles import read_window, stride_px, tile_origins, window_of_block

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cryoscale.features.packing import Recipe

Predict = Callable[..., Any]
"""Features (n, c, h, w), physical units with NaN for what is missing, to probabilities (n, k, h, w).

It may carry ``channels`` (the names it takes, in order), ``classes`` (their names),
``needs_halo = False`` if it treats every pixel for itself, ``needs_location = True`` if it takes the
tiles' location codes (n, 4) as its second argument, and ``needs_place = True`` if it also takes ``places``:
where the tiles lie, as an array (n, 3) of EPSG code, world row and world column.
"""

DEFAULT_CLASSES = 5
"""Number of classes of a map without one valid pixel, if the model does not name its classes."""

_OPTICAL_COUNT = 12
_OPTICAL = {channel.name for channel in TABLE if channel.modality == "optical"}


@dataclass(frozen=True)
class Tiling:
    """How a window is cut: edge of a tile, share that neighbours overlap, tiles a batch."""

    tile_px: int = 256
    overlap: float = 0.5
    batch: int = 1

    def __post_init__(self) -> None:
        stride_px(self.tile_px, self.overlap)
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is a number of tiles, at least 1")


@dataclass(frozen=True)
class Prediction:
    """Probability (k, y, x) and disagreement (y, x) of a window, NaN = no data; and the work done."""

    probability: NDArray[np.float32]
    disagreement: NDArray[np.float32]
    tiles: int
    tiles_skipped: int


@dataclass(frozen=True)
class Mapped:
    """The bands of a window, u1, and the tiles that were predicted and left out."""

    bands: dict[str, NDArray[np.uint8]]
    tiles: int
    tiles_skipped: int


@dataclass(frozen=True, eq=False)
class Carried:
    """Features on their way to the device.

    Attributes:
        array: (c, h, w) float32, physical units, NaN = missing; or, for a device, as of :mod:`wire`; or
            the numbers that channels are to be made of.
        extent: the world pixels that it lies on.
        taken: its channels that the model takes, in the model's order; of numbers, of what is made of them.
        optical: its channels that have to be finite where there is to be a map; likewise.
        recipe: what numbers stand for.
    """

    array: NDArray[Any]
    extent: Window
    taken: Sequence[int]
    optical: Sequence[int]
    recipe: Recipe | None = None


def optical_channels(channels: Sequence[str] | None, count: int) -> list[int]:
    """Indices of the channels that have to be finite where there is to be a map.

    The optical bands (``B01`` ... ``B12``); where none is named, what is made of them, as NDVI; where that is
    not either, the first twelve.
    """
    names = list(channels or ())
    bands = [i for i, name in enumerate(names) if name[:1] == "B" and name[1:2].isdigit()]
    made_of_them = [i for i, name in enumerate(names) if name in _OPTICAL]
    return bands or made_of_them or list(range(min(count, _OPTICAL_COUNT)))


def valid_pixels(features: NDArray[np.float32], optical: Sequence[int]) -> NDArray[np.bool_]:
    """Mask (h, w) of the pixels where all ``optical`` channels of features (c, h, w) are finite."""
    valid: NDArray[np.bool_] = np.isfinite(features[optical[0]])
    for channel in optical[1:]:
        valid &= np.isfinite(features[channel])
    return valid


def channel_indices(have: Sequence[str] | None, want: Sequence[str] | None, count: int) -> list[int] | None:
    """Where among the ``count`` channels at hand the model's channels lie; None if they are all of them.

    Raises:
        WeightsError: if the model wants a channel that is not there, or another number of unnamed ones.
    """
    if want is None or (have is not None and tuple(have) == tuple(want)):
        return None
    if have is None:
        if count == len(want):
            return None
        raise WeightsError(
            f"a stack of {count} channels without names",
            f"the model's {len(want)} channels",
            "build the stack with cryoscale.features, or use weights made for these channels",
        )
    missing = [name for name in want if name not in have]
    if missing:
        raise WeightsError(
            f"a stack without {', '.join(missing)}",
            f"the model's {len(want)} channels",
            "build the stack with cryoscale.features, or use weights made for these channels",
        )
    return [list(have).index(name) for name in want]


def predict_window(
    features: NDArray[np.float32],
    origin: tuple[int, int],
    window: Window,
    *,
    predict: Predict,
    tiling: Tiling,
    valid: NDArray[np.bool_] | None = None,
) -> Prediction:
    """Probabilities (k, y, x) on exactly the pixels of ``window`` from features (c, h, w).

    Args:
        features: physical units, NaN = missing; wherever tiles reach beyond it, they are NaN.
        origin: world (row, col) of the upper left pixel of ``features``.
        window: the pixels wanted.
        predict: the model. A tile's answer must not depend on the others in its batch.
        tiling: how to cut. Tiles that hold no valid pixel of the window are not predicted, and the
            last batch is filled up, so that the model only ever sees one shape.
        valid: mask (h, w) of the pixels to map; by default where the first 12 channels are finite.

    Raises:
        OperatorError: if the model answers with another shape, or not finite on a valid pixel.
        ValueError: if features are not (channel, y, x).
    """
    if features.ndim != 3:
        raise ValueError(f"features have shape {features.shape}; expected (channel, y, x)")
    if valid is None:
        valid = valid_pixels(features, optical_channels(None, features.shape[0]))
    if not getattr(predict, "needs_halo", True):
        # Each pixel for itself: tiles that overlap only repeat one another, and the mean of equals
        # is exact (see blend), so tiles without overlap give the same map to the last bit.
        tiling = Tiling(tiling.tile_px, 0.0, tiling.batch)
    extent = Window(window.epsg, *origin, features.shape[1], features.shape[2])
    own_valid = np.zeros(window.shape, np.bool_)
    _copy_common(valid, extent, own_valid, window)
    origins, touching = _tiles_with_data(own_valid, window, tiling)
    blender: Blender | None = None
    for chosen, answer in _answers(features, extent, origins, predict, tiling):
        if blender is None:
            blender = Blender(window, answer.shape[1], tiling.tile_px)
        elif answer.shape[1] != blender.classes:
            raise OperatorError(f"the model gave {answer.shape[1]} classes after {blender.classes}")
        for tile, (row, col) in zip(answer, chosen, strict=False):
            blender.add(tile, row, col)
    if blender is None:
        blender = Blender(window, len(getattr(predict, "classes", ())) or DEFAULT_CLASSES, tiling.tile_px)
    probability, disagreement = blender.result()
    if not np.isfinite(disagreement[own_valid]).all():
        raise OperatorError(f"the model's probabilities are not finite on valid pixels of {window}")
    probability[:, ~own_valid] = np.nan
    disagreement[~own_valid] = np.nan
    return Prediction(probability, disagreement, len(origins), touching - len(origins))


def predict_block(
    features: xr.DataArray,
    block: Block | Window,
    *,
    predict: Predict,
    tile_px: int = 256,
    overlap: float = 0.5,
    batch: int = 1,
) -> xr.Dataset:
    """``probability`` (class, y, x) and ``disagreement`` (y, x) on exactly the pixels of ``block``.

    Both are float32 in [0, 1], NaN where an optical band is NaN. Only that part of ``features`` is
    computed, if it is lazy, that the tiles over the block need (:func:`tiles.read_window`); where it
    holds less, tiles see NaN. The size of the block does not show in its pixels.

    Args:
        features: dims (channel, y, x), physical units, ``x`` and ``y`` on the world lattice.
        block: what to map; its zone is the features' zone.
        predict: any callable ``(n, c, h, w) -> (n, k, h, w)``; see :data:`Predict`.
        tile_px: edge of a tile.
        overlap: share of a tile that its neighbour covers too, in [0, 1).
        batch: tiles a call; every call has exactly this many.

    Raises:
        WeightsError: if the model wants channels that the features lack.
        OperatorError: if the model answers with another shape, or not finite on a valid pixel.
        ValueError: if the features have other dims, lie off the lattice or nowhere near the block.
    """
    import xarray as xr

    if features.dims != ("channel", "y", "x"):
        raise ValueError(f"features have dims {features.dims}; expected ('channel', 'y', 'x')")
    tiling, window = Tiling(tile_px, overlap, batch), window_of_block(block)
    given = window_of(features, window.epsg)
    extent = read_window(window, tile_px, overlap).intersect(given)
    if extent is None:
        raise ValueError(f"features on {given} do not touch {window}")
    rows, cols = extent.slices_in(given)
    array = np.asarray(features[:, rows, cols].values, np.float32)
    names = [str(name) for name in features["channel"].values] if "channel" in features.coords else None
    valid = valid_pixels(array, optical_channels(names, array.shape[0]))
    wanted = channel_indices(names, getattr(predict, "channels", None), array.shape[0])
    result = predict_window(
        array if wanted is None else array[wanted],
        (extent.row, extent.col),
        window,
        predict=predict,
        tiling=tiling,
        valid=valid,
    )
    y, x = window.coordinates()
    return xr.Dataset(
        {
            "probability": (("class", "y", "x"), result.probability),
            "disagreement": (("y", "x"), result.disagreement),
        },
        coords={"class": np.arange(result.probability.shape[0]), "y": y, "x": x},
        attrs={"crs": f"EPSG:{window.epsg}"},
    )


def _copy_common(source: NDArray[Any], at: Window, target: NDArray[Any], onto: Window) -> None:
    """Copy (..., h, w) pixels that both windows hold from ``source`` on ``at`` to ``target`` on ``onto``."""
    common = at.intersect(onto)
    if common is not None:
        target[(..., *common.slices_in(onto))] = source[(..., *common.slices_in(at))]


def _tiles_with_data(
    valid: NDArray[np.bool_], window: Window, tiling: Tiling
) -> tuple[list[tuple[int, int]], int]:
    """World origins, rows before columns, of the tiles with a valid pixel of the window; and of all how many.

    A tile without one would only add to pixels that are no data anyway.
    """
    stride = stride_px(tiling.tile_px, tiling.overlap)
    rows = tile_origins(window.row, window.row + window.height, tiling.tile_px, stride)
    cols = tile_origins(window.col, window.col + window.width, tiling.tile_px, stride)
    chosen = []
    for row in rows:
        top, bottom = max(row - window.row, 0), row + tiling.tile_px - window.row
        for col in cols:
            left, right = max(col - window.col, 0), col + tiling.tile_px - window.col
            if valid[top:bottom, left:right].any():
                chosen.append((row, col))
    return chosen, len(rows) * len(cols)


def _answers(
    features: NDArray[np.float32],
    extent: Window,
    origins: Sequence[tuple[int, int]],
    predict: Predict,
    tiling: Tiling,
) -> Iterator[tuple[Sequence[tuple[int, int]], NDArray[np.float32]]]:
    """Batches of tile origins with their probabilities (n, k, h, w), n >= the number of origins."""
    size = tiling.tile_px
    tiles = np.empty((tiling.batch, features.shape[0], size, size), np.float32)
    codes = np.empty((tiling.batch, 4), np.float32) if getattr(predict, "needs_location", False) else None
    places = np.empty((tiling.batch, 3), np.int64) if getattr(predict, "needs_place", False) else None
    for start in range(0, len(origins), tiling.batch):
        chosen = origins[start : start + tiling.batch]
        for slot in range(tiling.batch):
            # The last batch is filled up with repeats of its last tile, whose answers are dropped.
            row, col = chosen[min(slot, len(chosen) - 1)]
            tile = Window(extent.epsg, row, col, size, size)
            if tile.intersect(extent) != tile:
                tiles[slot] = np.nan
            _copy_common(features, extent, tiles[slot], tile)
            if codes is not None:
                codes[slot] = location_code(tile)
            if places is not None:
                places[slot] = extent.epsg, row, col
        location = () if codes is None else (codes,)
        more = {} if places is None else {"places": places}
        yield chosen, _checked(predict(tiles, *location, **more), tiles.shape)


def _checked(answer: Any, asked: tuple[int, ...]) -> NDArray[np.float32]:
    """The model's answer as contiguous float32 (n, k, h, w), or an error that shows both shapes."""
    array = np.ascontiguousarray(answer, dtype=np.float32)
    if array.ndim != 4 or array.shape[0] != asked[0] or array.shape[2:] != asked[2:]:
        raise OperatorError(
            f"the model turned tiles of shape {asked} into {array.shape}; "
            f"expected ({asked[0]}, classes, {asked[2]}, {asked[3]})"
        )
    return array
