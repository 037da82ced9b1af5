"""The memory of hosts that are down, held against its rule told in plain steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoscale.errors import AssetReadError, HostDownError
from cryoscale.read import hosts
from cryoscale.read.hosts import COOLING_S, DOWN_AFTER, LONGEST_S, Hosts, host_of
from cryoscale.waiting import Waiting, put_off_s


class Clock:
    """A clock that is turned by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hosts, "time", made)
    return made


def ask(memory: Hosts, status: int | str | None, *, insist: bool = False) -> str | None:
    """One request to a host that answers with ``status``; the refusal, if it was not made."""
    refusal = memory.refusal("h", insist=insist)
    if refusal is None or insist:
        if status == "ok":
            memory.answered("h")
        else:
            memory.gave_up("h", "why", status if isinstance(status, int) else None)
    return refusal


@pytest.mark.parametrize("status", [None, 502, 503, 504])
def test_a_host_is_left_alone_after_three_requests_in_a_row_without_a_usable_answer(
    clock: Clock, status: int | None
) -> None:
    memory = Hosts()
    for _ in range(DOWN_AFTER):
        assert ask(memory, status) is None
    told = ask(memory, status)
    assert told is not None
    assert all(word in told for word in ("h is down", "why", "3 requests", "60 s"))
    assert memory.refusal("another", insist=False) is None


@pytest.mark.parametrize("status", ["ok", 403, 404, 429, 500])
def test_any_other_answer_shows_that_the_host_lives(clock: Clock, status: Any) -> None:
    memory = Hosts()
    for _ in range(5):
        for _ in range(DOWN_AFTER - 1):
            assert ask(memory, None) is None
        assert ask(memory, status) is None


def test_after_the_cooling_one_request_is_let_through_and_its_failure_doubles_the_cooling(
    clock: Clock,
) -> None:
    memory, expected = Hosts(), COOLING_S
    for _ in range(DOWN_AFTER):
        ask(memory, None)
    for _ in range(6):
        clock.now += expected - 0.1
        assert ask(memory, None) is not None
        clock.now += 0.2
        assert memory.refusal("h", insist=False) is None  # this one goes
        assert "tried again" in str(memory.refusal("h", insist=False))  # others wait for it
        memory.gave_up("h", "why", None)
        assert memory.refusal("h", insist=False) is not None
        expected = min(2 * expected, LONGEST_S)
    clock.now += expected + 0.1
    assert ask(memory, "ok") is None
    assert ask(memory, "ok") is None


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.floats(0, 400)),
        min_size=1,
        max_size=60,
    )
)
def test_whoever_insists_is_let_ask_and_a_host_that_lives_is_found_out_within_the_longest_cooling(
    steps: list[tuple[bool, bool, float]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(hosts, "time", clock)
        memory, dead_in_a_row = Hosts(), 0
        for lives, insist, passed_s in steps:
            clock.now += passed_s
            refused = ask(memory, "ok" if lives else None, insist=insist)
            made = refused is None or insist
            if refused is not None:
                assert dead_in_a_row >= DOWN_AFTER, "refused although it answered not long ago"
            if made:
                dead_in_a_row = 0 if lives else dead_in_a_row + 1
        clock.now += LONGEST_S
        assert ask(memory, "ok") is None
        assert ask(memory, "ok") is None


def test_a_host_is_scheme_name_and_port_without_the_login() -> None:
    assert host_of("https://me:secret@data.org:8443/a/b?sig=1") == "https://data.org:8443"


def test_a_block_whose_host_is_down_is_put_off_and_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import cryoscale.waiting as waiting

    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    line = Waiting(["a", "b"])
    line.put("c", put_off_s(HostDownError("down")))
    line.put("d", put_off_s(AssetReadError("failed")))
    assert [line.take() for _ in range(4)] == ["a", "b", "d", None]
    assert line
    assert line.next_s() == COOLING_S
    clock.now += COOLING_S
    assert line.take() == "c"
    assert not line
    assert line.next_s() == float("inf")
