"""Plain files or Icechunk for an archive's maps: both through kill -9, readers beside an adder, two adders.

``python -m benchmarks.archiving [--scale tiny|moderate] [--out FILE]`` (it needs the extra ``benchmarks``)
makes the map of one year and adds its stored bytes, unchanged, as one year after the other: to plain files as
:mod:`cryoscale.archive` does (each file whole, then one pointer replaced), and to an Icechunk repository on
the same disk (a session, raw bytes through its Zarr store, one commit). It then tells, of each:

* seconds, files and bytes of an addition;
* of additions killed at random moments: whether a reader then saw anything but the old or the new state,
  whether the next addition succeeded, and the bytes that nobody names, before and after they are swept;
* of readers beside an adder: how often they looked, how long it took, and how often they saw half a year;
* of two adders at once: years of which both said that they were added, and that are not there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks import RESULTS
from benchmarks.command import Parser, command, require_extra
from cryoscale import lease
from cryoscale.archive.files import Filing
from cryoscale.bench import record
from cryoscale.grid import Block, Window
from cryoscale.write import mosaic
from cryoscale.write.objects import Objects

PLAIN, ICECHUNK = "plain files", "icechunk"
YEAR, EPSG = 2018, 32645
SCALES = {"tiny": (4, 256, 1, 0.3), "moderate": (36, 512, 20, 15.0)}
"""Blocks, their edge in pixels, kills, and seconds for which readers look."""


# --- the two ways ---------------------------------------------------------------------------------------


class Plain:
    """Files below ``mosaics/<year>``, and a pointer that names the years that there are."""

    def __init__(self, root: str) -> None:
        self.root, self.objects = root, Objects(root)

    def years(self) -> list[int]:
        return list(json.loads(self.objects.get("catalog.json") or b"[]"))

    def add(self, source: Objects, year: int) -> None:
        keys = ((one.key, f"mosaics/{year}/{one.key}") for one in source.list(""))
        with lease.held(self.root):
            self.sweep()
            with Filing(self.root) as files:
                files.copy_objects(source, keys)
                files.close_list(f"records/{year}/files.parquet")
            self.objects.put("catalog.json", json.dumps([*self.years(), year]).encode())

    def labels(self, year: int) -> int:
        group = zarr.open_group(f"{self.root}/mosaics/{year}", path=f"{YEAR}/{EPSG}", mode="r")
        return int(np.asarray(group["label"]).astype(np.int64).sum())

    def seen(self) -> list[tuple[int, int]]:
        return [(year, self.labels(year)) for year in self.years()]

    def sweep(self) -> None:
        """What a killed addition left, as the next one does first."""
        known = set(map(str, self.years()))
        for folder in ("mosaics", "records"):
            for name in Objects(f"{self.root}/{folder}").names():
                if name not in known:
                    self.objects.delete_all(f"{folder}/{name}")


class Chunked:
    """A repository with a group a year on its main branch."""

    def __init__(self, root: str) -> None:
        import icechunk

        icechunk.set_logs_filter("error")  # it warns at every opening, on standard output
        self.repository = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(root))

    def years(self) -> list[int]:
        store = self.repository.readonly_session("main").store
        return sorted(int(name) for name in zarr.open_group(store, mode="r").group_keys())

    def add(self, source: Objects, year: int) -> None:
        session = self.repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a", zarr_format=3)
        root.require_group(str(year))

        async def copy() -> None:
            prototype = zarr.core.buffer.default_buffer_prototype()
            for one in source.list(f"{YEAR}/{EPSG}"):
                content = source.get(one.key) or b""
                key = one.key.removeprefix(f"{YEAR}/{EPSG}/")
                await session.store.set(f"{year}/{key}", prototype.buffer.from_bytes(content))

        asyncio.run(copy())
        session.commit(f"year {year}")

    def seen(self) -> list[tuple[int, int]]:
        root = zarr.open_group(self.repository.readonly_session("main").store, mode="r")
        found = []
        for name in sorted(root.group_keys(), key=int):
            found.append((int(name), int(np.asarray(root[name]["label"]).astype(np.int64).sum())))  # type: ignore[index]
        return found

    def sweep(self) -> None:
        from datetime import UTC, datetime

        self.repository.garbage_collect(datetime.now(UTC) + timedelta(days=1))


def opened(kind: str, root: str) -> Plain | Chunked:
    return Plain(root) if kind == PLAIN else Chunked(root)


# --- children -------------------------------------------------------------------------------------------


def child(kind: str, root: str, source: str, role: str, first: int, count: float, line: Connection) -> None:
    """A process of its own: says that it is ready, then adds years or looks for seconds."""
    way, objects = opened(kind, root), Objects(source)
    line.send("ready")
    line.recv()
    if role == "add":
        for year in range(first, first + int(count)):
            try:
                way.add(objects, year)
            except Exception as error:
                line.send({"failed": year, "why": type(error).__name__})
            else:
                line.send({"added": year})
        return
    end = time.monotonic() + count
    while time.monotonic() < end:
        start = time.perf_counter()
        try:
            told: dict[str, Any] = {"seen": opened(kind, root).seen()}
        except Exception as error:
            told = {"error": type(error).__name__}
        line.send({**told, "ms": 1000 * (time.perf_counter() - start)})


@dataclass(frozen=True)
class Child:
    """A process and the line to it."""

    process: Any
    line: Connection

    def go(self) -> None:
        self.line.send("go")

    def kill(self) -> bool:
        """Whether it was still at work."""
        self.process.kill()
        self.process.join()
        return bool(self.process.exitcode == -signal.SIGKILL)

    def told(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                yield self.line.recv()
            except EOFError:
                break
        self.process.join()


# a server that has imported everything is forked, since an interpreter of its own takes a second to start
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["cryoscale.archive.files", "cryoscale.lease", "cryoscale.write.mosaic"])


def started(kind: str, root: str, source: str, role: str, first: int, count: float) -> Child:
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=child, args=(kind, root, source, role, first, count, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    return Child(process, ours)


# --- measurements ---------------------------------------------------------------------------------------


def one_way(kind: str, source: str, home: Path, scale: tuple[int, int, int, float]) -> dict[str, Any]:
    _, _, kills, look_s = scale
    root = str(home / "store")
    way = opened(kind, root)
    start = time.perf_counter()
    way.add(Objects(source), 1)
    seconds = time.perf_counter() - start
    ((_, right),) = way.seen()
    files, size = _size(root)
    return {
        "add_seconds": round(seconds, 3),
        "files": files,
        "megabytes": round(size / 1e6, 2),
        "kills": _killed(kind, root, source, kills, seconds, right),
        "readers": _read(kind, root, source, look_s, right),
        "two_adders": _two(kind, str(home / "two"), source, right),
        "read_without_a_library_of_its_own": _plainly(root),
    }


def _killed(kind: str, root: str, source: str, kills: int, seconds: float, right: int) -> dict[str, Any]:
    rng = random.Random(0)
    before_bytes = _size(root)[1]
    wrong = died = 0
    for _ in range(kills):
        known = opened(kind, root).years()
        process = started(kind, root, source, "add", max(known) + 1, 1)
        process.go()
        time.sleep(rng.uniform(0.0, seconds))
        died += process.kill()
        seen = opened(kind, root).seen()
        wrong += [year for year, _ in seen] not in (known, [*known, max(known) + 1])
        wrong += any(labels != right for _, labels in seen)
    years = len(opened(kind, root).years())
    rubbish = _size(root)[1] - before_bytes * years
    opened(kind, root).sweep()
    swept = _size(root)[1] - before_bytes * years
    opened(kind, root).add(Objects(source), 900)
    return {
        "killed": died,
        "half_seen": wrong,
        "rubbish_megabytes": round(max(rubbish, 0) / 1e6, 2),
        "after_sweeping": round(max(swept, 0) / 1e6, 2),
        "next_succeeds": (900, right) in opened(kind, root).seen(),
    }


def _read(kind: str, root: str, source: str, look_s: float, right: int) -> dict[str, Any]:
    adder = started(kind, root, source, "add", 1000, 10_000)
    readers = [started(kind, root, source, "read", 0, look_s) for _ in range(2)]
    for process in (*readers, adder):
        process.go()
    looks = [look for process in readers for look in process.told()]
    adder.kill()
    seen = [look["seen"] for look in looks if "seen" in look]
    return {
        "looks": len(looks),
        "errors": sum("error" in look for look in looks),
        "half_seen": sum(any(labels != right for _, labels in years) for years in seen),
        "most_years": max((len(years) for years in seen), default=0),
        "median_ms_a_year": round(
            statistics.median(look["ms"] / max(len(look["seen"]), 1) for look in looks if "seen" in look), 2
        ),
    }


def _two(kind: str, root: str, source: str, right: int) -> dict[str, Any]:
    """Two adders in one moment: of plain files the lease keeps them apart, of the others nothing."""
    opened(kind, root).add(Objects(source), 1)
    adders = [started(kind, root, source, "add", first, 5) for first in (100, 200)]
    for process in adders:
        process.go()
    lines = [line for process in adders for line in process.told()]
    added = {line["added"] for line in lines if "added" in line}
    there = {year for year, labels in opened(kind, root).seen() if labels == right}
    return {
        "said_to_be_added": len(added),
        "lost": len(added - there),
        "refused": sorted({line["why"] for line in lines if "failed" in line}),
    }


def _plainly(root: str) -> bool:
    """Whether zarr alone finds a map anywhere in the folder."""
    for path in Path(root).rglob("zarr.json"):
        if path.parent.name == "label":
            return int(np.asarray(zarr.open_array(str(path.parent), mode="r")).max()) > 0
    return False


def _size(root: str) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in Path(root).rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def make_source(folder: Path, blocks: int, size_px: int) -> str:
    """A year's map of made-up labels."""
    edge, rng = int(blocks**0.5), np.random.default_rng(0)
    window = Window(EPSG, 0, 0, edge * size_px, edge * size_px)
    store = str(folder / "mosaic.zarr")
    mosaic.create(
        store, year=YEAR, window=window, block_px=size_px, classes=("a", "b", "c", "d", "e"), attrs={}
    )
    for row in range(edge):
        for col in range(edge):
            block = Block(EPSG, row, col, size_px)
            label = (
                rng.integers(0, 5, (size_px // 8, size_px // 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            )
            layers = {"label": label, "confidence": rng.integers(0, 251, label.shape).astype(np.uint8)}
            mosaic.write_block(store, YEAR, block, layers)
    return store


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "archiving.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    require_extra("benchmarks", "icechunk")
    scale, results = SCALES[given.scale], {}
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
        source = make_source(Path(folder), *scale[:2])
        for kind in (PLAIN, ICECHUNK):
            home = Path(folder, kind.replace(" ", "-"))
            home.mkdir()
            results[kind] = one_way(kind, source, home, scale)
            print(json.dumps({kind: results[kind]}, indent=1), flush=True)
    method = (
        "stored bytes of one map copied unchanged, as one year after the other, by processes of their own; "
        "kills at random moments of an addition; two readers beside an adder, each opening anew and reading "
        "all labels; rubbish swept by hand and by Repository.garbage_collect"
    )
    names = ("blocks", "block_px", "kills", "look_s")
    sizes = {"scale": given.scale, **dict(zip(names, scale, strict=True))}
    packages = ("cryoscale", "icechunk", "zarr")
    record.append(
        given.out, record.line("archiving", method=method, sizes=sizes, results=results, packages=packages)
    )


if __name__ == "__main__":
    main()
