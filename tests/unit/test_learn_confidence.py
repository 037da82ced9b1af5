"""Error prediction on a finished mosaic, against brute force over its pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cryoscale import cli_learn
from cryoscale.errors import OutputError, SourceError
from cryoscale.grid import Block, Window
from cryoscale.infer.encode import encode
from cryoscale.learn.confidence import HALF_PX, error_prediction, learnt_ranking
from cryoscale.learn.confidence_report import _STYLES, chart, save
from cryoscale.write import mosaic
from tests.unit.test_learn_pictures import has_colour

BLOCK = Block(32645, -1210, 190, 256)
WINDOW = Window(32645, -1210 * 256, 190 * 256, 256, 512)


def noisy_map(seed: int = 2) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Encoded layers and truth (y, x): labels are right as often as stated, disagreement is a weaker sign."""
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(5, 0.25), WINDOW.shape).astype(np.float32)
    truth = (rng.random((*WINDOW.shape, 1)) > probability.cumsum(-1)).sum(-1).clip(0, 4).astype(np.uint8)
    top = probability.max(-1)
    disagreement = np.clip((1 - top) * rng.random(WINDOW.shape), 0, 1).astype(np.float32)
    probability = np.moveaxis(probability, -1, 0).copy()
    probability[:, :20, :30] = np.nan
    disagreement[:20, :30] = np.nan
    truth[-10:] = 255
    return encode(probability, disagreement), truth


def publish(folder: Path, layers: dict[str, np.ndarray], truth: np.ndarray) -> tuple[Path, Path]:
    """A run's folder with the mosaic, and a folder of truth."""
    run, labels = folder / "run", folder / "truth"
    labels.mkdir(parents=True)
    attrs = {"cryoscale:confidence": "one minus normalised entropy"}
    classes = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
    mosaic.create(f"{run}/mosaic.zarr", year=2018, window=WINDOW, block_px=256, classes=classes, attrs=attrs)
    for number in range(2):
        part = slice(256 * number, 256 * (number + 1))
        block = Block(BLOCK.epsg, BLOCK.row, BLOCK.col + number, 256)
        own = {name: np.ascontiguousarray(values[..., part]) for name, values in layers.items()}
        mosaic.write_block(f"{run}/mosaic.zarr", 2018, block, own)
    options = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255}
    with rasterio.open(
        labels / "32645.tif",
        "w",
        height=256,
        width=512,
        crs="EPSG:32645",
        transform=WINDOW.geobox.transform,
        **options,
    ) as target:
        target.write(truth, 1)
    return run, labels


def brute_aurc(score: np.ndarray, wrong: np.ndarray) -> float:
    """Mean risk over all prefixes of the sorted pixels, ties as their mean."""
    order = np.argsort(-score, kind="stable")
    _, group = np.unique(-score[order], return_inverse=True)
    share = np.bincount(group, weights=wrong[order]) / np.bincount(group)
    return float(np.mean(np.cumsum(share[group]) / np.arange(1, len(score) + 1)))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory):
    layers, truth = noisy_map()
    run, labels = publish(tmp_path_factory.mktemp("case"), layers, truth)
    return layers, truth, error_prediction(run, labels), (run, labels)


def test_every_figure_is_that_of_the_sorted_pixels(case) -> None:
    layers, truth, found, _ = case
    known = (truth != 255) & (layers["label"] != 255)
    assert known.sum() == 256 * 512 - 20 * 30 - 10 * 512
    wrong = (layers["label"] != truth)[known].astype(float)
    probability = layers["probability"][:, known].astype(float)
    softmax, apart = probability.max(axis=0), layers["disagreement"][known].astype(float)
    share = probability / probability.sum(axis=0)
    rounded = np.rint(250 * (1 - entropy(share, base=5, axis=0)))
    scores = {
        "softmax": softmax,
        "entropy": rounded,
        "layer": layers["confidence"][known].astype(float),
        "tile agreement": -apart,
        "softmax x agreement": softmax * (250 - apart),
        "entropy x agreement": rounded * (250 - apart),
    }
    written = found.to_dict()
    assert (written["pixels"], written["errors"]) == (known.sum(), wrong.sum())
    for name, score in scores.items():
        # entropy in float32 may round to the other byte now and then
        tolerance = 1e-4 if "entropy" in name else 1e-9
        assert written["signals"][name]["aurc"] == pytest.approx(brute_aurc(score, wrong), rel=tolerance)
        assert written["signals"][name]["auroc"] == pytest.approx(
            roc_auc_score(1 - wrong, score), rel=tolerance
        )
    perfect = brute_aurc(-wrong, wrong)
    assert written["best_aurc"] == pytest.approx(perfect)
    assert written["signals"]["softmax"]["excess"] == pytest.approx(brute_aurc(softmax, wrong) - perfect)
    debris = layers["label"][known] == 2
    assert written["by_mapped_class"]["debris_covered_ice"]["signals"]["softmax"]["aurc"] == pytest.approx(
        brute_aurc(softmax[debris], wrong[debris])
    )


