"""Peak memory of the processes that pods hold, each started as in the cluster's manifest, over full blocks.

``python -m benchmarks.pod_memory``: a scheduler, one CPU worker of two tasks and one actor's worker (here on
the CPU) map a simulated range in blocks of 2048 px, of which it lies in a few corners; bands, features and
layers are held for whole blocks all the same. The allocator is told what Dask's nanny, which pods do without,
would tell it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from benchmarks.run_memory import peak_mib
from cryoscale.bench import record
from cryoscale.demo import demo_config
from cryoscale.ledger import Ledger
from cryoscale.simulate.catalog import publish
from cryoscale.simulate.terrain import make_range

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}
WORKER = ("--no-nanny", "--memory-limit", "0", "--host", "127.0.0.1", "--no-dashboard")
PODS = {
    "cpu worker": ("--name", "cpu", "--nthreads", "2", "--resources", "CPU=2"),
    "actor": ("--name", "gpu", "--nthreads", "1", "--resources", "GPU=1"),
}
SCALES = {"tiny": ("tiny", 256), "full": ("small", 2048)}
"""The range and the edge of its blocks, pixels."""


@contextmanager
def processes(port: int) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Scheduler and workers as pods start them; ended at the end."""
    environment = {**os.environ, **ENVIRONMENT}
    address = f"tcp://127.0.0.1:{port}"
    commands = {"scheduler": ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]}
    commands |= {name: ["worker", address, *given, *WORKER] for name, given in PODS.items()}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, command in commands.items()
    }
    try:
        yield started
    finally:
        for process in started.values():
            process.kill()  # they hold nothing any more, and a worker without its scheduler ends slowly
            process.wait()


def measure(document: dict[str, Any], out: Path, port: int) -> dict[str, float]:
    """Peaks (MiB) of every process over a run of ``document``, and how many blocks it had."""
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "cryoscale", "run", str(config), "--out", str(out)]
    peaks: dict[str, float] = {}
    with processes(port) as pods, subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            for name, process in {**pods, "driver": run}.items():
                peaks[name] = max(peaks.get(name, 0.0), peak_mib(process.pid))
            time.sleep(0.1)
    if run.returncode:
        raise SystemExit(f"the run ended with {run.returncode}")
    return {"blocks": sum(1 for _ in Ledger(str(out)).markers()), **peaks}


@command
def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and adds a line to the record."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--out", type=Path, default=RESULTS / "pod_memory.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    size, block_px = SCALES[given.scale]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        published = publish(make_range(7, size), home / "simulated")
        document = demo_config(home / "simulated", size, (2018,), 7)
        document["region"] = {"bbox": [round(v, 6) for v in published.bbox_deg]}
        document["tiling"]["block_px"] = block_px
        document["outlines"] = {**document.get("outlines", {}), "files": []}
        document["cluster"] = {"kind": f"tcp://127.0.0.1:{port}", "cpu_workers": 1, "gpu_workers": 1}
        found = measure(document, home / "run", port)
    print(found, flush=True)
    line = record.line(
        "pod_memory",
        method="processes started as pods start them, VmHWM of each read every 0.1 s; MiB",
        sizes={"scale": given.scale, "range": size, "block_px": block_px, "environment": ENVIRONMENT},
        results=found,
        packages=("cryoscale", "dask", "distributed", "numpy", "torch", "zarr", "rasterio"),
    )
    record.append(given.out, line)


if __name__ == "__main__":
    main()
