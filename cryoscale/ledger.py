"""The ledger of a run: what was asked, what is done, what was set aside. It lives outside Dask.

``OUT/run.json`` is the manifest, ``OUT/ledger/done/<year>/<epsg>/<block>.json`` one marker a block,
written after the block's shard, ``OUT/ledger/set-aside/...`` the blocks that failed too often, with
their reason. Each file is put in one step, so that a reader sees all of it or nothing, and a killed
run resumes from exactly the blocks whose markers are there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
from pydantic import BaseModel, ConfigDict, ValidationError

from cryoscale.errors import IntegrityError, OutputError
from cryoscale.grid import Block

MANIFEST = "run.json"
_FORMAT = 1
_BEFORE_MANIFEST = frozenset({"items.parquet", "simulated"})


class SceneShare(BaseModel):
    """How a scene did over the glacierised part of a block; see :class:`cryoscale.read.choice.Share`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: str
    cloud_share: float
    snow_share: float
    rank: int


class Marker(BaseModel):
    """One finished block: what was written, from what, by whom and how long each stage took."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    year: int
    epsg: int
    row: int
    col: int
    size_px: int
    checksum: str
    """Over the block's stored shards, as :func:`cryoscale.write.mosaic.block_checksum` gives it."""
    written_bytes: int
    pixels: int
    """Pixels of the region in the block."""
    valid_pixels: int
    """Pixels that got a class."""
    class_pixels: list[int] = []
    seconds: dict[str, float] = {}
    scenes_read: list[str] = []
    scenes_failed: list[tuple[str, str]] = []
    modality_pixels: dict[str, int] = {}
    """Pixels of the region where all inputs of a modality were there."""
    scene_choice: list[SceneShare] = []
    """Why which optical scene was preferred, the best first; empty for a median, which prefers none."""
    worker: str = ""
    attempt: int = 1
    finished: str = ""

    @property
    def block(self) -> Block:
        """The block that the marker stands for."""
        return Block(self.epsg, self.row, self.col, self.size_px)


class SetAside(BaseModel):
    """One block that failed as often as it may."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    year: int
    epsg: int
    row: int
    col: int
    size_px: int
    error: str
    """Class of the last error."""
    reason: str
    attempts: int
    when: str

    @property
    def block(self) -> Block:
        """The block that was set aside."""
        return Block(self.epsg, self.row, self.col, self.size_px)


@dataclass(frozen=True)
class Ledger:
    """The ledger under ``out``, a local folder or any fsspec URL."""

    out: str

    @property
    def _fs(self) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(self.out)
        return fs, path.rstrip("/")

    # --- single files ---------------------------------------------------------------------------

    def put(self, name: str, document: Mapping[str, Any]) -> None:
        """Write ``name`` under the run as JSON in one step."""
        self.put_bytes(
            name, (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
        )

    def put_bytes(self, name: str, data: bytes) -> None:
        """Write ``name`` under the run in one step: a reader sees what was there before, or all of it."""
        fs, root = self._fs
        target = f"{root}/{name}"
        parent = target.rsplit("/", 1)[0]
        fs.makedirs(parent, exist_ok=True)
        if isinstance(fs, fsspec.implementations.local.LocalFileSystem):
            # Object stores put whole objects; a local disk needs the rename to be as kind.
            part = f"{target}.{uuid.uuid4().hex}.part"
            try:
                with open(part, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
            finally:
                if os.path.exists(part):
                    os.unlink(part)
        else:
            fs.pipe_file(target, data)

    def get(self, name: str) -> dict[str, Any] | None:
        """The JSON document ``name`` under the run, or None where there is none.

        Raises:
            IntegrityError: it is there but is no JSON object.
        """
        fs, root = self._fs
        try:
            document = json.loads(fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None
        except (ValueError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{self.out}/{name} is not readable as JSON ({error})") from error
        if not isinstance(document, dict):
            raise IntegrityError(f"{self.out}/{name} holds no JSON object")
        return document

    # --- the manifest ---------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """``run.json``, or None where there is no run."""
        return self.get(MANIFEST)

    def open(self, manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
        """Begin the run, or resume it; True where it was there already.

        Args:
            manifest: what ``run.json`` is to hold.
            identity: the part of it that decides the pixels; a run with another one is refused.

        Raises:
            OutputError: the folder holds another run, or files that are none of a run's.
        """
        present = self.manifest()
        if present is None:
            self.put(MANIFEST, {**manifest, "identity": dict(identity), "format": _FORMAT})
            return False
        difference = sorted(
            key
            for key in set(identity) | set(present.get("identity", {}))
            if present.get("identity", {}).get(key) != json.loads(json.dumps(identity.get(key)))
        )
        if difference:
            raise OutputError(
                f"output {self.out}, which holds run {present.get('name')!r} with another "
                f"{', '.join(difference)}",
                "the run that was begun there, or an empty folder",
                "give another --out, or the configuration it was begun with",
            )
        return True

    def is_empty(self) -> bool:
        """Whether nothing at all lies under ``out``."""
        fs, root = self._fs
        try:
            return not fs.ls(root, detail=False)
        except FileNotFoundError:
            return True

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds anything but what a run puts there before its manifest.

        Raises:
            OutputError: other files lie there, or it cannot be listed.
        """
        fs, root = self._fs
        try:
            names = {path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)}
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(
                f"output {self.out} ({error.strerror})", "a folder", "give another --out"
            ) from error
        foreign = sorted(n for n in names if n not in _BEFORE_MANIFEST and not n.endswith(".part"))
        if foreign:
            raise OutputError(
                f"output {self.out}, which holds {', '.join(foreign[:3])} but no run.json",
                "a new or an empty folder",
                "give another --out",
            )

    # --- blocks ---------------------------------------------------------------------------------

    def mark(self, marker: Marker) -> None:
        """Note a finished block; a reason why it was set aside before goes."""
        self.put(_done_name(marker.year, marker.block), marker.model_dump(mode="json"))
        self._remove(_aside_name(marker.year, marker.block))

    def set_aside(self, record: SetAside) -> None:
        """Note a block that failed as often as it may."""
        self.put(_aside_name(record.year, record.block), record.model_dump(mode="json"))

    def unmark(self, year: int, block: Block) -> None:
        """Forget that a block was done, so that the next run computes it again."""
        self._remove(_done_name(year, block))

    def done(self) -> dict[tuple[int, Block], Marker]:
        """All markers by (year, block); one that cannot be read counts as not done."""
        return {(m.year, m.block): m for m in self._read("ledger/done", Marker)}

    def set_asides(self) -> dict[tuple[int, Block], SetAside]:
        """The blocks that are set aside, by (year, block)."""
        return {(s.year, s.block): s for s in self._read("ledger/set-aside", SetAside)}

    def _read(self, folder: str, kind: type[Any]) -> Iterator[Any]:
        fs, root = self._fs
        try:
            names = [path for path in fs.find(f"{root}/{folder}") if path.endswith(".json")]
        except FileNotFoundError:
            return
        for content in fs.cat(sorted(names), on_error="omit").values() if names else ():
            try:
                yield kind.model_validate_json(content)
            except ValidationError:
                continue  # a marker that is torn is no marker: its block is done again

    def _remove(self, name: str) -> None:
        fs, root = self._fs
        if fs.exists(f"{root}/{name}"):
            fs.rm_file(f"{root}/{name}")


def _done_name(year: int, block: Block) -> str:
    return f"ledger/done/{year}/{block.epsg}/{block.key}.json"


def _aside_name(year: int, block: Block) -> str:
    return f"ledger/set-aside/{year}/{block.epsg}/{block.key}.json"
