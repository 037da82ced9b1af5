"""``cryoscale evaluate`` from outside: a finished run judged, and predicted again with something left out."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from cryoscale.cli import main
from cryoscale.errors import InputError, OperatorError, SourceError
from cryoscale.features.stack import CHANNELS
from cryoscale.judge import Wanted, judge
from cryoscale.learn.evaluate import evaluate
from cryoscale.ledger import Ledger
from cryoscale.models.weights import card_path, read_card
from cryoscale.read import snapshot
from cryoscale.repredict import Variant, _served, choose_variants, settings_of
from cryoscale.results import Run
from cryoscale.settings import Settings
from tests.integration.conftest import TinyRange, map_here, save_random_network


def with_temperature(weights: Path, target: Path, temperature: float) -> Path:
    """The same tensors with another temperature on their card."""
    shutil.copy(weights, target)
    card = read_card(weights).model_copy(update={"temperature": temperature})
    card_path(target).write_text(card.model_dump_json())
    return target


def narrow(tiny: TinyRange, weights: Path, **changes: Any) -> Settings:
    """A strip over the meridian between the zones: few blocks, of either zone."""
    west, south, east, north = tiny.bbox
    middle, half = (south + north) / 2, 0.0045
    region = {"bbox": [max(west, 83.992), middle - half, min(east, 84.008), middle + half]}
    model = {"weights": str(weights), "overlap": 0.5}
    return tiny.settings(region=region, model=model, **changes)


@pytest.fixture(scope="module")
def finished(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRange, Path, Path]:
    """A run of a random network whose card has temperature 0.25, which shows; its folder and its weights."""
    home = tmp_path_factory.mktemp("judged")
    # a copy of its own: a test below takes the elevation model away, and others map the range meanwhile
    own = replace(tiny_range, folder=shutil.copytree(tiny_range.folder, home / "range"))
    weights = with_temperature(tiny_range.weights, home / "w.safetensors", 0.25)
    map_here(narrow(own, weights), home / "run")
    return own, home / "run", weights


def labels_of(out: Path | str) -> dict[Any, np.ndarray]:
    run = Run(str(out))
    return {
        (epsg, name): run.mosaic(2018, epsg)[name].values
        for epsg in run.zones(2018)
        for name in ("label", "probability")
    }


def same_maps(one: dict[Any, np.ndarray], other: dict[Any, np.ndarray]) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[key], other[key], equal_nan=True) for key in one)


def test_a_map_predicted_again_is_that_of_a_run_which_never_had_it(
    finished: tuple[TinyRange, Path, Path], tmp_path: Path
) -> None:
    tiny, run, weights = finished
    truth = tiny.folder / "truth"
    stages: list[str] = []
    wanted = Wanted(out=str(tmp_path / "ev"), without="all-but-optical,calibration")
    judged = judge(str(run), truth, wanted, on_stage=stages.append)

    optical = {"optical": tiny.config()["sources"]["optical"]}
    map_here(narrow(tiny, weights, sources=optical), tmp_path / "never")
    plain = with_temperature(weights, tmp_path / "plain.safetensors", 1.0)
    map_here(narrow(tiny, plain), tmp_path / "plain")
    first = labels_of(run)
    for name, other in (("all-but-optical", "never"), ("calibration", "plain")):
        again = labels_of(tmp_path / "ev" / "without" / name)
        assert same_maps(again, labels_of(tmp_path / other))
        assert not same_maps(again, first)
        assert judged.without[name].scores == evaluate(tmp_path / other, truth).scores
    lying = {path.name for path in (tmp_path / "ev" / "without").iterdir()}
    assert lying == {"all-but-optical", "calibration"}, "and no copy of the weights"
    written = json.loads((tmp_path / "ev" / "evaluation.json").read_text())
    assert written["scores"] == evaluate(run, truth).scores.to_dict()
    assert (
        written["without"]["all-but-optical"]["scores"] == judged.without["all-but-optical"].scores.to_dict()
    )
    calibration = written["calibration"]
    assert calibration["temperature"] == 0.25
    assert calibration["before"]["ece"] != calibration["after"]["ece"]
    names = {path.name for path in (tmp_path / "ev").iterdir()}
    assert {"tables.md", "confusion.png", "reliability.png", "boundary.png", "areas-2018.png"} <= names
    assert {"strata.png", "without.png", "errors-2018-32645.png", "errors-2018-32644.png"} <= names
    assert set(written["strata"]) == {"slope_deg"}, "from the run's own elevation model"

    # Resumed, only what is missing is done again; nothing at all starts no workers.
    ledger = Ledger(str(tmp_path / "ev" / "without" / "all-but-optical"))
    before = {key: marker.finished for key, marker in ledger.done().items()}
    stages.clear()
    judge(str(run), truth, wanted, on_stage=stages.append)
    assert not [text for text in stages if "workers" in text]
    assert {key: marker.finished for key, marker in ledger.done().items()} == before


def test_what_is_predicted_again_without_a_scene_of_its_run_is_no_comparison_and_done_anew(
    finished: tuple[TinyRange, Path, Path], tmp_path: Path
) -> None:
    tiny, run, _ = finished
    truth, wanted = tiny.folder / "truth", Wanted(out=str(tmp_path / "ev"), without="velocity")
    scene = snapshot.thaw(f"{run}/items.parquet")["2018/optical"][0]
    files = [Path(asset.href.removeprefix("file://")) for asset in scene.assets.values()]
    files = [file for file in files if file.suffix == ".tif"]
    for file in files:
        file.rename(file.with_suffix(".away"))
    try:
        with pytest.raises(OperatorError, match=rf"without velocity, but also without scene {scene.id}"):
            judge(str(run), truth, wanted)
    finally:
        for file in files:
            file.with_suffix(".away").rename(file)
    assert not (tmp_path / "ev" / "evaluation.json").exists()
    judge(str(run), truth, wanted)
    again = Ledger(str(tmp_path / "ev" / "without" / "velocity"))
    assert not [marker.scenes_failed for marker in again.markers() if marker.scenes_failed]


def test_each_is_all_that_a_run_has_to_leave_out(finished: tuple[TinyRange, Path, Path]) -> None:
    _, out, _ = finished
    run = Run(str(out))
    each = ["thermal", "velocity", "insar", "terrain", "all-but-optical", "calibration"]
    assert choose_variants(run, "each") == each
    assert choose_variants(run, "insar, thermal,insar") == ["insar", "thermal"]
    run.manifest["identity"]["sources"].pop("insar")
    run.manifest["model"]["temperature"] = 1.0
    assert choose_variants(run, "each") == ["thermal", "velocity", "terrain", "all-but-optical"]
    for asked, words in (
        ("insar", "has none"),
        ("calibration", "has none"),
        ("optical", "is not known"),
        (",", "names nothing"),
    ):
        with pytest.raises(InputError, match=words):
            choose_variants(run, asked)


def test_weights_without_their_temperature_lie_in_a_folder_of_their_own_while_they_serve(
    finished: tuple[TinyRange, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, weights = finished
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    places = []
    for folder in ("memory://ev/without/calibration", "memory://ev/without/calibration", str(tmp_path / "c")):
        variant = Variant(Run(str(out)), "calibration", folder)
        with _served(variant, settings_of(variant)) as serving:
            copy = Path(str(serving.model.weights))
            places.append(copy.parent)
            assert read_card(copy).temperature == 1.0
            assert copy.read_bytes() == weights.read_bytes()
            assert "://" not in folder or copy.parent.stat().st_mode & 0o077 == 0
        assert not copy.parent.exists()
    assert len(set(places)) == 3
    assert places[2].parent == tmp_path


def test_a_run_that_is_not_finished_or_whose_weights_are_gone_is_told(
    finished: tuple[TinyRange, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, run, weights = finished
    truth = tiny.folder / "truth"
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    hidden = weights.with_suffix(".hidden")
    weights.rename(hidden)
    foreign = tmp_path / "foreign.safetensors"
    save_random_network(foreign, CHANNELS[:12])
    try:
        with pytest.raises(SourceError, match="--weights"):
            judge(str(copy), truth, Wanted(without="terrain"))
        with pytest.raises(SourceError, match="with which the run was made"):
            judge(str(copy), truth, Wanted(without="terrain", weights=str(foreign)))
    finally:
        hidden.rename(weights)
    assert not (copy / "evaluation").exists()
    marker = next((copy / "ledger" / "done").rglob("*.json"))
    marker.unlink()
    with pytest.raises(SourceError, match="a finished run"):
        judge(str(copy), truth)
    monkeypatch.setattr(sys, "argv", ["cryoscale", "confidence", str(copy), "--truth", str(truth)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2, "half a map says nothing about doubt either"
    with pytest.raises(SourceError, match="holds no run"):
        judge(str(tmp_path / "nothing"), truth)


def test_an_elevation_model_that_is_gone_costs_the_slopes_and_no_more(
    finished: tuple[TinyRange, Path, Path], tmp_path: Path
) -> None:
    tiny, run, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("evaluation"))
    collection = tiny.folder / "cop-dem-glo-30"
    hidden = collection.with_name("hidden")
    collection.rename(hidden)
    try:
        judged = judge(str(folder), tiny.folder / "truth")
    finally:
        hidden.rename(collection)
    assert judged.found.scores == evaluate(run, tiny.folder / "truth").scores
    assert judged.to_dict()["strata"] == {}
    assert "Slope is not known" in (folder / "evaluation" / "tables.md").read_text()


def test_the_command_writes_into_the_run_and_refuses_in_one_line(
    finished: tuple[TinyRange, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny, run, _ = finished

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cryoscale", "evaluate", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    truth = tiny.folder / "truth"
    outlines = tiny.folder / "truth" / "outlines.parquet"
    code, out, err = call(run, "--truth", truth, "--outlines", outlines)
    assert code == 0, err
    assert "glacier boundary" in out
    assert (run / "evaluation" / "evaluation.json").is_file()
    code, out, _ = call(run, "--truth", truth, "--out", tmp_path / "ev", "--json")
    assert (
        json.loads(out)["scores"] == json.loads((tmp_path / "ev" / "evaluation.json").read_text())["scores"]
    )

    far = tmp_path / "far.tif"
    with rasterio.open(truth / "32645.tif") as source:
        profile, labels = source.profile, source.read(1)
    profile["transform"] = rasterio.Affine.translation(0, 300_000) * profile["transform"]
    with rasterio.open(far, "w", **profile) as target:
        target.write(labels, 1)
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((run, "--truth", far), "without a known pixel"),
        ((run, "--truth", truth, "--without", "snow"), "--without snow"),
        ((run, "--truth", truth, "--strata", tmp_path / "empty"), "without a raster"),
        ((run, "--truth", truth, "--outlines", far), "far.tif"),
        ((run, "--truth", tmp_path / "empty"), "a raster of labels"),
        ((run, "--truth", truth, "--out", far), "far.tif"),
        ((run, "--truth", far, "--out", "foo://bar"), "foo://bar"),  # told before the truth is looked at
    ):
        code, _, err = call(*arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert words in err
        assert "Traceback" not in err
