"""How a run goes and how it went: what is told of it, and who may end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryoscale.ledger import SetAside
from cryoscale.session import OnEvent


@dataclass(frozen=True)
class Progress:
    """How far a run is; given to ``on_progress`` after every block."""

    done: int
    skipped: int
    """Of those, blocks that an earlier session had done."""
    set_aside: int
    total: int
    pixels: int
    """Pixels finished in this session."""
    elapsed_s: float

    @property
    def pixels_per_s(self) -> float:
        """Pixels a second in this session."""
        return self.pixels / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass
class Outcome:
    """What a session of a run did."""

    out: str
    computed: int = 0
    skipped: int = 0
    pixels: int = 0
    repeated: int = 0
    """Attempts that failed, or were lost with their worker, and were made again."""
    scenes_failed: set[tuple[str, str]] = field(default_factory=set)
    set_aside: list[SetAside] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    left: str = ""
    """In words, what a slice of a run leaves to the others."""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 where blocks are set aside."""
        return 1 if self.set_aside else 0

    def totals(self) -> dict[str, Any]:
        """What was done, in numbers."""
        return {
            "computed": self.computed,
            "skipped": self.skipped,
            "repeated": self.repeated,
            "set_aside": len(self.set_aside),
            "pixels": self.pixels,
            "scenes_failed": len(self.scenes_failed),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "out": self.out,
            "computed": self.computed,
            "skipped": self.skipped,
            "repeated": self.repeated,
            "set_aside": [record.model_dump(mode="json") for record in self.set_aside],
            "scenes_failed": [list(scene) for scene in sorted(self.scenes_failed)],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "left": self.left,
        }


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Watch:
    """Who is told of a run, and who may end it.

    Attributes:
        on_progress: called after every block.
        on_event: called for everything that happens.
        stop: set to have the run finish its blocks in work and end.
        check: called between blocks; raises to end the run.
    """

    on_progress: OnProgress | None = None
    on_event: OnEvent = lambda name, facts: None
    stop: threading.Event = field(default_factory=threading.Event)
    check: Callable[[], None] = lambda: None
