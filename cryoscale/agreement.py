"""Whether outlines and STAC items say what the map says that they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage

from cryoscale.errors import CryoscaleError, SourceError
from cryoscale.grid import RESOLUTION_M, Block, central_meridian_deg, transformer, turned
from cryoscale.inventories import corrections_of
from cryoscale.ledger import Ledger, Work
from cryoscale.write import corrections, mosaic, zones
from cryoscale.write.nearby import Nearby
from cryoscale.write.polygons import PolygonArray
from cryoscale.write.vectors import read_parts
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS

_PIXEL_KM2 = (RESOLUTION_M / 1000.0) ** 2

_MARGIN_DEG = 0.01
"""Around a block: its sides bend in degrees, and what is cut off there must not lie in it."""

_CUT_PX = 2
"""Pixels along what is not the zone's own that are judged by none: outlines there follow another map."""


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be.

    Attributes:
        kind: "marker", "shard", "outline", "file", "plan" or "catalogue".
        where: the block ``<year>/<epsg>/<block>``, or the file.
        reason: what is wrong with it, in a line.
        repair: whether ``cryoscale run`` mends it.
    """

    kind: str
    where: str
    reason: str
    repair: bool = True


def outlines_and_map(
    ledger: Ledger, manifest: Mapping[str, Any], year: int, markers: Mapping[str, tuple[Work, str]]
) -> Iterator[Fault]:
    """Where the inventory of a year and its map do not agree, block by block."""
    name = f"inventory/{year}.parquet"
    if ledger.objects.stat(name) is None:
        yield Fault("file", name, "is not there")
        return
    least_px = float(manifest.get("asked", {}).get("min_area_km2", 0.01)) / _PIXEL_KM2
    by_zone: dict[int, list[tuple[str, Block]]] = {}
    for place, ((of_year, block), _) in markers.items():
        if of_year == year:
            by_zone.setdefault(block.epsg, []).append((place, block))
    where = zones.cuts(sorted(by_zone))
    with Nearby() as outlines:
        broken = 0
        try:
            for part in read_parts(f"{ledger.out}/{name}", ("geometry",)):
                shapes = part["geometry"].to_numpy()
                broken += int((~shapely.is_valid(shapes)).sum())
                outlines.add(shapes)
        except Exception as error:  # whatever a damaged file makes of its reader
            yield Fault("file", name, f"cannot be read: {' '.join(str(error).split())[:200]}")
            return
        if broken:
            yield Fault("outline", name, f"{broken} of its outlines are not valid")
        try:
            hand = corrections_of(ledger.out, year)
        except SourceError as error:
            yield Fault("file", corrections.FILE, f"cannot be read: {error}", repair=False)
            return
        for epsg, blocks in by_zone.items():
            try:
                labels = hand.over(mosaic.open_mosaic(ledger.out, year, epsg, dask=False), epsg)["label"]
                window = mosaic.window_of_map(f"{ledger.out}/mosaic.zarr", year, epsg)
            except (CryoscaleError, ValueError, KeyError, TypeError) as error:
                yield Fault("file", f"mosaic.zarr/{year}/{epsg}", f"cannot be opened: {error}")
                continue
            for place, block in blocks:
                rows, cols = block.window.slices_in(window)
                label = np.asarray(labels[rows, cols].values)
                near = _near(block, outlines)
                reason = _disagreement(label, _own(block, where[epsg]), near, block, least_px)
                if reason:
                    yield Fault("outline", place, reason)


def _near(block: Block, outlines: Nearby) -> PolygonArray:
    """What outlines have over a block, in metres of its zone."""
    west, south, east, north = transformer(f"EPSG:{block.epsg}", "EPSG:4326").transform_bounds(
        *block.window.bounds_m
    )
    box = (west - _MARGIN_DEG, south - _MARGIN_DEG, east + _MARGIN_DEG, north + _MARGIN_DEG)
    project = transformer("EPSG:4326", f"EPSG:{block.epsg}")
    return np.asarray(
        shapely.transform(outlines.over(box), lambda xy: np.column_stack(project.transform(*xy.T))), object
    )


def _own(block: Block, cut: zones.Cut) -> NDArray[np.bool_]:
    """The pixels (y, x) of a block on its zone's own side of the meridians at which zones are cut."""
    shape = block.window.shape
    west, south, east, north = transformer(f"EPSG:{block.epsg}", "EPSG:4326").transform_bounds(
        *block.window.bounds_m
    )
    middle = central_meridian_deg(f"EPSG:{block.epsg}")  # as the box has them, which may end at 180 degrees
    west, east = turned(west, middle), turned(east, middle)
    around = shapely.box(west - 0.01, south - 0.01, east + 0.01, north + 0.01)
    side = shapely.box(*cut.box_deg)
    if side.contains(around):
        return np.ones(shape, bool)
    project = transformer("EPSG:4326", f"EPSG:{block.epsg}")
    kept = shapely.transform(
        shapely.segmentize(side.intersection(around), 0.005),
        lambda xy: np.column_stack(project.transform(*xy.T)),
    )
    if kept.is_empty:
        return np.zeros(shape, bool)
    found = rasterize([kept], shape, transform=block.window.geobox.affine, dtype="uint8")
    return np.asarray(found, bool)


