"""Local workers as forks: what their server has imported, what it must not have, what each fork is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryoscale import crew, forking
from cryoscale.cluster import workers
from cryoscale.settings import ClusterSpec

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")

LOOK = """
import gc, json, multiprocessing, os, sys
from cryoscale import crew, forking
from cryoscale.settings import ClusterSpec

def look(pipe):
    tasks = f"/proc/{os.getppid()}/task"
    threads = [open(f"{tasks}/{task}/comm").read().strip() for task in os.listdir(tasks)]
    single = os.environ.get("OMP_NUM_THREADS")
    told = {"modules": sorted(sys.modules), "single": single, "collecting": gc.get_threshold()[0]}
    pipe.send({"threads": threads, **told})

if __name__ == "__main__":
    forking.import_ahead(ClusterSpec("local"))
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")
    context.Process(target=look, args=(there,)).start()
    found = here.recv()
    found["imported_here"] = sorted({"torch", "distributed"} & set(sys.modules))
    found["collecting_here"] = gc.get_threshold()[0]
    found["left_here"] = [name for name in crew.SINGLE if name in os.environ]
    print(json.dumps(found))
"""


@linux_only
def test_the_server_has_what_workers_need_one_thread_and_nothing_of_the_current_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "look.py").write_text(LOOK)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "distributed.py").write_text("raise SystemExit('not this one')")
    env = {name: value for name, value in os.environ.items() if name not in crew.SINGLE}
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "look.py")],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    # that of Arrow's allocator, which knows of forks: it stops it before one and starts it again in both
    assert len([name for name in found["threads"] if name != "jemalloc_bg_thd"]) == 1, found["threads"]
    assert found["single"] == "1"
    needed = {"distributed.worker", "cryoscale.task", "cryoscale.infer.actor", "rasterio", "torch", "zarr"}
    assert needed <= set(found["modules"])
    assert (found["imported_here"], found["left_here"]) == ([], [])
    assert found["collecting"] >= 10_000 > found["collecting_here"]


@pytest.mark.parametrize(
    ("spec", "platform", "expected"),
    [
        (ClusterSpec("local"), "linux", "forkserver"),
        (ClusterSpec("local", gpu_workers=1), "linux", "spawn"),
        (ClusterSpec("local"), "darwin", "spawn"),
    ],
)
def test_what_a_fork_would_break_is_not_forked(
    spec: ClusterSpec, platform: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert forking.method(spec) == expected


@pytest.mark.parametrize("spec", [ClusterSpec("local", gpu_workers=1), ClusterSpec("tcp://10.0.0.1:8786")])
def test_no_server_is_started_for_workers_that_are_no_forks_of_this_process(
    spec: ClusterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking.forkserver, "ensure_running", lambda: pytest.fail("started"))
    forking.import_ahead(spec)


def test_a_worker_has_the_environment_of_the_moment_and_its_libraries_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ClusterSpec("local", cpu_workers=1)
    forking.import_ahead(spec, actors=False)
    monkeypatch.setenv("AWS_PROFILE", "set-after-the-server-began")
    before = dict(os.environ)
    with workers(spec, actors=False) as found:
        (seen,) = found.client.run(lambda: dict(os.environ)).values()
    assert dict(os.environ) == before  # what this process starts later is not told what workers were
    assert seen["AWS_PROFILE"] == "set-after-the-server-began"
    assert {seen[name] for name in crew.SINGLE} == {"1"}
