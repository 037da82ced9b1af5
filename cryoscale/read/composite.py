"""One image out of the scenes of a season, pixel by pixel, and the date of every pixel.

Scenes are judged in one global order (least cloud first, then date, then id), never in the order or by
the statistics of a block, so that a pixel's value is the same in whatever block it is computed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from cryoscale.read.assets import S2_BANDS, SCL_CLEAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Method = Literal["best_scene", "median", "least_snow"]
"""How scenes become one image."""

SNOW_NDSI = 0.4
"""NDSI above which a bright pixel is snow or ice (Hall et al. 1995, doi:10.1016/0034-4257(95)00137-P)."""

SNOW_NIR = 0.11
"""Near-infrared reflectance below which such a pixel is water (same source)."""

NO_DATE = 0
"""``source_date`` of a pixel that no scene shows."""

_B03, _B08, _B11 = S2_BANDS.index("B03"), S2_BANDS.index("B08"), S2_BANDS.index("B11")


def clear_mask(scl: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a scene classification (any shape) shows the ground.

    NaN hides it: class 0 is no data, which files may say of themselves, and beyond a file's end nothing is
    known. A scene without a classification is not asked here; nothing of it is masked.
    """
    clear: NDArray[np.bool_] = np.isin(scl, SCL_CLEAR)
    return clear


