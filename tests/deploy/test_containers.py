"""Containers: without privileges, of our images, with commands that their programs take."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from tests.deploy.rendered import (
    COMPONENTS,
    ROOT,
    WHOLE,
    Document,
    Pod,
    named,
    of_kind,
    pods,
    rendered,
    title,
    with_components,
)

Container = Mapping[str, Any]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Pod, Container]]:
    """Every container of every folder, and of base and jobs with each component."""
    place = tmp_path_factory.mktemp("containers")
    sets = [rendered(folder) for folder in WHOLE]
    sets += [with_components(place, component) for component in COMPONENTS]
    return [(pod, one) for documents in sets for pod in pods(documents) for one in pod.containers]


def variables(container: Container) -> dict[str, str | None]:
    """Those with a value of their own, and the names of the others."""
    return {one["name"]: one.get("value") for one in container.get("env", ())}


def test_no_container_has_privileges_and_none_writes_to_its_root(everything: Any) -> None:
    for pod, container in everything:
        where = (title(pod.owner), container["name"])
        assert pod.spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, where
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.spec.keys(), where
        assert pod.spec["enableServiceLinks"] is False, where
        kinds = {one["name"]: one.keys() - {"name"} for one in pod.spec["volumes"]}
        assert {"/tmp": {"emptyDir"}}.items() <= {
            mount["mountPath"]: kinds[mount["name"]] for mount in container["volumeMounts"]
        }.items(), where
        told = variables(container)
        for name in ("HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "DASK_TEMPORARY_DIRECTORY"):
            assert (told.get(name) or "/tmp/").startswith("/tmp/"), where


def test_only_who_drives_has_a_token_of_the_api_server(everything: Any) -> None:
    for pod, _ in everything:
        driving = pod.labels["app.kubernetes.io/component"] == "submitter"
        account = "cryoscale-submitter" if driving else "cryoscale-worker"
        assert pod.spec["serviceAccountName"] == account, title(pod.owner)
        assert pod.spec["automountServiceAccountToken"] is driving, title(pod.owner)
    for account in of_kind(rendered("foundation"), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_every_container_says_what_it_asks_for_and_may_have_at_most(everything: Any) -> None:
    for pod, container in everything:
        for side in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][side].keys(), title(
                pod.owner
            )


def test_every_image_is_ours_of_this_version(everything: Any) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod, container in everything:
        assert container["image"] in (f"cryoscale:{version}", f"cryoscale-gpu:{version}"), title(pod.owner)
        assert "command" not in container  # the image's own entry point reaps and passes signals on


def test_every_program_takes_the_arguments_that_it_is_given(everything: Any) -> None:
    """Held against the command lines of Dask and of cryoscale themselves."""
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    from cryoscale.cli import app

    ours = typer.main.get_command(app)
    seen = set()
    for pod, container in everything:
        first, *rest = filled(pod, container)
        if first == "dask":
            command: Any = {"scheduler": scheduler, "worker": worker}[rest[0]]
            command.make_context(rest[0], rest[1:])
        elif first == "cryoscale":
            follow(ours, rest)
        elif first == "sh":
            assert rest[0] == "-euc"
            script = rest[1].replace("\\\n", " ")
            for line in script.splitlines():
                if line.startswith("exec cryoscale"):
                    follow(ours, re.sub(r'"?\$\S+( \S+\)\S*)?"?', "1", line).split()[2:])
        else:
            assert first == "python"
            assert rest[0] == "/opt/cryoscale/deploy/bake_weights.py"
        seen.add(" ".join([first, *rest[:1]]))
    assert {"dask scheduler", "dask worker", "cryoscale run", "sh -euc"} <= seen


def follow(command: Any, arguments: list[str]) -> None:
    """Parse without carrying out, through groups of commands."""
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("cryoscale", list(arguments))


def filled(pod: Pod, container: Container) -> list[str]:
    """A container's arguments, with every ``$(NAME)`` replaced; one that nothing sets is an error."""
    told = variables(container)

    def value(found: re.Match[str]) -> str:
        assert found[1] in told, (title(pod.owner), container["name"], found[0])
        return told[found[1]] or ("10.0.0.1" if found[1] == "POD_IP" else "a-value")

    arguments = container["args"]
    if arguments[0] == "sh":
        return list(arguments)
    return [re.sub(r"\$\((\w+)\)", value, one) for one in arguments]


def test_every_setting_of_dask_is_one_that_dask_knows(everything: Any) -> None:
    """A name with a typing error is taken in silence."""
    known = set(keys(defaults("dask/dask.yaml"))) | set(keys(defaults("distributed/distributed.yaml")))
    own = {"worker-name", "scheduler-address"}  # the operator's
    for _, container in everything:
        for name, value in variables(container).items():
            if name.startswith("DASK_"):
                dotted = name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-")
                assert dotted in known | own, name
                assert value


def defaults(path: str) -> Any:
    import distributed

    return yaml.safe_load((Path(distributed.__file__).parents[1] / path).read_text())


def keys(tree: Any, above: str = "") -> Iterator[str]:
    for name, below in tree.items():
        yield f"{above}{name}"
        if isinstance(below, dict):
            yield from keys(below, f"{above}{name}.")


def test_the_scheduler_serves_health_metrics_and_the_operators_interface_alone() -> None:
    import ast
    import importlib

    (scheduler, _) = (pod for pod in pods(of_kind(rendered("base"), "DaskCluster")))
    (container,) = scheduler.containers
    routes = ast.literal_eval(variables(container)["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"] or "")
    served = {route for name in routes for route, *_ in importlib.import_module(name).routes}
    assert {route for route in served if not route.startswith("/api/")} == {"/metrics", "/health"}
    assert "/api/v1/retire_workers" in served


