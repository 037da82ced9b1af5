"""A cluster on Kubernetes: made or found, waited for in Kubernetes' own words, taken down if it was made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cryoscale.cluster import Site
from cryoscale.errors import InputError, StoppedError, TransientError
from cryoscale.kube import provision
from cryoscale.kube.provision import require_provision, take_down_left
from cryoscale.kube.scaling import BEFORE, USED_BY, Group
from cryoscale.kube.template import documents
from tests.kube_api import FakeApi
from tests.kube_cluster import RUN, SCHEDULER, SPEC, cluster, operated


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with operated(tmp_path, monkeypatch) as found:
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
