"""Blocks that cannot be done: set aside with all that is known of them, never in the way of the others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale.ledger import Ledger
from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import (
    Command,
    bytes_that_differ,
    few_blocks,
    here,
    run_here,
    write_config,
)
from tests.tables import Table

POISON = """
import os, distributed

def dask_setup(worker):
    from cryoscale import blocktask, task
    honest = task.process_block
    def poisoned(out, identity, year, block, predict, **more):
        if block.key == "{key}" and block.epsg == {epsg} and os.path.exists("{switch}"):
            {harm}
        return honest(out, identity, year, block, predict, **more)
    blocktask.process_block = poisoned
"""
"""Loaded by every worker: one block does harm as long as a file is there."""

HARMS = {
    "an error that no repeat mends": "raise ZeroDivisionError('a pixel of nothing')",
    "an error that kills its worker": "os.kill(os.getpid(), 9)",
}


def _poisoned(tmp_path: Path, harm: str, block: Any) -> tuple[dict[str, str], Path]:
    switch, preload = tmp_path / "switch", tmp_path / "poison.py"
    switch.touch()
    preload.write_text(POISON.format(key=block.key, epsg=block.epsg, switch=switch, harm=HARMS[harm]))
    return {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([str(preload)])}, switch


@pytest.mark.parametrize("harm", HARMS)
def test_a_poisonous_block_is_set_aside_with_its_inputs_and_the_others_are_done(
    calm: Calm, tmp_path: Path, harm: str, faults: Table
) -> None:
    victim = sorted(Ledger(str(calm.out)).done())[2][1]
    env, switch = _poisoned(tmp_path, harm, victim)
    out = tmp_path / "run"
    code, said, complained = Command.start("run", calm.config, "--out", out, "--json", env=env).end()
    assert code == 1, complained
    told = json.loads(said)
    assert told["computed"] == calm.blocks - 1
    (record,) = told["set_aside"]
    assert (record["epsg"], record["row"], record["col"]) == (victim.epsg, victim.row, victim.col)
    # a worker's death blames all that it had in work; alone, the guilty one is told from the others
    assert record["attempts"] == 3 if "repeat" in harm else record["attempts"] >= 6
    assert record["scenes"], "its inputs are named"
    assert ("ZeroDivisionError" in record["error"]) == ("repeat" in harm)
    if "repeat" in harm:
        assert any("poisoned" in line for line in record["traceback"])

        # as it stands, the same command tries it no more; status tells it by its cause
        code, said, _ = here("run", calm.config, "--out", out, "--json")
        assert (code, json.loads(said)["computed"]) == (1, 0)
        code, said, _ = here("status", out)
        assert code == 1
        assert "set aside, 1 blocks" in said
        code, said, _ = here("verify", out, "--json")
        assert code == 1
        assert json.loads(said)["set_aside"] == [f"2018/{victim.epsg}/{victim.key}"]

    switch.unlink()
    told = run_here(calm.config, out, "--retry-set-aside")
    differ = bytes_that_differ(out, calm.out)
    faults.add(f"a block with {harm}", 1, record["attempts"] - 1, differ)
    assert told["computed"] == 1
    assert differ == 0
    assert here("verify", out)[0] == 0


@pytest.fixture
def copy(calm: Calm, tmp_path: Path) -> Path:
    """A finished run."""
    out = tmp_path / "copy"
    shutil.copytree(calm.out, out)
    return out


def test_redo_does_exactly_the_blocks_that_a_region_meets_again(calm: Calm, copy: Path) -> None:
    before = {marker.key: marker.finished for marker in Ledger(str(copy)).markers()}
    west, south, east, north = yaml.safe_load(calm.config.read_text())["region"]["bbox"]
    corner = [west, south, west + (east - west) / 20, south + (north - south) / 20]
    told = run_here(calm.config, copy, "--redo", ",".join(map(str, corner)))
    assert (told["computed"], told["skipped"]) == (1, calm.blocks - 1)
    assert bytes_that_differ(copy, calm.out) == 0
    assert before.keys() == {marker.key for marker in Ledger(str(copy)).markers()}
    code, _, complained = here("run", calm.config, "--out", copy, "--redo", "10,46,10.1,46.1")
    assert (code, len(complained.splitlines())) == (2, 1)
    assert "no block" in complained


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"tiling": {"tile_px": 64, "block_px": 512}}, "block_px (256 there, 512 now)"),
    ({"outlines": {"min_area_km2": 0.05}}, "min_area_km2 (0.01 there, 0.05 now)"),
    ({"on_unreadable": "fail"}, "on_unreadable (set_aside there, fail now)"),
    (
        {"season": {"start": "10-01", "end": "10-20"}},
        'season (["10-01", "10-09"] there, ["10-01", "10-20"] now)',
    ),
]


def test_a_changed_configuration_is_refused_with_the_difference_and_begins_anew_on_demand(
    tiny_range: TinyRange, calm: Calm, copy: Path, tmp_path: Path
) -> None:
    for change, words in CHANGES:
        config = write_config(tmp_path / "other.yaml", few_blocks(tiny_range) | change)
        code, _, complained = here("run", config, "--out", copy)
        assert (code, len(complained.splitlines())) == (2, 1), complained
        assert words in complained
        assert "--new-run" in complained
    assert bytes_that_differ(copy, calm.out) == 0, "what was refused changed nothing"

    (copy / "notes.txt").write_text("mine")
    config = write_config(
        tmp_path / "other.yaml", few_blocks(tiny_range) | {"outlines": {"min_area_km2": 0.05}}
    )
    told = run_here(config, copy, "--new-run")
    assert told["computed"] == calm.blocks
    assert (copy / "notes.txt").read_text() == "mine", "what is not the run's is left alone"
    assert here("verify", copy)[0] == 0


def test_a_run_killed_while_it_is_cleared_away_is_cleared_by_the_next(
    calm: Calm, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoscale.write.objects import Objects

    deletions: list[str] = []
    honest = Objects.delete_all

    def dies(self: Objects, prefix: str) -> None:
        if len(deletions) >= 3:
            raise KeyboardInterrupt
        deletions.append(prefix)
        honest(self, prefix)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "delete_all", dies)
        with pytest.raises(KeyboardInterrupt):
            Ledger(str(copy)).clear()
    assert run_here(calm.config, copy)["computed"] == calm.blocks
    assert bytes_that_differ(copy, calm.out) == 0
    assert os.path.exists(copy / "run.json")
