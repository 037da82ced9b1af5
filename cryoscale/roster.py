"""Who works at a scheduler, asked in a way that cannot be answered with nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client


def workers_at(client: Client) -> Mapping[str, Any]:
    """All workers of the client's scheduler by their address: name, resources, status, services.

    Not by ``Client.scheduler_info``, which reads its answer from where a timer of the client's puts one
    without any worker every 2 s (distributed 2026.8, ``Client._update_scheduler_info``): a run that reads
    it in that moment takes all of its workers for lost.

    Raises:
        OSError: the scheduler does not answer.
    """
    scheduler: Any = client.scheduler
    ask: Any = client.sync
    found: Mapping[str, Any] = ask(scheduler.identity, n_workers=-1)["workers"]
    return found
