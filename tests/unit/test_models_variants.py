"""Flips and dropout at prediction: against plain loops, and nothing but the place decides a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cryoscale.errors import InputError
from cryoscale.features.turn import TURNS, turn_map, turn_stack
from cryoscale.grid import Window
from cryoscale.infer.predict import Tiling, predict_window
from cryoscale.models.loading import load_predictor
from cryoscale.models.predictor import Predictor
from cryoscale.models.variants import MonteCarloDropout, Turned
from cryoscale.models.weights import Card
from tests.integration.conftest import save_random_network

CHANNELS = ("B02", "slope", "aspect")


class Sloped(nn.Module):
    """A convolution that knows left from right, with dropout on the way."""

    tile_multiple = 8

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.drop = nn.Conv2d(3, 6, 3, padding=1), nn.Dropout(dropout)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return y


def predictor_of(network: nn.Module) -> Predictor:
    card = Card(
        architecture="sloped",
        arguments={},
        channels=CHANNELS,
        mean=(0.5, 20.0, 180.0),
        std=(0.5, 10.0, 90.0),
        classes=("rock", "ice", "water"),
    )
    return Predictor(network, card, device="cpu", precision="fp32")


def features(height: int = 32, width: int = 32) -> np.ndarray:
    """Features (c, h, w) with flat ground and a hole in one channel."""
    rng = np.random.default_rng(3)
    x = rng.random((3, height, width), np.float32) * np.array([1, 40, 360], np.float32)[:, None, None]
    x[1:, :5] = 0
    x[1, -3, -3] = np.nan
    return x


def mapped(model: object, window: Window, extent: Window, x: np.ndarray, batch: int = 1) -> np.ndarray:
    tiling = Tiling(16, 0.5, batch)
    return predict_window(x, (extent.row, extent.col), window, predict=model, tiling=tiling).probability


def test_the_mean_over_turns_is_that_of_a_plain_loop() -> None:
    inner = predictor_of(Sloped())
    tile = features(16, 24)[np.newaxis]
    expected = []
    for quarters in range(4):
        for mirror in (False, True):
            x = tile.copy()
            if mirror:
                x = x[..., ::-1].copy()
                x[:, 2] = -x[:, 2]
            x = np.rot90(x, quarters, (2, 3)).copy()
            x[:, 2] = (x[:, 2] - 90 * quarters) % 360
            x[:, 2][x[:, 1] == 0] = 0
            answer = np.rot90(inner(x), -quarters, (2, 3))
            expected.append(answer[..., ::-1] if mirror else answer)
    got = Turned(inner)(tile)
    np.testing.assert_allclose(got, np.mean(expected, axis=0), atol=1e-6)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    assert np.abs(got - inner(tile)).max() > 0.01  # the network does know left from right


def test_the_mean_over_turns_does_not_know_which_way_a_tile_lies() -> None:
    model = Turned(predictor_of(Sloped()))
    tile = features(16, 16)[np.newaxis]
    for turn in TURNS:
        turned = model(turn_stack(tile, CHANNELS, *turn))
        np.testing.assert_allclose(turned, turn_map(model(tile), *turn), atol=1e-5)


@pytest.mark.parametrize("variant", ["flips", "dropout", "both"])
def test_a_part_is_the_whole_to_the_last_bit_whatever_the_batch(variant: str) -> None:
    network = Sloped(0.0 if variant == "flips" else 0.3)
    model: object = predictor_of(network)
    if variant != "dropout":
        model = Turned(model)
    if variant != "flips":
        model = MonteCarloDropout(model, network, 3)
    x, extent = features(96, 96), Window(32645, -48, 64, 96, 96)
    whole = mapped(model, extent.pad(-16), extent, x)
    part = Window(32645, -20, 90, 27, 31)
    assert extent.pad(-16).intersect(part) == part
    for batch in (1, 3):
        small = mapped(model, part, extent, x, batch)
        np.testing.assert_array_equal(small, whole[:, *part.slices_in(extent.pad(-16))])


def test_dropout_differs_from_place_to_place_and_repeats_at_each() -> None:
    network = Sloped(0.5)
    model = MonteCarloDropout(predictor_of(network), network, 4)
    tile = features(16, 16)[np.newaxis]
    here, there = np.array([[32645, -8, 16]]), np.array([[32645, 16, -8]])
    torch.manual_seed(1)
    first = model(tile, places=here)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(model(tile, places=here), first)
    assert (torch.random.get_rng_state() == state).all()
    assert np.abs(model(tile, places=there) - first).max() > 1e-4


def test_the_mean_over_dropout_is_that_of_the_network_with_the_same_masks() -> None:
    """A network whose dropout comes last, so that a mask's effect is known: each logit is kept or 0."""

    class Bare(nn.Module):
        tile_multiple = 8

        def __init__(self) -> None:
            super().__init__()
            self.scale, self.drop = nn.Parameter(torch.ones(1)), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.drop(self.scale * torch.ones_like(x))
            return y

    network = Bare()
    model = MonteCarloDropout(predictor_of(network), network, 200)
    got = model(features(8, 8)[np.newaxis], places=np.array([[32645, 0, 0]]))
    # logits of 0 or 2 (dropout scales by 1/(1-p)), each with probability one half
    logits = np.array([[a, b, c] for a in (0, 2) for b in (0, 2) for c in (0, 2)], float)
    expected = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(got.mean(axis=(0, 2, 3)), expected, atol=0.01)
    spread = got.std(axis=(0, 2, 3))
    assert 0.005 < spread.max() < 0.05  # the mean of 200, not of one


