"""How a worker that a run started for itself goes when nothing more is wanted of it: at once.

Asked to close, a worker takes its interpreter apart first, torch and numba in it, and the run waits: 0.8 s on
two quiet cores. On SIGTERM it gives back the semaphores that it holds by name, as Python would otherwise
complain of them, and is gone. One that does not listen is ended by its nanny, as any other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import WorkerPlugin

if TYPE_CHECKING:
    from distributed import Worker


class LeavesAtOnce(WorkerPlugin):
    """Has a worker in a process of its own leave on SIGTERM; for ``client.register_plugin``."""

    name = "cryoscale-leaves-at-once"

    def setup(self, worker: Worker) -> None:
        """Called on the worker's event loop, which runs in the only thread that may listen to signals."""
        signal.signal(signal.SIGTERM, _leave)


def send_away(nannies: Iterable[Any]) -> None:
    """Have the workers of ``nannies`` leave, and no others come in their place; waits for nothing."""
    for nanny in nannies:
        nanny.auto_restart = False
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGTERM)


def _leave(*_: object) -> None:
    exit_function: Any = util._exit_function  # type: ignore[attr-defined]
    exit_function()
    os._exit(0)
