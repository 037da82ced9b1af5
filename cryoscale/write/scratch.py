"""A database in a temporary file: what is too much for memory, until it is closed."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class Scratch:
    """An SQLite file of its own, gone once closed; a context manager.

    Args:
        tables: what it begins with, as SQL.
    """

    def __init__(self, tables: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cryoscale-")
        self._path = Path(self._folder.name, "scratch.sqlite")
        self._base = sqlite3.connect(self._path)
        self._base.executescript(tables)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the temporary file go."""
        self._base.close()
        self._folder.cleanup()
