"""What keeps a cluster on Kubernetes from coming up is told in Kubernetes' own words, and nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cryoscale.errors import InputError, StoppedError
from cryoscale.kube import provision
from cryoscale.kube.provision import require_provision
from tests.kube_api import FakeApi
from tests.kube_cluster import CPU, GPU, SPEC, cluster, operated, operator

QUOTA = (
    'pods "ice-cpu-0" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
)
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
PULL = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "there/gpu:1"'}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with operated(tmp_path, monkeypatch) as found:
        yield found


def _quota(api: FakeApi) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}
    api.deployment("ice-cpu", CPU, conditions=[failure])


def _no_node(api: FakeApi) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}
    api.pod("ice-gpu-0", GPU, conditions=[condition])


def _no_image(api: FakeApi) -> None:
    waiting = {"image": "there/gpu:1", "state": {"waiting": PULL}}
    api.pod("ice-gpu-0", GPU, containerStatuses=[waiting])


def _no_volume(api: FakeApi) -> None:
    waiting = {"image": "there/cpu:1", "state": {"waiting": {"reason": "ContainerCreating"}}}
    api.pod("ice-cpu-0", CPU, containerStatuses=[waiting])
    event = {"metadata": {"name": "e"}, "involvedObject": {"name": "ice-cpu-0"}, "message": 'no claim "data"'}
    api.put("events", event)


def _no_weights(api: FakeApi) -> None:
    running = {"image": "there/gpu:1", "state": {"running": {}}}
    api.pod("ice-gpu-0", GPU, containerStatuses=[running])
    api.logs["ice-gpu-0"] = "the model of /w cannot be loaded\n"


@pytest.mark.parametrize(
    ("kind", "trouble", "words"),
    [
        ("cpu", _quota, ("CPU worker", QUOTA)),
        ("gpu", _no_node, ("GPU worker", NO_GPU)),
        ("gpu", _no_image, ("there/gpu:1", PULL["message"])),
        ("cpu", _no_volume, ("CPU worker", 'no claim "data"')),
        ("gpu", _no_weights, ("GPU worker", "the model of /w cannot be loaded")),
    ],
)
def test_what_does_not_come_up_is_told_as_kubernetes_tells_it_and_nothing_is_left(
    api: FakeApi,
    kind: str,
    trouble: Callable[[FakeApi], None],
    words: tuple[str, ...],
) -> None:
    api.on_create = operator(api, **{kind: lambda: trouble(api)})
    told: list[str] = []
    with (
        pytest.raises(InputError) as refused,
        cluster(replace(SPEC, wait_s=0.001), tell=told.append) as found,
    ):
        found.up()
    said = str(refused.value)
    assert all(word in said for word in words), said
    assert told[-1].removeprefix("waiting for ") in said
    assert "\n" not in str(refused.value)
    assert not api.names("daskclusters") + api.names("daskworkergroups")


def test_an_image_that_cannot_be_had_is_not_waited_for_as_long_as_a_node(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.kube.standing.IMAGE_S", 0.1)
    api.on_create = operator(api, gpu=lambda: _no_image(api))
    with pytest.raises(InputError, match="ImagePullBackOff"), cluster(replace(SPEC, wait_s=3600.0)) as found:
        found.up()


def test_an_operator_that_does_nothing_is_told(api: FakeApi) -> None:
    api.on_create = lambda document: None
    with (
        pytest.raises(InputError, match="operator has made nothing"),
        cluster(replace(SPEC, wait_s=0.001)) as it,
    ):
        it.up()
    assert not api.names("daskclusters")


def test_a_run_that_is_told_to_stop_does_not_wait_and_leaves_nothing(api: FakeApi) -> None:
    stop = threading.Event()
    api.on_create = operator(api, gpu=stop.set)
    with pytest.raises(StoppedError), cluster(stop=stop) as found:
        found.up()
    assert not api.names("daskclusters")


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(api: FakeApi) -> None:
    calls: list[int] = []

    def fails(verb: str, plural: str) -> bool:
        calls.append(1)
        return verb == "list" and plural == "pods" and len(calls) < 12

    api.fails = fails
    told: list[str] = []
    with cluster(tell=told.append) as found:
        found.up()
    assert any("API server" in text for text in told)


@pytest.mark.parametrize("call", range(1, 10))
def test_a_new_cluster_is_not_taken_down_for_one_call_that_fails(api: FakeApi, call: int) -> None:
    calls: list[int] = []

    def fails(verb: str, plural: str) -> bool:
        calls.append(1)
        return len(calls) == call

    api.fails = fails
    with cluster() as found:
        found.up()
        assert [asked for asked in api.asked if asked[0] == "delete"] == []
        assert len(calls) > call
    assert not api.names("daskclusters") + api.names("daskworkergroups")


def test_a_cluster_is_taken_down_although_the_api_server_is_away_for_a_moment(api: FakeApi) -> None:
    calls: list[int] = []

    def fails(verb: str, plural: str) -> bool:
        calls.append(1)
        return len(calls) < 3

    with cluster() as found:
        found.up()
        api.fails = fails
    assert not api.names("daskclusters") + api.names("daskworkergroups")


@pytest.mark.parametrize(
    ("verb", "plural"),
    [
        ("create", "daskclusters"),
        ("create", "daskworkergroups"),
        ("delete", "daskclusters"),
        ("patch", "daskclusters"),
        ("patch", "daskworkergroups"),
        ("delete", "deployments"),
        ("list", "pods"),
    ],
)
def test_each_right_that_lacks_is_told_in_the_servers_words_before_anything_is_made(
    api: FakeApi, verb: str, plural: str
) -> None:
    api.forbidden = {(verb, plural)}
    with pytest.raises(InputError, match=f'User "anna" cannot {verb} resource "{plural}"') as refused:
        require_provision(SPEC)
    assert refused.value.exit_code == 2
    assert api.asked == []


def test_a_server_without_the_operators_kinds_and_one_that_is_not_there_are_told(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"cluster\.gpu_image"):
        require_provision(replace(SPEC, gpu_image=None))
    with pytest.raises(InputError, match=r"cluster\.claim"):
        require_provision(SPEC, "/on/this/machine")
    api.unknown = {"daskclusters", "daskworkergroups"}
    with pytest.raises(InputError, match="knows no DaskCluster"):
        require_provision(SPEC)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot be asked"):
        require_provision(SPEC)


def test_a_driver_outside_of_the_cluster_is_told_to_go_inside(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "_resolves", lambda host: False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="--detach"):
        require_provision(SPEC)
    assert api.asked == []
    monkeypatch.setattr(provision, "RESOLVE_S", 0.0)
    with pytest.raises(InputError, match="--detach"), cluster() as found:
        found.up()
    assert not api.names("daskclusters")
