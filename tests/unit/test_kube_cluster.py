"""A cluster on Kubernetes: made or found, waited for in Kubernetes' own words, taken down if it was made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cryoscale.cluster import Site
from cryoscale.drive import Driver
from cryoscale.errors import InputError, StoppedError, TransientError
from cryoscale.kube import provision
from cryoscale.kube.provision import Provision, provided, require_provision, take_down_left
from cryoscale.kube.scaling import BEFORE, USED_BY, Group
from cryoscale.kube.template import documents
from cryoscale.settings import ClusterSpec, ModelSpec
from tests.kube_api import FakeApi, served

SPEC = ClusterSpec("kubernetes", 3, 2, name="ice", image="there/cpu:1", gpu_image="there/gpu:1", wait_s=20.0)
RUN = "0123456789abcdef"
LABEL = {"dask.org/cluster-name": "ice"}
SCHEDULER = LABEL | {"dask.org/component": "scheduler"}
CPU = LABEL | {"dask.org/component": "worker", "dask.org/workergroup-name": "ice-default"}
GPU = LABEL | {"dask.org/component": "worker", "dask.org/workergroup-name": "ice-gpu"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """An API server with an operator by which all comes up at once."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(provision, "LOOK_S", 0.02)
    known = ("ice-scheduler.snow.svc", "kubernetes.default.svc")
    monkeypatch.setattr(provision, "_resolves", known.__contains__)
    with served(FakeApi(), tmp_path / "kubeconfig") as found:
        found.on_create = operator(found)
        yield found


