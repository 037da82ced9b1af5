"""Actors that start, are refused and are lost: told by name as it happens."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from distributed import Client as DaskClient
from distributed import Scheduler, SpecCluster

from cryoscale import fleet as fleet_module
from cryoscale.cluster import own
from cryoscale.errors import ActorSilentError, ClusterLostError, OperatorError
from cryoscale.fleet import REFUSALS, Fleet, Seat
from cryoscale.infer.calling import ActorRef
from cryoscale.roster import CPU, GPU, workers_at
from cryoscale.settings import ClusterSpec
from tests.forked import Forked


class Future:
    """Of an actor, or of one that could not be made."""

    def __init__(self, address: str, error: Exception | None) -> None:
        self._address, self.key, self.error = address, "actor", error
        self.status = "error" if error else "finished"

    def result(self, timeout: float) -> Future:
        return self

    def exception(self) -> Exception | None:
        return self.error

    def release(self) -> None:
        """Nothing is held."""


class Client:
    """A client whose scheduler knows the workers that a test names."""

    status = "running"

    def __init__(self, *names: str, error: Exception | None = None) -> None:
        self.names, self.error, self.tasks = list(names), error, 2
        self.statuses: dict[str, str] = {}

    @property
    def scheduler(self) -> Client:
        return self

    def sync(self, ask: Any, **more: Any) -> Any:
        return ask(**more)

    def identity(self, n_workers: int) -> dict[str, Any]:
        info = {"resources": {GPU: 1}, "services": {"dashboard": 8081}}
        workers: dict[str, Any] = {
            f"tcp://10.0.0.{n[-1]}:9000": {"name": n, **info, "status": self.statuses.get(n, "running")}
            for n in self.names
        }
        if self.tasks:
            workers["tcp://10.0.0.9:9000"] = {"name": "cpu-1", "resources": {CPU: self.tasks}}
        return {"workers": workers}

    def submit(self, *args: Any, workers: list[str], **more: Any) -> Future:
        return Future(workers[0], self.error)


class Model:
    """Settings of a model that nobody loads."""

    keywords: dict[str, Any] = {}  # noqa: RUF012
    overlap, confidence = 0.5, "entropy"


class Settings:
    """As much of a run's settings as a fleet looks at."""

    model, tile_px, cluster = Model(), 64, ClusterSpec()


