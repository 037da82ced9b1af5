"""A run seen from outside while it goes: by another process, by its log, by Prometheus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale import journal
from cryoscale.cluster import require_dashboard
from cryoscale.errors import ExtraError
from cryoscale.ledger import Ledger
from cryoscale.metrics import served
from cryoscale.outcome import Progress
from cryoscale.pipeline import run as run_pipeline
from cryoscale.session import View
from tests.forked import Forked
from tests.integration.conftest import TinyRange
from tests.integration.faults import Command
from tests.unit.test_metrics import scrape

MODEL = {"name": "band-ratio"}


def status(out: Path, *more: str) -> list[dict[str, Any]]:
    """What ``cryoscale status --json`` says in a process of its own; a document, or one a look."""
    code, said, complained = Command.start("status", out, "--json", *more).end(timeout_s=120)
    assert code == 0, complained
    return [json.loads(line) for line in said.splitlines()] if more else [json.loads(said)]


def log_of(out: Path) -> list[dict[str, Any]]:
    """The lines of the newest session."""
    newest = max((out / journal.FOLDER).glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def test_a_killed_driver_is_told_as_dead_and_its_log_ended_nothing(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(tiny_range.config(model=MODEL)))
    (out / "ledger").mkdir(parents=True)
    (out / journal.FOLDER).write_text("a file where the log's folder should be")
    command = ["run", config, "--out", out, "--log", tmp_path / "own.jsonl"]
    driver = Forked("cryoscale", *command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not Ledger(str(out)).count_done() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    said = driver.communicate()[1]
    assert Ledger(str(out)).count_done(), said
    assert said.count("the log cannot be written") == 1

    told = status(out)[0]["driver"]
    assert (told["state"], told["pid"]) == ("died", driver.pid)
    looks = status(out, "--watch")
    assert len(looks) == 1, "nobody drives it: there is nothing to wait for"
    assert looks[0]["done"] == Ledger(str(out)).count_done()
    text = (tmp_path / "own.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in text]
    assert {"session_began", "planned", "actor_started", "warning"} <= set(events)
    assert "session_ended" not in events


def test_a_run_is_seen_by_another_process_its_log_and_prometheus(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    seen: list[dict[str, Any]] = []
    actors: list[str] = []
    scraped: dict[tuple[str, ...], float] = {}
    of_actor: dict[tuple[str, ...], float] = {}

    with served("127.0.0.1", 0) as (metrics, address):

        def on_event(name: str, facts: Any) -> None:
            metrics.event(name, facts)
            if name == "actor_started":
                actors.append(facts["metrics"])

        def look(state: Progress) -> None:
            if state.done == 1:
                seen.extend(status(out))
            if state.done == state.total:
                scraped.update(scrape(address))
                of_actor.update(scrape(actors[0]))

        outcome = run_pipeline(
            tiny_range.settings(model=MODEL),
            str(out),
            on_progress=look,
            on_event=on_event,
            view=View(metrics=address),
        )

    total = outcome.computed
    assert outcome.exit_code == 0
    (told,) = seen
    assert (told["driver"]["state"], told["driver"]["pid"]) == ("driven", os.getpid())
    assert told["driver"]["facts"]["metrics"] == address
    assert told["driver"]["facts"]["total"] == told["total"] == total
    assert 1 <= told["done"] <= total

    assert scraped["cryoscale_blocks_planned",] == scraped["cryoscale_blocks_total", "done"] == total
    assert scraped["cryoscale_pixels_total",] == outcome.pixels
    assert scraped["cryoscale_block_seconds_count",] == total
    assert of_actor["cryoscale_actor_blocks_total",] == total
    assert of_actor["cryoscale_actor_busy_seconds_total",] > 0

    lines = log_of(out)
    named = [line["event"] for line in lines]
    assert (named[0], named[-1]) == ("stage", "session_ended")
    blocks = [line for line in lines if line["event"] == "block"]
    assert len(blocks) == lines[-1]["computed"] == total
    assert sum(line["pixels"] for line in blocks) == lines[-1]["pixels"] == outcome.pixels
    assert lines[-1]["reason"] == "finished"
    began = lines[named.index("session_began")]
    assert (began["pid"], began["options"]["name"]) == (os.getpid(), "tiny")
    assert "distributed" in began["versions"]

    after = status(out, "--watch")
    assert [(frame["done"], frame["driver"]["state"]) for frame in after] == [(total, "finished")]


def test_a_dashboard_without_its_library_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed.dashboard.scheduler", None)
    with pytest.raises(ExtraError, match=r"cryoscale\[dashboard\]"):
        require_dashboard()
