"""Lazy cubes of scenes on the world lattice, through odc-stac or stackstac with a reader of our own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from cryoscale.errors import AssetReadError
from cryoscale.grid import transformer
from cryoscale.read.assets import BANDS, Encoding, address, asset_of, encoding, number
from cryoscale.read.raster import UnreadableError, open_raster
from cryoscale.read.sample import ArraySource, crs_name, fetch, resample
from cryoscale.read.signing import sign_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from odc.loader.types import RasterGroupMetadata
    from pystac import Item

DEFAULT_CHUNK_PX = 2048
"""Edge of a chunk where none is asked for."""

FOOTPRINT_COLLAR_DEG = 0.1
"""How far around an item's bbox its pixels are looked for: published footprints are rounded inwards."""

WIDE_DEG = 20.0
"""A footprint wider than this is not projected onto a grid, where the globe is a sliver: the file decides."""

_FIELD = "cryoscale:asset"

Loader = Literal["odc-stac", "stackstac"]
"""Who draws the graph of a lazy cube."""


@dataclass(frozen=True)
class AssetSpec:
    """All that is needed to read one band of one item: address, encoding, signing."""

    item_id: str
    band: str
    href: str
    encoding: Encoding
    sign: str | None


def asset_spec(item: Item, band: str, sign: str | None = None) -> AssetSpec | None:
    """How to read ``band`` of ``item``, or None where the item does not have it."""
    asset = asset_of(item, band)
    if asset is None:
        return None
    return AssetSpec(item.id, band, address(asset), encoding(item, band), sign_of(item, sign))


def read_asset(spec: AssetSpec, geobox: GeoBox) -> tuple[NDArray[Any] | None, int]:
    """One band on ``geobox``, (y, x) in physical units with NaN for no data, and the bytes read.

    None where the file lies beside the grid.

    Raises:
        UnreadableError: if the file is absent or broken.
        AssetReadError: if it is out of reach for now.
    """
    with named(spec), open_raster(spec.href, spec.encoding.nodata, spec.sign) as source:
        part = fetch(source, geobox)
        size = source.bytes_read
    if part is None:
        return None, size
    values = resample(without_fill(part, spec.band), geobox, BANDS[spec.band].resampling)
    if values is not None and (spec.encoding.scale, spec.encoding.offset) != (1.0, 0.0):
        # in float64, so that the rounding to float32 happens once; in place, since several bands are read
        exact = values.astype(np.float64)
        exact *= spec.encoding.scale
        exact += spec.encoding.offset
        values = exact.astype(np.float32)
    return values, size


def without_fill(part: ArraySource, band: str) -> ArraySource:
    """``part`` with NaN where it holds what processors of ``band`` fill with."""
    fill = BANDS[band].fill
    if fill is None:
        return part
    return ArraySource(
        part.lattice, np.where(part.values == fill, part.values.dtype.type(np.nan), part.values)
    )


@contextmanager
def named(spec: AssetSpec) -> Iterator[None]:
    """Errors of reading that say which band, and for those that end a block which item, they are about."""
    try:
        yield
    except UnreadableError as error:
        raise UnreadableError(f"{spec.band}: {error}") from error
    except AssetReadError as error:
        raise type(error)(f"{spec.item_id} {spec.band}: {error}") from error


def in_order(items: Iterable[Item]) -> list[Item]:
    """Items by time, then id: the one order of scenes everywhere, whatever order a catalogue has."""
    return sorted(items, key=lambda item: (when(item), item.id))


def when(item: Item) -> datetime:
    """The instant of an item, or the start of its interval; the epoch where it gives neither."""
    moment = item.datetime or item.common_metadata.start_datetime or datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def cloud_pct(item: Item) -> float:
    """Cloud cover of the whole scene in per cent; NaN where the item does not say, or says no number."""
    return number(item.properties.get("eo:cloud_cover"))


def open_cube(
    items: Iterable[Item],
    *,
    geobox: GeoBox,
    bands: Sequence[str],
    chunks: dict[str, int] | None = None,
    sign: str | None = None,
    loader: Loader = "odc-stac",
) -> xr.Dataset:
    """Scenes as one lazy dataset of dims (time, y, x) on exactly ``geobox``, a variable a band.

    Reading is put off until values are asked for, addresses are signed then, and equal pixels of two
    grids have equal values. Scale and offset are each item's own, so baselines may mix in a cube.

    Args:
        items: one scene each, also where several share their time.
        geobox: the grid; :attr:`cryoscale.grid.Window.geobox` gives that of a window.
        bands: names of ours (B01 .. B12, SCL, LST, elevation ..., see :data:`cryoscale.read.assets.BANDS`).
        chunks: edges of dask chunks in pixels, 2048 by default.
        sign: how addresses are signed where an item does not say.
        loader: who draws the dask graph, ``odc-stac`` or ``stackstac`` (an extra); both call the same
            reader, so their cubes are equal bit for bit.

    Returns:
        float32 in physical units, NaN for no data (and for a band that an item lacks), codes as their
        numbers; complex64 for slc1 and slc2. Coordinates y, x (m), time (UTC), scene (item id) and
        cloud_cover (per cent, NaN where unknown) along time; scenes are ordered by time, then id.

    Raises:
        KeyError: for a band that is not in the table.
        ValueError: if there are no items, or for a loader that is not known.
        ConfigError: if stackstac is asked for and not installed.
    """
    if loader not in get_args(Loader):
        raise ValueError(f"loader is {loader!r}, expected one of {', '.join(get_args(Loader))}")
    scenes, wanted = in_order(items), list(bands)
    if not scenes:
        raise ValueError("a cube needs at least one item")
    for band in wanted:
        if band not in BANDS:
            raise KeyError(f"{band} is no band; known are {', '.join(BANDS)}")
    edges = {"x": DEFAULT_CHUNK_PX, "y": DEFAULT_CHUNK_PX, **(chunks or {})}
    cube = _drawn(loader, scenes, geobox, wanted, edges, sign)
    times = np.array([when(item).replace(tzinfo=None) for item in scenes], "datetime64[ns]")
    return cube.assign_coords(
        time=("time", times),
        scene=("time", np.array([item.id for item in scenes], dtype=object)),
        cloud_cover=("time", np.array([cloud_pct(item) for item in scenes])),
    ).assign_attrs(crs=crs_name(geobox))