def _disagreement(
    label: NDArray[Any], own: NDArray[np.bool_], near: NDArray[Any], block: Block, least_px: float
) -> str:
    """What outlines and labels of a block say differently; empty where nothing."""
    ice = np.isin(label, (CLEAN_ICE, DEBRIS))
    inside = np.zeros(label.shape, bool)
    if len(near):
        affine = block.window.geobox.affine
        inside = rasterize(list(near), label.shape, transform=affine, dtype="uint8").astype(bool)
    known = ndimage.binary_erosion(own & (label != mosaic.NODATA), iterations=_CUT_PX, border_value=1)
    stray = int(np.count_nonzero(inside & ~ice & known))  # every pixel centre is on its side of a line
    if stray:
        return f"{stray} pixels inside outlines are no ice on the map"
    missed, count = ndimage.label(ice & ~inside & own)
    sizes = np.bincount(missed.ravel())[1:]
    on_rim = np.unique(np.concatenate([missed[0], missed[-1], missed[:, 0], missed[:, -1]]))
    own = np.setdiff1d(np.arange(1, count + 1), on_rim)  # what goes on beyond the block is judged by none
    large = own[sizes[own - 1] > 1.02 * least_px]
    if len(large):
        return f"{len(large)} pieces of ice on the map are in no outline"
    return ""


def items_and_map(ledger: Ledger, manifest: Mapping[str, Any]) -> Iterator[Fault]:
    """Where the STAC description of the run does not fit what it describes."""
    out = ledger.out
    content = ledger.objects.get("catalog.json")
    if content is None:
        yield Fault("catalogue", "catalog.json", "is not there")
        return
    try:
        links = [link["href"] for link in json.loads(content)["links"] if link["rel"] == "item"]
        items = [_item(ledger, href) for href in links]
    except (ValueError, KeyError, TypeError, pystac.STACError) as error:
        yield Fault("catalogue", "catalog.json", f"cannot be read: {error}")
        return
    maps = {
        item.assets["mosaic"].href.split("mosaic.zarr/")[-1]: item
        for item in items
        if "mosaic" in item.assets
    }
    for year in manifest["identity"]["years"]:
        try:
            mapped = mosaic.zones(out, year)
        except (ValueError, KeyError, TypeError) as error:
            yield Fault("file", f"mosaic.zarr/{year}", f"cannot be opened: {error}")
            continue
        for epsg in mapped:
            item = maps.get(f"{year}/{epsg}")
            if item is None:
                yield Fault("catalogue", f"{year}/{epsg}", "has no STAC item")
                continue
            try:
                window = mosaic.window_of_map(f"{out}/mosaic.zarr", year, epsg)
            except (CryoscaleError, ValueError, KeyError, TypeError) as error:
                yield Fault("file", f"mosaic.zarr/{year}/{epsg}", f"cannot be opened: {error}")
                continue
            if list(item.properties.get("proj:shape", ())) != [window.height, window.width]:
                yield Fault("catalogue", item.id, "its shape is not that of the map")
            if not item.get_links("derived_from"):
                yield Fault("catalogue", item.id, "does not say what it was derived from")


def _item(ledger: Ledger, href: str) -> pystac.Item:
    content = ledger.objects.get(href.removeprefix("./"))
    if content is None:
        raise ValueError(f"{href} is not there")
    return pystac.Item.from_dict(json.loads(content))
