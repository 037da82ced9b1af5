"""Ways to read the same COGs over loopback HTTP with latency: requests, bytes, seconds, equal pixels.

``python -m benchmarks.reading [--scale tiny|moderate] [--out FILE]`` writes COGs of the kind of a Sentinel-2
scene (10 m and 20 m bands, 512-pixel tiles, deflate) and reads the same blocks by each way, in turns, each
repeat with addresses that nobody has seen. Seconds, of the clock and of the reading process's CPU (which
others at work on the machine disturb less), are ratios to cryoscale's own block reader in the same turn, and
pixels are compared with that reader's. Each way also reads an elevation model in degrees once as
one region and once as sixteen small ones, to see whether a part is the part of the whole. Last, neighbouring
blocks are read as a run reads them, with their halo and in its order, for the bytes that are fetched to those
under block and halo: files can be had in whole tiles only, and what these alone come to for a block without
neighbours is reckoned for larger blocks and tiles too. The same is asked of blocks that several machines
share, each of which keeps what it was sent: dealt as a run deals them, and to whoever is free.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.errors
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from cryoscale.bench import record
from cryoscale.bench.ranges import RangeServer, serve
from cryoscale.bench.readers import BASE, blocks_of, direct, ways
from cryoscale.bench.scenes import EPSG, FINE, SPECTRAL, items_at, write_scenes
from cryoscale.curve import along_curve
from cryoscale.dealing import Dealing
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import Block, Window
from cryoscale.infer.tiles import read_window
from cryoscale.read import kept
from cryoscale.read.inputs import READ_THREADS
from cryoscale.read.kept import Kept

LATENCY_S = 0.02
TILES_PX = (512, 1024)
"""Edges of the tiles of a Sentinel-2 scene's files: of those that are written here, and of larger ones."""

COMPARED = ("rasterio + our resampling", "odc-stac", "stackstac")
"""Read a run's blocks too; the last two draw a graph for each."""

PACKAGES = (
    "cryoscale",
    "odc-stac",
    "odc-loader",
    "stackstac",
    "rasterio",
    "async-geotiff",
    "async-tiff",
    "obstore",
    "urllib3",
    "dask",
    "xarray",
    "numpy",
)


@dataclass(frozen=True)
class Scale:
    """How much is read: edges of a file, of the region and of a block (pixels), scenes, turns.

    ``run_blocks`` squared blocks of ``run_block_px`` are read with their halo, for tiles of ``run_tile_px``;
    by ``machines`` ``shared_blocks`` squared blocks of half the edge.
    """

    file_px: int
    region_px: int
    block_px: int
    scenes: int
    turns: int
    run_block_px: int
    run_tile_px: int
    run_blocks: int
    machines: int
    shared_blocks: int


SCALES = {
    "tiny": Scale(1024, 512, 256, 1, 1, 256, run_tile_px=64, run_blocks=2, machines=2, shared_blocks=3),
    "moderate": Scale(
        2560, 2048, 1024, 8, 3, 2048, run_tile_px=256, run_blocks=3, machines=4, shared_blocks=8
    ),
}


def measure(scale: Scale, latency_s: float = LATENCY_S) -> dict[str, dict[str, Any]]:
    """Requests, bytes, seconds and equality of every way; and the bytes of blocks with their halo."""
    tokens = count()
    results: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files, names = write_scenes(Path(folder), scale.file_px, scale.scenes)
        # off the tiles' borders, as blocks with a halo are
        start = (scale.file_px - scale.region_px) // 2 - 12
        region = Window(files.epsg, files.row + start, files.col + start, scale.region_px, scale.region_px)
        readers = ways()
        with serve(Path(folder), latency_s) as server:
            for name, read in readers.items():
                results[name] = {"part_equals_whole": _exact(read, server, next(tokens), region)}
            want = None
            for turn in range(scale.turns):
                order = list(readers)
                for name in order[:1] + (order[1:] if turn % 2 == 0 else order[:0:-1]):
                    items = items_at(f"{server.url}/{next(tokens)}", names, SPECTRAL, region)
                    server.take()
                    begun, begun_cpu = time.perf_counter(), time.process_time()
                    got = readers[name](items, SPECTRAL, region, scale.block_px)
                    seconds.setdefault(name, []).append(time.perf_counter() - begun)
                    cpu.setdefault(name, []).append(time.process_time() - begun_cpu)
                    want = got if want is None else want
                    results[name] |= {**_asked(server), **_compared(got, want)}
        for name, row in results.items():
            for kind, times in (("seconds", seconds), ("cpu_seconds", cpu)):
                ratios = [own / base for own, base in zip(times[name], times[BASE], strict=True)]
                row |= {kind: _spread(times[name]), f"{kind}_ratio": _spread(ratios)}
        under = _bytes_under(Path(folder), names, files, region)
        for row in results.values():
            row["bytes_over_region"] = round(row["bytes"] / under, 3)
    return results


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def _asked(server: RangeServer) -> dict[str, int]:
    seen = server.take()
    return {
        "requests": len(seen),
        "header_requests": sum(request.start == 0 for request in seen),
        "bytes": sum(request.sent_bytes for request in seen),
    }


