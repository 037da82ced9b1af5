"""Ranges of remote files, kept on this machine's disk for the blocks beside the one that asked for them.

A file can be had in whole tiles only, and a block with its halo cuts through many of them: asked anew by
every block, the tiles at its rim come two to four times. All processes of a machine keep what they were sent
in one folder, a piece a file, named by where it begins and ends and a checksum: they need no index and no
lock, and the oldest go first. Whatever is wrong with the folder costs the time to ask the host, and nothing
else.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cryoscale.errors import ConfigError
from cryoscale.read.headers import Version

log = logging.getLogger("cryoscale")

WAIT_S = 5.0
"""How long to wait for others that are being sent parts of the same file, before asking for them too."""

KEEP_GIB = "CRYOSCALE_KEEP_GIB"
"""How much a machine keeps, in the environment of its workers; 0 for nothing."""

GIB_A_CORE, MOST_GIB = 2.0, 64.0
"""Where it is not told. Ten dates of a block of 2048 pixels are some 0.6 GiB, a core has two blocks at work,
and their neighbours come next."""

_SWEPT_PARTS = 64
"""A process looks at the whole folder each time that it has added this part of what may lie there."""

_TURN = ".turn"

_numbers = count()


class Piece(NamedTuple):
    """Some bytes of a file, and at which byte of it they begin."""

    start: int
    data: bytes

    @property
    def stop(self) -> int:
        """The first byte that is not in it."""
        return self.start + len(self.data)


class _Label(NamedTuple):
    """What a piece is named by where it lies."""

    start: int
    stop: int
    checksum: str

    @classmethod
    def of(cls, piece: Piece) -> _Label:
        return cls(piece.start, piece.stop, f"{zlib.crc32(piece.data):08x}")

    @classmethod
    def read(cls, name: str) -> _Label | None:
        """None of what is under way."""
        parts = name.split("-")
        if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
            return None
        return cls(int(parts[0]), int(parts[1]), parts[2])

    @property
    def name(self) -> str:
        return f"{self.start}-{self.stop}-{self.checksum}"


class Kept:
    """The pieces in a folder, whichever process put them there.

    Args:
        folder: where they are kept, and nothing else is; made when it is needed.
        most_bytes: what may lie there. It is less where it would be more than half of what the disk has left.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._added_bytes = 0
        self._takes = True
        self._lock = threading.Lock()

    def shelf(self, href: str, version: Version) -> Shelf | None:
        """Where pieces of one state of a file are; None of a file that cannot be told from its next state."""
        if not any(version.marks):
            return None
        state = repr((href, version.size, version.marks)).encode()
        return Shelf(self, self.folder / hashlib.sha256(state).hexdigest()[:32])

    def clear(self) -> None:
        """Let go of everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def store(self, folder: Path, piece: Piece) -> None:
        """Put a piece there whole or not at all, and take others away where there are too many."""
        if not self._takes:
            return
        unready = folder / f".{os.getpid()}.{next(_numbers)}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                unready.write_bytes(piece.data)
                unready.rename(folder / _Label.of(piece).name)
            except OSError:
                unready.unlink(missing_ok=True)
                raise
            self._sweep_after(len(piece.data))
        except FileNotFoundError:  # taken away meanwhile by another process
            return
        except OSError as error:
            self._takes = False  # a disk that is full is the run's before it is ours
            log.debug("no more ranges are kept in %s: %s", self.folder, error)
            self.clear()

    def _sweep_after(self, added_bytes: int) -> None:
        with self._lock:
            self._added_bytes += added_bytes
            if self._added_bytes * _SWEPT_PARTS < self.most_bytes:
                return
            self._added_bytes = 0
        lying = [(found.st_mtime_ns, found.st_size, path) for found, path in _statuses(self.folder)]
        total = sum(size for _, size, _ in lying)
        most = min(self.most_bytes, (total + shutil.disk_usage(self.folder).free) // 2)
        for _, size, path in sorted(lying):
            if total <= most:
                return
            path.unlink(missing_ok=True)
            total -= size


def _statuses(folder: Path) -> Iterator[tuple[os.stat_result, Path]]:
    for path in folder.glob("*/*-*-*"):
        with suppress(OSError):  # others take away too
            yield path.stat(), path


@dataclass(frozen=True)
class Shelf:
    """The pieces of one state of a file."""

    kept: Kept
    folder: Path

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within the body nobody else on the machine looks for pieces of the file, and asks its host.

        Neighbours that are read at the same time would otherwise both be sent what they share. It is waited
        for a little only: who asks beside others wastes bytes, and nothing else.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.folder / _TURN, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            yield
            return
        try:
            until = time.monotonic() + WAIT_S
            while not _locked(lock) and time.monotonic() < until:
                time.sleep(0.01)
            yield
        finally:
            os.close(lock)

    def find(self, start: int, stop: int) -> list[Piece]:
        """Pieces within [start, stop) of the file, in order and apart: as much of it as is kept."""
        try:
            labels = sorted(found for name in os.listdir(self.folder) if (found := _Label.read(name)))
        except OSError:
            return []
        pieces: list[Piece] = []
        for label in labels:
            begin = max(label.start, pieces[-1].stop if pieces else start)
            end = min(label.stop, stop)
            if end > begin and (data := self._sound(label)) is not None:
                pieces.append(Piece(begin, data[begin - label.start : end - label.start]))
        return pieces

    def put(self, piece: Piece) -> None:
        """Keep a piece, if there is room."""
        self.kept.store(self.folder, piece)

    def clear(self) -> None:
        """Let go of the file's pieces."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sound(self, label: _Label) -> bytes | None:
        path = self.folder / label.name
        try:
            data = path.read_bytes()
        except OSError:  # the oldest go, here or in another process
            return None
        if len(data) == label.stop - label.start and _Label.of(Piece(label.start, data)) == label:
            return data
        with suppress(OSError):
            path.unlink()
        return None


def _locked(file: int) -> bool:
    """Whether the lock of an open file is held now; also where its disk knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def gib() -> float:
    """How much this machine keeps, by its environment.

    A pod that exceeds its share of the node's disk is evicted, and cannot find out what that share is: on
    Kubernetes nothing is kept unless it is told how much.

    Raises:
        ConfigError: what the environment says is no amount.
    """
    given = os.environ.get(KEEP_GIB, "")
    if not given:
        in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
        return 0.0 if in_pod else min(GIB_A_CORE * (os.cpu_count() or 1), MOST_GIB)
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0.0 <= found < float("inf"):
        raise ConfigError(
            f"{KEEP_GIB}={given}", "GiB, 0 for none", "correct the environment, or leave it out"
        )
    return found


_here: list[Kept] = []
"""Where this process keeps ranges, if it does: nothing or one."""


def here() -> Kept | None:
    """Where this process keeps ranges; None where it does not."""
    return next(iter(_here), None)


def keep_at(kept: Kept | None) -> None:
    """From now on keep ranges there, or nowhere."""
    _here[:] = [kept] if kept is not None else []
