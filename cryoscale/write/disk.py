"""Files on a local disk, put whole and durably, listed fast."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from cryoscale.errors import OutputError

_PARTIAL = re.compile(r"(^|\.)[0-9a-f]{32}\.partial$")
"""Names of files being written, by us or by zarr's local store."""
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})


def output(out: str) -> str:
    """An output as a URL or an absolute path without a slash at its end, ``~`` being the user's home.

    Raises:
        OutputError: it begins with the home of a user who is not there.
    """
    out = out.removeprefix("file://")
    kind, separator, place = out.partition("://")
    if separator:  # a key that begins with a slash is another one to a store
        return f"{kind}://{place.rstrip('/')}"
    path = os.path.expanduser(out)
    if path.startswith("~"):
        raise OutputError(
            f"output {out}, of a user who is not there",
            "~ or ~ and the name of a user",
            f"correct it, or give ./{out} for a folder of that name",
        )
    return os.path.realpath(path)


def write(path: str, content: bytes, *, replace: bool) -> bool:
    """Puts a file in place in one step, durably; False if one is there that must not be replaced."""
    folder = os.path.dirname(path)
    temporary = f"{folder}/.{uuid.uuid4().hex}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except FileNotFoundError:
        make_folder(folder)
        descriptor = os.open(temporary, flags, 0o666)
    try:
        _fill(descriptor, content)
        if replace:
            os.replace(temporary, path)
        elif not _link(temporary, path, content):
            return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_folder(folder)
    return True


def _link(temporary: str, path: str, content: bytes) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        try:
            _fill(descriptor, content)
        except BaseException:
            os.unlink(path)
            raise
    return True


def _fill(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(descriptor)


def is_partial(name: str) -> bool:
    """Whether a file of this name is only being written."""
    return _PARTIAL.search(name) is not None


def sweep(folder: str) -> None:
    """Removes what is only half written below a folder, for when nobody writes there any more."""
    for path, folders, files in os.walk(folder):
        for name in filter(is_partial, files):
            with contextlib.suppress(OSError):  # what cannot be removed harms nobody
                os.unlink(f"{path}/{name}")
        for name in filter(is_partial, tuple(folders)):
            folders.remove(name)
            shutil.rmtree(f"{path}/{name}", ignore_errors=True)


def make_folder(folder: str) -> list[str]:
    """Makes a folder and those above it, durably; says which it made, the outermost first."""
    missing: list[str] = []
    while folder and not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    made = []
    for one in reversed(missing):
        # another may make it at the same time
        with contextlib.suppress(FileExistsError):
            os.mkdir(one)
            made.append(one)
            _sync_folder(os.path.dirname(one) or ".")
    return made


def unmake(made: list[str]) -> None:
    """Removes what :func:`make_folder` made, as far as nobody has put anything there by now."""
    with contextlib.suppress(OSError):
        for one in reversed(made):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(one)


def empty(folder: str) -> None:
    """Removes all that lies in a folder, which itself stays, and whatever lock is on it; none is fine."""
    try:
        found = os.scandir(folder)
    except FileNotFoundError:
        return
    with found:
        for one in found:
            with contextlib.suppress(FileNotFoundError):  # somebody else has removed it meanwhile
                if one.is_dir(follow_symlinks=False):
                    shutil.rmtree(one.path)
                else:
                    os.unlink(one.path)


def settle(paths: Sequence[str]) -> None:
    """Has files, and the folders that name them, go to the disk itself; those that are not there are fine.

    Side by side: what waits for the disk at the same time waits for it once.

    Raises:
        OSError: the disk did not take them; some network filesystems say only now that it is full.
    """
    with ThreadPoolExecutor(max(len(paths), 1)) as pool:
        there = [path for path, is_there in zip(paths, pool.map(_sync_file, paths), strict=True) if is_there]
        for _ in pool.map(_sync_folder, sorted({os.path.dirname(path) for path in there})):
            pass


def _sync_file(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network filesystems cannot, and need not
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def read(path: str) -> bytes | None:
    """The content of a file, None where there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def scan(folder: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder with its state, by ``prefix`` and its path there; none if it is absent."""
    below = [(folder, prefix)]
    while below:
        folder, prefix = below.pop()
        try:
            with os.scandir(folder) as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        below.append((one.path, f"{prefix}{one.name}/"))
                    elif not (one.name.endswith(".partial") and is_partial(one.name)):
                        with contextlib.suppress(FileNotFoundError):
                            yield prefix + one.name, one.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
