"""A run on Kubernetes, undisturbed and with parts taken away from it: the map is that of the local run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import (
    Command,
    bytes_that_differ,
    few_blocks,
    run_to_end,
    write_config,
)
from tests.k8s.lab import NODES, Lab
from tests.k8s.runs import NAMESPACE, Gate, Site, store

STANDING = "standing"


@pytest.fixture(scope="module")
def site(lab: Lab, s3_process: tuple[str, int], tiny_range: TinyRange) -> Iterator[Site]:
    """The namespace as the manifests make it."""
    with store(s3_process) as s3:
        yield Site.prepare(lab, s3, tiny_range)


@pytest.fixture(scope="module")
def standing(site: Site) -> Iterator[Site]:
    """The same with a cluster that stays."""
    site.stand(STANDING)
    yield site
    site.fall(STANDING)


@contextmanager
def half_way(site: Site, name: str) -> Iterator[Gate]:
    """A run by the band ratio on the standing cluster, of which two blocks are done and the others wait."""
    out = site.s3.url(name)
    with Gate(site.s3, 2) as gate:
        away_from_spot = {"nodeSelector": {"pool": "cpu"}}
        site.submit(name, site.config(few_blocks(site.tiny), name=STANDING), out, away_from_spot)
        site.until_done(out, 2)
        yield gate


def test_pods_map_the_range_into_a_store_and_every_byte_is_that_of_the_local_run(
    site: Site, tiny_range: TinyRange, tmp_path: Path
) -> None:
    out, laptop = site.s3.url("whole"), site.laptop()
    config = write_config(tmp_path / "run.yaml", site.config(tiny_range.config()))
    code, said, complained = Command.start(
        "run", config, "--out", out, "--detach", "--json", env=laptop
    ).end()
    assert code == 0, complained
    following = Command.start("logs", out, "--follow", env=laptop)
    run_to_end(write_config(tmp_path / "local.yaml", tiny_range.config()), tmp_path / "local")
    job = json.loads(said)["job"]
    code, told, _ = Command.start("status", out, "--job", env=laptop).end()
    assert code == 0
    assert job in told
    ended = site.end(job)
    assert ended.codes == (0,), ended.last_line
    assert "8 blocks computed" in following.end()[1]
    assert bytes_that_differ(out, tmp_path / "local") == 0
    site.lab.wait("nothing left", lambda: not site.lab.pods(NAMESPACE, "dask.org/cluster-name=cryoscale"))


def test_a_node_that_goes_with_the_actor_loses_nothing(standing: Site, calm: Calm) -> None:
    with half_way(standing, "no-gpu-node") as gate:
        actor = standing.lab.pods(NAMESPACE, f"dask.org/workergroup-name={STANDING}-gpu")[0]
        standing.lab.lose_node(actor["spec"]["nodeName"])
        gate.opened.set()
        ended = standing.end("no-gpu-node")
    standing.lab.add_nodes(NODES)
    assert ended.codes == (0,), ended.last_line
    assert ended.said.count('"event": "actor_lost"') == 1
    assert ended.said.count('"event": "actor_started"') == 2
    assert bytes_that_differ(standing.s3.url("no-gpu-node"), calm.out) == 0


def test_a_worker_on_a_reclaimed_spot_node_finishes_its_blocks_before_it_goes(
    standing: Site, calm: Calm
) -> None:
    lab, chosen = standing.lab, f"dask.org/workergroup-name={STANDING}-default"
    there = {one["spec"]["nodeName"]: one["metadata"]["name"] for one in lab.pods(NAMESPACE, chosen)}
    with half_way(standing, "spot") as gate:
        threading.Timer(2.0, gate.opened.set).start()
        lab.reclaim("spot-b", notice_s=60.0)
        ended = standing.end("spot")
    lab.add_nodes(NODES)
    said = (lab.state / "logs" / NAMESPACE / there["spot-b"] / "worker-0.log").read_text()
    assert "drained: nothing is left to do here" in said
    # the one that takes its place has its name, and waits for it instead of failing
    lab.wait("the former number of workers", lambda: len(lab.ready(NAMESPACE, chosen)) == 2)
    statuses = [one for pod in lab.pods(NAMESPACE, chosen) for one in pod["status"]["containerStatuses"]]
    assert sum(one["restartCount"] for one in statuses) == 0
    assert ended.codes == (0,), ended.last_line
    assert '"event": "failed"' not in ended.said
    assert bytes_that_differ(standing.s3.url("spot"), calm.out) == 0


def test_a_scheduler_that_is_killed_comes_back_empty_and_the_run_goes_on(standing: Site, calm: Calm) -> None:
    lab, chosen = standing.lab, f"dask.org/cluster-name={STANDING},dask.org/component=scheduler"
    with half_way(standing, "no-scheduler") as gate:
        scheduler = lab.ready(NAMESPACE, chosen)[0]
        lab.api.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{scheduler}", 0)
        gate.opened.set()
        ended = standing.end("no-scheduler")
    assert lab.ready(NAMESPACE, chosen) != [scheduler]
    assert ended.codes == (0,), ended.last_line
    assert bytes_that_differ(standing.s3.url("no-scheduler"), calm.out) == 0


def test_a_driver_that_is_evicted_is_followed_by_one_that_goes_on(standing: Site, calm: Calm) -> None:
    with half_way(standing, "evicted") as gate:
        first = standing.driver("evicted")
        assert standing.lab.evict(NAMESPACE, first) < 300
        gate.opened.set()
        ended = standing.end("evicted")
    assert ended.codes == (0,), ended.last_line
    assert "the same command goes on" in ended.said
    hosts = re.findall(r'"event": "session_ended", .*?"host": "([^"]+)"', ended.said)
    assert len(hosts) == 2
    assert hosts[0] == first != hosts[1]
    assert bytes_that_differ(standing.s3.url("evicted"), calm.out) == 0


def test_slices_map_their_shares_without_any_operator(site: Site, calm: Calm) -> None:
    out, config = site.s3.url("slices"), site.config(few_blocks(site.tiny))
    config["cluster"] = {"kind": "local", "cpu_workers": 1}
    names = {f"slice-{number}": f"{number}/2" for number in range(2)}
    for name, slice_ in names.items():
        site.submit(name, config, out, slice_=slice_)
    ends = [site.end(name) for name in names]
    assert [ended.codes for ended in ends] == [(0,), (0,)], ends
    assert bytes_that_differ(out, calm.out) == 0
