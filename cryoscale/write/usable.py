"""Whether anything could be written to a folder or store, asked before the work that would be lost."""

from __future__ import annotations

import os
import re
import uuid
from textwrap import shorten

from cryoscale.errors import OutputError, StoreUnavailableError
from cryoscale.patience import code_of
from cryoscale.room import full_disk_told
from cryoscale.write import disk
from cryoscale.write.objects import Objects, local_path, require_library

_ASK_S = 10.0
"""For how long a store may take to answer: somebody sits before it."""

_NO_PATH = re.compile(r"[\x00-\x1f!]|::")
"""What pyogrio 0.13 (``archive!file``) or fsspec (``one::other``) splits a path at, or strips from it."""


def require_usable(url: str | os.PathLike[str]) -> None:
    """Refuses a folder or store in which nothing could be written, and leaves nothing behind in it.

    Raises:
        ExtraError: if the library for this kind of store is not installed.
        OutputError: if the store is unknown, does not answer, or does not let objects be listed,
            written and removed; or if libraries would take the folder's path for something else.
        NoRoomError: if the disk is full or over quota.
    """
    text = os.fspath(url)
    folder = local_path(text)
    require_library(text)
    if folder is not None:
        _refuse_no_path(text, os.path.abspath(folder))
    try:
        if folder is None:
            _try_store(text)
        else:
            with full_disk_told(text):
                _try_folder(os.path.abspath(folder))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"output {text} ({shorten(getattr(error, 'strerror', None) or str(error), 200)})",
            "a folder, or a bucket and a path in it, in which files can be made and removed",
            _remedy(error),
        ) from error


def require_run_folder(out: str) -> None:
    """Refuses a run's folder or URL that is named like a store.

    Whoever opens a run's map would take it for the map's own store (see
    :func:`cryoscale.write.mosaic.store_url_of`), and find no map there when all blocks are done.

    Raises:
        OutputError: its name ends in .zarr.
    """
    if out.rstrip("/").endswith(".zarr"):
        raise OutputError(
            f"output {out}, which is named like a Zarr store",
            "a folder, in which the run makes its mosaic.zarr",
            "give another --out, without .zarr at its end",
        )


def _refuse_no_path(given: str, folder: str) -> None:
    if found := _NO_PATH.search(folder):
        raise OutputError(
            f"output {given!r}, with {found[0]!r} in its path",
            "a path that libraries do not take for a file in an archive or for several addresses",
            "give another --out",
        )


def _try_store(url: str) -> None:
    store, key = Objects(url, retry_s=_ASK_S), f".{uuid.uuid4().hex}.partial"
    next(store.list(key), None)
    store.put(key, b"")
    store.delete(key)


def _try_folder(folder: str) -> None:
    made = disk.make_folder(folder)
    try:
        key = f"{folder}/.{uuid.uuid4().hex}.partial"
        disk.write(key, b"0", replace=True)
        os.unlink(key)
    finally:
        disk.unmake(made)


def _remedy(error: Exception) -> str:
    if isinstance(error, StoreUnavailableError):
        return "correct the address (endpoint) or wait until the server is back"
    if code_of(error) == "NoSuchBucket":
        return "make the bucket or correct its name"
    return "obtain the right to write there or give another --out"
