"""What the terminal shows: numbers whole, and no letter that ends a command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cryoscale.console import Console
from cryoscale.learn.progress import line, live_progress
from cryoscale.results import Status


@pytest.mark.parametrize("columns", ["80", "20"])
def test_no_number_of_a_table_is_cut_short(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    row = ("2018", "EPSG:32645", "12 rgi, 33 min_elevation_m", *["1,234,567,890"] * 6)
    Console()._table([f"column {n}" for n in range(len(row))], [row])
    head, line = capsys.readouterr().out.rstrip().split("\n")
    assert all(cell in line for cell in row)
    assert line.count("1,234,567,890") == 6
    assert head.split() == [word for n in range(len(row)) for word in ("column", str(n))]


def test_a_path_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for show in (console.say, console.stage):
        show("in /runs/a:b:m: [red]")
    assert [line.endswith("in /runs/a:b:m: [red]") for line in capsys.readouterr().out.splitlines()] == [
        True
    ] * 2


def test_a_letter_that_the_locale_lacks_ends_nothing() -> None:
    told = (
        "import cryoscale.cli as c; from cryoscale.console import Console; "
        "c.app = lambda: Console().stage('Gletscher \\u0416'); c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", told],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "? Gletscher ?\n"


def test_status_tells_what_each_year_maps_and_not_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status("range", 2, 2, (), 20.0, {2018: 10.01, 2019: 9.99}, {}, ())
    Console().totals(status, ())
    assert capsys.readouterr().out == "mapped 2018: 10.0 km2, 2019: 10.0 km2\n"
    assert status.to_dict()["area_km2_of"] == {2018: 10.01, 2019: 9.99}


def test_a_reader_that_goes_ends_no_run() -> None:
    reader, writer = os.pipe()
    told = Console()
    told._out.file = os.fdopen(writer, "w")
    os.close(reader)
    told.stage("mapping")
    told.say("and on")
    assert told._out.quiet
    told._out.file.close()


def test_a_training_says_each_epoch_in_one_line_whatever_the_model_is_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    event = {"kind": "model", "name": "[bold]mine[/bold]", "parameters": 12, "trainable": 12,
             "train": 123_456, "validation": 78}  # fmt: skip
    with live_progress() as show:
        show(event)
    assert f"{line(event)}\n" in capsys.readouterr().out
