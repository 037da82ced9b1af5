"""A run driven in slices: side by side, killed and started again, prepared and finished once."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cryoscale import lease
from cryoscale.cli import main
from cryoscale.config import load_config
from cryoscale.errors import OutputError, StoppedError, UnfinishedError
from cryoscale.ledger import Ledger, SetAside
from cryoscale.pipeline import run
from cryoscale.sealing import is_sealed, seal
from cryoscale.slices import DIVISION, PREPARING, Division, Slice, dissolve
from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import Command, bytes_that_differ, few_blocks, here, until, write_config
from tests.integration.s3 import S3
from tests.made_runs import bare_manifest
from tests.tables import Table

T = TypeVar("T")

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
    assert here("verify", out)[0] == 0


# --- what is done once ------------------------------------------------------------------------------


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and an object store."""
    if request.param == "disk":
        return str(tmp_path / "run")
    s3: S3 = request.getfixturevalue("s3")
    return s3.url("run")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "SILENCE_S", 1.2)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    monkeypatch.setattr("cryoscale.slices.WAIT_S", 0.05)


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """What ``work`` gives in threads that begin at once."""
    gate = threading.Barrier(count)

    def begin(index: int) -> T:
        gate.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


@pytest.mark.usefixtures("_quick")
def test_of_slices_that_come_at_once_one_prepares_and_one_finishes(place: str, calm: Calm) -> None:
    ledger, did, over = Ledger(place), Counter[str](), list[str]()
    markers = list(Ledger(str(calm.out)).markers())

    def prepare() -> str:
        did["prepared"] += 1
        time.sleep(0.5)
        ledger.begin(bare_manifest())
        return "made"

    def finish() -> None:
        if not is_sealed(place, "these blocks"):
            did["finished"] += 1
            until(lambda: len(over) == 3)  # the others have found that it is under way
            seal(place, basis="these blocks")

    def prepared(index: int) -> str:
        division = Division(place, Slice(index, 4))
        return division.prepared(prepare, lambda: "found", lambda text: None, threading.Event())

    def finished(index: int) -> str:
        over.append(Division(place, Slice(index, 4)).finished([marker.key for marker in markers], finish))
        return over[-1]

    assert sorted(together(4, prepared)) == ["found", "found", "found", "made"]
    for marker in markers[1:]:
        ledger.mark(marker)
    assert all("1 of the run's 8 blocks are still for others" in left for left in together(4, finished))
    ledger.mark(markers[0])
    over.clear()
    told = together(4, finished)
    assert (did, told.count("")) == (Counter(prepared=1, finished=1), 1)
    assert all("the rest is under way (" in left for left in told if left)
    assert finished(0) == ""  # started again: there is nothing to do
    assert did["finished"] == 1


@pytest.mark.usefixtures("_quick")
def test_who_dies_while_preparing_is_followed_by_another_that_waited(tmp_path: Path) -> None:
    out, lines = str(tmp_path / "run"), list[str]()
    ledger = Ledger(out)
    with lease.held(out, folder=PREPARING, role="preparing") as dying:
        dying.holder = {**dying.holder, "place": "elsewhere"}
        dying.beat()
        threading.Timer(1.0, dying._over.set).start()  # it falls silent without a word

        def prepare() -> str:
            ledger.begin(bare_manifest())
            return "made"

        made = Division(out, Slice(1, 2)).prepared(prepare, lambda: "found", lines.append, threading.Event())
    assert made == "made"
    assert len(lines) == 1
    assert re.fullmatch(r"waiting until the run is prepared \(process \d+ on .* is preparing\)", lines[0])


@pytest.mark.usefixtures("_quick")
def test_a_slice_that_waits_heeds_that_it_is_told_to_stop(tmp_path: Path) -> None:
    out, stop = str(tmp_path / "run"), threading.Event()
    with lease.held(out, folder=PREPARING, role="preparing"):
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(StoppedError, match="the same command goes on"):
            Division(out, Slice(0, 2)).prepared(lambda: "", lambda: "", lambda text: None, stop)


