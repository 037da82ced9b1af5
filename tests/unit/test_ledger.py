from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from cryoscale.errors import OutputError, SourceError
from cryoscale.grid import Block
from cryoscale.ledger import Ledger, Marker, SetAside
from tests.made_runs import bare_manifest

BLOCK = Block(32645, -300, 46, 512)


def marker(block: Block = BLOCK, year: int = 2018) -> Marker:
    return Marker(
        year=year,
        epsg=block.epsg,
        row=block.row,
        col=block.col,
        size_px=block.size_px,
        checksum="sha256:0",
        written_bytes=1,
        pixels=4,
        valid_pixels=4,
    )


def aside(block: Block = BLOCK) -> SetAside:
    return SetAside(
        year=2018,
        epsg=block.epsg,
        row=block.row,
        col=block.col,
        size_px=block.size_px,
        error="AssetReadError",
        reason="truncated",
        attempts=3,
        when="2018-10-15T00:00:00+00:00",
    )


@pytest.fixture(params=["disk", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(
        str(tmp_path / "run") if request.param == "disk" else f"memory://{tmp_path.name}-{id(request)}"
    )


def test_a_marker_comes_back_as_it_was_put(ledger: Ledger) -> None:
    ledger.mark(marker())
    assert ledger.done() == {(2018, BLOCK): marker()}
    ledger.unmark(2018, BLOCK)
    assert ledger.done() == {}


def test_marking_a_block_ends_its_being_set_aside(ledger: Ledger) -> None:
    ledger.set_aside(aside())
    assert ledger.set_asides() == {(2018, BLOCK): aside()}
    ledger.mark(marker())
    assert ledger.set_asides() == {}


def test_a_torn_marker_is_no_marker(ledger: Ledger) -> None:
    ledger.mark(marker())
    fs, root = fsspec.core.url_to_fs(ledger.out)
    (name,) = fs.find(f"{root}/ledger/done")
    content = fs.cat_file(name)
    fs.pipe_file(name, content[: len(content) // 2])
    assert ledger.done() == {}


def test_a_marker_of_another_run_does_not_count_and_one_that_names_no_run_does(ledger: Ledger) -> None:
    ledger.begin(bare_manifest())
    ledger.mark(marker())
    others = [Block(32645, -300, col, 512) for col in (47, 48)]
    for block, run in zip(others, (bare_manifest()["identity_sha256"], "another"), strict=True):
        ledger.mark(marker(block).model_copy(update={"identity": run}))
    assert {block for _, block in ledger.done()} == {BLOCK, others[0]}


def test_a_folder_with_other_files_is_refused(ledger: Ledger) -> None:
    ledger.refuse_foreign()
    ledger.put("notes.json", {})
    with pytest.raises(OutputError, match="notes.json"):
        ledger.refuse_foreign()


def test_a_manifest_that_is_torn_is_told_and_not_taken_for_an_empty_folder(ledger: Ledger) -> None:
    ledger.put("run.json", {"name": "one"})
    fs, root = fsspec.core.url_to_fs(ledger.out)
    fs.pipe_file(f"{root}/run.json", b'{"name"')
    with pytest.raises(SourceError, match="run.json"):
        ledger.manifest()


def without(*path: str) -> bytes:
    """A manifest that lacks a key."""
    document = bare_manifest()
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return json.dumps(document).encode()


STRANGE: list[tuple[bytes, str]] = [
    (b"", "no JSON"),
    (b"\xff\xfe", "no JSON"),
    (b'["a", "list"]', "no JSON object"),
    (b'{"image": "ubuntu", "cmd": "sleep"}', "format: field required"),
    (json.dumps({**bare_manifest(), "format": 3}).encode(), "format: input should be 2"),
    (json.dumps({**bare_manifest(), "identity": "me"}).encode(), "identity: input should be"),
    (without("name"), "name: field required"),
    (without("identity", "years"), "identity.years: field required"),
    (without("context", "blocks"), "context.blocks: field required"),
]


@pytest.mark.parametrize(("content", "words"), STRANGE, ids=[words for _, words in STRANGE])
def test_a_manifest_that_is_no_runs_is_told_in_one_line_and_never_cleared(
    ledger: Ledger, content: bytes, words: str
) -> None:
    ledger.put_bytes("run.json", content)
    ledger.put_bytes("inventory/years-of-work.txt", b"1")
    with pytest.raises(SourceError, match=words) as told:
        ledger.manifest()
    assert "\n" not in str(told.value)
    with pytest.raises(OutputError, match="nothing was deleted"):
        ledger.refuse_to_clear()


def test_a_run_may_be_cleared_and_so_may_one_of_which_only_the_ledger_can_be_read(ledger: Ledger) -> None:
    ledger.begin(bare_manifest())
    ledger.refuse_to_clear()
    ledger.put_bytes("run.json", b'{"name"')
    ledger.plan_blocks([BLOCK])
    ledger.refuse_to_clear()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.begin(bare_manifest("one"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.begin(bare_manifest("two"))
    assert ledger.manifest() == bare_manifest("one")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
