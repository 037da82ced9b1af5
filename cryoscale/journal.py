"""JSON lines of what happens in a run: one object a line with ``time``, ``event`` and the event's facts.

A log serves the run and must never end it: what cannot be written is kept back or counted, told once, and
the run goes on. Lines carry no credentials: of every address in them only what is public is written.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from cryoscale.read.signing import public
from cryoscale.write.objects import Objects, local_path

log = logging.getLogger("cryoscale")

FOLDER = "ledger/log"

SEGMENT_S = 30.0
"""How often a log goes into an object store, which knows no appending."""

PROGRESS_S = 60.0
"""How often a beat becomes a line: all of them would be 17,000 a day."""

STORE_RETRY_S = 10.0
"""How long one attempt at a store that is away may take; the next segment tries again."""

MOST_WAITING = 50_000
"""Lines kept for a store that is away, some 20 MB; beyond that the oldest go."""

_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://[^\s'\"<>|]+")

_LEFT_OUT = {"scene_choice", "shards", "scenes_read", "class_pixels", "modality_pixels", "checksum"}
"""Facts of a block that its marker holds, and that would make a log of 100,000 blocks three times as long."""


class Lines(Protocol):
    """Somewhere that lines go."""

    def write(self, line: bytes) -> None:
        """Take one line, its end included; an OSError says that it was not taken."""

    def close(self) -> None:
        """Let go of it; an OSError says that lines were lost."""


class FileLines:
    """Lines appended to a local file, each by one write, so that a kill tears the last at most."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: int | None = None
        self._torn = False

    def open(self) -> None:
        """Open the file now; otherwise the first line does."""
        if self._file is None:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            self._torn = _is_torn(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, line: bytes) -> None:
        """Append a line."""
        self.open()
        assert self._file is not None
        data = b"\n" + line if self._torn else line
        if os.write(self._file, data) < len(data):
            self._torn = True
            raise OSError(errno.ENOSPC, "only a part of a line could be written")
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class ErrorLines:
    """Lines on stderr."""

    def write(self, line: bytes) -> None:
        """Print a line at once."""
        sys.stderr.write(line.decode())
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing: stderr is not ours."""


class StoredLines:
    """Lines for an object store, put in numbered segments every :data:`SEGMENT_S` seconds."""

    def __init__(self, out: str, session: str) -> None:
        self._objects, self._session = Objects(out, retry_s=STORE_RETRY_S), session
        self._waiting: list[bytes] = []
        self._segment = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cryoscale-log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Keep a line for the next segment."""
        with self._lock:
            self._waiting.append(line)
            self._bound()

    def close(self) -> None:
        """Put what is left."""
        self._over.set()
        self._thread.join()
        self._put()

    def _keep(self) -> None:
        while not self._over.wait(SEGMENT_S):
            try:
                self._put()
            except Exception as error:  # whatever a store raises, its lines go with the next segment
                log.debug("the log waits for its store: %s", error)

    def _put(self) -> None:
        with self._lock:
            lines, self._waiting = self._waiting, []
        if not lines:
            return
        try:
            self._objects.put(f"{FOLDER}/{self._session}-{self._segment:05d}.jsonl", b"".join(lines))
        except BaseException:
            with self._lock:
                self._waiting = lines + self._waiting
                self._bound()
            raise
        self._segment += 1

    def _bound(self) -> None:
        dropped = len(self._waiting) - MOST_WAITING
        if dropped > 0:
            del self._waiting[: dropped + 1]
            self._waiting.insert(0, _encode("lines_lost", {"count": dropped + 1}))


class Journal:
    """Events as lines; those before :meth:`open` are kept until it is known where they belong."""

    def __init__(self, lines: Lines | None = None) -> None:
        self._lines = lines
        self._early: list[bytes] = []
        self._lock = threading.RLock()
        self._lost = 0
        self._told = False
        self._beat = float("-inf")

    def open(self, lines: Lines) -> None:
        """Write to ``lines`` from here on, what came before first."""
        with self._lock:
            self._lines, early, self._early = lines, self._early, []
            for line in early:
                self._write(line)

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write an event; a beat becomes a line ``progress`` once in a while."""
        with self._lock:
            if name == "beat":
                if time.monotonic() - self._beat < PROGRESS_S:
                    return
                self._beat, name = time.monotonic(), "progress"
            line = _encode(name, facts)
            if self._lines is None:
                self._early.append(line)
            else:
                self._write(line)

    def close(self) -> None:
        """Let go of the lines' place."""
        with self._lock:
            lines, self._lines = self._lines, None
        if lines is None:
            return
        try:
            lines.close()
        except Exception as error:
            self._tell(error)

    def _write(self, line: bytes) -> None:
        assert self._lines is not None
        try:
            if self._lost:
                self._lines.write(_encode("lines_lost", {"count": self._lost}))
                self._lost = 0
            self._lines.write(line)
        except Exception as error:  # no fault of a log is a fault of the run
            self._lost += 1
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True  # first, since the warning itself becomes an event
            log.warning("the log cannot be written (%s); the run goes on without it", error)


def of_session(out: str, session: str) -> Lines:
    """Where the lines of a session of the run at ``out`` go."""
    folder = local_path(out)
    if folder is None:
        return StoredLines(out, session)
    return FileLines(f"{folder}/{FOLDER}/{session}.jsonl")


@contextmanager
def kept(path: str) -> Iterator[Journal]:
    """A journal in the file ``path``, or on stderr for ``-``.

    Raises:
        OSError: the file cannot be opened.
    """
    lines: Lines = ErrorLines()
    if path != "-":
        lines = FileLines(path)
        lines.open()
    journal = Journal(lines)
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def heard(event: Callable[[str, Mapping[str, Any]], None]) -> Iterator[None]:
    """Make events of the warnings of Python's logger ``cryoscale`` in the body; they are shown as before."""
    ear = _Ear(event)
    logger = logging.getLogger("cryoscale")
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)


class _Ear(logging.Handler):
    """A handler that hides nothing: where nobody else handles a record, Python's last resort prints it."""

    def __init__(self, event: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._event("warning", {"level": record.levelname.lower(), "text": record.getMessage()})
        except Exception:  # as every handler of Python's does: told on stderr, raised to nobody
            self.handleError(record)
        if logging.lastResort is not None and _first_ear(record.name) is self:
            logging.lastResort.handle(record)


def _first_ear(name: str) -> logging.Handler | None:
    """The ear that has to print what a logger says: the first, where there are none but ears."""
    logger: logging.Logger | None = logging.getLogger(name)
    found: list[logging.Handler] = []
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    return found[0] if found and all(isinstance(handler, _Ear) for handler in found) else None


def clean(value: Any) -> Any:
    """A value as JSON has it, its addresses without tokens and log-ins."""
    if isinstance(value, str):
        return _ADDRESS.sub(lambda found: public(found.group()), value)
    if isinstance(value, Mapping):
        return {str(key): clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float)) else clean(str(value))


def _is_torn(path: str) -> bool:
    """Whether a file ends within a line, as whoever was killed while writing one leaves it."""
    try:
        with open(path, "rb") as file:
            return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
    except FileNotFoundError:
        return False


def _encode(name: str, facts: Mapping[str, Any]) -> bytes:
    shown = {key: value for key, value in facts.items() if key not in _LEFT_OUT}
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    return (json.dumps({"time": when, "event": name, **clean(shown)}) + "\n").encode()
