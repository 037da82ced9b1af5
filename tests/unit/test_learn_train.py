"""The training loop on a task small enough to be learnt in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file

from cryoscale.errors import ConfigError, OutputError, SourceError, WeightsError
from cryoscale.features.stack import CHANNELS
from cryoscale.learn import loop
from cryoscale.learn.checkpoint import TrainState
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.learn.ranks import Ranks
from cryoscale.learn.recipe import TrainConfig, load_config
from cryoscale.learn.scores import Scores
from cryoscale.learn.train import train, train_from_config
from cryoscale.models import weights
from cryoscale.models.predictor import Predictor
from tests.toy_training import Plain, make_patches, recipe, toy_networks  # noqa: F401

SMALL = {"encoder": "resnet10w16", "decoder_channels": [16, 16, 16, 16, 16]}
PCA = {"mean": [0.1] * 12, "components": np.eye(3, 12).tolist()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def patch_set(tmp_path_factory):
    """Patches whose classes can be told from one channel, with absent channels and unlabelled pixels."""
    path = tmp_path_factory.mktemp("patches") / "p.zarr"
    rng = np.random.default_rng(0)
    writer = PatchWriter(path, channels=CHANNELS, patch_px=64)
    for i in range(9):
        y = np.repeat(np.repeat(rng.integers(0, 3, (4, 4)), 16, 0), 16, 1).astype(np.uint8)
        x = rng.normal(0.3, 0.05, (30, 64, 64)).astype(np.float32)
        x[1] += y * 0.3
        x[18], x[19] = 10, 45
        x[21] = np.nan
        y[:8] = 255
        split = "train" if i < 6 else "validation" if i < 8 else "test"
        writer.add(x, y, Place(32645, 0, 64 * i, i, "median", split))
    writer.finish(pca=PCA, split="by hand", source="a test")
    return path


def tiny(patch_set, **changes):
    values = {
        "name": "tiny",
        "patches": patch_set,
        "model": {"name": "cryonet", "arguments": SMALL},
        "allow_absent": ("water", "vegetation"),
        "epochs": 4,
        "batch": 2,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "crop_px": 32,
        "device": "cpu",
        "seed": 3,
    }
    return TrainConfig(**{**values, **changes})


def test_training_learns_writes_weights_that_serve_and_says_what_it_did(patch_set, tmp_path):
    events = []
    out = tmp_path / "w.safetensors"
    config = tiny(patch_set, epochs=12, learning_rate=1e-2, crop_px=None, licence="CC-BY-4.0")
    card = train(config, out=out, progress=events.append)
    assert card.licence == "CC-BY-4.0"
    assert card.split == "by hand"
    assert card.training["patches"]["train"] == 6
    assert card.channels == CHANNELS
    assert card.mean[21] == 0
    assert card.std[21] == 1
    curves = json.loads((tmp_path / "w.training" / "curves.json").read_text())
    assert len(curves) == 12
    assert curves[-1]["loss"] < 0.6 * curves[0]["loss"]
    assert {event["kind"] for event in events} == {"model", "step", "epoch"}
    model, loaded = weights.load(out, channels=CHANNELS)
    assert loaded == card
    best = max(curves, key=lambda row: row["validation_mean_iou"])
    assert card.training["best_epoch"] == best["epoch"]
    assert card.metrics["validation"]["mean"]["iou"] == pytest.approx(best["validation_mean_iou"], abs=1e-3)
    assert {"test", "test_without_thermal_velocity_insar"} <= set(card.metrics)
    probabilities = Predictor(model, loaded, device="cpu")(np.full((1, 30, 64, 64), np.nan, np.float32))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("*.part"))


def test_one_pixel_mapped_as_a_class_that_validation_lacks_does_not_cost_the_better_epoch():
    worse = [[800, 200, 0, 0, 0], [200, 800, 0, 0, 0], [0, 0, 800, 0, 200], [0] * 5, [0, 0, 200, 0, 800]]
    better = [[899, 100, 0, 1, 0], [100, 900, 0, 0, 0], [0, 0, 900, 0, 100], [0] * 5, [0, 0, 100, 0, 900]]
    model = torch.nn.Conv2d(1, 1, 1)
    optimizer, state = torch.optim.Adam(model.parameters()), TrainState()
    for epoch, confusion in enumerate((worse, better)):
        state.record(epoch, model, optimizer, Scores.from_confusion(confusion))
    assert state.best_epoch == 1


def test_a_training_killed_after_two_epochs_goes_on_to_the_same_weights_bit_for_bit(patch_set, tmp_path):
    config = tiny(patch_set)
    straight = train(config, out=tmp_path / "straight.safetensors")

    def kill(event):
        if event["kind"] == "step" and event["epoch"] == 3 and event["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "resumed.safetensors", progress=kill)
    assert not (tmp_path / "resumed.safetensors").exists()
    epochs = []
    resumed = train(
        config, out=tmp_path / "resumed.safetensors", progress=lambda e: epochs.append(e.get("epoch", 9))
    )
    assert min(epochs) == 3, "the epochs that were done are not repeated"
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in ("straight", "resumed"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.sha256 == straight.sha256
    assert resumed.temperature == straight.temperature
    keep = ("epoch", "loss", "validation_loss", "validation_mean_iou")
    curves = [
        [
            [row[key] for key in keep]
            for row in json.loads((tmp_path / f"{n}.training/curves.json").read_text())
        ]
        for n in ("straight", "resumed")
    ]
    assert curves[0] == curves[1]


def test_a_kill_between_a_state_and_the_best_weights_does_not_leave_those_behind(tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    out, config = tmp_path / "w.safetensors", recipe(make_patches(tmp_path / "p.zarr"), epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr("cryoscale.learn.train._Run._after_epoch", kill)
        with pytest.raises(KeyboardInterrupt):
            train(config, out=out)
    best = tmp_path / "w.training" / "best.safetensors"
    assert not best.exists()
    with pytest.raises(KeyboardInterrupt):
        train(config, out=out, progress=lambda event: kill() if event["kind"] == "step" else None)
    state = load_file(best.with_name("state.safetensors"))
    found = load_file(best)
    assert all(torch.equal(found[name], state[f"best/{name}"]) for name in found)


def test_the_same_recipe_gives_the_same_weights_and_another_seed_gives_others(patch_set, tmp_path):
    cards = [
        train(tiny(patch_set, epochs=1, seed=seed), out=tmp_path / f"{n}.safetensors")
        for n, seed in enumerate((3, 3, 4))
    ]
    assert cards[0].sha256 == cards[1].sha256 != cards[2].sha256


def test_a_finished_training_only_writes_its_weights_again(patch_set, tmp_path):
    config, out = tiny(patch_set, epochs=1), tmp_path / "w.safetensors"
    first = train(config, out=out)
    out.unlink()
    events = []
    assert train(config, out=out, progress=events.append) == first
    assert [event["kind"] for event in events] == ["model"]


def test_a_work_folder_of_another_recipe_is_refused(patch_set, tmp_path):
    train(tiny(patch_set, epochs=1), out=tmp_path / "w.safetensors")
    with pytest.raises(OutputError, match="other settings"):
        train(tiny(patch_set, epochs=1, seed=9), out=tmp_path / "w.safetensors")
    (tmp_path / "w.training" / "state.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(OutputError, match="state that cryoscale has saved"):
        train(tiny(patch_set, epochs=1), out=tmp_path / "w.safetensors")


def test_a_work_folder_in_which_another_process_trains_is_refused_as_long_as_it_lives(patch_set, tmp_path):
    out = tmp_path / "w.safetensors"
    code = (
        "import sys, time; from pathlib import Path; from cryoscale.learn.alone import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(out.with_suffix(".training"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(OutputError, match="another process trains.*one at a time"):
            train(tiny(patch_set), out=out)
        assert list(tmp_path.iterdir()) == [out.with_suffix(".training")]
        other.kill()
    train(tiny(patch_set, epochs=1), out=out)
    assert out.exists()


def test_patches_that_were_made_anew_are_another_training_and_moved_ones_the_same(tmp_path):
    home = make_patches(tmp_path / "home" / "p.zarr")
    first = train(recipe(home), out=tmp_path / "home" / "w.safetensors")
    start = {"model": None, "initial": tmp_path / "home" / "w.safetensors"}
    tuned = train(recipe(home, **start), out=tmp_path / "home" / "tuned.safetensors")
    moved = (tmp_path / "home").rename(tmp_path / "moved")
    start["initial"] = moved / "w.safetensors"
    again = train(recipe(moved / "p.zarr"), out=moved / "w.safetensors")
    assert (again.sha256, again.training["seconds"]) == (first.sha256, first.training["seconds"])
    events = []
    told = train(recipe(moved / "p.zarr", **start), out=moved / "tuned.safetensors", progress=events.append)
    assert told.sha256 == tuned.sha256
    assert [event["kind"] for event in events] == ["model"], "it was finished"
    before = (moved / "w.json").read_bytes()
    for change in ({"seed": 1}, {"offset": 0.1}, {"source": "another"}, {"pca": {**PCA, "mean": [0.2] * 12}}):
        make_patches(moved / "p.zarr", **change)
        with pytest.raises(OutputError, match="other patches"):
            train(recipe(moved / "p.zarr"), out=moved / "w.safetensors")
        assert (moved / "w.json").read_bytes() == before


def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(patch_set, tmp_path):
    for out in (tmp_path / "w.pt", Path()):
        with pytest.raises(WeightsError, match="ends in .safetensors"):
            train(tiny(patch_set), out=out)
    with pytest.raises(SourceError, match="make the patches first"):
        train(tiny(tmp_path / "none.zarr"), out=tmp_path / "w.safetensors")
    writer = PatchWriter(tmp_path / "empty.zarr", channels=CHANNELS, patch_px=32)
    writer.finish(pca=PCA, split="", source="")
    with pytest.raises(SourceError, match="none of them for train"):
        train(tiny(tmp_path / "empty.zarr"), out=tmp_path / "w.safetensors")


@pytest.mark.parametrize("place", ["w.safetensors", "w.json", "w.curves.png"])
def test_a_folder_in_the_way_of_a_file_is_told_before_anything_is_learnt(patch_set, tmp_path, place):
    (tmp_path / place).mkdir()
    with pytest.raises(OutputError, match=rf"{place}, which is a folder; expected a file") as caught:
        train(tiny(patch_set), out=tmp_path / "w.safetensors")
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.rglob("*")] == [place]


def test_the_summary_of_a_patch_set_is_not_overwritten_by_a_card(patch_set, tmp_path):
    (tmp_path / "w.json").write_text('{"patches": {"train": 8}}')
    with pytest.raises(OutputError, match=r"w\.json, where other JSON lies.*another --out"):
        train(tiny(patch_set), out=tmp_path / "w.safetensors")
    assert (tmp_path / "w.json").read_text() == '{"patches": {"train": 8}}'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_refused_training_leaves_no_folder_that_it_made(tmp_path):
    with pytest.raises(SourceError):
        train(tiny(tmp_path / "absent.zarr"), out=tmp_path / "new" / "home" / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_path_over_a_folder_that_is_not_there_leaves_none(patch_set, tmp_path):
    with pytest.raises(FileNotFoundError):
        train(tiny(patch_set), out=tmp_path / "new" / ".." / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_class_weights_fall_with_frequency_and_absent_classes_weigh_nothing():
    counts = np.array([900, 90, 10, 0])
    inverse = loop.class_weights(counts, 1.0)
    np.testing.assert_allclose(inverse[:3] * counts[:3], (inverse[:3] * counts[:3])[0], rtol=1e-6)
    assert inverse[3] == 0
    assert inverse[:3].mean() == pytest.approx(1)
    np.testing.assert_allclose(
        loop.class_weights(counts, 0.5)[0] / loop.class_weights(counts, 0.5)[2], (1 / 90) ** 0.5
    )
    assert (loop.class_weights(counts, 0.0)[:3] == 1).all()


@pytest.mark.parametrize("kind", ["cross_entropy", "dice"])
def test_the_validation_loss_is_that_of_all_patches_whatever_the_batch(tmp_path, kind):
    patches = Patches.open(make_patches(tmp_path / "p.zarr", count=15))  # 5 for validation
    found = []
    for batch in (1, 2, 4, 8):
        torch.manual_seed(0)
        config = recipe(tmp_path / "p.zarr", batch=batch, loss={"kind": kind})
        found.append(loop._Loop(Plain(30, 5), patches, config, loop.Start()).validate()[1])
    np.testing.assert_allclose(found, found[-1], rtol=1e-5)


def test_temperature_recovers_the_scale_by_which_logits_were_inflated(tmp_path):
    """Labels drawn from softmax(z) and logits 3 z: the likelihood is highest at a temperature of 3."""
    rng = np.random.default_rng(0)
    writer = PatchWriter(tmp_path / "t.zarr", channels=("a", "b", "c"), patch_px=64, dtype="float32")
    for i in range(8):
        z = rng.normal(0, 1.5, (3, 64, 64)).astype(np.float32)
        p = np.exp(z) / np.exp(z).sum(axis=0)
        y = (rng.random((64, 64)) > np.cumsum(p, axis=0)).sum(axis=0).clip(0, 2).astype(np.uint8)
        writer.add(z, y, Place(32645, 0, i, 0, "median", "validation"))
    patches = writer.finish()

    class Inflate(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return x * self.scale

    plain = loop.Standard(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert loop.fit_temperature(Inflate(), plain, patches, range(8)) == pytest.approx(3.0, rel=0.05)
    assert loop.fit_temperature(Inflate(), plain, patches, []) == 1.0


def test_the_cosine_schedule_rises_peaks_at_the_end_of_the_warm_up_and_falls_to_zero():
    config = TrainConfig(name="x", patches="p", schedule="cosine", warmup=0.1, learning_rate=1e-3)
    rates = [config.rate_at(step, 500) for step in range(500)]
    assert np.argmax(rates) == pytest.approx(50, abs=1)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[-1] < 1e-5
    assert np.all(np.diff(rates[51:]) < 0)
    assert TrainConfig(name="x", patches="p").rate_at(7, 10) == 3e-4


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name: x\npatches: p\nepoch: 3\n", "epoch"),
        ("name: x\n", "either simulation or patches"),
        ("name: x\nsimulation: {train_seeds: [1], validation_seeds: [1]}\n", "occurs twice"),
        ("name: x\nsimulation: {train_seeds: [1]}\n", "validation_seeds"),
        ("name: x\npatches: p\nmodel: {name: y}\n", "expected y is none of cryonet"),
        (f"name: x\npatches: p\nseed: {2**64}\n", "seed; expected Input should be less than"),
        ("- 1\n", "mapping"),
        ("a: [\n", "YAML"),
        ("name: x\npatches: p\nepochs: 3\nepochs: 30\n", "line 4: the key 'epochs' again, which line 3 has"),
        ("name: a\npatches: p\nlearning_rate: .inf\n", "learning_rate; expected Input should be a finite"),
        ("name: a\npatches: p\nepochs: true\n", "epochs; expected .*neither true nor false"),
        (
            "name: a\npatches: p\naugment: {elevation_jitter_m: .inf}\n",
            "jitter_m; expected Input should be a finite",
        ),
    ],
)
def test_a_recipe_that_is_not_understood_is_refused_in_one_line(tmp_path, text, match):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_network_that_no_memory_holds_is_refused(tmp_path):
    model = {"name": "random-forest", "arguments": {"trees": 10**12}}
    with pytest.raises(ConfigError, match="model random-forest .*can't allocate memory") as caught:
        train(recipe(make_patches(tmp_path / "p.zarr"), model=model), out=tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_of_several_processes_the_first_alone_fits_a_forest(tmp_path, monkeypatch):
    model = {"name": "random-forest", "arguments": {"trees": 2, "leaves": 8, "depth": 3}}
    config, out = recipe(make_patches(tmp_path / "p.zarr"), model=model), tmp_path / "w.safetensors"
    card = train(config, out=out)
    monkeypatch.setattr("cryoscale.learn.train.join", lambda device, batch: nullcontext(Ranks(rank=1)))
    monkeypatch.setattr("cryoscale.learn.train._Run.fit_forest", lambda run: pytest.fail("fitted once more"))
    assert train(config, out=out) == card


def test_an_absent_recipe_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        train_from_config(tmp_path / "none.yaml", tmp_path / "w.safetensors")


def test_patch_edges_that_the_network_cannot_halve_are_refused():
    with pytest.raises(ValidationError, match="multiple of 32"):
        TrainConfig(name="x", simulation={"train_seeds": [1], "validation_seeds": [2], "patch_px": 100})


def test_the_recipe_of_the_demo_is_understood_and_keeps_the_demos_own_seed_unseen():
    config = load_config(Path(loop.__file__).with_name("demo.yaml"))
    simulation = config.simulation
    seeds = {*simulation.train_seeds, *simulation.validation_seeds, *simulation.test_seeds}
    assert 7 not in seeds
    assert simulation.test_seeds
    assert simulation.split == "blocked"


def test_a_change_of_words_or_machine_does_not_make_it_another_training():
    config = TrainConfig(name="x", patches="p")
    same = config.model_copy(
        update={"name": "y", "device": "cuda", "work": Path("elsewhere"), "licence": "MIT"}
    )
    assert same.fingerprint == config.fingerprint
    elsewhere = {"patches": "elsewhere/p", "initial": Path("elsewhere/w.safetensors")}
    assert config.model_copy(update=elsewhere).fingerprint == config.fingerprint
    assert config.model_copy(update={"seed": 1}).fingerprint != config.fingerprint


def test_one_command_goes_from_seeds_to_weights(tmp_path):
    """The demo's recipe with small numbers: simulate, publish, search, read, stack, cut, train, save."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: tiny\n"
        "simulation: {train_seeds: [101], validation_seeds: [201], test_seeds: [301], size: tiny,\n"
        "  patch_px: 128}\n"
        "model: {name: cryonet, arguments: {encoder: resnet10w16, decoder_channels: [16, 16, 16, 16, 16]}}\n"
        "epochs: 1\nbatch: 4\ncrop_px: 64\ncrops: 2\ndevice: cpu\n"
    )
    card = train_from_config(recipe, tmp_path / "tiny.safetensors", quiet=True)
    assert card.pca is not None
    assert card.channels == CHANNELS
    assert "tested on 301" in card.split
    assert card.metrics["test"]["pixels"] > 10_000
    assert card.training["recipe"]["simulation"]["size"] == "tiny"
    assert weights.read_card(tmp_path / "tiny.safetensors") == card


