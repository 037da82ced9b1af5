"""A run as it goes, seen from any process: who drives it, and what that driver says with every beat.

Read from the lease and listings of the ledger alone, so that a look costs as much
at 100 blocks as at 100,000.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cryoscale import lease
from cryoscale.write.objects import Objects

State = Literal["none", "driven", "unseen", "silent", "finished", "stopped", "died"]
"""Nobody has driven it; somebody does; somebody did when last heard of, on another machine; that one has
been silent for too long; it came to its end; its driver ended early and said so, or without a word."""

OVER: frozenset[State] = frozenset({"none", "silent", "finished", "stopped", "died"})
"""States in which nothing more will happen until somebody starts the command again."""

_WHO = ("session", "host", "pid")


@dataclass(frozen=True)
class Live:
    """Who drives a run, and what the driver said last.

    Attributes:
        state: see :data:`State`.
        who: session, host and pid of the last driver.
        silent_s: for how long its beat has stood still while this process looked on.
        facts: what it said with its last beat.
    """

    state: State
    who: Mapping[str, Any] = field(default_factory=dict)
    silent_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def driving(self) -> bool:
        """Whether what the driver said may still be so."""
        return self.state in ("driven", "unseen")

    def number(self, name: str) -> float | None:
        """A fact that is a number, or None."""
        value = self.facts.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def rates(self) -> dict[str, dict[str, float]]:
        """Blocks and pixels a second, ``recent`` of the last minutes and of the whole ``session``."""
        found: dict[str, dict[str, float]] = {}
        recent = self.facts.get("recent")
        if isinstance(recent, Mapping) and self.driving:
            found["recent"] = {str(key): float(value) for key, value in recent.items()}
        seconds, blocks, pixels = (self.number(name) for name in ("elapsed_s", "computed", "pixels"))
        if seconds and blocks is not None and pixels is not None:
            found["session"] = {
                "seconds": seconds,
                "blocks_per_s": blocks / seconds,
                "pixels_per_s": pixels / seconds,
            }
        return found

    def eta_s(self) -> float | None:
        """Seconds until all blocks are done at the recent rate, at the session's where that is 0."""
        total, done, aside = (self.number(name) for name in ("total", "done", "set_aside"))
        if not self.driving or total is None or done is None or aside is None:
            return None
        left = total - done - aside
        for rate in self.rates().values():
            if rate["blocks_per_s"] > 0 and left > 0:
                return left / rate["blocks_per_s"]
        return None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "state": self.state,
            **{name: self.who.get(name) for name in _WHO},
            "silent_s": round(self.silent_s, 1),
            "rates": self.rates(),
            "eta_s": self.eta_s(),
            "facts": dict(self.facts),
        }


@dataclass
class Look:
    """Looks at the driver of a run again and again; what only time can tell is told after some looks."""

    out: str
    _beat: Any = None
    _since: float = 0.0
    _looks: int = 0

    def again(self) -> Live:
        """How it is now."""
        found = lease.newest(Objects(self.out))
        if found is None:
            return Live("none")
        generation, document = found
        beat = (generation, document.get("beat"))
        if beat != self._beat:
            self._beat, self._since, self._looks = beat, time.monotonic(), self._looks + 1
        silent_s = time.monotonic() - self._since
        facts = document.get("live")
        who = {name: document.get(name) for name in _WHO}
        state = self._state(document, silent_s)
        return Live(state, who, silent_s, facts if isinstance(facts, Mapping) else {})

    def _state(self, document: Mapping[str, Any], silent_s: float) -> State:
        if document.get("released"):
            ended = (document.get("live") or {}).get("ended") or {}
            return "finished" if ended.get("reason") == "finished" else "stopped"
        alive = lease.is_alive(document)
        if alive is not None:
            return "driven" if alive else "died"
        if silent_s > lease.SILENCE_S:
            return "silent"
        return "driven" if self._looks > 1 else "unseen"  # a second beat is a sign of life
