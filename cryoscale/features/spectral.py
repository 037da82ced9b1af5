"""Per-pixel spectral channels: normalised differences, and projections of the 12 bands on a few axes."""

from __future__ import annotations

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
def _project(
    bands: NDArray[np.float32],
    mean: NDArray[np.float64],
    axes: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    count, height, width = bands.shape
    row = np.empty((axes.shape[0], width), np.float64)
    for y in range(height):
        row[:] = 0.0
        for b in range(count):
            for k in range(axes.shape[0]):
                weight, centre = axes[k, b], mean[b]
                for x in range(width):
                    row[k, x] += (bands[b, y, x] - centre) * weight
        for k in range(axes.shape[0]):
            for x in range(width):
                out[k, y, x] = np.float32(row[k, x])


def project(
    bands: NDArray[np.float32],
    mean: NDArray[np.float64],
    axes: NDArray[np.float64],
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """(bands - mean) on ``axes`` (k, b), for bands (b, y, x); the result is (k, y, x).

    Summed in float64, band by band, row by row: a matrix product would order its sums by the shape
    of the block, and the last bit of a pixel would depend on it. A NaN in any band gives NaN.
    """
    result = np.empty((len(axes), *bands.shape[1:]), np.float32) if out is None else out
    # Copies, since numba would compile once more for a read-only table.
    _project(bands, np.array(mean, np.float64), np.array(axes, np.float64), result)
    return result


def tasselled_cap(
    bands: NDArray[np.float32], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Brightness, greenness and wetness (3, y, x) of the 12 bands (b, y, x), by Nedkov's table."""
    return project(bands, np.zeros(len(BANDS)), TASSELLED_CAP, out=out)
