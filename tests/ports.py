"""Ports for processes that tests start: known before they listen, and given to nobody else meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import socket

FIRST, BEHIND = 20_000, 32_000
"""Below those that Linux gives to whoever asks for any (32768 and more): one that is free there when it is
looked for may be a scheduler's or a connection's by the time that it is listened on."""

_SHARES = 16
_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
_each = (BEHIND - FIRST) // _SHARES
_given = itertools.count(random.SystemRandom().randrange(_each))


def free_port() -> int:
    """One on loopback that nobody listens on; each process of a test session has a share of them."""
    for _ in range(_each):
        port = FIRST + _share * _each + next(_given) % _each
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise OSError(f"no port is free from {FIRST + _share * _each} on")
