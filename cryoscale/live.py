"""A run as it goes, seen from any process: who drives it, and what that driver says with every beat.

Read from the leases and listings of the ledger alone, so that a look costs as much
at 100 blocks as at 100,000. Of a run that is driven in slices the sum of what their drivers say is told.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
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

_SUMMED = (
    "done",
    "skipped",
    "total",
    "set_aside",
    "in_flight",
    "repeated",
    "computed",
    "pixels",
    "actors_lost",
    "scenes_failed_count",
)


@dataclass(frozen=True)
class Live:
    """Who drives a run, and what the driver said last.

    Attributes:
        state: see :data:`State`.
        who: session, host and pid of the last driver.
        silent_s: for how long its beat has stood still while this process looked on.
        facts: what it said with its last beat.
        slices: the same of each slice by its name, where the run is driven in some that have begun; ``state``
            and ``facts`` are then of all of them, and there is no ``who``.
        count: into how many slices it is divided.
    """

    state: State
    who: Mapping[str, Any] = field(default_factory=dict)
    silent_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[str, Live] = field(default_factory=dict)
    count: int = 0

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
        if self.slices:  # one that is done does not help the others
            return max(
                (left for one in self.slices.values() if (left := one.eta_s()) is not None), default=None
            )
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
            **({"slices": {name: one.to_dict() for name, one in self.slices.items()}} if self.slices else {}),
        }


@dataclass
class _Pulse:
    """The beat of a lease as it was seen last, since when, and how often it was another."""

    beat: Any = None
    since: float = 0.0
    looks: int = 0


@dataclass
class Look:
    """Looks at the driver of a run again and again; what only time can tell is told after some looks."""

    out: str
    _pulses: dict[str, _Pulse] = field(default_factory=dict)

    def again(self) -> Live:
        """How it is now."""
        objects = Objects(self.out)
        whole = self._driver(lease.FOLDER, lease.newest(objects))
        if whole.driving:
            return whole
        slices, count = {}, 0
        for folder, found in sorted(lease.newest_below(objects, lease.SLICES).items()):
            name = lease.slice_of(found[1])
            if name is not None:
                slices[name], count = self._driver(folder, found), int(name.partition("/")[2])
        # whoever drives the whole run deletes the leases of slices: those that are there came later
        return _together(slices, count) if slices else whole

    def _driver(self, folder: str, found: lease.Found | None) -> Live:
        if found is None:
            return Live("none")
        generation, document = found
        pulse, beat = self._pulses.setdefault(folder, _Pulse()), (generation, document.get("beat"))
        if beat != pulse.beat:
            pulse.beat, pulse.since, pulse.looks = beat, time.monotonic(), pulse.looks + 1
        silent_s = time.monotonic() - pulse.since
        facts = document.get("live")
        who = {name: document.get(name) for name in _WHO}
        state = _state_of(document, silent_s, pulse.looks)
        return Live(state, who, silent_s, facts if isinstance(facts, Mapping) else {})


def _state_of(document: Mapping[str, Any], silent_s: float, looks: int) -> State:
    if document.get("released"):
        ended = (document.get("live") or {}).get("ended") or {}
        return "finished" if ended.get("reason") == "finished" else "stopped"
    alive = lease.is_alive(document)
    if alive is not None:
        return "driven" if alive else "died"
    if silent_s > lease.SILENCE_S:
        return "silent"
    return "driven" if looks > 1 else "unseen"  # a second beat is a sign of life


def _together(slices: Mapping[str, Live], count: int) -> Live:
    """What the drivers of slices say, as one."""
    found = slices.values()
    facts: dict[str, Any] = {
        name: sum(one.number(name) or 0 for one in found)
        for name in _SUMMED
        if any(one.number(name) is not None for one in found)
    }
    facts["elapsed_s"] = max((one.number("elapsed_s") or 0.0 for one in found), default=0.0)
    facts["scenes_failed"] = [scene for one in found for scene in one.facts.get("scenes_failed", ())]
    recent = [one.rates()["recent"] for one in found if "recent" in one.rates()]
    if recent:
        facts["recent"] = {
            "seconds": max(rate["seconds"] for rate in recent),
            **{name: sum(rate[name] for rate in recent) for name in ("blocks_per_s", "pixels_per_s")},
        }
    state = _common({one.state for one in found}, len(slices) == count)
    return Live(state, {}, min(one.silent_s for one in found), facts, dict(slices), count)


def _common(states: Collection[State], all_begun: bool) -> State:
    if all_begun and set(states) == {"finished"}:
        return "finished"
    order: tuple[State, ...] = ("driven", "unseen", "silent", "died")
    return next((state for state in order if state in states), "stopped")