def test_what_is_stated_as_often_as_it_is_right_has_no_calibration_error_and_entropy_has(case) -> None:
    errors = case[2].calibration_errors()
    assert errors["softmax"] < 0.005
    assert errors["layer"] == pytest.approx(errors["entropy"], abs=5e-3)  # of unrounded shares
    assert errors["entropy"] > 0.02


def test_the_verdict_says_which_is_worse_and_what_is_learnt_does_not_lose(case) -> None:
    found = case[2]
    assert found.verdict.startswith("Tile disagreement alone finds errors worse than the softmax")
    rankings = found.rankings()
    assert rankings["softmax + agreement, learnt"].aurc < 1.01 * rankings["softmax"].aurc
    assert rankings["softmax + agreement, learnt"].total == rankings["softmax"].total


def test_disagreement_that_knows_the_errors_is_said_to_be_better(tmp_path: Path) -> None:
    layers, truth = noisy_map(3)
    knows = np.where(layers["label"] != truth, 200, 10).astype(np.uint8)
    layers["disagreement"] = np.where(layers["label"] == 255, 255, knows).astype(np.uint8)
    found = error_prediction(*publish(tmp_path, layers, truth))
    assert found.verdict.startswith("Tile disagreement alone finds errors better than the softmax")
    rankings = found.rankings()
    assert rankings["tile agreement"].aurc == pytest.approx(rankings["tile agreement"].best)
    assert rankings["softmax + agreement, learnt"].aurc < 1.01 * rankings["softmax"].best


def test_what_is_learnt_is_scikit_learns_logistic_regression_of_the_other_half() -> None:
    rng = np.random.default_rng(4)
    pixels = np.zeros((2, 251, 251), np.int64)
    errors = np.zeros_like(pixels)
    rows = []
    for _ in range(4000):
        half, level, apart = rng.integers(0, 2), rng.integers(100, 251), rng.integers(0, 80)
        wrong = rng.random() < 1 / (1 + np.exp(0.04 * (level - 150) - 0.05 * apart))
        pixels[half, level, apart] += 1
        errors[half, level, apart] += wrong
        rows.append((half, level, apart, wrong))
    half, level, apart, wrong = np.array(rows, float).T
    x = np.stack([np.log((251 - level) / 251), np.log((apart + 1) / 251)], axis=1)
    score = np.zeros(len(half))
    for own in (0, 1):
        model = LogisticRegression(C=np.inf, tol=1e-8).fit(x[half != own], wrong[half != own])
        score[half == own] = -model.decision_function(x[half == own])
    learnt = learnt_ranking(pixels, errors)
    assert learnt is not None
    assert learnt.aurc == pytest.approx(brute_aurc(np.round(score, 9), wrong), rel=2e-3)


def test_a_half_without_errors_teaches_nothing() -> None:
    pixels, errors = np.ones((2, 251, 251), np.int64), np.zeros((2, 251, 251), np.int64)
    errors[0, 3, 3] = 1
    assert learnt_ranking(pixels, errors) is None


def test_the_halves_are_a_chequerboard_of_the_world(case) -> None:
    counts = case[2].counts
    halves = counts[0, :, :, 0].sum(axis=(1, 2, 3))
    known = [(256 - 10) * 256 - 20 * 30, (256 - 10) * 256]
    first = (WINDOW.row // HALF_PX + WINDOW.col // HALF_PX) % 2
    assert halves.tolist() == (known if first == 0 else known[::-1])


def test_json_and_picture_are_written(case, tmp_path: Path) -> None:
    save(case[2], tmp_path / "new")
    written = json.loads((tmp_path / "new" / "confidence.json").read_text())
    assert written == case[2].to_dict()
    assert (tmp_path / "new" / "confidence.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_a_folder_that_cannot_be_is_told_before_the_map_is_ranked(tmp_path: Path) -> None:
    (tmp_path / "doubt").touch()
    with pytest.raises(OutputError, match="doubt .*a folder"):
        cli_learn.confidence("absent", tmp_path / "t.tif", out=tmp_path / "doubt")


def test_the_picture_shows_every_sign_of_doubt_that_the_figures_have(case) -> None:
    png = chart(case[2])
    for name in case[2].to_dict()["signals"]:
        assert has_colour(png, _STYLES[name][0])


def test_a_map_without_errors_has_nothing_to_rank(tmp_path: Path) -> None:
    layers, _ = noisy_map()
    found = error_prediction(*publish(tmp_path, layers, layers["label"]))
    assert "nothing to rank" in found.verdict
    save(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "confidence.json").read_text())["errors"] == 0


def test_truth_that_is_absent_or_knows_nothing_is_refused(case, tmp_path: Path) -> None:
    run, labels = case[3]
    with pytest.raises(SourceError, match="mosaics"):
        error_prediction(tmp_path, labels)
    with pytest.raises(SourceError, match=r"EPSG:32645"):
        error_prediction(run, tmp_path)
    layers, _ = noisy_map()
    _, nothing = publish(tmp_path, layers, np.full(WINDOW.shape, 255, np.uint8))
    with pytest.raises(SourceError, match="without a known pixel"):
        error_prediction(run, nothing)
