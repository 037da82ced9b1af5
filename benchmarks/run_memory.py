"""Peak memory of every process of a run, over a region and over one four times larger.

``python -m benchmarks.run_memory``: one simulated range, mapped by the command from scenes to report, once
over a quarter of its blocks and once over all of them, by the network that comes with the package. Each
process's own high-water mark (VmHWM of Linux) is read while it lives.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from cryoscale.bench import record
from cryoscale.demo import demo_config
from cryoscale.ledger import Ledger
from cryoscale.simulate.catalog import publish
from cryoscale.simulate.terrain import make_range

SIZES = {"tiny": ("tiny", 0.5), "moderate": ("small", 1.0), "full": ("medium", 1.0)}
"""The range, and how much of its width and of its height the larger region has."""
METHOD = "the command's processes, VmHWM of each read every 0.1 s while it lives; MiB"


def measure(document: dict[str, Any], out: Path) -> dict[str, Any]:
    """Peaks (MiB) of the driver and of its largest worker over one run, and its blocks."""
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "cryoscale", "run", str(config), "--out", str(out)]
    peaks: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in [process.pid, *_workers(process.pid)]:
                peaks[pid] = max(peaks.get(pid, 0.0), peak_mib(pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    workers = [peak for pid, peak in peaks.items() if pid != process.pid]
    blocks = sum(1 for _ in Ledger(str(out)).markers())
    return {"blocks": blocks, "driver_mib": peaks[process.pid], "worker_mib": max(workers)}


def _workers(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def peak_mib(pid: int) -> float:
    """The most that a process has held, 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


@command
def main(arguments: list[str] | None = None) -> None:
    """Measures both, prints the ratios, and adds a line to the record."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scale", choices=SIZES, default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "run_memory.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    size, whole = SIZES[given.scale]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        published = publish(make_range(7, size), home / "simulated")
        west, south, east, north = published.bbox_deg
        document = demo_config(home / "simulated", size, (2018,), 7)
        document["tiling"] = {"tile_px": 128, "block_px": 256}
        found = {}
        for name, share in (("quarter", whole / 2), ("whole", whole)):
            corner = [west, south, west + share * (east - west), south + share * (north - south)]
            document["region"] = {"bbox": [round(v, 6) for v in corner]}
            found[name] = measure(document, home / name)
            print(f"{name}: {found[name]}", flush=True)
    ratios = {
        key: round(found["whole"][key] / found["quarter"][key], 3) for key in ("driver_mib", "worker_mib")
    }
    print(f"peak of the larger region over that of the smaller: {ratios}")
    line = record.line(
        "run_memory",
        method=METHOD,
        sizes={"scale": given.scale, "block_px": 256, "tile_px": 128},
        results={**found, "ratios": ratios},
        packages=("cryoscale", "dask", "distributed", "numpy", "torch", "zarr", "rasterio"),
    )
    record.append(given.out, line)


if __name__ == "__main__":
    main()
