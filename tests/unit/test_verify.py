"""What ``verify`` finds in a finished run whose files were harmed, and what the next run makes of it."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest

from cryoscale.ledger import Ledger
from cryoscale.resume import sound
from cryoscale.verify import verify
from tests.made_runs import BLOCK_PX, Tongue, Year, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one block."""
    year = Year((Tongue(1280.0, 500.0, 1200.0, 400.0),), date(2018, 10, 12))
    return make_run(tmp_path_factory.mktemp("made") / "run", {2018: year}, size_px=BLOCK_PX)


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_block_of_a_run_that_lay_there_before_is_told_and_done_again(out: Path) -> None:
    assert verify(str(out)).sound
    ledger = Ledger(str(out))
    (marker,) = ledger.markers()
    ledger.mark(marker.model_copy(update={"identity": "another"}))
    (fault,) = verify(str(out)).faults
    assert (fault.kind, fault.repair) == ("marker", True)
    assert "another run" in fault.reason
    assert sound(ledger, lambda text: None) == set()
    assert ledger.count_done() == 0
