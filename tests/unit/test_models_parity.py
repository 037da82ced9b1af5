"""The gate before a quicker arithmetic opens only to answers that are near enough: constructed ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from cryoscale.models.parity import Choice, choose

TILES = np.zeros((4, 3, 10, 10), np.float32)
VALID = np.ones((4, 10, 10), bool)
SURE = np.array([0.9, 0.1], np.float32)


def model(answer: np.ndarray, seconds: float = 0.0) -> Any:
    """A model whose tiles all get ``answer`` (2, 10, 10)."""

    def predict(tiles: np.ndarray, *codes: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return np.repeat(answer[np.newaxis], len(tiles), axis=0)

    return predict


def plain() -> np.ndarray:
    return np.broadcast_to(SURE[:, None, None], (2, 10, 10)).copy()


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
    made = chosen(flipped(1))
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
    valid.reshape(4, -1)[:, :50] = False
    models = {"fp32": model(plain(), 0.02), "other": model(flipped(50))}
    assert choose(models.__getitem__, ["other"], TILES, valid).precision == "other"
    assert choose(models.__getitem__, ["other"], TILES, ~valid).precision == "fp32"
    with pytest.raises(ValueError, match="no valid pixel"):
        choose(models.__getitem__, ["other"], TILES, np.zeros_like(valid))


def test_answers_that_are_not_numbers_do_not_pass() -> None:
    assert chosen(np.full((2, 10, 10), np.nan, np.float32)).precision == "fp32"


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

    tiles = np.random.default_rng(1).random((4, 1, 8, 8), np.float32)
    told = {"fp32": 3.0, "bf16": 2.0, "bf16-fused": 1.0}
    made = choose(lambda name: Served(told[name]), ["bf16", "bf16-fused"], tiles, np.ones((4, 8, 8), bool))
    assert made.precision == "bf16-fused"
    assert [parity.seconds_a_tile for parity in made.tried] == [3.0, 2.0, 1.0]
