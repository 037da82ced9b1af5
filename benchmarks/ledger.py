"""How long it takes to look through what is done: markers listed, read and held against the map's shards.

``python -m benchmarks.ledger [--scale tiny|moderate|full] [--out FILE]`` lays out ledger and shards of a
finished run (tiny files of the right names, since nothing here reads a shard) and times a run's
resumption over it, against what people would write: ``pathlib.rglob`` and ``json.loads``. Then the same
markers on an S3 server on loopback, with and without copies, against a request a marker; and ``verify`` over
blocks of 2048 pixels with real shards and outlines.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import geopandas
import numpy as np
import rasterio.features
import shapely.geometry
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import RESULTS, bucket
from benchmarks.command import Parser, command, require_extra
from cryoscale.bench import idle, record
from cryoscale.grid import Block, Window
from cryoscale.ledger import DONE, ITEMS, Ledger, Marker, Work, name_of
from cryoscale.manifest import digest
from cryoscale.read import snapshot
from cryoscale.results import Run
from cryoscale.resume import sound
from cryoscale.sealing import seal
from cryoscale.verify import verify
from cryoscale.write import mosaic
from cryoscale.write.arrays import ARRAYS

PACKAGES = ("cryoscale", "fsspec", "s3fs", "moto", "zarr", "pydantic")
YEAR = 2018
CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
SHARD = b"0" * 64

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """Markers on disk and on S3, of these read one by one, and blocks that are verified, of which edge."""

    markers: int
    s3_markers: int
    one_by_one: int
    verified: int
    block_px: int


SCALES = {
    "tiny": Scale(200, 60, 20, verified=2, block_px=128),
    "moderate": Scale(10_000, 2_000, 200, verified=8, block_px=2048),
    "full": Scale(100_000, 10_000, 500, verified=20, block_px=2048),
}


@dataclass
class Times:
    """Seconds of several calls by name, of the clock and of this process's CPU, which others disturb less."""

    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def of(self, name: str, call: Callable[[], T]) -> T:
        """What ``call`` returns; its time is noted."""
        start, cpu = time.perf_counter(), time.process_time()
        found = call()
        self.wall_s[name] = round(time.perf_counter() - start, 5)
        self.cpu_s[name] = round(time.process_time() - cpu, 5)
        return found

    def ratio(self, name: str, base: str) -> dict[str, float]:
        """How long one call took to another, by both clocks."""
        return {
            "wall": round(self.wall_s[name] / self.wall_s[base], 3),
            "cpu": round(self.cpu_s[name] / self.cpu_s[base], 3),
        }


# --- on disk ----------------------------------------------------------------------------------------


def lay_out(out: str, count: int) -> None:
    """The map's metadata, a small file a shard, and markers that say so."""
    works = idle.works(count)
    rows, cols = (count - 1) // idle.SIDE + 1, min(count, idle.SIDE)
    window = Window(idle.EPSG, 1 - rows, 0, rows, cols)
    mosaic.create(f"{out}/mosaic.zarr", year=YEAR, window=window, block_px=1, classes=CLASSES, attrs={})
    Ledger(out).begin(_manifest(count, {"years": [YEAR], "catalogue": "none"}))
    group = f"{out}/mosaic.zarr/{YEAR}/{idle.EPSG}"
    for row in range(rows):
        for name, spec in ARRAYS.items():
            os.makedirs(f"{group}/{name}/c/{'0/' if spec.by_class else ''}{row}", exist_ok=True)
    os.makedirs(os.path.dirname(f"{out}/{name_of(DONE, works[0])}"))
    for work in works:
        block = work[1]
        shards: dict[str, tuple[int, str]] = {}
        for name, spec in ARRAYS.items():
            path = f"{group}/{name}/c/{'0/' if spec.by_class else ''}{block.row - window.row}/{block.col}"
            shards[name] = _put(path, SHARD)
        _put(f"{out}/{name_of(DONE, work)}", _as_stored(work, shards))


def _put(path: str, content: bytes) -> tuple[int, str]:
    """Write without fsync, which would take hours; length and stamp as the store tells them."""
    with open(path, "wb", buffering=0) as file:
        file.write(content)
        state = os.fstat(file.fileno())
    return state.st_size, f"{state.st_mtime_ns}-{state.st_ino}"


