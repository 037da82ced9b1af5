"""The manifests of ``k8s/`` before a real API server: what it takes and leaves out, and who may do what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.deploy.rendered import COMPONENTS, WHOLE, Document, rendered, with_components
from tests.k8s.lab import Lab
from tests.k8s.runs import NAMESPACE

SUBMITTER, WORKER, DASK = "cryoscale-submitter", "cryoscale-worker", "kubernetes.dask.org"

MAY = [
    ("get", "daskclusters", DASK),
    ("create", "daskclusters", DASK),
    ("patch", "daskclusters", DASK),
    ("delete", "daskclusters", DASK),
    ("create", "daskworkergroups", DASK),
    ("patch", "daskworkergroups", DASK),
    ("list", "pods", ""),
    ("list", "deployments", "apps"),
    ("delete", "deployments", "apps"),
]
MAY_NOT = [
    ("get", "secrets", ""),
    ("list", "secrets", ""),
    ("create", "pods", ""),
    ("delete", "pods", ""),
    ("create", "pods/exec", ""),
    ("create", "deployments", "apps"),
    ("create", "jobs", "batch"),
    ("create", "roles", "rbac.authorization.k8s.io"),
    ("create", "rolebindings", "rbac.authorization.k8s.io"),
    ("impersonate", "users", ""),
]

LEFT_OUT = {
    "CronJob": {"timeZone", "podFailurePolicy", "ttlSecondsAfterFinished"},
    "Job": {"podFailurePolicy", "completionMode", "backoffLimitPerIndex", "ttlSecondsAfterFinished"},
    "PodDisruptionBudget": {"unhealthyPodEvictionPolicy"},
}
"""What a server of 1.20 does not know, by the last part of its path: newer ones do."""

ELSEWHERE = {"monitoring.coreos.com"}
"""Kinds of an operator that is not here."""


@pytest.fixture(scope="module")
def applied(lab: Lab) -> Lab:
    """A cluster on which an administrator applied what is his."""
    lab.apply(*rendered("cluster"), *rendered("foundation"))
    return lab


def try_all(lab: Lab, documents: Iterable[Document]) -> None:
    """Have a server check objects, none of which it keeps."""
    for document in documents:
        if document["apiVersion"].split("/")[0] not in ELSEWHERE:
            taken = lab.api.apply(document, NAMESPACE, only_try=True)
            left_out = {path.rsplit(".", 1)[-1] for path in taken.dropped}
            assert left_out <= LEFT_OUT.get(taken.kind, set()), taken.dropped


@pytest.mark.parametrize("folder", WHOLE)
def test_a_real_server_takes_every_object(applied: Lab, folder: str) -> None:
    try_all(applied, rendered(folder))


def test_a_real_server_takes_what_components_make_of_them(applied: Lab, tmp_path: Path) -> None:
    for component in COMPONENTS:
        try_all(applied, with_components(tmp_path, component))


def test_the_submitter_may_do_what_a_run_needs_and_a_worker_nothing(applied: Lab) -> None:
    for verb, resource, group in MAY:
        assert applied.may(SUBMITTER, NAMESPACE, verb, resource, group), (verb, resource)
        assert not applied.may(WORKER, NAMESPACE, verb, resource, group), (verb, resource)
    for verb, resource, group in MAY_NOT:
        assert not applied.may(SUBMITTER, NAMESPACE, verb, resource, group), (verb, resource)
    assert not applied.may(SUBMITTER, "default", "list", "pods")
