"""Layers of polygons and lines on disk: GeoParquet read and written in parts, files that appear whole."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from cryoscale.errors import OutputError
from cryoscale.room import full_disk_told


def read_parts(url: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Columns of an inventory in the parts in which it was written; with geometry as a GeoDataFrame."""
    with fsspec.open(url, "rb") as file:
        stored = pq.ParquetFile(file)
        for group in range(stored.num_row_groups):
            frame = stored.read_row_group(group, columns=list(columns)).to_pandas()
            if "geometry" in columns:
                shapes = shapely.from_wkb(frame.pop("geometry").to_numpy())
                frame = gpd.GeoDataFrame(frame, geometry=shapes, crs="EPSG:4326")
            yield frame


def frame_of(columns: Mapping[str, Any] | pd.DataFrame, shapes: Sequence[bytes]) -> gpd.GeoDataFrame:
    """A table in WGS 84 with shapes that are given as WKB."""
    geometry = list(shapely.from_wkb(np.array(shapes, object)))
    return gpd.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")


def write_parts(
    frames: Iterator[gpd.GeoDataFrame], path: str | os.PathLike[str], bounds: Sequence[float] | None
) -> None:
    """GeoParquet of tables of the same columns, at least one, each a row group; whole or not at all.

    Args:
        frames: the parts.
        path: a path, or an fsspec URL.
        bounds: west, south, east, north of all, None where there is nothing.

    Raises:
        OutputError: if the file cannot be written.
    """
    parts = map(_geoparquet, frames)
    first = next(parts)
    geo = json.loads(first.schema.metadata[b"geo"])
    if bounds is not None:
        geo["columns"]["geometry"]["bbox"] = list(bounds)  # that of the first part stands there
    if geo["columns"]["geometry"]["geometry_types"] != ["Polygon"]:
        # lines of later parts may be of several pieces; an empty list is GeoParquet's word for not known
        geo["columns"]["geometry"]["geometry_types"] = []
    schema = first.schema.with_metadata({**first.schema.metadata, b"geo": json.dumps(geo).encode()})
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
        local = Path(folder, "part.parquet")
        with pq.ParquetWriter(local, schema) as writer:
            writer.write_table(first.cast(schema))
            for part in parts:
                writer.write_table(part.cast(schema))
        move(local, path)


def _geoparquet(part: gpd.GeoDataFrame) -> pa.Table:
    """A part as geopandas would store it, since only its writer knows the metadata of GeoParquet."""
    stored = io.BytesIO()
    part.to_parquet(stored, index=False, schema_version="1.1.0", write_covering_bbox=True)
    return pq.read_table(stored)


def put_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
        local = Path(folder, "text")
        local.write_text(text, encoding="utf-8")
        move(local, path)


def move(file: Path, url: str | os.PathLike[str]) -> None:
    """Put a local file in its place, a path or an fsspec URL, whole or not at all.

    Raises:
        OutputError: if it cannot be put there.
        NoRoomError: if the disk is full or over quota.
    """
    target = os.fspath(url)
    try:
        with full_disk_told(target):
            _put_file(file, target)
    except OSError as error:
        raise OutputError(target, "a path that can be written", f"choose another: {error}") from error


def _put_file(file: Path, target: str) -> None:
    if "://" in target:
        filesystem, path = fsspec.core.url_to_fs(target)
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        filesystem.put_file(str(file), path)
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(target).with_name(f".{uuid.uuid4().hex}.partial")
    try:
        shutil.move(file, partial)  # the temporary folder may lie on another disk
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
