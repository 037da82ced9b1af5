"""A year's outlines as PMTiles: one file from which a map on the web reads the tiles that it shows.

GDAL's writer (https://gdal.org/en/stable/drivers/vector/pmtiles.html) makes an archive of one layer at a
time. Archives of several layers are joined tile by tile without being decoded: a vector tile is a protobuf
message with a repeated field for its layers, and such messages are merged by putting one after the other
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). Of tippecanoe and GDAL the latter was
taken: it drops nothing from zoom 7 on, keeps shared borders shared, as it only rounds to the tile's grid, and
is there already.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyogrio
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from cryoscale.write.layers import COMPANIONS, GLACIERS, parts
from cryoscale.write.vectors import move

MAX_ZOOM = 12
"""Where a tile's grid is 2.4 m on the equator: closer than the outlines are known."""

_LAYERS = {"glaciers": GLACIERS, **COMPANIONS}
_MOST_BYTES = 2_000_000
"""Of a tile; GDAL's own limit of 500,000 would blur dense ice at the closest zooms."""

Tile = tuple[int, bytes]
"""Its number on the curve of the archive, and its content, not compressed."""


def write_tiles(geopackage: Path, target: Path, *, title: str) -> bool:
    """Writes the layers glaciers, debris and divides of a GeoPackage as PMTiles of zooms 0 to 12.

    Args:
        geopackage: the outlines of a year.
        target: the file to write; it appears whole or not at all.
        title: for the archive's metadata.

    Returns:
        Whether there was anything to write: an archive without tiles is none, and beyond 85 degrees of
        latitude there are none.

    Raises:
        OutputError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch, ExitStack() as stack:
        archives = {}
        for layer, sql in _LAYERS.items():
            path = Path(scratch, f"{layer}.pmtiles")
            if _write_layer(geopackage, sql, layer, path):
                archives[layer] = MmapSource(stack.enter_context(path.open("rb")))
        if not archives:
            return False
        joined = Path(scratch, "joined.pmtiles")
        if not _join(archives, joined, title):
            return False
        move(joined, target)
    return True


def _write_layer(geopackage: Path, sql: str, layer: str, path: Path) -> bool:
    """One layer as an archive of its own, in parts; whether it has anything."""
    frames = (pa.table(frame.to_arrow(index=False)) for frame in parts(geopackage, sql) if len(frame))
    first = next(frames, None)
    if first is None:
        return False

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for frame in frames:
            yield from frame.cast(first.schema).to_batches()

    pyogrio.write_arrow(
        pa.RecordBatchReader.from_batches(first.schema, batches()),
        path,
        driver="PMTiles",
        layer=layer,
        geometry_name="geometry",
        geometry_type="Unknown",
        crs="EPSG:4326",
        dataset_options={"MINZOOM": "0", "MAXZOOM": str(MAX_ZOOM), "MAX_SIZE": str(_MOST_BYTES)},
    )
    return True


def _join(archives: Mapping[str, Any], path: Path, title: str) -> bool:
    """All layers of each tile into one archive; whether there was a tile."""
    headers = [Reader(source).header() for source in archives.values()]
    metadata = [Reader(source).metadata() for source in archives.values()]
    west, south = (min(header[key] for header in headers) for key in ("min_lon_e7", "min_lat_e7"))
    east, north = (max(header[key] for header in headers) for key in ("max_lon_e7", "max_lat_e7"))
    with path.open("wb") as file:
        writer = Writer(file)
        for number, same in groupby(merge(*map(_tiles, archives.values()), key=_number), key=_number):
            # one time stamp for all, so that the same outlines make the same bytes
            writer.write_tile(number, gzip.compress(b"".join(tile[1] for tile in same), mtime=0))
        if not writer.addressed_tiles:
            return False
        writer.finalize(
            {
                "tile_type": TileType.MVT,
                "tile_compression": Compression.GZIP,
                "min_lon_e7": west,
                "min_lat_e7": south,
                "max_lon_e7": east,
                "max_lat_e7": north,
                "center_zoom": min(9, MAX_ZOOM),
                "center_lon_e7": (west + east) // 2,
                "center_lat_e7": (south + north) // 2,
            },
            {
                "name": title,
                "format": "pbf",
                "type": "overlay",
                "vector_layers": [layer for told in metadata for layer in told["vector_layers"]],
            },
        )
    return True


def _number(tile: Tile) -> int:
    return tile[0]


def _tiles(source: Any) -> Iterator[Tile]:
    for zxy, content in all_tiles(source):
        yield zxy_to_tileid(*zxy), gzip.decompress(content)
