"""Surface velocity from a Zarr store of the ITS_LIVE kind: vx and vy on a map grid, perhaps by year."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from zarr.storage import FsspecStore, LocalStore

from cryoscale.errors import AssetReadError, CryoscaleError, ExtraError, SourceError
from cryoscale.read.http import HttpError
from cryoscale.read.lattice import ArraySource, Lattice
from cryoscale.read.metered import Cost, chunks_under
from cryoscale.read.raster import UnreadableError, of_http
from cryoscale.read.sample import fetch, resample
from cryoscale.read.signing import public
from cryoscale.read.units import metres_per_year
from cryoscale.read.zarrstore import CountedStore, HttpStore

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

NODATA = -32767
"""Value of no data in ITS_LIVE mosaics (https://its-live.jpl.nasa.gov)."""

_UNEVEN_PX = 0.01
"""How far a coordinate may lie from where even spacing has it."""

_OVER_HTTP = re.compile(r"https?://")

_PARTS = ("vx", "vy")
_MAPPINGS = ("mapping", "spatial_ref", "crs", "Polar_Stereographic", "UTM_Projection")


@dataclass(frozen=True)
class _Component:
    """One variable of the store, cut as a raster in m/yr."""

    lattice: Lattice
    values: xr.DataArray
    factor: float

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Values (y, x), NaN for no data."""
        part = np.asarray(self.values[rows, columns].values, np.float64)
        return np.where(part == NODATA, np.nan, part * self.factor)


def read_velocity(
    href: str, geobox: GeoBox, *, year: int | None = None, sign: str | None = None
) -> tuple[NDArray[np.float32] | None, Cost]:
    """Magnitude of (vx, vy) in m/yr on ``geobox``, (y, x) float32, and what reading took.

    None where the store lies beside the grid.

    The magnitude is taken at the store's own resolution and then brought over bilinearly. Of a store
    with several years the nearest to ``year`` is read, the last one without it.

    Raises:
        SourceError: if the store is absent, lacks vx, vy, x, y or its CRS, or has uneven coordinates or units
            that are none of velocity.
        UnreadableError: if what it holds is broken.
        AssetReadError: if it cannot be read now.
    """
    given: dict[str, int] = {}
    with open_velocity(href, sign, given=given) as store, _told_apart(href):
        lattice = _lattice(store, href)
        parts = [
            fetch(_Component(lattice, _of_year(store[name], year), _per_year(store[name], href)), geobox)
            for name in _PARTS
        ]
        if parts[0] is None or parts[1] is None:
            return None, Cost()
        own = parts[0].lattice
        rows, columns = slice(own.row, own.row + own.height), slice(own.column, own.column + own.width)
        fetches = sum(chunks_under(rows, columns, chunk_px(store[name])) for name in _PARTS)
    speed = np.hypot(parts[0].values, parts[1].values)
    stored = sum(given.get(name, 0) for name in _PARTS)
    cost = Cost(
        sum(store[name].dtype.itemsize * speed.size for name in _PARTS),
        fetches,
        stored,
        stored if _OVER_HTTP.match(href) else 0,
    )
    return resample(ArraySource(own, speed), geobox, "bilinear"), cost


@contextmanager
def _told_apart(href: str) -> Iterator[None]:
    """What goes wrong in reading a store, out of reach or broken; the address without its token."""
    try:
        yield
    except HttpError as error:
        raise of_http(href, error) from error
    except CryoscaleError:
        raise
    except OSError as error:
        raise AssetReadError(f"{public(href)}: {error}") from error
    except (RuntimeError, ValueError, TypeError) as error:  # codecs raise what they like over broken chunks
        raise UnreadableError(f"{public(href)}: {' '.join(str(error).split())}") from error


def open_velocity(href: str, sign: str | None = None, *, given: dict[str, int] | None = None) -> xr.Dataset:
    """The store at ``href``, opened lazily; over http(s) with the patience and the signing of rasters.

    Raises:
        SourceError: it cannot be opened as a Zarr, or its units are none of velocity.
        ExtraError: the library for that kind of store is not installed.
        AssetReadError: it is out of reach for now.
    """
    try:
        if _OVER_HTTP.match(href):
            place: Any = HttpStore(href, sign)
        else:
            place = (FsspecStore.from_url if "://" in href else LocalStore)(href, read_only=True)
        place = CountedStore(place, given)
        store: xr.Dataset = xr.open_zarr(place, chunks=None, decode_coords=False, mask_and_scale=True)
    except HttpError as error:
        raise of_http(href, error) from error
    except ImportError as error:
        raise ExtraError(
            f"velocity store {public(href)}", "the library that opens such addresses", str(error)
        ) from error
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise SourceError(
            f"velocity store {public(href)}",
            "a Zarr store with vx, vy, x and y",
            "check sources.velocity.href",
        ) from error
    except OSError as error:
        raise AssetReadError(f"{public(href)}: {error}") from error
    missing = [name for name in ("vx", "vy", "x", "y") if name not in store.variables]
    if missing:
        raise SourceError(
            f"velocity store {public(href)} without {', '.join(missing)}",
            "variables vx, vy, x and y",
            "give an ITS_LIVE mosaic",
        )
    for name in _PARTS:
        _per_year(store[name], href)
    return store


def _lattice(store: xr.Dataset, href: str) -> Lattice:
    x, y = np.asarray(store["x"].values, float), np.asarray(store["y"].values, float)
    for name, places in (("x", x), ("y", y)):
        even = np.linspace(places[0], places[-1], places.size) if places.size > 1 else places
        spacing = abs(even[1] - even[0]) if places.size > 1 else 0.0
        kept = np.abs(store[name].values).max()  # perhaps in float32, whose rounding is no unevenness
        rounding = float(np.spacing(kept)) if kept.dtype.kind == "f" else 0.0
        if not spacing > 0.0 or not (np.abs(places - even) <= max(_UNEVEN_PX * spacing, rounding)).all():
            raise SourceError(
                f"velocity store {public(href)}, whose {name} is not evenly spaced",
                "pixels on a map grid",
                "resample it to one",
            )
    a, e = (x[-1] - x[0]) / (x.size - 1), (y[-1] - y[0]) / (y.size - 1)
    return Lattice(_crs(store, href), (a, 0.0, x[0] - a / 2, 0.0, e, y[0] - e / 2), y.size, x.size)


def _per_year(values: xr.DataArray, href: str) -> float:
    """What a component is multiplied by to be m/yr, by its attribute ``units``; 1 where it has none."""
    units = str(values.attrs.get("units") or "")
    factor = metres_per_year(units)
    if factor is None:
        raise SourceError(
            f"velocity store {public(href)}, whose {values.name} has the units {units!r}",
            "a length per time, such as meter/year or m/day",
            "correct its units",
        )
    return factor


def _crs(store: xr.Dataset, href: str) -> str:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    names = [store["vx"].attrs.get("grid_mapping"), *_MAPPINGS]
    places = [store[name].attrs for name in names if name in store.variables] + [store.attrs]
    for attrs in places:
        for key in ("spatial_epsg", "epsg", "proj:epsg", "proj:code", "crs_wkt", "spatial_ref", "proj4text"):
            value = attrs.get(key)
            if value in (None, ""):
                continue
            try:
                crs = CRS.from_user_input(int(value) if str(value).isdigit() else value)
            except CRSError:
                continue
            epsg = crs.to_epsg()
            return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())
    raise SourceError(
        f"velocity store {public(href)} without a CRS",
        "a variable 'mapping' or 'spatial_ref' with spatial_epsg or crs_wkt",
        "add it to the store",
    )


def layout(href: str, sign: str | None = None) -> tuple[Lattice, tuple[int, int], int]:
    """Where a store's pixels lie, rows and columns of its chunks, and bytes of a decoded pixel.

    Raises:
        SourceError: the store is absent or lacks vx, vy, x, y or its CRS.
        AssetReadError: it is out of reach for now.
    """
    with open_velocity(href, sign) as store, _told_apart(href):
        return _lattice(store, href), chunk_px(store["vx"]), store["vx"].dtype.itemsize


def chunk_px(values: xr.DataArray) -> tuple[int, int]:
    """Rows and columns of the chunks in which a variable is fetched."""
    edges: dict[Any, int] = values.encoding.get("preferred_chunks") or dict(values.sizes)
    return edges["y"], edges["x"]


def _of_year(values: xr.DataArray, year: int | None) -> xr.DataArray:
    extra = [dim for dim in values.dims if dim not in ("y", "x")]
    for dim in extra:
        index = values.sizes[dim] - 1
        if year is not None and dim in values.coords:
            given = values[dim].values
            years = given.astype("datetime64[Y]").astype(int) + 1970 if given.dtype.kind == "M" else given
            index = int(np.argmin(np.abs(years.astype(float) - year)))
        values = values.isel({dim: index})
    return values.transpose("y", "x")
