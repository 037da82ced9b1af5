"""Principal components of the 12 bands: a basis that is fitted from a stream and stored as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.errors import InputError
from cryoscale.features.channels import BANDS
from cryoscale.features.inputs import plane
from cryoscale.features.lazy import read

N_COMPONENTS = 3

PCA_SAMPLE_PX = 65_536
"""Clear pixels that a basis is fitted on."""

_CELL_PX = 128
_CELLS_AT_ONCE = 16
_CELLS_AT_MOST = 256


@dataclass(frozen=True, eq=False)
class PcaBasis:
    """The basis of channels PCA1-3: ``mean`` (12,) and ``components`` (3, 12), float64, read-only."""

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name, shape in (("mean", (len(BANDS),)), ("components", (N_COMPONENTS, len(BANDS)))):
            value = np.array(getattr(self, name), np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise InputError(
                    f"a PCA {name} of shape {value.shape}",
                    f"finite numbers of shape {shape}",
                    "take the basis from a weights card or from fit_pca",
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Whether both bases hold the same numbers, bit for bit."""
        if not isinstance(other, PcaBasis):
            return NotImplemented
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.components, other.components)

    def __hash__(self) -> int:
        """A hash of the numbers, so that a basis can be a cache key."""
        return hash((self.mean.tobytes(), self.components.tobytes()))

    def to_dict(self) -> dict[str, list[Any]]:
        """``{"mean": [...], "components": [[...], ...]}``; JSON keeps every bit of it."""
        return {"mean": self.mean.tolist(), "components": self.components.tolist()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PcaBasis:
        """The basis that :meth:`to_dict` wrote.

        Raises:
            InputError: if a key is missing, or a number or shape is not right.
        """
        try:
            mean, components = np.array(value["mean"], float), np.array(value["components"], float)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"a PCA basis that cannot be read ({error})",
                f"a mean of {len(BANDS)} numbers and {N_COMPONENTS} components of {len(BANDS)}",
                "take the basis from a weights card or from fit_pca",
            ) from error
        return cls(mean, components)


@dataclass(frozen=True)
class Moments:
    """Count, mean (b,) and scatter (b, b) of some pixels: what a PCA needs, and what can be merged."""

    n_px: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: NDArray[np.floating[Any]]) -> Moments:
        """The moments of pixels (n, b) in float64; rows that hold a NaN or an infinity do not count."""
        rows = np.asarray(pixels, np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            width = rows.shape[1]
            return cls(0, np.zeros(width), np.zeros((width, width)))
        mean = rows.mean(axis=0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together.

        Source: Chan, Golub, LeVeque (1982), "Updating formulae and a pairwise algorithm for computing
        sample variances", https://doi.org/10.1007/978-3-642-51461-6_3.
        """
        if not self.n_px or not other.n_px:
            return self if self.n_px else other
        n_px = self.n_px + other.n_px
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.n_px / n_px)
        between = np.outer(shift, shift) * (self.n_px * other.n_px / n_px)
        return Moments(n_px, mean, self.scatter + other.scatter + between)

    def basis(self) -> PcaBasis:
        """The principal components, by falling variance, each with its largest loading positive.

        Raises:
            InputError: if there are fewer than two pixels.
        """
        if self.n_px < 2:
            raise InputError(
                f"{self.n_px} clear pixels to fit the principal components on",
                "at least 2 pixels with all 12 bands",
                "widen the region or the season, or give a stored basis",
            )
        _, vectors = np.linalg.eigh(self.scatter)
        components = vectors[:, ::-1][:, :N_COMPONENTS].T
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(components[np.arange(N_COMPONENTS), largest])
        return PcaBasis(self.mean, components * signs[:, None])


def fit_pca(
    batches: Iterable[NDArray[np.floating[Any]]], seed: int = 0, *, batch_px: int | None = None
) -> PcaBasis:
    """The basis of pixels that come as batches (n, 12), in one pass and one batch of memory.

    Args:
        batches: reflectances; rows with a NaN are left out.
        seed: draws the rows when ``batch_px`` is given.
        batch_px: count at most this many clear rows of each batch; None counts all.

    Raises:
        InputError: if fewer than two rows are clear.
    """
    rng = np.random.default_rng(seed)
    moments = Moments.of(np.empty((0, len(BANDS))))
    for batch in batches:
        rows = np.asarray(batch)
        if batch_px is not None:
            rows = rows[np.isfinite(rows).all(axis=1)]
            if len(rows) > batch_px:
                rows = rows[np.sort(rng.choice(len(rows), batch_px, replace=False))]
        moments = moments.merge(Moments.of(rows))
    return moments.basis()


def sample_clear_pixels(
    dataset: xr.Dataset, *, sample_px: int = PCA_SAMPLE_PX, seed: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Batches (n, 12) of pixels with all bands, ``sample_px`` at most, from cells drawn by ``seed``.

    Cells of 128 x 128 pixels are drawn rather than single pixels, since from lazy data each single
    pixel would cost a whole chunk; cells do not follow the chunks, so chunking cannot change the
    sample. At most 256 cells are looked at, however cloudy they are.
    """
    rows = range(0, dataset.sizes["y"], _CELL_PX)
    cols = range(0, dataset.sizes["x"], _CELL_PX)
    cells = list(itertools.product(rows, cols))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cells))[:_CELLS_AT_MOST]
    bands = [plane(dataset, name).data for name in BANDS]
    # A cell gives a share only, so that a small sample still comes from many places.
    share_px = max(1, -(-sample_px // min(len(order) or 1, _CELLS_AT_ONCE)))
    left_px = sample_px
    for start in range(0, len(order), _CELLS_AT_ONCE):
        chosen = [cells[i] for i in order[start : start + _CELLS_AT_ONCE]]
        windows = [(slice(row, row + _CELL_PX), slice(col, col + _CELL_PX)) for row, col in chosen]
        for planes in read([[band[window] for band in bands] for window in windows]):
            pixels = np.stack([np.asarray(plane, np.float32).reshape(-1) for plane in planes], axis=1)
            pixels = pixels[np.isfinite(pixels).all(axis=1)]
            take_px = min(len(pixels), share_px, left_px)
            yield pixels[np.sort(rng.choice(len(pixels), take_px, replace=False))]
            left_px -= take_px
            if not left_px:
                return


def fit_pca_on(dataset: xr.Dataset, *, sample_px: int = PCA_SAMPLE_PX, seed: int = 0) -> PcaBasis:
    """The basis of a seeded sample of the dataset's clear pixels.

    Raises:
        InputError: if a band is absent, or fewer than two pixels of the sample are clear.
    """
    absent = [name for name in BANDS if name not in dataset.data_vars]
    if absent:
        raise InputError(
            f"a dataset without {', '.join(absent)}",
            "all 12 bands",
            "give the missing bands, or a stored PCA basis",
        )
    return fit_pca(sample_clear_pixels(dataset, sample_px=sample_px, seed=seed), seed)
