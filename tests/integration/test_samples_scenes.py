"""Training patches of runs whose scenes have gone since."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cryoscale.cli import main
from cryoscale.learn.patches import Patches
from cryoscale.ledger import Ledger
from cryoscale.read import snapshot
from tests.integration.conftest import TinyRange
from tests.integration.test_samples import EASTERN, finished


def test_a_scene_that_has_gone_since_the_run_is_named_and_one_that_the_run_missed_is_not(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = replace(tiny_range, folder=shutil.copytree(tiny_range.folder, tmp_path / "range"))
    settings = own.settings(region={"bbox": EASTERN}, tiling={"tile_px": 64, "block_px": 512})
    run = finished(settings, tmp_path / "run")
    scenes = snapshot.thaw(f"{run}/items.parquet")["2018/optical"]
    gone = next(item for item in scenes if "T45" in item.id)
    for asset in gone.assets.values():
        if asset.href.endswith(".tif"):
            Path(asset.href.removeprefix("file://")).unlink()

    def made(name: str) -> tuple[int, str]:
        truth = ["--truth", str(own.folder / "truth"), "--split", "random"]
        tiles = ["--patch", "64", "--stride", "64", "--fraction", "0.3"]
        argv = ["cryoscale", "samples", run, *truth, *tiles, "--out", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), " ".join(capsys.readouterr().out.split())

    code, told = made("lost.zarr")
    assert code == 1
    assert f"not read: scene {gone.id}, of which" in told
    (lost, *_) = Patches.open(tmp_path / "lost.zarr").attrs["source"]["scenes_failed"]
    assert lost["scene"] == gone.id
    assert lost["reason"]

    # of what the run itself had to do without, its map is not made either
    for marker in list(Ledger(run).markers()):
        Ledger(run).mark(marker.model_copy(update={"scenes_failed": [(gone.id, "absent")]}))
    code, told = made("same.zarr")
    assert (code, "not read" in told) == (0, False)
    assert Patches.open(tmp_path / "same.zarr").attrs["source"]["scenes_failed"] == []
