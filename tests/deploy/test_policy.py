"""A policy checker has nothing against what is rendered, beyond what k8s/policy.yaml gives a reason for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.rendered import (
    COMPONENTS,
    K8S,
    ROOT,
    WHOLE,
    Document,
    deployments,
    rendered,
    with_components,
)


def checkov() -> str:
    """Its command; it pins libraries that cryoscale has newer, and wants an environment of its own."""
    found = os.environ.get("CRYOSCALE_CHECKOV") or shutil.which("checkov")
    if not found:
        pytest.skip("there is no checkov: pip install it elsewhere and name it by CRYOSCALE_CHECKOV")
    return found


def as_made(documents: list[Document]) -> list[Document]:
    """With Dask's kinds as Deployments."""
    dask = ("DaskCluster", "DaskWorkerGroup")
    return [one for one in documents if one["kind"] not in dask] + [
        {**made, "metadata": {**made["metadata"], "namespace": "cryoscale"}}
        for one in documents
        if one["kind"] in dask
        for made in deployments(one)
    ]


def scan(folder: Path) -> tuple[int, list[str]]:
    """How many rules were kept, and those that were not."""
    command = [checkov(), "--config-file", str(K8S / "policy.yaml"), "-d", str(folder), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    told = json.loads(done.stdout)
    reports = told if isinstance(told, list) else [told]
    failed = [
        f"{one['check_id']} {one['check_name']}: {one['resource']}"
        for report in reports
        for one in report["results"]["failed_checks"]
    ]
    assert not any(report["summary"]["parsing_errors"] for report in reports)
    return sum(report["summary"]["passed"] for report in reports), failed


def test_nothing_that_is_rendered_breaks_a_rule_without_a_reason(tmp_path: Path) -> None:
    sets = [rendered(folder) for folder in WHOLE]
    sets += [with_components(tmp_path, component) for component in COMPONENTS]
    # most are the same in many folders
    unique = {json.dumps(one): one for documents in sets for one in as_made(documents)}
    scanned = tmp_path / "scanned"
    scanned.mkdir()
    (scanned / "all.yaml").write_text(yaml.dump_all(unique.values(), Dumper=yaml.CSafeDumper))
    for name in ("Dockerfile", "Dockerfile.gpu"):
        shutil.copy(ROOT / "deploy" / name, scanned)
    kept, failed = scan(scanned)
    assert failed == []
    assert kept > 1000


def test_the_scan_finds_a_container_with_privileges(tmp_path: Path) -> None:
    (job,) = rendered("jobs/run")
    security = job["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    security.update(allowPrivilegeEscalation=True, privileged=True)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    _, failed = scan(tmp_path)  # it stands without its NetworkPolicies there
    assert {one.split()[0] for one in failed} == {"CKV_K8S_16", "CKV_K8S_20", "CKV2_K8S_6"}
