"""What ``verify`` finds in a finished run whose files were harmed, and what the next run makes of it."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from cryoscale.errors import IntegrityError, SourceError
from cryoscale.ledger import Ledger
from cryoscale.resume import sound
from cryoscale.sealing import is_sealed, kept_told, seal
from cryoscale.verify import verify
from cryoscale.write.quicklook import open_elevation
from tests.made_runs import BLOCK_PX, EPSG, Tongue, Year, make_run


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


def _flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_elevation_of_which_a_bit_flipped_is_told_by_verify_and_by_what_reads_it_and_done_again(
    out: Path,
) -> None:
    part = next((out / "quicklook.zarr").glob("2018/*/elevation/c/*/*"))
    _flipped(part, -1)  # of its checksum
    with (
        pytest.raises(SourceError, match=r"elevation of quicklook.zarr cannot be read: .*checksum"),
        kept_told(str(out)),
    ):
        open_elevation(str(out), 2018, EPSG).load()
    (fault,) = verify(str(out)).faults
    assert (fault.kind, fault.repair) == ("shard", True)
    assert "elevation of quicklook.zarr" in fault.reason
    assert sound(Ledger(str(out)), lambda text: None) == set()


def test_a_quicklook_may_be_deleted_and_one_that_cannot_be_opened_is_told(out: Path) -> None:
    next((out / "quicklook.zarr").glob("2018/*/elevation/zarr.json")).write_text("{")
    (fault,) = verify(str(out)).faults
    assert (fault.kind, fault.repair) == ("file", False)
    assert fault.where.startswith("quicklook.zarr/2018/")
    shutil.rmtree(out / "quicklook.zarr")
    assert verify(str(out)).sound


@pytest.mark.parametrize("content", ["{", '{"zarr_format": 4, "node_type": "group"}'])
def test_a_year_of_the_map_that_cannot_be_opened_is_told(out: Path, content: str) -> None:
    (out / "mosaic.zarr" / "2018" / "zarr.json").write_text(content)
    faults = verify(str(out)).faults
    assert ("file", "mosaic.zarr/2018") in {(fault.kind, fault.where) for fault in faults}
    assert all(fault.repair for fault in faults)


def test_a_manifest_in_which_anything_was_changed_is_told_and_not_gone_on_with(out: Path) -> None:
    path = out / "run.json"
    manifest = json.loads(path.read_text())
    manifest["asked"]["min_area_km2"] += 1e-9
    path.write_text(json.dumps(manifest))
    (fault,) = verify(str(out)).faults
    assert (fault.kind, fault.where, fault.repair) == ("plan", "run.json", False)
    with pytest.raises(IntegrityError, match="begun with"):
        Ledger(str(out)).require_whole_manifest()
    del manifest["seal"]  # as of a run begun before manifests had one
    path.write_text(json.dumps(manifest))
    assert verify(str(out)).sound


def test_a_seal_of_the_runs_end_in_which_a_key_was_changed_is_told_and_holds_for_none(out: Path) -> None:
    path = out / "ledger" / "finished.json"
    seal(str(out), basis="what it is made from")
    assert verify(str(out)).sound
    assert is_sealed(str(out), "what it is made from")
    path.write_text(path.read_text().replace('"pages"', '"pagez"'))
    (fault,) = verify(str(out)).faults
    assert (fault.kind, fault.where, fault.repair) == ("file", "ledger/finished.json", True)
    assert not is_sealed(str(out), "what it is made from")
    unsealed = {key: value for key, value in json.loads(path.read_text()).items() if key != "seal"}
    path.write_text(json.dumps(unsealed))  # as of a version that put down less
    assert not is_sealed(str(out), "what it is made from")
