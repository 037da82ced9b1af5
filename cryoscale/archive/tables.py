"""Outlines as an archive has them: columns of today also where a file of an earlier cryoscale lacks some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import fsspec
import geopandas as gpd
import pandas as pd
import pyarrow.parquet as pq

from cryoscale.write.columns import COLUMNS
from cryoscale.write.vectors import read_parts

_YEAR = "year"
TYPES = {column.name: column.dtype for column in COLUMNS if column.name != _YEAR}
"""Of an inventory's columns but the year: the folder tells it, and Hive's readers refuse what both tell."""


def read_complete(url: str, names: Sequence[str]) -> Iterator[gpd.GeoDataFrame]:
    """Columns of a file of outlines with their geometry, in parts; those that it lacks are empty."""
    with fsspec.open(url, "rb") as file:
        there = set(pq.ParquetFile(file).schema_arrow.names)
    missing = [name for name in names if name not in there]
    for part in read_parts(url, [*(name for name in names if name in there), "geometry"]):
        for name in missing:
            kind = TYPES.get(name, "string")
            part[name] = pd.Series(None, part.index, dtype="boolean" if kind == "bool" else kind)
        yield gpd.GeoDataFrame(part[[*names, "geometry"]])


def without_year(url: str) -> Iterator[gpd.GeoDataFrame]:
    """A run's table in parts, as it is but for the year; the boxes of shapes are written anew with it."""
    with fsspec.open(url, "rb") as file:
        there = pq.ParquetFile(file).schema_arrow.names
    for part in read_parts(url, [name for name in there if name not in (_YEAR, "bbox")]):
        yield gpd.GeoDataFrame(part)
