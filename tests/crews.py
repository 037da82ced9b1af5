"""Processes that are there from the beginning, however little there is to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cryoscale.crew import Crew


def called(crew: Crew) -> Crew:
    """With its processes there, which imported meanwhile."""
    crew.call()
    deadline = time.monotonic() + 120
    while not crew.is_ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return crew


@contextmanager
def crew_of(processes: int, imports: str = "cryoscale.crew") -> Iterator[Crew]:
    """Such processes for a while."""
    with Crew(processes, imports) as crew:
        yield called(crew)
