"""Weights in an object store: fetched whole, once a machine and version, and then proven like any others."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from cryoscale.errors import ExtraError, StoreUnavailableError, WeightsError
from cryoscale.patience import patiently
from cryoscale.room import full_disk_told

KEPT = "cryoscale-weights"
"""Folder of the machine's temporary one, for each user, that holds what was fetched."""

MOST_VERSIONS = 8
"""So many are kept; of more the one that was used longest ago goes."""

IN_USE_S = 3600.0
"""What was used so short a while ago stays nonetheless: somebody may be about to load it."""

RETRY_S = 30.0
"""How long a store is asked again; whoever starts a run waits for it."""


def on_this_machine(weights: str | Path) -> Path:
    """Where X.safetensors and X.json lie here; those of a URL are fetched unless that version is here.

    The version is what the store says of both files (ETag, size or time), so that weights which are replaced
    there are fetched anew. A fetch that is cut off leaves nothing that would be taken for one.

    Args:
        weights: a path, or the URL of X.safetensors in anything that fsspec opens.

    Raises:
        WeightsError: there are none at the URL, or they may not be read.
        ExtraError: the library for that kind of store is not installed.
        StoreUnavailableError: the store does not answer for :data:`RETRY_S`.
        NoRoomError: this machine's temporary folder is full.
    """
    url = str(weights)
    if "://" not in url:
        return Path(weights)
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a scheme that fsspec does not know is a ValueError
        do = f"pip install what fsspec needs for it ({error}); for s3:// cryoscale[s3]"
        raise ExtraError(f"weights {url}", "a library that opens such URLs", do) from error
    places = (path, _beside(path))
    kept = _kept()

    def fetch() -> Path | None:
        known = {place: filesystem.info(place) for place in places if filesystem.exists(place)}
        if path not in known:
            return None
        versions = [(place, filesystem.ukey(place), _told(info)) for place, info in known.items()]
        folder = kept / hashlib.sha256(repr((url, versions)).encode()).hexdigest()[:32]
        if not _is_whole(folder, known):
            _discard(folder)
            _fetch(filesystem, list(known), folder)
            _sweep(kept)
        with suppress(FileNotFoundError):
            for used in (folder, *folder.iterdir()):  # so that a sweep, ours or the system's, knows it
                os.utime(used)
        return folder / _name(path)

    try:
        with full_disk_told(str(kept)):
            found = patiently(url, fetch, RETRY_S)
    except StoreUnavailableError:
        raise
    except OSError as error:
        given = f"weights {url}, which cannot be read ({error.strerror or error})"
        raise WeightsError(given, "a URL and credentials that allow it", "correct them") from error
    if found is None:
        raise WeightsError(f"weights {url} (nothing there)", "a .safetensors file", "check the URL")
    return found


def _beside(place: str) -> str:
    """Where the card of weights lies; a URL over HTTP is its own place, and keeps what follows a ``?``."""
    head, mark, query = place.partition("?") if "://" in place else (place, "", "")
    folder, slash, name = head.rpartition("/")
    return folder + slash + PurePosixPath(name).with_suffix(".json").name + mark + query


def _name(place: str) -> str:
    return PurePosixPath(place.partition("?")[0] if "://" in place else place).name


def _told(info: Mapping[str, Any]) -> list[Any]:
    """What tells versions apart where fsspec takes a file for one that never changes, as over HTTP."""
    return [info.get(name) for name in ("ETag", "Content-MD5", "Digest", "Last-Modified", "size")]


def _is_whole(folder: Path, known: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all that was fetched is still there, as long as the store says; cleaners take single files."""
    for place, info in known.items():
        try:
            size = (folder / _name(place)).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        if info.get("size") not in (None, size):
            return False
    return True


def _discard(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)


def _kept() -> Path:
    """This user's folder, which others cannot put anything into.

    Raises:
        WeightsError: somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"{KEPT}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise WeightsError(f"{folder}, which others may write to", "a folder of one's own", "remove it")
    return folder


def _sweep(kept: Path) -> None:
    """Bound what lies in the temporary folder; what a killed fetch left half made counts as a version."""
    used: list[tuple[float, Path]] = []
    for folder in kept.iterdir():
        with suppress(FileNotFoundError):  # another process sweeps too
            used.append((folder.stat().st_mtime, folder))
    for when, folder in sorted(used, reverse=True)[MOST_VERSIONS:]:
        if time.time() - when > IN_USE_S:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(filesystem: object, places: list[str], folder: Path) -> None:
    """Both files under their names in ``folder``, which appears whole or not at all."""
    part = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        for place in places:
            filesystem.get_file(place, str(part / _name(place)))  # type: ignore[attr-defined]
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was quicker, with the same bytes
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
