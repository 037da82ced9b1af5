"""Turning a stack and coming back; what turning does to aspect is tested where training draws it."""

from __future__ import annotations

import numpy as np
import pytest

from cryoscale.features.turn import TURNS, turn_map, turn_map_back, turn_stack

CHANNELS = ("B02", "slope", "aspect")


def stacks() -> np.ndarray:
    """Two stacks (n, c, h, w) of a height other than their width, with flat ground and holes."""
    rng = np.random.default_rng(2)
    x = rng.random((2, 3, 6, 8), np.float32) * 359
    x[:, 1, :2] = 0
    x[:, 2, :2] = 0
    x[0, :, 4, 4] = np.nan
    return x


def test_there_are_eight_turns_and_all_differ() -> None:
    square = np.arange(9).reshape(3, 3)
    assert len({turn_map(square, *turn).tobytes() for turn in TURNS}) == len(TURNS) == 8
    np.testing.assert_array_equal(turn_map(square, *TURNS[0]), square)


@pytest.mark.parametrize("turn", TURNS)
def test_turning_back_undoes_a_turn(turn: tuple[int, bool]) -> None:
    x = stacks()
    np.testing.assert_array_equal(turn_map_back(turn_map(x, *turn), *turn), x)


@pytest.mark.parametrize("turn", TURNS)
def test_a_batch_turns_as_its_stacks_do_and_is_left_as_it_was(turn: tuple[int, bool]) -> None:
    x = stacks()
    before = x.copy()
    turned = turn_stack(x, CHANNELS, *turn)
    np.testing.assert_array_equal(x, before)
    for one, whole in zip(x, turned, strict=True):
        np.testing.assert_array_equal(turn_stack(one, CHANNELS, *turn), whole)


def test_a_mirror_sends_east_to_west_and_a_quarter_turn_sends_east_to_north() -> None:
    east = np.full((1, 2, 2), 90, np.float32)
    assert (turn_stack(east, ("aspect",), 0, True) == 270).all()
    assert (turn_stack(east, ("aspect",), 1, False) == 0).all()
    assert (turn_stack(east, ("B02",), 1, True) == 90).all()
