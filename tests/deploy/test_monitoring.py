"""Monitoring: every query parses and asks for what cryoscale and Dask show, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from cryoscale.infer.metrics import COUNTERS
from cryoscale.metrics import RunMetrics
from tests.deploy.rendered import Document, named, of_kind, pods, rendered

SCRAPED = {"namespace", "pod", "container", "instance", "job"}
"""Labels that the Prometheus operator adds to all that it reads."""


@pytest.fixture(scope="module")
def monitoring() -> list[Document]:
    return rendered("overlays/prod")


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """Every series of the driver and of actors, with its labels."""
    found: dict[str, set[str]] = {"cryoscale_actor_load_seconds": set()}
    ends = {
        "counter": ["_total"],
        "histogram": ["_bucket", "_sum", "_count"],
        "gauge": [""],
        "info": ["_info"],
    }
    own = RunMetrics()
    for metric in vars(own).values():
        if hasattr(metric, "describe") and hasattr(metric, "_labelnames"):
            (family,) = metric.describe()
            labels = set(metric._labelnames)
            if family.type == "info":
                own.event("session_began", SESSION)
                (family,) = metric.collect()
                labels = set(family.samples[0].labels)
            for end in ends[family.type]:
                found[f"{family.name}{end}"] = labels | ({"le"} if end == "_bucket" else set())
    found |= {f"{name}_total": set() for name, _ in COUNTERS.values()}
    return found | dask_metrics()


SESSION = {
    "session": "s",
    "host": "h",
    "pid": 1,
    "versions": {"cryoscale": "0.1.0"},
    "options": {"name": "r"},
}


def dask_metrics() -> dict[str, set[str]]:
    """Those that Dask's own pages are written with, read from its source."""
    import distributed

    found = {}
    for role in ("scheduler", "worker"):
        text = (Path(distributed.__file__).parent / f"http/{role}/prometheus/core.py").read_text()
        calls = re.findall(
            r'build_name\("(\w+)"\),\s*"[^"]*"(?:\s*"[^"]*")*,(?:\s*labels=\[([^\]]*)\])?', text
        )
        found |= {f"dask_{role}_{name}": set(re.findall(r'"(\w+)"', labels)) for name, labels in calls}
    return found


def queries(documents: list[Document]) -> Iterator[str]:
    """All that the dashboard and the alerts ask, with the dashboard's variables filled in."""
    board = json.loads(named(documents, "ConfigMap", "cryoscale-dashboard")["data"]["cryoscale.json"])
    names = [one["name"] for one in board["templating"]["list"]]
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            texts.append(re.fullmatch(r"label_values\((.*), \w+\)", one["query"])[1])  # type: ignore[index]
    for rules in of_kind(documents, "PrometheusRule"):
        texts += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    for text in texts:
        for name in names:
            text = text.replace(f"${name}", "x")
        assert "$" not in text
        yield text


def selectors(tree: Any) -> Iterator[Any]:
    """The series that a parsed query reads."""
    found: list[Any] = []
    promql_parser.walk(tree, lambda node: found.append(node) or True)
    yield from (one for one in found if isinstance(one, promql_parser.VectorSelector))


def test_every_series_that_is_asked_for_is_shown_with_these_labels(
    monitoring: list[Document], shown: dict[str, set[str]]
) -> None:
    asked = set()
    for text in queries(monitoring):
        for one in selectors(promql_parser.parse(text)):
            assert one.name in shown, text
            labels = {matcher.name for matcher in one.matchers.matchers}
            assert labels <= shown[one.name] | SCRAPED, text
            asked.add(one.name)
    ours = {name for name in shown if name.startswith("cryoscale_") and not name.endswith(("_sum", "_count"))}
    left_out = {
        "cryoscale_actor_blocks_total",
        "cryoscale_actor_pixels_total",
        "cryoscale_actor_tiles_skipped_total",
    }
    assert ours - asked == left_out


def test_the_check_finds_a_series_that_nobody_shows(shown: dict[str, set[str]]) -> None:
    (one,) = selectors(promql_parser.parse("sum(rate(cryoscale_blocks[5m]))"))
    assert one.name == "cryoscale_blocks"
    assert one.name not in shown


def test_every_monitor_finds_its_pods_and_their_port(monitoring: list[Document]) -> None:
    jobs = [*rendered("overlays/prod/run"), *rendered("jobs/slices"), *rendered("jobs/yearly")]
    made = list(pods(monitoring + jobs))
    seen = set()
    for monitor in of_kind(monitoring, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        for pod in made:
            if chosen(monitor["spec"]["selector"], pod.labels):
                ports = [port["name"] for one in pod.containers for port in one.get("ports", ())]
                assert endpoint["port"] in ports, pod.labels
                seen.add(pod.labels["app.kubernetes.io/component"])
    assert seen == {"cpu-worker", "gpu-worker", "submitter", "slice"}
    (service_monitor,) = of_kind(monitoring, "ServiceMonitor")
    cluster = named(monitoring, "DaskCluster", "cryoscale")
    # what the operator gives the Service: the cluster's labels, the scheduler's, and its own
    labels = {**cluster["metadata"]["labels"], "dask.org/component": "scheduler"}
    assert chosen(service_monitor["spec"]["selector"], labels)
    ports = {port["name"] for port in cluster["spec"]["scheduler"]["service"]["ports"]}
    assert service_monitor["spec"]["endpoints"][0]["port"] in ports


def chosen(selector: dict[str, Any], labels: Any) -> bool:
    """Whether a selector takes these labels."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ())
    )


def test_the_dashboard_is_one_that_grafana_places(monitoring: list[Document]) -> None:
    """Panels have a number each and do not lie over each other."""
    board = json.loads(named(monitoring, "ConfigMap", "cryoscale-dashboard")["data"]["cryoscale.json"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
