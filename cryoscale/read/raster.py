"""Opening and cutting one file, with every failure told apart: gone, broken, or out of reach."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as FileWindow

from cryoscale.errors import AssetReadError, OperatorError
from cryoscale.read.sample import Lattice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_TIMEOUT": 120,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_NUM_THREADS": 1,
}
"""How GDAL reads: no directory listings, and no wait without a deadline (seconds)."""

_REMOTE = re.compile(r"^(?:https?|s3|gs|az|abfss?)://|^/vsi(?:curl|s3|gs|az)", re.IGNORECASE)
_GONE = re.compile(r"HTTP response code:? (?:404|410)|No such file|does not exist", re.IGNORECASE)


class UnreadableError(OperatorError):
    """A file that no repeat makes readable: absent or broken. Named in the result by whoever reads on."""


@dataclass
class FileSource:
    """The first band of an open raster file as a source of floats with NaN for no data."""

    dataset: Any
    lattice: Lattice
    nodata: float | None
    href: str
    bytes_read: int = 0

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Values of rows x columns, (y, x), float32 where that holds them exactly.

        Raises:
            UnreadableError: if the file is broken.
            AssetReadError: if it is out of reach for now.
        """
        window = FileWindow.from_slices(rows, columns)
        with _told_apart(self.href):
            raw = self.dataset.read(1, window=window)
        self.bytes_read += raw.nbytes
        return _with_nan(raw, self.nodata)


def _with_nan(raw: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    if raw.dtype.kind == "c":
        values = raw.astype(np.complex64, copy=False)
        missing = np.zeros(raw.shape, bool) if nodata is None or np.isnan(nodata) else raw == nodata
        return np.where(missing, np.complex64(complex(np.nan, np.nan)), values) if missing.any() else values
    exact = raw.dtype.itemsize <= 2 or raw.dtype == np.float32
    values = raw.astype(np.float32 if exact else np.float64, copy=False)
    if nodata is None or np.isnan(nodata):
        return values
    # compared as the file stores it: -3.4e38 in a float32 file is not the double of that name
    return np.where(values == values.dtype.type(nodata), values.dtype.type(np.nan), values)


@contextmanager
def open_raster(href: str, nodata: float | None = None) -> Iterator[FileSource]:
    """Opens a raster file or URL, already signed; ``nodata`` wins over the file's own tag.

    Raises:
        UnreadableError: if the file is absent, broken or says not where it lies.
        AssetReadError: if it is out of reach for now.
    """
    with rasterio.Env(**GDAL_OPTIONS):
        with _told_apart(href):
            dataset = rasterio.open(href)
        with dataset:
            if dataset.crs is None or dataset.transform.is_identity:
                raise UnreadableError(f"{href} carries no georeference")
            given = dataset.nodata if nodata is None else nodata
            yield FileSource(dataset, _lattice(dataset), given, href)


def _lattice(dataset: Any) -> Lattice:
    epsg = dataset.crs.to_epsg()
    crs = f"EPSG:{epsg}" if epsg else dataset.crs.to_wkt()
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    return Lattice(crs, (a, b, c, d, e, f), dataset.height, dataset.width)


@contextmanager
def _told_apart(href: str) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        if _REMOTE.match(href) and not _GONE.search(cause):
            raise AssetReadError(f"{_public(href)}: {cause}") from error
        raise UnreadableError(f"{_public(href)}: {cause}") from error


def _public(href: str) -> str:
    """The address without its query, which may hold a token."""
    return href.split("?", 1)[0]
