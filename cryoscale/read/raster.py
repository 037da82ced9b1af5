"""Opening and cutting one file, with every failure told apart: gone, broken, or out of reach."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as FileWindow

from cryoscale.errors import AssetReadError, HostDownError, OperatorError
from cryoscale.read import http
from cryoscale.read import remote as remotes
from cryoscale.read.lattice import Lattice
from cryoscale.read.metered import NOTHING, Cost
from cryoscale.read.signing import public, signed_href

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
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": 2**26,
}
"""How GDAL reads: no directory listings, and no wait without a deadline (seconds).

What concerns HTTP holds for object stores by their own schemes; http(s) goes through
:class:`cryoscale.read.remote.RemoteFile`.
"""

MultiByteRangeResourceContainer.register(remotes.Container)

_REMOTE = re.compile(r"^(?:https?|s3|gs|az|abfss?)://|^/vsi(?:curl|s3|gs|az)", re.IGNORECASE)
_OVER_HTTP = re.compile(r"^https?://(?!.*\.vrt(?:\?|$))", re.IGNORECASE)
_LOGINS = ("GDAL_HTTP_COOKIEFILE", "GDAL_HTTP_HEADERS", "GDAL_HTTP_HEADER_FILE", "GDAL_HTTP_USERPWD")
"""Set by people whose hosts want a log-in, such as NASA Earthdata: GDAL's client then keeps the errand."""

_GONE = re.compile(r"HTTP response code:? (?:404|410)|No such file|does not exist", re.IGNORECASE)


_OPENER = re.compile(r"/vsiriopener_\w+/")

_BEYOND_MEASURE = 1e30
"""No quantity is as large: a no-data value above is the end of a type's range, often given rounded."""


class UnreadableError(OperatorError):
    """A file that no repeat makes readable: absent or broken. Named in the result by whoever reads on."""


@dataclass
class FileSource:
    """The first band of an open raster file as a source of floats with NaN for no data.

    No data is what equals one of ``nodata``, and what a mask or alpha band within the file hides.
    """

    dataset: Any
    lattice: Lattice
    nodata: tuple[float, ...]
    href: str
    cost: Cost = NOTHING
    remote: remotes.RemoteFile | None = None
    counted: int = 0
    """Of what was received, in ``cost`` already."""
    scaling: tuple[float, float] = (1.0, 0.0)
    """Scale and offset that the file itself carries."""

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Values of rows x columns, (y, x), float32 where that holds them exactly.

        Raises:
            UnreadableError: if the file is broken.
            AssetReadError: if it is out of reach for now.
        """
        window = FileWindow.from_slices(rows, columns)
        with _told_apart(self.href, self.remote):
            raw = self.dataset.read(1, window=window)
            hidden = None
            # asked for after a read, which has looked at all directories of the file anyway
            if MaskFlags.per_dataset in self.dataset.mask_flag_enums[0]:
                hidden = self.dataset.read_masks(1, window=window) == 0
        received = 0 if self.remote is None else self.remote.received_bytes
        self.cost += self._cost(rows, columns, raw.nbytes) + Cost(received_bytes=received - self.counted)
        self.counted = received
        return _with_nan(raw, self.nodata, hidden)

    def _cost(self, rows: slice, columns: slice, size: int) -> Cost:
        """Chunks of the band alone: a mask takes some bytes more, where there is one."""
        height, width = self.dataset.block_shapes[0]
        down = range(rows.start // height, (rows.stop - 1) // height + 1)
        across = range(columns.start // width, (columns.stop - 1) // width + 1)
        stored = sum(self.stored_bytes(row, column) for row in down for column in across)
        return Cost(size, len(down) * len(across), stored)

    def stored_bytes(self, row: int, column: int) -> int:
        """Bytes of one chunk as it is stored: 0 of one that was left out, decoded ones where not told."""
        told = self.dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
        if told is not None or self.dataset.driver == "GTiff":
            return int(told or 0)
        height, width = self.dataset.block_shapes[0]
        return int(height * width * np.dtype(self.dataset.dtypes[0]).itemsize)


def _with_nan(
    raw: NDArray[Any], nodata: tuple[float, ...], hidden: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    if raw.dtype.kind == "c":
        values: NDArray[Any] = raw.astype(np.complex64, copy=False)
        nothing: Any = np.complex64(complex(np.nan, np.nan))
    else:
        exact = raw.dtype.itemsize <= 2 or raw.dtype == np.float32
        values = raw.astype(np.float32 if exact else np.float64, copy=False)
        nothing = values.dtype.type(np.nan)
    for value in nodata:
        missing = _equal(values, value)
        hidden = missing if hidden is None else hidden | missing
    return values if hidden is None else np.where(hidden, nothing, values)


def _equal(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where values are ``nodata``, compared as the file stores them: -3.4e38 there is not the double's."""
    if values.dtype.kind == "c" or abs(nodata) < _BEYOND_MEASURE:
        same: NDArray[np.bool_] = values == values.dtype.type(nodata)
        return same
    ends = np.finfo(values.dtype)
    limit = values.dtype.type(np.clip(nodata, ends.min, ends.max) * (1.0 - 1e-5))
    beyond: NDArray[np.bool_] = values <= limit if nodata < 0 else values >= limit
    return beyond


