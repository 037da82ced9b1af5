"""A model that a process keeps: an actor takes it where it is the one it was told to load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryoscale.infer.actor import ModelActor
from cryoscale.models import loading
from cryoscale.models.weights import card_path
from tests.integration.conftest import save_random_network


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    """Weights that this process keeps a model of."""
    path = tmp_path / "net.safetensors"
    save_random_network(path)
    loading.keep(weights=path)
    yield path
    loading._kept.clear()


def predictor_of(**spec: object) -> object:
    """What an actor that is told ``spec`` predicts with."""
    return ModelActor({"name": None, "precision": "auto", **spec}, tile_px=64)._predictor


def test_an_actor_takes_the_model_that_is_kept_and_so_does_the_next(weights: Path) -> None:
    first = predictor_of(weights=str(weights))
    assert first is loading._kept[0].predictor
    assert predictor_of(weights=str(weights), precision="fp32") is first  # what auto came to here


def test_the_same_weights_at_another_place_are_the_same_model(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy.safetensors"
    other.parent.mkdir()
    shutil.copy(weights, other)
    shutil.copy(card_path(weights), card_path(other))
    assert predictor_of(weights=str(other)) is loading._kept[0].predictor


def test_other_weights_at_the_same_place_are_loaded_and_the_kept_ones_are_let_go(weights: Path) -> None:
    kept = loading._kept[0].predictor
    save_random_network(weights, bring_basis=False)  # the same tensors under another card
    assert predictor_of(weights=str(weights)) is not kept
    assert not loading._kept


@pytest.mark.parametrize(
    "other", [{"precision": "bf16"}, {"flips": True}, {"weights": None, "name": "band-ratio"}]
)
def test_another_way_to_predict_is_loaded(weights: Path, other: dict[str, object]) -> None:
    kept = loading._kept[0].predictor
    assert predictor_of(**{"weights": str(weights), **other}) is not kept
