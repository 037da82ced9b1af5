"""The stac-geoparquet layout: items as columns that other tools read, and columns of theirs as items.

Items of several collections make one table, a column a property, absent ones null; that is what the
specification allows (https://radiantearth.github.io/stac-geoparquet-spec), and what loses the difference
between an absent and a null property, and widens numbers. So it is for reading by others only:
:mod:`cryoscale.read.snapshot` keeps the exact items beside it.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry import mapping, shape

from cryoscale.read.assets import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TOP_LEVEL = ("type", "stac_version", "stac_extensions", "id", "bbox", "links", "assets", "collection")
_OUTLINE = "proj:geometry"
"""The one property that the layout stores as WKB."""

_CORE = ("datetime", "start_datetime", "end_datetime", "platform", "eo:cloud_cover")
_CORE_OF_ASSET = ("href", "type", "title", "roles")


def columns(items: Sequence[Mapping[str, Any]]) -> pa.Table:
    """STAC items, as dictionaries, in the stac-geoparquet layout; its metadata says so.

    Where items disagree on the type of a member, so that no column can hold it, all are cut down to what
    STAC itself defines.
    """
    flat = [{**item, "bbox": _flat_bbox(item)} for item in items]
    try:
        return _table([_without_outline(item, flat) for item in flat])
    except (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError):
        return _table([_core(item) for item in flat])


def _table(items: Sequence[dict[str, Any]]) -> pa.Table:
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet  # imported late: it is slow

    # it tells of properties that no column can hold, which does not matter here
    logging.getLogger("stac_geoparquet").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "items.parquet"
        to_parquet(parse_stac_items_to_arrow(items), path)  # the library's way to its own metadata
        return pq.read_table(path)


def _flat_bbox(item: Mapping[str, Any]) -> list[float]:
    """West, south, east, north: the layout takes no heights beside boxes without them, and no gaps."""
    sides = item.get("bbox") or []
    if len(sides) == 6:
        sides = [sides[side] for side in (0, 1, 3, 4)]
    return [float(side) for side in (sides if len(sides) == 4 else shape(item["geometry"]).bounds)]


def _without_outline(item: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``item`` less its projected outline where others lack theirs: stac-geoparquet cannot read the gaps."""
    properties = dict(item["properties"])
    if not all(_OUTLINE in one["properties"] for one in items):
        properties.pop(_OUTLINE, None)
    return {**item, "properties": properties}


def _core(item: Mapping[str, Any]) -> dict[str, Any]:
    properties = {name: item["properties"][name] for name in _CORE if name in item["properties"]}
    if "eo:cloud_cover" in properties:
        properties["eo:cloud_cover"] = number(properties["eo:cloud_cover"])
    assets = {
        key: {name: asset[name] for name in _CORE_OF_ASSET if name in asset}
        for key, asset in item["assets"].items()
    }
    return {
        **{name: item[name] for name in (*_TOP_LEVEL, "geometry") if name in item},
        "properties": properties,
        "assets": assets,
    }


def features(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a stac-geoparquet table as STAC items, as dictionaries.

    Raises:
        KeyError: a row lacks what every item has.
        shapely.errors.ShapelyError: a geometry is no WKB.
    """
    return [feature(row) for row in table.to_pylist()]


def feature(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the layout as an item, as a dictionary."""
    plain = _plain({name: value for name, value in row.items() if name not in ("geometry", _OUTLINE)})
    properties = {name: value for name, value in plain.items() if name not in _TOP_LEVEL}
    if row.get(_OUTLINE) is not None:
        properties[_OUTLINE] = mapping(shapely.from_wkb(row[_OUTLINE]))
    properties.setdefault("datetime", None)
    bbox = plain.get("bbox")
    if isinstance(bbox, dict):
        order = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")
        bbox = [bbox[side] for side in order if side in bbox]
    geometry = row["geometry"]
    return {
        **{name: plain[name] for name in _TOP_LEVEL if name in plain},
        "type": "Feature",
        "stac_version": plain.get("stac_version", "1.0.0"),
        "links": plain.get("links", []),
        "assets": plain.get("assets", {}),
        "bbox": bbox,
        "geometry": None if geometry is None else mapping(shapely.from_wkb(geometry)),
        "properties": properties,
    }


def _plain(value: Any) -> Any:
    """JSON values out of Arrow's; nulls are dropped, since they only fill columns of other items."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return value
