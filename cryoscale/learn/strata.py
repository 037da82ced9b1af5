"""Scores by what the ground is like: thickness of the debris, slope, shadow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from cryoscale.errors import SourceError
from cryoscale.grid import Window
from cryoscale.learn.scan import Part
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA, Scores, confusion_matrix

Layers = Callable[[int, Window], Mapping[str, NDArray[np.float32]]]
"""Values (y, x) by stratum of a year and window, NaN where not known."""

DEBRIS = 2


@dataclass(frozen=True)
class Stratum:
    """A property of the ground that pixels are sorted by.

    Attributes:
        name: also that of its raster.
        title: for people.
        unit: of its values; "" where the classes have names of their own.
        edges: of its classes, ascending: low <= value < high.
        labels: names of the classes.
        only: the true class that it tells of, None for all.
    """

    name: str
    title: str
    unit: str
    edges: tuple[float, ...]
    labels: tuple[str, ...]
    only: int | None = None


STRATA: tuple[Stratum, ...] = (
    Stratum(
        "debris_thickness_m",
        "thickness of the debris",
        "m",
        (0.0, 0.05, 0.2, 0.5, 1.0, math.inf),
        ("below 0.05", "0.05 to 0.2", "0.2 to 0.5", "0.5 to 1", "1 and more"),
        DEBRIS,
    ),
    Stratum(
        "slope_deg",
        "slope",
        "degree",
        (0.0, 10.0, 20.0, 30.0, 40.0, 90.1),
        ("below 10", "10 to 20", "20 to 30", "30 to 40", "40 and more"),
    ),
    # masks of 0 and 255 are as common as those of 0 and 1
    Stratum("shadow", "light", "", (0.0, 0.5, math.inf), ("sunlit", "in shadow")),
)
"""What is known to tell easy ground from hard; debris is counted where truth has debris."""


class StrataScores:
    """Confusion of each class of each stratum, part by part."""

    def __init__(self) -> None:
        k = len(CLASS_NAMES)
        self._confusion = {s.name: np.zeros((len(s.labels), k, k), np.int64) for s in STRATA}

    def add(self, part: Part, layers: Mapping[str, NDArray[np.float32]]) -> None:
        """Count the part's own pixels where a layer (y, x) of its window is known."""
        truth, label = part.inner(part.truth), part.inner(part.label)
        for stratum in STRATA:
            if stratum.name not in layers:
                continue
            values = layers[stratum.name]
            known = np.isfinite(values)
            if stratum.only is not None:
                known &= truth == stratum.only
            index = np.searchsorted(stratum.edges, np.where(known, values, -1.0), side="right") - 1
            for number in range(len(stratum.labels)):
                here = np.where(known & (index == number), truth, np.uint8(NO_DATA))
                self._confusion[stratum.name][number] += confusion_matrix(here, label, len(CLASS_NAMES))

    def scores(self) -> dict[str, dict[str, Scores]]:
        """By stratum and class; strata and classes of which no pixel is known are left out."""
        found = {
            stratum.name: {
                label: Scores(confusion)
                for label, confusion in zip(stratum.labels, self._confusion[stratum.name], strict=True)
                if confusion.any()
            }
            for stratum in STRATA
        }
        return {name: classes for name, classes in found.items() if classes}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            name: {
                label: {**scores.to_dict(), "recall_as_any_ice": ice_recall(scores)}
                for label, scores in classes.items()
            }
            for name, classes in self.scores().items()
        }


def ice_recall(scores: Scores) -> float | None:
    """Share of the true ice, clean or debris-covered, that was mapped as either; None where there is none."""
    ice = scores.confusion[1:3]
    return float(ice[:, 1:3].sum() / ice.sum()) if ice.sum() else None


def open_strata(folder: Path, groups: Sequence[tuple[int, int]]) -> Layers:
    """The strata of a folder of rasters, for maps of the given years and zones (EPSG codes).

    A raster is named ``<epsg>_<stratum>.tif``, or ``<stratum>.tif`` where it holds all zones; one in a
    folder ``<year>`` goes first.

    Raises:
        SourceError: there is no such raster for any of the maps; or, when asked for a window, one cannot be
            read or holds a value that is in no class.
    """
    paths = {(year, epsg): _strata_paths(folder, year, epsg) for year, epsg in groups}
    if not any(paths.values()):
        names = ", ".join(f"{s.name}.tif" for s in STRATA)
        epsgs = ", ".join(str(epsg) for epsg in sorted({epsg for _, epsg in groups}))
        raise SourceError(
            f"strata {folder} without a raster for EPSG:{epsgs}",
            f"{names}, each with <epsg>_ before it or for all zones",
            "check the folder",
        )

    def layers(year: int, window: Window) -> dict[str, NDArray[np.float32]]:
        found = {name: read_stratum(path, window) for name, path in paths[year, window.epsg].items()}
        for stratum in STRATA:
            if stratum.name in found:
                _refuse_outside(stratum, found[stratum.name], paths[year, window.epsg][stratum.name])
        return found

    return layers


def _refuse_outside(stratum: Stratum, values: NDArray[np.float32], path: Path) -> None:
    low, high = stratum.edges[0], stratum.edges[-1]
    outside = values[np.isfinite(values) & ~((values >= low) & (values < high))]
    if outside.size:
        upwards = f"from {low:g} on" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise SourceError(
            f"stratum {path} with a value of {outside[0]:g}",
            f"{stratum.title} {upwards}{f' {stratum.unit}' if stratum.unit else ''}, or declared no data",
            f"correct it, or declare it with gdal_edit.py -a_nodata {outside[0]:g}",
        )


def _strata_paths(folder: Path, year: int, epsg: int) -> dict[str, Path]:
    found = {}
    for name in (stratum.name for stratum in STRATA):
        places = [
            home / f"{prefix}{name}.tif"
            for home in (folder / str(year), folder)
            for prefix in (f"{epsg}_", "")
        ]
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            found[name] = path
    return found


def read_stratum(path: Path, window: Window) -> NDArray[np.float32]:
    """Values (y, x) of a raster on a window, of the nearest pixel; NaN beyond it and where it has no data.

    Raises:
        SourceError: it cannot be read, or has no CRS.
    """
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise SourceError(f"stratum {path} without a CRS", "a georeferenced raster", "add its CRS")
            options = {
                "crs": f"EPSG:{window.epsg}",
                "transform": window.geobox.transform,
                "height": window.height,
                "width": window.width,
                "resampling": Resampling.nearest,
                "src_nodata": source.nodata,
                "nodata": float("nan"),
                "dtype": "float32",
                # without no data to go by, what lies beyond the file is told by its mask, the last band
                "add_alpha": source.nodata is None and ColorInterp.alpha not in source.colorinterp,
            }
            with WarpedVRT(source, **options) as warped:
                values = np.asarray(warped.read(1), np.float32)
                if source.nodata is None:
                    values = np.where(warped.read(warped.count) > 0, values, np.float32(np.nan))
                return values
    except rasterio.errors.RasterioIOError as error:
        raise SourceError(f"stratum {path} ({error})", "a raster", "check the file") from None
