"""Who is there is told in full, whatever else the client asks its scheduler in the same moment."""

from __future__ import annotations

from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

from cryoscale import roster
from cryoscale.cluster import Site
from cryoscale.errors import CryoscaleError
from cryoscale.roster import workers_at
from cryoscale.settings import ClusterSpec

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


@pytest.mark.parametrize(("made", "exit_code"), [(None, 2), ("by this run", 75)])
def test_a_scheduler_that_is_gone_is_bad_input_only_where_it_was_given(
    monkeypatch: pytest.MonkeyPatch, made: Any, exit_code: int
) -> None:
    monkeypatch.setattr(roster, "CONNECT_TIMEOUT_S", 0.1)
    site = Site(ClusterSpec(kind="tcp://127.0.0.1:9"), _made=made)
    with pytest.raises(CryoscaleError) as told, site.workers():
        pass
    assert told.value.exit_code == exit_code
