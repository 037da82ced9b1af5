"""Finding items in folders and files, fail-over, the frozen catalogue."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pystac import Asset, Item
from shapely.geometry import box, mapping
from stac_geoparquet import arrow as stac_geoparquet

from cryoscale.errors import CatalogUnavailableError, IntegrityError, RegionError, SourceError
from cryoscale.read import catalog
from cryoscale.read.signing import sign_of, signed_href

EVEREST = (86.7, 27.8, 87.0, 28.1)


def item(
    name: str,
    day: str = "2018-10-13",
    bbox: tuple[float, float, float, float] = EVEREST,
    collection: str = "sentinel-2-l2a",
    **properties: Any,
) -> Item:
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
    made = Item(name, mapping(box(*bbox)), list(bbox), moment, properties, collection=collection)
    made.add_asset("B04", Asset("./B04.tif"))
    return made


def folder(path: Path, *items: Item) -> dict[str, str]:
    """A folder of items as other tools leave them: no catalogue above, other JSON beside."""
    for one in items:
        home = path / one.id
        home.mkdir(parents=True)
        (home / f"{one.id}.json").write_text(json.dumps(one.to_dict(include_self_link=False)))
    (path / "notes.json").write_text('{"type": "Feature", "geometry": null, "properties": {}}')
    (path / "list.json").write_text("[1, 2]")
    return {"url": str(path)}


def ids(items: list[Item]) -> list[str]:
    return [one.id for one in items]


def test_a_folder_gives_its_items_by_time_and_id_with_addresses_that_open_from_anywhere(
    tmp_path: Path,
) -> None:
    here = folder(tmp_path, item("c", "2018-10-20"), item("b"), item("a"), item("dem", collection="cop-dem"))
    found = catalog.search([here], collection="sentinel-2-l2a")
    assert ids(found) == ["a", "b", "c"]
    assert found[0].assets["B04"].href == str(tmp_path / "a" / "B04.tif")


def test_items_are_selected_by_place_time_and_cloud(tmp_path: Path) -> None:
    here = folder(
        tmp_path,
        item("in", **{"eo:cloud_cover": 10.0}),
        item("cloudy", **{"eo:cloud_cover": 80.0}),
        item("unknown"),
        item("late", "2018-11-02"),
        item("evening", "2018-10-31T23:59:59"),
        item("elsewhere", bbox=(10.0, 46.0, 11.0, 47.0)),
    )
    found = catalog.search(
        [here],
        collection="sentinel-2-l2a",
        bbox=(86.9, 28.0, 87.5, 28.5),
        datetime="2018-10-01/2018-10-31",
        max_cloud_pct=60,
    )
    assert ids(found) == ["in", "unknown", "evening"]
    area = mapping(box(10.5, 46.5, 10.6, 46.6))
    assert ids(catalog.search([here], collection="sentinel-2-l2a", intersects=area)) == ["elsewhere"]


def test_days_are_those_of_utc_and_a_pair_without_an_instant_is_of_the_day_on_which_it_ends(
    tmp_path: Path,
) -> None:
    far = item("far")
    far.properties["datetime"] = "2018-10-14T22:30:00-02:00"
    far.datetime = datetime.fromisoformat("2018-10-14T22:30:00-02:00")
    pairs = {"ends": ("2018-09-21", "2018-10-15"), "begins": ("2018-10-15", "2018-11-08")}
    made = [item("before", "2018-10-14T23:59:59"), item("first", "2018-10-15"), far]
    made += [item("last", "2018-10-15T23:59:59"), item("after", "2018-10-16")]
    for name, (start, end) in pairs.items():
        times = {"start_datetime": f"{start}T00:13:00Z", "end_datetime": f"{end}T00:13:00Z"}
        pair = item(name, **times)
        pair.datetime = None
        made.append(pair)
    made.append(item("both", "2018-10-15", **times))
    here = folder(tmp_path, *made)
    asked = {"collection": "sentinel-2-l2a", "datetime": "2018-10-01/2018-10-31"}
    found = catalog.search([here], **asked, days=[date(2018, 10, 15)])
    assert set(ids(found)) == {"first", "far", "last", "ends", "both"}
    assert len(catalog.search([here], **asked)) == 8


def test_a_catalogue_without_the_days_is_passed_over_and_says_which_it_has(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", item("a", "2018-10-05"), item("b", "2018-10-25"), item("c", "2018-10-25"))
    other = folder(tmp_path / "other", item("d", "2018-10-15"), item("e", "2018-10-05"))
    many = folder(tmp_path / "many", *(item(str(n), f"2018-10-{n:02d}") for n in range(1, 12)))
    said: list[catalog.CatalogAnswer] = []

    def search(*catalogs: dict[str, str], day: int = 15) -> list[str]:
        said.clear()
        days = {date(2018, 10, day)}
        found = catalog.search(catalogs, collection="sentinel-2-l2a", days=days, on_answer=said.append)
        return ids(found)

    assert search(one, other) == ["d"]
    assert [(a.outcome, a.items) for a in said] == [("empty", 0), ("taken", 1)]
    assert said[0].reason == "no item of 2018-10-15, but of 2018-10-05, 2018-10-25"
    assert search(many) == []
    assert "but of 2018-10-01, 2018-10-02, " in said[0].reason
    assert said[0].reason.endswith(", 2018-10-08 and 3 more")


def test_a_region_over_the_antimeridian_finds_the_items_on_both_sides_and_on_it(tmp_path: Path) -> None:
    here = folder(
        tmp_path,
        item("east", bbox=(179.2, -17.0, 179.9, -16.0)),
        item("west", bbox=(-179.9, -17.0, -179.2, -16.0)),
        item("on", bbox=(179.5, -17.0, -179.5, -16.0)),
        item("far", bbox=(0.0, -17.0, 1.0, -16.0)),
    )
    found = catalog.search([here], collection="sentinel-2-l2a", bbox=(179.0, -18.0, -179.0, -15.0))
    assert ids(found) == ["east", "on", "west"]


def test_the_first_catalogue_with_items_wins_and_its_way_of_signing_goes_with_them(tmp_path: Path) -> None:
    empty = folder(tmp_path / "empty", item("dem", collection="cop-dem"))
    full = {**folder(tmp_path / "full", item("a")), "sign": "planetary-computer"}
    other = folder(tmp_path / "other", item("b"))
    found = catalog.search([empty, full, other], collection="sentinel-2-l2a")
    assert ids(found) == ["a"]
    assert sign_of(found[0], None) == "planetary-computer"
    assert sign_of(catalog.search([other], collection="sentinel-2-l2a")[0], None) is None
    assert catalog.search([empty], collection="sentinel-2-l2a") == []


def test_a_catalogue_that_does_not_answer_is_passed_over_and_named_where_none_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RETRIES", 0)
    down = {"url": "http://127.0.0.1:9/stac"}
    found = catalog.search([down, folder(tmp_path, item("a"))], collection="sentinel-2-l2a")
    assert ids(found) == ["a"]
    with pytest.raises(CatalogUnavailableError, match=r"127\.0\.0\.1:9/stac"):
        catalog.search([down], collection="sentinel-2-l2a")


def test_bad_catalogues_are_told_in_one_line(tmp_path: Path) -> None:
    cases = {
        "absent": tmp_path / "absent",
        "without items": tmp_path / "hollow",
        "not JSON": tmp_path / "broken",
        "not STAC": tmp_path / "half",
        "no parquet": tmp_path / "text.parquet",
        "another table": tmp_path / "other.parquet",
        "no catalogue, beside one": tmp_path / "notes.txt",
    }
    folder(tmp_path / "good", item("a"))
    (tmp_path / "notes.txt").write_text("words")
    for name in ("hollow", "broken", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "x.json").write_text("{")
    (tmp_path / "half" / "x.json").write_text('{"type": "Feature", "stac_version": "1.0.0", "id": "x"}')
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for path in cases.values():
        with pytest.raises(SourceError) as caught:
            catalog.search([{"url": str(path)}], collection="sentinel-2-l2a")
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)


@pytest.mark.parametrize(
    "bbox", [(1, 2, 3), (10, 50, 11, 40), (10, 40, 10, 50), (0, 40, 200, 50), (0, float("nan"), 1, 50)]
)
def test_a_box_that_is_none_is_refused(bbox: tuple[float, ...]) -> None:
    with pytest.raises(RegionError):
        catalog.split_bbox(bbox)


def test_intervals_mean_whole_days_months_and_years() -> None:
    start, end = catalog.interval("2018-10-01/2018-10-31")
    assert (start.isoformat(), end.isoformat()) == (
        "2018-10-01T00:00:00+00:00",
        "2018-10-31T23:59:59.999999+00:00",
    )
    assert catalog.interval("2018")[1].isoformat() == "2018-12-31T23:59:59.999999+00:00"
    assert catalog.interval("2018-02")[1].day == 28
    assert catalog.interval("../2018-10-31")[0].year == 1
    assert catalog.interval("2018-10-01T10:00:00Z")[0] == catalog.interval("2018-10-01T10:00:00Z")[1]
    for bad in ("soon", "2018-10-31/2018-10-01", "2018/2019/2020"):
        with pytest.raises(SourceError):
            catalog.interval(bad)


# --- the frozen catalogue -----------------------------------------------------------------------------


def test_a_frozen_catalogue_gives_back_exactly_what_went_in(tmp_path: Path) -> None:
    odd = item("odd", **{"eo:cloud_cover": 3, "null": None, "nested": {"a": [1, 2.5, None]}})
    odd.extra_fields["cryoscale:sign"] = "planetary-computer"
    items = {"2018/optical": [item("a"), odd], "all/terrain": [item("d", collection="dem")], "2018/insar": []}
    path = tmp_path / "items.parquet"
    digest = catalog.freeze(items, path)
    thawed = catalog.thaw(path)
    assert {name: ids(found) for name, found in thawed.items()} == {
        "2018/optical": ["a", "odd"],
        "all/terrain": ["d"],
        "2018/insar": [],
    }
    for source, found in items.items():
        for one, two in zip(found, thawed[source], strict=True):
            assert two.to_dict() == json.loads(json.dumps(one.to_dict()))
    assert catalog.digest(thawed) == digest == catalog.digest(items)


def test_the_digest_is_that_of_the_contents_not_of_their_order(tmp_path: Path) -> None:
    one = catalog.freeze({"x": [item("a"), item("b")]}, tmp_path / "1.parquet")
    two = catalog.freeze({"x": [item("b"), item("a")]}, tmp_path / "2.parquet")
    other = catalog.freeze({"x": [item("b"), item("a", "2018-10-14")]}, tmp_path / "3.parquet")
    assert one == two != other


def test_a_frozen_catalogue_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    catalog.freeze({"x": [item("a"), item("b")]}, path)
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    with pytest.raises(IntegrityError, match="sha256"):
        catalog.thaw(path)
    with pytest.raises(SourceError):
        catalog.thaw(tmp_path / "absent.parquet")


def test_a_frozen_catalogue_is_a_geoparquet_and_a_catalogue_for_others(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "items.parquet"
    catalog.freeze({"x": [item("a")]}, path)
    frame = geopandas.read_parquet(path)
    assert frame.geometry[0].bounds == EVEREST
    assert ids(catalog.search([{"url": str(path)}], collection="sentinel-2-l2a", bbox=EVEREST)) == ["a"]


def test_recorded_items_of_all_providers_survive_freezing(shared_data: Path, tmp_path: Path) -> None:
    items = []
    for path in sorted(shared_data.glob("stac/*.json")):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            items.append(Item.from_dict(document))
    assert len(items) > 25
    catalog.freeze({"x": items}, tmp_path / "items.parquet")
    wanted = {one.id: one for one in items}
    for found in catalog.thaw(tmp_path / "items.parquet")["x"]:
        before, after = (one.to_dict(transform_hrefs=False) for one in (wanted[found.id], found))
        assert {**before, "links": []} == {**after, "links": []}


def test_stac_geoparquet_files_of_other_tools_are_read(tmp_path: Path) -> None:
    items = [
        item("a", **{"eo:cloud_cover": 10.0}),
        item("b", "2018-11-05", **{"s2:processing_baseline": "05.00"}),
    ]
    reader = stac_geoparquet.parse_stac_items_to_arrow([one.to_dict() for one in items])
    stac_geoparquet.to_parquet(reader, tmp_path / "items.parquet")
    (found,) = catalog.search(
        [{"url": str(tmp_path / "items.parquet")}],
        collection="sentinel-2-l2a",
        datetime="2018-10",
        bbox=EVEREST,
    )
    assert found.id == "a"
    assert found.datetime == items[0].datetime
    assert found.properties["eo:cloud_cover"] == 10.0
    assert "s2:processing_baseline" not in found.properties
    assert found.assets["B04"].href.endswith("B04.tif")


def test_only_what_has_to_be_is_signed() -> None:
    assert signed_href("https://example.org/a.tif", None) == "https://example.org/a.tif"
    assert signed_href("/data/a.tif", "planetary-computer") == "/data/a.tif"
    assert signed_href("https://example.org/a.tif", "planetary-computer") == "https://example.org/a.tif"
    with pytest.raises(ValueError, match="planetary-computer"):
        signed_href("https://example.org/a.tif", "wax")


@pytest.mark.parametrize("features", [None, 3, {"a": 1}])
def test_a_collection_whose_features_are_no_list_is_named(tmp_path: Path, features: object) -> None:
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(SourceError, match=r"items\.json \(features is .*; expected a list of features; "):
        catalog.search([{"url": str(tmp_path)}], collection="sentinel-2-l2a", bbox=EVEREST)