def operator(api: FakeApi, **instead: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """Makes a pod of each kind; ``instead`` of one of them it does something else."""

    def pods(kind: str, labels: dict[str, str]) -> None:
        api.deployment(f"ice-{kind}", labels)
        instead.get(kind, lambda: api.pod(f"ice-{kind}-0", labels))()

    def made(document: dict[str, Any]) -> None:
        if document["kind"] == "DaskCluster":
            pods("scheduler", SCHEDULER)
            pods("cpu", CPU)
        elif document["kind"] == "DaskWorkerGroup":
            pods("gpu", GPU)

    return made


@contextmanager
def cluster(spec: ClusterSpec = SPEC, **changes: Any) -> Iterator[Provision]:
    given = {
        "run": RUN,
        "with_actors": True,
        "model": ModelSpec("/data/w", precision="bf16"),
        "tell": lambda text: None,
    }
    with provided(spec, **{**given, "stop": threading.Event(), **changes}) as found:
        yield found


def test_a_cluster_is_made_with_both_groups_and_taken_down_with_the_run(api: FakeApi) -> None:
    with cluster() as found:
        assert found.up() == "tcp://ice-scheduler.snow.svc:8786"
        made = api.objects["daskclusters", "ice"]
        group = api.objects["daskworkergroups", "ice-gpu"]
        assert made["metadata"]["labels"]["cryoscale.dev/run"] == RUN
        assert (made["spec"]["worker"]["replicas"], group["spec"]["worker"]["replicas"]) == (3, 2)
        assert group["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
        (actor,) = group["spec"]["worker"]["spec"]["containers"]
        assert actor["image"] == "there/gpu:1"
        told = {one["name"]: one.get("value") for one in actor["env"]}
        assert (told["CRYOSCALE_WEIGHTS"], told["CRYOSCALE_PRECISION"]) == ("/data/w", "bf16")
    assert not api.names("daskclusters") + api.names("daskworkergroups")


def stand(api: FakeApi) -> dict[str, Any]:
    """The CPU group of a cluster that stands, with two workers."""
    others = documents(SPEC, "snow", cpu_workers=1)
    for plural, document in (("daskclusters", others.cluster), ("daskworkergroups", others.actors)):
        api.on_create(api.put(plural, document))
    api.objects.pop(("deployments", "ice-cpu"))
    group = {"metadata": {"name": "ice-default"}, "spec": {"worker": {"replicas": 2}}}
    api.scale(api.put("daskworkergroups", group))
    return group


def workers(api: FakeApi, group: dict[str, Any]) -> tuple[int, int]:
    made = [name for name in api.names("deployments") if "default-worker" in name]
    return group["spec"]["worker"]["replicas"], len(made)


def test_a_cluster_that_was_there_is_used_and_left_with_as_many_workers_as_it_had(api: FakeApi) -> None:
    group = stand(api)
    with cluster() as found:
        found.up()
    assert {verb for verb, _, _ in api.asked} == {"patch"}
    with cluster() as found:
        found.up()
        Group(found.kube, "ice-default").put(5)
    assert (workers(api, group), api.blind) == ((2, 2), [])
    assert group["metadata"]["annotations"] == {}


def test_the_last_of_the_runs_that_use_a_cluster_leaves_the_workers_that_it_had(api: FakeApi) -> None:
    group = stand(api)
    with cluster() as first:
        first.up()
        Group(first.kube, "ice-default").put(5)
        with cluster(run="of-another") as second:
            second.up()
            first.down()
            assert workers(api, group) == (5, 5)
        assert workers(api, group) == (2, 2)
    assert group["metadata"]["annotations"] == {}


@pytest.mark.parametrize("run", [RUN, "of-another"])
def test_who_comes_after_a_killed_driver_leaves_the_workers_that_were_there_before_it(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    group = stand(api)
    with monkeypatch.context() as killed, cluster() as first:
        first.up()
        Group(first.kube, "ice-default").put(5)
        killed.setattr(first, "down", lambda: None)
    if run != RUN:
        monkeypatch.setattr("cryoscale.kube.scaling.USE_S", 0.0)
    with cluster(run=run) as second:
        second.up()
    assert workers(api, group) == (2, 2)
    assert group["metadata"]["annotations"] == {}


def test_a_run_goes_on_saying_that_it_uses_a_cluster_as_long_as_it_does(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = stand(api)
    with cluster() as found:
        found.up()
        monkeypatch.setattr(provision, "USE_TOLD_S", 0.0)
        group["metadata"]["annotations"] = {}
        found.use()
        assert group["metadata"]["annotations"].keys() == {BEFORE, f"{USED_BY}{RUN}"}


def test_a_cluster_that_is_to_stay_stays_and_other_runs_may_use_it(api: FakeApi) -> None:
    for run in (RUN, "of-another"):
        with cluster(replace(SPEC, keep=run == RUN), run=run) as found:
            found.up()
    assert api.names("daskclusters") == ["ice"]


@pytest.mark.parametrize("left", [False, True])
def test_a_cluster_that_is_to_stay_belongs_to_no_job_whoever_made_it(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    for name in ("CRYOSCALE_JOB_NAME", "CRYOSCALE_JOB_UID"):
        monkeypatch.setenv(name, "job")
    if left:
        made = documents(SPEC, "snow", cpu_workers=3, run=RUN).cluster
        made["metadata"]["ownerReferences"] = [{"uid": "former"}]
        api.on_create(api.put("daskclusters", made))
    with cluster(replace(SPEC, keep=True)) as found:
        found.up()
    stays = api.objects["daskclusters", "ice"]
    assert (stays["metadata"]["ownerReferences"], stays["spec"]["idleTimeout"]) == ([], 0)
    with cluster() as found:
        found.up()
    with cluster(run="of-another") as found:
        found.up()
    assert api.names("daskclusters") == ["ice"]


def test_a_cluster_that_goes_with_another_run_is_not_used(api: FakeApi) -> None:
    with cluster(run="of-another") as its:
        its.up()
        with pytest.raises(InputError, match="made for another run"):
            require_provision(SPEC, "s3://ice/run", RUN)
        with pytest.raises(InputError, match=r"another cluster\.name"), cluster() as found:
            found.up()
        assert api.names("daskclusters") == ["ice"]


def test_work_that_is_no_run_has_a_cluster_of_its_own_and_leaves_that_of_others_alone(api: FakeApi) -> None:
    with Site(SPEC) as first, Site(SPEC) as second:
        first.open()
        for site in (second, Site(SPEC, "s3://ice/run")):
            with pytest.raises(InputError, match="made for another run"):
                site.open()
        second.close()
        assert api.names("daskclusters") == ["ice"]
    assert not api.names("daskclusters")


def test_a_cluster_of_another_run_that_is_just_being_deleted_refuses_none(api: FakeApi) -> None:
    going = documents(SPEC, "snow", cpu_workers=3, run="of-another").cluster
    api.put("daskclusters", going)["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    require_provision(SPEC, "s3://ice/run", RUN)
    with pytest.raises(InputError, match=r"cluster\.image"):
        require_provision(replace(SPEC, image=None), "s3://ice/run", RUN)


def test_who_follows_a_killed_driver_completes_its_cluster_and_takes_it_down(api: FakeApi) -> None:
    half = documents(SPEC, "snow", cpu_workers=3, run=RUN)
    api.on_create(api.put("daskclusters", half.cluster))
    with cluster() as found:
        found.up()
        assert api.names("daskworkergroups") == ["ice-gpu"]
    assert not api.names("daskclusters") + api.names("daskworkergroups")


def test_a_cluster_that_another_driver_has_made_meanwhile_is_not_taken_down(api: FakeApi) -> None:
    with cluster() as first:
        first.up()
        api.objects.clear()  # its Job is deleted, with all that it owns
        with cluster(run="of-another") as second:
            second.up()
            first.down()
            assert api.names("daskclusters") + api.names("daskworkergroups") == ["ice", "ice-gpu"]
    assert not api.names("daskclusters") + api.names("daskworkergroups")


def test_who_took_a_cluster_over_takes_it_down_and_not_the_driver_that_made_it(api: FakeApi) -> None:
    with cluster() as second:
        with cluster() as first:
            first.up()
            second.up()
        assert api.names("daskclusters") + api.names("daskworkergroups") == ["ice", "ice-gpu"]
    assert not api.names("daskclusters") + api.names("daskworkergroups")


@pytest.mark.parametrize("run", [RUN, "of-another"])
def test_a_cluster_whose_creation_was_not_answered_is_taken_down_if_it_is_this_drivers(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    stop = threading.Event()
    answer = api.answer

    def silent(method: str, url: str, body: bytes) -> tuple[int, Any]:
        said = answer(method, url, body)
        if method != "POST":
            return said
        stop.set()
        if run != RUN:
            api.put("daskclusters", documents(SPEC, "snow", cpu_workers=3, run=run).cluster)
        return 504, {"message": "no answer in time"}

    monkeypatch.setattr(api, "answer", silent)
    with pytest.raises(TransientError), cluster(stop=stop) as found:
        found.up()
    assert api.names("daskclusters") == ([] if run == RUN else ["ice"])


def test_a_cluster_that_goes_while_it_is_awaited_is_made_again(api: FakeApi) -> None:
    gone: list[dict[str, Any]] = []

    def go() -> None:
        if api.names("daskworkergroups") and not gone:
            gone.append(api.objects["daskworkergroups", "ice-gpu"])
            api.objects.clear()
            api.objects["daskworkergroups", "ice-gpu"] = gone[0]  # of which the garbage collector comes last

    def tell(text: str) -> None:
        if "former cluster" in text:
            del api.objects["daskworkergroups", "ice-gpu"]

    api.on_look = go
    api.put("daskclusters", documents(SPEC, "snow", cpu_workers=3, run=RUN).cluster)
    with cluster(tell=tell) as found:
        assert found.up() == "tcp://ice-scheduler.snow.svc:8786"
        (owner,) = api.objects["daskworkergroups", "ice-gpu"]["metadata"]["ownerReferences"]
        assert owner["uid"] == api.objects["daskclusters", "ice"]["metadata"]["uid"]
        assert owner["uid"] != gone[0]["metadata"]["ownerReferences"][0]["uid"]
    assert not api.names("daskclusters") + api.names("daskworkergroups")


@pytest.mark.parametrize("job", [None, "the-next"])
def test_a_cluster_that_a_former_job_owns_is_the_present_ones_once_it_is_taken_over(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, job: str | None
) -> None:
    for name in [] if job is None else ["CRYOSCALE_JOB_NAME", "CRYOSCALE_JOB_UID"]:
        monkeypatch.setenv(name, str(job))
    made = documents(SPEC, "snow", cpu_workers=3, run=RUN)
    former = {"apiVersion": "batch/v1", "kind": "Job", "name": "former", "uid": "former"}
    metadata = api.put("daskclusters", made.cluster)["metadata"]
    metadata["ownerReferences"] = [former]
    api.on_create(made.cluster)
    with cluster() as found:
        found.up()
        assert [owner["uid"] for owner in metadata["ownerReferences"]] == ([] if job is None else [job])


def test_a_driver_that_is_told_to_stop_makes_no_cluster_again(api: FakeApi) -> None:
    stop = threading.Event()
    with cluster(stop=stop) as found:
        found.up()
        api.objects.clear()
        stop.set()
        with pytest.raises(StoppedError):
            found.up()
    assert not api.names("daskclusters")


@pytest.mark.parametrize(
    ("run", "keep", "left"), [(RUN, False, []), (RUN, True, ["ice"]), ("of-another", False, ["ice"])]
)
def test_of_what_a_killed_driver_left_that_goes_which_was_to_go_with_this_run(
    api: FakeApi, run: str, keep: bool, left: list[str]
) -> None:
    made = documents(replace(SPEC, keep=keep), "snow", cpu_workers=3, run=run)
    owner = {"uid": api.put("daskclusters", made.cluster)["metadata"]["uid"]}
    api.put("daskworkergroups", made.actors)["metadata"]["ownerReferences"] = [owner]
    take_down_left(SPEC, RUN)
    assert api.names("daskclusters") == left
    assert api.names("daskworkergroups") == [f"{name}-gpu" for name in left]


def test_a_cluster_is_not_made_into_the_remains_of_the_former_one(api: FakeApi) -> None:
    api.put("daskclusters", {"metadata": {"name": "ice", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    api.deployment("ice-scheduler", SCHEDULER)
    looks: list[int] = []

    def go() -> None:
        looks.append(1)
        if len(looks) == 3:
            api.objects.pop(("deployments", "ice-scheduler"))

    api.on_look = go
    with cluster(tell=lambda text: api.objects.pop(("daskclusters", "ice"), None)) as found:
        found.up()
        assert len(looks) > 3
        assert api.names("daskclusters") == ["ice"]


QUOTA = (
    'pods "ice-cpu-0" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
)
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
PULL = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "there/gpu:1"'}


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


def test_without_gpus_models_are_held_by_as_many_pods_as_there_are_workers_of_which_none_asks_for_one() -> (
    None
):
    made = documents(replace(SPEC, gpu_workers=0, secret="keys", claim="shared"), "snow", cpu_workers=3)
    pod = made.actors["spec"]["worker"]["spec"]
    assert made.actors["spec"]["worker"]["replicas"] == 3
    assert pod["containers"][0]["image"] == "there/cpu:1"
    assert "nvidia" not in str({key: pod[key] for key in ("tolerations", "nodeSelector", "containers")})
    for found in (pod, made.cluster["spec"]["worker"]["spec"]):
        assert {"secretRef": {"name": "keys"}} in found["containers"][0]["envFrom"]
        assert {"name": "data", "mountPath": "/data"} in found["containers"][0]["volumeMounts"]


def test_what_is_made_for_a_run_and_is_not_kept_goes_once_it_has_nothing_to_do(tmp_path: Path) -> None:
    def idle_s(spec: ClusterSpec, run: str) -> int:
        return int(documents(spec, "snow", cpu_workers=1, run=run).cluster["spec"]["idleTimeout"])

    assert idle_s(replace(SPEC, wait_s=7200.0), RUN) == 10_800
    assert idle_s(SPEC, "") == idle_s(replace(SPEC, keep=True), RUN) == 0
    text = (files("cryoscale.kube") / "cluster.yaml").read_text().replace("idleTimeout: 0", "idleTimeout: 60")
    (tmp_path / "own.yaml").write_text(text)
    assert idle_s(replace(SPEC, manifest=str(tmp_path / "own.yaml")), RUN) == 60


@pytest.mark.parametrize(("kind", "waits"), [("kubernetes", False), ("local", True)])
def test_a_driver_of_pods_has_ended_its_wait_for_blocks_before_its_own_pod_is_killed(
    monkeypatch: pytest.MonkeyPatch, kind: str, waits: bool
) -> None:
    now = [0.0]
    monkeypatch.setattr("cryoscale.drive.time", SimpleNamespace(monotonic=lambda: now[0]))

    class Endless:
        def recall(self) -> None: ...

        def land(self, patience_s: float) -> list[Any]:
            now[0] += 10.0
            return []

    driver = object.__new__(Driver)
    driver.flights = cast(Any, Endless())
    driver.fleet = cast(Any, SimpleNamespace(settings=SimpleNamespace(cluster=ClusterSpec(kind))))
    driver._drain()
    assert (now[0] > 300.0) == waits


@pytest.mark.parametrize(
    "text", ["a: [", "kind: DaskCluster", "{kind: DaskCluster}\n---\n{kind: DaskWorkerGroup}"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputError, match="one DaskCluster and one DaskWorkerGroup"):
        documents(replace(SPEC, manifest=str(tmp_path / "own.yaml")), "snow", cpu_workers=1)
