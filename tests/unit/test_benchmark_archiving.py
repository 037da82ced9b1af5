"""The benchmark of archives at its smallest: both ways are put through the same."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import archiving


def test_plain_files_and_icechunk_are_put_through_the_same_and_neither_shows_half_a_year(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "archiving.jsonl"
    archiving.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert set(document["results"]) == {archiving.PLAIN, archiving.ICECHUNK}
    for kind, row in document["results"].items():
        assert row["files"] > 4, kind
        assert row["kills"]["half_seen"] == 0, kind
        assert row["kills"]["next_succeeds"], kind
        assert row["readers"]["looks"] > 0, kind
        assert row["readers"]["half_seen"] == 0, kind
    plain = document["results"][archiving.PLAIN]
    # Icechunk warns that two at once may lose an addition on a local disk, and once in a while they do
    assert plain["two_adders"]["lost"] == 0
    assert plain["read_without_a_library_of_its_own"]


def test_half_a_year_would_be_noticed(tmp_path: Path) -> None:
    source = archiving.make_source(tmp_path, 4, 256)
    way = archiving.Plain(str(tmp_path / "store"))
    way.add(archiving.Objects(source), 1)
    ((_, right),) = way.seen()
    labels = next(
        path.parent for path in (tmp_path / "store").rglob("zarr.json") if path.parent.name == "label"
    )
    next(path for path in labels.rglob("*") if path.is_file() and path.name != "zarr.json").unlink()
    assert way.seen() != [(1, right)]
