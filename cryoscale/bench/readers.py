"""Ways to read blocks of scenes: ours, the libraries' own, and by hand, all with as many threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import dask
import numpy as np
import pystac
import rasterio
from numpy.typing import NDArray

from cryoscale.grid import Window
from cryoscale.read.assets import BANDS
from cryoscale.read.band import asset_spec, read_asset
from cryoscale.read.cube import open_cube
from cryoscale.read.inputs import READ_THREADS
from cryoscale.read.lattice import Lattice
from cryoscale.read.raster import GDAL_OPTIONS, FileSource
from cryoscale.read.sample import fetch, resample

BASE = "cryoscale"

Items = Sequence[pystac.Item]
Read = Callable[[Items, Sequence[str], Window, int], NDArray[np.float32]]
"""Items, bands, region, block edge (pixels) to reflectance or metres (scene, band, y, x), NaN for no data."""


def blocks_of(region: Window, edge: int) -> list[Window]:
    """The region in blocks, row by row."""
    return [
        Window(
            region.epsg,
            region.row + row,
            region.col + col,
            min(edge, region.height - row),
            min(edge, region.width - col),
        )
        for row in range(0, region.height, edge)
        for col in range(0, region.width, edge)
    ]


def by_block(
    items: Items, bands: Sequence[str], region: Window, edge: int, read: Callable[[Any, Window], Any]
) -> NDArray[np.float32]:
    """``read`` for each asset of each block, the assets of a block at the same time."""
    out = np.full((len(items), len(bands), *region.shape), np.nan, np.float32)
    specs = [(i, j, asset_spec(item, band)) for i, item in enumerate(items) for j, band in enumerate(bands)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for block in blocks_of(region, edge):
            rows, columns = block.slices_in(region)
            tasks = [(i, j, pool.submit(read, spec, block)) for i, j, spec in specs if spec is not None]
            for i, j, task in tasks:
                values = task.result()
                if values is not None:
                    out[i, j, rows, columns] = values
    return out


def direct(items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
    """What a block's task does."""
    return by_block(items, bands, region, edge, lambda spec, block: read_asset(spec, block.geobox)[0])


