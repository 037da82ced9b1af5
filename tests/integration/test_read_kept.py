"""What neighbouring blocks share of a remote file is sent once, and the pixels are the file's."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoscale.config import load_config
from cryoscale.errors import AssetReadError
from cryoscale.ledger import Ledger, Marker
from cryoscale.pipeline import run as run_pipeline
from cryoscale.read import headers, http, kept, remote
from cryoscale.read.headers import Headers
from cryoscale.read.inputs import read_inputs
from cryoscale.read.kept import KEEP_GIB, Kept
from tests.integration.conftest import Calm, TinyRange
from tests.integration.faults import few_blocks
from tests.integration.misbehave import Fault, Server, by_content, misbehaving, remote_catalogue
from tests.integration.test_read_headers import BLOCKS, HEADER, make_scenes, scenes


def sent_twice(host: Server) -> dict[str, int]:
    """Bytes of each file that were sent more than once, its header left out."""
    found: Counter[str] = Counter()
    seen: dict[str, np.ndarray] = {}
    for one in host.asked:
        if one.status == 206 and not one.span.startswith("bytes=0-"):
            start, last = map(int, one.span.removeprefix("bytes=").split("-"))
            sent = seen.setdefault(one.path, np.zeros(2**22, bool))
            found[one.path] += int(sent[start : last + 1].sum())
            sent[start : last + 1] = True
    return {path: count for path, count in found.items() if count}


def is_shared(markers: Iterable[Marker]) -> bool:
    """Whether a run's blocks were sent their chunks once, but for what busy workers did not wait for."""
    made = list(markers)
    stored = sum(marker.fetched_bytes for marker in made)
    return 0 < sum(marker.received_bytes for marker in made) < 0.3 * stored


@pytest.fixture
def few_patient_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASSETS", http.Patience(3, 0.02, 0.1, 20.0, 2.0, 5.0))
    monkeypatch.setattr(remote, "HEADER_BYTES", HEADER)
    monkeypatch.setattr(remote, "GAP_BYTES", 64)
    monkeypatch.setattr(headers, "KEPT", Headers())
    monkeypatch.setattr(kept, "WAIT_S", 60.0)


@pytest.fixture
def keeps(tmp_path: Path) -> Iterator[Kept]:
    """Ranges are kept by this process."""
    here = Kept(tmp_path / "kept", 2**30)
    kept.keep_at(here)
    yield here
    kept.keep_at(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), 5)


def blocks_of(folder: Path, url: str) -> list[xr.Dataset]:
    return [read_inputs({"optical": scenes(folder, url)}, block)[0] for block in BLOCKS]


@pytest.mark.usefixtures("few_patient_reads", "keeps")
@pytest.mark.parametrize("at_once", [1, 4])
def test_no_byte_is_sent_to_two_neighbours(folder: Path, at_once: int) -> None:
    expected = blocks_of(folder, "")
    with misbehaving(folder, marks=by_content) as host, ThreadPoolExecutor(at_once) as pool:
        items = {"optical": scenes(folder, host.url)}
        read = list(pool.map(lambda block: read_inputs(items, block), BLOCKS))
    for (found, _), one in zip(read, expected, strict=True):
        xr.testing.assert_identical(found, one)
    assert sent_twice(host) == {}
    received = sum(report.received_bytes for _, report in read)
    assert 0 < received < 0.7 * sum(report.fetched_bytes for _, report in read)


@pytest.mark.usefixtures("few_patient_reads")
def test_without_it_they_are(folder: Path) -> None:
    with misbehaving(folder, marks=by_content) as host:
        blocks_of(folder, host.url)
    assert sent_twice(host)


@pytest.mark.usefixtures("few_patient_reads", "keeps")
def test_what_was_not_sent_well_is_asked_for_again(folder: Path) -> None:
    """Else every attempt of the block, and all its neighbours, would get it from the disk."""
    ill = "B03.tif"

    def plan(path: str, number: int) -> Fault | None:
        return Fault("garble") if path.endswith(ill) and number == 1 else None

    expected = blocks_of(folder, "")
    with misbehaving(folder, marks=by_content, plan=plan) as host:
        items = {"optical": scenes(folder, host.url)}
        with pytest.raises(AssetReadError, match=ill):
            read_inputs(items, BLOCKS[0])
        assert host.suffered
        for one, again in zip(expected, blocks_of(folder, host.url), strict=True):
            xr.testing.assert_identical(again, one)


@pytest.mark.usefixtures("few_patient_reads", "keeps")
def test_a_file_that_is_replaced_between_two_blocks_is_read_as_it_is_now(
    folder: Path, tmp_path: Path
) -> None:
    served = Path(shutil.copytree(folder, tmp_path / "served"))
    with misbehaving(served, marks=by_content) as host:
        blocks_of(served, host.url)
        make_scenes(served, 6)
        headers.KEPT = Headers()  # as of a worker that comes later
        found = blocks_of(served, host.url)
    for one, expected in zip(found, blocks_of(served, ""), strict=True):
        xr.testing.assert_identical(one, expected)


def test_processes_of_a_run_are_sent_what_their_blocks_share_once_and_leave_nothing(
    tiny_range: TinyRange, calm: Calm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEEP_GIB, "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with misbehaving(tiny_range.folder, marks=by_content) as host:
        remote_catalogue(tiny_range.folder, tmp_path / "remote", host.url)
        catalogs = [{"url": str(tmp_path / "remote")}]
        two = {"kind": "local", "cpu_workers": 2, "gpu_workers": 0}
        document = few_blocks(tiny_range, catalogs=catalogs, cluster=two)
        outcome = run_pipeline(load_config(document), str(tmp_path / "run"))
    assert outcome.exit_code == 0
    found, expected = Ledger(str(tmp_path / "run")).done(), Ledger(str(calm.out)).done()
    assert {k: m.checksum for k, m in found.items()} == {k: m.checksum for k, m in expected.items()}
    assert is_shared(found.values())
    assert not list((tmp_path / "scratch").glob("cryoscale-ranges*"))
