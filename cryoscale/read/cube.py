"""Lazy cubes of scenes on the world lattice, through odc-stac or stackstac with a reader of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from cryoscale.read.assets import BANDS, asset_of
from cryoscale.read.band import cloud_pct, in_order, when
from cryoscale.read.metered import Cost
from cryoscale.read.odcgraph import Tally, draw_scenes
from cryoscale.read.sample import crs_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from pystac import Item

DEFAULT_CHUNK_PX = 2048
"""Edge of a chunk where none is asked for."""

Loader = Literal["odc-stac", "stackstac"]
"""Who draws the graph of a lazy cube."""


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
        cloud_cover (per cent, NaN where unknown) along time; with SCL also classified, whether a scene has
        one at all. Scenes are ordered by time, then id.

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
    if "SCL" in wanted:
        has_scl = [asset_of(item, "SCL") is not None for item in scenes]
        cube = cube.assign_coords(classified=("time", np.array(has_scl)))
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
) -> tuple[dict[str, NDArray[Any]], Cost]:
    """Bands of one item on ``geobox``, (y, x) each, through a loader's graph, and what reading took.

    The graph is computed in ``pool``. Bands that the item lacks or whose files lie beside the grid are left
    out. Values and errors are those of :func:`read_asset`.
    """
    wanted = [band for band in bands if asset_of(item, band) is not None]
    if not wanted:
        return {}, Cost()
    tally = Tally()
    height, width = geobox.shape
    cube = _drawn(loader, [item], geobox, wanted, {"y": height, "x": width}, sign, tally)
    read = cube.isel(time=0).compute(scheduler="threads", pool=pool)
    planes = {band: read[band].values for band in wanted if tally.gave.get(band)}
    return planes, sum(tally.costs.values(), Cost())


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
    shape = edges["y"], edges["x"]
    if loader == "stackstac":
        from cryoscale.read.stacked import stack_scenes  # an extra that most never install

        return stack_scenes(scenes, geobox=geobox, bands=bands, chunks=shape, sign=sign, tally=tally)
    return draw_scenes(scenes, geobox=geobox, bands=bands, chunks=shape, sign=sign, tally=tally)