def _bytes_under(folder: Path, names: Sequence[str], files: Window, window: Window) -> float:
    """Bytes of the files as they lie on disk, without overviews' share, by the part of their area."""
    sizes = [(folder / name / f"{band}.tif").stat().st_size for name in names for band in SPECTRAL]
    # overviews hold a third as much as the image: 1/4 + 1/16 + ...
    return sum(sizes) * 0.75 * (window.width * window.height) / (files.width * files.height)


RUN = "cryoscale, ranges kept"
"""As a run's workers read: what one block was sent is there for the next."""


DEALT = ("dealt along the curve", "dealt to whoever is free", "nothing kept")
"""Ways to share a run's blocks: as :mod:`cryoscale.dealing`, as Dask, and without what is kept."""


def of_run(scale: Scale, latency_s: float = LATENCY_S) -> dict[str, Any]:
    """What a run's blocks with their halos cost, one after the other, to the bytes under block and halo."""
    tokens = count()
    readers = {BASE: direct} | {name: read for name, read in ways().items() if name in COMPARED}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as scratch:
        size = scale.run_block_px
        files, names = write_scenes(Path(folder), (scale.run_blocks + 1) * size, 1)
        windows = list(_run_windows(scale, files, size, scale.run_blocks))
        under = sum(_bytes_under(Path(folder), names, files, window) for window in windows)
        found: dict[str, dict[str, float]] = {}
        sums: dict[str, list[float]] = {}
        with serve(Path(folder), latency_s) as server:
            for name, read in ({RUN: direct} | readers).items():
                kept.keep_at(Kept(Path(scratch), 2**32) if name == RUN else None)
                token, begun = next(tokens), time.perf_counter()
                server.take()
                for window in windows:
                    items = items_at(f"{server.url}/{token}", names, SPECTRAL, window)
                    values = read(items, SPECTRAL, window, max(window.shape))
                    sums.setdefault(name, []).append(float(np.nansum(values[:, : len(FINE)], dtype=float)))
                took_s = time.perf_counter() - begun
                asked = _asked(server)
                ratio = round(asked["bytes"] / under, 3)
                found[name] = {**asked, "seconds": round(took_s, 3), "bytes_over_windows": ratio}
            kept.keep_at(None)
    equal = all(one == sums[RUN] for one in sums.values())
    reckoned = {
        str(block_px): {
            str(tile_px): whole_tiles(_with_halo(scale, block_px).width, tile_px) for tile_px in TILES_PX
        }
        for block_px in (size, 2 * size, 4 * size)
    }
    return {
        "blocks": len(windows),
        "edge_px": windows[0].width,
        "equal_at_10_m": equal,
        "ways": found,
        "whole_tiles_over_window": reckoned,
    }


def of_machines(scale: Scale) -> dict[str, Any]:
    """Bytes sent to machines that share a run, each with what it keeps, to those under blocks and halos."""
    size, side = scale.run_block_px // 2, scale.shared_blocks
    tokens, found = count(), {}
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder), 0.0) as server:
        files, names = write_scenes(Path(folder), (side + 1) * size, 1)
        windows = list(_run_windows(scale, files, size, side))
        under = sum(_bytes_under(Path(folder), names, files, window) for window in windows)
        for name in DEALT:
            token, dealing = next(tokens), Dealing(windows)
            with tempfile.TemporaryDirectory() as scratch:
                server.take()
                turns = cycle(map(str, range(scale.machines)))
                while len(dealing):
                    machine = next(turns)
                    window = dealing.take(machine if name == DEALT[0] else None)
                    assert window is not None
                    kept.keep_at(Kept(Path(scratch) / machine, 2**32) if name != DEALT[2] else None)
                    items = items_at(f"{server.url}/{token}", names, SPECTRAL, window)
                    direct(items, SPECTRAL, window, size)
                kept.keep_at(None)
            asked = _asked(server)
            found[name] = {**asked, "bytes_over_windows": round(asked["bytes"] / under, 3)}
    return {"blocks": len(windows), "edge_px": windows[0].width, "machines": scale.machines, "ways": found}


