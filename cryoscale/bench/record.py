"""What a measurement has to say about itself, and the file of JSON lines where it is kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryoscale.errors import OutputError
from cryoscale.forecast.rates import cores
from cryoscale.write.disk import make_folder, write
from cryoscale.write.usable import require_usable


def machine() -> dict[str, Any]:
    """The processor, how many cores this process may use, how busy it is, the memory (GiB), and the GPU."""
    return {
        "cpu": _cpu_model(),
        "gpu": _gpu_model(),
        "cores": cores(),
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
        "commit": commit(),
        "machine": machine(),
        "versions": versions(packages),
        "sizes": dict(sizes),
        "method": method,
        "results": dict(results),
    }


def commit() -> str | None:
    """Of the checkout that is measured, with ``+`` where its Python differs; None where there is none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed; a repository around that is somebody else's
        return None
    git = ("git", "-C", os.fspath(root))
    try:
        found = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "*.py"], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+" if changed else "")


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before hours are spent on what shall lie there; makes nothing.

    Raises:
        OutputError: it is a folder, may not be written, or its folder cannot be made.
    """
    try:
        require_usable(path.parent)
        if os.path.lexists(path):
            path.open("ab").close()
    except OSError as error:
        cause = error.__cause__ or error  # what is behind the refusal of the folder
        told = getattr(cause, "strerror", None) or str(cause)
        raise OutputError(f"{path} ({told})", "a file that can be written", "give another") from error


def append(path: Path, document: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines, which is made where it is missing: all of it, or nothing.

    Raises:
        OSError: it cannot be written, or the disk is full; the lines that were there are as they were.
    """
    make_folder(os.path.abspath(path.parent))
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        rest = memoryview(_encoded(document))
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(end)
            raise


def keep(path: Path, document: Mapping[str, Any]) -> None:
    """Write a line alone into a file, in one step in the place of whatever was there."""
    write(os.path.abspath(path), _encoded(document), replace=True)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True) + "\n").encode()


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
