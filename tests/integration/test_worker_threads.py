"""A worker whose threads come and go while Dask may look at them."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask

from cryoscale.cluster import workers
from cryoscale.read.inputs import READ_THREADS
from cryoscale.read.raster import UnreadableError, open_raster
from cryoscale.settings import ClusterSpec

BUSY_S = 3.0
DEADLINE_S = 30.0


class Litter:
    """Gives up the GIL when the garbage collector takes it, as closing a file does, and is back at once."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Litter()
        time.sleep(0)


def read_damaged(path: str) -> int:
    """Damaged files met by threads that are started and ended for it, as a block's are, while the garbage
    collector runs more often than it would, and always has something to do."""
    gc.set_threshold(50, 1000, 1000)
    Litter()

    def read(_: int) -> int:
        try:
            with open_raster(path):
                return 0
        except UnreadableError:
            return 1

    met, ends_s = 0, time.monotonic() + BUSY_S
    while time.monotonic() < ends_s:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            met += sum(pool.map(read, range(READ_THREADS)))
    return met


def test_a_worker_that_reads_damaged_scenes_from_many_threads_does_not_freeze(tmp_path: Path) -> None:
    path = tmp_path / "B11.tif"
    path.write_bytes(b"II*\0 no more")
    # sampled ten times as often as by default, should somebody let Dask's profiler run again
    often = dask.config.set({"distributed.worker.profile.interval": "1ms"})
    with often, workers(ClusterSpec(cpu_workers=1), actors=False) as found:
        tasks = [found.client.submit(read_damaged, str(path), pure=False) for _ in range(2)]
        assert all(task.result(timeout=DEADLINE_S) > 0 for task in tasks)
