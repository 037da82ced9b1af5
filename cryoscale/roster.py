"""Who works at a scheduler, asked in a way that cannot be answered with nobody, and what they offer.

Two kinds of workers are told apart by Dask's abstract resources: ``CPU`` for block tasks, ``GPU`` for actors.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryoscale.errors import ClusterLostError, InputError, StoppedError

if TYPE_CHECKING:
    from distributed import Client

CPU, GPU = "CPU", "GPU"

CONNECT_TIMEOUT_S = 60.0
"""How long a scheduler may take to answer, and its workers to be there."""

DASHBOARD_S = 2.0
"""How long a scheduler's dashboard may take to show that it is there."""


@dataclass(frozen=True)
class Workers:
    """A connected client and how many block tasks and actors it can run at once."""

    client: Client
    tasks: int
    actors: int
    dashboard: str | None = None
    """Where Dask's own dashboard is."""


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


def scheduler_gone() -> ClusterLostError:
    """What to raise when nothing can be asked of the scheduler any more."""
    return ClusterLostError("the scheduler is gone; what is done is kept, start the same command again")


@contextmanager
def joined(
    address: str,
    with_actors: bool,
    stop: threading.Event,
    tell: Callable[[str], None],
    *,
    patience_s: float = 0.0,
    stood: bool = False,
) -> Iterator[Workers]:
    """The workers at a scheduler, once there is one of each kind that is needed.

    Args:
        address: of the scheduler.
        with_actors: whether a worker for actors is needed beside one for tasks.
        stop: ends the wait when it is set.
        tell: told once what is waited for.
        patience_s: how long workers may take, where that is longer than :data:`CONNECT_TIMEOUT_S`.
        stood: whether it has just been seen to be up, so that a silence is a loss and nothing to correct.

    Raises:
        InputError: the scheduler does not answer, or workers are missing still.
        ClusterLostError: the scheduler does not answer, though it stood.
        StoppedError: the wait was ended.
    """
    from distributed import Client

    # a scheduler that is lost is told by the driver, once and in a line
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        raise (scheduler_gone() if stood else _silent(address)) from error
    with client:
        until = time.monotonic() + max(CONNECT_TIMEOUT_S, patience_s)
        try:
            if missing := _missing(client, with_actors):
                tell(f"waiting for workers that offer {' and '.join(missing)} at {address}")
            # whoever starts workers of both kinds starts one before the other
            while missing := _missing(client, with_actors):
                if time.monotonic() >= until:
                    raise _lacking(address, missing, bool(workers_at(client)))
                if stop.wait(0.2):
                    raise StoppedError("stopped before there were workers; the same command goes on")
            found = Workers(client, *_offers(client), dashboard_of(client))
        except StoppedError:
            raise
        except OSError as error:
            raise (scheduler_gone() if stood else _silent(address)) from error
        yield found


def _silent(address: str) -> InputError:
    return InputError(
        f"cluster {address}, which does not answer",
        "a running Dask scheduler",
        "start it, or correct the address",
    )


def _missing(client: Client, with_actors: bool) -> list[str]:
    """Resources that are needed and that no worker offers by now."""
    tasks, actors = _offers(client)
    return [name for name, count in ((CPU, tasks), (GPU, actors or not with_actors)) if not count]


def _lacking(address: str, missing: Sequence[str], any_worker: bool) -> InputError:
    """What is said of a scheduler whose workers cannot serve."""
    if not any_worker:
        return InputError(
            f"cluster {address} without workers",
            "workers with the resources CPU and GPU",
            'start some: dask worker ADDRESS --resources "CPU=2"',
        )
    return InputError(
        f"cluster {address}, where no worker offers the resource {missing[0]}",
        "workers of both kinds",
        f'start one: dask worker ADDRESS --resources "{missing[0]}=1"',
    )


def _offers(client: Client) -> tuple[int, int]:
    """How many block tasks and how many actors the workers that are there can run at once."""
    workers = workers_at(client).values()
    offers = [info.get("resources", {}) for info in workers]
    return int(sum(offer.get(CPU, 0) for offer in offers)), sum(offer.get(GPU, 0) >= 1 for offer in offers)


def dashboard_of(client: Client) -> str | None:
    """The dashboard's address; None where something else answers there, as without bokeh or switched off.

    An address that this process does not reach, behind a gateway perhaps, is told nonetheless.
    """
    import urllib3

    try:
        link = client.dashboard_link
    except KeyError:  # a scheduler without any HTTP server
        return None
    if not link:
        return None
    try:
        pool = urllib3.PoolManager(retries=False, timeout=DASHBOARD_S)
        answer = pool.request("GET", link)
    except urllib3.exceptions.HTTPError:
        return str(link)
    return str(link) if answer.status == 200 and b"Dask needs" not in answer.data else None
