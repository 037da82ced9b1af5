"""Which hosts are down, as this process has found, so that not every scene waits for the same dead one.

The rule, host by host (scheme, name and port):

1. A request that is given up without a usable answer (no connection, silence, broken answers, or a gateway's
   502, 503, 504 through all its patience) counts; any other answer, an error too, sets the count to 0.
2. After :data:`DOWN_AFTER` in a row the host counts as down. For :data:`COOLING_S` requests to it fail at
   once, and say so; such a failure is :class:`cryoscale.errors.HostDownError`, and the block that met it is
   put off until the host may be asked again.
3. Then one request is let through with its full patience, while others go on failing at once. Its answer ends
   the rule for the host; if there is none, the host cools twice as long, up to :data:`LONGEST_S`.
4. Requests that *insist* are always made: those of a block's last attempt, after which a scene is left out
   for good. Where the host is down and takes no connection they are given up after :data:`KNOCKS` tries; as
   soon as it takes one, they have their full patience, since that may be one bad file on a living host.

So a scene that a living host would give is never lost to the memory of a dead one, and a dead one costs the
patience of a few requests a process, not of every scene in every attempt.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

DOWN_AFTER = 3
"""Requests in a row."""

COOLING_S = 60.0
"""How long a host is left alone at first."""

LONGEST_S = 600.0
"""How long at most."""

KNOCKS = 3
"""Tries at a connection to a host that is down."""

_UNUSABLE = (None, 502, 503, 504)


@dataclass
class _Host:
    given_up: int = 0
    reason: str = ""
    cooling_s: float = 0.0
    until_s: float = 0.0
    asked: bool = False
    """Whether the request that is let through after the cooling is on its way."""


class Hosts:
    """The memory of a process; safe to use from several threads."""

    def __init__(self) -> None:
        self._known: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def refusal(self, host: str, *, insist: bool) -> str | None:
        """Why ``host`` is taken for down; None where it is not, or where the caller shall try it again now.

        Whoever gets None has to tell by :meth:`answered` or :meth:`gave_up` what came of it.
        """
        with self._lock:
            known = self._known.get(host)
            if known is None or known.given_up < DOWN_AFTER:
                return None
            left_s = known.until_s - time.monotonic()
            if left_s <= 0 and not insist and not known.asked:
                known.asked = True
                return None
            wait = f"not asked for another {left_s:.0f} s" if left_s > 0 else "being tried again now"
            return f"{host} is down ({known.reason}, {known.given_up} requests in a row) and {wait}"

    def answered(self, host: str) -> None:
        """Note that there is somebody."""
        with self._lock:
            self._known.pop(host, None)

    def gave_up(self, host: str, reason: str, status: int | None) -> None:
        """Note a request that was given up, with the status of its last answer, None where none came."""
        if status not in _UNUSABLE:
            self.answered(host)
            return
        with self._lock:
            known = self._known.setdefault(host, _Host())
            known.given_up += 1
            known.reason = reason
            if known.given_up < DOWN_AFTER:
                return
            if known.asked or not known.cooling_s:
                known.cooling_s = min(max(2 * known.cooling_s, COOLING_S), LONGEST_S)
            known.asked = False
            known.until_s = time.monotonic() + known.cooling_s

    def forget(self) -> None:
        """All hosts are taken for living again."""
        with self._lock:
            self._known.clear()


HOSTS = Hosts()
"""Of this process."""


def host_of(url: str) -> str:
    """Scheme, name and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
