"""A run belongs to the scenes that it found first, whatever its provider does afterwards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale.cli import main
from cryoscale.config import load_config
from cryoscale.errors import IntegrityError, OutputError
from cryoscale.grid import Block
from cryoscale.infer.actor import ModelActor
from cryoscale.ledger import Ledger, Marker
from cryoscale.preparation import look_again, prepare, refuse_to_mix
from cryoscale.read import snapshot
from cryoscale.read.static import folder_items
from cryoscale.settings import Settings
from cryoscale.task import process_block
from tests.integration.conftest import TinyRange, map_here


class Provider:
    """A folder of items whose files lie elsewhere; it can lose, change and gain items."""

    def __init__(self, range_: TinyRange, folder: Path) -> None:
        self.folder = folder
        self.config = range_.config(
            catalogs=[{"url": str(folder)}],
            model={"name": "band-ratio"},
            sources={"optical": {"collection": "sentinel-2-l2a"}},
        )
        folder.mkdir()
        for item in folder_items(range_.folder):
            if item.collection_id == "sentinel-2-l2a":
                item.make_asset_hrefs_absolute()
                item.clear_links()
                self.put(item.to_dict(include_self_link=False, transform_hrefs=False))

    @property
    def settings(self) -> Settings:
        return load_config(self.config)

    def put(self, document: dict[str, Any]) -> None:
        (self.folder / f"{document['id']}.json").write_text(json.dumps(document))

    def upset(self) -> tuple[str, str, str]:
        """Loses one scene, changes one so that it would rank otherwise, gains one; their ids."""
        paths = sorted(self.folder.glob("*.json"))
        lost, changed = json.loads(paths[0].read_text()), json.loads(paths[1].read_text())
        paths[0].unlink()
        changed["properties"]["eo:cloud_cover"] = 0.01
        changed["assets"]["B04"] = {"href": "/nowhere/B04.tif"}
        self.put(changed)
        self.put({**lost, "id": "brand-new"})
        return lost["id"], changed["id"], "brand-new"


@pytest.fixture
def provider(tiny_range: TinyRange, tmp_path: Path) -> Provider:
    return Provider(tiny_range, tmp_path / "provider")


def some_blocks(settings: Settings, out: Path, wanted: slice) -> list[Marker]:
    identity, work = prepare(settings, str(out))
    actor = ModelActor({"weights": None, "name": "band-ratio"}, tile_px=64, overlap=0.5, threads=1)

    def predict(array: Any, window: Any, block: Any) -> Any:
        return actor.predict(array, window.row, window.col, block)

    return [process_block(str(out), identity, year, block, predict) for year, block in work[wanted]]


def test_a_run_that_is_taken_up_again_gives_the_same_pixels_although_its_provider_has_changed(
    provider: Provider, tmp_path: Path
) -> None:
    undisturbed = {m.block: m.checksum for m in map_here(provider.settings, tmp_path / "undisturbed")}
    some_blocks(provider.settings, tmp_path / "run", slice(0, 3))
    provider.upset()
    rest = some_blocks(provider.settings, tmp_path / "run", slice(3, None))
    assert rest
    assert {m.block: m.checksum for m in Ledger(str(tmp_path / "run")).done().values()} == undisturbed
    assert not any(marker.scenes_failed for marker in rest)
    for path in provider.folder.glob("*.json"):
        path.unlink()  # nothing is searched any more
    assert prepare(provider.settings, str(tmp_path / "run"))[1]


def test_a_block_whose_run_was_replaced_while_it_was_computed_writes_nothing_into_the_new_one(
    provider: Provider, tmp_path: Path
) -> None:
    ledger = Ledger(str(tmp_path / "run"))
    identity, work = prepare(provider.settings, ledger.out)

    def replaced(array: Any, window: Any, block: Block) -> Any:
        ledger.begin({**(ledger.manifest() or {}), "identity_sha256": "another"})
        return {}

    with pytest.raises(IntegrityError, match="does not hold the run"):
        process_block(ledger.out, identity, *work[0], replaced)
    assert ledger.count_done() == 0


def test_the_marker_explains_which_scene_was_preferred(provider: Provider, tmp_path: Path) -> None:
    (marker,) = some_blocks(provider.settings, tmp_path / "run", slice(0, 1))
    chosen = marker.scene_choice
    assert [share.rank for share in chosen] == list(range(1, len(chosen) + 1))
    assert len(chosen) > 1
    assert {share.scene for share in chosen} >= set(marker.scenes_read)
    totals = [share.cloud_share + share.snow_share for share in chosen]
    assert totals == sorted(totals)
    (kept,) = Ledger(str(tmp_path / "run")).done().values()
    assert kept == marker


def test_a_marker_from_before_the_choice_was_explained_still_counts(
    provider: Provider, tmp_path: Path
) -> None:
    some_blocks(provider.settings, tmp_path / "run", slice(0, 1))
    (path,) = (tmp_path / "run" / "ledger" / "done").rglob("*.json")
    document = json.loads(path.read_text())
    for later in ("scene_choice", "seal", "shards", "cpu_seconds", "fetches", "fetched_bytes"):
        del document[later]
    path.write_text(json.dumps(document))
    assert len(Ledger(str(tmp_path / "run")).done()) == 1


def test_a_second_look_names_what_is_new_gone_and_changed(provider: Provider, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert look_again(provider.settings, out) is None
    prepare(provider.settings, out)
    same = look_again(provider.settings, out)
    assert same is not None
    assert not same
    refuse_to_mix(same, out)
    gone, changed, new = provider.upset()
    found = look_again(provider.settings, out)
    assert found == snapshot.Changes(
        new=(("2018/optical", new),),
        gone=(("2018/optical", gone),),
        changed=(("2018/optical", changed, ("assets.B04", "properties.eo:cloud_cover")),),
    )
    for path in provider.folder.glob("*.json"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "collection": "elsewhere"}))
    emptied = look_again(provider.settings, out)
    assert emptied is not None
    assert not emptied.new
    assert len(emptied.gone) > 1


def test_refresh_on_the_command_line_tells_and_starts_nothing(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(provider.config))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cryoscale", "run", str(config), "--out", str(out), *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    map_here(provider.settings, out)  # all done: what follows has only to finish
    code, told, _ = call("--refresh", "--json")
    assert code == 0
    assert json.loads(told)["refresh"] == {"new": [], "gone": [], "changed": []}

    gone, changed, new = provider.upset()
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()}
    code, told, error = call("--refresh", "--json")
    assert code == 2
    document = json.loads(told)["refresh"]
    assert document["new"] == [{"source": "2018/optical", "id": new}]
    assert document["gone"] == [{"source": "2018/optical", "id": gone}]
    assert [entry["id"] for entry in document["changed"]] == [changed]
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "1 new, 1 gone, 1 changed" in lines[0]
    assert "--out" in lines[0]

    code, told, error = call("--refresh")
    assert code == 2
    for line in (
        f"new: 2018/optical {new}",
        f"gone: 2018/optical {gone}",
        f"changed: 2018/optical {changed}",
    ):
        assert line in told
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_refresh_in_python_tells_and_starts_nothing(provider: Provider, tmp_path: Path) -> None:
    import cryoscale

    out = tmp_path / "run"
    assert cryoscale.changes(provider.config, out) is None
    map_here(provider.settings, out)
    assert cryoscale.changes(provider.config, out) == snapshot.Changes()
    finished = cryoscale.run(provider.config, out, refresh=True)
    assert finished.status().done == finished.status().total
    gone, changed, new = provider.upset()
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()}
    found = cryoscale.changes(provider.config, str(out))
    assert found is not None
    assert [item for _, item in found.new] == [new]
    assert [item for _, item in found.gone] == [gone]
    assert [item for _, item, _ in found.changed] == [changed]
    with pytest.raises(OutputError, match="1 new, 1 gone, 1 changed"):
        cryoscale.run(provider.config, out, refresh=True)
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_status_and_report_say_which_scenes_were_chosen_and_why(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryoscale.console import Console
    from cryoscale.finish import finish
    from cryoscale.results import Run

    markers = map_here(provider.settings, tmp_path / "run")
    state = Run(str(tmp_path / "run")).status()
    by_hand: dict[str, list[float]] = {}
    for marker in markers:
        for share in marker.scene_choice:
            counts = by_hand.setdefault(share.scene, [0, 0, 0, 0.0, 0])
            counts[0] += share.rank == 1
            counts[1] += share.scene in marker.scenes_read
            counts[2] += 1
            counts[3] += (1 - share.cloud_share) * marker.pixels
            counts[4] += marker.pixels
    assert {use.scene: (use.preferred, use.read, use.blocks) for use in state.scenes_used} == {
        scene: tuple(counts[:3]) for scene, counts in by_hand.items()
    }
    for use in state.scenes_used:
        assert use.clear_share == pytest.approx(by_hand[use.scene][3] / by_hand[use.scene][4], abs=1e-3)
        assert 0 <= use.snow_share <= 1
    assert sum(use.preferred for use in state.scenes_used) == len(markers)
    assert json.loads(json.dumps(state.to_dict()))["scenes_used"][0]["scene"] == state.scenes_used[0].scene
    capsys.readouterr()
    Console().totals(state, ())
    told = capsys.readouterr().out
    assert all(f"scene {use.scene}: preferred in {use.preferred}" in told for use in state.scenes_used)
    finish(provider.settings, str(tmp_path / "run"), lambda _: None)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Which scenes, and why" in report
    assert all(f"{use.preferred} of {use.blocks} blocks" in report for use in state.scenes_used)
    assert all(f"{m.year}/{m.epsg}/{m.block.key}" in report for m in markers)
    assert report.count("least cloud and fresh snow over the ice of") == len(markers)
