"""Whole objects under one root: a local folder or anything fsspec opens, with the same promises.

An object is there whole or not at all, its stamp changes when it is written again, a listing is
never a remembered one, and a remote store that is away for a while costs time and nothing else
(:mod:`cryoscale.patience`). What a remote filesystem needs beyond the URL (endpoint, key) comes
from fsspec's own configuration
(https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from stat import S_ISDIR
from typing import Any, NamedTuple, TypeVar

import fsspec

from cryoscale.errors import ExtraError, OutputError
from cryoscale.patience import RETRY_S, chain, code_of, patiently, status_of
from cryoscale.write import disk

_WRITER = "cryoscale-writer"

T = TypeVar("T")


class Entry(NamedTuple):
    """One object, without its content.

    Attributes:
        key: its path below the root.
        size_bytes: its length.
        stamp: another one after the object was written again. On disk the time in ns and the inode; S3's
            ETag and time in s, so that writing the same bytes twice in a second may go unseen.
    """

    key: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True)
class Objects:
    """The objects under ``root``.

    Every method raises an OSError as it comes (a full disk, missing rights, a bucket that is not there);
    remote ones that pass are repeated first, and end in StoreUnavailableError.

    Attributes:
        root: local folder or fsspec URL.
        retry_s: for how long a remote operation is repeated.
    """

    root: str
    retry_s: float = RETRY_S

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, whole or not at all, and durably; replaces what was there."""
        folder = local_path(self.root)
        if folder is not None:
            disk.write(f"{folder}/{key}", content, replace=True)
            return
        fs, path = self._at(key)
        self._patiently(lambda: fs.pipe_file(path, content))

    def create(self, key: str, content: bytes) -> bool:
        """Writes an object if there is none; False if there is one already.

        Of any number of callers at once, one gets True: on disk by a hard link (where the filesystem
        has none, by opening exclusively, and a reader may meet the object half written), on S3,
        Google and Azure by a conditional put. A store that ignores the condition (some servers that
        speak S3) still says False for what has been there for a moment, and True to all of those
        who come within the same moment, the last of whom stays.
        """
        folder = local_path(self.root)
        if folder is not None:
            return disk.write(f"{folder}/{key}", content, replace=False)
        if self.stat(key) is not None:
            return False
        fs, path = self._at(key)
        options: dict[str, Any] = {}
        if _protocol(self.root) in _S3:
            options["Metadata"] = {_WRITER: uuid.uuid4().hex}
        try:
            self._patiently(lambda: fs.pipe_file(path, content, mode="create", **options))
        except OSError as error:
            if not isinstance(error, FileExistsError) and all(status_of(one) != 412 for one in chain(error)):
                raise
            # the answer to an attempt of ours may have been lost, and the next one met our own object
            return bool(options) and self._writer(key) == options["Metadata"][_WRITER]
        return True

    def settle(self, keys: Sequence[str]) -> None:
        """Has objects that others put survive a power cut, as :meth:`put` does; absent ones are fine.

        A remote store answers once it has them for good.
        """
        folder = local_path(self.root)
        if folder is not None:
            disk.settle([f"{folder}/{key}" for key in keys])

    def get(self, key: str) -> bytes | None:
        """The content of an object, None where there is none."""
        return self.get_many([key])[key]

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """The contents of many objects by key, None where there is none; one concurrent batch remotely."""
        folder = local_path(self.root)
        if folder is not None:
            return {key: disk.read(f"{folder}/{key}") for key in keys}
        fs, root = self._at("")
        found: dict[str, bytes | None] = {}

        def ask() -> None:
            wanted = [key for key in dict.fromkeys(keys) if key not in found]
            # not cat, which takes a key with brackets for a pattern
            answers = fs.cat_ranges([f"{root}{key}" for key in wanted], None, None, on_error="return")
            failed = None
            for key, answer in zip(wanted, answers, strict=True):
                if not isinstance(answer, Exception) or _is_absent(answer):
                    found[key] = None if isinstance(answer, Exception) else bytes(answer)
                else:
                    failed = answer
            if failed is not None:
                raise failed

        self._patiently(ask)
        return {key: found[key] for key in keys}

    def stat(self, key: str) -> Entry | None:
        """Size and stamp of an object, None where there is none."""
        folder = local_path(self.root)
        if folder is not None:
            try:
                state = os.stat(f"{folder}/{key}")
            except (FileNotFoundError, NotADirectoryError):
                return None
            return None if S_ISDIR(state.st_mode) else _local_entry(key, state)
        fs, path = self._at(key)

        def ask() -> Any:
            fs.invalidate_cache()
            return fs.info(path)

        try:
            told = self._patiently(ask)
        except OSError as error:
            if _is_absent(error):
                return None
            raise
        return None if told["type"] == "directory" else _remote_entry(key, told)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object in the folder ``prefix`` ("" is all) and below, in no order; none where it is absent.

        No content is read, and files that are only being written are left out.
        """
        folder = local_path(self.root)
        prefix = prefix.strip("/")
        if folder is not None:
            below = f"{folder}/{prefix}".rstrip("/") or "/"
            for key, state in disk.scan(below, f"{prefix}/" if prefix else ""):
                yield _local_entry(key, state)
            return
        fs, root = self._at("")
        path = f"{root}{prefix}".rstrip("/")

        def ask() -> dict[str, Any]:
            fs.invalidate_cache()
            return dict(fs.find(path, detail=True))

        try:
            found = self._patiently(ask)
        except OSError as error:
            if _is_absent(error):
                return
            raise
        for name, told in found.items():
            key = name[len(root) :]
            if name != path and not name.endswith("/") and told["type"] != "directory":
                yield _remote_entry(key, told)

    def names(self) -> tuple[str, ...]:
        """Names of the files and folders at the top, sorted; none where the root is absent."""
        folder = local_path(self.root)
        if folder is not None:
            try:
                return tuple(sorted(name for name in os.listdir(folder) if not disk.is_partial(name)))
            except FileNotFoundError:
                return ()
        fs, root = self._at("")

        def ask() -> set[str]:
            fs.invalidate_cache()
            return {str(path) for path in fs.ls(root.rstrip("/"), detail=False)}

        try:
            paths = self._patiently(ask)
        except OSError as error:
            if _is_absent(error):
                return ()
            raise
        own = root.rstrip("/")  # listed where somebody has made a "folder" of it
        return tuple(
            sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths if path.rstrip("/") != own})
        )

    @property
    def is_local(self) -> bool:
        """Whether it is a folder on this machine, where reading an object takes no round trip."""
        return local_path(self.root) is not None

    def delete(self, key: str) -> None:
        """Removes an object; one that is absent is fine."""
        folder = local_path(self.root)
        if folder is not None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(f"{folder}/{key}")
            return
        fs, path = self._at(key)
        try:
            self._patiently(lambda: fs.rm_file(path))
        except OSError as error:
            if not _is_absent(error):
                raise

    def delete_all(self, prefix: str) -> None:
        """Removes the folder ``prefix`` and all below it; an absent one is fine.

        Raises:
            PermissionError: also if a store says nothing and still keeps some of it.
        """
        prefix = prefix.strip("/")
        folder = local_path(self.root)
        if folder is not None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                shutil.rmtree(f"{folder}/{prefix}".rstrip("/"))
            return
        before = {entry for entry in self.list(prefix)}
        if not before:
            return
        fs, path = self._at(prefix)
        try:
            self._patiently(lambda: fs.rm(path.rstrip("/"), recursive=True))
        except OSError as error:
            if not _is_absent(error):
                raise
        # s3fs deletes a thousand at a time and does not look at what the server could not delete
        kept = before.intersection(self.list(prefix))
        if kept:
            raise PermissionError(errno.EACCES, f"{len(kept)} of {len(before)} objects could not be deleted")

    def sweep(self, prefix: str) -> None:
        """Removes what killed processes left half written below a prefix, for when nobody writes there.

        Object stores show nothing that is not whole.
        """
        folder = local_path(self.root)
        if folder is not None:
            disk.sweep(f"{folder}/{prefix}")

    def _at(self, key: str) -> tuple[Any, str]:
        fs, root = filesystem(self.root)
        return fs, f"{root}/{key}"

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(self.root, call, self.retry_s)

    def _writer(self, key: str) -> str | None:
        fs, path = self._at(key)
        return dict(self._patiently(lambda: fs.metadata(path))).get(_WRITER)


# --- filesystems ------------------------------------------------------------------------------------

_S3 = ("s3", "s3a")
_LOCAL = ("file", "local")


def local_path(url: str | os.PathLike[str]) -> str | None:
    """The path that a URL or path names on a local disk, without a slash at its end; None if remote."""
    text = os.fspath(url)
    if "://" in text:
        protocol, _, text = text.partition("://")
        if protocol not in _LOCAL:
            return None
    return text.rstrip("/") or "/"


def filesystem(url: str, *, asynchronous: bool = False) -> tuple[Any, str]:
    """The fsspec filesystem of a remote URL, set up for whole objects, and the path in it.

    One of each kind serves all threads of a process; a forked child gets its own.

    Raises:
        ExtraError: if the library for this kind of store is not installed.
        OutputError: if the store is unknown.
    """
    require_library(url)
    protocol = _protocol(url)
    told = json.dumps(fsspec.config.conf.get(protocol, {}), sort_keys=True, default=str)
    fs = _opened(protocol, told, asynchronous, os.getpid())
    return fs, fs._strip_protocol(url).rstrip("/")


@functools.lru_cache(maxsize=16)
def _opened(protocol: str, told: str, asynchronous: bool, pid: int) -> Any:
    kind = fsspec.get_filesystem_class(protocol)
    # a remembered listing does not know what another worker has written since
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol in _S3:
        given = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        # one attempt a call, for s3fs and botocore each repeat on their own, and neither for long enough;
        # and no HEAD before every GET, which more than one part would need
        options |= {
            "config_kwargs": {"retries": {"total_max_attempts": 1}, "max_pool_connections": 50, **given},
            "max_concurrency": 1,
        }
    if kind.async_impl:
        fs = kind(asynchronous=asynchronous, **options)
        if protocol in _S3:
            fs.retries = 1
        return fs
    if not asynchronous:
        return kind(**options)
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    return AsyncFileSystemWrapper(kind(**options), asynchronous=True)


def _local_entry(key: str, state: os.stat_result) -> Entry:
    return Entry(key, state.st_size, f"{state.st_mtime_ns}-{state.st_ino}")


def require_library(url: str) -> None:
    """Refuses a kind of store that nothing here opens; asks no store.

    Raises:
        ExtraError: if the library for this kind of store is not installed.
        OutputError: if the store is unknown.
    """
    if local_path(url) is not None:
        return
    protocol = _protocol(url)
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        what = "the extra s3" if protocol in _S3 else f"the library that opens {protocol}://"
        do = "pip install 'cryoscale[s3]'" if protocol in _S3 else str(error)
        raise ExtraError(url, what, do) from error
    except ValueError as error:
        raise OutputError(url, "a path, or a URL such as s3://bucket/path", "correct it") from error


def _protocol(url: str) -> str:
    return url.partition("://")[0]


def _is_absent(error: BaseException) -> bool:
    """Whether an object is not there; a bucket that is not there is another matter."""
    kinds = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, kinds) and code_of(error) != "NoSuchBucket"


def _remote_entry(key: str, told: dict[str, Any]) -> Entry:
    parts = []
    for name in ("ETag", "etag", "generation", "md5Hash"):
        if told.get(name):
            parts.append(str(told[name]).strip('"'))
    for name in ("LastModified", "last_modified", "updated", "created", "mtime"):
        when = told.get(name)
        if when:
            # a HEAD tells whole seconds where a listing tells milliseconds
            parts.append(_moment(when, whole=bool(parts)))
            break
    return Entry(key, int(told["size"]), "-".join(parts))


def _moment(when: Any, *, whole: bool) -> str:
    moment = when.timestamp() if isinstance(when, datetime) else when
    if not isinstance(moment, (int, float)):
        return str(moment)
    return str(int(moment)) if whole else f"{moment:.6f}"
