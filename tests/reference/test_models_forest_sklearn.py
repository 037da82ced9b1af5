"""The random forest against scikit-learn: probabilities, the draw of pixels, and a life without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from cryoscale.errors import InputError, SourceError, WeightsError
from cryoscale.learn.forest import fit_forest, grow
from cryoscale.learn.loop import Standard
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.models import forest as module
from cryoscale.models.forest import RandomForest
from cryoscale.models.loading import load_predictor
from cryoscale.models.weights import Card, save

SIZE: dict[str, Any] = {"in_channels": 4, "classes": 5, "trees": 7, "leaves": 20, "depth": 6, "min_leaf": 3}


def pixels(count: int = 900, *, steps: int = 0, labels: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Any:
    """Noise (count, 4), on a few steps if asked so that pixels fall on thresholds, with labels."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    if steps:
        x = np.round(x * steps).astype(np.float32) / np.float32(steps)
    y = np.array(labels)[(x[:, : len(labels)] + rng.normal(size=(count, 1)) / 2)[:, :4].argmax(1)]
    y[: len(labels)] = labels
    return x, y.astype(np.int64)


def of_sklearn(x: np.ndarray, y: np.ndarray, seed: int, **changes: Any) -> RandomForestClassifier:
    size = {**SIZE, **changes}
    return RandomForestClassifier(
        n_estimators=size["trees"],
        max_leaf_nodes=size["leaves"],
        max_depth=size["depth"],
        min_samples_leaf=size["min_leaf"],
        random_state=seed,
    ).fit(x, y)


def as_tiles(x: np.ndarray, height: int) -> torch.Tensor:
    """Pixels (p, c) as one tile (1, c, height, p / height)."""
    return torch.from_numpy(x.T.reshape(1, x.shape[1], height, -1).copy())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("labels", [(0, 1, 2, 3, 4), (1, 3, 4)])
def test_probabilities_are_those_of_scikit_learn(steps: int, labels: tuple[int, ...]) -> None:
    x, y = pixels(steps=steps, labels=labels)
    grown = RandomForest(**SIZE)
    grow(grown, x, y, seed=3)
    expected = np.zeros((len(x), 5))
    expected[:, list(labels)] = of_sklearn(x, y, 3).predict_proba(x)
    with torch.inference_mode():
        found = grown(as_tiles(x, 30)).exp()[0].flatten(1).T.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found.round(4), axis=0)) > 50
    np.testing.assert_allclose(grown.importance, of_sklearn(x, y, 3).feature_importances_, atol=1e-7)


def test_a_pixel_just_on_either_side_of_a_threshold_goes_where_scikit_learn_sends_it() -> None:
    x, y = pixels()
    grown, theirs = RandomForest(**SIZE), of_sklearn(x, y, 3)
    grow(grown, x, y, seed=3)
    tree = theirs.estimators_[0].tree_
    inner = tree.children_left != -1
    probes = np.repeat(x[:1], 3 * inner.sum(), axis=0)
    for number, node in enumerate(np.flatnonzero(inner)):
        nearest = np.float32(tree.threshold[node])
        around = [np.nextafter(nearest, np.float32(side)) for side in (-np.inf, np.inf)]
        probes[3 * number : 3 * number + 3, tree.feature[node]] = [around[0], nearest, around[1]]
    with torch.inference_mode():
        found = grown(as_tiles(probes, 3)).exp()[0].flatten(1).T.numpy()
    np.testing.assert_allclose(found, theirs.predict_proba(probes), atol=1e-6)


def test_pixels_may_be_walked_in_any_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pixels()
    grown = RandomForest(**SIZE)
    grow(grown, x, y, seed=3)
    tiles = as_tiles(x, 30)
    whole = grown(tiles)
    monkeypatch.setattr(module, "AT_ONCE", 7 * 11)
    assert torch.equal(grown(tiles), whole)
    assert torch.equal(grown(tiles[:, :, 4:9, 3:5]), whole[:, :, 4:9, 3:5])


# --- fitting to patches -------------------------------------------------------------------------

CHANNELS = ("B02", "B04", "slope", "velocity")


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    """Five patches whose first channel numbers the pixel; class 3 is rare, 4 absent, some unknown."""
    writer = PatchWriter(tmp_path / "p.zarr", channels=CHANNELS, patch_px=16, dtype="float32")
    rng = np.random.default_rng(2)
    for number in range(5):
        x = rng.normal(size=(4, 16, 16)).astype(np.float32)
        x[0] = np.arange(256).reshape(16, 16) + 256 * number
        x[3, rng.random((16, 16)) < 0.3] = np.nan
        y = rng.choice([0, 1, 2, 255], p=[0.6, 0.1, 0.1, 0.2], size=(16, 16)).astype(np.uint8)
        if number == 2:
            y[3, :7] = 3
        writer.add(x, y, Place(32645, number, 0, 1, "median", "train"))
    return writer.finish(pca=None, split="blocked")