def whole_tiles(edge_px: int, tile_px: int) -> dict[str, float]:
    """Bytes of the tiles that a window of ``edge_px`` at 10 m meets, to those under it: all positions.

    Of the bands that are read here, in files whose tiles have as many pixels at 10 m and at 20 m.
    """
    first = np.arange(2 * tile_px)  # a tile at 20 m is as wide as two at 10 m

    def of(starts: NDArray[np.int64], edge: int) -> NDArray[np.float64]:
        tiles = (starts % tile_px + edge - 1) // tile_px + 1
        return np.multiply.outer(tiles, tiles) * (tile_px / edge) ** 2

    coarse = (len(SPECTRAL) - len(FINE)) / 4
    met = len(FINE) * of(first, edge_px) + coarse * of(first // 2, edge_px // 2)
    met /= len(FINE) + coarse
    found = {"min": met.min(), "mean": met.mean(), "max": met.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


def _with_halo(scale: Scale, block_px: int, row: int = 0, col: int = 0) -> Window:
    """What a run reads for a block on the lattice of its tiles."""
    step = scale.run_tile_px // 2
    block = Window(EPSG, row // step * step, col // step * step, block_px, block_px)
    return read_window(block, scale.run_tile_px, 0.5).pad(HALO_PX)


def _run_windows(scale: Scale, files: Window, size: int, side: int) -> Iterator[Window]:
    """What a run reads for neighbouring blocks, in the order of a run, off the files' tiles."""
    places = [(row, col) for row in range(side) for col in range(side)]
    blocks = [(2018, Block(EPSG, row, col, size)) for row, col in places]
    for _, block in along_curve(blocks):
        row, col = files.row + size // 3 + block.row * size, files.col + size // 4 + block.col * size
        yield _with_halo(scale, size, row, col)


def _exact(read: Any, server: RangeServer, token: int, region: Window) -> bool:
    """Whether an elevation model in degrees read region by region is bit for bit the one read whole."""
    items = items_at(f"{server.url}/{token}", ["dem"], ["elevation"], region)
    edge = min(region.width, 512)
    whole_region = Window(region.epsg, region.row, region.col, edge, edge)
    whole = read(items, ["elevation"], whole_region, edge)
    parts = np.full_like(whole, np.nan)
    for block in blocks_of(whole_region, edge // 4):
        rows, columns = block.slices_in(whole_region)
        parts[..., rows, columns] = read(items, ["elevation"], block, edge // 4)
    return bool(np.isfinite(whole).all() and np.array_equal(whole, parts))


def _compared(got: NDArray[np.float32], want: NDArray[np.float32]) -> dict[str, Any]:
    fine = len(FINE)
    return {
        "equal_at_10_m": bool(np.array_equal(got[:, :fine], want[:, :fine], equal_nan=True)),
        "equal_at_20_m": bool(np.array_equal(got[:, fine:], want[:, fine:], equal_nan=True)),
        "largest_difference_at_20_m": float(np.nanmax(np.abs(got[:, fine:] - want[:, fine:]))),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as lines of text."""
    heads = f"{'requests':>9}{'headers':>8}{'MB':>7}{'s':>7}{'ratio':>7}{'min':>6}{'max':>6}{'CPU':>6}"
    lines = [f"{'':32}{heads}  equal: 10 m   20 m   part = whole"]
    for name, row in results.items():
        ratio = row["seconds_ratio"]
        equal = "  ".join(
            f"{'yes' if row[key] else 'no':>5}"
            for key in ("equal_at_10_m", "equal_at_20_m", "part_equals_whole")
        )
        lines.append(
            f"{name:32}{row['requests']:9}{row['header_requests']:8}{row['bytes'] / 1e6:7.1f}"
            f"{row['seconds']['median']:7.2f}{ratio['median']:7.2f}{ratio['min']:6.2f}{ratio['max']:6.2f}"
            f"{row['cpu_seconds_ratio']['median']:6.2f}"
            f"        {equal}"
        )
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "reading.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # of a library's own warper
    results, run, shared = measure(scale), of_run(scale), of_machines(scale)
    print(table(results))
    print(f"{run['blocks']} blocks of a run with their halo ({run['edge_px']} px), one after the other:")
    print(f"{'':32}{'requests':>9}{'headers':>8}{'MB':>7}{'s':>7}  bytes to those under block and halo")
    for name, row in run["ways"].items():
        told = f"{row['requests']:9}{row['header_requests']:8}{row['bytes'] / 1e6:7.1f}{row['seconds']:7.2f}"
        print(f"{name:32}{told}  {row['bytes_over_windows']:.2f}")
    print(f"{shared['blocks']} blocks ({shared['edge_px']} px) shared by {shared['machines']} machines:")
    for name, row in shared["ways"].items():
        print(f"{name:32}{row['requests']:9}{row['bytes'] / 1e6:15.1f}{row['bytes_over_windows']:16.2f}")
    for block_px, by_tile in run["whole_tiles_over_window"].items():
        words = (
            f"{over['mean']:.2f} ({over['min']:.2f} to {over['max']:.2f}) of {tile_px} px"
            for tile_px, over in by_tile.items()
        )
        print(f"whole tiles alone, a block of {block_px} px with its halo: {', '.join(words)}")
    method = (
        f"COGs (512 px tiles, deflate) over loopback HTTP/1.1 from a process of its own, every answer "
        f"{LATENCY_S * 1000:.0f} ms late; bands {', '.join(SPECTRAL)}; {READ_THREADS} threads each; fresh "
        f"addresses every turn, ways in turns; seconds as min, median and max of {scale.turns}, their ratios "
        f"to '{BASE}' in the same turn; a run's blocks with their halo in the order of a run, each way once; "
        "machines by turns, each with a folder of its own for what it is sent"
    )
    sizes = {"scale": given.scale, **vars(scale), "latency_s": LATENCY_S}
    document = record.line(
        "reading",
        method=method,
        sizes=sizes,
        results={"ways": results, "run": run, "machines": shared},
        packages=PACKAGES,
    )
    record.append(given.out, document)


if __name__ == "__main__":
    main()
