"""The recipes that come with cryoscale, and what a training refuses before it begins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import benchmarks
import cryoscale.learn
from benchmarks.overlap import SCALES
from cryoscale.config import load_config as load_run
from cryoscale.errors import ConfigError, SourceError
from cryoscale.features.stack import CHANNELS
from cryoscale.learn.curves import draw_curves, save_curves
from cryoscale.learn.patches import PatchWriter, Place
from cryoscale.learn.progress import line
from cryoscale.learn.recipe import LossConfig, SimulationConfig, TrainConfig, load_config
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.learn.train import train
from tests.toy_training import PCA, make_patches, recipe, toy_networks  # noqa: F401

HERE = Path(cryoscale.learn.__file__).parent


def test_the_recipe_of_the_benchmarks_of_overlap_and_peers_is_one_of_the_full_cryonet() -> None:
    config = load_config(Path(benchmarks.__file__).with_name("cryonet_brief.yaml"))
    assert config.model.name == "cryonet"
    assert config.model.arguments == {"encoder": "resnet101"}
    assert config.simulation is not None
    seen = {seed for scale in SCALES.values() for seed, _ in scale.ranges}
    assert seen.isdisjoint(config.simulation.train_seeds), "it would be judged by what it has learned"


def test_the_protocol_of_the_study_is_the_published_one():
    config = load_config(HERE / "poiqu.yaml")
    assert (config.epochs, config.batch, config.learning_rate, config.weight_decay) == (100, 16, 3e-4, 1e-4)
    assert config.loss == LossConfig(kind="cross_entropy")
    assert config.class_weight_power == 1
    assert config.schedule == "constant"
    assert config.crop_px is None
    assert config.initial is None
    assert (config.augment.drop, config.augment.drop_together) == ({}, 0)
    # The name and the arguments are those of the network with 70.20 M parameters.
    assert config.model.name == "cryonet"
    with torch.device("meta"):
        from cryoscale.models.cryonet import CryoNet

        made, default = CryoNet(30, 5, **config.model.arguments), CryoNet()
    count = sum(p.numel() for p in made.parameters())
    assert count == sum(p.numel() for p in default.parameters())
    assert count / 1e6 == pytest.approx(70.20, abs=0.005)


@pytest.mark.parametrize(
    ("name", "dates", "inside"),
    [
        (
            "poiqu-run",
            {"optical": ["2018-10-15"], "thermal": ["2018-10-10", "2018-10-15"], "insar": ["2018-10-15"]},
            (85.98, 28.16),
        ),
        ("mont-blanc-run", {"optical": ["2018-10-22"]}, (6.865, 45.833)),
    ],
)
def test_the_runs_of_the_study_hold_its_places_and_dates(name, dates, inside):
    """Nyalam, and the top of Mont Blanc."""
    settings = load_run(HERE / f"{name}.yaml")
    west, south, east, north = settings.region.bounds
    assert west < inside[0] < east
    assert south < inside[1] < north
    assert settings.years == (2018,)
    named = {modality: spec.dates for modality, spec in settings.sources.items() if spec.dates}
    assert {modality: [str(day) for day in days] for modality, days in named.items()} == dates
    assert set(settings.sources) == {"optical", "terrain", "thermal", "velocity", "insar"}
    assert [spec.url for spec in settings.catalogs][:2] == [
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        "https://earth-search.aws.element84.com/v1",
    ]


def test_the_transfer_starts_from_what_the_study_trained_and_takes_few_steps():
    config = load_config(HERE / "mont-blanc.yaml")
    assert str(config.initial) == "poiqu.safetensors"
    assert config.iterations < 1000
    assert config.model is None
    assert not config.freeze_encoder


@pytest.mark.parametrize(
    "path", [HERE / "demo.yaml", Path(benchmarks.__file__).with_name("cryonet_brief.yaml")]
)
def test_recipes_that_learn_to_do_without_radar_heat_and_speed_at_once_say_so(path):
    assert load_config(path).augment.drop_together == 0.15


def test_the_commands_in_the_recipes_are_commands():
    from typer.main import get_command

    from cryoscale.cli import app

    known = set(get_command(app).commands) | {"samples"}
    for path in HERE.glob("*.yaml"):
        for command in re.findall(r"^#\s+cryoscale (\S+)", path.read_text(), re.MULTILINE):
            assert command in known


@pytest.mark.parametrize("cycles", [1, 3])
def test_cosine_restarts_are_those_of_torch(cycles):
    steps = 60
    config = TrainConfig(name="x", patches="p", schedule="cosine_restarts", cycles=cycles, learning_rate=5e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    torch_s = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=steps // cycles)
    for step in range(steps):
        assert config.rate_at(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        torch_s.step()


def test_every_cycle_begins_at_the_full_rate():
    for cycles in range(1, 31):
        config = TrainConfig(name="x", patches="p", schedule="cosine_restarts", cycles=cycles)
        for each in (1, 7, 60):
            assert {config.rate_at(n * each, cycles * each) for n in range(cycles)} == {config.learning_rate}


def refused(config, tmp_path, error, match):
    with pytest.raises(error, match=match) as caught:
        train(config, out=tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w.training").exists()


def test_a_class_without_a_training_pixel_is_named_unless_it_may_be_absent(tmp_path):
    patches = make_patches(tmp_path / "p.zarr", classes=3)
    refused(recipe(patches), tmp_path, SourceError, "without a pixel of water, vegetation; expected some")
    refused(recipe(patches, allow_absent=["water"]), tmp_path, SourceError, "without a pixel of vegetation;")
    config = recipe(patches, allow_absent=["water", "vegetation"], epochs=1)
    assert train(config, out=tmp_path / "w.safetensors").training["class_pixels"]["water"] == 0
    with pytest.raises(ValidationError, match="rock is none of background"):
        recipe(patches, allow_absent=["rock"])


def test_too_few_patches_for_one_batch_are_refused(tmp_path):
    patches = make_patches(tmp_path / "p.zarr")
    refused(recipe(patches, batch=16), tmp_path, ConfigError, "8 crops of 8 training patches; expected a b")
    assert train(recipe(patches, batch=16, crops=2, epochs=1), out=tmp_path / "w.safetensors")


def write(path, channels=CHANNELS, labels=(0, 1, 2, 3, 4), validation=1):
    writer = PatchWriter(path, channels=channels, patch_px=32)
    for i in range(6):
        y = np.resize(np.array(labels, np.uint8), (32, 32))
        split = "train" if i < 4 else "validation"
        if split == "validation" and not validation:
            y[:] = 255
        x = np.full((len(channels), 32, 32), 0.5, np.float32)
        writer.add(x, y, Place(32645, 0, 32 * i, 0, "median", split))
    writer.finish(pca=PCA, split="by hand", source="a test")
    return path


def test_patches_with_other_channels_or_without_labels_to_judge_by_are_refused(tmp_path):
    short = write(tmp_path / "short.zarr", channels=CHANNELS[:-1])
    refused(recipe(short), tmp_path, SourceError, "patches of 29 channels; expected 30")
    swapped = write(tmp_path / "swapped.zarr", channels=(CHANNELS[1], CHANNELS[0], *CHANNELS[2:]))
    refused(recipe(swapped), tmp_path, SourceError, "channel 1 is B02; expected B01")
    blind = write(tmp_path / "blind.zarr", validation=0)
    refused(recipe(blind), tmp_path, SourceError, "validation patches without any labelled pixel")


def test_infinite_and_absent_values_are_the_mean_in_training_as_they_are_in_service(tmp_path):
    from cryoscale.learn.feed import Standard

    x = np.array([np.nan, np.inf, -np.inf, 3.0], np.float32).reshape(1, 1, 2, 2)
    standard = Standard(np.array([1.0], np.float32), np.array([2.0], np.float32))
    assert standard(x).flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_floats_are_refused_on_a_cpu(tmp_path, precision):
    patches = make_patches(tmp_path / "p.zarr")
    refused(recipe(patches, precision=precision), tmp_path, ConfigError, f"precision {precision} on a CPU")


def test_networks_that_do_not_exist_and_arguments_that_follow_from_the_data_are_refused():
    with pytest.raises(ValidationError, match="alexnet is none of cryonet"):
        TrainConfig(name="x", patches="p", model={"name": "alexnet"})
    with pytest.raises(ValidationError, match="classes follows from the patches"):
        TrainConfig(name="x", patches="p", model={"arguments": {"classes": 7}})


def test_ways_of_compositing_that_do_not_exist_and_crops_that_no_memory_holds_are_refused():
    with pytest.raises(ValidationError, match="'best_scene', 'median' or 'least_snow'"):
        SimulationConfig(train_seeds=(1,), validation_seeds=(2,), composites=("foo",))
    with pytest.raises(ValidationError, match="less than or equal to 10000"):
        TrainConfig(name="x", patches="p", crops=10**12)


def rows_of(count, first=0):
    rng = np.random.default_rng(0)
    rows = []
    for epoch in range(first, count + 1):
        iou = 1 - np.exp(-epoch / (5 + 3 * np.arange(5))) + rng.normal(0, 0.02, 5)
        rows.append(
            {
                "epoch": epoch,
                "loss": None if epoch == 0 else 1.5 * np.exp(-epoch / 9) + 0.1,
                "validation_loss": 1.5 * np.exp(-epoch / 9) + 0.2,
                "validation_mean_iou": float(iou.mean()),
                "validation_accuracy": 0.9 if epoch else float("nan"),
                "validation_iou": dict(zip(CLASS_NAMES, map(float, iou), strict=True)),
                "learning_rate": 3e-4,
                "seconds": 2.0,
            }
        )
    return rows


@pytest.mark.parametrize("count", [0, 1, 30])
def test_curves_are_drawn_from_the_first_epoch_on_and_kept_as_json(tmp_path, count):
    from PIL import Image

    rows = rows_of(count)
    draw_curves(rows, tmp_path / "c.png", title="toy", best_epoch=count)
    save_curves(rows, tmp_path / "c.json")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    kept = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [row["epoch"] for row in kept] == [row["epoch"] for row in rows]
    assert kept[0]["validation_accuracy"] is None
    assert not list(tmp_path.glob("*.part"))


def test_a_training_leaves_its_curves_beside_the_weights(tmp_path):
    train(recipe(make_patches(tmp_path / "p.zarr"), epochs=2), out=tmp_path / "w.safetensors")
    assert (tmp_path / "w.curves.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "w.training" / "curves.json").read_text())
    assert set(rows[0]["validation_iou"]) == set(CLASS_NAMES)
    assert rows[0]["learning_rate"] == 1e-2


def test_a_model_and_an_epoch_are_told_in_a_line():
    model = {"kind": "model", "name": "cryonet", "parameters": 70_200_000, "trainable": 70_200_000}
    model |= {"train": 800, "validation": 200}
    assert line(model).startswith("cryonet: 70.20 M parameters; 800 patches to learn from")
    assert "27.70 M of them learnt" in line({**model, "trainable": 27_700_000})
    assert "before training" in line({"kind": "epoch", "epochs": 3, **rows_of(0)[0]})
    assert "loss 0.1" in line({"kind": "epoch", "epochs": 3, **rows_of(30)[30]})
