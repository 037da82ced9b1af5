"""What the ledger holds of a block: that it is done and how, or why it was set aside; and of the run.

All of them carry a seal, a digest of their own content, since a flipped digit would otherwise still be valid
JSON: a record whose seal is broken is no record, and a run with such a manifest does not go on.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cryoscale.grid import Block

SEAL = "seal"


class _Identity(BaseModel):
    model_config = ConfigDict(strict=True)

    years: list[int]
    catalogue: str


class _Context(BaseModel):
    model_config = ConfigDict(strict=True)

    blocks: int


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str


class Manifest(BaseModel):
    """What all who read ``run.json`` count on; other programs call their files so too."""

    model_config = ConfigDict(strict=True)

    format: Literal[2]
    name: str
    config: dict[str, Any]
    versions: dict[str, Any]
    model: _Model
    identity: _Identity
    identity_sha256: str
    context: _Context

    @classmethod
    def lack_of(cls, content: bytes) -> str | None:
        """Why ``content`` is no run's manifest, in words; None where it is one."""
        try:
            document = json.loads(content)
            if not isinstance(document, dict):
                return "no JSON object"
            cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        except ValueError as error:
            return f"no JSON: {error}"
        return None


class Record(BaseModel):
    """A JSON document of one block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    year: int
    epsg: int
    row: int
    col: int
    size_px: int

    @property
    def block(self) -> Block:
        """The block that the record is about."""
        return Block(self.epsg, self.row, self.col, self.size_px)

    @property
    def key(self) -> tuple[int, Block]:
        """Year and block."""
        return self.year, self.block

    def to_bytes(self) -> bytes:
        """The record as it lies on disk, sealed."""
        document = self.model_dump(mode="json")
        return (json.dumps({**document, SEAL: _seal(document)}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self | None:
        """The record that was stored, or None where its bytes are not what was stored."""
        try:
            document = json.loads(content)
            seal = document.pop(SEAL, None)
            # records of the first format carry none
            if seal is not None and seal != _seal(document):
                return None
            return cls.model_validate(document)
        except (ValueError, AttributeError, UnicodeDecodeError, ValidationError):
            return None


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A JSON document as it lies on disk."""
    return {**document, SEAL: _seal(json.loads(json.dumps(document)))}


def unsealed(document: dict[str, Any]) -> dict[str, Any] | None:
    """What was sealed, or None where it is not that any more; what has no seal, as once, is believed."""
    content = {key: value for key, value in document.items() if key != SEAL}
    return content if document.get(SEAL) in (None, _seal(content)) else None


def _seal(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]


class SceneShare(BaseModel):
    """How a scene did over the glacierised part of a block; see :class:`cryoscale.read.choice.Share`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: str
    cloud_share: float
    snow_share: float
    rank: int


class Marker(Record):
    """One finished block: what was written, from what, by whom and how long each stage took."""

    checksum: str
    """Over the block's stored shards, as :func:`cryoscale.write.mosaic.block_checksum` gives it."""
    shards: dict[str, tuple[int, str]] = {}
    """Length and stamp (see :class:`cryoscale.write.objects.Entry`) of each stored shard by its array, by
    which a resumed run knows without reading that nobody has touched them since."""
    written_bytes: int
    pixels: int
    """Pixels of the region in the block."""
    valid_pixels: int
    """Pixels that got a class."""
    class_pixels: list[int] = []
    seconds: dict[str, float] = {}
    """By stage, of the wall clock."""
    starts: dict[str, float] = {}
    """When each stage began, in seconds since 1970 by the clock of the worker's machine."""
    cpu_seconds: dict[str, float] = {}
    """By stage, of the processor; predicting on a GPU, of that GPU."""
    fetches: int = 0
    """Source chunks that were read, halo included."""
    fetched_bytes: int = 0
    """Their size as stored."""
    received_bytes: int = 0
    """What hosts sent for them over http(s), without what the worker's machine had kept for other blocks."""
    scenes_read: list[str] = []
    scenes_failed: list[tuple[str, str]] = []
    modality_pixels: dict[str, int] = {}
    """Pixels of the region where all inputs of a modality were there."""
    scene_choice: list[SceneShare] = []
    """Why which optical scene was preferred, the best first; empty for a median, which prefers none."""
    worker: str = ""
    attempt: int = 1
    finished: str = ""
    identity: str = ""
    """``identity_sha256`` of the run that the block was done for; markers of before it was kept have none."""

    def is_of(self, identity: str | None) -> bool:
        """Whether the block was done for the run of this ``identity_sha256``, or does not say for which."""
        return identity is None or self.identity in ("", identity)


class SetAside(Record):
    """One block that failed as often as it may, with its last error and what it was made from."""

    error: str
    """Class of the last error."""
    reason: str
    attempts: int
    when: str
    may_pass: bool = False
    """Whether the cause lay outside (a host, a machine that went) and may be gone by the next start."""
    traceback: list[str] = []
    """The last error as Python tells it, its innermost lines."""
    scenes: list[str] = []
    """Ids of the scenes whose footprint meets the block: its inputs."""
