"""Metrics of a run: events in, numbers out, served on loopback."""

from __future__ import annotations

import socket
import sys
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cryoscale.errors import ExtraError, InputError
from cryoscale.metrics import served


def scrape(address: str) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def block(**more: Any) -> dict[str, Any]:
    """The facts of a finished block."""
    return {"pixels": 50, "seconds": {"read": 3.0, "predict": 1.0}, "scenes_failed": [], **more}


def test_what_happened_is_what_is_scraped() -> None:
    with served("127.0.0.1", 0) as (metrics, address):
        began = {"session": "abc", "host": "h", "pid": 3, "versions": {}, "options": {"name": "khumbu"}}
        metrics.event("session_began", began)
        metrics.event("planned", {"total": 9, "skipped": 4, "set_aside": 1, "remaining": 4})
        metrics.event("block", block())
        for _ in range(2):  # one scene fails in both, and counts once
            metrics.event("block", block(scenes_failed=[["S2A", "broken"]]))
        metrics.event("failed", {"error": "AssetReadError"})
        metrics.event("set_aside", {"error": "AssetReadError"})
        metrics.event("actor_lost", {"actor": "actor-0"})
        actors = {"actor-0": {"busy_share": 0.75}, "actor-1": {}}
        metrics.event("beat", {"in_flight": 2, "actors_by_state": {"ready": 1}, "actors": actors})
        found = scrape(address)
    assert found["cryoscale_blocks_planned",] == 9
    states = ("done", "skipped", "set_aside")
    assert [found["cryoscale_blocks_total", state] for state in states] == [3, 4, 2]
    assert found["cryoscale_pixels_total",] == 150
    assert found["cryoscale_stage_seconds_total", "read"] == 9
    assert found["cryoscale_block_seconds_sum",] == 12
    assert found["cryoscale_attempts_failed_total", "AssetReadError"] == 2
    assert found["cryoscale_scenes_failed_total",] == 1
    assert found["cryoscale_actors_lost_total",] == 1
    assert found["cryoscale_in_flight",] == 2
    assert found["cryoscale_actors", "ready"] == 1
    assert found["cryoscale_actor_busy_ratio", "actor-0"] == 0.75
    assert found["cryoscale_lease_beats_total",] == 1
    assert ("cryoscale_run_info", "h", "3", "khumbu", "abc", "") in found


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--metrics-port {port}"), served("127.0.0.1", port):
            pass


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ExtraError, match=r"cryoscale\[metrics\]"), served("127.0.0.1", 0):
        pass
