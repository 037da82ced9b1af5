"""One line of JSON for each finished benchmark: on what, with what, how long, and what came out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.accuracy.jobs import Job, done_path, outcome
from benchmarks.accuracy.steps import Bench
from benchmarks.accuracy.tables import importance_table, tables

PACKAGES = ("torch", "numpy", "scikit-learn", "segmentation-models-pytorch", "timm", "zarr", "odc-stac")

METHOD = (
    "simulated ranges; every model on the same patches, crops, batches, steps and seed; maps by a run "
    "(blended mosaics) scored against the simulator's truth"
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPU of this machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def commit() -> str | None:
    """The commit of this working tree, or None outside one."""
    root = Path(__file__).parents[2]
    found = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def line(bench: Bench, jobs: list[Job], wall_s: float) -> dict[str, Any]:
    """The whole benchmark in plain values."""
    seconds = {job.name: outcome(bench.out, job.name)["seconds"] for job in jobs}
    made = tables(bench)
    if done_path(bench.out, "importance").exists():
        made.append(importance_table(outcome(bench.out, "importance")))
    return {
        "benchmark": "accuracy",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "simulated": True,
        "method": METHOD,
        "machine": machine(),
        "scale": asdict(bench.scale),
        "wall_s": round(wall_s, 1),
        "seconds": seconds,
        "patches": outcome(bench.out, "patches")["patches"] if "patches" in seconds else None,
        "tables": {
            table.number: {"caption": table.caption, "columns": table.columns, "rows": table.rows}
            for table in made
        },
    }


def append(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, allow_nan=False) + "\n")
