"""Scenes that a catalogue lists as processed several times: the newest is taken, neighbours stay."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pystac import Item
from shapely.geometry import box, mapping

from cryoscale.plan import catalog_record, reprocessed
from cryoscale.read.catalog import CatalogAnswer, search
from cryoscale.read.reprocessed import newest

WHOLE = (86.7, 27.8, 87.7, 28.8)


def scene(
    name: str,
    baseline: str = "02.12",
    when: str = "2018-10-13T04:58:09.123",
    bbox: tuple[float, float, float, float] = WHOLE,
    **properties: Any,
) -> Item:
    moment = datetime.fromisoformat(when).replace(tzinfo=UTC)
    given = {"platform": "Sentinel-2A", "s2:mgrs_tile": "45RVL", "s2:processing_baseline": baseline}
    return Item(name, mapping(box(*bbox)), list(bbox), moment, given | properties, collection="s2")


def strip(start: str, written: str) -> dict[str, str]:
    return {"s2:datastrip_id": f"S2A_OPER_MSI_L2A_DS_ESRI_{written}_S{start}_N02.12"}


def kept(*scenes: Item) -> list[str]:
    """Ids of those that are taken, whatever their order was."""
    told = {
        tuple(sorted(one.id for one in newest(random.Random(n).sample(scenes, len(scenes)))[0]))
        for n in range(4)
    }
    assert len(told) == 1
    return list(told.pop())


def test_of_an_acquisition_the_highest_baseline_then_the_latest_generation_then_the_last_id_is_taken() -> (
    None
):
    old, new = scene("S2A_MSIL2A_N0212"), scene("S2A_MSIL2A_N0500", "05.00", "2018-10-13T04:58:09.9")
    assert kept(old, new) == ["S2A_MSIL2A_N0500"]
    early, late = (scene(day, **{"s2:generation_time": f"2018-10-{day}T00:00:00Z"}) for day in ("14", "15"))
    assert kept(early, late) == ["15"]
    early, late = (scene(day, created=f"2018-10-{day}T00:00:00Z") for day in ("14", "15"))
    assert kept(early, late) == ["15"]
    assert kept(scene("S2A_45RVL_20181013_0_L2A"), scene("S2A_45RVL_20181013_1_L2A")) == [
        "S2A_45RVL_20181013_1_L2A"
    ]
    assert newest([old, new])[1] == {"S2A_MSIL2A_N0212": "S2A_MSIL2A_N0500"}


def test_one_data_strip_is_one_acquisition_however_its_outline_was_drawn() -> None:
    old = scene("old", **strip("20181013T050100", "20181013T120000"))
    new = scene("new", "05.00", bbox=(86.7, 27.8, 87.5, 28.8), **strip("20181013T050100", "20231013T120000"))
    assert kept(old, new) == ["new"]


def test_a_later_processing_may_have_another_time_of_the_same_strip() -> None:
    old = scene("old", when="2018-10-13T05:02:32", **strip("20181013T050100", "20181013T120000"))
    eopf = {"eopf:datastrip_id": strip("20181013T050100", "20231013T120000")["s2:datastrip_id"]}
    new = scene("new", "05.00", when="2018-10-13T04:57:06", **eopf)
    assert kept(old, new) == ["new"]


def test_parts_that_somebody_has_cut_of_one_scene_are_all_taken() -> None:
    begun = strip("20181013T050100", "20181013T120000")
    west = scene("west", bbox=(86.7, 27.8, 87.21, 28.8), **begun)
    east = scene("east", bbox=(87.19, 27.8, 87.7, 28.8), **begun)
    assert kept(west, east) == ["east", "west"]


@pytest.mark.parametrize(
    "other",
    [
        scene("b", "05.00", when="2018-10-13T04:58:10.1"),
        scene("b", "05.00", platform="Sentinel-2B"),
        scene("b", "05.00", platform=None),
        scene("b", "05.00", **{"s2:mgrs_tile": "45RWL"}),
        scene("b", "05.00", **{"s2:mgrs_tile": None}),
        scene("b", "05.00", bbox=(86.7, 28.3, 87.7, 28.8)),  # a part may be of the other strip of the tile
    ],
    ids=["second", "satellite", "no satellite", "tile", "no tile", "outline"],
)
def test_what_may_be_another_acquisition_stays(other: Item) -> None:
    assert kept(scene("a"), other) == ["a", "b"]


def test_two_strips_that_share_a_tile_complete_each_other() -> None:
    first = scene("a", **strip("20181013T050100", "20181013T120000"))
    second = scene("b", "05.00", **strip("20181013T050130", "20181013T120000"))
    assert kept(first, second) == ["a", "b"]


@pytest.mark.parametrize("name", ["S2A_5VNK_20181013_{}_L2A", "S2A_MSIL2A_20181013_N02{}_R076_T05VNK_X.SAFE"])
def test_the_tile_may_stand_in_the_name_alone(name: str) -> None:
    nameless = {"s2:mgrs_tile": None}
    assert len(kept(scene(name.format("10"), **nameless), scene(name.format("11"), **nameless))) == 1
    assert (
        len(kept(scene("a", **{"grid:code": "MGRS-05VNK"} | nameless), scene(name.format("11"), **nameless)))
        == 1
    )


def test_a_search_leaves_the_older_one_out_and_says_so(tmp_path: Path) -> None:
    for one in (scene("old"), scene("new", "05.00"), scene("later", when="2018-10-18T04:58:09")):
        (tmp_path / f"{one.id}.json").write_text(json.dumps(one.to_dict(include_self_link=False)))
    told: list[CatalogAnswer] = []
    found = search([{"url": str(tmp_path)}], collection="s2", on_answer=told.append)
    assert [one.id for one in found] == ["new", "later"]
    (line,) = record = catalog_record(told)
    assert (line["items"], line["replaced"]) == (2, {"old": "new"})
    assert reprocessed(record) == [
        "1 scenes of s2 are left out, as a newer processing of the same acquisition is taken: old (by new)"
    ]


def test_an_item_without_a_name_is_no_reason_to_fail() -> None:
    odd = scene("a")
    odd.id = None  # type: ignore[assignment]
    odd.properties["s2:mgrs_tile"] = None
    assert newest([odd]) == ([odd], {})
