"""Crops changed on a device are those that numpy makes, and what is counted there is what numpy counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cryoscale.features.stack import CHANNELS
from cryoscale.learn.augment import AugmentConfig
from cryoscale.learn.counts import confusion_on_device
from cryoscale.learn.exchange import Group
from cryoscale.learn.feed import Feed, standard_of
from cryoscale.learn.importance import Count, Permuting, permutation_importance
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.learn.ranks import ALONE
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.resident import Resident
from cryoscale.learn.scores import CLASS_NAMES, confusion_matrix
from cryoscale.models.predictor import Predictor
from cryoscale.models.weights import Card

EVERYTHING = {
    "drop": {"thermal": 0.5, "velocity": 0.5, "insar": 0.3, "terrain": 0.3},
    "elevation_jitter_m": 300.0,
    "phase_offset": True,
    "phase_sign": True,
}


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Patches:
    rng = np.random.default_rng(3)
    writer = PatchWriter(tmp_path_factory.mktemp("set") / "p.zarr", channels=CHANNELS, patch_px=64)
    for number in range(20):
        x = rng.normal(0.3, 0.2, (30, 64, 64)).astype(np.float32)
        x[CHANNELS.index("aspect")] = rng.uniform(0, 360, (64, 64))
        x[CHANNELS.index("aspect"), :3] = 359.99  # which float16 rounds up to 360
        x[CHANNELS.index("slope")] = np.maximum(rng.normal(10, 10, (64, 64)), 0)  # some of it flat
        x[CHANNELS.index("elevation")] = rng.uniform(2000, 6000, (64, 64))
        x[CHANNELS.index("phase")] = rng.uniform(-np.pi, np.pi, (64, 64))
        x[rng.integers(30), 10:20] = np.nan
        x[rng.integers(30), 5, 5] = np.inf
        y = rng.choice([0, 1, 2, 3, 4, 255], (64, 64)).astype(np.uint8)
        place = Place(32644, 64 * number, 0, 1, "median", "train" if number < 14 else "validation")
        writer.add(x, y, place)
    return writer.finish(pca=None)


@pytest.mark.parametrize("augment", [EVERYTHING, {"flips": False}, {}], ids=["all", "no flips", "default"])
@pytest.mark.parametrize("crop_px", [32, None])
def test_a_training_on_a_device_eats_the_very_batches_that_numpy_makes(
    patches: Patches, augment: dict, crop_px: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        name="x", patches="p", batch=7, crops=3, crop_px=crop_px, augment=AugmentConfig(**augment), seed=5
    )
    device = torch.device("cpu")
    by_numpy = Feed(patches, config, ALONE, located=True, device=device)
    monkeypatch.setattr("cryoscale.learn.feed.fits", lambda *asked: True)
    here = Feed(patches, config, ALONE, located=True, device=device, standard=by_numpy.standard)
    assert by_numpy.steps == here.steps == 6
    for theirs, ours in zip(
        [*by_numpy.training(2, 6), *by_numpy.validation()],
        [*here.training(2, 6), *here.validation()],
        strict=True,
    ):
        torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=0)
        torch.testing.assert_close(ours.y, theirs.y, rtol=0, atol=0)
        torch.testing.assert_close(ours.location, theirs.location, rtol=0, atol=0)
        assert ours.x.stride() == theirs.x.stride(), "channels last"


def test_the_stored_patches_stay_as_they_are(patches: Patches) -> None:
    config = AugmentConfig(**EVERYTHING)
    feed = TrainConfig(name="x", patches="p", batch=14, augment=config)
    resident = Resident(patches, range(20), config, torch.device("cpu"))
    before = resident._x.clone()
    numpy_feed = Feed(patches, feed, ALONE, located=False, device=torch.device("cpu"))
    mean, std = numpy_feed.standard.on(torch.device("cpu"))
    rng = np.random.default_rng(0)
    resident.batch([numpy_feed._draw(index, rng) for index in range(14)], mean, std)
    torch.testing.assert_close(resident._x, before, rtol=0, atol=0, equal_nan=True)


def test_statistics_on_a_device_are_those_of_numpy(patches: Patches) -> None:
    resident = Resident(patches, range(20), AugmentConfig(), torch.device("cpu"))
    indices = patches.indices("train")
    mean, std = resident.statistics(indices)
    np.testing.assert_allclose(mean, patches.statistics(indices)[0], rtol=1e-12)
    np.testing.assert_allclose(std, patches.statistics(indices)[1], rtol=1e-12)
    np.testing.assert_array_equal(mean.astype(np.float32), standard_of(patches).mean)


def numbers_in(document: Any) -> Iterator[float]:
    """All numbers of a document, in its order."""
    if isinstance(document, dict | list):
        for part in document.values() if isinstance(document, dict) else document:
            yield from numbers_in(part)
    elif isinstance(document, int | float):
        yield float(document)


@pytest.mark.parametrize("by", ["planes", "pixels"])
@pytest.mark.parametrize("located", [False, True])
def test_permutations_on_a_device_find_what_those_of_arrays_do(
    patches: Patches, by: str, located: bool
) -> None:
    class Pixels(torch.nn.Conv2d):
        tile_multiple, needs_halo, needs_location = 1, False, located

        def forward(self, x: torch.Tensor, code: torch.Tensor | None = None) -> torch.Tensor:
            found = super().forward(x)
            return (
                found
                if code is None
                else found + code.mean(1)[:, None, None, None] * self.weight[:, :1, 0, 0].T[..., None, None]
            )

    torch.manual_seed(2)
    standard = standard_of(patches)
    card = Card(
        architecture="cryonet",
        arguments={},
        channels=CHANNELS,
        mean=tuple(map(float, standard.mean)),
        std=tuple(map(float, standard.std)),
        pca=None,
        classes=CLASS_NAMES,
    )
    predictor = Predictor(Pixels(30, 5, 1), card, device="cpu", precision="fp32")
    codes = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)

    def ask(x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return predictor(x, codes[numbers]) if located else predictor(x)

    def hold(x: np.ndarray, y: np.ndarray, numbers: np.ndarray) -> Count:
        # one by one, as the predictor asks its network on a CPU: in batches its last bits are others
        return Group.of(predictor, x, y, codes[numbers] if located else None, 1).count

    how = Permuting(repeats=2, by=by, batch=3, hold_bytes=7 * 30 * 64 * 64 * 4)
    found = [
        permutation_importance(ask, patches.read, range(14), CHANNELS, how=how, hold=held).to_dict()
        for held in (None, hold)
    ]
    # one asks probabilities and the other logits: a pixel that is a tie to the last bit may fall otherwise
    for ours, theirs in zip(*map(numbers_in, found), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert found[0]["channels"]["B04"]["overall"]["iou"]["mean"] != 0


def test_a_confusion_matrix_of_tensors_is_that_of_arrays() -> None:
    rng = np.random.default_rng(1)
    truth = rng.choice([0, 1, 2, 3, 4, 255], (3, 40, 40))
    mapped = rng.integers(0, 5, (3, 40, 40))
    found = confusion_on_device(torch.from_numpy(truth), torch.from_numpy(mapped))
    np.testing.assert_array_equal(found.numpy(), confusion_matrix(truth, mapped, 5))