def test_batch_norm_stays_in_evaluation_mode() -> None:
    network = Sloped(0.3)
    before = network.norm.running_mean.clone()
    model = MonteCarloDropout(predictor_of(network), network, 2)
    model(features(16, 16)[np.newaxis])
    assert (network.drop.training, network.norm.training) == (True, False)
    assert torch.equal(network.norm.running_mean, before)


def test_dropout_within_torchs_own_transformer_layer_is_really_on() -> None:
    class Attending(nn.Module):
        tile_multiple = 8

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.4, batch_first=True)
            self.enter, self.layer, self.leave = nn.Conv2d(3, 4, 1), layer, nn.Conv2d(4, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.enter(x)
            tokens = self.layer(y.flatten(2).transpose(1, 2))
            out: torch.Tensor = self.leave(tokens.transpose(1, 2).reshape(y.shape))
            return out

    network = Attending()
    model = MonteCarloDropout(predictor_of(network), network, 2)
    tile = features(8, 8)[np.newaxis]
    answers = [model(tile, places=np.array([[32645, 0, n]])) for n in range(2)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_models_that_cannot_be_varied_are_refused_in_one_line(tmp_path: Path) -> None:
    save_random_network(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="mc_dropout 5 with cryonet, which has no dropout"):
        load_predictor(weights=tmp_path / "net.safetensors", mc_dropout=5)
    with pytest.raises(InputError, match="mc_dropout 5 with band-ratio, which has no dropout"):
        load_predictor(name="band-ratio", mc_dropout=5)
    with pytest.raises(InputError, match="flips with band-ratio, which sees each pixel by itself"):
        load_predictor(name="band-ratio", flips=True)
    save_random_network(tmp_path / "aspect.safetensors", ("B02", "aspect"))
    with pytest.raises(InputError, match="flips with cryonet, which takes aspect without slope"):
        load_predictor(weights=tmp_path / "aspect.safetensors", flips=True)


def test_a_turned_model_says_so_and_keeps_the_rest(tmp_path: Path) -> None:
    save_random_network(tmp_path / "net.safetensors")
    plain = load_predictor(weights=tmp_path / "net.safetensors")
    turned = load_predictor(weights=tmp_path / "net.safetensors", flips=True)
    assert turned.describe() == {**plain.describe(), "flips": 8}
    for name in ("channels", "classes", "pca", "tile_multiple", "needs_halo", "needs_location"):
        assert getattr(turned, name) == getattr(plain, name)


def test_glavitu_has_dropout_and_takes_its_location_through_both(tmp_path: Path) -> None:
    from cryoscale.models.weights import ARCHITECTURES, build

    assert "glavitu" in ARCHITECTURES
    arguments = {
        "in_channels": 3,
        "classes": 3,
        "modalities": [[0, 1], [2]],
        "width": 8,
        "blocks": 1,
        "heads": 2,
        "mlp": 16,
        "tile_px": 64,
        "location": True,
    }
    card = Card(
        architecture="glavitu",
        arguments=arguments,
        channels=CHANNELS,
        mean=(0.5, 20.0, 180.0),
        std=(0.5, 10.0, 90.0),
        classes=("rock", "ice", "water"),
    )
    network = build(card)
    inner = Predictor(network, card, device="cpu", precision="fp32")
    model = MonteCarloDropout(Turned(inner), network, 2)
    assert model.needs_location
    x = features(96, 96)
    extent = Window(32645, 100, 100, 96, 96)
    tiling = Tiling(64, 0.5, 1)
    found = predict_window(x, (100, 100), extent.pad(-32), predict=model, tiling=tiling)
    again = predict_window(x, (100, 100), extent.pad(-32), predict=model, tiling=Tiling(64, 0.5, 2))
    np.testing.assert_array_equal(found.probability, again.probability)
    assert found.probability.std() > 0
