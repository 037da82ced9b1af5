"""The list of models: every one there is, and as large as the network is."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cryoscale.cli import app
from cryoscale.models.listing import DESCRIPTIONS, ModelInfo, list_models
from cryoscale.models.loading import NAMES
from cryoscale.models.weights import ARCHITECTURES, architecture


@pytest.fixture(scope="module")
def models() -> list[ModelInfo]:
    return list_models()


def test_every_architecture_and_every_model_without_weights_is_listed_once(models: list[ModelInfo]) -> None:
    names = [model.name for model in models]
    assert names == [*ARCHITECTURES, *NAMES]
    assert set(names) == set(DESCRIPTIONS)


def test_sizes_are_those_of_the_networks_and_arguments_rebuild_them(models: list[ModelInfo]) -> None:
    listed = {model.name: model for model in models}
    assert listed["cryonet"].parameters == pytest.approx(70.20e6, abs=5e3)
    assert listed["band-ratio"].parameters == 0
    for name in ("cryonet", "glavitu", "random-forest"):
        arguments = json.loads(json.dumps(listed[name].arguments))
        arguments.update({"encoder": "resnet18"} if name == "cryonet" else {})
        arguments.update({"blocks": 1} if name == "glavitu" else {})
        architecture(name)(**arguments)
    assert listed["glavitu"].tile_multiple == 16
    assert listed["random-forest"].tile_multiple == 1


def test_the_command_prints_names_sizes_and_arguments_for_people_and_for_programs(
    models: list[ModelInfo],
) -> None:
    shown = CliRunner().invoke(app, ["models"])
    assert shown.exit_code == 0
    for name in (*ARCHITECTURES, *NAMES):
        assert f"\n{name} " in "\n" + shown.stdout
    assert 'encoder: "resnet101"' in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert {row["name"]: row["parameters"] for row in found} == {m.name: m.parameters for m in models}
