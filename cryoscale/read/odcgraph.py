"""Lazy cubes whose graph odc-stac draws: our own driver below it reads each band of each scene."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.grid import transformer
from cryoscale.read.band import WIDE_DEG, AssetSpec, asset_spec, footprint_deg, read_asset, when
from cryoscale.read.metered import Cost
from cryoscale.read.raster import UnreadableError
from cryoscale.read.sample import crs_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from odc.loader.types import RasterGroupMetadata
    from pystac import Item

_FIELD = "cryoscale:asset"


def draw_scenes(
    scenes: Sequence[Item],
    *,
    geobox: GeoBox,
    bands: Sequence[str],
    chunks: tuple[int, int],
    sign: str | None = None,
    tally: Tally | None = None,
) -> xr.Dataset:
    """Scenes as a lazy dataset of (time, y, x) whose graph odc-stac draws and our reader fills.

    Values, no-data and errors are those of :func:`cryoscale.read.cube.open_cube`.
    """
    from odc.stac import load  # imported late: it takes most of a second

    cube: xr.Dataset = load(
        [_stand_in(item, number, bands, geobox, sign) for number, item in enumerate(scenes)],
        bands=list(bands),
        geobox=geobox,
        chunks={"y": chunks[0], "x": chunks[1]},
        groupby="id",
        fuse_func="cryoscale.read.odcgraph.overwrite",
        driver=LatticeDriver(tuple(bands), tally),
    )
    return cube


class Tally:
    """What each band's file gave while a graph was computed, for whoever drew it in the same process."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self.gave: dict[str, bool] = {}


@dataclass(frozen=True)
class SpecReader:
    """Reads one band of one scene for a lazy cube, whichever loader drew its graph."""

    spec: AssetSpec
    tally: Tally | None = None

    def read(
        self,
        cfg: Any,
        dst_geobox: GeoBox,
        *,
        dst: NDArray[Any] | None = None,
        selection: Any = None,
    ) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """The whole of ``dst_geobox``, or nothing where the file lies beside it."""
        try:
            values, cost = read_asset(self.spec, dst_geobox)
        except UnreadableError as error:
            raise UnreadableError(f"{self.spec.item_id} {error}") from error
        if self.tally is not None:
            self.tally.costs[self.spec.band] = cost
            self.tally.gave[self.spec.band] = values is not None
        if values is None:
            return (slice(0, 0), slice(0, 0)), np.empty((0, 0), cfg.dtype)
        height, width = dst_geobox.shape
        if dst is not None:
            np.copyto(dst, values)
            values = dst
        return (slice(0, height), slice(0, width)), values


class LatticeDriver:
    """The reader that odc-stac calls for each source and chunk; its values do not depend on the chunk."""

    dask_reader = None
    aux_reader = None

    def __init__(self, bands: tuple[str, ...], tally: Tally | None = None) -> None:
        self.bands, self.tally = bands, tally

    @property
    def md_parser(self) -> LatticeDriver:
        """odc-stac's hook for what an item's bands are."""
        return self

    def extract(self, md: Item) -> RasterGroupMetadata:
        """Types of the bands; all of them, whether or not this item has them."""
        from odc.loader.types import RasterBandMetadata, RasterGroupMetadata

        return RasterGroupMetadata(
            {
                (band, 1): RasterBandMetadata("complex64" if is_complex(band) else "float32", np.nan)
                for band in self.bands
            }
        )

    def driver_data(self, md: Item, band_key: tuple[str, int]) -> AssetSpec:
        """What travels with a source to :meth:`open`."""
        spec: AssetSpec = md.assets[band_key[0]].extra_fields[_FIELD]
        return spec

    def new_load(self, geobox: GeoBox, *, chunks: dict[str, int] | None = None) -> None:
        """Nothing is shared by the reads of a load."""

    def finalise_load(self, load_state: None) -> None:
        """Nothing to close."""

    def capture_env(self) -> dict[str, Any]:
        """GDAL is configured where a file is opened."""
        return {}

    @contextmanager
    def restore_env(self, env: dict[str, Any], load_state: None) -> Iterator[None]:
        """GDAL is configured where a file is opened."""
        yield None

    def open(self, src: Any, ctx: None) -> SpecReader:
        """The reader of one source."""
        return SpecReader(src.driver_data, self.tally)


def overwrite(dst: NDArray[Any], src: NDArray[Any]) -> None:
    """How odc-stac shall put a scene on its plane: all of it, since each has a plane of its own.

    Its own rule writes where the plane is NaN, and takes no complex number for that.
    """
    np.copyto(dst, src)


def is_complex(band: str) -> bool:
    """Whether a band's values are complex numbers."""
    return band in ("slc1", "slc2")


def _stand_in(item: Item, number: int, bands: Sequence[str], geobox: GeoBox, sign: str | None) -> Item:
    """The item as odc-stac shall see it: our band names, and a footprint with a collar.

    Ids are numbers in order, since odc-stac sorts by time and id.
    """
    from pystac import Asset, Item

    west, south, east, north = footprint_deg(item)
    if west < -180.0 or east > 180.0 or east - west > WIDE_DEG:
        west, south, east, north = _around(geobox)  # let the file decide
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    stand_in = Item(
        id=f"{number:06d}",
        geometry={"type": "Polygon", "coordinates": [ring]},
        bbox=[west, south, east, north],
        datetime=when(item),
        properties={},
        collection="cryoscale",
    )
    for band in bands:
        spec = asset_spec(item, band, sign)
        if spec is not None:
            stand_in.assets[band] = Asset(spec.href, roles=["data"], extra_fields={_FIELD: spec})
    return stand_in


def _around(geobox: GeoBox) -> tuple[float, float, float, float]:
    """West, south, east, north of more than a grid; over the antimeridian longitudes go on beyond 180."""
    box = geobox.extent.boundingbox
    west, south, east, north = (
        float(side) for side in transformer(crs_name(geobox), "EPSG:4326").transform_bounds(*box)
    )
    east = east + 360.0 if west > east else east
    return west - 0.1, max(south - 0.1, -90.0), east + 0.1, min(north + 0.1, 90.0)
