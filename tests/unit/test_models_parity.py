"""The gate before a quicker arithmetic opens only to answers that are near enough: constructed ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from cryoscale.models.parity import Choice, choose

TILES = np.zeros((4, 3, 50, 50), np.float32)
VALID = np.ones((4, 50, 50), bool)
SURE = np.array([0.9, 0.1], np.float32)


def model(answer: np.ndarray, seconds: float = 0.0) -> Any:
    """A model whose tiles all get ``answer`` (k, 50, 50)."""

    def predict(tiles: np.ndarray, *codes: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return np.repeat(answer[np.newaxis], len(tiles), axis=0)

    return predict


def plain() -> np.ndarray:
    return np.broadcast_to(SURE[:, None, None], (2, 50, 50)).copy()


def flipped(pixels: int) -> np.ndarray:
    answer = plain()
    answer.reshape(2, -1)[:, :pixels] = SURE[::-1, None]
    return answer


def chosen(candidate: np.ndarray, *, slow: float = 0.02, quick: float = 0.0) -> Choice:
    models = {"fp32": model(plain(), slow), "other": model(candidate, quick)}
    return choose(models.__getitem__, ["other"], TILES, VALID)


def test_a_quicker_one_with_the_same_answer_is_taken() -> None:
    made = chosen(plain())
    assert made.precision == "other"
    assert made.tried[1].agreement == 1.0
    assert made.tried[1].difference == 0.0


def test_a_slower_one_is_not_however_near_it_is() -> None:
    assert chosen(plain(), slow=0.0, quick=0.02).precision == "fp32"


def test_one_that_changes_a_class_in_a_hundred_is_not_taken() -> None:
    made = chosen(flipped(25))
    assert made.precision == "fp32"
    assert made.tried[1].agreement == pytest.approx(0.99)
    assert not made.tried[1].passes
    assert "not taken" in str(made.tried[1])


def test_one_whose_classes_agree_but_whose_probabilities_are_off_is_not_taken() -> None:
    off = plain() + np.array([-0.02, 0.02], np.float32)[:, None, None]
    made = chosen(off)
    assert made.tried[1].agreement == 1.0
    assert made.tried[1].difference == pytest.approx(0.02, rel=1e-3)
    assert made.precision == "fp32"


def test_the_limits_themselves_pass_and_what_is_beyond_does_not() -> None:
    near = plain() + np.array([-0.0099, 0.0099], np.float32)[:, None, None]
    beyond = plain() + np.array([-0.0101, 0.0101], np.float32)[:, None, None]
    assert chosen(near).precision == "other"
    assert chosen(beyond).precision == "fp32"


def test_pixels_without_data_are_not_compared() -> None:
    valid = VALID.copy()
    valid.reshape(4, -1)[:, :1250] = False
    models = {"fp32": model(plain(), 0.02), "other": model(flipped(1250))}
    assert choose(models.__getitem__, ["other"], TILES, valid).precision == "other"
    assert choose(models.__getitem__, ["other"], TILES, ~valid).precision == "fp32"


def of_classes(labels: np.ndarray) -> np.ndarray:
    """Sure probabilities (5, h, w) of ``labels`` (h, w)."""
    answer = np.full((5, *labels.shape), 0.02, np.float32)
    np.put_along_axis(answer, labels[np.newaxis], 0.92, axis=0)
    return answer


@pytest.mark.parametrize(("lost_px", "taken"), [(400, False), (4, True)])
def test_a_rare_class_must_be_kept_however_many_pixels_are_alike(lost_px: int, taken: bool) -> None:
    """Debris on 800 of 180,000 pixels in two tiles: without any of it 99.56 % are alike."""
    wanted = np.zeros((300, 300), np.int64)
    wanted.reshape(-1)[:400] = 2
    lossy = wanted.copy()
    lossy.reshape(-1)[:lost_px] = 0
    tiles, valid = np.zeros((2, 3, 300, 300), np.float32), np.ones((2, 300, 300), bool)
    for one, other in ((wanted, lossy), (lossy, wanted)):  # what float32 has not may not be made up either
        models = {"fp32": model(of_classes(one), 0.02), "other": model(of_classes(other))}
        made = choose(models.__getitem__, ["other"], tiles, valid)
        assert (made.precision == "other") is taken
        assert made.tried[1].agreement > 0.995
        assert made.tried[1].class_iou == pytest.approx(1 - lost_px / 400)
        assert made.to_dict()["tried"][1]["class_iou"] == pytest.approx(1 - lost_px / 400)
        assert f"IoU of each class {100 * (1 - lost_px / 400):.2f} % or more" in str(made.tried[1])


def test_a_class_of_a_few_pixels_is_not_judged() -> None:
    """A border may take all of them."""
    wanted = np.zeros((300, 300), np.int64)
    wanted[0, :200] = 2
    models = {"fp32": model(of_classes(wanted), 0.02), "other": model(of_classes(np.zeros_like(wanted)))}
    tiles, valid = np.zeros((2, 3, 300, 300), np.float32), np.ones((2, 300, 300), bool)
    assert choose(models.__getitem__, ["other"], tiles, valid).precision == "other"


@pytest.mark.parametrize(("pixels", "taken"), [(0, False), (1, False), (4999, False), (5000, True)])
def test_a_few_pixels_give_no_verdict(pixels: int, taken: bool) -> None:
    valid = np.zeros_like(VALID)
    valid.reshape(-1)[:pixels] = True
    models = {"fp32": model(plain(), 0.02), "other": model(plain())}
    made = choose(models.__getitem__, ["other"], TILES, valid)
    assert (made.precision == "other") is taken
    if not taken:
        told = f"not tried: {pixels} valid pixels show too little, 5000 are needed"
        assert made.to_dict() == {"precision": "fp32", "tried": [{"precision": "other", "why_not": told}]}


def test_answers_that_are_not_numbers_do_not_pass() -> None:
    assert chosen(np.full((2, 50, 50), np.nan, np.float32)).precision == "fp32"


def test_one_that_cannot_be_had_is_told_and_passed_over() -> None:
    def load(name: str) -> Any:
        if name == "broken":
            raise RuntimeError("no such\n  kernel")
        return model(plain(), 0.02 if name == "fp32" else 0.0)

    made = choose(load, ["broken", "other"], TILES, VALID)
    assert made.precision == "other"
    assert made.to_dict()["tried"][1] == {"precision": "broken", "why_not": "cannot be had: no such kernel"}


def test_a_model_that_tells_its_own_seconds_is_taken_at_its_word() -> None:
    class Served:
        """Slow from arrays to arrays, and quick where blocks are mapped."""

        batch = 2

        def __init__(self, told_s: float) -> None:
            self.told_s = told_s

        def __call__(self, features: np.ndarray) -> np.ndarray:
            return np.stack([features[:, 0], 1 - features[:, 0]], axis=1)

        def seconds_a_tile(self) -> float:
            return self.told_s

    tiles = np.random.default_rng(1).random((4, 1, 50, 50), np.float32)
    told = {"fp32": 3.0, "bf16": 2.0, "bf16-fused": 1.0}
    made = choose(lambda name: Served(told[name]), ["bf16", "bf16-fused"], tiles, VALID)
    assert made.precision == "bf16-fused"
    assert [parity.seconds_a_tile for parity in made.tried] == [3.0, 2.0, 1.0]
