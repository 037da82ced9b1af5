"""What is kept of a measurement, and the tables that are made from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cryoscale.bench import record, table
from cryoscale.bench.figure import Figure, Rival


def kept_line(
    day: str = "2026-01-01", scale: str = "full", cpu: str = "some", **figures: Figure
) -> dict[str, Any]:
    """A line of the record as far as a table needs it."""
    return {
        "when": f"{day}T00:00:00+00:00",
        "machine": {"cpu": cpu, "cores": 2},
        "sizes": {"scale": scale},
        "results": {
            "limits": {"device": "cpu", "copy_gb_s": 10.0, "matmul_tflops": {"fp32": 0.1}},
            "figures": {name.replace("_", " "): figure.to_dict() for name, figure in figures.items()},
        },
    }


def test_a_line_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    kept = tmp_path / "new" / "kept.jsonl"
    record.append(kept, {"first": 1})
    code = (
        "import resource, signal, sys; from pathlib import Path; from cryoscale.bench import record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for write in (record.append, record.keep):\n"
        "    try: write(Path(sys.argv[1]), {'second': 'x' * 5000})\n"
        "    except OSError: continue\n"
        "    sys.exit('nothing stopped it')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(kept)], check=True)
    record.append(kept, {"third": 3})
    assert [json.loads(text) for text in kept.read_text().splitlines()] == [{"first": 1}, {"third": 3}]
    assert list(kept.parent.iterdir()) == [kept]


def test_a_record_names_the_commit_that_it_was_taken_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "cryoscale" / "bench"
    package.mkdir(parents=True)
    monkeypatch.setattr(record, "__file__", str(package / "record.py"))
    assert record.commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "one.py").touch()
    for command in (["init", "-q"], ["add", "one.py"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "results.jsonl").touch()  # what is measured is no change of what measures
    named = record.commit()
    assert re.fullmatch(r"[0-9a-f]{12}", named or "")
    (tmp_path / "one.py").write_text("changed = True")
    assert record.commit() == f"{named}+"
    installed = tmp_path / "site-packages" / "cryoscale" / "bench" / "record.py"
    monkeypatch.setattr(record, "__file__", str(installed))
    installed.parent.mkdir(parents=True)
    assert record.commit() is None


def test_a_table_says_what_was_not_measured() -> None:
    figure = Figure("features", 12.0, "Mpixel/s", 200.0, "copying", Rival("a library", None, "not there"))
    made = table.markdown(
        [kept_line(features=figure)], {"cpu": ["features", "writing"], "cuda": ["network cryonet"]}
    )
    assert "| features | 12 Mpixel/s | 200 | 6 % | a library | not measured |" in made
    assert "| writing | not measured |" in made
    assert "cuda: not measured" in made
    assert "| network cryonet | not measured |" in made


def test_a_table_holds_the_newest_figure_of_the_full_scale_on_one_machine() -> None:
    def figure(rate: float) -> Figure:
        return Figure("any", rate, "Mpixel/s", 100.0, "copying", Rival("a library", None))

    made = table.markdown(
        [
            kept_line("2026-01-01", cpu="other", reading=figure(90.0)),
            kept_line("2026-01-02", features=figure(50.0), writing=figure(60.0)),
            kept_line("2026-01-03", features=figure(70.0)),
            kept_line("2026-01-04", scale="tiny", features=figure(1.0), writing=figure(1.0)),
        ],
        {"cpu": ["features", "writing", "reading"]},
    )
    assert "cpu, scale full (some, 2 cores, 2026-01-03)" in made
    assert "| features | 70 Mpixel/s |" in made
    assert "| writing (2026-01-02) | 60 Mpixel/s |" in made
    assert "| reading | not measured |" in made


def test_a_line_in_which_only_the_mapping_was_rated_has_no_figure_of_the_whole_run() -> None:
    figure = Figure("end to end", 12.0, "Mpixel/s", 15.0, "its stages", Rival("a loop", 10.0))
    made = table.markdown([kept_line(end_to_end=figure)], {"cpu": ["mapping", "end to end"]})
    assert "| mapping | 12 Mpixel/s | 15 | 80 % | a loop | 1.2 |" in made
    assert "| end to end | not measured |" in made
