"""Slices of a plan: together the whole of it, none twice, of even length, and each in one piece."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cryoscale.grid import Block
from cryoscale.ledger import Work
from cryoscale.slices import Slice

blocks = st.builds(
    Block, st.sampled_from([32644, 32645]), st.integers(-2000, 2000), st.integers(-40, 90), st.just(256)
)
plans = st.lists(st.tuples(st.sampled_from([2018, 2019]), blocks), max_size=60, unique=True)


@given(plans, st.integers(1, 70), st.randoms())
def test_slices_are_a_partition_of_the_plan_in_whatever_order_it_is_given(
    plan: list[Work], count: int, chance: object
) -> None:
    shares = [Slice(index, count).share(plan) for index in range(count)]
    assert sorted(work for share in shares for work in share) == sorted(plan)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    shuffled = list(plan)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [Slice(index, count).share(shuffled) for index in range(count)] == shares


@given(st.integers(0, 5), st.integers(-3000, 3000), st.integers(-3000, 3000))
def test_each_block_of_a_square_is_beside_the_one_before_it(order: int, row: int, col: int) -> None:
    side = 1 << order
    square = [(2018, Block(32645, row + r, col + c, 256)) for r in range(side) for c in range(side)]
    (ordered,) = [Slice(0, 1).share(square)]
    steps = [abs(a.row - b.row) + abs(a.col - b.col) for (_, a), (_, b) in pairwise(ordered)]
    assert set(steps) <= {1}
