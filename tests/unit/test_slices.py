"""Which slice is meant, and how few blocks of others a slice's blocks lie beside."""

from __future__ import annotations

import pytest

from cryoscale.errors import InputError
from cryoscale.grid import Block
from cryoscale.slices import COUNT, INDEX, Slice


def test_a_slice_is_named_by_its_number_or_by_what_an_indexed_job_sets() -> None:
    assert Slice.parse("2/3") == Slice(2, 3)
    assert Slice.parse("auto", {INDEX: "0", COUNT: "12"}) == Slice(0, 12)


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("3/3", {}, "given --slice 3/3; expected I/N, with I from 0 to N - 1"),
        ("0/0", {}, "given --slice 0/0"),
        ("-1/3", {}, "given --slice -1/3"),
        ("one", {}, "given --slice one"),
        ("auto", {}, "without JOB_COMPLETION_INDEX and CRYOSCALE_SLICES"),
        ("auto", {INDEX: "4"}, "without CRYOSCALE_SLICES; expected JOB_COMPLETION_INDEX and"),
        ("auto", {INDEX: "4", COUNT: "4"}, "given --slice auto, which is 4/4"),
    ],
)
def test_what_names_no_slice_is_refused_in_one_line(
    text: str, environment: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        Slice.parse(text, environment)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_slices_share_fewer_borders_than_rows_of_blocks_do() -> None:
    side, count = 32, 16
    plan = [(2018, Block(32645, row, col, 256)) for row in range(side) for col in range(side)]

    def borders(owner: dict[tuple[int, int], int]) -> int:
        beside = [((r, c), (r + dr, c + dc)) for r, c in owner for dr, dc in ((0, 1), (1, 0))]
        return sum(owner[a] != owner[b] for a, b in beside if b in owner)

    ours = {
        (block.row, block.col): index
        for index in range(count)
        for _, block in Slice(index, count).share(plan)
    }
    by_rows = {
        (row, col): (row * side + col) * count // side**2 for row in range(side) for col in range(side)
    }
    assert borders(ours) == 192  # 16 squares of 8 x 8
    assert borders(by_rows) == 480
