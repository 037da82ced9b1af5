"""Weights in an object store: fetched whole, once a machine and version, and then proven like any others."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from cryoscale.errors import ExtraError, StoreUnavailableError, WeightsError

KEPT = "cryoscale-weights"
"""Folder of the machine's temporary one, for each user, that holds what was fetched."""


def on_this_machine(weights: str | Path) -> Path:
    """Where X.safetensors and X.json lie here; those of a URL are fetched unless that version is here.

    The version is what the store says of both files (ETag, size or time), so that weights which are replaced
    there are fetched anew. A fetch that is cut off leaves nothing that would be taken for one.

    Args:
        weights: a path, or the URL of X.safetensors in anything that fsspec opens.

    Raises:
        WeightsError: there are none at the URL, or they may not be read.
        ExtraError: the library for that kind of store is not installed.
        StoreUnavailableError: the store does not answer.
    """
    url = str(weights)
    if "://" not in url:
        return Path(weights)
    import fsspec

    name = PurePosixPath(url).name
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        beside = str(PurePosixPath(path).with_suffix(".json"))
        known = [(place, filesystem.ukey(place)) for place in (path, beside) if filesystem.exists(place)]
        if path not in dict(known):
            raise WeightsError(f"weights {url} (nothing there)", "a .safetensors file", "check the URL")
        version = hashlib.sha256(repr((url, known)).encode()).hexdigest()[:32]
        folder = _kept() / version
        if not folder.is_dir():
            _fetch(filesystem, [place for place, _ in known], folder)
    except (ImportError, ValueError) as error:  # a scheme that fsspec does not know is a ValueError
        if isinstance(error, WeightsError):
            raise
        do = f"pip install what fsspec needs for it ({error}); for s3:// cryoscale[s3]"
        raise ExtraError(f"weights {url}", "a library that opens such URLs", do) from error
    except PermissionError as error:
        given = f"weights {url}, which may not be read ({error})"
        raise WeightsError(given, "credentials that allow it", "give them, as for the output") from error
    except OSError as error:
        raise StoreUnavailableError(f"weights {url} cannot be had: {error}") from error
    return folder / name


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


def _fetch(filesystem: object, places: list[str], folder: Path) -> None:
    """Both files under their names in ``folder``, which appears whole or not at all."""
    part = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        for place in places:
            filesystem.get_file(place, str(part / PurePosixPath(place).name))  # type: ignore[attr-defined]
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was quicker, with the same bytes
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
