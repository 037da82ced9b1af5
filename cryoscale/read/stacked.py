"""The lazy cube through stackstac instead of odc-stac: the same reader, hence the same values.

stackstac's own reader leaves the resampling to GDAL's warper, whose values depend on the region asked for,
so that a part differs from the part of the whole (see :mod:`cryoscale.read.sample`). Only its graph is used:
which scene and band lies where, in chunks of one scene and band. Each scene keeps a plane of its own, so the
order in which stackstac mosaics does not come into it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cryoscale.errors import ConfigError
from cryoscale.grid import transformer
from cryoscale.read.assets import Encoding
from cryoscale.read.band import WIDE_DEG, AssetSpec, asset_spec, footprint_deg, when
from cryoscale.read.odcgraph import SpecReader, Tally, is_complex
from cryoscale.read.sample import crs_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from pystac import Item
    from rasterio.windows import Window as FileWindow


def stack_scenes(
    scenes: Sequence[Item],
    *,
    geobox: GeoBox,
    bands: Sequence[str],
    chunks: tuple[int, int],
    sign: str | None = None,
    tally: Tally | None = None,
) -> xr.Dataset:
    """Scenes in the given order as a lazy dataset of dims (time, y, x), a variable a band, in chunks (y, x).

    Values, no-data and errors are those of :func:`cryoscale.read.cube.open_cube`.

    Raises:
        ConfigError: if stackstac is not installed.
        ValueError: if the grid's CRS has no EPSG code, which is all that stackstac takes.
    """
    from odc.geo.xr import xr_coords

    found: dict[str, xr.DataArray] = {}
    for dtype in (np.float32, np.complex64):
        names = [band for band in bands if is_complex(band) == (dtype is np.complex64)]
        if not names:
            continue
        reader = partial(StackReader, geobox=geobox, tally=tally)
        stand_ins = [_stand_in(item, number, names, geobox, sign) for number, item in enumerate(scenes)]
        values = _stack(stand_ins, geobox, names, chunks, dtype, reader)
        if values.shape[2:] != tuple(geobox.shape):
            raise ValueError(f"stackstac made a grid of {values.shape[2:]}, not of {tuple(geobox.shape)}")
        for number, band in enumerate(names):
            plane = xr.DataArray(values[:, number], dims=("time", "y", "x"), attrs={"nodata": np.nan})
            plane.encoding["grid_mapping"] = "spatial_ref"
            found[band] = plane
    return xr.Dataset({band: found[band] for band in bands}).assign_coords(xr_coords(geobox))


def _stack(
    stand_ins: list[dict[str, Any]],
    geobox: GeoBox,
    bands: Sequence[str],
    chunks: tuple[int, int],
    dtype: type[np.float32] | type[np.complex64],
    reader: partial[StackReader],
) -> Any:
    """The dask array (time, band, y, x)."""
    try:
        import stackstac
    except ModuleNotFoundError as error:
        raise ConfigError(
            "loader: stackstac without stackstac installed",
            "the extra cryoscale[stackstac]",
            "pip install 'cryoscale[stackstac]', or leave loader at odc-stac",
        ) from error
    bounds = geobox.extent.boundingbox
    stacked = stackstac.stack(
        stand_ins,
        assets=list(bands),
        epsg=_epsg(geobox),
        resolution=(abs(geobox.affine.a), abs(geobox.affine.e)),
        bounds=(bounds.left, bounds.bottom, bounds.right, bounds.top),
        snap_bounds=False,
        chunksize=chunks,
        dtype=np.dtype(dtype),
        fill_value=dtype(np.nan),
        rescale=False,
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=reader,
    )
    return stacked.data


def _stand_in(
    item: Item, number: int, bands: Sequence[str], geobox: GeoBox, sign: str | None
) -> dict[str, Any]:
    """The item as stackstac shall see it: our band names, all that reading needs in place of an address.

    stackstac drops items and bands of which nothing lies on the grid, and the planes would then belong to
    other scenes. So each has every band, on the grid; an empty address makes it no data.
    """
    box = geobox.extent.boundingbox
    whole = [box.left, box.bottom, box.right, box.top]
    bounds = _bounds_on(geobox, footprint_deg(item)) or whole
    apart = bounds[2] <= box.left or bounds[0] >= box.right or bounds[3] <= box.bottom or bounds[1] >= box.top
    specs = {band: None if apart else asset_spec(item, band, sign) for band in bands}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"{number:06d}",
        "bbox": list(footprint_deg(item)),
        "geometry": None,
        "links": [],
        "properties": {
            "datetime": when(item).isoformat(),
            "proj:epsg": _epsg(geobox),
            "proj:bbox": whole if apart else bounds,
        },
        "assets": {
            band: {"href": "" if spec is None else json.dumps(asdict(spec))} for band, spec in specs.items()
        },
    }


def _bounds_on(geobox: GeoBox, footprint: tuple[float, float, float, float]) -> list[float] | None:
    """A footprint in the coordinates of the grid; None where projecting it cannot be trusted."""
    if footprint[2] - footprint[0] > WIDE_DEG:
        return None
    projected = transformer("EPSG:4326", crs_name(geobox)).transform_bounds(*footprint)
    return [float(side) for side in projected] if np.isfinite(projected).all() else None


def _epsg(geobox: GeoBox) -> int:
    name = crs_name(geobox)
    if not name.startswith("EPSG:"):
        raise ValueError("stackstac needs a grid whose CRS has an EPSG code")
    return int(name.removeprefix("EPSG:"))


class StackReader:
    """The reader that stackstac makes for each asset; it holds no file, so it may cross processes."""

    def __init__(
        self, *, url: str, geobox: GeoBox, dtype: Any, fill_value: Any, tally: Tally | None = None, **_: Any
    ) -> None:
        document = json.loads(url)
        self.spec = AssetSpec(**{**document, "encoding": Encoding(**document["encoding"])})
        self.geobox, self.dtype, self.fill_value, self.tally = geobox, dtype, fill_value, tally

    def read(self, window: FileWindow, **_: Any) -> NDArray[Any]:
        """Values (y, x) of a window of the grid."""
        (top, bottom), (left, right) = window.toranges()
        part = self.geobox[top:bottom, left:right]
        place, values = SpecReader(self.spec, self.tally).read(self, part)
        out: NDArray[Any] = np.full(part.shape, self.fill_value, self.dtype)
        out[place] = values
        return out

    def close(self) -> None:
        """Nothing is open between reads."""
