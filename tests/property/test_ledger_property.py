"""The ledger against a dictionary: whatever is done to it, in any order, it holds what it should."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cryoscale import ledger as module
from cryoscale.grid import Block
from cryoscale.ledger import DONE, ROLLED, Ledger, Marker, SetAside, Work, name_of

WORKS = [
    (year, Block(epsg, row, 7, 256)) for year in (2018, 2019) for epsg in (32644, 32645) for row in (-1, 0)
]
works = st.sampled_from(WORKS)


def marker(work: Work, content: int) -> Marker:
    year, block = work
    return Marker(
        year=year,
        epsg=block.epsg,
        row=block.row,
        col=block.col,
        size_px=block.size_px,
        checksum=f"sha256:{content}",
        shards={"label": (content, str(content))},
        written_bytes=content,
        pixels=1,
        valid_pixels=1,
    )


class Books(RuleBasedStateMachine):
    """A ledger, and what it should hold."""

    out = ""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(self.out or tempfile.mkdtemp())
        self.done: dict[Work, Marker] = {}
        self.aside: set[Work] = set()
        self.damaged: set[Work] = set()

    @rule(work=works, content=st.integers(0, 99))
    def mark(self, work: Work, content: int) -> None:
        self.done[work] = marker(work, content)
        self.ledger.mark(self.done[work])
        self.aside.discard(work)
        self.damaged.discard(work)

    @rule(work=works)
    def unmark(self, work: Work) -> None:
        self.ledger.unmark(*work)
        self.done.pop(work, None)

    @rule(work=works)
    def set_aside(self, work: Work) -> None:
        year, block = work
        place = {"epsg": block.epsg, "row": block.row, "col": block.col, "size_px": block.size_px}
        self.ledger.set_aside(SetAside(year=year, **place, error="E", reason="r", attempts=3, when="now"))
        self.aside.add(work)

    @rule(work=works)
    def take_back(self, work: Work) -> None:
        self.ledger.take_back(work)
        self.aside.discard(work)

    @rule(work=works)
    def find_damage(self, work: Work) -> None:
        self.ledger.note_damage(work, "a bit")
        self.damaged.add(work)

    @rule(work=works, at=st.integers(0, 10_000), cut=st.booleans())
    def tear(self, work: Work, at: int, cut: bool) -> None:
        """One byte of a marker flips, or its end is missing: it no longer counts."""
        name = name_of(DONE, work)
        content = self.ledger.objects.get(name)
        if work not in self.done or content is None:
            return
        place = at % (len(content) - 1)
        harmed = (
            content[:place] if cut else content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        )
        if Marker.from_bytes(harmed) == self.done[work]:
            return  # a blank that became another blank says the same
        self.ledger.objects.put(name, harmed)
        del self.done[work]

    @rule()
    def roll(self) -> None:
        self.ledger.roll()

    @rule(data=st.data())
    def lose_a_copy(self, data: Any) -> None:
        names = sorted(entry.key for entry in self.ledger.objects.list(ROLLED))
        if names:
            name = data.draw(st.sampled_from(names))
            content = self.ledger.objects.get(name) or b""
            self.ledger.objects.put(name, content[: len(content) // 2])

    @invariant()
    def holds_what_it_should(self) -> None:
        assert self.ledger.done() == self.done
        assert set(self.ledger.set_asides()) == self.aside
        assert self.ledger.damaged() == {f"{y}/{b.epsg}/{b.key}" for y, b in self.damaged}
        assert self.done.keys() <= self.ledger.done_works(256)

    def teardown(self) -> None:
        self.ledger.objects.delete_all("")
        if "://" not in self.ledger.out:
            shutil.rmtree(self.ledger.out, ignore_errors=True)


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_the_ledger_is_a_dictionary_that_outlives_everything(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROLL_AT", 2)

    class Here(Books):
        out = "" if place == "disk" else f"memory://{uuid.uuid4().hex}"

    from hypothesis.stateful import run_state_machine_as_test

    some = settings(
        max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Here, settings=some)
