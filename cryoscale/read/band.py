"""One band of one scene, read onto a grid in physical units."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.errors import AssetReadError
from cryoscale.read.assets import BANDS, Encoding, address, asset_of, encoding, number, scaling_fault
from cryoscale.read.lattice import ArraySource
from cryoscale.read.metered import Cost
from cryoscale.read.raster import FileSource, UnreadableError, open_raster
from cryoscale.read.sample import TornError, fetch, resample
from cryoscale.read.signing import public, sign_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from pystac import Item

FOOTPRINT_COLLAR_DEG = 0.1
"""How far around an item's bbox its pixels are looked for: published footprints are rounded inwards."""

WIDE_DEG = 20.0
"""A footprint wider than this is not projected onto a grid, where the globe is a sliver: the file decides."""


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


def read_asset(spec: AssetSpec, geobox: GeoBox) -> tuple[NDArray[Any] | None, Cost]:
    """One band on ``geobox``, (y, x) in physical units with NaN for no data, and what reading took.

    None where the file lies beside the grid.

    Raises:
        UnreadableError: if the file is absent or broken.
        AssetReadError: if it is out of reach for now.
    """
    with opened(spec) as (source, scale, offset):
        part = fetch(source, geobox)
        cost = source.cost
    if part is None:
        return None, cost
    values = resample(without_fill(part, spec), geobox, BANDS[spec.band].resampling)
    if values is not None and (scale, offset) != (1.0, 0.0):
        # in float64, so that the rounding to float32 happens once; in place, since several bands are read
        exact = values.astype(np.result_type(values.dtype, np.float64))
        exact *= scale
        exact += offset
        values = exact.astype(np.complex64 if np.iscomplexobj(exact) else np.float32)
    return values, cost


@contextmanager
def opened(spec: AssetSpec, *, coarse_m: float | None = None) -> Iterator[tuple[FileSource, float, float]]:
    """The file of a band, and the scale and offset of its numbers; errors say which band they are about.

    With ``coarse_m`` as of :func:`cryoscale.read.raster.open_raster`.

    Raises:
        UnreadableError: if the file is absent or broken, or its numbers mean nothing.
        AssetReadError: if it is out of reach for now.
    """
    rule = spec.encoding
    with named(spec):
        if rule.fault:
            raise UnreadableError(rule.fault)
        with open_raster(spec.href, rule.nodata, spec.sign, coarse_m=coarse_m) as source:
            scale, offset = rule.scale, rule.offset
            if rule.file_may_say and source.scaling != (1.0, 0.0):
                scale, offset = source.scaling
                if fault := scaling_fault(scale, offset):
                    raise UnreadableError(f"{public(spec.href)}: {fault}")
            yield source, scale, offset


def without_fill(part: ArraySource, spec: AssetSpec) -> ArraySource:
    """``part`` with NaN where it holds what processors of its band fill with."""
    fill = BANDS[spec.band].fill
    if fill is None or fill == spec.encoding.nodata:  # then it has gone already
        return part
    return ArraySource(
        part.lattice, np.where(part.values == fill, part.values.dtype.type(np.nan), part.values)
    )


@contextmanager
def named(spec: AssetSpec) -> Iterator[None]:
    """Errors of reading that say which band, and for those that end a block which item, they are about."""
    try:
        yield
    except (UnreadableError, TornError) as error:
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
