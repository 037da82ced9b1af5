"""Chunks that any cut lies over, each counted once, held against a list of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoscale.forecast.layers import Layer
from cryoscale.forecast.once import Once

ROWS, COLUMNS = 4, 5
STORED = np.arange(1, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS)


def layer(chunk_bytes: float = 7.0) -> Layer:
    """Three items of 4 x 5 chunks, of which the second has a table of their sizes."""
    summed = np.zeros((ROWS + 1, COLUMNS + 1), np.int64)
    summed[1:, 1:] = STORED.cumsum(axis=0).cumsum(axis=1)
    shape = np.full((3, 2), (ROWS * 10, COLUMNS * 10 - 3))
    return Layer(np.ones((3, 4)), shape, (10, 10), 2, chunk_bytes, np.array([-1, 0, -1]), (summed,))


def chunk_bytes(item: int, row: int, column: int, one: Layer) -> float:
    return float(STORED[row, column]) if item == 1 else one.chunk_bytes


CUTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.lists(st.integers(0, ROWS), min_size=2, max_size=2, unique=True).map(sorted),
        st.lists(st.integers(0, COLUMNS), min_size=2, max_size=2, unique=True).map(sorted),
    ),
    max_size=12,
)


def note(
    once: Once, layers: list[Layer], cuts: list[tuple[int, list[int], list[int]]], *, looks: bool
) -> None:
    items = np.array([item for item, *_ in cuts], np.int64)
    rows = np.array([rows for _, rows, _ in cuts], np.int64).reshape(-1, 2)
    columns = np.array([columns for *_, columns in cuts], np.int64).reshape(-1, 2)
    for part in (slice(0, 3), slice(3, None)):  # as slices of blocks come
        box = rows[part, 0], columns[part, 0], rows[part, 1], columns[part, 1]
        once.touched(layers, looks=looks).add(items[part], box)


def chunks(cuts: list[tuple[int, list[int], list[int]]]) -> set[tuple[int, int, int]]:
    return {
        (item, row, column)
        for item, rows, columns in cuts
        for row in range(*rows)
        for column in range(*columns)
    }


@given(looked=CUTS, read=CUTS)
def test_each_chunk_counts_once(
    looked: list[tuple[int, list[int], list[int]]], read: list[tuple[int, list[int], list[int]]]
) -> None:
    first, second = layer(), layer(9.0)  # two bands that lie alike: the first is looked at too
    share = np.array([1.0, 0.5, 0.25])
    once = Once()
    note(once, [first], looked, looks=True)
    note(once, [first, second], read, looks=False)
    expected = sum(chunk_bytes(*chunk, first) for chunk in chunks(looked))
    expected += sum(share[c[0]] * chunk_bytes(*c, first) for c in chunks(read) - chunks(looked))
    expected += sum(share[c[0]] * chunk_bytes(*c, second) for c in chunks(read))
    assert once.stored_bytes(share) == pytest.approx(expected)
    everything = sum(chunk_bytes(*c, first) for c in chunks(read) | chunks(looked))
    everything += sum(chunk_bytes(*c, second) for c in chunks(read))
    assert once.stored_bytes() == pytest.approx(everything)