class Spy:
    """Stands where pixels are standardised, and where the forest grows: sees what it is grown on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.x, self.y = np.empty(0), np.empty(0)
        monkeypatch.setattr("cryoscale.learn.forest.grow", self.grow)

    def grow(self, forest: RandomForest, x: np.ndarray, y: np.ndarray, *, seed: int) -> None:
        self.x, self.y = x, y


def standard() -> Standard:
    return Standard(np.array([0, 0, 0, 5], np.float32), np.array([1, 1, 1, 2], np.float32))


def test_each_class_gives_as_many_pixels_as_it_has_up_to_the_limit_each_once_and_with_its_own_label(
    patches: Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    arguments = {**SIZE, "pixels_per_class": 40}
    fit_forest(patches, [4, 2, 1], standard(), arguments=arguments, seed=1)
    assert np.bincount(spy.y).tolist() == [40, 40, 40, 7]
    number = spy.x[:, 0].astype(int)
    assert len(set(number)) == len(number)
    stacks = [patches.read(index) for index in range(5)]
    for pixel, label, features in zip(number, spy.y, spy.x, strict=True):
        x, y = stacks[pixel // 256]
        at = divmod(pixel % 256, 16)
        assert y[at] == label
        velocity = (x[3][at] - 5) / 2
        expected = [*x[:3, at[0], at[1]], 0 if np.isnan(velocity) else velocity]
        np.testing.assert_allclose(features, expected, rtol=1e-6)
    assert {pixel // 256 for pixel in number} == {1, 2, 4}


def test_every_labelled_pixel_of_a_class_is_as_likely_as_any_other(
    patches: Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, drawn, of_class_0 = Spy(monkeypatch), np.zeros(5 * 256), []
    for index in range(5):
        y = patches.read(index)[1].ravel()
        of_class_0 += (np.flatnonzero(y == 0) + 256 * index).tolist()
    draws, limit = 400, 100
    for seed in range(draws):
        fit_forest(patches, range(5), standard(), arguments={**SIZE, "pixels_per_class": limit}, seed=seed)
        drawn[spy.x[spy.y == 0, 0].astype(int)] += 1
    share = limit / len(of_class_0)
    counts = drawn[of_class_0]
    assert counts.sum() == draws * limit
    # Each count is binomial: its variance over the pixels must be that of even chances.
    assert counts.var() == pytest.approx(draws * share * (1 - share), rel=0.2)
    assert abs(counts.mean() - draws * share) < 1e-9


def test_a_seed_decides_the_forest(patches: Patches) -> None:
    def state(seed: int) -> list[torch.Tensor]:
        fitted = fit_forest(patches, range(5), standard(), arguments=SIZE, seed=seed)
        return list(fitted.state_dict().values())

    assert all(map(torch.equal, state(1), state(1)))
    assert not all(map(torch.equal, state(1), state(2)))


def test_patches_without_two_classes_and_arguments_that_are_none_are_refused(patches: Patches) -> None:
    with pytest.raises(SourceError, match="0 patches with labelled pixels of 0 classes"):
        fit_forest(patches, [], standard(), arguments=SIZE, seed=1)
    with pytest.raises(InputError, match="arguments .*'colour'"):
        fit_forest(patches, [0], standard(), arguments={**SIZE, "colour": 1}, seed=1)
    for name, value, told in (
        ("trees", 0, "a forest of 0 trees"),
        ("leaves", "many", "many leaves"),
        ("pixels_per_class", 10.5, r"10\.5 of a class; expected whole numbers"),
    ):
        with pytest.raises(InputError, match=told):
            fit_forest(patches, [0], standard(), arguments={**SIZE, name: value}, seed=1)


# --- on disk ------------------------------------------------------------------------------------


def a_card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "architecture": "random-forest",
        "arguments": SIZE,
        "channels": CHANNELS,
        "mean": (0.0, 0.0, 0.0, 5.0),
        "std": (1.0, 1.0, 1.0, 2.0),
        "classes": tuple("abcde"),
    }
    return Card(**{**values, **changes})


def test_a_fitted_forest_is_saved_and_serves_without_scikit_learn(patches: Patches, tmp_path: Path) -> None:
    fitted = fit_forest(patches, range(5), standard(), arguments=SIZE, seed=1)
    save(fitted, a_card(), tmp_path / "forest.safetensors")
    x = patches.read(2)[0][np.newaxis]
    predict = load_predictor(weights=tmp_path / "forest.safetensors", device="cpu")
    assert (predict.needs_halo, predict.tile_multiple, predict.needs_location) == (False, 1, False)
    assert predict.describe()["parameters"] == 7 * 39 * 8 + 4
    with torch.inference_mode():
        expected = fitted(standard()(x)).exp().numpy()
    np.testing.assert_allclose(predict(x), expected, atol=1e-6)
    np.testing.assert_array_equal(predict(x[:, :, 3:8, 5:6]), predict(x)[:, :, 3:8, 5:6])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "p.npy", predict(x))
    code = (
        "import sys, numpy as np\n"
        "sys.modules['sklearn'] = None\n"
        "from cryoscale.models.loading import load_predictor\n"
        "p = load_predictor(weights='forest.safetensors', device='cpu')(np.load('x.npy'))\n"
        "assert np.array_equal(p, np.load('p.npy'))\n"
        "from cryoscale.errors import ExtraError\n"
        "from cryoscale.learn.forest import grow\n"
        "try: grow(None, None, None, seed=0)\n"
        "except ExtraError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "without scikit-learn; expected the extra baselines" in done.stdout


@pytest.mark.parametrize(
    ("name", "at", "value", "match"),
    [
        ("feature", (2, 0), 4, "feature reaches from 0 to 4; expected 0 to 3"),
        ("child", (0, 0), 39, "child reaches from .* to 39; expected 0 to 38"),
        ("child", (0, 0), 38, "child reaches from .* to 39; expected 0 to 38"),
        ("child", (6, 1), -1, "child reaches from -1"),
    ],
)
def test_a_forest_that_leads_out_of_its_tables_is_refused(
    tmp_path: Path, name: str, at: tuple[int, int], value: int, match: str
) -> None:
    x, y = pixels()
    grown = RandomForest(**SIZE)
    grow(grown, x, y, seed=3)
    grown.state_dict()[name][at] = value
    save(grown, a_card(), tmp_path / "forest.safetensors")
    with pytest.raises(WeightsError, match=match):
        load_predictor(weights=tmp_path / "forest.safetensors")
