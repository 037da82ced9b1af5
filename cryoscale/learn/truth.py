"""Label rasters as truth: read on the 10 m lattice, each pixel in one zone only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from cryoscale.errors import SourceError
from cryoscale.grid import RESOLUTION_M, Window, transformer, window_over_bounds, zone_bounds_deg
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA

Truth = Path | Mapping[int, Path]
"""One label raster for all zones, a folder with one ``<epsg>.tif`` a zone (or ``<year>/<epsg>.tif``, which
goes first), or paths by EPSG code."""


@contextmanager
def open_truth(
    path: Path, whole: Window, *, on_lattice: bool = False
) -> Iterator[Callable[[Window], NDArray[np.uint8]]]:
    """Opens a label raster; gives a reader of windows within ``whole`` to labels (y, x) u1.

    Off the lattice the nearest pixel is taken, or nothing is under ``on_lattice``; 255 where the raster does
    not reach, has no data or is NaN.

    Raises:
        SourceError: if the file cannot be read, has no CRS, lies off the lattice under ``on_lattice``, or,
            on reading, holds a value that is no label.
    """
    try:
        source = rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise SourceError(f"truth {path} ({error})", "a raster of labels", "check the file") from None
    with source:
        if source.crs is None:
            raise SourceError(f"truth {path} without a CRS", "a georeferenced raster", "add its CRS")
        if on_lattice:
            _require_lattice(source, path, whole.epsg)
        whole_numbers = np.issubdtype(np.dtype(source.dtypes[0]), np.integer)
        options = {
            "crs": f"EPSG:{whole.epsg}",
            "transform": whole.geobox.transform,
            "height": whole.height,
            "width": whole.width,
            "resampling": Resampling.nearest,
            # A file without a no-data value has labels only, 0 too: the space around it must not read
            # as background.
            "src_nodata": NO_DATA if source.nodata is None else source.nodata,
            "nodata": NO_DATA,
            # Squeezed into u1, NaN would read as 0, background, and 0.5 too.
            "dtype": "int32" if whole_numbers else "float32",
        }
        with WarpedVRT(source, **options) as warped:

            def read(window: Window) -> NDArray[np.uint8]:
                rows, cols = window.slices_in(whole)
                part = ((rows.start, rows.stop), (cols.start, cols.stop))
                try:
                    values = warped.read(1, window=part)
                except rasterio.errors.RasterioIOError as error:
                    told = f"truth {path} ({error.__cause__ or error})"
                    raise SourceError(told, "a raster of labels that is whole", "check the file") from None
                return _as_labels(values, path)

            yield read


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
        raise SourceError(
            f"truth {path or truth} (absent)", f"a raster of labels for EPSG:{epsg}", "check the path"
        )
    return path


def _require_lattice(source: rasterio.DatasetReader, path: Path, epsg: int) -> None:
    transform = source.transform
    origin = np.array([transform.c, transform.f]) / RESOLUTION_M
    straight = (transform.a, transform.b, transform.d, transform.e) == (RESOLUTION_M, 0.0, 0.0, -RESOLUTION_M)
    if source.crs.to_epsg() != epsg or not straight or not np.allclose(origin, np.round(origin), atol=1e-4):
        raise SourceError(
            f"truth {path} off the grid (EPSG:{source.crs.to_epsg()}, pixels of {abs(transform.a):g} m, "
            f"corner at {transform.c:.10g}, {transform.f:.10g})",
            f"EPSG:{epsg}, north up, pixels of {RESOLUTION_M:g} m with edges at multiples of it",
            "make it so with gdalwarp, or give --resample to take the nearest pixel",
        )


def _as_labels(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Values (y, x) as labels u1; NaN is 255."""
    known = np.asarray(np.where(np.isnan(values), NO_DATA, values))
    strange = known[~np.isin(known, (*range(len(CLASS_NAMES)), NO_DATA))]
    if strange.size:
        raise SourceError(
            f"truth {path} with the value {strange[0]:g}",
            f"labels 0..{len(CLASS_NAMES) - 1}, and 255, the file's no-data value or NaN where not known",
            "map its values to the classes first",
        )
    return known.astype(np.uint8)


def whole_truth(path: Path) -> tuple[Window, NDArray[np.uint8]]:
    """Window and labels (y, x) of a raster that lies on the lattice of a zone."""
    with rasterio.open(path) as source:
        bounds = source.bounds
        epsg = int(source.crs.to_epsg())
    window = window_over_bounds(epsg, tuple(bounds))
    with open_truth(path, window) as read:
        return window, read(window)


def in_zone(window: Window) -> NDArray[np.bool_]:
    """Where a pixel's centre lies between its zone's meridians (y, x)."""
    west_deg, _, east_deg, _ = zone_bounds_deg(window.epsg)
    y, x = window.coordinates()
    degrees = transformer(f"EPSG:{window.epsg}", "EPSG:4326")
    lon, lat = degrees.transform(np.array([x[0], x[-1], x[0], x[-1]]), np.array([y[0], y[0], y[-1], y[-1]]))
    if west_deg <= min(lon) and max(lon) < east_deg:
        return np.ones(window.shape, bool)
    # The easting of a meridian is smooth along the northing: a polyline of it, a node a row, is exact
    # to far below a pixel and costs one point a row instead of one a pixel.
    steps = np.linspace(min(lat) - 0.01, max(lat) + 0.01, window.height + 2)
    metres = transformer("EPSG:4326", f"EPSG:{window.epsg}")
    edges = []
    for meridian in (west_deg, east_deg):
        easting, northing = metres.transform(np.full_like(steps, meridian), steps)
        edges.append(np.interp(y, northing, easting)[:, np.newaxis])
    inside: NDArray[np.bool_] = (edges[0] <= x) & (x < edges[1])
    return inside
