"""Weights of one region trained on in another."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from cryoscale.errors import ConfigError, WeightsError
from cryoscale.learn.recipe import TrainConfig, load_config
from cryoscale.learn.train import train
from cryoscale.models import weights
from tests.toy_training import PCA, SMALL, make_patches, recipe, toy_networks  # noqa: F401

ALLOWED = {"allow_absent": ["water", "vegetation"]}
CALM = {"flips": False, "drop": {}, "drop_together": 0.0}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A CryoNet that has learnt one region."""
    folder = tmp_path_factory.mktemp("home")
    patches = make_patches(folder / "p.zarr", patch_px=64, classes=3, count=18)
    model = {"name": "cryonet", "arguments": SMALL}
    config = recipe(patches, model=model, epochs=9, batch=2, augment=CALM, **ALLOWED)
    out = folder / "w.safetensors"
    card = train(config, out=out)
    assert card.metrics["validation"]["mean"]["iou"] > 0.5
    return out


@pytest.fixture(scope="module")
def abroad(tmp_path_factory):
    """Patches of another region, whose reflectances are all shifted."""
    path = tmp_path_factory.mktemp("abroad") / "p.zarr"
    return make_patches(path, patch_px=64, classes=3, offset=0.35, count=18)


def curve(out):
    return json.loads((out.with_suffix(".training") / "curves.json").read_text())


@pytest.mark.parametrize("frozen", [False, True])
def test_few_iterations_in_another_region_help_there_and_a_frozen_encoder_stays(
    home, abroad, tmp_path, frozen
):
    out, events = tmp_path / "w.safetensors", []
    changes = {"initial": home, "model": None, "epochs": None, "freeze_encoder": frozen}
    config = recipe(abroad, **changes, iterations=13, augment=CALM, **ALLOWED)
    card = train(config, out=out, progress=events.append)
    rows = curve(out)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5], "12 patches in batches of 4: 3 steps a pass"
    assert rows[0]["loss"] is None
    assert sum(event["kind"] == "step" for event in events) == 13
    assert card.metrics["validation"]["mean"]["iou"] > rows[0]["validation_mean_iou"] + 0.1
    assert card.training["best_epoch"] > 0

    before, after = load_file(home), load_file(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    in_encoder = {name for name in before if name.startswith("encoder.")}
    assert any("running_mean" in name for name in in_encoder)
    assert changed & in_encoder == set() if frozen else in_encoder <= changed
    # The last block of the decoder has no skip, and so no use for its first gate.
    rest = {n for n in before if n.endswith("weight") and "x_0_4.attention1" not in n} - in_encoder
    assert rest <= changed
    told = next(event for event in events if event["kind"] == "model")
    assert told["trainable"] < told["parameters"] if frozen else told["trainable"] == told["parameters"]

    initial = weights.read_card(home)
    assert (card.mean, card.std, card.arguments) == (initial.mean, initial.std, initial.arguments)
    assert card.training["initial_sha256"] == initial.sha256


def test_where_learning_only_harms_the_initial_weights_stay_the_best(home, abroad, tmp_path):
    """The region that they know, and a step so long that all is forgotten."""
    at_home = home.with_name("p.zarr")
    changes = {"initial": home, "model": None, "epochs": 1, "learning_rate": 30.0}
    card = train(recipe(at_home, **changes, **ALLOWED), out=tmp_path / "w.safetensors")
    assert card.training["best_epoch"] == 0
    before, after = load_file(home), load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_fine_tuning_that_was_stopped_goes_on_to_the_same_weights(home, abroad, tmp_path):
    config = recipe(abroad, initial=home, model=None, epochs=3, **ALLOWED)
    straight = train(config, out=tmp_path / "straight.safetensors")

    def stop(event):
        if event["kind"] == "step" and event["epoch"] == 2:
            raise KeyboardInterrupt

    out = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, out=out, progress=stop)
    assert train(config, out=out).sha256 == straight.sha256
    assert [row["epoch"] for row in curve(out)] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["w.safetensors", "w.training/best.safetensors"])
def test_weights_that_the_training_would_replace_are_no_start(abroad, tmp_path, name):
    first = tmp_path / name
    first.parent.mkdir(exist_ok=True)
    first.write_bytes(b"weights")
    config = recipe(abroad, initial=tmp_path / "." / name, model=None, **ALLOWED)
    with pytest.raises(ConfigError, match=f"initial .*{name}, which this training would replace"):
        train(config, out=tmp_path / "w.safetensors")
    assert first.read_bytes() == b"weights"


def test_what_does_not_go_together_with_the_initial_weights_is_refused(home, abroad, tmp_path):
    allowed = {"initial": home, **ALLOWED}
    out = tmp_path / "w.safetensors"
    with pytest.raises(ConfigError, match="leave model out"):
        train(recipe(abroad, model={"name": "cryonet"}, **allowed), out=out)
    other = {"mean": [0.2] * 12, "components": np.eye(3, 12).tolist()}
    strange = make_patches(tmp_path / "pca.zarr", patch_px=64, classes=3, pca=other)
    with pytest.raises(WeightsError, match="principal components"):
        train(recipe(strange, model=None, **allowed), out=out)
    nearly = {**PCA, "mean": [0.1 + 1e-9] * 12}
    same = make_patches(tmp_path / "same.zarr", patch_px=64, classes=3, pca=nearly)
    assert train(recipe(same, model=None, epochs=1, **allowed), out=out).training["best_epoch"] >= 0
    with pytest.raises(WeightsError, match="check the path"):
        train(recipe(abroad, model=None, **{**allowed, "initial": tmp_path / "no.safetensors"}), out=out)
    with pytest.raises(ValidationError, match="freeze random weights"):
        recipe(abroad, freeze_encoder=True)
    with pytest.raises(ValidationError, match="either epochs or iterations"):
        recipe(abroad, iterations=3)


def test_simulated_patches_to_train_on_from_weights_are_made_in_the_weights_own_basis(
    home, tmp_path, monkeypatch
):
    class Made(Exception):
        pass

    def noted(config, out, *, progress, basis):
        raise Made(basis)

    monkeypatch.setattr("cryoscale.learn.train.from_simulation", noted)
    simulated = {"train_seeds": [1], "validation_seeds": [2], "size": "tiny"}
    for initial, wanted in ((home, PCA), (None, None)):
        given = {} if initial is None else {"initial": initial}
        with pytest.raises(Made) as made:
            train(TrainConfig(name="t", simulation=simulated, **given), out=tmp_path / "w.safetensors")
        (basis,) = made.value.args
        assert (None if basis is None else basis.to_dict()) == wanted


def test_paths_in_a_recipe_are_looked_up_beside_it(home, abroad, tmp_path):
    path = abroad.with_name("r.yaml")
    path.write_text("name: x\npatches: p.zarr\ninitial: elsewhere.safetensors\n")
    config = load_config(path)
    assert config.patches == str(abroad)
    assert str(config.initial) == "elsewhere.safetensors"
