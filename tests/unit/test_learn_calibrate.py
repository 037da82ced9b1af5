"""Temperature and confidence of finished weights: against scikit-learn and plain searches, and on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from sklearn.isotonic import IsotonicRegression

from cryoscale.errors import NoRoomError, OutputError, SourceError, WeightsError
from cryoscale.features.channels import CHANNELS
from cryoscale.infer.encode import Confidence, confidence, encode
from cryoscale.learn.calibrate import Asked, Sample, calibrate, fit_curve, fit_temperature
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.learn.reliability import Reliability
from cryoscale.learn.suited import SuitedPatches
from cryoscale.models import weights
from tests.integration.conftest import save_random_network

EDGE = 32


def overconfident(n: int = 20_000, sharpness: float = 2.5) -> Sample:
    """Labels drawn from true probabilities, and logits that are that many times too large."""
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(n, 5)) * 2
    odds = np.exp(logits)
    share = (odds / odds.sum(1, keepdims=True)).cumsum(1)
    label = (rng.random((n, 1)) > share).sum(1).clip(0, 4).astype(np.uint8)
    return Sample(sharpness * logits + rng.normal(size=(n, 1)), label)


def test_the_temperature_undoes_what_sharpened_the_logits() -> None:
    sample = overconfident()
    found = fit_temperature(sample)
    assert found == pytest.approx(2.5, rel=0.03)
    z, t = torch.from_numpy(sample.log_probability), torch.from_numpy(sample.label.astype(np.int64))
    grid = np.linspace(2, 3, 201)
    losses = [float(torch.nn.functional.cross_entropy(z / value, t)) for value in grid]
    assert sample.loss(2.2) == pytest.approx(losses[40])
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=0.006)

    def ece(temperature: float) -> float:
        winner = sample.log_probability.argmax(axis=1).astype(np.uint8)
        return Reliability.of(sample.label, winner, sample.at(temperature).max(axis=1), 10).ece

    assert ece(found) < 0.01 < 0.1 < ece(1.0)


def test_the_curve_is_scikit_learns_isotonic_regression_of_the_bins() -> None:
    rng = np.random.default_rng(1)
    stated = rng.random(30_000).astype(np.float32) ** 0.3
    right = rng.random(30_000) < np.abs(np.sin(4 * stated))  # not monotone at all
    curve = fit_curve(stated, right)
    number = np.clip((stated * 40).astype(int), 0, 39)
    raw, at, n = [], [], []
    pending = np.zeros(len(stated), bool)
    for bin_ in range(40):
        pending |= number == bin_
        if pending.sum() >= 200:
            raw.append(right[pending].mean())
            at.append(stated[pending].astype(float).mean())
            n.append(pending.sum())
            pending[:] = False
    assert not pending.any()
    expected = IsotonicRegression().fit_transform(at, raw, sample_weight=n)
    np.testing.assert_allclose(curve.accuracy, expected, atol=1e-9)
    np.testing.assert_allclose(curve.confidence, at, rtol=1e-6)
    assert list(curve.count) == n
    assert (np.diff(curve.accuracy) >= 0).all()
    assert (np.diff(raw) < 0).any()


@pytest.mark.parametrize("n", [2, 7, 150])
def test_a_curve_of_few_pixels_still_counts_them_all(n: int) -> None:
    rng = np.random.default_rng(n)
    curve = fit_curve(rng.random(n).astype(np.float32), rng.random(n) < 0.5)
    assert sum(curve.count) == n
    assert min(curve.count) >= 1
    assert (np.diff(curve.confidence) > 0).all()


def test_the_map_reads_its_confidence_off_the_curve_between_the_points_and_level_beyond() -> None:
    curve = ((0.2, 0.6, 0.9), (0.5, 0.7, 0.98))
    probability = np.random.default_rng(0).dirichlet(np.full(5, 0.3), (40, 30)).astype(np.float32)
    probability = np.moveaxis(probability, -1, 0).copy()
    probability[:, 3, 4] = np.nan
    plain = confidence(probability)
    got = Confidence("entropy", curve)(probability)
    for y in range(40):
        for x in range(30):
            c = float(plain[y, x])
            if np.isnan(c):
                assert np.isnan(got[y, x])
                continue
            if c <= 0.2:
                expected = 0.5
            elif c >= 0.9:
                expected = 0.98
            elif c < 0.6:
                expected = 0.5 + 0.2 * (c - 0.2) / 0.4
            else:
                expected = 0.7 + 0.28 * (c - 0.6) / 0.3
            assert got[y, x] == pytest.approx(expected, abs=1e-6)
    bands = encode(probability, plain, Confidence("entropy", curve))
    plainly = encode(probability, plain)
    assert (bands["confidence"] != plainly["confidence"]).any()
    for name in ("probability", "label", "disagreement"):
        np.testing.assert_array_equal(bands[name], plainly[name])
    assert bands["confidence"][3, 4] == 255
    np.testing.assert_array_equal(
        encode(probability, plain, Confidence("max"))["confidence"], bands["probability"].max(axis=0)
    )


# --- on disk ------------------------------------------------------------------------------------


def write_patches(path: Path, net: Path, **changes: Any) -> Path:
    """Patches whose labels are what the network says, one in four mislabelled; ``changes`` spoil it."""
    from cryoscale.models.loading import load_predictor

    rng = np.random.default_rng(5)
    channels = changes.get("channels", CHANNELS)
    writer = PatchWriter(path, channels=channels, patch_px=EDGE, dtype="float32")
    predict = load_predictor(weights=net, device="cpu", precision="fp32")
    scale = {"LST": 270.0, "elevation": 5000.0, "aspect": 180.0, "slope": 30.0, "velocity": 20.0}
    for number, split in enumerate(changes.get("splits", ["train", "validation", "validation", "test"])):
        x = np.stack([rng.random((EDGE, EDGE)) * scale.get(name, 1.0) for name in CHANNELS])
        x = x.astype(np.float32)
        bands = x[:12].astype(np.float64) - 0.3
        x[24:27] = bands[:3]  # the random network's basis: the first three bands less 0.3
        y = predict(x[np.newaxis])[0].argmax(0).astype(np.uint8)
        wrong = rng.random(y.shape) < changes.get("wrong", 0.25)
        y = np.where(wrong, (y + 1 + rng.integers(0, 4, y.shape)) % 5, y).astype(np.uint8)
        y[:3] = 255
        if "label" in changes:
            y[:] = changes["label"]
        place = Place(epsg=32645, row=number * EDGE, col=0, region=1, composite="least_snow", split=split)
        if "rotate" in changes:  # another basis: the components come in another order
            x[24:27] = x[[25, 26, 24]]
        writer.add(x[: len(channels)], y, place)
    pca = {"mean": [0.3] * 12, "components": np.eye(3, 12)[changes.get("rotate", [0, 1, 2])].tolist()}
    writer.finish(pca=pca, split="by hand", source={})
    if "altered" in changes:  # by somebody else: the writer takes no such label
        zarr.open_array(path / "y", mode="r+")[:] = changes["altered"]
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save_random_network(path)
    return path


@pytest.fixture(scope="module")
def patches(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patches(tmp_path_factory.mktemp("set") / "patches.zarr", net)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_card_changes_and_the_tensors_do_not(net: Path, patches: Path, tmp_path: Path) -> None:
    before = digest(net), digest(weights.card_path(net))
    out = tmp_path / "new.safetensors"
    found = calibrate(net, patches, out=out)
    assert (digest(net), digest(weights.card_path(net))) == before
    assert digest(out) == before[0]
    old, new = weights.read_card(net), weights.read_card(out)
    assert new == found.card
    assert new.temperature != old.temperature == found.temperature_before
    assert new.calibration is not None
    changed = {"temperature", "calibration", "metrics"}
    assert old.model_dump(exclude=changed) == new.model_dump(exclude=changed)
    assert [figures.split for figures in found.figures] == ["validation", "test"]
    fitted, held_out = found.figures
    assert fitted.entropy_after < fitted.entropy_before
    assert held_out.entropy_after < held_out.entropy_before
    assert new.metrics["calibration"]["splits"]["test"] == held_out.to_dict()
    assert {path.name for path in tmp_path.iterdir()} == {"new.safetensors", "new.json"}


def test_the_predictor_carries_the_curve_and_the_manifest_its_digest(
    net: Path, patches: Path, tmp_path: Path
) -> None:
    from cryoscale.models.loading import load_predictor

    calibrate(net, patches, out=tmp_path / "new.safetensors")
    plain, new = load_predictor(weights=net), load_predictor(weights=tmp_path / "new.safetensors")
    card = weights.read_card(tmp_path / "new.safetensors")
    assert card.calibration is not None
    assert (plain.calibration, new.calibration) == (
        None,
        (card.calibration.confidence, card.calibration.accuracy),
    )
    assert plain.describe()["sha256"] == new.describe()["sha256"]
    assert plain.describe()["card"] != new.describe()["card"]
    # words about the weights are no part of what they answer
    reworded = weights.read_card(net).model_copy(update={"licence": "another", "metrics": {"a": 1}})
    assert weights.serving_digest(reworded) == plain.describe()["card"]


def save_glavitu(path: Path) -> None:
    """A small untrained network with dropout, with the statistics of the random CryoNet."""
    other = path.with_name("other.safetensors")
    save_random_network(other)
    sizes = {"width": 8, "blocks": 1, "heads": 2, "mlp": 16, "steps": 1, "tile_px": EDGE}
    arguments = {"in_channels": len(CHANNELS), "classes": 5, **sizes}
    card = weights.read_card(other).model_copy(update={"architecture": "glavitu", "arguments": arguments})
    torch.manual_seed(2)
    weights.save(weights.build(card), card, path)


@pytest.mark.parametrize("asked", [Asked(flips=True), Asked(mc_dropout=3), Asked(True, 2)])
def test_a_mean_over_several_answers_has_a_curve_of_its_own_which_serves_nothing_else(
    asked: Asked, tmp_path: Path
) -> None:
    from cryoscale.manifest import confidence_layer
    from cryoscale.models.loading import load_predictor

    net, out = tmp_path / "net.safetensors", tmp_path / "new.safetensors"
    save_glavitu(net)
    patches = write_patches(tmp_path / "patches.zarr", net)
    plain = calibrate(net, patches, out=net).card
    assert plain.calibration is not None
    assert not {"flips", "mc_dropout"} & set(json.loads(weights.card_path(net).read_text())["calibration"])
    found = calibrate(net, patches, asked=asked, out=out)
    curve = weights.read_card(out).calibration
    assert curve is not None
    assert (curve.flips, curve.mc_dropout) == (asked.flips, asked.mc_dropout)
    assert found.card.temperature == plain.temperature
    fitted = found.figures[0]
    assert fitted.entropy_after < fitted.entropy_before

    # what the curve was fitted on, by the model that a run asks
    told = vars(asked)
    model = load_predictor(weights=net, device="cpu", **told)
    held = Patches.open(patches)
    stated = []
    for index in held.indices("validation"):
        x, y = held.read(index)
        place = held.place(index)
        where = {"places": np.array([[place.epsg, place.row, place.col]])} if asked.mc_dropout else {}
        stated.append(confidence(model(x[np.newaxis], **where)[0])[y != 255])
    mean = np.average(curve.confidence, weights=curve.count)
    assert mean == pytest.approx(np.concatenate(stated).mean(), abs=1e-6)

    words = "one minus normalised entropy"
    kinds = [{}, {"flips": True}, {"mc_dropout": 3}, {"flips": True, "mc_dropout": 2}]
    for path, answers in ((net, Asked()), (out, asked)):
        for kind in kinds:
            served = load_predictor(weights=path, device="cpu", **kind)
            layer = confidence_layer("entropy", served)
            if Asked(**kind) == answers:
                assert layer == f"{words}, read as observed accuracy"
                assert served.calibration is not None
            else:
                assert layer.startswith(f"{words}, uncalibrated: the curve is for ")
                assert served.calibration is None
    assert confidence_layer("entropy", load_predictor(weights=net, flips=True)).endswith("for single answers")


def test_the_card_can_be_replaced_where_it_lies_and_a_failure_leaves_the_old_one(
    net: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.safetensors"
    save_random_network(own)
    lies_at = own.stat().st_ino
    first = calibrate(own, patches, out=own)
    assert own.stat().st_ino == lies_at
    assert weights.read_card(own) == first.card
    again = calibrate(own, patches, out=own)
    assert again.card.temperature == first.card.temperature == again.temperature_before

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = digest(own), digest(weights.card_path(own))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoRoomError, match=f"^{own} takes no more .No space left") as caught:
        calibrate(net, patches, out=own)
    assert str(net) not in str(caught.value), "it is not to blame"
    assert (digest(own), digest(weights.card_path(own))) == before
    assert {path.name for path in tmp_path.iterdir()} == {"own.safetensors", "own.json"}


def test_a_folder_in_the_way_is_told_before_the_model_is_asked(
    net: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.learn.calibrate.draw", lambda *_: pytest.fail("asked in vain"))
    (tmp_path / "new.safetensors").mkdir()
    with pytest.raises(OutputError, match=r"new\.safetensors, which is a folder"):
        calibrate(net, patches, out=tmp_path / "new.safetensors")


def test_what_cannot_be_judged_on_is_told_before_the_model_is_asked(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_patches(tmp_path / "patches.zarr", net)
    columns = zarr.open_array(path / "class_pixels", mode="r+")
    columns[3, 1:] = 0  # of the test patch
    monkeypatch.setattr("cryoscale.learn.calibrate.draw", lambda *_: pytest.fail("asked in vain"))
    for held_out, message in (("best", "split 'best'"), ("test", "split 'test' .*with labels 0;")):
        with pytest.raises(SourceError, match=message):
            calibrate(net, path, held_out=held_out)


def test_without_out_nothing_is_written(net: Path, patches: Path) -> None:
    before = sorted(net.parent.iterdir()), digest(weights.card_path(net))
    calibrate(net, patches)
    assert (sorted(net.parent.iterdir()), digest(weights.card_path(net))) == before


def test_components_in_another_basis_are_made_anew_from_the_bands(
    net: Path, patches: Path, tmp_path: Path
) -> None:
    other = write_patches(tmp_path / "other.zarr", net, rotate=[1, 2, 0])
    card = weights.read_card(net)
    same, turned = SuitedPatches(patches, card), SuitedPatches(other, card)
    assert (same.rebased, turned.rebased) == (False, True)
    for index in range(4):
        np.testing.assert_allclose(same.read(index)[0], turned.read(index)[0], atol=1e-6)
    assert calibrate(net, other).card.temperature == pytest.approx(calibrate(net, patches).card.temperature)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"channels": CHANNELS[:29]}, {}, "of 29 channels.*the 30 channels of the weights"),
        ({"channels": (*CHANNELS[:28], *CHANNELS[:27:-1])}, {}, "whose channel 29 is TC_wetness"),
        ({"splits": ["train", "test"]}, {}, "none in split 'validation'"),
        ({"label": 2}, {}, "with labels 2;.*at least two"),
        ({"label": 255}, {}, "with labels of nothing"),
        ({"altered": 9}, {}, "label"),
        ({"wrong": 0.0}, {}, "always right"),
        ({}, {"split": "valid"}, "split 'valid'.*train, validation, test, unused"),
        ({}, {"held_out": "best"}, "split 'best'"),
        ({}, {"out": Path("new.pt")}, "ends in .safetensors"),
    ],
)
def test_what_cannot_teach_a_calibration_is_refused_in_one_line(
    changes: dict[str, Any], options: dict[str, Any], message: str, net: Path, tmp_path: Path
) -> None:
    path = write_patches(tmp_path / "patches.zarr", net, **changes)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((SourceError, WeightsError), match=message) as caught:
        calibrate(net, path, **{"out": tmp_path / "new.safetensors", **options})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
