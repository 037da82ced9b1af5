"""Flips, dropout and the confidence layer as choices of a whole run, and the commands beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoscale.cli import main
from cryoscale.config import load_config
from cryoscale.errors import ConfigError, InputError, OutputError
from cryoscale.forecast.plan import Asked, make_plan
from cryoscale.learn.patches import Patches
from cryoscale.manifest import _gates, digest
from cryoscale.models import weights
from cryoscale.models.curve import Calibration
from cryoscale.preparation import prepare
from cryoscale.repredict import Variant, settings_of
from cryoscale.results import Run
from tests.integration.conftest import TinyRange, map_here
from tests.integration.faults import Command
from tests.unit.test_learn_calibrate import write_patches


def small(tiny: TinyRange, part: tuple[float, float] = (0.25, 0.55), **model: Any) -> dict[str, Any]:
    """A run of some blocks in optical and terrain alone; ``part`` of the range in longitude."""
    west, south, east, north = tiny.bbox
    width, height = east - west, north - south
    bbox = [west + part[0] * width, south + 0.3 * height, west + part[1] * width, south + 0.6 * height]
    return {
        "region": {"bbox": [round(v, 5) for v in bbox]},
        "sources": {
            "optical": {"collection": "sentinel-2-l2a"},
            "terrain": {"collection": "cop-dem-glo-30"},
        },
        "model": {"weights": str(tiny.weights), "overlap": 0.5, **model},
    }


def layers_of(out: Path, epsg: int) -> xr.Dataset:
    return Run(str(out)).mosaic(2018, epsg).load()


def same_inside(one: Path, other: Path) -> tuple[int, set[str]]:
    """Pixels that both map, and the layers that differ on one of them."""
    pixels, differing = 0, set()
    for epsg in set(Run(str(one)).zones(2018)) & set(Run(str(other)).zones(2018)):
        a, b = xr.align(layers_of(one, epsg), layers_of(other, epsg), join="inner")
        inside = (a["label"].values != 255) & (b["label"].values != 255)
        pixels += int(inside.sum())
        for name in ("probability", "label", "confidence", "disagreement"):
            if (a[name].values != b[name].values)[..., inside].any():
                differing.add(name)
    return pixels, differing


@pytest.fixture(scope="module")
def plain(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    map_here(tiny_range.settings(**small(tiny_range)), out)
    return out


def test_a_run_with_flips_is_another_map_of_the_same_ground_and_its_part_is_the_whole(
    tiny_range: TinyRange, plain: Path, tmp_path: Path
) -> None:
    map_here(tiny_range.settings(**small(tiny_range, flips=True, overlap=0.25)), tmp_path / "whole")
    part = small(tiny_range, (0.35, 0.4), flips=True, overlap=0.25)
    map_here(tiny_range.settings(**part), tmp_path / "part", backwards=True)
    pixels, differing = same_inside(tmp_path / "whole", tmp_path / "part")
    assert (pixels > 1000, differing) == (True, set())
    pixels, differing = same_inside(tmp_path / "whole", plain)
    assert (pixels > 1000, "probability" in differing) == (True, True)
    manifest = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert manifest["model"]["flips"] == 8
    assert manifest["identity"]["model"]["flips"] is True
    again = Variant(Run(str(tmp_path / "whole")), "thermal", str(tmp_path / "without"))
    assert settings_of(again).model.choices == {"flips": True}
    with pytest.raises(OutputError):
        prepare(tiny_range.settings(**small(tiny_range)), str(tmp_path / "whole"))


def test_confidence_by_the_winner_changes_that_layer_alone(
    tiny_range: TinyRange, plain: Path, tmp_path: Path
) -> None:
    map_here(tiny_range.settings(**small(tiny_range, confidence="max")), tmp_path / "run")
    pixels, differing = same_inside(tmp_path / "run", plain)
    assert (pixels > 1000, differing) == (True, {"confidence"})
    for epsg in Run(str(tmp_path / "run")).zones(2018):
        found = layers_of(tmp_path / "run", epsg)
        np.testing.assert_array_equal(found["confidence"], found["probability"].max("class"))
        assert found.attrs["cryoscale:confidence"] == "probability of the most probable class"
        assert layers_of(plain, epsg).attrs["cryoscale:confidence"] == "one minus normalised entropy"


def test_a_curve_in_the_card_is_read_and_is_part_of_what_the_run_is(
    tiny_range: TinyRange, plain: Path, tmp_path: Path
) -> None:
    card = weights.read_card(tiny_range.weights)
    curve = {"confidence": (0.0, 0.5, 1.0), "accuracy": (0.4, 0.6, 0.9), "count": (5, 5, 5)}
    new = card.model_copy(update={"calibration": Calibration(**curve)})
    weights.copy_with_card(tiny_range.weights, new, tmp_path / "new.safetensors")
    settings = tiny_range.settings(**small(tiny_range, weights=str(tmp_path / "new.safetensors")))
    with pytest.raises(OutputError):
        prepare(settings, str(plain))
    map_here(settings, tmp_path / "run")
    assert same_inside(tmp_path / "run", plain)[1] == {"confidence"}
    for epsg in Run(str(tmp_path / "run")).zones(2018):
        a, b = layers_of(plain, epsg)["confidence"].values, layers_of(tmp_path / "run", epsg)
        expected = 250 * np.interp(a / 250, curve["confidence"], curve["accuracy"])
        inside = a != 255
        assert np.abs(b["confidence"].values.astype(float) - expected)[inside].max() <= 1
        assert b.attrs["cryoscale:confidence"].endswith("read as observed accuracy")


def test_a_curve_for_single_answers_is_not_read_by_a_run_with_flips(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    card = weights.read_card(tiny_range.weights)
    curve = {"confidence": (0.0, 1.0), "accuracy": (0.4, 0.9), "count": (5, 5)}
    identities = []
    for name, more in (("single", {}), ("flips", {"flips": True})):
        new = card.model_copy(update={"calibration": Calibration(**curve, **more)})
        path = tmp_path / f"{name}.safetensors"
        weights.copy_with_card(tiny_range.weights, new, path)
        prepare(tiny_range.settings(**small(tiny_range, weights=str(path), flips=True)), str(tmp_path / name))
        model = json.loads((tmp_path / name / "run.json").read_text())["model"]
        identities.append((model["confidence"], model["identity"].get("curve")))
    assert identities == [
        ("one minus normalised entropy, uncalibrated: the curve is for single answers", "not read"),
        ("one minus normalised entropy, read as observed accuracy", None),
    ]


def test_defaults_add_nothing_to_the_identity_of_a_run(plain: Path) -> None:
    identity = json.loads((plain / "run.json").read_text())["identity"]
    assert set(identity["model"]) == {"name", "sha256", "card"}


def test_a_run_of_large_tiles_whose_gates_looked_at_the_whole_of_them_is_another(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    assert [_gates(px, 256) for px in (256, 320, 352)] == [{}, {}, {"squeeze_px": 256}], "as the gates part"
    assert _gates(4096, None) == {}
    tiling = {"tile_px": 512, "block_px": 512}
    prepare(tiny_range.settings(**small(tiny_range), tiling=tiling), str(tmp_path))
    path = tmp_path / "run.json"
    manifest = json.loads(path.read_text())
    assert manifest["identity"]["model"].pop("squeeze_px") == 256
    manifest["identity_sha256"] = digest(manifest["identity"])
    del manifest["seal"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match="squeeze_px"):
        prepare(tiny_range.settings(**small(tiny_range), tiling=tiling), str(tmp_path))


@pytest.mark.parametrize("field", ["temperature", "mean"])
def test_another_card_beside_the_same_tensors_is_another_run(
    tiny_range: TinyRange, plain: Path, tmp_path: Path, field: str
) -> None:
    card = weights.read_card(tiny_range.weights)
    new = {"temperature": card.temperature * 2, "mean": tuple(m + 1 for m in card.mean)}[field]
    weights.copy_with_card(
        tiny_range.weights, card.model_copy(update={field: new}), tmp_path / "new.safetensors"
    )
    settings = tiny_range.settings(**small(tiny_range, weights=str(tmp_path / "new.safetensors")))
    with pytest.raises(OutputError):
        prepare(settings, str(plain))


def test_dropout_is_refused_before_anything_is_written(tiny_range: TinyRange, tmp_path: Path) -> None:
    settings = tiny_range.settings(**small(tiny_range, mc_dropout=10))
    with pytest.raises(InputError, match="mc_dropout 10 with cryonet, which has no dropout"):
        prepare(settings, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_plan_knows_what_the_choices_cost(tiny_range: TinyRange) -> None:
    plans = [
        make_plan(tiny_range.settings(**small(tiny_range, **model)), asked=Asked(measured=False))
        for model in ({}, {"flips": True})
    ]
    assert [plan.passes for plan in plans] == [1, 8]
    assert len({plan.tiles for plan in plans}) == 1
    assert plans[1].to_dict()["passes"] == 8
    with pytest.raises(InputError, match="no dropout"):
        make_plan(tiny_range.settings(**small(tiny_range, mc_dropout=5)), asked=Asked(measured=False))


@pytest.mark.parametrize("model", [{"mc_dropout": 1}, {"flips": "often"}, {"confidence": "high"}])
def test_choices_that_make_no_sense_are_refused(tiny_range: TinyRange, model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(model))}"):
        load_config(tiny_range.config(**small(tiny_range, **model)))


# --- from outside -------------------------------------------------------------------------------


def test_importance_and_calibrate_from_outside(
    tiny_range: TinyRange, patch_set: Path, tmp_path: Path
) -> None:
    net = tiny_range.weights
    code, said, complained = Command.start(
        "importance", net, "--patches", patch_set, "--repeats", "2", "--out", tmp_path / "imp", "--json"
    ).end()
    assert code == 0, complained
    found = json.loads(said)
    assert found == json.loads((tmp_path / "imp" / "importance.json").read_text())
    assert set(found["channels"]) == set(Patches.open(patch_set).channels)
    assert len(found["channels"]["B02"]["overall"]["iou"]["repeats"]) == 2
    assert (tmp_path / "imp" / "importance.png").read_bytes()[:4] == b"\x89PNG"
    assert (found["split"], found["note"]) == ("test", None)
    made = tmp_path / "new.safetensors"
    code, said, complained = Command.start("calibrate", net, "--patches", patch_set, "--out", made).end()
    assert code == 0, complained
    assert "temperature 1.000 before" in said
    assert weights.read_card(made).calibration is not None


def test_a_set_without_test_patches_is_measured_on_those_for_validation_which_is_said(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patches = write_patches(tmp_path / "p.zarr", tiny_range.weights, splits=["validation", "validation"])

    def said(*arguments: object) -> str:
        given = [*arguments, "--patches", patches]
        monkeypatch.setattr(sys, "argv", ["cryoscale", *map(str, given)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert not ended.value.code, told
        return told.out

    net = tiny_range.weights
    found = json.loads(said("importance", net, "--repeats", 1, "--json"))
    assert found["split"] == "validation"
    assert "no patches for test" in found["note"]
    assert found["note"] in " ".join(said("importance", net, "--repeats", 1).split())
    assert json.loads(said("importance", net, "--split", "validation", "--json"))["note"] is None
    told = json.loads(said("calibrate", net, "--json"))
    assert set(told["splits"]) == {"validation"}
    assert (
        told["note"]
        == "no patches were held out: the figures are those of split validation, which was fitted on"
    )
    assert told["note"] in " ".join(said("calibrate", net).split())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("importance {net} --patches {none}", "a patch set"),
        ("importance {none}.safetensors --patches {set}", "nothing there"),
        ("importance {net} --patches {set} --split unused", "none in split 'unused'"),
        ("importance {net} --patches {set} --split validation", "two or more to exchange"),
        ("importance {net} --patches {set} --repeats 0", "repeats 0"),
        ("importance {net} --patches {set} --by rows", "by 'rows'"),
        ("calibrate {net} --patches {set} --split nosuch", "split 'nosuch'"),
        ("calibrate {net} --patches {set} --out {none}.pt", "ends in .safetensors"),
        ("confidence {none} --truth {set}", "holds no run"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: str,
    words: str,
    tiny_range: TinyRange,
    patch_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = command.format(net=tiny_range.weights, set=patch_set, none=tmp_path / "none")
    monkeypatch.setattr(sys, "argv", ["cryoscale", *filled.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    assert words in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def patch_set(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    return write_patches(folder / "patches.zarr", tiny_range.weights, splits=["validation", "test", "test"])