def _as_stored(work: Work, shards: Mapping[str, tuple[int, str]]) -> bytes:
    return idle.marker_of(work).model_copy(update={"shards": dict(shards)}).to_bytes()


def one_by_one(out: str) -> int:
    """Every marker by ``rglob``, read and parsed, as people would."""
    return sum("checksum" in json.loads(path.read_text("utf-8")) for path in Path(out, DONE).rglob("*.json"))


def on_disk(count: int) -> dict[str, Any]:
    """Seconds to list, to read and to trust what is done."""
    with tempfile.TemporaryDirectory() as out:
        lay_out(out, count)
        ledger, told, times = Ledger(out), list[str](), Times()
        found = {times.of("rglob and json", lambda: one_by_one(out))}
        found.add(times.of("listing", lambda: len(ledger.done_works(1))))
        found.add(times.of("markers", lambda: sum(1 for _ in ledger.markers())))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found.add(times.of("sound", lambda: len(sound(ledger, told.append))))
        growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        found.add(times.of("status", lambda: Run(out).status().done))
    assert found == {count}, found
    assert not any("touched" in line for line in told), told  # no shard was read
    return {
        "markers": count,
        **asdict(times),
        "over_rglob_and_json": {
            name: times.ratio(name, "rglob and json") for name in ("listing", "markers", "sound", "status")
        },
        "sound_peak_growth_mib": round(growth_kib / 1024, 1),
    }


# --- on S3 ------------------------------------------------------------------------------------------


def on_s3(count: int, single: int) -> dict[str, Any]:
    """Seconds for all markers in an S3 bucket: one by one, concurrently, and from copies."""
    with bucket.serve(count) as out:
        ledger, times = Ledger(out), Times()
        next(iter(ledger.objects.list("nothing")), None)  # what is imported once is imported now
        works = times.of("listing", lambda: ledger.done_works(1))
        some = [name_of(DONE, work) for work in sorted(works)[:single]]
        times.of("one by one", lambda: [json.loads(ledger.objects.get(name) or b"") for name in some])
        apart = times.of("apart", lambda: sum(1 for _ in ledger.markers()))
        rolled = times.of("roll", ledger.roll)
        copied = times.of("copies", lambda: sum(1 for _ in ledger.markers()))
    assert len(works) == apart == copied == count, (len(works), apart, copied)
    of_all_s = times.wall_s["one by one"] / len(some) * count + times.wall_s["listing"]
    return {
        "markers": count,
        "rolled": rolled,
        **asdict(times),
        "one_by_one_of": len(some),
        "apart_over_one_by_one": round(times.wall_s["apart"] / of_all_s, 3),
        "copies_over_one_by_one": round(times.wall_s["copies"] / of_all_s, 3),
        "copies_over_apart": times.ratio("copies", "apart"),
    }


# --- verify -----------------------------------------------------------------------------------------


def finished(out: str, count: int, block_px: int) -> None:
    """A run with real shards, markers, outlines and its seal; its scenes and STAC items are left out."""
    works = [(YEAR, Block(idle.EPSG, -1, col, block_px)) for col in range(count)]
    window = Window(idle.EPSG, -block_px, 0, block_px, count * block_px)
    store, ledger, shapes = f"{out}/mosaic.zarr", Ledger(out), []
    mosaic.create(store, year=YEAR, window=window, block_px=block_px, classes=CLASSES, attrs={})
    for number, (year, block) in enumerate(works):
        layers = _layers(number, block_px)
        written = mosaic.write_block(store, year, block, layers)
        shards = mosaic.stamps(store, year, block)
        marker = idle.marker_of((year, block))
        ledger.mark(marker.model_copy(update={"checksum": written.checksum, "shards": shards}))
        ice = np.isin(layers["label"], (1, 2))
        affine = block.window.geobox.affine
        found = rasterio.features.shapes(ice.astype(np.uint8), mask=ice, transform=affine)
        shapes += [shapely.geometry.shape(shape) for shape, _ in found]
    outlines = geopandas.GeoDataFrame(geometry=shapes, crs=f"EPSG:{idle.EPSG}").to_crs(4326)
    Path(out, "inventory").mkdir()
    outlines.to_parquet(f"{out}/inventory/{YEAR}.parquet")
    snapshot.freeze({}, f"{out}/{ITEMS}")
    identity = {"years": [YEAR], "catalogue": snapshot.digest({})}
    planned = ledger.plan_blocks([block for _, block in works])
    ledger.begin({**_manifest(len(works), identity), "blocks_sha256": planned})
    seal(out)


