"""NetworkPolicies: who reaches whom, by the rules of Kubernetes.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.rendered import Document, of_kind, pods, rendered, with_components

OURS = "cryoscale"


@dataclass(frozen=True)
class Peer:
    """A pod, or an address where ``address`` is given."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = OURS
    address: str = ""


def ours(component: str) -> Peer:
    return Peer({"app.kubernetes.io/name": "cryoscale", "app.kubernetes.io/component": component})


OPERATOR = Peer({"app.kubernetes.io/name": "dask-kubernetes-operator"}, "dask-operator")
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring")
STRANGER = Peer({"app.kubernetes.io/name": "dask-kubernetes-operator"}, "default")
DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")
STORE = Peer(address="52.218.0.1")
INNER = Peer(address="10.1.2.3")
METADATA = Peer(address="169.254.169.254")
DRIVERS = [ours("submitter"), ours("slice"), ours("bake")]
WORKERS = [ours("cpu-worker"), ours("gpu-worker")]


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    selector = selector or {}
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def is_one_of(peer: Peer, rules: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the ``from`` or ``to`` of a policy of ours takes the peer."""
    for rule in rules:
        if "ipBlock" in rule:
            if not peer.address:
                continue
            address = ipaddress.ip_address(peer.address)
            block = rule["ipBlock"]
            inside = address in ipaddress.ip_network(block["cidr"])
            if inside and not any(address in ipaddress.ip_network(one) for one in block.get("except", ())):
                return True
        elif not peer.address:
            spaces = rule.get("namespaceSelector")
            there = (
                peer.namespace == OURS
                if spaces is None
                else selects(spaces, {"kubernetes.io/metadata.name": peer.namespace})
            )
            if there and selects(rule.get("podSelector"), peer.labels):
                return True
    return False


def let_through(
    policies: Sequence[Document], side: str, own: Peer, other: Peer, port: int, udp: bool
) -> bool:
    """Whether one side of a connection is open: all is, where no policy selects the pod for that side."""
    if own.namespace != OURS or own.address:
        return True
    chosen = [
        one["spec"]
        for one in policies
        if side in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], own.labels)
    ]
    if not chosen:
        return True
    key, end = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}[side]
    wanted = {"protocol": "UDP" if udp else "TCP", "port": port}
    return any(
        (end not in rule or is_one_of(other, rule[end])) and ("ports" not in rule or wanted in rule["ports"])
        for spec in chosen
        for rule in spec.get(key, ())
    )


def reaches(
    policies: Sequence[Document], source: Peer, target: Peer, port: int, *, udp: bool = False
) -> bool:
    """Whether ``source`` can connect to ``target``."""
    return let_through(policies, "Egress", source, target, port, udp) and let_through(
        policies, "Ingress", target, source, port, udp
    )


@pytest.fixture(scope="module")
def base() -> list[Document]:
    """The policies of base."""
    return of_kind(rendered("base"), "NetworkPolicy")


def test_workers_driver_and_operator_reach_the_scheduler_and_nobody_else_does(base: list[Document]) -> None:
    scheduler = ours("scheduler")
    for one in (*WORKERS, ours("submitter"), OPERATOR):
        assert reaches(base, one, scheduler, 8786)
    for one in (STRANGER, PROMETHEUS, INNER, STORE, ours("slice"), ours("bake"), ours("unknown")):
        assert not reaches(base, one, scheduler, 8786), one


def test_the_schedulers_http_interface_is_closed_to_all_but_the_operator(base: list[Document]) -> None:
    """It closes workers for anybody who asks."""
    scheduler = ours("scheduler")
    assert reaches(base, OPERATOR, scheduler, 8787)
    for one in (*DRIVERS, STRANGER, PROMETHEUS, INNER, STORE, ours("unknown")):
        assert not reaches(base, one, scheduler, 8787), one


def test_prometheus_reads_metrics_only_where_monitoring_is_taken(base: list[Document]) -> None:
    monitored = of_kind(rendered("overlays/prod"), "NetworkPolicy")
    seen = [(ours("scheduler"), 8787), *((one, 8788) for one in WORKERS), (ours("submitter"), 9100)]
    for target, port in seen:
        assert reaches(monitored, PROMETHEUS, target, port)
        assert not reaches(monitored, STRANGER, target, port)
        assert not reaches(base, PROMETHEUS, target, port)
    assert not reaches(monitored, PROMETHEUS, ours("scheduler"), 8786)


def test_driver_and_workers_reach_every_worker_on_whatever_port_it_has(base: list[Document]) -> None:
    for source in (ours("submitter"), ours("scheduler"), *WORKERS):
        for target in WORKERS:
            assert reaches(base, source, target, 38_123), (source, target)
    for source in (ours("slice"), ours("bake"), STRANGER, OPERATOR):
        assert not reaches(base, source, WORKERS[0], 38_123), source


def test_whoever_reads_imagery_reaches_the_store_and_no_inner_address(base: list[Document]) -> None:
    for source in (*WORKERS, *DRIVERS):
        assert reaches(base, source, STORE, 443)
        assert not reaches(base, source, STORE, 80)
        assert not reaches(base, source, METADATA, 80)  # whose answers are the node's own rights
        assert reaches(base, source, DNS, 53, udp=True)
        assert reaches(base, source, INNER, 443) is (source == ours("submitter"))  # the API server
    assert not reaches(base, ours("scheduler"), STORE, 443)
    assert not reaches(base, ours("unknown"), STORE, 443)


@pytest.mark.parametrize(
    ("component", "agent"), [("aws", "169.254.170.23"), ("gcp", "169.254.169.254"), ("azure", "52.218.0.1")]
)
def test_each_workload_identity_reaches_who_gives_it_its_token(
    component: str, agent: str, tmp_path: Path
) -> None:
    policies = of_kind(with_components(tmp_path, f"components/{component}"), "NetworkPolicy")
    port = 443 if component == "azure" else 80
    assert reaches(policies, ours("gpu-worker"), Peer(address=agent), port)
    assert not reaches(policies, ours("scheduler"), Peer(address=agent), port)


def test_every_pod_of_ours_is_one_that_the_policies_know() -> None:
    known = {"scheduler", "cpu-worker", "gpu-worker", "submitter", "slice", "bake"}
    folders = ("base", "jobs/run", "jobs/slices", "jobs/finish", "jobs/yearly", "jobs/weights")
    found = {pod.labels["app.kubernetes.io/component"] for name in folders for pod in pods(rendered(name))}
    assert found == known


def test_the_policies_are_for_the_names_that_the_operator_gives(base: list[Document]) -> None:
    """Its labels are those of the chart, and its pods that of its values."""
    from tests.deploy.rendered import chart

    assert (chart() / "Chart.yaml").read_text().count("name: dask-kubernetes-operator") == 1
    helpers = (chart() / "templates/_helpers.tpl").read_text()
    assert 'app.kubernetes.io/name: {{ include "dask_kubernetes_operator.name" . }}' in helpers
