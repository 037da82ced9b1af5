"""Per-pixel spectral channels: normalised differences, and projections of the 12 bands on a few axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoscale.features.channels import BANDS
from cryoscale.kernel import kernel

INDEX_BANDS: dict[str, tuple[str, str]] = {
    "NDVI": ("B08", "B04"),
    "NDSI": ("B03", "B11"),
    "NDWI": ("B03", "B08"),
    "NDGI": ("B03", "B04"),
}
"""Index name to its bands (a, b) of (a - b) / (a + b)."""

_NEDKOV = (
    # brightness
    (0.0356, 0.0822, 0.1360, 0.2611, 0.2964, 0.3338, 0.3877, 0.3895, 0.4750, 0.0949, 0.3882, 0.1366),
    # greenness
    (-0.0635, -0.1128, -0.1680, -0.3480, -0.3303, 0.0852, 0.3302, 0.3165, 0.3625, 0.0467, -0.4578, -0.4064),
    # wetness
    (0.0649, 0.1363, 0.2802, 0.3072, 0.5288, 0.1379, -0.0001, -0.0807, -0.1389, -0.0302, -0.4064, -0.5602),
)

TASSELLED_CAP: NDArray[np.float64] = np.array(_NEDKOV)
"""(3, 12) coefficients of brightness, greenness, wetness, after Nedkov (2017), "Orthogonal
transformation of segmented images from the satellite Sentinel-2", C. R. Acad. Bulg. Sci. 70(5),
687-692; the weights of B10, which L2A has not, are left out."""
TASSELLED_CAP.setflags(write=False)

_N_BANDS = len(BANDS)
_STRIP_PX = 256
_CACHE_LINE = 64


@kernel
def _normalized_difference(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    zero = np.float32(0.0)
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            p, q = a[y, x], b[y, x]
            # A comparison with NaN is false, so NaN passes through both clips.
            p = zero if p < zero else p
            q = zero if q < zero else q
            total = p + q
            out[y, x] = zero if total == zero else (p - q) / total


def normalized_difference(
    a: NDArray[np.float32], b: NDArray[np.float32], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The normalised difference (a - b) / (a + b) of two bands (y, x), in [-1, 1].

    Reflectances are clipped to >= 0 first, since L2A has small negative ones that would carry the
    ratio out of its range; where both are 0 the result is 0; NaN in either gives NaN.
    """
    result = np.empty(a.shape, np.float32) if out is None else out
    _normalized_difference(a, b, result)
    return result


@kernel
def _widen(
    bands: NDArray[np.float32], at: tuple[int, int, int], count: int, strip: NDArray[np.float64]
) -> None:
    """Copy ``count`` pixels of a band that begin ``at`` (b, y, x) to where the strip has that band."""
    b, y, first = np.uint64(at[0]), np.uint64(at[1]), np.uint64(at[2])
    start = np.uint64(at[0] * _STRIP_PX)
    for x in range(np.uint64(count)):
        strip[start + x] = np.float64(bands[b, y, first + x])


@kernel
def _weigh(
    strip: NDArray[np.float64],
    sums: tuple[NDArray[np.float64], NDArray[np.float64]],
    at: tuple[int, int, int],
    count: int,
    out: NDArray[np.float32],
) -> None:
    """Write an axis' start and weighted bands; count and distance are constant, so the loop vectorises."""
    starts, weights = sums
    k, y, first = np.uint64(at[0]), np.uint64(at[1]), np.uint64(at[2])
    for x in range(np.uint64(count)):
        total = starts[k]
        for b in range(_N_BANDS):
            total += strip[np.uint64(b * _STRIP_PX) + x] * weights[k, np.uint64(b)]
        out[k, y, first + x] = np.float32(total)


@kernel
def _project(
    bands: NDArray[np.float32],
    starts: NDArray[np.float64],
    weights: NDArray[np.float64],
    rows: tuple[int, int],
    out: NDArray[np.float32],
) -> None:
    """Takes whole arrays and cuts by index: a slice counts its references, too dear for a strip of a row.

    Indices are unsigned where a loop should vectorise, since a negative one would count from the end.
    """
    width = bands.shape[2]
    # The bands of a strip stay in the nearest cache; they begin with a line of it, so that no load spans two.
    room = np.empty(_N_BANDS * _STRIP_PX + _CACHE_LINE // 8, np.float64)
    strip = room[-room.ctypes.data % _CACHE_LINE // 8 :]
    for y in range(rows[0], rows[1]):
        for first in range(0, width, _STRIP_PX):
            count = min(_STRIP_PX, width - first)
            for b in range(_N_BANDS):
                _widen(bands, (b, y, first), count, strip)
            for k in range(weights.shape[0]):
                _weigh(strip, (starts, weights), (k, y, first), count, out)


@dataclass(frozen=True, eq=False)
class Projection:
    """(bands - mean) on some axes, as ``starts`` (k,) and the ``weights`` (k, 12) of the bands.

    Summed in float64 from -mean @ axis on, band by band: a matrix product would order its sums by the
    shape of the block, and the last bit of a pixel would depend on it. A NaN in any band gives NaN.
    """

    starts: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, mean: NDArray[np.float64], axes: NDArray[np.float64]) -> Projection:
        """Axes (k, 12) with a mean (12,) in common or one each (k, 12)."""
        # Correctly rounded sums: those of a numerical library may differ from machine to machine.
        starts = np.array([0.0 - math.fsum(products) for products in axes * mean])
        # A copy, since numba would compile once more for a read-only table.
        return cls(starts, np.array(axes, np.float64))

    def write(self, bands: NDArray[np.float32], rows: tuple[int, int], out: NDArray[np.float32]) -> None:
        """Write planes (k, y, x) of the 12 bands (12, y, x), from the first of two rows up to the second."""
        _project(bands, self.starts, self.weights, rows, out)


def project(
    bands: NDArray[np.float32], mean: NDArray[np.float64], axes: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(bands - mean) on ``axes`` (k, 12), for the 12 bands (12, y, x); the result is (k, y, x)."""
    out = np.empty((len(axes), *bands.shape[1:]), np.float32)
    Projection.of(mean, axes).write(bands, (0, bands.shape[1]), out)
    return out


def tasselled_cap(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brightness, greenness and wetness (3, y, x) of the 12 bands (12, y, x), by Nedkov's table."""
    return project(bands, np.zeros(len(BANDS)), TASSELLED_CAP)
