"""How quick a run is at the moment: differences between what it had done now and some minutes ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

RECENT_S = 300.0
"""Over how long a rate is taken: some blocks of a GPU, or one or two of a laptop."""

BUSY_S = 60.0
"""Over how long an actor's busy share is taken."""


@dataclass(frozen=True)
class Sample:
    """What had been done at a moment of the driver's own clock."""

    at_s: float
    blocks: int
    pixels: int
    busy_s: Mapping[str, float]
    """Of each actor that answered, since it was made."""


@dataclass
class Pace:
    """The samples of the last minutes."""

    samples: deque[Sample] = field(default_factory=deque)

    def note(self, sample: Sample) -> None:
        """Add the newest sample, and forget those that are older than any question."""
        self.samples.append(sample)
        while len(self.samples) > 2 and sample.at_s - self.samples[1].at_s >= RECENT_S:
            self.samples.popleft()

    def rates(self) -> dict[str, float] | None:
        """Blocks and pixels a second and over how many seconds; None before there are two samples."""
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        seconds = last.at_s - first.at_s
        if seconds <= 0:
            return None
        return {
            "seconds": round(seconds, 1),
            "blocks_per_s": (last.blocks - first.blocks) / seconds,
            "pixels_per_s": (last.pixels - first.pixels) / seconds,
        }

    def busy_shares(self) -> dict[str, float]:
        """Of each actor that answers now: the share of the last minute in which it predicted."""
        found: dict[str, float] = {}
        if not self.samples:
            return found
        last = self.samples[-1]
        for name, now_s in last.busy_s.items():
            first = last
            for sample in reversed(self.samples):
                before_s = sample.busy_s.get(name)
                # an actor that had done more than its successor is another one of that name
                if before_s is None or before_s > first.busy_s[name] or last.at_s - sample.at_s > BUSY_S:
                    break
                first = sample
            seconds = last.at_s - first.at_s
            if seconds > 0:
                found[name] = round(min((now_s - first.busy_s[name]) / seconds, 1.0), 3)
        return found