def test_fp16_scales_the_loss_and_a_stopped_training_goes_on_with_its_scale(tmp_path, monkeypatch):
    """On GPUs only for users; torch has the arithmetic on CPUs too, slowly, and here it is let in."""
    monkeypatch.setattr(loop, "choose_training_precision", lambda *_: torch.float16)
    patches = make_patches(tmp_path / "p.zarr")
    config = recipe(patches, precision="fp16", clip_norm=1.0, epochs=8)
    straight = train(config, out=tmp_path / "straight.safetensors")
    state = load_state_of(tmp_path / "straight.training")
    assert 1 <= state["scaler"]["scale"] < 65_536, "the first steps overflow, are left out, and lower it"
    assert state["scaler"]["_growth_tracker"] >= 4, "the last steps did not"

    def stop(event):
        if event["kind"] == "step" and event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "w.safetensors", progress=stop)
    resumed = train(config, out=tmp_path / "w.safetensors")
    assert resumed.sha256 == straight.sha256
    assert load_state_of(tmp_path / "w.training") == state
    monkeypatch.undo()
    full = train(recipe(patches, clip_norm=1.0, epochs=8), out=tmp_path / "full.safetensors")
    assert full.sha256 != straight.sha256, "it did compute in fp16"
    losses = [row["loss"] for row in json.loads((tmp_path / "w.training/curves.json").read_text())]
    assert losses[-1] < losses[0]


def load_state_of(folder):
    with safe_open(folder / "state.safetensors", "pt") as file:
        state = json.loads(file.metadata()["state"])
    return {key: state[key] for key in ("epoch", "scaler", "best_epoch")}
