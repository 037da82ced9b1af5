"""Changes as files: tables, a map and charts; every file appears whole."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import geopandas as gpd
import pandas as pd

from cryoscale.archive.change import Change
from cryoscale.archive.drawn import draw_change, draw_series
from cryoscale.errors import OutputError
from cryoscale.write.objects import Objects
from cryoscale.write.store import put

COLUMNS: Mapping[str, tuple[str, str]] = {
    "region": ("", "Region."),
    "glacier_id": ("", "Stable id of the largest glacier of the row: of the older year where it was there."),
    "kind": (
        "",
        "same, split, merge, exchange, birth, vanished; not seen: the newer year has no data where it "
        "was; not seen before: the older year had none.",
    ),
    "n_older": ("", "Outlines in the older year."),
    "n_newer": ("", "Outlines in the newer year."),
    "older_glacier_ids": ("", "Their stable ids, the largest first."),
    "newer_glacier_ids": ("", "Likewise in the newer year."),
    "older_date": ("date", "Mean date of the images under the older outlines, by area."),
    "newer_date": ("date", "Likewise of the newer ones."),
    "years": ("yr", "Between the two."),
    "older_area_km2": ("km2", "Of the whole older outlines."),
    "newer_area_km2": ("km2", "Of the whole newer outlines."),
    "common_fraction": ("", "Share of both that lies on ground which both years have seen, 0-1."),
    "older_common_km2": ("km2", "Older area on that ground."),
    "newer_common_km2": ("km2", "Newer area on that ground."),
    "change_km2": ("km2", "Newer less older area on that ground."),
    "change_low_km2": ("km2", "Lower bound of its 90 % interval."),
    "change_high_km2": ("km2", "Upper bound of its 90 % interval."),
    "change_km2_per_yr": ("km2/yr", "Change over years."),
    "change_low_km2_per_yr": ("km2/yr", "Lower bound."),
    "change_high_km2_per_yr": ("km2/yr", "Upper bound."),
    "change_pct": ("%", "Change in per cent of the older area on that ground."),
    "change_low_pct": ("%", "Lower bound, the older area taken as it is."),
    "change_high_pct": ("%", "Upper bound, likewise."),
    "older_debris_km2": ("km2", "Debris-covered ice of the older year on ground that both have seen."),
    "newer_debris_km2": ("km2", "Likewise of the newer year."),
    "debris_change_km2": ("km2", "Newer less older; no interval is stated for it."),
    "retreat_m": (
        "m",
        "Retreat of the terminus along the centre line of the largest outline; advances are "
        "negative; empty where a year has not seen the ground or there is no line.",
    ),
    "retreat_low_m": ("m", "Lower bound of its 90 % interval, from the probability of ice along the line."),
    "retreat_high_m": ("m", "Upper bound."),
    "retreat_m_per_yr": ("m/yr", "Retreat over years."),
}
"""Unit and meaning of the columns of ``glaciers.csv`` and ``glaciers.parquet``."""

_RENAMED = {
    "older_seen_km2": "older_common_km2",
    "newer_seen_km2": "newer_common_km2",
    "older_seen_debris_km2": "older_debris_km2",
    "newer_seen_debris_km2": "newer_debris_km2",
}
_DECIMALS = 6
_TOLD = "change.json"


def write_changes(found: Sequence[Change], out: str) -> list[str]:
    """Writes tables, maps and charts of regions into a folder or URL; returns the names of the files.

    ``glaciers.csv`` and ``glaciers.parquet`` (a row an event, :data:`COLUMNS`), ``regions.csv``,
    ``series.csv``, ``change.json`` with all of it but the geometry, ``attributes_metadata.json``, and a
    ``map-<region>.png`` (where either year has a glacier) and ``series-<region>.png`` each. They replace
    those of an earlier comparison.

    Raises:
        OutputError: if a file cannot be written, or the folder holds something else.
    """
    earlier = require_own(out)
    glaciers = gpd.GeoDataFrame(
        pd.concat([_glaciers(one) for one in found], ignore_index=True), crs="EPSG:4326"
    )
    plain = pd.DataFrame(glaciers.drop(columns="geometry"))
    totals = [
        {"region": one.region, "older": one.years[0], "newer": one.years[1], **one.total} for one in found
    ]
    series = pd.concat([one.series.assign(region=one.region) for one in found], ignore_index=True)
    series = series[["region", *series.columns.drop("region")]]
    stored = io.BytesIO()
    glaciers.to_parquet(stored, index=False, schema_version="1.1.0", write_covering_bbox=True)
    meant = {name: {"units": unit, "description": text} for name, (unit, text) in COLUMNS.items()}
    files = {
        # first, since it is by this that a folder is known again, after a full disk too
        _TOLD: _json({"regions": totals, "series": _records(series), "glaciers": _records(plain)}),
        "glaciers.csv": _csv(plain),
        "glaciers.parquet": stored.getvalue(),
        "regions.csv": _csv(pd.json_normalize(totals, sep="_")),
        "series.csv": _csv(series),
        "attributes_metadata.json": _json(meant),
    }
    for one in found:
        if len(one.glaciers):
            files[f"map-{one.region}.png"] = draw_change(one)
        files[f"series-{one.region}.png"] = draw_series(one)
    for name, content in files.items():
        put(f"{out}/{name}", content)
    objects = Objects(out)
    for region in earlier:
        for name in (f"map-{region}.png", f"series-{region}.png"):
            if name not in files:
                objects.delete(name)
    return list(files)


def require_own(out: str) -> list[str]:
    """See that a folder is empty, absent, or that of an earlier comparison, whose regions are returned.

    Raises:
        OutputError: what it holds may be somebody's outlines, whose table has the name of ours.
    """
    objects = Objects(out)
    names = [name for name in objects.names() if not name.startswith(".")]
    if not names:
        return []
    try:
        told = json.loads(objects.get(_TOLD) or b"")
        regions = [str(one["region"]) for one in told["regions"]]
        if {"series", "glaciers"} <= set(told):
            return regions
    except (ValueError, KeyError, TypeError):
        pass  # not ours
    raise OutputError(
        f"output {out}, which holds {', '.join(names[:3])} and no {_TOLD} of a comparison",
        "a new or empty folder, or that of an earlier comparison",
        "give another --out",
    )


def _glaciers(change: Change) -> gpd.GeoDataFrame:
    table = change.glaciers.rename(columns=_RENAMED).assign(region=change.region)
    numbers = table.select_dtypes("float").columns
    table[numbers] = table[numbers].round(_DECIMALS)
    return table[[*COLUMNS, "geometry"]]


def _csv(table: pd.DataFrame) -> bytes:
    return str(table.to_csv(index=False, lineterminator="\n", date_format="%Y-%m-%d")).encode()


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return list(json.loads(table.to_json(orient="records", date_format="iso", date_unit="s")))


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
