"""A run's mosaic beside its truth, part by part: what every figure of an evaluation is counted from.

Parts are squares of 1024 pixels with a rim, so that memory does not grow with the region. A pixel
counts in the UTM zone that its centre lies in, and so once, although mosaics reach over their zone's border.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.errors import GroupNotFoundError

from cryoscale.errors import SourceError
from cryoscale.grid import Window, window_of
from cryoscale.learn.scores import NO_DATA
from cryoscale.learn.truth import in_zone, open_truth
from cryoscale.write.mosaic import store_url_of
from cryoscale.write.store import open_store

PART_PX = 1024
"""Edge of a part."""

Truth = Path | Mapping[int, Path]
"""One label raster for all zones, a folder with one ``<epsg>.tif`` a zone (or ``<year>/<epsg>.tif``, which
goes first), or paths by EPSG code."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of one year and zone.

    Attributes:
        year: the year mapped.
        window: the part's own pixels.
        outer: the same with a rim; ``truth`` and ``label`` (y, x) lie on it, 255 = not known.
        own: which pixels of ``window`` count here (y, x): known to both sides and of this zone.
    """

    year: int
    window: Window
    outer: Window
    truth: NDArray[np.uint8]
    label: NDArray[np.uint8]
    own: NDArray[np.bool_]
    mosaic: xr.Dataset

    def inner(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The own pixels of an array on ``outer``; 255 where a pixel does not count."""
        return np.where(self.own, values[self.window.slices_in(self.outer)], np.uint8(NO_DATA))

    def probability(self) -> NDArray[np.uint8] | None:
        """Stored probabilities (k, y, x) 0-250 of the own pixels, or None where the mosaic has none."""
        if "probability" not in self.mosaic:
            return None
        rows, cols = self.window.slices_in(window_of(self.mosaic, self.window.epsg))
        return np.asarray(self.mosaic["probability"][:, rows, cols].values)


def groups(out: str | Path, years: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Year and EPSG code of each map of a run, ascending.

    Raises:
        SourceError: there is none, or none of the years.
    """
    found = []
    try:
        root = zarr.open_group(
            open_store(store_url_of(out), read_only=True), mode="r", use_consolidated=False
        )
        for year, group in root.groups():
            if year.isdigit():
                found += [(int(year), int(epsg)) for epsg in group.group_keys() if epsg.isdigit()]
    except (FileNotFoundError, GroupNotFoundError):
        pass
    wanted = sorted(group for group in found if years is None or group[0] in years)
    if not wanted:
        have = ", ".join(sorted({str(year) for year, _ in found})) or "none"
        raise SourceError(
            f"run {out} with mosaics of the years {have}",
            f"mosaics of {'any year' if years is None else ', '.join(map(str, years))}",
            "give the output folder of a finished run",
        )
    return wanted


def open_raw(out: str | Path, year: int, epsg: int) -> xr.Dataset:
    """The map of a year and zone as it lies in the store, bytes undecoded; local or remote."""
    opened: xr.Dataset = xr.open_zarr(
        open_store(store_url_of(out), read_only=True),
        group=f"{year}/{epsg}",
        consolidated=False,
        mask_and_scale=False,
        chunks=None,
    )
    return opened


def truth_of(truth: Truth, epsg: int, year: int) -> Path:
    """The label raster of a zone, and of a year where a folder has one of that name.

    Raises:
        SourceError: there is none.
    """
    if isinstance(truth, Mapping):
        path = truth.get(epsg)
    elif truth.is_dir():
        of_year = truth / str(year) / f"{epsg}.tif"
        path = of_year if of_year.is_file() else truth / f"{epsg}.tif"
    else:
        path = truth
    if path is None or not path.is_file():
        raise SourceError(f"truth {path or truth}", f"a raster of labels for EPSG:{epsg}", "check the path")
    return path


def parts_of(out: str | Path, year: int, epsg: int, truth: Path, rim_px: int = 0) -> Iterator[Part]:
    """The parts of a year and zone in which truth and map have a pixel in common.

    Raises:
        SourceError: the truth cannot be read, or holds what is no label.
    """
    with open_raw(out, year, epsg) as mosaic:
        whole = window_of(mosaic, epsg)
        with open_truth(truth, whole.pad(rim_px)) as read:
            for row, col in product(range(0, whole.height, PART_PX), range(0, whole.width, PART_PX)):
                window = Window(
                    epsg,
                    whole.row + row,
                    whole.col + col,
                    min(PART_PX, whole.height - row),
                    min(PART_PX, whole.width - col),
                )
                outer = window.pad(rim_px)
                known = read(outer)
                label = _label(mosaic, whole, outer)
                inside = window.slices_in(outer)
                own = (known[inside] != NO_DATA) & (label[inside] != NO_DATA) & in_zone(window)
                if own.any():
                    yield Part(year, window, outer, known, label, own, mosaic)


def _label(mosaic: xr.Dataset, whole: Window, outer: Window) -> NDArray[np.uint8]:
    """Labels on a window that may reach over the mosaic; 255 there."""
    label = np.full(outer.shape, NO_DATA, np.uint8)
    common = outer.intersect(whole)
    if common is not None:
        rows, cols = common.slices_in(whole)
        label[common.slices_in(outer)] = mosaic["label"][rows, cols].values
    return label