@contextmanager
def open_raster(
    href: str, nodata: float | None = None, sign: str | None = None, *, coarse_m: float | None = None
) -> Iterator[FileSource]:
    """Opens a raster file or URL; no data is both ``nodata`` and what the file's own tag says.

    With ``coarse_m`` it is the coarsest of its overviews whose pixels are no larger, if it has one.

    Over http(s) it is signed now, signed again where the host no longer takes the signature, and failures
    that pass are met with :func:`cryoscale.read.http.assets`.

    Raises:
        UnreadableError: if the file is absent, broken or says not where it lies.
        AssetReadError: if it is out of reach for now.
    """
    with rasterio.Env(**GDAL_OPTIONS):
        ours = _OVER_HTTP.match(href) and not any(name in os.environ for name in _LOGINS)
        remote = _remote(href, sign) if ours else None
        with _told_apart(href, remote):
            dataset = _opened(href, sign, remote)
            # of an overview GDAL knows none
            scaling = float(dataset.scales[0]), float(dataset.offsets[0])
            level = None if coarse_m is None else _level(dataset, coarse_m)
            if level is not None:
                dataset.close()
                dataset = _opened(href, sign, remote, overview_level=level)
        with dataset:
            if dataset.crs is None or dataset.transform.is_identity:
                raise UnreadableError(f"{public(href)} carries no georeference")
            told = {float(v) for v in (nodata, dataset.nodata) if v is not None and not np.isnan(v)}
            nothing = tuple(sorted(told))
            yield FileSource(dataset, _lattice(dataset), nothing, href, remote=remote, scaling=scaling)


def _opened(href: str, sign: str | None, remote: remotes.RemoteFile | None, **options: int) -> Any:
    if remote is None:
        return rasterio.open(signed_href(href, sign), **options)
    return rasterio.open(_name(href), opener=remotes.Container(remote), **options)


_METRES_A_DEGREE = 111_320.0


def _level(dataset: Any, coarse_m: float) -> int | None:
    """Number of the coarsest overview with pixels of at most ``coarse_m``; None for the file itself."""
    own_m = abs(dataset.transform.e) * (
        _METRES_A_DEGREE if dataset.crs and dataset.crs.is_geographic else 1.0
    )
    fitting = [n for n, factor in enumerate(dataset.overviews(1)) if own_m * factor <= coarse_m * 1.01]
    return max(fitting, default=None)


def _remote(href: str, sign: str | None) -> remotes.RemoteFile:
    patience = http.assets()

    def signed(refused: str | None) -> str:
        return signed_href(href, sign, refused=refused, insists=patience.insists)

    try:
        return remotes.RemoteFile(href, signed, patience)
    except http.HttpError as error:
        raise of_http(href, error) from error


def of_http(href: str, error: http.HttpError) -> Exception:
    """A failed request for a part of ``href`` as whoever reads is to meet it; names it without its token."""
    kind: type[Exception] = HostDownError if error.unasked else AssetReadError
    if error.status in (404, 410, 416):
        kind = UnreadableError
    return kind(f"{public(href)}: {error}")


def _name(href: str) -> str:
    """The file's own name, which tells GDAL its kind and carries no token."""
    return public(href).rstrip("/").rsplit("/", 1)[-1] or "asset"


def _lattice(dataset: Any) -> Lattice:
    epsg = dataset.crs.to_epsg()
    crs = f"EPSG:{epsg}" if epsg else dataset.crs.to_wkt()
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    return Lattice(crs, (a, b, c, d, e, f), dataset.height, dataset.width)


@contextmanager
def _told_apart(href: str, remote: remotes.RemoteFile | None = None) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        cause = _cause(error)
        # GDAL's own errors do not come back from a pickle, so that a scheduler would be told of a nameless
        # Exception in the place of ours, and would try again what is hopeless
        error.__cause__ = error.__context__ = None
        if remote is not None:
            remote.forget()
            if remote.error is not None:
                raise of_http(href, remote.error) from error
        if remote is None and _REMOTE.match(href) and not _GONE.search(cause):
            raise AssetReadError(f"{public(href)}: {cause}") from error
        raise UnreadableError(f"{public(href)}: {cause}") from error
    if remote is not None and remote.error is not None:
        remote.forget()  # GDAL saw zeros and was content with them
        raise of_http(href, remote.error) from remote.error


def _cause(error: BaseException) -> str:
    """What is behind an error, in one line: rasterio's own text for a failed read only points there."""
    while error.__cause__ is not None and "previous exception" in str(error):
        error = error.__cause__
    # the folder that rasterio makes up for an opener is another one each time: equal causes would differ
    return _OPENER.sub("", " ".join(str(error).split())) or type(error).__name__
