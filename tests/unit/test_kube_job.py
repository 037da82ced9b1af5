"""A run that a Job drives: submitted whole or not at all, and followed from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cryoscale.cli import app
from cryoscale.cluster import run_label
from cryoscale.config import parse_config
from cryoscale.errors import ClusterUnavailableError, InputError
from cryoscale.kube import api as asking
from cryoscale.kube import following, job
from tests.kube_api import FakeApi, served

OUT = "s3://ice/khumbu"
CLUSTER = {"kind": "kubernetes", "image": "there/cpu:1", "gpu_image": "there/gpu:1", "gpu_workers": 1}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(following, "LOOK_S", 0.02)
    with served(FakeApi(), tmp_path / "kubeconfig") as found:
        yield found


def config(folder: Path, **changes: Any) -> Path:
    """A configuration whose region is a file beside it."""
    document = {
        "name": "Khumbu 2018",
        "region": {"file": "areas/basin.geojson"},
        "years": [2018],
        "catalogs": [{"url": "https://stac.example.org"}],
        "sources": {"optical": {"collection": "sentinel-2-l2a"}},
        "model": {"name": "band-ratio"},
        "cluster": CLUSTER,
    }
    (folder / "areas").mkdir(exist_ok=True)
    (folder / "areas" / "basin.geojson").write_text('{"type": "Point"}')
    (folder / "run.yaml").write_text(yaml.safe_dump(document | changes))
    return folder / "run.yaml"


def cryoscale(*arguments: object) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.output, done.exception


def the_job(api: FakeApi) -> dict[str, Any]:
    (name,) = api.names("jobs")
    return api.objects["jobs", name]


def test_a_job_is_made_that_runs_this_configuration_with_the_files_that_it_names(
    api: FakeApi, tmp_path: Path
) -> None:
    said, _ = cryoscale("run", config(tmp_path), "--out", OUT, "--detach", "--retry-set-aside")
    made = the_job(api)
    pod = made["spec"]["template"]["spec"]
    driver = pod["containers"][0]
    assert driver["image"] == "there/cpu:1"
    assert driver["args"][:3] == ["cryoscale", "run", "/etc/cryoscale/run.yaml"]
    assert driver["args"][-1] == "--retry-set-aside"
    assert {"name": "CRYOSCALE_OUT", "value": OUT} in driver["env"]
    assert pod["serviceAccountName"] == "cryoscale-submitter"
    assert f"cryoscale logs {OUT} --follow --namespace snow" in said
    (mounted,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    carried = api.objects["configmaps", mounted]
    assert carried["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    there = parse_config(yaml.safe_load(carried["data"].pop("run.yaml")), "the ConfigMap")
    assert carried["data"] == {there.region.file: '{"type": "Point"}'}
    for labelled in (made, made["spec"]["template"], carried):
        assert labelled["metadata"]["labels"]["cryoscale.dev/run"] == run_label(OUT)


def test_bad_input_is_not_tried_again_and_an_eviction_is_no_failure(api: FakeApi, tmp_path: Path) -> None:
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    spec = the_job(api)["spec"]
    first, second = spec["podFailurePolicy"]["rules"]
    assert (first["action"], 2 in first["onExitCodes"]["values"]) == ("FailJob", True)
    assert 75 not in first["onExitCodes"]["values"]
    assert (second["action"], second["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    # a server that does not know the policy drops it: then this bounds the tries
    assert 3 <= spec["backoffLimit"] <= 20
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which the policy asks for


@pytest.mark.parametrize(
    ("cluster", "out", "options", "words"),
    [
        ({"kind": "local", "image": None, "gpu_image": None}, OUT, (), "cluster kind local"),
        ({"image": None}, OUT, (), "cluster.image"),
        ({}, "/somewhere/here", (), "cluster.claim"),
        ({"claim": "shared"}, "/somewhere/here", (), "/data"),
        ({}, "memory://run", (), "object store"),
        ({}, OUT, ("--new-run",), "--new-run"),
        ({}, OUT, ("--redo", "1,2,3,4"), "--redo"),
        ({"manifest": "absent.yaml"}, OUT, (), "absent.yaml"),
    ],
)
def test_what_a_job_could_not_do_is_refused_in_a_line(
    api: FakeApi, tmp_path: Path, cluster: dict[str, Any], out: str, options: tuple[str, ...], words: str
) -> None:
    asked = {key: value for key, value in (CLUSTER | cluster).items() if value is not None}
    _, error = cryoscale("run", config(tmp_path, cluster=asked), "--out", out, "--detach", *options)
    assert isinstance(error, InputError)
    assert words in str(error)
    assert api.asked == []


def test_a_job_that_the_server_refuses_leaves_no_config_map(api: FakeApi, tmp_path: Path) -> None:
    def fails(verb: str, plural: str) -> bool:
        return verb == "create" and plural == "jobs" and "configmaps" in [kind for _, kind, _ in api.asked]

    api.fails = fails
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert "etcd is away" in str(error) or "503" in str(error)
    assert api.names("jobs") + api.names("configmaps") == []


def test_a_submission_that_comes_second_leaves_the_other_ones_config_map(
    api: FakeApi, tmp_path: Path
) -> None:
    others: list[str] = []

    def submit_meanwhile(document: dict[str, Any]) -> None:
        if document["kind"] == "ConfigMap" and not others:
            others.append("at work")
            cryoscale("run", config(tmp_path), "--out", OUT, "--detach")

    api.on_create = submit_meanwhile
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert "drives already" in str(error)
    (mounted,) = job._mounts(the_job(api))
    assert api.names("configmaps") == [mounted]
    assert api.objects["configmaps", mounted]["metadata"]["ownerReferences"]


def test_a_job_that_was_made_though_the_answer_was_an_error_keeps_its_config_map(
    api: FakeApi, tmp_path: Path
) -> None:
    api.loses = lambda verb, plural: (verb, plural) == ("create", "jobs")
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert error is None or isinstance(error, SystemExit)
    assert api.names("configmaps") == job._mounts(the_job(api))


def test_a_config_map_without_a_job_is_taken_back_though_the_answer_was_an_error(
    api: FakeApi, tmp_path: Path
) -> None:
    api.loses = lambda verb, plural: (verb, plural) == ("create", "configmaps")
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert isinstance(error, ClusterUnavailableError)
    assert api.names("jobs") + api.names("configmaps") == []


def test_a_run_has_one_job_at_a_time_and_one_that_is_over_makes_room(api: FakeApi, tmp_path: Path) -> None:
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    before = the_job(api)["metadata"]["uid"]
    _, error = cryoscale("run", config(tmp_path), "--out", f"{OUT}/", "--detach")
    assert "drives already" in str(error)
    the_job(api)["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert error is None or isinstance(error, SystemExit)
    assert the_job(api)["metadata"]["uid"] != before


def test_a_submission_that_is_refused_leaves_the_former_job_with_its_log(
    api: FakeApi, tmp_path: Path
) -> None:
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    the_job(api)["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    before = the_job(api)["metadata"]["uid"]
    api.forbidden = {("create", "jobs")}
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert "rights that are too narrow" in str(error)
    assert the_job(api)["metadata"]["uid"] == before


def test_room_is_made_by_no_job_that_another_submission_has_put_there(api: FakeApi, tmp_path: Path) -> None:
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    former = the_job(api)
    former["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}

    def another_comes(verb: str, plural: str) -> None:
        if (verb, plural) == ("delete", "jobs"):
            metadata = {key: former["metadata"][key] for key in ("name", "labels")}
            api.put("jobs", {**former, "metadata": metadata, "status": {}})

    api.refuses = another_comes
    _, error = cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    assert isinstance(error, ClusterUnavailableError)
    assert the_job(api)["status"] == {}


def driver(api: FakeApi, name: str, log: str, **state: Any) -> None:
    labels = {"cryoscale.dev/run": run_label(OUT), "app.kubernetes.io/component": "submitter"}
    api.pod(name, labels, phase="Running", containerStatuses=[{"name": "driver", "state": state}])
    api.logs[name] = log


def test_the_log_goes_on_with_the_pod_that_takes_over_until_the_job_is_over(
    api: FakeApi, tmp_path: Path
) -> None:
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    looks: list[int] = []

    def go_on() -> None:
        looks.append(1)
        if len(looks) == 1:
            driver(api, "first", "searching\n3/8 blocks\n", terminated={"exitCode": 75})
        elif len(looks) == 5:
            driver(api, "second", "5 were done already\n8/8 blocks\n", terminated={"exitCode": 0})
            the_job(api)["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}

    api.on_look = go_on
    said, _ = cryoscale("logs", OUT, "--follow")
    assert said.splitlines() == [
        "# pod first",
        "searching",
        "3/8 blocks",
        "# pod second",
        "5 were done already",
        "8/8 blocks",
        "# Job Complete",
    ]


def test_a_log_that_is_cut_off_or_falls_silent_is_asked_for_anew_from_where_it_was(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SILENT_S", 0.1)
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    looks: list[int] = []

    def go_on() -> None:
        looks.append(1)
        if len(looks) == 1:
            driver(api, "only", "searching\n", running={})
        elif len(looks) == 3:
            api.logs["only"] += "3/8 blocks\n"
            api.stalled = {"only"}
        elif len(looks) == 5:
            api.stalled = set()
            api.logs["only"] += "8/8 blocks\n"
            api.objects["pods", "only"]["status"]["containerStatuses"] = [{"state": {"terminated": {}}}]
            the_job(api)["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}

    api.on_look = go_on
    said, _ = cryoscale("logs", OUT, "--follow")
    assert said.splitlines() == ["# pod only", "searching", "3/8 blocks", "8/8 blocks", "# Job Complete"]


def test_why_a_job_has_no_driver_is_told(api: FakeApi, tmp_path: Path) -> None:
    _, error = cryoscale("logs", OUT)
    assert "which no Job in namespace snow drives" in str(error)
    cryoscale("run", config(tmp_path), "--out", OUT, "--detach")
    reason = 'serviceaccount "cryoscale-submitter" not found'
    name = the_job(api)["metadata"]["name"]
    api.put("events", {"metadata": {"name": "e"}, "involvedObject": {"name": name}, "message": reason})
    said, _ = cryoscale("logs", OUT)
    assert reason in said


def test_status_says_what_the_job_and_the_pods_of_its_cluster_do(api: FakeApi, tmp_path: Path) -> None:
    out = tmp_path / "not-begun"
    label = {"cryoscale.dev/run": run_label(str(out))}
    api.put("jobs", {"metadata": {"name": "j", "labels": label}, "status": {"failed": 1}})
    api.pod("driver-1", label)
    of_cluster = label | {"dask.org/cluster-name": "cryoscale", "dask.org/component": "worker"}
    api.pod("ready-one", of_cluster)
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    api.pod("gpu-1", of_cluster, conditions=[{"type": "PodScheduled", "status": "False", "message": message}])
    said, _ = cryoscale("status", out, "--job")
    assert "Job snow/j: at work, 1 pods failed" in said
    assert "driver-1: Running" in said
    assert "cluster: 1 of 2 pods are ready" in said
    assert message in said


def test_files_too_large_to_send_along_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large.gpkg").write_bytes(bytes(job.CARRIED_BYTES + 1))
    document = yaml.safe_load(config(tmp_path, outlines={"rgi": "large.gpkg"}).read_text())
    with pytest.raises(InputError, match="large.gpkg"):
        job.carry(document, tmp_path)


def test_a_shapefile_is_sent_along_with_its_parts_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a b.shp", "a b.shx", "a b.dbf", "a b.PRJ", "a b.qgz", "other.dbf"):
        (tmp_path / name).write_text(name)
    document = yaml.safe_load(config(tmp_path, region={"file": "a b.shp"}).read_text())
    carried = job.carry(document, tmp_path)
    assert yaml.safe_load(carried.pop("run.yaml"))["region"]["file"] == "0-a_b.shp"
    assert {name: found.decode() for name, found in carried.items()} == {
        f"0-a_b.{part}": f"a b.{part}" for part in ("shp", "shx", "dbf", "PRJ")
    }


def test_files_that_the_workers_would_have_to_see_are_refused(tmp_path: Path) -> None:
    for change in ({"model": {"weights": "here.safetensors"}}, {"catalogs": [{"url": "simulated"}]}):
        with pytest.raises(InputError, match="which the workers do not see"):
            job.carry(yaml.safe_load(config(tmp_path, **change).read_text()), tmp_path)
