"""The files of one version as they are put in their place, and the list of their checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from cryoscale.write.objects import Objects, local_path
from cryoscale.write.scratch import Scratch
from cryoscale.write.vectors import move

SCHEMA = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("sha256", pa.string())])
_SIDE_BY_SIDE = 8
"""Files copied at once: enough to hide a store's latency and a disk's flushes."""
_ROWS = 10_000
_CHUNK_BYTES = 1 << 20
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, sha256 TEXT);
"""


@dataclass(frozen=True)
class Total:
    """What a list of files comes to: the list's own sha256, number and bytes of the files in it."""

    sha256: str
    files: int
    size_bytes: int


class Filing(Scratch):
    """Puts files below an archive's root, each whole, and remembers size and sha256 until closed.

    Args:
        root: of the archive.
    """

    def __init__(self, root: str) -> None:
        super().__init__(_TABLES)
        self._objects = Objects(root)
        self._noting = threading.Lock()

    def put(self, key: str, content: bytes) -> None:
        """A small file."""
        self._objects.put(key, content)
        self._note(key, len(content), hashlib.sha256(content).hexdigest())

    def put_file(self, local: Path, key: str) -> None:
        """A local file of any size, which is moved."""
        size, sha256 = local.stat().st_size, digest_of(str(local))
        url = f"{self._objects.root}/{key}"
        move(local, url)
        path = local_path(url)
        if path is not None:
            _sync(path)
        self._note(key, size, sha256)

    def copy(self, url: str, key: str) -> None:
        """A copy of a file of any size, from a path or URL."""
        with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
            local = Path(folder, "copy")
            with fsspec.open(url, "rb") as source, local.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)
            self.put_file(local, key)

    def copy_objects(self, source: Objects, keys: Iterable[tuple[str, str]]) -> None:
        """Copies of many small objects, from key to key."""

        def one(pair: tuple[str, str]) -> tuple[str, bytes]:
            content = source.get(pair[0])
            if content is None:
                raise FileNotFoundError(2, "is gone", f"{source.root}/{pair[0]}")
            self._objects.put(pair[1], content)
            return pair[1], content

        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            for batch in _batches(keys, 8 * _SIDE_BY_SIDE):  # as many as may be in memory
                for key, content in pool.map(one, batch):
                    self._note(key, len(content), hashlib.sha256(content).hexdigest())

    def close_list(self, key: str) -> Total:
        """Put the list of all that was put so far, in the order of paths, and say what it comes to."""
        count, size = self._base.execute("SELECT count(*), coalesce(sum(size), 0) FROM files").fetchone()
        with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder:
            local = Path(folder, "files.parquet")
            rows = self._base.execute("SELECT path, size, sha256 FROM files ORDER BY path")
            with pq.ParquetWriter(local, SCHEMA) as writer:
                while found := rows.fetchmany(_ROWS):
                    columns = list(map(list, zip(*found, strict=True)))
                    writer.write_table(pa.Table.from_arrays(list(map(pa.array, columns)), schema=SCHEMA))
            sha256 = digest_of(str(local))
            move(local, f"{self._objects.root}/{key}")
        path = local_path(f"{self._objects.root}/{key}")
        if path is not None:
            _sync(path)
        return Total(sha256, int(count), int(size))

    def facts(self, key: str) -> tuple[int, str]:
        """Size and sha256 of a file that was put."""
        size, sha256 = self._base.execute("SELECT size, sha256 FROM files WHERE path = ?", (key,)).fetchone()
        return int(size), str(sha256)

    def size_below(self, prefix: str) -> int:
        """Bytes of all files below a folder."""
        (size,) = self._base.execute(
            "SELECT coalesce(sum(size), 0) FROM files WHERE path >= ? AND path < ?",
            (prefix, f"{prefix}\uffff"),
        ).fetchone()
        return int(size)

    def _note(self, key: str, size: int, sha256: str) -> None:
        with self._noting:
            self._base.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (key, size, sha256))


def read_list(url: str) -> Iterator[tuple[str, int, str]]:
    """Path, size and sha256 of each file of a list, some thousand at a time in memory."""
    with fsspec.open(url, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def digest_of(url: str) -> str:
    """The sha256 of a file of any size, hexadecimal."""
    total = hashlib.sha256()
    with fsspec.open(url, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _batches(pairs: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def _sync(path: str) -> None:
    """To the disk itself: the catalogue that names a file must not get there before it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
