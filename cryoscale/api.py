"""What a notebook uses: run a configuration, open a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryoscale.config import Config, load_config
from cryoscale.outcome import Progress
from cryoscale.pipeline import run as run_pipeline
from cryoscale.preparation import look_again, refuse_to_mix
from cryoscale.read.snapshot import Changes
from cryoscale.results import Run
from cryoscale.settings import Settings
from cryoscale.write.disk import output


def run(
    config: str | Path | Mapping[str, Any] | Config,
    out: str | Path | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    refresh: bool = False,
) -> Run:
    """Map the region of ``config`` into ``out``, or complete the run that lies there; returns it opened.

    Args:
        config: a YAML file, a mapping of the same shape, or a :class:`cryoscale.config.Config`.
        out: folder or fsspec URL; by default a folder named like the run, in the working folder.
        on_progress: called after every block.
        refresh: search again first; where the catalogues are no longer what the run froze, nothing is
            started, as one map is made from one catalogue. :func:`changes` tells what it is.

    Raises:
        InputError: anything to correct in what was given, in one line.
    """
    settings = load_config(config)
    where = _where(settings, out)
    if refresh:
        refuse_to_mix(look_again(settings, where), where)
    run_pipeline(settings, where, on_progress=on_progress)
    return Run(where)


def changes(config: str | Path | Mapping[str, Any] | Config, out: str | Path | None = None) -> Changes | None:
    """What the catalogues of ``config`` have by now that the run in ``out`` did not find; starts nothing.

    Returns:
        What is new, gone and changed (false where nothing is), or None where no run lies there yet.

    Raises:
        InputError: anything to correct in what was given, in one line.
        CatalogUnavailableError: no catalogue answers.
    """
    settings = load_config(config)
    return look_again(settings, _where(settings, out))


def open(out: str | Path) -> Run:
    """The run that lies at ``out``.

    Raises:
        SourceError: no run lies there.
    """
    found = Run(output(str(out)))
    _ = found.manifest
    return found


def _where(settings: Settings, out: str | Path | None) -> str:
    return output(str(out) if out is not None else settings.name.replace(" ", "-"))
