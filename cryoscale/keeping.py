"""Where the workers of a run keep what they were sent of remote files, and how much of it.

Beside Dask's own scratch files on workers that are joined, in a folder for temporary files on a machine
whose workers are started for the run. What is kept goes at the end; what a killed run left, when the next one
starts.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import WorkerPlugin

from cryoscale.errors import ConfigError
from cryoscale.read import kept
from cryoscale.read.kept import Kept

if TYPE_CHECKING:
    from distributed import Client, Worker

log = logging.getLogger("cryoscale")

_NAME = "cryoscale-ranges"

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})

_KEPT_FOR: set[str] = set()
"""The plugins that this process keeps ranges for: runs may share a cluster."""


class KeepsRanges(WorkerPlugin):
    """Has a worker keep ranges at ``folder``, or beside its own scratch files; for ``register_plugin``."""

    def __init__(self, folder: str | None = None, run: str = "") -> None:
        # by its run: Dask would otherwise take another run's for this one, and end both with the first
        self.folder, self.name = folder, f"{_NAME}-{run}"

    def setup(self, worker: Worker) -> None:
        """Called on every worker, those that come later included."""
        beside = Path(worker.local_directory).parent / f"{_NAME}-of-{os.getuid()}"
        folder = Path(self.folder) if self.folder else beside
        try:
            most_bytes = int(kept.gib() * 2**30)
        except ConfigError as error:  # raised, it would cost the cluster its worker
            log.warning("no ranges are kept: %s", error)
            return
        is_told = bool(os.environ.get(kept.KEEP_GIB))
        if most_bytes > 0 and _is_ours(folder) and (is_told or not lies_in_memory(folder)):
            kept.keep_at(Kept(folder, most_bytes))
            _KEPT_FOR.add(self.name)

    def teardown(self, worker: Worker) -> None:
        """Called when the worker closes or the run is over; others beside it then ask their hosts again."""
        _KEPT_FOR.discard(self.name)
        if _KEPT_FOR:
            return
        mine = kept.here()
        kept.keep_at(None)
        if mine is not None and self.folder is None:
            mine.clear()


@contextmanager
def keeping_ranges(client: Client, run: str) -> Iterator[None]:
    """Workers that somebody else started keep ranges in the body, and let go of them at its end.

    Unless another run is at work there; ``run`` tells them apart.
    """
    plugin = KeepsRanges(run=run)
    client.register_plugin(plugin)
    try:
        yield
    finally:
        with suppress(Exception):  # workers that are gone keep nothing either
            client.unregister_worker_plugin(plugin.name)


@contextmanager
def folder_of_this_process() -> Iterator[str | None]:
    """A folder on disk for the workers that this process starts, in the body; None where there is none."""
    place = _place()
    for left in Path(place).glob(f"{_NAME}-[0-9]*-*"):
        if not _is_at_work(int(left.name.removeprefix(f"{_NAME}-").partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f"{_NAME}-{os.getpid()}-", dir=place)
    except OSError as error:
        log.debug("no ranges are kept in %s: %s", place, error)
        yield None
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else writes to ``folder``, which is made if need be: what lies there is believed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        log.debug("no ranges are kept in %s: %s", folder, error)
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _place() -> str:
    import dask

    given = dask.config.get("temporary-directory", None) or os.environ.get("TMPDIR")
    if given:
        return str(given)
    # where systems keep what is large and temporary, as /tmp is in memory on many
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()


def _is_at_work(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def lies_in_memory(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether what is written to ``folder`` would take memory; False where that cannot be told."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return False
    wanted = folder.resolve()
    over = [(len(point), kind) for _, point, kind, *_ in lines if wanted.is_relative_to(point)]
    return bool(over) and max(over)[1] in _IN_MEMORY