@pytest.mark.usefixtures("_quick")
def test_slices_exclude_their_like_and_a_driver_of_the_whole_and_no_other(place: str) -> None:
    one, other = Slice(0, 2), Slice(1, 2)
    with lease.held(place, folder=one.lease, role=one.role):
        with lease.held(place, folder=other.lease, role=other.role):
            pass
        for again in ({"folder": one.lease}, {}):
            with pytest.raises(OutputError, match="is driving as slice 0/2; expected a run that nobody"):
                lease.refuse_driven(place, **again)
            with pytest.raises(OutputError, match="is driving as slice 0/2"), lease.held(place, **again):
                pass
    with lease.held(place):
        with pytest.raises(OutputError, match=r"is driving; expected"), lease.held(place, folder=one.lease):
            pass
        with pytest.raises(OutputError, match=r"is driving; expected"):
            Division(place, one).prepared(lambda: "", lambda: "", lambda text: None, threading.Event())


@pytest.mark.usefixtures("_quick")
def test_a_slice_and_a_driver_of_the_whole_that_come_at_once_never_both_drive(tmp_path: Path) -> None:
    ways, driving = ({}, {"folder": Slice(0, 2).lease}), Counter[int]()

    def drive(out: str, index: int) -> None:
        with suppress(OutputError), lease.held(out, **ways[index]):
            driving[index] += 1
            time.sleep(0.05)
            assert sum(driving.values()) == 1
            driving[index] -= 1

    for number in range(10):
        together(2, lambda index, out=str(tmp_path / str(number)): drive(out, index))


@pytest.mark.usefixtures("_quick")
def test_another_number_of_slices_is_refused_until_the_run_is_driven_as_a_whole(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    Ledger(out).put(DIVISION, {"slices": 3, "identity_sha256": "of the run"})
    with lease.held(out, folder=Slice(2, 3).lease):
        pass
    with pytest.raises(OutputError, match=r"given --slice 1/4 of .* driven in 3 slices; expected I/3; give"):
        Division(out, Slice(1, 4)).refuse()
    with lease.held(out):
        dissolve(out)
    Division(out, Slice(1, 4)).refuse()
    assert lease.newest_below(Ledger(out).objects, lease.SLICES) == {}


@pytest.mark.parametrize(
    ("more", "changes", "words"),
    [
        (["--new-run"], {}, "given --slice 0/2 with --new-run; expected one of them"),
        (["--redo", "1,1,2,2"], {}, "given --slice 0/2 with --redo; expected one of them"),
        ([], {"cluster": {"kind": "tcp://127.0.0.1:1"}}, "given --slice 0/2 with cluster kind tcp://"),
    ],
)
def test_what_a_slice_cannot_be_asked_for_is_told_before_anything_is_written(
    tiny_range: TinyRange,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    changes: dict[str, Any],
    words: str,
) -> None:
    config, out = write_config(tmp_path / "run.yaml", few_blocks(tiny_range, **changes)), tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["cryoscale", "run", str(config), "--out", str(out), "--slice", "0/2", *more]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert words in line
    assert not out.exists()


@pytest.mark.usefixtures("_quick")
def test_a_slice_that_is_driven_already_is_to_be_started_again_later(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    part = Slice(1, 2)
    with (
        lease.held(str(tmp_path), folder=part.lease, role=part.role),
        pytest.raises(
            UnfinishedError, match=f"which process {os.getpid()} on .* is driving as slice 1/2"
        ) as told,
    ):
        run(tiny_range.settings(), str(tmp_path), part=part)
    assert told.value.exit_code == 75


def test_a_slice_answers_for_the_blocks_of_its_own_that_are_set_aside(calm: Calm, tmp_path: Path) -> None:
    out, ledger = str(tmp_path / "run"), Ledger(str(tmp_path / "run"))
    shutil.copytree(calm.out, out)
    plan = [marker.key for marker in ledger.markers()]
    broken, undone = (Slice(index, 4).share(plan)[0] for index in (0, 1))
    for year, block in (broken, undone):
        ledger.unmark(year, block)
    year, block = broken
    place = {"year": year, "epsg": block.epsg, "row": block.row, "col": block.col, "size_px": block.size_px}
    ledger.set_aside(
        SetAside(
            **place,
            error="NoDataError",
            reason="no scene",
            attempts=3,
            when="2026-01-01",
            traceback=[],
            scenes=[],
        )
    )
    settings = load_config(calm.config)
    told = [run(settings, out, part=Slice(index, 4)) for index in (0, 2)]
    assert [(one.exit_code, one.skipped, one.computed, len(one.set_aside)) for one in told] == [
        (1, 1, 0, 1),
        (0, 2, 0, 0),
    ]
    assert all("1 of the run's 8 blocks are still for others" in one.left for one in told)