def watched(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> tuple[Fleet, list[tuple[str, dict[str, Any]]]]:
    """A fleet that looks whenever it is asked to, and what it tells."""
    monkeypatch.setattr(fleet_module, "LOOK_S", 0.0)
    told: list[tuple[str, dict[str, Any]]] = []
    fleet: Any = Fleet(client, Settings(), lambda name, facts: told.append((name, dict(facts))))  # type: ignore[arg-type]
    return fleet, told


def test_an_actor_is_told_when_it_starts_and_when_its_worker_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("gpu-1", "gpu-2")
    fleet, told = watched(client, monkeypatch)
    fleet.look()
    assert fleet.counts() == {"ready": 2, "loading": 0, "draining": 0}
    client.names.remove("gpu-1")
    fleet.look()
    assert [(name, facts["actor"]) for name, facts in told] == [
        ("actor_started", "gpu-1"),
        ("actor_started", "gpu-2"),
        ("actor_lost", "gpu-1"),
    ]
    assert told[0][1]["metrics"] == "http://10.0.0.1:8081/metrics"
    assert fleet.lost == 1
    assert fleet.metrics() == {"gpu-2": "http://10.0.0.2:8081/metrics"}


def test_an_actor_that_cannot_start_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, told = watched(Client("gpu-1", error=RuntimeError("no CUDA")), monkeypatch)
    for _ in range(REFUSALS - 1):
        fleet.look()
    with pytest.raises(OperatorError, match="no CUDA"):
        fleet.look()
    assert told == [("actor_refused", {"actor": "gpu-1", "reason": "no CUDA"})] * REFUSALS
    assert fleet.lost == 0


def test_actors_that_do_not_answer_keep_the_beat_of_the_lease_waiting_no_longer_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet, _ = watched(Client(*(f"gpu-{number}" for number in range(9))), monkeypatch)
    fleet.look()
    now = [0.0]

    def call(ref: Any, method: str, *, deadline_s: float) -> dict[str, float]:
        if ref.address.startswith("tcp://10.0.0.0"):
            return {"busy_s": 1.0}
        now[0] += deadline_s
        raise ActorSilentError("it stands still")

    monkeypatch.setattr(fleet_module, "call_actor", call)
    monkeypatch.setattr(fleet_module.time, "monotonic", lambda: now[0])
    assert fleet.stats() == {"gpu-0": {"busy_s": 1.0}}
    assert now[0] == fleet_module.ASK_S


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_a_cluster_whose_workers_of_a_kind_are_all_gone_is_given_up_and_not_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client("gpu-1")
    fleet, _ = watched(client, monkeypatch)
    fleet.look()
    monkeypatch.setattr(fleet_module, "GONE_S", 0.0)
    if kind == "CPU":
        client.tasks = 0
    else:
        client.names.clear()
    fleet.look()
    with pytest.raises(ClusterLostError, match=f"no worker with the resource {kind} for"):
        fleet.look()


def test_workers_that_come_back_in_time_are_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("gpu-1")
    fleet, _ = watched(client, monkeypatch)
    client.tasks = 0
    fleet.look()
    client.tasks = 2
    fleet.look()
    monkeypatch.setattr(fleet_module, "GONE_S", 0.0)
    client.tasks = 0
    fleet.look()
    assert fleet.tasks == 0


def test_an_actor_whose_worker_drains_keeps_its_blocks_gets_no_more_and_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client("gpu-1", "gpu-2")
    fleet, told = watched(client, monkeypatch)
    fleet.look()
    first = fleet.choose(2)
    assert first is not None
    first.load = 1
    client.statuses[first.name] = "closing_gracefully"
    fleet.look()
    assert {fleet.choose(2).name for _ in range(3)}.isdisjoint({first.name})  # type: ignore[union-attr]
    assert fleet.counts() == {"ready": 1, "loading": 0, "draining": 1}
    first.load = 0  # its block has come back
    fleet.look()
    client.names.remove(first.name)
    fleet.look()
    assert fleet.counts() == {"ready": 1, "loading": 0, "draining": 0}
    assert (told[-1], fleet.lost) == (("actor_drained", {"actor": first.name}), 0)


def test_a_worker_that_drains_in_the_last_seconds_of_a_run_is_told_of_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client("gpu-1", "gpu-2")
    fleet, told = watched(client, monkeypatch)
    fleet.look()
    client.statuses["gpu-2"] = "closing_gracefully"
    fleet.see_off()
    assert (told[2:], fleet.lost) == ([("actor_drained", {"actor": "gpu-2"})], 0)
    client.status = "closed"
    fleet.see_off()  # blocks are done: a scheduler that is gone by now is no loss
    assert (len(told), fleet.counts()["ready"]) == (3, 1)


def test_an_actor_whose_worker_stays_after_all_is_given_blocks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("gpu-1")
    fleet, _ = watched(client, monkeypatch)
    fleet.look()
    fleet.seats["tcp://10.0.0.1:9000"].load = 1
    client.statuses["gpu-1"] = "closing_gracefully"
    fleet.look()
    assert fleet.choose(2) is None
    client.statuses["gpu-1"] = "running"
    fleet.look()
    assert fleet.choose(2) is fleet.seats["tcp://10.0.0.1:9000"]


def test_an_actor_that_is_gone_before_its_blocks_came_back_is_lost_for_all_that_it_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client("gpu-1", "gpu-2")
    fleet, told = watched(client, monkeypatch)
    fleet.look()
    fleet.seats["tcp://10.0.0.1:9000"].load = 1
    client.statuses["gpu-1"] = "closing_gracefully"
    fleet.look()
    client.names.remove("gpu-1")
    fleet.look()
    assert (told[-1][0], told[-1][1]["actor"], fleet.lost) == ("actor_lost", "gpu-1", 1)


def test_a_hanging_actor_in_a_pod_has_its_process_ended_since_no_nanny_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"dashboard": False, "host": "127.0.0.1"}
    command = ["worker", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
    nowhere = subprocess.DEVNULL
    with (
        SpecCluster({}, {"cls": Scheduler, "options": options}, silence_logs=50) as there,
        DaskClient(there) as client,
    ):
        worker = Forked("dask", *command, there.scheduler_address, stdout=nowhere, stderr=nowhere)
        client.wait_for_workers(1, timeout=60)
        (address,) = workers_at(client)
        fleet, _ = watched(client, monkeypatch)
        monkeypatch.setattr(fleet.settings, "cluster", ClusterSpec("kubernetes"))
        ref = ActorRef(address, "actor")
        fleet.seats[address] = Seat(address, "gpu-1", Future(address, None), ref)
        fleet.report(ref, ActorSilentError("it stands still"))
        try:
            assert worker.wait(60) == 1
        finally:
            worker.kill()


def test_blocks_go_to_their_actors_own_worker_only_where_every_worker_for_blocks_has_one_and_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client("both-1", "both-2")
    client.tasks = 0
    of = {name: {CPU: 2, GPU: 1, own(name): 2} for name in client.names}
    identity = client.identity

    def offering(n_workers: int) -> dict[str, Any]:
        found = identity(n_workers)
        for info in found["workers"].values():
            info["resources"] = of.get(info["name"], info["resources"])
        return found

    monkeypatch.setattr(client, "identity", offering)
    fleet, _ = watched(client, monkeypatch)
    fleet.look()
    assert (fleet.near, fleet.tasks) == (True, 4)
    first, second = fleet.seats.values()
    first.load, second.load = 4, 3
    assert fleet.choose(2) is second
    second.load = 4
    assert fleet.choose(2) is None
    client.tasks = 2  # a third, for blocks alone: now any worker may do any block
    fleet.look()
    assert not fleet.near
    assert fleet.choose(2) is not None
