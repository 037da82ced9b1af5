"""The process that workers are forked from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
import json, os, sys
import cryoscale.preloaded
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
import numba, torch
print(json.dumps({
    "threads": names,
    "numba": numba.config.NUMBA_NUM_THREADS,
    "torch": torch.get_num_threads(),
    "cuda": torch.cuda.is_initialized(),
    "modules": sorted(name for name in sys.modules if name.startswith("cryoscale.")),
}))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_it_has_all_that_a_worker_needs_and_no_thread_that_a_fork_would_lose() -> None:
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "HOME": str(Path.home())}
    said = subprocess.run([sys.executable, "-c", SAY], env=bare, capture_output=True, text=True, check=True)
    told = json.loads(said.stdout)
    assert [name for name in told["threads"] if name != "jemalloc_bg_thd"] == [told["threads"][0]]
    assert (told["numba"], told["torch"], told["cuda"]) == (1, 1, False)
    assert {"cryoscale.task", "cryoscale.features.stack", "cryoscale.models.cryonet"} <= set(told["modules"])
