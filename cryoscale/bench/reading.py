"""Blocks of scenes over loopback HTTP with latency, beside stackstac, odc-stac and rasterio."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import rasterio.errors
import urllib3

from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.bench.ranges import Request, serve
from cryoscale.bench.readers import BASE, ways
from cryoscale.bench.scenes import SPECTRAL, items_at, write_scenes
from cryoscale.grid import Window
from cryoscale.read.inputs import READ_THREADS

LATENCY_S = 0.02
RIVALS = ("stackstac", "odc-stac", "rasterio's warper")
"""As people use them; the quickest that is installed is the rival, the others are told beside it."""
BESIDE = ("rasterio + our resampling",)
"""Told beside it as well: what our own requests cost, above GDAL's client of HTTP."""


def measure(region_px: int, block_px: int, scenes: int, *, turns: int = 3) -> Figure:
    """Pixels of bands a second; limit: the ranges that were asked for, by plain requests and undecoded."""
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # of a library's own warper
    tokens = count()
    readers = {name: read for name, read in ways().items() if name in (BASE, *RIVALS, *BESIDE)}
    best: dict[str, float] = {}
    amount = region_px**2 * len(SPECTRAL) * scenes / 1e6
    with tempfile.TemporaryDirectory() as folder:
        files, names = write_scenes(Path(folder), region_px + 512, scenes)
        # off the tiles' borders, as blocks with a halo are
        region = Window(files.epsg, files.row + 244, files.col + 244, region_px, region_px)
        with serve(Path(folder), LATENCY_S) as server:
            asked: dict[str, list[Request]] = {}
            for _ in range(turns):
                for name, read in readers.items():
                    items = items_at(f"{server.url}/{next(tokens)}", names, SPECTRAL, region)
                    server.take()
                    begun = time.perf_counter()
                    read(items, SPECTRAL, region, block_px)
                    took = time.perf_counter() - begun
                    best[name] = min(best.get(name, took), took)
                    asked[name] = server.take()
            plain_s = min(_plain_s(server.url, asked[BASE]) for _ in range(turns))
    rates = {name: amount / took for name, took in best.items()}
    rival = max((name for name in RIVALS if name in rates), key=lambda name: rates[name])
    return Figure(
        "reading",
        rates[BASE],
        "Mpixel/s",
        amount / plain_s,
        f"the same ranges by plain requests on {READ_THREADS} threads, {LATENCY_S * 1000:.0f} ms late each",
        Rival(rival, rates[rival], "the same pixels of the same files, as many threads"),
        {
            "block_px": block_px,
            "scenes": scenes,
            "requests": {name: len(requests) for name, requests in asked.items()},
            "fetched_mb": {
                name: rounded(sum(request.sent_bytes for request in requests) / 1e6)
                for name, requests in asked.items()
            },
            "others": {name: rounded(rate) for name, rate in rates.items() if name not in (BASE, rival)},
            "times_each": {name: rounded(rates[BASE] / rate) for name, rate in rates.items() if name != BASE},
        },
    )


def _plain_s(url: str, requests: Sequence[Request]) -> float:
    """Fetch what was fetched, and nothing more."""
    with urllib3.PoolManager(maxsize=READ_THREADS) as pool, ThreadPoolExecutor(READ_THREADS) as threads:

        def fetch(request: Request) -> int:
            headers = {"Range": f"bytes={request.start}-{request.start + max(request.sent_bytes, 1) - 1}"}
            return len(pool.request("GET", f"{url}/again/{request.path}", headers=headers).data)

        begun = time.perf_counter()
        fetched = sum(threads.map(fetch, requests))
        took = time.perf_counter() - begun
    assert fetched >= sum(request.sent_bytes for request in requests)
    return took
