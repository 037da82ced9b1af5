"""Freed memory is kept: pages that the system has to find anew are counted, under Dask's own setting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from cryoscale.infer.heap import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    raise SystemExit(3)

def work():
    for _ in range(5):
        np.ones(3_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(3_000_000)  # 24 MB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)  # an actor works in a thread, too
thread.start()
thread.join()
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "NUMPY_MADVISE_HUGEPAGE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 3:
        pytest.skip("this C library's allocator cannot be told")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_was_freed_costs_no_pages_again() -> None:
    assert faults("kept") < faults("given back") / 10
