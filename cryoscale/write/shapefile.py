"""Shapefiles as the RGI 7 has them: text of 80 characters, reals of 24 with 15 decimals, whole numbers of 18.

These are the widths of the RGI's own files, and what GDAL gives text, doubles and 64-bit integers
(https://gdal.org/en/stable/drivers/vector/shapefile.html). A name has at most 10 characters there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyogrio

from cryoscale.errors import OutputError
from cryoscale.room import full_disk_told
from cryoscale.write.columns import metadata
from cryoscale.write.layers import parts

_LONGEST_NAME = 10
_LAYERS: Mapping[str, Literal["Polygon", "LineString"]] = {
    "glaciers": "Polygon",
    "debris": "Polygon",
    "divides": "LineString",
}


def write_shapefile(
    frames: Iterator[gpd.GeoDataFrame], path: Path, geometry: Literal["Polygon", "LineString"]
) -> None:
    """Writes parts of the same columns, at least one, as a shapefile in UTF-8.

    Args:
        frames: text as "string", whole numbers as "Int64", reals as "float64"; names of 10 characters.
        path: of the ``.shp``; its companions lie beside it.
        geometry: of all parts.
    """
    tables = (pa.table(frame.to_arrow(index=False)) for frame in frames)
    first = next(tables)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in chain([first], tables):
            yield from table.cast(first.schema).to_batches()

    pyogrio.write_arrow(
        pa.RecordBatchReader.from_batches(first.schema, batches()),
        path,
        driver="ESRI Shapefile",
        geometry_name="geometry",
        geometry_type=geometry,
        crs="EPSG:4326",
        encoding="UTF-8",
    )


def write_folder(geopackage: Path, target: Path) -> None:
    """Writes a year's layers with all their columns as shapefiles into a folder, and what the columns mean.

    Longer names are cut to 10 characters, and numbered where two become the same; ``columns.json`` gives
    the full name of each with its unit and meaning. Text ends after 254 bytes, the format's most.

    Raises:
        OutputError: the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch:
        made = Path(scratch, target.name)
        made.mkdir()
        told: dict[str, dict[str, Any]] = {}
        for layer, geometry in _LAYERS.items():
            names = short_names(list(pyogrio.read_info(geopackage, layer=layer)["fields"]))
            told[layer] = {short: {"name": name, **metadata().get(name, {})} for name, short in names.items()}
            frames = (
                plain(frame).rename(columns=names) for frame in parts(geopackage, f"SELECT * FROM {layer}")
            )
            write_shapefile(frames, made / f"{layer}.shp", geometry)
        text = json.dumps(told, indent=2, ensure_ascii=False)
        (made / "columns.json").write_text(f"{text}\n", encoding="utf-8")
        move_folder(made, target)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name in at most 10 characters, all of them different."""
    given: dict[str, str] = {name: name for name in names if len(name) <= _LONGEST_NAME}
    for name in names:
        short, number = name[:_LONGEST_NAME], 1
        while name not in given and short in given.values():
            number += 1
            short = f"{name[: _LONGEST_NAME - len(str(number))]}{number}"
        given.setdefault(name, short)
    return {name: given[name] for name in names}


def plain(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """A table in the three types that the RGI's shapefiles have: dates as text, truth as 0 and 1."""
    columns: dict[str, pd.Series] = {}
    for name in [str(name) for name in frame.columns if name != "geometry"]:
        column = frame[name]
        if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_integer_dtype(column.dtype):
            columns[name] = column.astype("Int64")
        elif pd.api.types.is_float_dtype(column.dtype):
            columns[name] = column.astype("float64")
        elif pd.api.types.is_datetime64_any_dtype(column.dtype):
            columns[name] = iso(column)
        else:
            columns[name] = column.astype("string")
    return gpd.GeoDataFrame(pd.DataFrame(columns), geometry=frame.geometry, crs=frame.crs)


def iso(dates: pd.Series) -> pd.Series:
    """Dates as the RGI writes them, e.g. 2003-07-30T00:00:00."""
    return pd.to_datetime(dates.astype(object), utc=True).dt.strftime("%Y-%m-%dT%H:%M:%S").astype("string")


def move_folder(folder: Path, target: Path) -> None:
    """Put a local folder in its place, whole or not at all; what lay there is replaced.

    Raises:
        OutputError: it cannot be put there.
        NoRoomError: the disk is full or over quota.
    """
    fresh, stale = (target.with_name(f".{uuid.uuid4().hex}.partial") for _ in range(2))

    def copy(file: str, to: str) -> str:
        with full_disk_told(str(target)):  # of an OSError copytree would keep the words alone
            return shutil.copy2(file, to)

    try:
        with full_disk_told(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, fresh, copy)  # the temporary folder may lie on another disk
            if target.exists():
                target.rename(stale)
            fresh.rename(target)
    except OSError as error:
        raise OutputError(str(target), "a folder that can be written", f"choose another: {error}") from error
    finally:
        for left in (fresh, stale):
            shutil.rmtree(left, ignore_errors=True)