def through(loader: Any) -> Read:
    """The same blocks, each through the graph that a library draws."""

    def read(items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
        out = np.full((len(items), len(bands), *region.shape), np.nan, np.float32)
        for block in blocks_of(region, edge):
            rows, columns = block.slices_in(region)
            whole = {"x": block.width, "y": block.height}
            lazy = open_cube(items, geobox=block.geobox, bands=bands, chunks=whole, loader=loader)
            out[:, :, rows, columns] = computed([lazy[band].data for band in bands])
        return out

    return read


def computed(layers: Sequence[Any]) -> NDArray[np.float32]:
    """Lazy (scene, y, x) of each band, stacked and computed with as many threads as the others have."""
    with dask.config.set(scheduler="threads", num_workers=READ_THREADS):
        computed_layers = dask.compute(*layers)  # type: ignore[no-untyped-call, attr-defined]
        return np.stack(computed_layers, axis=1).astype(np.float32, copy=False)


def odc_stac(items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
    """odc-stac with its own reader, as its manual has it."""
    from odc.loader import configure_rio
    from odc.stac import load

    configure_rio(**GDAL_OPTIONS)
    lazy = load(
        items,
        bands=list(bands),
        geobox=region.geobox,
        chunks={"x": edge, "y": edge},
        groupby="id",
        dtype="float32",
        nodata=np.nan,
        resampling={band: BANDS[band].resampling for band in bands},
    )
    return physical(items, bands, computed([lazy[band].data for band in bands]))


def stackstac_own(items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
    """stackstac with its own reader."""
    import stackstac
    from rasterio.enums import Resampling

    bounds = region.geobox.extent.boundingbox
    layers = [
        stackstac.stack(
            list(items),
            assets=[band],
            epsg=region.epsg,
            resolution=10,
            bounds=(bounds.left, bounds.bottom, bounds.right, bounds.top),
            snap_bounds=False,
            chunksize=edge,
            dtype=np.dtype("float32"),
            fill_value=np.float32(np.nan),
            rescale=False,
            sortby_date=False,
            xy_coords="center",
            resampling=Resampling[BANDS[band].resampling],
            errors_as_nodata=(),
        ).data[:, 0]
        for band in bands
    ]
    return physical(items, bands, computed(layers))


def warped(items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
    """rasterio as many write it: a warped view of each file, with GDAL's own client of HTTP."""
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    def read(spec: Any, block: Window) -> Any:
        options = {
            "crs": f"EPSG:{block.epsg}",
            "transform": block.geobox.affine,
            "height": block.height,
            "width": block.width,
            "resampling": Resampling[BANDS[spec.band].resampling],
            "nodata": spec.encoding.nodata,
        }
        with (
            rasterio.Env(**GDAL_OPTIONS),
            rasterio.open(spec.href) as file,
            WarpedVRT(file, **options) as view,
        ):
            raw = view.read(1).astype(np.float32)
        return raw if spec.encoding.nodata is None else np.where(raw == spec.encoding.nodata, np.nan, raw)

    return physical(items, bands, by_block(items, bands, region, edge, read))


def through_gdal(items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
    """GDAL's own client of HTTP under our resampling: what our own layer of requests costs or saves."""

    def read(spec: Any, block: Window) -> Any:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(spec.href) as file:
            nodata = () if spec.encoding.nodata is None else (spec.encoding.nodata,)
            source = FileSource(file, _lattice(file.transform, file.crs, file.shape), nodata, "")
            part = fetch(source, block.geobox)
            return None if part is None else resample(part, block.geobox, BANDS[spec.band].resampling)

    return physical(items, bands, by_block(items, bands, region, edge, read))


def physical(items: Items, bands: Sequence[str], digital: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale and offset in float64, rounded to float32 once, as our reader does it."""
    for i, item in enumerate(items):
        for j, band in enumerate(bands):
            spec = asset_spec(item, band)
            if spec is not None and spec.encoding.scale != 1.0:
                exact = digital[i, j].astype(np.float64) * spec.encoding.scale + spec.encoding.offset
                digital[i, j] = exact.astype(np.float32)
    return digital


def _lattice(transform: Any, crs: Any, shape: tuple[int, int]) -> Lattice:
    a, b, c, d, e, f = tuple(transform)[:6]
    return Lattice(f"EPSG:{crs.to_epsg()}", (a, b, c, d, e, f), *shape)


class WithoutGdal:
    """async-geotiff on obstore for the pixels of a file, our own resampling for the rest."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def __call__(self, items: Items, bands: Sequence[str], region: Window, edge: int) -> NDArray[np.float32]:
        """A :data:`Read`."""
        opened: dict[str, Any] = {}

        def read(spec: Any, block: Window) -> Any:
            if spec.href not in opened:
                opened[spec.href] = self._wait(self._open(spec.href))
            part = fetch(_Tiff(self, opened[spec.href], spec.encoding.nodata), block.geobox)
            values = None if part is None else resample(part, block.geobox, BANDS[spec.band].resampling)
            if values is not None and spec.encoding.scale != 1.0:
                values = values.astype(np.float64) * spec.encoding.scale + spec.encoding.offset
            return values

        return by_block(items, bands, region, edge, read)

    @staticmethod
    async def _open(href: str) -> Any:
        from async_geotiff import GeoTIFF
        from obstore.store import HTTPStore

        base, _, name = href.rpartition("/")
        return await GeoTIFF.open(name, store=HTTPStore(base, client_options={"allow_http": True}))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)


@dataclass(frozen=True)
class _Tiff:
    """An opened file as a source of our resampling."""

    reader: WithoutGdal
    tiff: Any
    nodata: float | None

    @property
    def lattice(self) -> Lattice:
        return _lattice(self.tiff.transform, self.tiff.crs, (self.tiff.height, self.tiff.width))

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        from async_geotiff import Window as FileWindow

        window = FileWindow(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        values = self.reader._wait(self.tiff.read(window=window)).data[0].astype(np.float32)
        return values if self.nodata is None else np.where(values == self.nodata, np.float32(np.nan), values)


def ways() -> dict[str, Read]:
    """Every way to read that is installed here, ours first."""
    found: dict[str, Read] = {BASE: direct, "cryoscale through odc-stac": through("odc-stac")}
    if find_spec("stackstac"):
        found["cryoscale through stackstac"] = through("stackstac")
    found |= {"rasterio + our resampling": through_gdal}
    if find_spec("async_geotiff") and find_spec("obstore"):
        found["async-geotiff + our resampling"] = WithoutGdal()
    found |= {"rasterio's warper": warped, "odc-stac": odc_stac}
    if find_spec("stackstac"):
        found["stackstac"] = stackstac_own
    return found