def _manifest(blocks: int, identity: dict[str, Any]) -> dict[str, Any]:
    """What a run's record has at least."""
    of_the_run = {"name": "none", "config": {}, "versions": {}, "model": {"name": "none"}}
    named = {"identity": identity, "identity_sha256": digest(identity)}
    return {**of_the_run, **named, "context": {"blocks": blocks}}


def _layers(seed: int, block_px: int) -> dict[str, NDArray[Any]]:
    """A block's bands, with ice in some bodies and probabilities that compress as real ones do."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(len(CLASSES), block_px // 16, block_px // 16))
    smooth = np.stack([ndimage.zoom(ndimage.gaussian_filter(one, 2), 16, order=1) for one in coarse])
    noisy = 40 * smooth + rng.normal(scale=0.2, size=smooth.shape)
    odds = np.exp(noisy - noisy.max(axis=0))
    share = odds / odds.sum(axis=0)
    probability = np.rint(250 * share).astype(np.uint8)
    # whole bodies, as smoothed fields give them; the noise is in the probabilities alone
    label = smooth.argmax(axis=0).astype(np.uint8)
    return {
        "probability": probability,
        "label": label,
        "confidence": probability.max(axis=0),
        "disagreement": rng.integers(0, 20, label.shape).astype(np.uint8),
        "source_date": np.full(label.shape, 17_800, np.int32),
        "n_clear": rng.integers(1, 6, label.shape).astype(np.uint16),
        "modalities": np.full(label.shape, 31, np.uint8),
    }


def verifying(count: int, block_px: int) -> dict[str, Any]:
    """Seconds to verify a thousand blocks, and how many bytes of shards that reads."""
    with tempfile.TemporaryDirectory() as out:
        finished(out, count, block_px)
        stored = sum(_stored(out, marker) for marker in Ledger(out).markers())
        files = [path for path in Path(out, "mosaic.zarr").rglob("*") if path.is_file()]
        times = Times()
        times.of("read", lambda: sum(len(path.read_bytes()) for path in files))
        found = times.of("verify", lambda: verify(out))
    # the run has no STAC items; all else of it is to be right
    assert [fault.where for fault in found.faults] == ["catalog.json"], found.faults
    return {
        "blocks": found.checked,
        "block_px": block_px,
        "mib_a_block": round(stored / found.checked / 2**20, 2),
        **asdict(times),
        "seconds_per_1000_blocks": round(1000 * times.wall_s["verify"] / found.checked, 2),
        "cpu_seconds_per_1000_blocks": round(1000 * times.cpu_s["verify"] / found.checked, 2),
        "over_reading_the_files": times.ratio("verify", "read"),
    }


def _stored(out: str, marker: Marker) -> int:
    return mosaic.read_block_checksum(f"{out}/mosaic.zarr", marker.year, marker.block).stored_bytes


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as lines of text."""
    return "\n".join(
        f"{place}: {name.replace('_', ' ')}: {value}"
        for place, row in results.items()
        for name, value in row.items()
    )


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "ledger.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    require_extra("test", "flask", "moto", "s3fs")
    scale = SCALES[given.scale]
    results = {
        "disk": on_disk(scale.markers),
        "s3": on_s3(scale.s3_markers, scale.one_by_one),
        "verify": verifying(scale.verified, scale.block_px),
    }
    print(table(results))
    method = (
        "markers of five scenes and shards of 64 bytes under their real names; on disk Ledger.done_works, "
        "Ledger.markers, resume.sound and Run.status against pathlib.rglob with json.loads, page cache warm; "
        "on moto's S3 in a process of its own on loopback Ledger.markers with and without Ledger.roll, "
        "against a GET a marker, of which some are timed; verify of a run with real shards, outlines and "
        "seal, but without scenes and STAC items, against reading its files"
    )
    document = record.line(
        "ledger",
        method=method,
        sizes={"scale": given.scale, **vars(scale)},
        results=results,
        packages=PACKAGES,
    )
    record.append(given.out, document)


if __name__ == "__main__":
    main()
