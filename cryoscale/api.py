"""What a notebook uses: run a configuration, open a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryoscale.config import Config, load_config
from cryoscale.drive import Progress
from cryoscale.pipeline import run as run_pipeline
from cryoscale.results import Run


def run(
    config: str | Path | Mapping[str, Any] | Config,
    out: str | Path | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Map the region of ``config`` into ``out``, or complete the run that lies there; returns it opened.

    Args:
        config: a YAML file, a mapping of the same shape, or a :class:`cryoscale.config.Config`.
        out: folder or fsspec URL; by default a folder named like the run, in the working folder.
        on_progress: called after every block.

    Raises:
        InputError: anything to correct in what was given, in one line.
    """
    settings = load_config(config)
    where = str(out) if out is not None else settings.name.replace(" ", "-")
    where = _absolute(where)
    run_pipeline(settings, where, on_progress=on_progress)
    return Run(where)


def open(out: str | Path) -> Run:
    """The run that lies at ``out``.

    Raises:
        SourceError: no run lies there.
    """
    found = Run(_absolute(str(out)))
    _ = found.manifest
    return found


def _absolute(out: str) -> str:
    out = out.removeprefix("file://")
    return out if "://" in out else str(Path(out).resolve())