def snow_score(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """How bright the snow of each pixel of ``bands`` (12, y, x) is: B08 where there is snow, else 0."""
    return _brightness(bands, snow_index(bands) > SNOW_NDSI)


def snow_index(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """NDSI of each pixel of ``bands`` (12, y, x), 0 where it is black."""
    green, swir = np.maximum(bands[_B03], 0.0), np.maximum(bands[_B11], 0.0)
    total = green + swir
    return np.asarray(np.divide(green - swir, total, out=np.zeros_like(total), where=total > 0), np.float32)


def _brightness(bands: NDArray[np.float32], frozen: NDArray[np.bool_]) -> NDArray[np.float32]:
    snow = frozen & (bands[_B08] > SNOW_NIR)
    return np.where(snow, bands[_B08], np.float32(0.0)).astype(np.float32)


class Composer:
    """Folds scenes, given in their global order, into one image of (y, x); memory is one scene's.

    The median is the exception: it keeps every scene that has a clear pixel.

    Args:
        method: best_scene, median or least_snow.
        shape: (y, x) of the image.
    """

    def __init__(self, method: str, shape: tuple[int, int]) -> None:
        if method not in get_args(Method):
            raise ValueError(f"composite is {method!r}, expected one of {', '.join(get_args(Method))}")
        self.method = method
        self._bands: NDArray[np.float32] = np.full((len(S2_BANDS), *shape), np.nan, np.float32)
        self._date: NDArray[np.int32] = np.full(shape, NO_DATE, np.int32)
        self._n_clear: NDArray[np.uint16] = np.zeros(shape, np.uint16)
        self._score: NDArray[np.float32] = np.full(shape, np.inf, np.float32)
        self._rank: NDArray[np.float32] = np.full(shape, np.inf, np.float32)
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.bool_], int]] = []
        self._looks: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def add(
        self,
        bands: NDArray[np.float32],
        clear: NDArray[np.bool_],
        day: int,
        rank: NDArray[np.float32] | None = None,
    ) -> None:
        """Adds a scene: ``bands`` (12, y, x), where it is ``clear`` (y, x), and days since 1970-01-01.

        ``rank`` (y, x) says how well the scene suits each pixel, the least being the best
        (:meth:`cryoscale.read.choice.Choice.score`); without it, and where ranks are equal, the scene that
        was added first is preferred. For ``best_scene`` rank decides; for ``least_snow`` it decides
        between scenes whose snow is equally dark, which is all ground that is free of snow.
        """
        clear = clear & np.isfinite(bands).all(axis=0)
        if not clear.any():
            return
        self._n_clear += clear
        frozen = snow_index(bands) > SNOW_NDSI
        self._look(clear, frozen, day)
        if self.method == "median":
            self._kept.append((bands, clear, day))
            return
        least = self.method == "least_snow"
        score = _brightness(bands, frozen) if least else np.zeros(clear.shape, np.float32)
        better = score < self._score
        if rank is not None:
            better |= (score == self._score) & (rank < self._rank)
        take = clear & better
        np.copyto(self._score, score, where=take)
        if rank is not None:
            np.copyto(self._rank, rank, where=take)
        np.copyto(self._bands, bands, where=take[None])
        self._date[take] = day

    def persistence(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How persistently each pixel (y, x) was frozen, and over how many dates that was seen.

        The first is the share, 0 to 1, of the dates with a clear look that showed snow or ice, NaN where
        there was none; two scenes of a day are one look. It is told by NDSI alone: with a limit on the near
        infrared, ice in shade would seem to be gone, and that water counts does not matter where ice was
        mapped. Persistent ice is told by such shares in Selkowitz and Forster (2016),
        https://doi.org/10.3390/rs8010016.
        """
        shape = self._n_clear.shape
        dates, frozen = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for seen, cold in self._looks.values():
            dates += _unpacked(seen, shape)
            frozen += _unpacked(cold, shape)
        share = np.divide(frozen, dates, out=np.full(shape, np.nan, np.float32), where=dates > 0)
        return share, dates

    def _look(self, clear: NDArray[np.bool_], frozen: NDArray[np.bool_], day: int) -> None:
        """Note a look; a bit a pixel and day, since a season may have many days."""
        seen, cold = np.packbits(clear), np.packbits(clear & frozen)
        if day in self._looks:  # the neighbour in the same pass: what either shows, that day shows
            seen, cold = (new | old for new, old in zip((seen, cold), self._looks[day], strict=True))
        self._looks[day] = seen, cold

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint16]]:
        """Bands (12, y, x), source date and number of clear scenes (y, x)."""
        if self._kept:
            for index in range(len(S2_BANDS)):
                stack = [np.where(clear, bands[index], np.float32(np.nan)) for bands, clear, _ in self._kept]
                self._bands[index] = masked_median(np.stack(stack))
            days = np.stack([np.where(clear, day, np.nan) for _, clear, day in self._kept])
            middle = np.floor(masked_median(days))
            self._date = np.where(np.isnan(middle), NO_DATE, middle).astype(np.int32)
        return self._bands, self._date, self._n_clear


def _unpacked(bits: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape)


def masked_median(stack: NDArray[Any]) -> NDArray[Any]:
    """Median over the first axis of (t, y, x), NaN left out; NaN where nothing is left."""
    ordered = np.sort(stack, axis=0)  # NaN last
    count = np.isfinite(stack).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(stack) - 1)
    lower = np.take_along_axis(ordered, low[None], axis=0)[0]
    upper = np.take_along_axis(ordered, high[None], axis=0)[0]
    median: NDArray[Any] = np.where(lower == upper, lower, lower + (upper - lower) * stack.dtype.type(0.5))
    return median


def scene_order(
    cloud_cover: Sequence[float] | NDArray[np.float64], times: Sequence[Any], scenes: Sequence[str]
) -> list[int]:
    """Indices of scenes from the best on: least cloud (unknown last), then date, then id."""
    clouds = [101.0 if cloud is None or np.isnan(cloud) else float(cloud) for cloud in cloud_cover]
    keys = list(zip(clouds, times, scenes, strict=True))
    return sorted(range(len(keys)), key=keys.__getitem__)


def composite(cube: xr.Dataset, method: str = "least_snow") -> xr.Dataset:
    """A cube of (time, y, x) as one image of (y, x): twelve bands, ``source_date`` and ``n_clear``.

    A pixel is clear in a scene where all twelve bands hold data and SCL, if the scene has it, shows the
    ground. ``best_scene`` takes the first clear scene in the order of cloud cover, date, id;
    ``least_snow`` the clear scene whose snow is darkest, ties in that order; ``median`` the median of
    each band. Lazy where the cube is. A run ranks scenes by what they show around each pixel instead
    (:mod:`cryoscale.read.choice`), which a cube that may lie anywhere and be cut anyhow cannot.

    Args:
        cube: bands B01 .. B12 (reflectance) and perhaps SCL, as :func:`cryoscale.read.cube.open_cube` gives;
            without its coordinate ``classified`` all scenes have their SCL.
        method: best_scene, median or least_snow.

    Returns:
        float32 bands, NaN where no scene is clear; source_date int32, days since 1970-01-01 (0: none), for
        the median the middle of the clear dates, rounded down; n_clear uint16.
    """
    times = cube["time"].values.astype("datetime64[D]").astype(np.int64)
    scenes = [str(name) for name in cube["scene"].values] if "scene" in cube.coords else [""] * len(times)
    clouds = cube["cloud_cover"].values if "cloud_cover" in cube.coords else np.full(len(times), np.nan)
    order = scene_order(clouds, list(cube["time"].values), scenes)
    names = [*S2_BANDS, *(["SCL"] if "SCL" in cube else [])]
    every_scene = np.full(len(times), "SCL" in cube)  # a cube of which it was dropped keeps its coordinate
    classified = every_scene & np.asarray(cube.coords.get("classified", every_scene))

    def fold(*planes: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        composer = Composer(method, planes[0].shape[:2])
        for index in order:
            bands = np.stack([plane[..., index] for plane in planes[: len(S2_BANDS)]])
            every = np.ones(bands.shape[1:], bool)
            clear = clear_mask(planes[-1][..., index]) if classified[index] else every
            composer.add(bands, clear, int(times[index]))
        merged, date, n_clear = composer.result()
        return *merged, date, n_clear

    outputs: tuple[xr.DataArray, ...] = xr.apply_ufunc(
        fold,
        *(cube[name] for name in names),
        input_core_dims=[["time"]] * len(names),
        output_core_dims=[[]] * (len(S2_BANDS) + 2),
        dask="parallelized",
        output_dtypes=[np.float32] * len(S2_BANDS) + [np.int32, np.uint16],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    named = dict(zip([*S2_BANDS, "source_date", "n_clear"], outputs, strict=True))
    return xr.Dataset(named, attrs=dict(cube.attrs))
