"""Outlines of 100,000 blocks, streamed: the peak of memory beside that of a tenth of them.

``python -m benchmarks.streaming [--scale tiny|full]`` polygonises maps that lie nowhere: every block is cut
from one made-up piece of ground that continues itself on all sides, as it is asked for. The grounds are those
of :mod:`benchmarks.memory`: ``glaciers``, many bodies with ragged rims over the borders of blocks, and
``complex``, one body of ice with debris and nunataks over the whole region. Outlines with their counts go
into GeoParquet. Each region has a process of its own, whose peak (``VmHWM``) is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from benchmarks.memory import CLASSES, EPSG, ground
from benchmarks.peak import take_peak_mib
from cryoscale.bench import record

_ROOT = Path(__file__).parents[1]
_WEST_M, _NORTH_M = 300_000, 5_500_000


@dataclass(frozen=True)
class Region:
    """``rows`` x ``cols`` blocks of an edge of ``block_px`` pixels, cut from a piece of ``ground_px``."""

    kind: str
    rows: int
    cols: int
    block_px: int
    ground_px: int


SCALES = {
    "tiny": ((2, 2), (4, 5), 64, 128),
    "full": ((100, 100), (400, 250), 64, 1024),
}
"""Rows and columns of the small and of the large region, block_px, ground_px; 64 px, since what a block
costs beside its pixels is what this is about."""


class _Repeated(BackendArray):
    """A layer ``(…, y, x)`` that repeats a piece of ground; nothing is held but the piece."""

    def __init__(self, piece: NDArray[np.generic], height: int, width: int) -> None:
        self._piece = piece
        self.shape = (*piece.shape[:-2], height, width)
        self.dtype = piece.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._cut)

    def _cut(self, key: tuple[int | slice, ...]) -> NDArray[np.generic]:
        *ahead, y, x = key
        layer = self._piece[tuple(ahead)]
        for axis, part in ((-2, y), (-1, x)):
            at = np.arange(self.shape[axis])[part] % self._piece.shape[axis]
            layer = layer.take(at, axis=axis)
        return layer


def map_of(region: Region) -> xr.Dataset:
    """The map of a region, lazy."""
    height, width = region.rows * region.block_px, region.cols * region.block_px
    layers = ground(region.kind, region.ground_px)
    variables = {}
    for name in ("label", "probability", "confidence", "source_date"):
        layer = _Repeated(np.asarray(layers[name]), height, width)
        dims = ("class", "y", "x") if len(layer.shape) == 3 else ("y", "x")
        variables[name] = xr.Variable(dims, indexing.LazilyIndexedArray(layer))
    x = _WEST_M + 10.0 * (np.arange(width) + 0.5)
    y = _NORTH_M - 10.0 * (np.arange(height) + 0.5)
    attributes = {"proj:code": f"EPSG:{EPSG}", "cryoscale:block_px": region.block_px}
    return xr.Dataset(variables, {"class": list(CLASSES), "y": y, "x": x}, attributes)


def stream(region: Region) -> dict[str, Any]:
    """Peak in MiB, seconds, number and bytes of the outlines of a region, in this process."""
    from cryoscale.write.outlines import survey

    dataset = map_of(region)
    import_mib, began = take_peak_mib(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cryoscale-streaming-") as folder:
        path = Path(folder, "outlines.parquet")
        with survey({EPSG: dataset}) as found:
            found.write_outlines(path)
            count = sum(len(part) for part in found.glaciers())
        stored = path.stat().st_size
    return {
        "blocks": region.rows * region.cols,
        "before_mib": import_mib,
        "peak_mib": take_peak_mib(),
        "seconds": round(time.perf_counter() - began, 1),
        "outlines": count,
        "parquet_bytes": stored,
    }


def measured(region: Region) -> dict[str, Any]:
    """:func:`stream` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--region", json.dumps(asdict(region))]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--ground", choices=("glaciers", "complex"), action="append")
    parser.add_argument("--out", type=Path, default=RESULTS / "streaming.jsonl")
    parser.add_argument("--region", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.region:
        print(json.dumps(stream(Region(**json.loads(given.region)))))
        return
    record.require_writable(given.out)
    small, large, block_px, ground_px = SCALES[given.scale]
    results = {}
    for kind in given.ground or ("glaciers", "complex"):
        rows = [measured(Region(kind, *size, block_px, ground_px)) for size in (small, large)]
        ratio = rows[1]["peak_mib"] / rows[0]["peak_mib"]
        results[kind] = {"small": rows[0], "large": rows[1], "ratio": round(ratio, 3)}
        for row in rows:
            print(
                f"{kind:10}{row['blocks']:>8} blocks, {row['outlines']:>8} outlines: "
                f"peak {row['peak_mib']:.0f} MiB, {1000 * row['seconds'] / row['blocks']:.1f} ms a block"
            )
        print(f"{kind:10}the peak is {ratio:.2f} times that of {rows[0]['blocks']} blocks")
    sizes = {"scale": given.scale, "block_px": block_px, "ground_px": ground_px}
    method = (
        "outlines with counts, dates and intervals of a lazily made map of one zone, into GeoParquet; each "
        "region in a fresh process; peak is VmHWM"
    )
    packages = ("cryoscale", "numpy", "xarray", "shapely", "geopandas", "pyarrow")
    record.append(
        given.out, record.line("streaming", method=method, sizes=sizes, results=results, packages=packages)
    )


if __name__ == "__main__":
    main()
