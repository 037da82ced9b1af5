"""Seconds of a piece of work: the fastest of several runs, since all else on a machine only adds to it."""

from __future__ import annotations

import time
from collections.abc import Callable

TURNS = 5
"""Runs of a piece of work that takes a moment."""

LONG_S = 5.0
"""A piece of work that takes longer is run only so often that it stays bearable."""


def seconds(work: Callable[[], object], *, turns: int = TURNS) -> float:
    """The fastest of ``turns`` runs, after one that compiles and warms up; fewer where a run is long."""
    first = _once(work)
    best, spent = first if first > LONG_S else float("inf"), first
    for _ in range(turns):
        if spent > turns * LONG_S or (first > LONG_S and spent > 2 * first):
            break
        took = _once(work)
        best, spent = min(best, took), spent + took
    return best


def _once(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
