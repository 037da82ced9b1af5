"""Every network that a recipe can name is trained, saved and served by the one path."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from cryoscale.errors import ConfigError
from cryoscale.learn.train import train
from cryoscale.models import weights
from cryoscale.models.predictor import Predictor
from tests.toy_training import SMALL, make_patches, recipe, toy_networks  # noqa: F401

NETWORKS: dict[str, dict[str, Any]] = {
    "cryonet": SMALL,
    "unet": {"encoder": "tu-resnet10t", "decoder_channels": [16, 16, 16, 16, 16]},
    "deeplabv3plus": {"encoder": "tu-resnet10t", "decoder_channels": 16},
    "segformer": {"encoder": "mit_b0", "decoder_channels": 16},
    "glavitu": {"width": 8, "blocks": 1, "heads": 2, "mlp": 16, "steps": 1, "tile_px": 32, "location": True},
    "random-forest": {"trees": 10, "leaves": 32, "depth": 8, "pixels_per_class": 300},
    "toy-normed": {},
    "toy-located": {},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return make_patches(tmp_path_factory.mktemp("patches") / "p.zarr")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_by_its_name_and_its_weights_serve(patches, tmp_path, name):
    events, out = [], tmp_path / "w.safetensors"
    config = recipe(patches, model={"name": name, "arguments": NETWORKS[name]}, epochs=1)
    card = train(config, out=out, progress=events.append)
    model, loaded = weights.load(out)
    assert loaded == card
    assert card.architecture == name
    assert events[0]["kind"] == "model"
    assert events[0]["parameters"] == card.training["parameters"] > 0
    assert set(card.metrics) == {"validation", "validation_without_thermal_velocity_insar"}
    assert card.temperature > 0
    predict = Predictor(model, card, device="cpu")
    places = (np.zeros((1, 4), np.float32),) if predict.needs_location else ()
    answer = predict(np.full((1, 30, 32, 32), np.nan, np.float32), *places)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    if name == "random-forest":
        assert card.metrics["validation"]["mean"]["iou"] > 0.8, "one channel tells the classes"
        assert not (tmp_path / "w.training" / "state.safetensors").exists()


def test_a_forest_has_nothing_to_start_from(patches, tmp_path):
    """It would be grown anew, whatever the recipe says of steps, and its card would name the first one."""
    forest = {"name": "random-forest", "arguments": NETWORKS["random-forest"]}
    first = tmp_path / "first.safetensors"
    train(recipe(patches, model=forest), out=first)
    for changes in ({}, {"freeze_encoder": True}):
        again = recipe(patches, model=None, initial=first, **changes)
        with pytest.raises(
            ConfigError, match=r"first\.safetensors, a random-forest.*leave initial out"
        ) as told:
            train(again, out=tmp_path / "w.safetensors")
        assert "\n" not in str(told.value)
    assert not (tmp_path / "w.safetensors").exists()


def test_the_second_head_counts_as_much_as_the_network_says(patches, tmp_path, monkeypatch):
    """With a weight of 0 for it, its own weights get no gradient and only shrink by weight decay."""
    import tests.toy_training as toy

    def auxiliary_after(weight: float, name: str) -> torch.Tensor:
        monkeypatch.setattr(toy.Normed, "auxiliary_weight", weight)
        out = tmp_path / f"{name}.safetensors"
        train(recipe(patches, model={"name": "toy-normed"}, epochs=1, weight_decay=0.0), out=out)
        return weights.load(out)[0].auxiliary.weight

    torch.manual_seed(3)
    initial = toy.Normed(30, 5).auxiliary.weight
    assert torch.equal(auxiliary_after(0.0, "none"), initial)
    assert not torch.equal(auxiliary_after(0.5, "half"), initial)


def test_dropout_is_drawn_anew_in_every_epoch_and_alike_in_every_training(patches, tmp_path):
    values = {"model": {"name": "toy-normed"}, "epochs": 2}
    cards = [train(recipe(patches, **values), out=tmp_path / f"{n}.safetensors") for n in range(2)]
    assert cards[0].sha256 == cards[1].sha256


def test_a_location_code_tells_places_apart(patches, tmp_path):
    """The network that knows only where it is learns the shares of classes there, which is all it can."""
    out = tmp_path / "w.safetensors"
    train(recipe(patches, model={"name": "toy-located"}, epochs=4), out=out)
    curves = json.loads((tmp_path / "w.training" / "curves.json").read_text())
    assert curves[-1]["loss"] < curves[0]["loss"]


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({"name": "cryonet", "arguments": {"encoder": "resnet7"}}, "resnet7"),
        ({"name": "cryonet", "arguments": {"depth": 3}}, "depth"),
        ({"name": "unet", "arguments": {"encoder": "no-such-encoder"}}, "no-such-encoder"),
    ],
)
def test_arguments_that_a_network_does_not_take_are_named_in_one_line(patches, tmp_path, model, match):
    with pytest.raises(ConfigError, match=match) as caught:
        train(recipe(patches, model=model), out=tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_one_patch_a_step_is_too_little_for_batch_norm_over_a_single_pixel(patches, tmp_path):
    with pytest.raises(ConfigError, match="batch norm"):
        train(
            recipe(patches, model={"name": "cryonet", "arguments": SMALL}, batch=1),
            out=tmp_path / "w.safetensors",
        )
