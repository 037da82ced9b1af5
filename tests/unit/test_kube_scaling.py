"""The number of CPU workers: found by how busy the actors are, and lowered without the operator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cryoscale.errors import ClusterUnavailableError
from cryoscale.kube.api import Kube, connected
from cryoscale.kube.scaling import SETTLE_S, STALE_S, STEP_S, Load, Scaler, Sizing, expendable
from cryoscale.settings import ClusterSpec
from tests.kube_api import FakeApi, served

GROUP = "ice-default"


def busy_with(workers: int, needed: float) -> float:
    """A plant: actors are busy in proportion to the workers that feed them, until they are full."""
    return min(workers / needed, 1.0)


def course(sizing: Sizing, workers: int, needed: float, hours: float = 3.0) -> list[int]:
    """How many workers there are step by step."""
    found = []
    for step in range(int(hours * 3600 / STEP_S)):
        load = Load(busy_with(workers, needed), undone=10_000)
        workers = sizing.wanted(step * STEP_S, workers, 0, load)
        found.append(workers)
    return found


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("needed", [1.0, 5.5, 17.2, 39.0])
def test_workers_come_to_what_the_actors_need_and_stay_there(needed: float, begun: bool) -> None:
    found = course(Sizing(1, 40, begun=begun), 1, needed)
    assert found[0] == (1 if begun and needed == 1.0 else 2 if begun else 40)
    assert len(set(found[-240:])) == 1, "still changing in the last hour"
    assert busy_with(found[-1], needed) >= 0.85
    assert found[-1] <= max(1.25 * needed, needed + 1)


def test_no_more_workers_are_kept_than_there_are_blocks_left_and_no_fewer_than_asked_for() -> None:
    sizing = Sizing(2, 40)
    assert sizing.wanted(0.0, 30, 0, Load(1.0, undone=9)) == 5
    assert sizing.wanted(0.0, 5, 0, Load(1.0, undone=1)) == 2
    assert sizing.wanted(0.0, 2, 0, Load(1.0, undone=0)) == 2


def test_workers_that_have_not_come_up_yet_are_not_asked_for_again() -> None:
    load = Load(0.2, undone=10_000)
    assert Sizing(1, 40, begun=True).wanted(SETTLE_S, 10, 3, load) == 10
    assert Sizing(1, 40, begun=True).wanted(SETTLE_S, 10, 0, load) > 10


def test_first_to_go_is_who_never_came_then_who_has_least_to_do_and_of_these_the_newest() -> None:
    doing = {"old-idle": 0, "busy": 3, "new-idle": 0}
    assert expendable(["old-idle", "busy", "new-idle", "pending"], doing) == [
        "pending",
        "new-idle",
        "old-idle",
        "busy",
    ]


@dataclass
class Workers:
    """What is asked of Dask's client: all that have a Deployment have joined, and do what is said here."""

    api: FakeApi
    tasks: dict[str, int] = field(default_factory=dict)

    @property
    def scheduler(self) -> Workers:
        return self

    def sync(self, ask: Any, **more: Any) -> Any:
        return ask(**more)

    def identity(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {f"tcp://{name}": {"name": name} for name in self.api.names("deployments")}}

    def processing(self) -> dict[str, tuple[int, ...]]:
        return {f"tcp://{name}": tuple(range(count)) for name, count in self.tasks.items()}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """Six CPU workers and two GPU workers."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with served(FakeApi(), tmp_path / "kubeconfig") as found:
        for name, count in ((GROUP, 6), ("ice-gpu", 2)):
            group = {"metadata": {"name": name}, "spec": {"worker": {"replicas": count}}}
            found.scale(found.put("daskworkergroups", group))
        yield found


def scaler(kube: Kube, api: FakeApi, load: Load, told: list[Any]) -> Scaler:
    spec = ClusterSpec("kubernetes", 8, 2, cpu_workers_min=2, name="ice")
    sizing = Sizing(spec.cpu_workers_min, spec.cpu_workers)
    client: Any = Workers(api, {name: 2 for name in api.names("deployments")[1:4]})
    return Scaler(kube, spec, client, lambda: load, lambda name, facts: told.append((name, facts)), sizing)


def workers_of(api: FakeApi, group: str) -> list[str]:
    return [name for name in api.names("deployments") if name.startswith(group)]


def replicas(api: FakeApi) -> int:
    return int(api.objects["daskworkergroups", GROUP]["spec"]["worker"]["replicas"])


def test_a_lowered_group_loses_idle_workers_of_its_own_and_the_operator_has_nothing_to_do(
    api: FakeApi,
) -> None:
    busy = workers_of(api, GROUP)[1:4]
    told: list[Any] = []
    with connected(None) as kube:
        scaler(kube, api, Load(1.0, undone=6), told).step(0.0)
    assert workers_of(api, GROUP) == busy
    assert replicas(api) == 3
    assert len(workers_of(api, "ice-gpu")) == 2
    assert api.blind == []
    assert told == [("scaled", {"group": GROUP, "before": 6, "after": 3, "busy_share": 1.0})]


def test_that_the_group_is_in_use_is_said_before_each_look(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.kube.scaling.STEP_S", 0.01)
    said = threading.Event()
    with connected(None) as kube:
        one = scaler(kube, api, Load(1.0, undone=12), [])
        one.on_step = said.set
        with one:
            assert said.wait(10.0)


def test_a_group_is_raised_by_its_count_alone(api: FakeApi) -> None:
    with connected(None) as kube:
        scaler(kube, api, Load(0.5, undone=1000), []).step(SETTLE_S)
    assert len(workers_of(api, GROUP)) == replicas(api) == 8
    assert [verb for verb, _, _ in api.asked] == ["patch"]


@pytest.mark.parametrize("cut_at", [1, 4, 5, 6, 7])
def test_a_scale_down_that_is_cut_off_anywhere_is_completed_by_whoever_looks_next(
    api: FakeApi, cut_at: int
) -> None:
    calls: list[str] = []

    def fails(verb: str, plural: str) -> bool:
        calls.append(verb)
        return len(calls) >= cut_at

    with connected(None) as kube:
        api.fails = fails
        first = scaler(kube, api, Load(0.9, undone=6), [])
        try:
            first.step(0.0)
        except ClusterUnavailableError:
            assert cut_at <= 7
        api.fails = lambda verb, plural: False
        left = len(workers_of(api, GROUP))
        assert left >= 3
        second = scaler(kube, api, Load(0.9, undone=6), [])
        for now_s in (0.0, STALE_S, STALE_S + STEP_S, 2 * STALE_S + STEP_S, 3 * STALE_S):
            second.step(now_s)
    assert len(workers_of(api, GROUP)) == replicas(api) == 3
    assert len(workers_of(api, "ice-gpu")) == 2
    assert api.blind == []


def test_deployments_that_the_operator_is_still_making_are_not_taken_out_of_the_count(api: FakeApi) -> None:
    api.objects.pop(("deployments", workers_of(api, GROUP)[0]))
    with connected(None) as kube:
        one = scaler(kube, api, Load(0.5, undone=1000), [])
        one.step(0.0)
        one.step(STALE_S - 1)
        assert replicas(api) == 6
        one.step(STALE_S)
        assert replicas(api) == 5
    assert api.blind == []
