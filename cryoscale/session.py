"""What a session of a run tells of itself: events to whoever listens, lines in its log, facts with each beat.

A session is the work of one driver from its lease to its end; a run has as many as were needed.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cryoscale.journal import Journal, clean, heard, of_session

log = logging.getLogger("cryoscale")

OnEvent = Callable[[str, Mapping[str, Any]], None]
"""Told what happens: a name and the facts."""

Facts = Callable[[], Mapping[str, Any]]

TOLD = ("cryoscale", "dask", "distributed", "numpy", "rasterio", "torch", "xarray", "zarr")
"""Whose versions a session's first line says."""


@dataclass(frozen=True)
class View:
    """How a run can be seen, beside what lies in its folder.

    Attributes:
        dashboard: serve Dask's dashboard of a cluster that is started here, on loopback.
        metrics: address at which the caller serves metrics of the run, to be told to others.
    """

    dashboard: bool = False
    metrics: str = ""


@dataclass
class Session:
    """A session from its first word to its last."""

    out: str
    on_event: OnEvent
    view: View = View()
    journal: Journal = field(default_factory=Journal)
    driver: Facts = field(default=lambda: {})
    """What the driver is doing; nothing before there is one."""
    ended: bool = False
    _born: float = field(default_factory=time.perf_counter)
    _said: dict[str, Any] = field(default_factory=dict)

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._born

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Tell what happened to the log and to whoever listens."""
        self.journal.event(name, facts)
        self.on_event(name, facts)

    def stage(self, text: str) -> None:
        """A step begins."""
        self._said["stage"] = clean(text)
        self.event("stage", {"text": text})

    def planned(self, name: str, total: int, skipped: int, remaining: int) -> None:
        """So many blocks are to be done, of which an earlier session did some and set others aside."""
        counts = {"total": total, "skipped": skipped, "set_aside": total - skipped - remaining}
        self._said |= counts
        self.event("planned", {"run": name, **counts, "remaining": remaining})

    def dashboard(self, link: str | None) -> None:
        """Dask's dashboard is at ``link``."""
        self._said["dashboard"] = link
        if link is not None:
            self.event("dashboard", {"link": link})

    def facts(self) -> dict[str, Any]:
        """What goes into the lease with every beat, for whoever looks from another terminal."""
        facts = {**self._said, **self.driver()}
        try:
            self.event("beat", facts)
        except Exception as error:  # a listener that fails must not make the driver look dead
            log.debug("nobody heard this beat: %s", error)
        return facts

    @contextmanager
    def driving(self, holder: Mapping[str, Any], options: Mapping[str, Any], totals: Facts) -> Iterator[None]:
        """Say that the session begins, and how it ended; in the body the run is driven.

        Args:
            holder: who drives, from the lease.
            options: what the command was given.
            totals: what has been done, asked at the end.
        """
        who = {key: holder[key] for key in ("session", "host", "pid")}
        self._said |= {"since": _now(), "metrics": self.view.metrics or None}
        self.journal.open(of_session(self.out, str(holder["session"])))
        began = {**who, "python": platform.python_version(), "versions": _versions(), "options": options}
        self.event("session_began", {"out": self.out, "metrics": self.view.metrics or None, **began})
        ended = {"reason": "finished"}
        try:
            yield
        except BaseException as error:
            ended = _reason(error)
            raise
        finally:
            self._said["ended"], self.ended = clean(ended), True
            self.event("session_ended", {**who, **totals(), **ended})


@contextmanager
def telling(out: str, view: View, on_event: OnEvent) -> Iterator[Session]:
    """A session of a run at ``out``; its log is written once there is a lease, and closed at the end."""
    session = Session(out, on_event, view)
    try:
        with heard(session.event):
            yield session
    except Exception as error:
        if not session.ended:
            session.event("refused", _reason(error))
        raise
    finally:
        session.journal.close()


def _reason(error: BaseException) -> dict[str, str]:
    return {"reason": type(error).__name__, "text": " ".join(str(error).split())[:500]}


def _versions() -> dict[str, str]:
    found = {}
    for name in TOLD:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
