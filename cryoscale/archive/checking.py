"""Proof of an archive: its list, its STAC documents and every file of every version, read back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from cryoscale.archive.adding import leftovers
from cryoscale.archive.files import digest_of, read_list
from cryoscale.archive.index import DATA, FILES, ROOT, STAC, Archive, Entry, Index
from cryoscale.write.objects import Entry as Stored

_READERS = 8
_BATCH = 1000


@dataclass(frozen=True)
class ArchiveFault:
    """One file that is not as it should be, and why, in a line."""

    where: str
    reason: str


@dataclass
class Proof:
    """What looking at all of an archive showed."""

    versions: int = 0
    files: int = 0
    size_bytes: int = 0
    faults: list[ArchiveFault] = field(default_factory=list)
    leftovers: tuple[str, ...] = ()
    """What a killed addition left, or one that is under way has made so far; the next addition sweeps it."""
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether everything that the catalogue names is there and right."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "sound": self.sound, "seconds": round(self.seconds, 2)}


def verify_archive(root: str) -> Proof:
    """Read back everything that the archive at ``root`` names; writes nothing.

    Raises:
        SourceError: there is no archive, or one of another schema version.
    """
    start, archive = time.perf_counter(), Archive(root)
    published, last = archive.published(), archive.last_number()  # first: another adder may be at work
    content, index = archive.stored()
    proof = Proof(versions=len(index.entries))
    is_latest = index.number >= last
    if not is_latest:
        reason = (
            f"is number {index.number}, while number {last} at least was published: bring back the latest"
        )
        proof.faults.append(ArchiveFault(ROOT, reason))
    if index.generation == published.generation and _sha256(content) != published.catalog_sha256:
        proof.faults.append(ArchiveFault(ROOT, "is not what was written"))
    proof.faults += _documents(archive, content, index)
    for entry in index.entries:
        proof.faults += _version(archive, entry, proof)
    # what an older list does not name may be whole years
    proof.leftovers = tuple(sorted(leftovers(archive, index))) if is_latest else ()
    proof.seconds = time.perf_counter() - start
    return proof


def _documents(archive: Archive, catalog: bytes, index: Index) -> Iterator[ArchiveFault]:
    """STAC documents that are not what the catalogue was published with, or do not hang together."""
    home = f"{STAC}/{index.generation}"
    known = set(index.documents)
    there = {entry.key.removeprefix(f"{home}/") for entry in archive.objects.list(home)} if known else set()
    for name in sorted(there - known):
        yield ArchiveFault(f"{home}/{name}", "is no document of the catalogue")
    for name, sha256 in index.documents.items():
        content = archive.objects.get(f"{home}/{name}")
        if content is None:
            yield ArchiveFault(f"{home}/{name}", "is gone")
        elif _sha256(content) != sha256:
            yield ArchiveFault(f"{home}/{name}", "is not what was written")
    for region in sorted({one.region for one in index.entries}):
        if f"{region}/collection.json" not in known:
            yield ArchiveFault(ROOT, f"has no collection of region {region}")
    wanted = {f"./{home}/{name}" for name in known if name.endswith("/collection.json")}
    links = json.loads(catalog).get("links", [])
    if {link["href"] for link in links if link["rel"] == "child"} != wanted:
        yield ArchiveFault(ROOT, "links to other collections than it lists")


def _version(archive: Archive, entry: Entry, proof: Proof) -> Iterator[ArchiveFault]:
    """Files of a version that are gone, altered, or were never its own."""
    listed = f"records/{entry.place}/{FILES}"
    try:
        sha256 = digest_of(f"{archive.root}/{listed}")
    except OSError as error:
        yield ArchiveFault(listed, f"cannot be read: {error}")
        return
    if sha256 != entry.files_sha256:
        yield ArchiveFault(listed, "is not what was written")
        return
    there = {one.key: one for kind in DATA for one in archive.objects.list(f"{kind}/{entry.place}")}
    there.pop(listed, None)
    rows = read_list(f"{archive.root}/{listed}")
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(rows, _BATCH)):
            for row, reason in zip(
                batch, pool.map(lambda row: _file(archive, there, row), batch), strict=True
            ):
                there.pop(row[0], None)
                proof.files, proof.size_bytes = proof.files + 1, proof.size_bytes + row[1]
                if reason:
                    yield ArchiveFault(row[0], reason)
    for key in sorted(there):
        yield ArchiveFault(key, "is no file of this version")


def _file(archive: Archive, there: Mapping[str, Stored], row: tuple[str, int, str]) -> str:
    """What is wrong with a file, empty where nothing."""
    key, size, sha256 = row
    if key not in there:
        return "is gone"
    if there[key].size_bytes != size:
        return f"has {there[key].size_bytes} bytes, not {size}"
    try:
        return "" if digest_of(f"{archive.root}/{key}") == sha256 else "is not what was written"
    except OSError as error:
        return f"cannot be read: {error}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
