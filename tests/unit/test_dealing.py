"""What each machine is dealt: nothing twice, nothing lost, and what lies side by side."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from cryoscale.curve import along_curve
from cryoscale.dealing import Dealing
from cryoscale.grid import Block

MACHINES = ["a", "b", "c", "d"]

moves = st.lists(
    st.one_of(st.sampled_from([*MACHINES, None]), st.sets(st.sampled_from(MACHINES))), max_size=120
)


@given(st.integers(0, 60), moves)
def test_whoever_comes_and_goes_everything_is_dealt_once(
    count: int, moves: list[str | set[str] | None]
) -> None:
    dealing = Dealing(range(count))
    dealt = []
    for move in moves:
        if isinstance(move, set):
            dealing.keep(move)
        elif (found := dealing.take(move)) is not None:
            dealt.append(found)
        assert len(dealing) == count - len(dealt)
    while (found := dealing.take("last")) is not None:
        dealt.append(found)
    assert sorted(dealt) == list(range(count))


@given(st.integers(0, 40), st.sampled_from([None, "a"]))
def test_a_machine_alone_is_dealt_them_in_their_order(count: int, machine: str | None) -> None:
    dealing = Dealing(range(count))
    assert [dealing.take(machine) for _ in range(count)] == list(range(count))
    assert dealing.take(machine) is None


@given(st.lists(st.sampled_from(MACHINES), min_size=64, max_size=64))
def test_a_machine_goes_on_where_it_was_until_its_stretch_is_done(turns: list[str]) -> None:
    dealing, last = Dealing(range(64)), dict.fromkeys(MACHINES, -1)
    jumps: Counter[str] = Counter()
    for machine in turns:
        found = dealing.take(machine)
        assert found is not None
        jumps[machine] += found != last[machine] + 1 or last[machine] < 0
        last[machine] = found
    # each new stretch is half of the longest, of which there are at most 4
    assert all(jumps[machine] <= 1 + 4 * 6 for machine in MACHINES)


def test_what_a_machine_left_is_the_next_ones_before_any_is_split() -> None:
    dealing = Dealing(range(12))
    assert (dealing.take("a"), dealing.take("b")) == (0, 6)
    dealing.keep({"b"})
    assert [dealing.take("c"), dealing.take("b"), dealing.take("c")] == [1, 7, 2]
    assert len(dealing) == 7


def test_the_last_ones_are_for_any() -> None:
    dealing = Dealing(range(6))
    assert (dealing.take("a"), dealing.take("b")) == (0, 3)
    assert sorted(found for _ in range(4) if (found := dealing.take()) is not None) == [1, 2, 4, 5]


def test_neighbours_come_to_one_machine_and_not_to_whoever_is_next() -> None:
    """Of a square of 32 blocks a side on 8 machines, borders between blocks of two machines."""
    side = 32
    plan = along_curve([(2018, Block(32645, *at, 256)) for at in product(range(side), range(side))])
    names = [f"pod-{number}" for number in range(8)]

    def borders(owners: list[str]) -> int:
        owner = {(block.row, block.col): who for (_, block), who in zip(plan, owners, strict=True)}
        beside = [(at, (at[0] + down, at[1] + 1 - down)) for at in owner for down in (0, 1)]
        return sum(owner[a] != owner[b] for a, b in beside if b in owner)

    dealing, mine = Dealing(plan), {}
    for number in range(side**2):
        mine[dealing.take(names[number % 8])] = names[number % 8]
    by_turns = [names[number % 8] for number in range(side**2)]
    assert borders([mine[work] for work in plan]) <= 32 * 4
    assert borders(by_turns) > 1500
