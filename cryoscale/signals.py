"""Being told to end: SIGTERM, as a terminal, a batch system or Kubernetes sends it before it kills."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that the first SIGTERM sets; a second one ends the process as if nobody listened.

    In the main thread only, where Python delivers signals; elsewhere the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGTERM)

    def heed(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, heed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
