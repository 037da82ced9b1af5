"""What a measurement has to say about itself, and the file of JSON lines where it is kept."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The processor, how many cores this process may use, how busy it is, the memory (GiB), and the GPU."""
    return {
        "cpu": _cpu_model(),
        "gpu": _gpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        # of the last minute; more than the cores means that others were at work
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def line(
    name: str,
    *,
    method: str,
    sizes: Mapping[str, Any],
    results: Mapping[str, Any],
    packages: Iterable[str],
) -> dict[str, Any]:
    """One measurement with its machine, versions, sizes and method."""
    return {
        "benchmark": name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(packages),
        "sizes": dict(sizes),
        "method": method,
        "results": dict(results),
    }


def append(path: Path, document: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines, which is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document, sort_keys=True) + "\n")


def keep(path: Path, document: Mapping[str, Any]) -> None:
    """Write a line alone into a file, in the place of whatever was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, sort_keys=True) + "\n", encoding="utf-8")


def _gpu_model() -> str | None:
    """The GPU that a measurement had, if it used torch at all; None without one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    names = [row.split(":", 1)[1].strip() for row in text.splitlines() if row.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
