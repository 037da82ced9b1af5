"""Manifests: every folder renders, and a strict API server would take what comes out."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cryoscale.cluster import run_label
from cryoscale.config import parse_config
from cryoscale.drive import DRAIN_S
from tests.deploy.rendered import (
    COMPONENTS,
    JOBS,
    K8S,
    ROOT,
    WHOLE,
    Document,
    chart,
    deployments,
    named,
    of_kind,
    pods,
    render,
    rendered,
    title,
    with_components,
)

VERSION = "1.37"
"""Of Kubernetes, whose schemas the built-in kinds are held against."""


def strict(schema: Any) -> Any:
    """An OpenAPI schema of a CRD as a JSON schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", bool(made.get("x-kubernetes-preserve-unknown-fields")))
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return made


@pytest.fixture(scope="module")
def dask_kinds() -> dict[str, jsonschema.Draft7Validator]:
    """Validators of Dask's kinds, out of the operator's chart."""
    made = {}
    for path in (chart() / "crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        schema = strict(definition["versions"][0]["schema"]["openAPIV3Schema"])
        schema["properties"].update(metadata={"type": "object"}, apiVersion={}, kind={})
        made[definition["names"]["kind"]] = jsonschema.Draft7Validator(schema)
    return made


def prometheus_faults(document: Document) -> list[str]:
    """What the Prometheus operator's models drop or refuse: what they do not know they leave out."""
    from cloudcoil.models.prometheus_operator import v1

    model = getattr(v1, document["kind"]).model_validate(document)
    kept = model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return [] if kept == document else [f"not kept: {document} became {kept}"]


@functools.cache  # most documents are the same in many folders, and each takes the reading of all schemas
def built_in_faults(document: str) -> list[str]:
    """What strict validation has against a document (JSON) of Kubernetes' own kinds."""
    try:
        kubernetes_validate.validate(json.loads(document), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{list(error.absolute_path)}: {error.message}"]
    return []


def faults(documents: list[Document], dask_kinds: dict[str, jsonschema.Draft7Validator]) -> list[str]:
    """What strict validation has against them."""
    found = []
    for one in documents:
        if one["kind"] in dask_kinds:
            errors = [
                f"{list(e.absolute_path)}: {e.message}" for e in dask_kinds[one["kind"]].iter_errors(one)
            ]
            made = deployments(one)
        elif one["apiVersion"].startswith("monitoring.coreos.com/"):
            errors, made = prometheus_faults(one), []
        else:
            errors, made = [], [one]
        for built_in in made:
            errors += built_in_faults(json.dumps(built_in))
        found += [f"{title(one)}: {error}" for error in errors]
    return found


@pytest.mark.parametrize("folder", WHOLE)
def test_every_folder_renders_to_what_a_strict_server_takes(folder: str, dask_kinds: Any) -> None:
    documents = rendered(folder)
    assert documents
    assert faults(documents, dask_kinds) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where manifests are tried out."""
    return tmp_path_factory.mktemp("manifests")


@pytest.fixture(scope="module")
def plain(place: Path) -> list[Document]:
    """Base and jobs as they are."""
    return with_components(place)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_changes_something_and_stays_valid(
    component: str, dask_kinds: Any, place: Path, plain: list[Document]
) -> None:
    changed = [one for one in with_components(place, component) if one not in plain]
    assert faults(changed, dask_kinds) == []
    # the registry is left as it is until somebody names theirs
    assert changed or component == "site"
    touched = {title(one) for one in changed}
    if not component.startswith("overlays/"):  # what holds for a run holds for that of every year
        assert ("Job/cryoscale-run" in touched) == ("CronJob/cryoscale-yearly" in touched)


def test_a_field_that_nobody_knows_is_refused(dask_kinds: Any) -> None:
    """The check itself: a typing error in a built-in kind, in Dask's, in one of its pods and in a monitor."""
    documents = rendered("base")
    named(documents, "PodDisruptionBudget", "cryoscale-gpu")["spec"]["maxUnavailible"] = 1
    named(documents, "DaskCluster", "cryoscale")["spec"]["idleTimeOut"] = 1
    group = named(documents, "DaskWorkerGroup", "cryoscale-gpu")
    group["spec"]["worker"]["spec"]["containers"][0]["livenesProbe"] = {}
    monitor = of_kind(rendered("overlays/prod"), "ServiceMonitor")[0]
    monitor["spec"]["endpoint"] = []
    found = "\n".join(faults([*documents, monitor], dask_kinds))
    for name in ("maxUnavailible", "idleTimeOut", "livenesProbe", "ServiceMonitor"):
        assert name in found


def test_a_registry_is_named_in_one_place_and_reaches_every_container(tmp_path: Path) -> None:
    """Images of Dask's kinds as well, of which kustomize does not know that they hold pods."""
    shutil.copytree(K8S, tmp_path / "k8s")
    site = tmp_path / "k8s/site/kustomization.yaml"
    text = site.read_text()
    assert text.count("newName: cryoscale") == 2
    site.write_text(text.replace("newName: cryoscale", "newName: registry.example/team/cryoscale"))
    for folder in ("overlays/prod", "overlays/dev", "overlays/prod/run", *JOBS):
        for pod in pods(render(tmp_path / "k8s" / folder)):
            for container in pod.containers:
                assert container["image"].startswith("registry.example/team/cryoscale"), pod.owner["metadata"]


def names(documents: list[Document], kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in of_kind(documents, kind)}


@pytest.mark.parametrize("folder", WHOLE)
def test_whatever_a_manifest_refers_to_is_there_or_said_to_be_optional(folder: str) -> None:
    """Jobs stand on the foundation and on the slices' ConfigMap; no Secret has to be there."""
    documents = rendered(folder)
    around = documents + rendered("foundation") + rendered("cluster") + rendered("jobs/slices")
    configs = {one["metadata"]["name"]: one for one in of_kind(around, "ConfigMap")}
    for pod in pods(documents):
        where = title(pod.owner)
        assert pod.spec["serviceAccountName"] in names(around, "ServiceAccount"), where
        assert pod.spec["priorityClassName"] in names(around, "PriorityClass"), where
        for volume in pod.spec.get("volumes", ()):
            assert "secret" not in volume, where
            assert "hostPath" not in volume, where
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs, where
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names(around, "PersistentVolumeClaim")
        mounts = {one["name"] for one in pod.spec.get("volumes", ())}
        for container in pod.containers:
            assert {one["name"] for one in container.get("volumeMounts", ())} <= mounts, where
            for source in container.get("envFrom", ()):
                assert source == {"secretRef": {"name": "cryoscale-store", "optional": True}}, where
            for variable in container.get("env", ()):
                source = variable.get("valueFrom", {})
                assert set(source) <= {"fieldRef", "configMapKeyRef"}, (where, variable)
                if "configMapKeyRef" in source:
                    reference = source["configMapKeyRef"]
                    assert reference["key"] in configs[reference["name"]]["data"], (where, variable)


def test_no_manifest_holds_a_secret_and_the_example_is_none() -> None:
    for folder in WHOLE:
        assert of_kind(rendered(folder), "Secret") == []
    (example,) = yaml.safe_load_all((K8S / "examples/secret.yaml").read_text())
    assert all("REPLACE-ME" in value for value in example["stringData"].values())
    assert example["metadata"]["name"] == "cryoscale-store"
    kubernetes_validate.validate(example, VERSION, strict=True)


def test_what_belongs_to_the_whole_cluster_lies_apart() -> None:
    """Who may apply the rest needs rights in one namespace alone."""
    wide = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert {one["kind"] for one in rendered("cluster")} == {"Namespace", "PriorityClass"}
    for folder in WHOLE:
        if folder != "cluster":
            for one in rendered(folder):
                assert one["kind"] not in wide, folder
                assert one["metadata"]["namespace"] == "cryoscale", (folder, title(one))


def test_the_submitter_may_do_what_it_needs_and_no_more() -> None:
    """No secrets, no pods of its own making, no wildcard, nothing outside the namespace."""
    base = rendered("base")
    rights = rights_of(named(base, "Role", "cryoscale-submitter"))
    reading = {"get", "list", "watch"}
    assert "*" not in str(rights)
    changing = {key: verbs - reading for key, verbs in rights.items() if verbs - reading}
    assert changing == {
        ("kubernetes.dask.org", "daskclusters"): {"create", "patch", "delete"},
        ("kubernetes.dask.org", "daskworkergroups"): {"create", "patch", "delete"},
        ("apps", "deployments"): {"delete"},
    }
    assert not {"secrets", "serviceaccounts", "configmaps"} & {resource for _, resource in rights}
    (binding,) = of_kind(base, "RoleBinding")
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", "cryoscale-submitter")
    assert binding["roleRef"]["name"] == "cryoscale-submitter"


def rights_of(role: Document) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_a_person_may_submit_and_follow_and_read_no_secret() -> None:
    base = rendered("base")
    rights = rights_of(named(base, "Role", "cryoscale-user"))
    assert {"create", "delete"} <= rights["batch", "jobs"]
    assert rights["", "pods/log"] == {"get", "list", "watch"}
    assert not {"secrets", "serviceaccounts", "rolebindings", "pods/exec"} & {name for _, name in rights}
    bound = {one["roleRef"]["name"] for one in of_kind(base, "RoleBinding")}
    assert bound == {"cryoscale-submitter"}  # whom to let in is not ours to say


@pytest.mark.parametrize(
    ("budget", "component"),
    [("cryoscale-scheduler", "scheduler"), ("cryoscale-cpu", "cpu-worker"), ("cryoscale-gpu", "gpu-worker")],
)
def test_each_disruption_budget_covers_one_kind_of_pods(budget: str, component: str) -> None:
    documents = rendered("base")
    wanted = named(documents, "PodDisruptionBudget", budget)["spec"]["selector"]["matchLabels"]
    covered = [
        pod.labels["app.kubernetes.io/component"]
        for pod in pods(documents + rendered("jobs/run"))
        if wanted.items() <= pod.labels.items()
    ]
    assert covered == [component]


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/prod"])
def test_the_quota_has_room_for_what_an_overlay_starts(folder: str) -> None:
    """Scheduler, workers at the overlay's most, and the driver."""
    documents = rendered(folder)
    (quota,) = of_kind(documents, "ResourceQuota")
    config = yaml.safe_load(named(documents, "ConfigMap", "cryoscale-config")["data"]["run.yaml"])
    counts = {
        "cpu-worker": config["cluster"]["cpu_workers"],
        "gpu-worker": config["cluster"]["gpu_workers"] or 1,
    }
    asked: dict[str, float] = {}
    for pod in pods(documents + rendered(f"{folder}/run")):
        count = counts.get(pod.labels["app.kubernetes.io/component"], 1)
        for container in pod.spec["containers"]:
            for side in ("requests", "limits"):
                for name, value in container["resources"][side].items():
                    asked[f"{side}.{name}"] = asked.get(f"{side}.{name}", 0) + count * quantity(value)
    for name, most in quota["spec"]["hard"].items():
        assert asked.get(name, 0) <= quantity(most), name


def quantity(text: str) -> float:
    """A quantity of Kubernetes in its own unit."""
    for suffix, factor in (("Gi", 2.0**30), ("Mi", 2.0**20), ("m", 1e-3)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


@pytest.mark.parametrize("folder", ["foundation", "overlays/prod", "jobs/slices", "jobs/yearly"])
def test_the_configuration_in_a_configmap_is_one_that_cryoscale_takes(folder: str) -> None:
    configs = [one for one in of_kind(rendered(folder), "ConfigMap") if "run.yaml" in one["data"]]
    assert len(configs) == 1
    text = configs[0]["data"]["run.yaml"].replace("YEAR", "2026")
    config = parse_config(yaml.safe_load(text), folder)
    assert config.cluster.kind == ("local" if folder == "jobs/slices" else "kubernetes")


def test_the_slices_map_what_the_run_maps() -> None:
    """They may go on with each other's output, which takes the same configuration but for ``cluster``."""
    run, slices = (
        yaml.safe_load(named(rendered(folder), "ConfigMap", name)["data"]["run.yaml"])
        for folder, name in (("foundation", "cryoscale-config"), ("jobs/slices", "cryoscale-slices"))
    )
    assert {**run, "cluster": None} == {**slices, "cluster": None}


@pytest.mark.parametrize("folder", ["jobs/run", "jobs/slices", "jobs/finish", "overlays/prod/run"])
def test_a_job_is_labelled_with_the_run_that_it_drives(folder: str) -> None:
    out = named(rendered("foundation"), "ConfigMap", "cryoscale-config")["data"]["out"]
    (job,) = of_kind(rendered(folder), "Job")
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels["cryoscale.dev/run"] == run_label(out) == hashlib.sha256(out.encode()).hexdigest()[:16]


def test_the_weights_that_are_baked_are_those_of_the_package() -> None:
    data = named(rendered("foundation"), "ConfigMap", "cryoscale-config")["data"]
    inside = data["weights_from"].partition("site-packages/")[2]
    digest = hashlib.sha256((ROOT / inside).read_bytes()).hexdigest()
    assert data["weights_sha256"] == digest
    (version,) = re.findall(r"ARG PYTHON=python:(3\.\d+)", (ROOT / "deploy/Dockerfile").read_text())
    assert data["weights_from"].startswith(f"/opt/cryoscale/lib/python{version}/site-packages/")


@pytest.mark.parametrize("folder", [*JOBS, "overlays/prod/run"])
def test_a_job_tries_again_what_passes_and_nothing_else(folder: str) -> None:
    """75, a lost node and an eviction are followed by another pod; 2 and 1 are for a person."""
    job = of_kind(rendered(folder), "Job", "CronJob")[0]
    spec = job["spec"]["jobTemplate"]["spec"] if job["kind"] == "CronJob" else job["spec"]
    containers = [one["name"] for pod in pods([job]) for one in pod.containers]
    fails: dict[str, set[int]] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["action"] in ("FailJob", "FailIndex")
            codes = rule["onExitCodes"]
            assert codes["containerName"] in containers  # one that is not there would match nothing, silently
            fails.setdefault(codes["containerName"], set()).update(codes["values"])
        else:
            assert rule["action"] == "Ignore"
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    expected = {2} if folder == "jobs/weights" else {1, 2}
    assert set(map(frozenset, fails.values())) == {frozenset(expected)}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    assert spec["activeDeadlineSeconds"] > 0


def test_one_yearly_run_at_a_time_and_all_of_it_in_one_year() -> None:
    (job,) = of_kind(rendered("jobs/yearly"), "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    minute, hour, day, month, weekday = job["spec"]["schedule"].split()
    assert (minute, hour, weekday) == ("0", "3", "*")
    left_days = {"11": 30 - int(day), "12": -int(day)}[month] + 31
    late_s = (
        job["spec"]["startingDeadlineSeconds"] + job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    )
    assert late_s < left_days * 86_400


def test_what_a_driver_cannot_take_down_goes_with_its_job_and_it_has_time_to() -> None:
    (yearly,) = of_kind(rendered("jobs/yearly"), "CronJob")
    (job,) = of_kind(rendered("jobs/run"), "Job")
    for spec in (yearly["spec"]["jobTemplate"]["spec"], job["spec"]):
        assert 0 < spec["ttlSecondsAfterFinished"] <= 7 * 86_400
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= DRAIN_S + 60


def test_the_number_of_slices_is_said_alike_twice() -> None:
    (job,) = of_kind(rendered("jobs/slices"), "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert told["CRYOSCALE_SLICES"] == str(job["spec"]["completions"])
    assert job["spec"]["parallelism"] <= job["spec"]["completions"]


def test_the_package_and_base_have_one_and_the_same_cluster() -> None:
    """A run makes what a standing cluster is, so that what is checked here holds for both."""
    assert (ROOT / "cryoscale/kube/cluster.yaml").read_text() == (K8S / "base/cluster.yaml").read_text()


def test_a_job_that_is_submitted_ends_and_tries_again_like_the_one_here() -> None:
    submitted = yaml.safe_load((ROOT / "cryoscale/kube/job.yaml").read_text())["spec"]
    (job,) = of_kind(rendered("jobs/run"), "Job")
    for key in ("activeDeadlineSeconds", "ttlSecondsAfterFinished", "podFailurePolicy"):
        assert submitted[key] == job["spec"][key], key
    ours, theirs = job["spec"]["template"]["spec"], submitted["template"]["spec"]
    assert {**ours, "containers": None} == {**theirs, "containers": None}
    (one,), (other,) = ours["containers"], theirs["containers"]
    for key in ("image", "envFrom", "ports", "resources", "securityContext", "volumeMounts"):
        assert one[key] == other[key], key


def test_each_part_of_the_yearly_job_does_its_work_in_the_year_of_its_start(tmp_path: Path) -> None:
    """Its own shell lines, with a program that tells its arguments in the place of cryoscale."""
    (job,) = of_kind(rendered("jobs/yearly"), "CronJob")
    data = named(rendered("jobs/yearly"), "ConfigMap", "cryoscale-yearly")["data"]
    (tmp_path / "config").mkdir()
    (tmp_path / "config/run.yaml").write_text(data["run.yaml"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cryoscale").write_text('#!/bin/sh\necho "$CRYOSCALE_ARCHIVE: $*"\n')
    (tmp_path / "bin/cryoscale").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "CRYOSCALE_OUT": data["out"],
        "CRYOSCALE_ARCHIVE": data["archive"],
        "POD_IP": "10.0.0.1",
    }
    said = {}
    (pod,) = pods([job])
    for container in pod.containers:
        shell, options, script = container["args"]
        script = script.replace("/scratch", str(tmp_path)).replace("/etc/cryoscale", f"{tmp_path}/config")
        said[container["name"]] = subprocess.run(
            [shell, options, script], env=environment, capture_output=True, text=True, check=True
        ).stdout
    year = (tmp_path / "year").read_text().strip()
    assert parse_config(yaml.safe_load((tmp_path / "run.yaml").read_text()), "it").years == [int(year)]
    assert said["run"].split()[1:5] == ["run", f"{tmp_path}/run.yaml", "--out", f"{data['out']}/{year}"]
    assert said["archive"] == f"{data['archive']}: archive add {data['out']}/{year}\n"


@pytest.mark.parametrize("folder", ["base", "overlays/dev", "overlays/prod"])
def test_a_standing_cluster_has_the_gpu_workers_and_the_fewest_cpu_workers_of_its_configuration(
    folder: str,
) -> None:
    documents = rendered(folder)
    text = named(documents, "ConfigMap", "cryoscale-config")["data"]["run.yaml"]
    cluster = parse_config(yaml.safe_load(text), folder).cluster
    group = named(documents, "DaskWorkerGroup", "cryoscale-gpu")
    assert group["spec"]["worker"]["replicas"] == (cluster.gpu_workers or 1)
    made = named(documents, "DaskCluster", "cryoscale")
    assert made["spec"]["worker"]["replicas"] == cluster.cpu_workers_min
