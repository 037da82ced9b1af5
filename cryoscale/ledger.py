"""The ledger of a run: what was asked, what is done, what was set aside. It lives outside Dask.

Under ``OUT``, a local folder or any fsspec URL:

* ``run.json``, the manifest, written last of what begins a run;
* ``ledger/blocks.json``, the blocks that were planned;
* ``ledger/done/<year>/<epsg>/<block>.json``, one marker a block, put after the block's shard;
* ``ledger/set-aside/…``, blocks that failed too often, with their reason;
* ``ledger/damaged/…``, blocks that ``verify`` found damaged, until they are done again;
* ``ledger/rolled/…``, copies of many markers in one object, where a request a marker would take minutes.

Each is put in one step, so that a reader sees all of it or nothing, and a killed run resumes from
exactly the blocks whose markers are there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from cryoscale import records
from cryoscale.errors import IntegrityError, OutputError, SourceError
from cryoscale.grid import Block
from cryoscale.records import Manifest, Marker, Record, SceneShare, SetAside
from cryoscale.write.objects import Entry, Objects

__all__ = ["Ledger", "Marker", "SceneShare", "SetAside", "Work"]

MANIFEST = "run.json"
ITEMS = "items.parquet"
BLOCKS = "ledger/blocks.json"
CLEARING = "ledger/clearing.json"
DONE, ASIDE, DAMAGED, ROLLED = "ledger/done", "ledger/set-aside", "ledger/damaged", "ledger/rolled"

_FORMAT = 2
_BEFORE_MANIFEST = frozenset({ITEMS, "simulated", "ledger"})

SEAL = "ledger/finished.json"
"""What a run's end was made from, and the digests of what it made; see :mod:`cryoscale.sealing`."""

MADE = (
    "mosaic.zarr",
    "quicklook.zarr",
    "inventory",
    "cog",
    "evaluation",
    "stac",
    "catalog.json",
    "report.html",
)
"""What a run makes beside its ledger."""

MAP_NAME = re.compile(r"map(-\d+)?\.png")
"""Pictures of a run's years, which it makes too."""

_BATCH = 500
"""Records read at a time: enough to hide a store's latency, few enough for any memory."""

ROLL_AT = 1000
"""So many markers without a copy are copied together."""

