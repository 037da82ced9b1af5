"""What a power cut leaves of a block whose marker is on the disk: nothing that was not sent there itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cryoscale.config import load_config
from cryoscale.infer.actor import ModelActor
from cryoscale.ledger import Ledger
from cryoscale.preparation import prepare
from cryoscale.resume import sound
from cryoscale.task import process_block
from tests.integration.conftest import TinyRange


def blocks_files(out: Path) -> set[Path]:
    return {
        path
        for path in out.rglob("c/**/*")
        if path.is_file() and not {"x", "y", "class"} & set(path.relative_to(out).parts)
    }


@pytest.fixture
def cut_power(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Removes the blocks' files that were not synced, or whose own folder was not after they came.

    Of what a run begins with, all follows from its manifest.
    """
    synced: set[tuple[int, str]] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        number, path = os.fstat(descriptor).st_ino, Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.add((number, ""))
        if path.is_dir():
            synced.update((number, name) for name in os.listdir(path))

    def cut(folder: Path) -> None:
        for path in blocks_files(folder):
            kept = {(path.stat().st_ino, ""), (path.parent.stat().st_ino, path.name)} <= synced
            if not kept:
                path.unlink()

    monkeypatch.setattr(os, "fsync", noting)
    return cut


def test_a_power_cut_takes_nothing_from_a_block_that_has_a_marker(
    tiny_range: TinyRange,
    tmp_path: Path,
    cut_power: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, out = load_config(tiny_range.config(model={"name": "band-ratio"})), tmp_path / "run"
    identity, work = prepare(settings, str(out))
    actor = ModelActor({"weights": None, "name": "band-ratio"}, tile_px=64, overlap=0.5, threads=1)
    before: set[Path] = set()
    mark = Ledger.mark

    def marked_and_gone(ledger: Ledger, marker: Any) -> None:
        before.update(blocks_files(out))
        cut_power(out)
        mark(ledger, marker)

    monkeypatch.setattr(Ledger, "mark", marked_and_gone)
    year, block = work[0]
    process_block(
        str(out), identity, year, block, lambda a, window, b: actor.predict(a, window.row, window.col, b)
    )
    assert {path.parts[len(out.parts)] for path in before} == {"mosaic.zarr", "quicklook.zarr"}
    assert blocks_files(out) == before
    assert sound(Ledger(str(out)), lambda told: None) == {work[0]}
