"""Losses against loops over pixels, a library's, and what they must be whatever the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cryoscale.learn.losses import make_loss
from cryoscale.learn.recipe import LossConfig, TrainConfig

K = 5
WEIGHTS = [0.5, 2.0, 1.0, 0.25, 1.25]
KINDS = [
    {"kind": "cross_entropy"},
    {"kind": "focal", "gamma": 2.0},
    {"kind": "focal", "gamma": 0.5},
    {"kind": "dice"},
    {"kind": "tversky", "alpha": 0.3, "beta": 0.7},
]


def batch(seed=0, n=3, size=6, classes=K, unlabelled=0.3):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (n, K, size, size)))
    labels = rng.integers(0, classes, (n, size, size))
    labels[rng.random(labels.shape) < unlabelled] = 255
    return logits, torch.from_numpy(labels)


def loss_of(config, logits, labels, weights=WEIGHTS):
    return make_loss(LossConfig(**config), torch.tensor(weights, dtype=logits.dtype))(logits, labels)


def by_hand(config, logits, labels):
    """The formulas, pixel by pixel, in plain floats."""
    z, t = logits.detach().numpy(), labels.numpy()
    up = down = 0.0
    hit, false, missed = ([0.0] * K for _ in range(3))
    for n, row, col in np.ndindex(*t.shape):
        truth = int(t[n, row, col])
        if truth == 255:
            continue
        e = [math.exp(v) for v in z[n, :, row, col]]
        p = [v / sum(e) for v in e]
        gamma = config.get("gamma", 0.0)
        up += WEIGHTS[truth] * (1 - p[truth]) ** gamma * -math.log(p[truth])
        down += WEIGHTS[truth]
        for k in range(K):
            if k == truth:
                hit[k] += p[k]
                missed[k] += 1 - p[k]
            else:
                false[k] += p[k]
    if config["kind"] in ("cross_entropy", "focal"):
        return up / down
    a, b = (config["alpha"], config["beta"]) if config["kind"] == "tversky" else (0.5, 0.5)
    present = [k for k in range(K) if (t == k).any()]
    return sum(1 - hit[k] / (hit[k] + a * false[k] + b * missed[k]) for k in present) / len(present)


@pytest.mark.parametrize("config", KINDS, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
def test_a_loss_is_what_its_formula_gives_pixel_by_pixel(config, classes):
    logits, labels = batch(classes=classes)
    assert float(loss_of(config, logits, labels)) == pytest.approx(by_hand(config, logits, labels), rel=1e-9)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_gradients_are_those_of_finite_differences(config):
    logits, labels = batch(n=1, size=3)
    logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: loss_of(config, z, labels), (logits,))


def test_dice_and_tversky_are_those_of_a_library_where_every_class_has_a_pixel():
    from cryoscale.models.baselines import library

    losses = library().losses
    logits, labels = batch(seed=4, n=4, size=16)
    dice = losses.DiceLoss("multiclass", ignore_index=255, smooth=0.0, eps=1e-12)(logits, labels)
    assert float(loss_of({"kind": "dice"}, logits, labels)) == pytest.approx(float(dice), rel=1e-9)
    known = losses.TverskyLoss("multiclass", smooth=0.0, eps=1e-12, alpha=0.3, beta=0.7)
    # Theirs knows no unlabelled pixels for Tversky: all are labelled here.
    logits, labels = batch(seed=4, n=4, size=16, unlabelled=0)
    ours = loss_of({"kind": "tversky", "alpha": 0.3, "beta": 0.7}, logits, labels)
    assert float(ours) == pytest.approx(float(known(logits, labels)), rel=1e-9)


def test_focal_without_focus_is_cross_entropy_and_torch_agrees():
    logits, labels = batch()
    plain = torch.nn.functional.cross_entropy(
        logits, labels, weight=torch.tensor(WEIGHTS, dtype=torch.float64), ignore_index=255
    )
    for config in ({"kind": "cross_entropy"}, {"kind": "focal", "gamma": 0.0}):
        assert float(loss_of(config, logits, labels)) == pytest.approx(float(plain), rel=1e-9)


def test_few_pixels_of_a_common_class_are_a_mean_nonetheless():
    logits, labels = batch(n=1, unlabelled=0)
    few = torch.full_like(labels, 255)
    few[0, 0, :3] = 0
    weights = tuple(0.0025 if number == 0 else weight for number, weight in enumerate(WEIGHTS))
    plain = torch.nn.functional.cross_entropy(
        logits, few, weight=torch.tensor(weights, dtype=torch.float64), ignore_index=255
    )
    for config in ({"kind": "cross_entropy"}, {"kind": "focal", "gamma": 0.0}):
        assert float(loss_of(config, logits, few, weights)) == pytest.approx(float(plain), rel=1e-9)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_unlabelled_pixels_have_no_say_whatever_their_logits(config):
    logits, labels = batch()
    wild = torch.where((labels == 255).unsqueeze(1), 50 * torch.randn_like(logits), logits)
    assert float(loss_of(config, wild, labels)) == pytest.approx(float(loss_of(config, logits, labels)))


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_a_batch_without_a_labelled_pixel_costs_nothing_and_moves_nothing(config):
    logits, _ = batch()
    logits = logits.float().requires_grad_(True)
    loss = loss_of(config, logits, torch.full((3, 6, 6), 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("config", KINDS, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_stay_finite_for_sure_and_for_wildly_wrong_logits(config, scale):
    logits, labels = batch()
    logits = (scale * logits).float().requires_grad_(True)
    loss_of(config, logits, labels).backward()
    assert torch.isfinite(logits.grad).all()


@given(cut=st.integers(1, 5), which=st.sampled_from(KINDS), seed=st.integers(0, 50))
def test_sums_of_a_batch_are_those_of_its_parts(cut, which, seed):
    logits, labels = batch(seed=seed, n=6)
    loss = make_loss(LossConfig(**which), torch.tensor(WEIGHTS, dtype=torch.float64))
    parts = loss.sums(logits[:cut], labels[:cut]) + loss.sums(logits[cut:], labels[cut:])
    torch.testing.assert_close(parts, loss.sums(logits, labels))
    torch.testing.assert_close(loss.value(parts), loss(logits, labels))


def test_settings_that_a_loss_does_not_have_are_refused():
    for wrong in ({"kind": "dice", "gamma": 2.0}, {"kind": "tversky", "gamma": 1.0}, {"alpha": 0.5}):
        with pytest.raises(ValidationError, match="has no"):
            LossConfig(**wrong)
    with pytest.raises(ValidationError, match="class_weight_power"):
        TrainConfig(name="x", patches="p", loss={"kind": "dice"}, class_weight_power=0.5)