def test_probes_ask_ports_that_are_named(everything: Any) -> None:
    for pod, container in everything:
        named_ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in named_ports, (title(pod.owner), probe)
        serving = container["args"][0] == "dask"
        assert serving == ("livenessProbe" in container)  # what ends by itself is watched by its Job


@pytest.mark.parametrize(("component", "resource"), [("cpu-worker", "CPU=2"), ("gpu-worker", "GPU=1")])
def test_a_worker_drains_before_it_is_killed_and_is_named_as_its_deployment(
    component: str, resource: str
) -> None:
    for pod in pods(rendered("overlays/prod")):
        if pod.labels["app.kubernetes.io/component"] != component:
            continue
        (container,) = pod.spec["containers"]
        told, arguments = variables(container), filled(pod, container)
        assert pod.spec["terminationGracePeriodSeconds"] == int(told["CRYOSCALE_DRAIN_S"] or 0) + 30
        assert arguments[arguments.index("--name") + 1] == pod.owner["metadata"]["name"]
        assert arguments[arguments.index("--resources") + 1] == resource
        threads = int(arguments[arguments.index("--nthreads") + 1])
        assert threads == int(resource[-1])
        assert "--no-nanny" in arguments  # the nanny would be told to end, and kill after its own few seconds
        assert "--nworkers" not in arguments
        assert arguments[arguments.index("--preload") + 1] == "cryoscale.preload"
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            assert told[name] == "1"
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
        assert container["livenessProbe"]["httpGet"]["path"] == "/health"
        break
    else:
        pytest.fail(f"no pod of {component}")


def test_an_actor_has_a_whole_gpu_and_minutes_to_load_its_model() -> None:
    group = named(rendered("base"), "DaskWorkerGroup", "cryoscale-gpu")
    spec = group["spec"]["worker"]["spec"]
    (container,) = spec["containers"]
    # the operator's own schema wants text
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    startup = container["startupProbe"]
    assert startup["httpGet"]["path"] == "/ready"
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    (shared,) = [one for one in spec["volumes"] if one["name"] == "shm"]
    assert shared["emptyDir"]["medium"] == "Memory"
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_without_a_gpu_nothing_asks_for_one() -> None:
    for pod in pods(rendered("overlays/dev") + rendered("overlays/dev/run")):
        assert "nvidia.com" not in str(pod.spec)


def test_the_scheduler_and_the_driver_stay_off_nodes_that_may_be_taken_away() -> None:
    """By the labels of each cloud, where CPU workers go; a node without such a label stays."""
    spot = [
        {"cloud.google.com/gke-spot": "true"},
        {"karpenter.sh/capacity-type": "spot"},
        {"eks.amazonaws.com/capacityType": "SPOT"},
        {"kubernetes.azure.com/scalesetpriority": "spot"},
    ]
    expected = {"scheduler": False, "submitter": False, "cpu-worker": True}
    for pod in pods(rendered("overlays/prod") + rendered("overlays/prod/run")):
        component = pod.labels["app.kubernetes.io/component"]
        if component in expected:
            for node in spot:
                assert fits(pod, node) is expected[component], (component, node)
            assert fits(pod, {"karpenter.sh/capacity-type": "on-demand"}) is not expected[component]
            assert fits(pod, {}) is not expected[component]


def fits(pod: Pod, node: Mapping[str, str]) -> bool:
    """Whether the pod's node affinity lets it on a node with these labels."""
    wanted = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]

    def met(one: Mapping[str, Any]) -> bool:
        holds = node.get(one["key"]) in one["values"]
        return holds if one["operator"] == "In" else not holds

    return any(all(map(met, term["matchExpressions"])) for term in wanted["nodeSelectorTerms"])


def test_an_autoscaler_leaves_pods_with_work_alone() -> None:
    for document in [*rendered("overlays/prod"), *rendered("overlays/prod/run")]:
        if document["kind"] in ("DaskCluster", "DaskWorkerGroup", "Job"):
            for template in templates(document):
                assert template["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def templates(document: Document) -> Iterator[Mapping[str, Any]]:
    """Metadata of the pods that a document leads to."""
    if document["kind"] == "Job":
        yield document["spec"]["template"]["metadata"]
    else:
        for part in ("scheduler", "worker"):
            if part in document["spec"]:
                yield document["spec"][part]["metadata"]


def test_weights_are_proven_before_anything_reads_them() -> None:
    for pod in pods(rendered("overlays/prod") + rendered("overlays/prod/run")):
        if pod.labels["app.kubernetes.io/component"] in ("gpu-worker", "submitter"):
            (fetching,) = pod.spec["initContainers"]
            assert "bake_weights.py" in fetching["args"][1]
            assert "--sha256" in fetching["args"]
            (reading,) = pod.spec["containers"]
            mount = next(one for one in reading["volumeMounts"] if one["name"] == "weights")
            assert mount == {"name": "weights", "mountPath": "/weights", "readOnly": True}
            if pod.labels["app.kubernetes.io/component"] == "gpu-worker":
                assert variables(reading)["CRYOSCALE_WEIGHTS"] == "/weights/model.safetensors"


def test_the_yearly_run_reads_weights_that_were_proven_before_it(tmp_path: Path) -> None:
    (job,) = of_kind(with_components(tmp_path, "components/weights"), "CronJob")
    (pod,) = pods([job])
    assert [one["name"] for one in pod.containers] == ["weights", "year", "run", "archive"]
    mounts = {one["name"]: [mount["mountPath"] for mount in one["volumeMounts"]] for one in pod.containers}
    assert "/weights" in mounts["run"]
    assert "/weights" not in mounts["archive"]