def load_planes(
    item: Item,
    bands: Sequence[str],
    geobox: GeoBox,
    *,
    loader: Loader,
    sign: str | None = None,
    pool: ThreadPoolExecutor,
) -> tuple[dict[str, NDArray[Any]], int]:
    """Bands of one item on ``geobox``, (y, x) each, through a loader's graph, and the bytes read.

    The graph is computed in ``pool``. Bands that the item lacks or whose files lie beside the grid are left
    out. Values and errors are those of :func:`read_asset`.
    """
    wanted = [band for band in bands if asset_of(item, band) is not None]
    if not wanted:
        return {}, 0
    tally = Tally()
    height, width = geobox.shape
    cube = _drawn(loader, [item], geobox, wanted, {"y": height, "x": width}, sign, tally)
    read = cube.isel(time=0).compute(scheduler="threads", pool=pool)
    planes = {band: read[band].values for band in wanted if tally.gave.get(band)}
    return planes, sum(tally.bytes_read.values())


class Tally:
    """What each band's file gave while a graph was computed, for whoever drew it in the same process."""

    def __init__(self) -> None:
        self.bytes_read: dict[str, int] = {}
        self.gave: dict[str, bool] = {}


def _drawn(
    loader: Loader,
    scenes: Sequence[Item],
    geobox: GeoBox,
    bands: list[str],
    edges: dict[str, int],
    sign: str | None,
    tally: Tally | None = None,
) -> xr.Dataset:
    """The lazy cube as ``loader`` draws it."""
    if loader == "stackstac":
        from cryoscale.read.stacked import stack_scenes  # an extra that most never install

        shape = edges["y"], edges["x"]
        return stack_scenes(scenes, geobox=geobox, bands=bands, chunks=shape, sign=sign, tally=tally)
    from odc.stac import load  # imported late: it takes most of a second

    cube: xr.Dataset = load(
        [_stand_in(item, number, bands, geobox, sign) for number, item in enumerate(scenes)],
        bands=bands,
        geobox=geobox,
        chunks={name: edges[name] for name in ("y", "x")},
        groupby="id",
        fuse_func="cryoscale.read.cube.overwrite",
        driver=LatticeDriver(tuple(bands), tally),
    )
    return cube


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


def footprint_deg(item: Item) -> tuple[float, float, float, float]:
    """West, south, east, north of an item with a collar; the globe where it gives none.

    Over the antimeridian longitudes go on beyond 180.
    """
    box = item.bbox or []
    if len(box) == 6:
        box = [box[0], box[1], box[3], box[4]]
    if len(box) != 4:
        return -180.0, -90.0, 180.0, 90.0
    west, south, east, north = (float(side) for side in box)
    east = east + 360.0 if west > east else east
    collar_x = FOOTPRINT_COLLAR_DEG / max(np.cos(np.radians(max(abs(south), abs(north)))), 0.02)
    return (
        west - collar_x,
        max(south - FOOTPRINT_COLLAR_DEG, -90.0),
        east + collar_x,
        min(north + FOOTPRINT_COLLAR_DEG, 90.0),
    )


def overwrite(dst: NDArray[Any], src: NDArray[Any]) -> None:
    """How odc-stac shall put a scene on its plane: all of it, since each has a plane of its own.

    Its own rule writes where the plane is NaN, and takes no complex number for that.
    """
    np.copyto(dst, src)


def is_complex(band: str) -> bool:
    """Whether a band's values are complex numbers."""
    return band in ("slc1", "slc2")


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
            values, size = read_asset(self.spec, dst_geobox)
        except UnreadableError as error:
            raise UnreadableError(f"{self.spec.item_id} {error}") from error
        if self.tally is not None:
            self.tally.bytes_read[self.spec.band] = size
            self.tally.gave[self.spec.band] = values is not None
        if values is None:
            return (slice(0, 0), slice(0, 0)), np.empty((0, 0), cfg.dtype)
        height, width = dst_geobox.shape
        if dst is not None:
            np.copyto(dst, values)
            values = dst
        return (slice(0, height), slice(0, width)), values
