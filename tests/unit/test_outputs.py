"""Where output goes: the same place from a notebook, the command line and the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoscale import api, options
from cryoscale.ledger import Ledger
from tests.made_runs import bare_manifest


def test_a_notebook_finds_a_run_where_a_command_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    at_home, here = str(tmp_path / "home" / "run"), str(tmp_path / "run")
    for out in (at_home, here):
        Ledger(out).begin(bare_manifest())
    given = {"~/run": at_home, "run": here, "./a/../run": here, f"file://{here}": here}
    for text, where in given.items():
        assert options.output(text) == where
        assert api.open(text).out == where
    assert options.output("s3://bucket/run") == "s3://bucket/run"