Work = tuple[int, Block]
"""A block of a year."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Ledger:
    """The ledger under ``out``, a local folder or any fsspec URL."""

    out: str

    @cached_property
    def objects(self) -> Objects:
        """What lies under ``out``."""
        return Objects(self.out)

    # --- single files ---------------------------------------------------------------------------

    def put(self, name: str, document: Mapping[str, Any]) -> None:
        """Write ``name`` under the run as JSON in one step."""
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        self.put_bytes(name, f"{text}\n".encode())

    def put_bytes(self, name: str, data: bytes) -> None:
        """Write ``name`` under the run in one step: a reader sees what was there before, or all of it."""
        self.objects.put(name, data)

    def get(self, name: str) -> dict[str, Any] | None:
        """The JSON document ``name`` under the run, or None where there is none.

        Raises:
            IntegrityError: it is there but is no JSON object.
        """
        content = self.objects.get(name)
        if content is None:
            return None
        try:
            document = json.loads(content)
        except (ValueError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{self.out}/{name} is not readable as JSON ({error})") from error
        if not isinstance(document, dict):
            raise IntegrityError(f"{self.out}/{name} holds no JSON object")
        return document

    # --- the manifest ---------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """``run.json``, or None where there is no run.

        Raises:
            SourceError: what is called so is no run's, or of another format.
        """
        content = self.objects.get(MANIFEST)
        if content is None:
            return None
        lack = Manifest.lack_of(content)
        if lack is not None:
            raise SourceError(
                f"{self.out}/{MANIFEST} ({lack})",
                f"the manifest of a run, of format {_FORMAT}",
                "check the path, or use the cryoscale that made it",
            )
        return {key: value for key, value in json.loads(content).items() if key != records.SEAL}

    def require_whole_manifest(self) -> None:
        """Raises IntegrityError where ``run.json``, by which blocks are made, is not what was put there."""
        document = self.get(MANIFEST)
        if document is not None and records.unsealed(document) is None:
            raise IntegrityError(
                f"{self.out}/{MANIFEST} is not what the run was begun with; "
                "copy it back, or begin anew with --new-run"
            )

    def identity(self) -> str | None:
        """``identity_sha256`` of the run, or None where there is none.

        Raises:
            SourceError: as :meth:`manifest`.
        """
        manifest = self.manifest()
        return None if manifest is None else str(manifest["identity_sha256"])

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Put the manifest: from here on there is a run."""
        self.put(MANIFEST, records.sealed({**manifest, "format": _FORMAT}))

    def is_empty(self) -> bool:
        """Whether nothing at all lies under ``out``."""
        return next(iter(self.objects.list("")), None) is None

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds anything but what a run puts there before its manifest.

        Raises:
            OutputError: other files lie there, or markers of a run whose manifest is gone.
        """
        foreign = [name for name in self.objects.names() if name not in _BEFORE_MANIFEST]
        if next(iter(self.objects.list(DONE)), None) is not None:
            foreign.append(DONE)
        if foreign:
            raise OutputError(
                f"output {self.out}, which holds {', '.join(sorted(foreign)[:3])} but no {MANIFEST}",
                "a new or an empty folder",
                "give another --out",
            )

    # --- beginning anew -------------------------------------------------------------------------

    def is_begun(self) -> bool:
        """Whether there is a manifest, be it readable or not."""
        return self.objects.stat(MANIFEST) is not None

    def refuse_to_clear(self) -> None:
        """Refuse to begin anew where what is called ``run.json`` is no run's, and no ledger lies beside it.

        With a ledger it is taken for that of a run whose manifest is torn or of another format.

        Raises:
            OutputError: what lies there is not ours.
        """
        try:
            self.manifest()
        except SourceError as error:
            if self.objects.stat(BLOCKS) is None and next(iter(self.objects.list(DONE)), None) is None:
                raise OutputError(
                    f"output {self.out}, with a {MANIFEST} that is no run's",
                    "a run to begin anew, or an empty folder; nothing was deleted",
                    "give another --out",
                ) from error

    def is_clearing(self) -> bool:
        """Whether a run that was to be cleared away has not been to the end."""
        return self.objects.get(CLEARING) is not None

    def clear(self) -> None:
        """Delete the run and all that it made, and nothing else; begun, it is not to be stopped half way.

        A note is put first and goes last: whoever is killed in between leaves it, and the next run
        clears on, in place of taking what is left for its own.
        """
        self.put(CLEARING, {})
        for name in self.objects.names():
            if name in MADE or MAP_NAME.fullmatch(name):
                self.objects.delete_all(name)
                self.objects.delete(name)
        for folder in (DONE, ASIDE, DAMAGED, ROLLED):
            self.objects.delete_all(folder)
        for name in (SEAL, BLOCKS, ITEMS, MANIFEST, CLEARING):
            self.objects.delete(name)

    # --- what was planned -----------------------------------------------------------------------

    def plan_blocks(self, blocks: Sequence[Block]) -> str:
        """Note the blocks of every year; returns the digest that goes into the manifest."""
        zones: dict[str, list[tuple[int, int]]] = {}
        for block in sorted(blocks):
            zones.setdefault(str(block.epsg), []).append((block.row, block.col))
        size_px = blocks[0].size_px if blocks else 0
        content = json.dumps({"size_px": size_px, "zones": zones}, sort_keys=True).encode()
        self.put_bytes(BLOCKS, content)
        return hashlib.sha256(content).hexdigest()

    def planned(self, manifest: Mapping[str, Any]) -> list[Block] | None:
        """The blocks of every year as they were planned; None for runs begun before these were noted.

        Raises:
            IntegrityError: they are not what the manifest says.
        """
        wanted = manifest.get("blocks_sha256")
        if wanted is None:
            return None
        content = self.objects.get(BLOCKS)
        if content is None or hashlib.sha256(content).hexdigest() != wanted:
            raise IntegrityError(f"{self.out}/{BLOCKS} is not what the run was begun with")
        document = json.loads(content)
        size_px = int(document["size_px"])
        return [
            Block(int(epsg), row, col, size_px)
            for epsg, places in document["zones"].items()
            for row, col in places
        ]

    # --- blocks ---------------------------------------------------------------------------------

    def mark(self, marker: Marker) -> None:
        """Note a finished block; why it was set aside or found damaged before goes."""
        self.objects.put(name_of(DONE, marker.key), marker.to_bytes())
        for folder in (ASIDE, DAMAGED):
            self.objects.delete(name_of(folder, marker.key))

    def set_aside(self, record: SetAside) -> None:
        """Note a block that failed as often as it may."""
        self.objects.put(name_of(ASIDE, record.key), record.to_bytes())

    def take_back(self, work: Work) -> None:
        """Forget that a block was set aside."""
        self.objects.delete(name_of(ASIDE, work))

    def unmark(self, year: int, block: Block) -> None:
        """Forget that a block was done, so that the next run computes it again."""
        self.objects.delete(name_of(DONE, (year, block)))

    def note_damage(self, work: Work, reason: str) -> None:
        """Note that a finished block is not what its marker says: the next run does it again."""
        self.put(name_of(DAMAGED, work), {"reason": reason})

    def damaged(self) -> set[str]:
        """Names ``<year>/<epsg>/<block>`` of the blocks that were found damaged and not done since."""
        return {_short(entry.key, DAMAGED) for entry in self.objects.list(DAMAGED)}

    def done_works(self, size_px: int) -> set[Work]:
        """Blocks of edge ``size_px`` that have a marker, by a listing alone."""
        found = set()
        for entry in self.objects.list(DONE):
            year, epsg, name = _short(entry.key, DONE).split("/")
            found.add((int(year), Block.from_key(int(epsg), name, size_px)))
        return found

    def count_done(self) -> int:
        """How many blocks have a marker, by a listing alone."""
        return sum(1 for _ in self.objects.list(DONE))

    def done(self) -> dict[Work, Marker]:
        """All markers by (year, block), in memory; :meth:`markers` streams them."""
        return {marker.key: marker for marker in self.markers()}

    def markers(self) -> Iterator[Marker]:
        """All markers of the run in no order, a few at a time.

        One whose seal is broken counts as not there, and so does one of another run: a task outlives its
        driver, and may come to its end when another run was begun in the place of its own.
        """
        run = self.identity()
        for _, marker in self.scan():
            if marker is not None and marker.is_of(run):
                yield marker

    def scan(self) -> Iterator[tuple[str, Marker | None]]:
        """Every marker file by its short name, and the marker, or None where it is torn."""
        stale: dict[str, Entry] = {entry.key: entry for entry in self.objects.list(DONE)}
        for entry, content in self._rolled(stale):
            del stale[entry.key]
            yield _short(entry.key, DONE), Marker.from_bytes(content)
        for key, content in self._contents(list(stale)):
            yield _short(key, DONE), Marker.from_bytes(content)

    def set_asides(self) -> dict[Work, SetAside]:
        """The blocks that are set aside, by (year, block)."""
        names = [entry.key for entry in self.objects.list(ASIDE)]
        found = (SetAside.from_bytes(content) for _, content in self._contents(names))
        return {record.key: record for record in found if record is not None}

    # --- many markers in one object -------------------------------------------------------------

    def roll(self) -> int:
        """Copy markers that have no copy yet into one object; how many there were.

        On an object store each marker costs a request to read: 100,000 of them some minutes, 100 rolls
        some seconds. A copy counts only while its marker has the stamp that it was copied with, so that
        the markers stay what decides. On a local disk markers are read as fast, and there is nothing to do.
        """
        if self.objects.is_local:
            return 0
        stale = {entry.key: entry for entry in self.objects.list(DONE)}
        for entry, _ in self._rolled(stale):
            del stale[entry.key]
        if len(stale) < ROLL_AT:
            return 0
        lines = (
            json.dumps([*stale[key], content.decode("utf-8", "replace")])
            for key, content in self._contents(list(stale))
        )
        content = gzip.compress("\n".join(lines).encode(), compresslevel=3)
        self.objects.put(f"{ROLLED}/{uuid.uuid4().hex}.jsonl.gz", content)
        return len(stale)

    def _rolled(self, wanted: Mapping[str, Entry]) -> Iterator[tuple[Entry, bytes]]:
        """Copies of the markers ``wanted``, where the copy is of what lies there now."""
        if self.objects.is_local or not wanted:
            return
        seen: set[str] = set()
        for name in [entry.key for entry in self.objects.list(ROLLED)]:
            for line in _lines(self.objects.get(name) or b""):
                *entry, text = json.loads(line)
                key = entry[0]
                if key not in seen and wanted.get(key) == Entry(*entry):
                    seen.add(key)
                    yield Entry(*entry), text.encode()

    def _contents(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for start in range(0, len(names), _BATCH):
            found = self.objects.get_many(names[start : start + _BATCH])
            yield from ((key, content) for key, content in found.items() if content is not None)


def _lines(content: bytes) -> Iterable[str]:
    try:
        return gzip.decompress(content).decode().splitlines() if content else []
    except (OSError, EOFError, UnicodeDecodeError):
        return []  # a damaged copy is no loss: the markers themselves are read


def name_of(folder: str, work: Work) -> str:
    """Where the record of a block lies."""
    year, block = work
    return f"{folder}/{year}/{block.epsg}/{block.key}.json"


def _short(key: str, folder: str) -> str:
    return key.removeprefix(f"{folder}/").removesuffix(".json")
