"""What another terminal sees: who drives, how quick it is, and how long it will take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cryoscale import lease
from cryoscale.live import Look
from cryoscale.pace import Pace, Sample
from cryoscale.watch import Frame


def put(out: Path, generation: int = 1, **document: Any) -> None:
    """A lease as it lies on disk."""
    folder = out / lease.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{generation:08d}.json").write_text(json.dumps(document))


def elsewhere(**more: Any) -> dict[str, Any]:
    """A driver on another machine."""
    return {"session": "abc", "host": "far", "pid": 7, "place": "far x", "process_started": "1", **more}


def test_a_run_that_nobody_has_driven_says_so(tmp_path: Path) -> None:
    assert Look(str(tmp_path)).again().state == "none"


def test_a_driver_is_told_alive_while_its_process_is_there_and_dead_when_it_is_gone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = lease._started(child.pid)
        mine = {"session": "abc", "host": "here", "pid": child.pid, "place": lease._place()}
        put(tmp_path, **mine, process_started=started, beat=3, live={"since": "2026-01-01"})
        look = Look(str(tmp_path))
        assert look.again().state == "driven"
    finally:
        child.kill()
        child.wait()
    found = look.again()
    assert found.state == "died"
    told = " ".join(Frame("khumbu", 9, 4, found).lines())
    assert f"its driver died (process {child.pid} on here, session abc, since 2026-01-01)" in told


@pytest.mark.parametrize(
    ("ended", "state", "words"),
    [
        ({"reason": "finished"}, "finished", "finished by process 7"),
        ({"reason": "StoppedError", "text": "stopped with 3 of 9"}, "stopped", "stopped with 3 of 9"),
        (None, "stopped", "ended early"),
    ],
)
def test_a_driver_that_let_go_said_why(
    tmp_path: Path, ended: dict[str, str] | None, state: str, words: str
) -> None:
    put(tmp_path, **elsewhere(beat=9, released=True, live={"ended": ended} if ended else {}))
    found = Look(str(tmp_path)).again()
    assert found.state == state
    assert words in " ".join(Frame("khumbu", 9, 4, found).lines())


def test_a_driver_on_another_machine_lives_by_its_beats_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("cryoscale.live.time.monotonic", lambda: now[0])
    look = Look(str(tmp_path))
    put(tmp_path, **elsewhere(beat=1))
    assert look.again().state == "unseen"
    now[0] += lease.BEAT_S
    put(tmp_path, **elsewhere(beat=2))
    assert look.again().state == "driven"
    now[0] += lease.SILENCE_S + 1
    found = look.again()
    assert found.state == "silent"
    assert "silent for 31 s" in " ".join(Frame("khumbu", 9, 4, found).lines())
    put(tmp_path, generation=2, **elsewhere(beat=0, pid=8))
    assert look.again().state == "driven"


def test_a_lease_that_cannot_be_read_is_no_reason_to_fail(tmp_path: Path) -> None:
    folder = tmp_path / lease.FOLDER
    folder.mkdir(parents=True)
    (folder / "00000001.json").write_text('{"sess')
    lines = Frame("khumbu", 9, 4, Look(str(tmp_path)).again()).lines()
    assert "a driver whose lease cannot be read" in lines[1]


def test_rate_and_time_left_are_those_of_the_last_minutes(tmp_path: Path) -> None:
    recent = {"seconds": 100.0, "blocks_per_s": 0.5, "pixels_per_s": 1e6}
    live = {"total": 120, "done": 50, "set_aside": 10, "computed": 40, "pixels": 4e7, "elapsed_s": 400.0}
    put(tmp_path, **elsewhere(beat=1, live={**live, "recent": recent}))
    found = Look(str(tmp_path)).again()
    assert found.eta_s() == 120  # 60 blocks left at one in 2 s
    assert found.rates()["session"]["blocks_per_s"] == 0.1
    told = " ".join(Frame("khumbu", 120, 50, found).lines())
    assert "30.0 blocks/min, 1,000 kpixel/s, 360,000 km2/h over the last 1 min 40 s" in told
    assert "2 min 00 s left" in told


def test_many_blocks_set_aside_are_told_by_cause_with_a_count_and_examples(tmp_path: Path) -> None:
    causes = {"NoDataError: no optical scene": [f"2018/32645/r{n}" for n in range(40)]}
    frame = Frame("khumbu", 100, 60, Look(str(tmp_path)).again(), causes)
    assert frame.set_aside == 40
    assert (
        "set aside, 40 blocks: NoDataError: no optical scene: 2018/32645/r0, 2018/32645/r1, 2018/32645/r2, "
        "2018/32645/r3, 2018/32645/r4 and 35 more"
    ) in frame.lines()
    assert frame.to_dict()["causes"][0]["blocks"] == 40


def test_pace_is_the_difference_over_the_last_minutes_and_the_last_minute() -> None:
    pace = Pace()
    for beat in range(200):  # 10 blocks in the first half, then one a beat, the actor busy half of the time
        blocks = beat // 10 if beat < 100 else 10 + beat - 100
        busy_s = 0.0 if beat < 100 else 2.5 * (beat - 100)
        pace.note(Sample(5.0 * beat, blocks, 100 * blocks, {"actor-0": busy_s}))
    rates = pace.rates()
    assert rates is not None
    assert rates["blocks_per_s"] == pytest.approx(1 / 5)
    assert rates["pixels_per_s"] == pytest.approx(100 / 5)
    assert 300 <= rates["seconds"] <= 305
    assert pace.busy_shares() == {"actor-0": 0.5}
    assert len(pace.samples) < 70


def test_an_actor_that_was_replaced_is_as_busy_as_the_new_one() -> None:
    pace = Pace()
    for at_s, busy_s in ((0, 50.0), (5, 55.0), (10, 1.0), (15, 3.0)):
        pace.note(Sample(at_s, 0, 0, {"a": busy_s}))
    assert pace.busy_shares() == {"a": 0.4}


def put_slice(out: Path, name: str, **document: Any) -> None:
    """The lease of a slice as it lies on disk."""
    folder = out / lease.SLICES / name.partition("/")[0]
    folder.mkdir(parents=True, exist_ok=True)
    role = f"{lease.AS_SLICE}{name}"
    (folder / "00000001.json").write_text(json.dumps(elsewhere(beat=1, role=role, **document)))


def test_a_run_in_slices_is_told_as_one_with_each_slice_that_is_not_finished(tmp_path: Path) -> None:
    recent = {"seconds": 100.0, "blocks_per_s": 0.5, "pixels_per_s": 1e6}
    counts = {"total": 40, "done": 10, "set_aside": 0, "in_flight": 4, "repeated": 1, "recent": recent}
    put(tmp_path, **elsewhere(beat=9, released=True))  # the whole run was driven before
    put_slice(tmp_path, "0/4", live={**counts, "stage": "mapping on 2 tasks"})
    put_slice(tmp_path, "1/4", live={**counts, "done": 20})
    put_slice(tmp_path, "2/4", live={**counts, "ended": {"reason": "finished"}}, released=True)
    found = Look(str(tmp_path)).again()
    assert (found.state, found.number("done"), found.number("in_flight")) == ("unseen", 40, 12)
    assert found.rates()["recent"]["blocks_per_s"] == 1.0
    assert found.eta_s() == 60.0  # of the slice with 30 blocks left, not of 50 blocks at the rate of both
    lines = Frame("khumbu", 160, 40, found).lines()
    assert lines[1] == "in 4 slices: 1 finished, 2 unseen, 1 not begun"
    assert lines[2].startswith("  slice 0/4: driven by process 7 on far, session abc")
    assert lines[2].endswith(", 10 of 40 blocks done, mapping on 2 tasks")
    assert lines[3].endswith(", 20 of 40 blocks done")
    assert not any("slice 2/4" in line for line in lines)
    assert set(found.to_dict()["slices"]) == {"0/4", "1/4", "2/4"}


def test_slices_that_all_ended_well_are_a_finished_run_and_one_that_died_is_told(tmp_path: Path) -> None:
    over = {"live": {"ended": {"reason": "finished"}}, "released": True}
    put_slice(tmp_path, "0/2", **over)
    assert Look(str(tmp_path)).again().state == "stopped"  # the other has not begun
    put_slice(tmp_path, "1/2", **over)
    assert Look(str(tmp_path)).again().state == "finished"
    place = {"place": lease._place(), "process_started": "before the last boot"}
    put_slice(tmp_path, "1/2", **place)
    found = Look(str(tmp_path)).again()
    assert found.state == "died"
    assert any(
        "slice 1/2: nobody drives it: its driver died" in line for line in Frame("k", 2, 1, found).lines()
    )
