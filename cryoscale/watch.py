"""What ``cryoscale status`` shows of a run as it goes, once or again and again until it ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryoscale.grid import RESOLUTION_M
from cryoscale.ledger import ASIDE, Ledger
from cryoscale.live import OVER, Live, Look
from cryoscale.results import Run, Status, causes_of

EVERY_S = 2.0
"""How often it is looked again; the driver says something new every 5 s."""

EXAMPLES = 5
"""Blocks and scenes named of many."""

SLICES = 20
"""Slices told one by one; of more, as many are counted."""


@dataclass(frozen=True)
class Frame:
    """A run at a moment."""

    name: str
    total: int
    done: int
    live: Live
    causes: Mapping[str, list[str]] = field(default_factory=dict)
    """Blocks that are set aside, by their cause."""
    scenes_failed: tuple[tuple[str, str], ...] = ()

    @property
    def set_aside(self) -> int:
        """How many blocks are set aside."""
        return sum(map(len, self.causes.values()))

    def caused(self) -> list[dict[str, Any]]:
        """Why blocks are set aside, how many and which, for example."""
        return [
            {"cause": cause, "blocks": len(blocks), "examples": blocks[:EXAMPLES]}
            for cause, blocks in self.causes.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """For ``--watch --json``, one of many lines."""
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "name": self.name,
            "total": self.total,
            "done": self.done,
            "set_aside": self.set_aside,
            "causes": self.caused(),
            "scenes_failed": [list(scene) for scene in self.scenes_failed],
            "driver": self.live.to_dict(),
        }

    def lines(self) -> list[str]:
        """All of it for people."""
        return [
            f"{self.name}: {self.done} of {self.total} blocks done, {self.set_aside} set aside",
            *(_slices(self.live) if self.live.slices else [_who(self.live)]),
            *_going(self.live),
            *_actors(self.live),
            *_places(self.live),
            *self.troubles(),
        ]

    def troubles(self) -> list[str]:
        """What could not be done and what could not be read."""
        lines = []
        for cause, blocks in self.causes.items():
            more = f" and {len(blocks) - EXAMPLES} more" if len(blocks) > EXAMPLES else ""
            shown = ", ".join(blocks[:EXAMPLES])
            lines.append(f"set aside, {len(blocks)} blocks: {cause}: {shown}{more}")
        for scene, cause in self.scenes_failed:
            lines.append(f"scene not read: {scene}: {cause}")
        return lines

    def line(self) -> str:
        """The most of it in one line, for a pipe."""
        parts = [f"{self.done}/{self.total} blocks", f"{self.set_aside} set aside", self.live.state]
        return ", ".join([*parts, *(line.strip() for line in _going(self.live))])


@dataclass
class Watcher:
    """Frames of a run; markers are read once, and then only what its driver says and what is set aside."""

    run: Run
    status: Status | None = None
    _look: Look | None = None
    _aside: tuple[Any, ...] = ()
    _causes: dict[str, list[str]] = field(default_factory=dict)

    def frame(self) -> Frame:
        """The run now."""
        manifest = self.run.manifest
        self._look = self._look or Look(self.run.out)
        live = self._look.again()
        return Frame(
            str(manifest["name"]),
            int(manifest["context"]["blocks"]),
            self._done(live),
            live,
            self._set_aside(),
            self._scenes(live),
        )

    def read(self) -> None:
        """Read the markers, if that has not been done: seconds at 100,000 blocks."""
        self.status = self.status or self.run.status()

    def frames(self) -> Iterator[Frame]:
        """A frame every :data:`EVERY_S` seconds, the last one of a run that nobody drives."""
        while True:
            frame = self.frame()
            yield frame
            if frame.live.state in OVER:
                return
            self.read()
            time.sleep(EVERY_S)

    def _done(self, live: Live) -> int:
        told = live.number("done") if not live.slices else None  # some may not have begun
        if told is not None and live.state in ("driven", "unseen", "finished"):
            return int(told)
        return Ledger(self.run.out).count_done()

    def _set_aside(self) -> dict[str, list[str]]:
        ledger = Ledger(self.run.out)
        listed = tuple(sorted(ledger.objects.list(ASIDE)))
        if listed != self._aside:
            self._aside, self._causes = listed, causes_of(ledger.set_asides().values())
        return self._causes

    def _scenes(self, live: Live) -> tuple[tuple[str, str], ...]:
        told = {(str(scene), str(cause)) for scene, cause in live.facts.get("scenes_failed", ())}
        return tuple(sorted(told.union(self.status.scenes_failed if self.status else ())))


def _who(live: Live) -> str:
    if live.state == "none":
        return "nobody has driven it yet"
    who = "a driver whose lease cannot be read"
    if live.who.get("pid") is not None:
        who = f"process {live.who['pid']} on {live.who['host']}, session {live.who['session']}"
    since = f", since {live.facts['since']}" if live.facts.get("since") else ""
    ended = live.facts.get("ended") or {}
    return {
        "driven": f"driven by {who}{since}",
        "unseen": f"driven by {who}{since}, unless that has died, which is not seen from here: --watch waits "
        "for its next beat",
        "silent": f"silent for {live.silent_s:.0f} s: {who}{since}; the same command takes over from it",
        "finished": f"finished by {who}{since}",
        "stopped": f"nobody drives it: {who}{since} ended early{_told(ended)}; the same command goes on",
        "died": f"nobody drives it: its driver died ({who}{since}); the same command goes on",
    }[live.state]


def _slices(live: Live) -> list[str]:
    """How many slices are in which state, and each that is not finished."""
    states = Counter(one.state for one in live.slices.values())
    counts = [f"{count} {state}" for state, count in sorted(states.items())]
    waiting = live.count - len(live.slices)
    lines = [
        f"in {live.count} slices: {', '.join([*counts, *([f'{waiting} not begun'] if waiting else [])])}"
    ]
    open_ = {name: one for name, one in live.slices.items() if one.state != "finished"}
    for name, one in sorted(open_.items(), key=lambda item: int(item[0].partition("/")[0]))[:SLICES]:
        done, total = one.number("done"), one.number("total")
        blocks = "" if done is None or total is None else f", {done:.0f} of {total:.0f} blocks done"
        at = f", {one.facts['stage']}" if one.driving and one.facts.get("stage") else ""
        lines.append(f"  slice {name}: {_who(one)}{blocks}{at}")
    if len(open_) > SLICES:
        lines.append(f"  and {len(open_) - SLICES} more slices")
    return lines


def _told(ended: Mapping[str, Any]) -> str:
    return f" ({ended['reason']}: {ended.get('text', '')})" if ended else ""


def _going(live: Live) -> list[str]:
    """Rates, time left, and what the driver is at."""
    lines = []
    if live.driving and live.facts.get("stage"):
        lines.append(f"  {live.facts['stage']}")
    rates = [f"{_rate(rate)} over {name}" for name, rate in _named(live) if rate["blocks_per_s"] > 0]
    if rates:
        eta_s = live.eta_s()
        left = f", {duration(eta_s)} left" if eta_s is not None else ""
        lines.append(f"  {'; '.join(rates)}{left}")
    if live.driving and live.number("in_flight") is not None:
        counts = {name: int(live.number(name) or 0) for name in ("in_flight", "repeated")}
        lines.append(f"  {counts['in_flight']} blocks in flight, {counts['repeated']} attempts repeated")
    return lines


def _named(live: Live) -> list[tuple[str, dict[str, float]]]:
    names = {"recent": "the last {}", "session": "the session's {}"}
    return [(names[key].format(duration(rate["seconds"])), rate) for key, rate in live.rates().items()]


def _rate(rate: Mapping[str, float]) -> str:
    km2_h = rate["pixels_per_s"] * (RESOLUTION_M / 1000) ** 2 * 3600
    blocks = rate["blocks_per_s"]
    paced = f"{blocks:.1f} blocks/s" if blocks >= 1 else f"{60 * blocks:.1f} blocks/min"
    return f"{paced}, {rate['pixels_per_s'] / 1e3:,.0f} kpixel/s, {km2_h:,.0f} km2/h"


def _actors(live: Live) -> list[str]:
    """How busy each actor is, while there are any, and how many were lost."""
    lines = []
    actors = live.facts.get("actors", {}) if live.driving else {}
    for name, told in sorted(actors.items()):
        share = told.get("busy_share")
        busy = f"{100 * share:.0f} % busy" if share is not None else "busy share not known yet"
        retries = int(told.get("memory_retries", 0))
        less = f", out of memory and batch halved: {retries}" if retries else ""
        lines.append(
            f"  actor {name}: {busy} over the last minute, {int(told.get('blocks', 0))} blocks done{less}"
        )
    lost = int(live.number("actors_lost") or 0)
    return [*lines, f"  actors lost: {lost}"] if lost else lines


def _places(live: Live) -> list[str]:
    if not live.driving:
        return []
    places = {"Dask dashboard": live.facts.get("dashboard"), "metrics": live.facts.get("metrics")}
    return [f"  {what}: {where}" for what, where in places.items() if where]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
