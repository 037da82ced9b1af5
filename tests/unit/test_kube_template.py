"""The documents of a cluster on Kubernetes, for a run or to stay."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from cryoscale.errors import InputError
from cryoscale.kube.template import documents
from cryoscale.settings import ClusterSpec
from tests.kube_cluster import RUN, SPEC


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


@pytest.mark.parametrize(
    "text", ["a: [", "kind: DaskCluster", "{kind: DaskCluster}\n---\n{kind: DaskWorkerGroup}"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputError, match="one DaskCluster and one DaskWorkerGroup"):
        documents(replace(SPEC, manifest=str(tmp_path / "own.yaml")), "snow", cpu_workers=1)
