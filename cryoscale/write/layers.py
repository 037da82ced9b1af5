"""The layers of a year's GeoPackage in parts, for the writers of files that people look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely

from cryoscale.write.zones import cut_at_antimeridian

_PART_ROWS = 512
"""Outlines in memory at once; few, since a single one may have a million corners."""

COMPANIONS = {
    "debris": "SELECT glac_id, round(area_km2, 4) AS area_km2, geom FROM debris",
    "divides": "SELECT glac_id_1, glac_id_2, round(length_m, 1) AS length_m, geom FROM divides",
}
"""What lies beside the glaciers, by layer, as SQL."""

GLACIERS = """SELECT glac_id, rgi_id, glac_name, substr(src_date, 1, 10) AS src_date,
  round(area_km2, 4) AS area_km2, round(area_low_km2, 4) AS area_low_km2,
  round(area_high_km2, 4) AS area_high_km2, round(debris_fraction, 3) AS debris_fraction,
  round(confidence, 3) AS confidence, round(zmin_m) AS zmin_m, round(zmed_m) AS zmed_m,
  round(zmax_m) AS zmax_m, lmax_m, term_type, year, geom FROM glaciers"""
"""The main attributes of the glaciers, rounded to what they are good for, as SQL."""


def parts(geopackage: Path, sql: str) -> Iterator[gpd.GeoDataFrame]:
    """What a query finds in a GeoPackage, in parts, in WGS 84 with longitudes in -180..180.

    One empty part where it finds nothing, whose columns have their types all the same.

    Args:
        geopackage: as :meth:`cryoscale.write.inventory.Inventory.write` makes it.
        sql: in SQLite's dialect, with ``geom`` among its columns.
    """
    with pyogrio.open_arrow(geopackage, sql=sql, batch_size=_PART_ROWS, use_pyarrow=True) as (meta, reader):
        geometry = meta["geometry_name"] or "wkb_geometry"
        given = False
        for batch in reader:
            given = True
            yield _frame_of(pa.Table.from_batches([batch]), geometry, meta["fid_column"])
        if not given:
            yield _frame_of(reader.schema.empty_table(), geometry, meta["fid_column"])


def _frame_of(table: pa.Table, geometry: str, number: str) -> gpd.GeoDataFrame:
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)  # text without any stays text
    shapes = shapely.from_wkb(frame.pop(geometry).to_numpy())
    frame = frame.drop(columns=[number] if number in frame else [])
    return gpd.GeoDataFrame(frame, geometry=_on_globe(shapes), crs="EPSG:4326")


def _on_globe(shapes: np.ndarray[tuple[int], np.dtype[np.object_]]) -> list[shapely.Geometry]:
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    beyond = (bounds[:, 0] < -180.0) | (bounds[:, 2] > 180.0)
    return [cut_at_antimeridian(one) if cut else one for one, cut in zip(shapes, beyond, strict=True)]
