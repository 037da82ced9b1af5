"""The account of a run's markers: the same in any order, and no marker is held that was not asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from cryoscale.ledger import Marker, SceneShare
from cryoscale.reporting import _mapped
from cryoscale.scenes import account_of


def marker(row: int, year: int = 2018) -> Marker:
    best = [SceneShare(scene=f"S{row % 3}", cloud_share=0.25, snow_share=0.5, rank=1)] if row % 4 else []
    return Marker(
        year=year,
        epsg=32645,
        row=row,
        col=0,
        size_px=512,
        checksum="",
        written_bytes=1,
        pixels=100,
        valid_pixels=60,
        seconds={"read": 0.5},
        scenes_read=[f"S{row % 3}"],
        scenes_failed=[("S9", "gone")] if row == 5 else [],
        modality_pixels={"optical": 80},
        scene_choice=best,
    )


def shuffled(count: int) -> Iterator[Marker]:
    return (marker(row) for row in np.random.default_rng(0).permutation(count).tolist())


def test_sums_and_the_first_blocks_do_not_depend_on_the_order_of_the_markers() -> None:
    found = account_of(shuffled(40), keep=5)
    assert (found.blocks, found.pixels_of, found.valid_pixels_of) == (40, {2018: 4000}, {2018: 2400})
    assert (found.seconds, found.modality_pixels) == ({"read": 20.0}, {"optical": 3200})
    assert found.scenes_read == {"S0", "S1", "S2"}
    assert found.scenes_failed == {("S9", "gone")}
    assert found.choices == 30
    assert [one.row for one in found.first_choices] == [1, 2, 3, 5, 6]
    uses = found.scene_uses()
    assert sum(use.blocks for use in uses) == sum(use.preferred for use in uses) == 30
    assert {(use.clear_share, use.snow_share) for use in uses} == {(0.75, 0.5)}


def test_what_was_mapped_is_told_year_by_year_since_every_year_maps_the_same_region() -> None:
    assert _mapped(account_of([])) == {"Mapped": "nothing"}
    found = account_of([marker(0, 2019), *(marker(row) for row in range(2000)), marker(1, 2019)])
    assert _mapped(found) == {
        "Mapped": "2018: 12.0 km² of 20.0 km²; 2019: 0.0 km² of 0.0 km²",
        "Not mapped": "2018: 8.0 km²; 2019: 0.0 km², where no scene was clear",
    }


@pytest.mark.parametrize("keep", [0, 5])
def test_markers_are_let_go_as_they_are_counted(keep: int) -> None:
    def counted() -> Iterator[Marker]:
        for number, one in enumerate(shuffled(200)):
            if number % 50 == 49:
                alive.append(sum(isinstance(thing, Marker) for thing in gc.get_objects()))
            yield one

    alive: list[int] = []
    gc.freeze()  # what is there already is not looked through
    account_of(counted(), keep=keep)
    gc.unfreeze()
    assert max(alive) <= keep + 3  # and the one that is read, the one that is counted, the one before
