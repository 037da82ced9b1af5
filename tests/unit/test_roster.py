"""Who is there is told in full, whatever else the client asks its scheduler in the same moment."""

from __future__ import annotations

import dask
from distributed import Client, Scheduler, SpecCluster, Worker

from cryoscale.roster import workers_at

ASKED = 400


def test_all_workers_are_told_while_the_client_looks_after_itself() -> None:
    here = {"host": "127.0.0.1", "dashboard": False}
    workers = {number: {"cls": Worker, "options": here} for number in range(2)}
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1 ms"}),
        SpecCluster(workers, {"cls": Scheduler, "options": here}, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        told = [len(workers_at(client)) for _ in range(ASKED)]
    assert told == [2] * ASKED
