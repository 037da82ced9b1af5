"""The most memory that this process has held, step by step."""

from __future__ import annotations

import contextlib
from pathlib import Path


def take_peak_mib() -> float:
    """The peak since the last call; since the start of the process where it cannot be reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return round(kib / 1024.0, 1)
