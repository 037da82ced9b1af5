"""A run driven in slices: side by side, killed and started again, prepared and finished once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from cryoscale.ledger import Ledger
from cryoscale.slices import Slice
from tests.integration.conftest import Calm
from tests.integration.faults import Command, bytes_that_differ, until
from tests.tables import Table

COUNT = 3


def told(out: Path) -> list[dict[str, Any]]:
    """What all sessions of all slices told."""
    logs = (out / "ledger" / "log").glob("*.jsonl")
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def started(config: Path, out: str | Path, index: int) -> Command:
    """One slice's command."""
    return Command.start("run", config, "--out", out, "--json", "--slice", f"{index}/{COUNT}")


def test_slices_side_by_side_one_of_them_killed_and_started_again_make_the_map_of_one_driver(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    out, ledger = tmp_path / "run", Ledger(str(tmp_path / "run"))
    plan = [marker.key for marker in Ledger(str(calm.out)).markers()]
    shares = [set(Slice(index, COUNT).share(plan)) for index in range(COUNT)]
    commands = [started(calm.config, out, index) for index in range(COUNT)]
    assert until(lambda: bool(shares[1] & ledger.done_works(256)), commands[1])
    commands[1].kill_all()
    commands[1].end()
    kept = shares[1] & ledger.done_works(256)
    commands[1] = started(calm.config, out, 1)
    ends = [command.end() for command in commands]
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    answers = [json.loads(said) for _, said, _ in ends]
    assert [answer["computed"] + answer["skipped"] for answer in answers] == [*map(len, shares)]
    assert answers[1]["skipped"] >= len(kept)
    differ = bytes_that_differ(out, calm.out)
    assert differ == 0
    assert (out / "inventory/2018.parquet").read_bytes() == (calm.out / "inventory/2018.parquet").read_bytes()
    begun = Counter(event["event"] for event in told(out))
    stages = Counter(event["text"] for event in told(out) if event["event"] == "stage")
    assert begun["session_began"] == COUNT + 1
    assert stages["writing the catalogue"] == 1
    # what the killed one had in flight may have been done already, and is not in its log
    assert calm.blocks - 2 <= begun["block"] <= calm.blocks
    repeated = sum(answer["computed"] for answer in answers) + len(kept) - calm.blocks
    faults.add("SIGKILL of one of three slices", 1, max(repeated, 0), differ)
    assert Command.start("verify", out).end()[0] == 0
