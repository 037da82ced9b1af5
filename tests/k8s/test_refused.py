"""What Kubernetes does not give: the driver says in one line what it is, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import TinyRange
from tests.integration.faults import few_blocks
from tests.k8s.lab import Lab
from tests.k8s.runs import NAMESPACE, Ended, Site, store

CLUSTERS = f"/apis/kubernetes.dask.org/v1/namespaces/{NAMESPACE}/daskclusters"
WAIT_S = 40


@pytest.fixture(scope="module")
def ends(lab: Lab, s3_process: tuple[str, int], tiny_range: TinyRange) -> Iterator[dict[str, Ended]]:
    """Three drivers at once, each with something that is not there."""
    with store(s3_process) as s3:
        site = Site.prepare(lab, s3, tiny_range)
        hard = {"hard": {"requests.nvidia.com/gpu": "0"}}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": hard}
        lab.apply(quota, namespace=NAMESPACE)
        wanted = {
            "quota": ({}, {}),
            "image": ({"image": "cryoscale:0.0.9"}, {}),
            "rights": ({}, {"serviceAccountName": "cryoscale-worker"}),
        }
        for name, (cluster, change) in wanted.items():
            asked = {"name": name, "cpu_workers": 1, "wait_s": WAIT_S, **cluster}
            site.submit(name, site.config(few_blocks(tiny_range), **asked), s3.url(name), change)
        yield {name: site.end(name) for name in wanted}
        lab.api.delete(f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/none")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quota", ("exceeded quota: none", "requests.nvidia.com/gpu")),
        ("image", ("cryoscale:0.0.9", "Back-off pulling image")),
        ("rights", ("rights that are too narrow", "cryoscale-worker", "daskclusters")),
    ],
)
def test_the_driver_ends_with_one_line_that_names_what_is_missing(
    ends: dict[str, Ended], lab: Lab, name: str, words: tuple[str, ...]
) -> None:
    ended = ends[name]
    assert ended.codes[-1] == 2
    assert "Traceback" not in ended.said
    assert all(word in ended.last_line for word in words), ended.last_line
    lab.wait("nothing left", lambda: name not in {one["metadata"]["name"] for one in lab.api.items(CLUSTERS)})
