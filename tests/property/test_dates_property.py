"""The days of a search, held against seconds that are counted."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from pystac import Item
from shapely.geometry import box, mapping

from cryoscale.read import catalog

FIRST = datetime(2018, 10, 1, tzinfo=UTC)
DAY_S = 86_400
BOUNDS = (86.7, 27.8, 87.0, 28.1)

seconds = st.one_of(
    st.integers(0, 6 * DAY_S - 1),
    st.builds(lambda day, off: max(day * DAY_S + off, 0), st.integers(0, 5), st.integers(-1, 1)),
)
times = st.lists(st.tuples(seconds, st.integers(-14, 14)), max_size=8)
"""Seconds since the first of the month, and the offset from UTC (h) in which they are written."""


@settings(max_examples=40, deadline=None)
@given(times, st.sets(st.integers(0, 5), min_size=1))
def test_a_search_of_days_finds_what_lies_in_them_whatever_zone_it_is_written_in(
    given_times: list[tuple[int, int]], days: set[int]
) -> None:
    with TemporaryDirectory() as home:
        for number, (second, offset_h) in enumerate(given_times):
            moment = (FIRST + timedelta(seconds=second)).astimezone(timezone(timedelta(hours=offset_h)))
            made = Item(str(number), mapping(box(*BOUNDS)), list(BOUNDS), moment, {}, collection="s2")
            told = made.to_dict(include_self_link=False)
            told["properties"]["datetime"] = moment.isoformat()
            Path(home, f"{number}.json").write_text(json.dumps(told))
        other = Item("other", mapping(box(*BOUNDS)), list(BOUNDS), FIRST, {}, collection="dem")
        other = Item("other", mapping(box(*BOUNDS)), list(BOUNDS), FIRST, {}, collection="dem")
        Path(home, "other.json").write_text(json.dumps(other.to_dict()))  # a folder without items is none
        found = catalog.search(
            [{"url": home}],
            collection="s2",
            datetime="2018-10-01/2018-10-31",
            days=[date(2018, 10, 1 + day) for day in days],
        )
    assert {int(one.id) for one in found} == {n for n, (s, _) in enumerate(given_times) if s // DAY_S in days}
