"""One line of JSON for each finished benchmark: on what, with what, how long, and what came out."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy.jobs import Job, missing, outcome
from benchmarks.accuracy.steps import Bench
from benchmarks.accuracy.tables import importances, tables
from cryoscale.bench import record

PACKAGES = ("torch", "numpy", "scikit-learn", "segmentation-models-pytorch", "timm", "zarr", "odc-stac")

METHOD = (
    "everything simulated; every model on the same patches, crops, batches, steps and seed; maps by a run "
    "(blended mosaics) scored against the simulator's truth"
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load and GPU of this machine, and what is installed on it."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**record.machine(), "gpu": gpu, **record.versions(PACKAGES)}


def commit() -> str | None:
    """The commit of this working tree, or None outside one, and where there is no Git."""
    root = Path(__file__).parents[2]
    if shutil.which("git") is None:
        return None
    found = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def cpu_s() -> float:
    """Processor seconds of this process and of all its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def line(bench: Bench, jobs: Sequence[Job], spent: tuple[float, float] | None) -> dict[str, Any]:
    """The whole benchmark in plain values, as far as it is done.

    ``spent`` are its seconds by the clock and of processors; None where it was only reported on.
    """
    undone = missing(jobs, bench.out)
    found = {job.name: outcome(bench.out, job.name) for job in jobs if job.name not in undone}
    made = [*tables(bench, jobs), *importances(bench)]
    results = {
        "commit": commit(),
        "simulated": True,
        "gpu": machine()["gpu"],
        # what the clock says also holds what others did on the machine
        "wall_s": None if spent is None else round(spent[0], 1),
        "cpu_s": None if spent is None else round(spent[1], 1),
        "seconds": {name: values["seconds"] for name, values in found.items()},
        "patches": found["patches"]["patches"] if "patches" in found else None,
        **({"missing": undone} if undone else {}),
        "tables": {
            table.number: {"caption": table.caption, "columns": table.columns, "rows": table.rows}
            for table in made
        },
    }
    return record.line(
        "accuracy", method=METHOD, sizes=asdict(bench.scale), results=results, packages=PACKAGES
    )
