"""Links, changes and stable ids on squares whose answers are known, and on glaciers of the RGI 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from shapely import affinity
from shapely.geometry import Polygon, box

from cryoscale.errors import InputError, OutputError
from cryoscale.write.coverage import Coverage
from cryoscale.write.links import Inventoried, Links, link
from cryoscale.write.succession import changes, inherit, link_years, write_links

Box = tuple[float, float, float, float]
NORTH_M = 5_200_000.0  # at about 45 degrees, in the equal-area projection


def outlines(**boxes_m: Box) -> gpd.GeoDataFrame:
    """Outlines from boxes in m on an equal-area projection, where their areas are plain."""
    shapes = [
        box(west, NORTH_M + south, east, NORTH_M + north) for west, south, east, north in boxes_m.values()
    ]
    frame = gpd.GeoDataFrame({"glac_id": list(boxes_m)}, geometry=shapes, crs="EPSG:6933")
    return frame.to_crs("EPSG:4326")


def linked(older: gpd.GeoDataFrame, newer: gpd.GeoDataFrame, *, rows: int = 2) -> Links:
    """Linked in parts of a few rows."""
    return link_years(*(iter([f.iloc[i : i + rows] for i in range(0, len(f), rows)]) for f in (older, newer)))


OLDER = outlines(
    same=(0, 0, 100, 100),
    split=(1000, 0, 1300, 100),
    merge1=(2000, 0, 2100, 100),
    merge2=(2100, 0, 2400, 100),
    left=(3000, 0, 3100, 200),
    right=(3100, 0, 3200, 200),
    vanished=(4000, 0, 4100, 100),
)
NEWER = outlines(
    Same=(10, 0, 100, 100),
    Split1=(1000, 0, 1100, 100),
    Split2=(1120, 0, 1300, 100),
    Merge=(2000, 0, 2400, 90),
    Top=(3000, 100, 3200, 200),
    Bottom=(3000, 0, 3200, 99),
    Birth=(5000, 0, 5100, 100),
)


def coverage(*hidden_m: Box) -> Coverage:
    """Of maps that have data over all outlines, but in boxes in m."""
    to_zone = Transformer.from_crs(6933, 32631, always_xy=True)
    west, south, east, north = to_zone.transform_bounds(-1000, NORTH_M - 1000, 6000, NORTH_M + 1000)
    x, y = np.arange(west, east, 10), np.arange(north, south, -10)
    label = xr.DataArray(np.zeros((y.size, x.size), np.uint8), dims=("y", "x"), coords={"y": y, "x": x})
    for box_m in hidden_m:
        shape = gpd.GeoSeries([box(box_m[0], NORTH_M + box_m[1], box_m[2], NORTH_M + box_m[3])], crs=6933)
        inside = shapely.contains_xy(shape.to_crs(32631)[0], *np.meshgrid(x, y))
        label.values[inside] = 255
    return Coverage({32631: label})


def test_the_table_of_links_has_every_pair_with_its_share_of_both_and_its_cluster() -> None:
    table = linked(OLDER, NEWER).table
    assert list(table) == [
        "older_id",
        "newer_id",
        "overlap_area_km2",
        "older_area_fraction",
        "newer_area_fraction",
        "n_older",
        "n_newer",
        "cluster_id",
    ]
    found = {(row.older_id, row.newer_id): list(row)[3:] for row in table.itertuples()}
    expected = {
        ("merge2", "Merge"): [0.027, 0.9, 0.75, 2, 1, 1],
        ("merge1", "Merge"): [0.009, 0.9, 0.25, 2, 1, 1],
        ("split", "Split2"): [0.018, 0.6, 1.0, 1, 2, 2],
        ("split", "Split1"): [0.010, 1 / 3, 1.0, 1, 2, 2],
        ("left", "Top"): [0.010, 0.5, 0.5, 2, 2, 3],
        ("right", "Top"): [0.010, 0.5, 0.5, 2, 2, 3],
        ("left", "Bottom"): [0.0099, 0.495, 0.5, 2, 2, 3],
        ("right", "Bottom"): [0.0099, 0.495, 0.5, 2, 2, 3],
        ("same", "Same"): [0.009, 0.9, 1.0, 1, 1, 4],
    }
    assert found.keys() == expected.keys()
    for pair, values in expected.items():
        assert found[pair] == pytest.approx(values, rel=1e-5), pair


def test_splits_merges_births_and_vanishings_are_told_apart() -> None:
    found = changes(linked(OLDER, NEWER))
    told = {(r.kind, r.n_older, r.n_newer, r.older_ids, r.newer_ids): r for r in found.itertuples()}
    assert list(told) == [
        ("merge", 2, 1, "merge2 merge1", "Merge"),
        ("split", 1, 2, "split", "Split2 Split1"),
        ("exchange", 2, 2, "left right", "Top Bottom"),
        ("same", 1, 1, "same", "Same"),
        ("birth", 0, 1, "", "Birth"),
        ("vanished", 1, 0, "vanished", ""),
    ]
    assert found["cluster_id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert found["older_area_km2"].tolist() == pytest.approx([0.04, 0.03, 0.04, 0.01, 0, 0.01], rel=1e-5)
    assert found["newer_area_km2"].tolist() == pytest.approx([0.036, 0.028, 0.0398, 0.009, 0.01, 0], rel=1e-5)
    assert found["overlap_area_km2"].tolist() == pytest.approx([0.036, 0.028, 0.0398, 0.009, 0, 0], rel=1e-5)


@pytest.mark.parametrize(("width_m", "expected"), [(1.99, 0), (2.01, 1)])
def test_a_pair_is_linked_above_200_m2_and_not_below(width_m: float, expected: int) -> None:
    links = linked(outlines(a=(0, 0, 100, 100)), outlines(b=(100 - width_m, 0, 300, 100)))
    assert len(links.table) == expected
    kinds = ["same"] if expected else ["birth", "vanished"]
    assert changes(links)["kind"].tolist() == kinds


def test_a_divide_drawn_elsewhere_makes_one_cluster_and_yet_every_glacier_is_the_same() -> None:
    older = outlines(a=(0, 0, 500, 900), b=(500, 0, 900, 900), c=(900, 0, 1500, 900))
    newer = outlines(A=(0, 0, 530, 900), B=(530, 0, 880, 900), C=(880, 0, 1500, 900))
    links = linked(older, newer)
    assert set(links.table["cluster_id"]) == {1}
    assert set(links.table["n_older"]) == set(links.table["n_newer"]) == {3}
    found = changes(links)
    assert list(zip(found["kind"], found["older_ids"], found["newer_ids"], strict=True)) == [
        ("same", "c", "C"),
        ("same", "a", "A"),
        ("same", "b", "B"),
    ]
    assert found["overlap_area_km2"].tolist() == pytest.approx([0.54, 0.45, 0.315], rel=1e-4)
    assert inherit(links, {"a": "1", "b": "2", "c": "3"}, {"1", "2", "3"}, 2020) == {
        "A": "1",
        "B": "2",
        "C": "3",
    }


def test_ids_stay_with_the_largest_part_and_end_or_begin_with_the_others() -> None:
    ids = {name: name.upper() for name in OLDER["glac_id"]}
    found = inherit(linked(OLDER, NEWER), ids, {*ids.values(), "Birth"}, 2020)
    assert found == {
        "Same": "SAME",
        "Split1": "Split1",
        "Split2": "SPLIT",
        "Merge": "MERGE2",
        "Top": "LEFT",  # it shares as much with the right: the smaller name decides
        "Bottom": "Bottom",  # it, too, would be the left, of which Top has more
        "Birth": "Birth-2020",  # somebody was called so before
    }


def test_without_links_all_is_birth_and_vanishing_and_of_nothing_nothing_happens() -> None:
    none = OLDER.iloc[:0]
    assert set(changes(linked(OLDER, none))["kind"]) == {"vanished"}
    assert set(changes(linked(none, NEWER))["kind"]) == {"birth"}
    assert changes(linked(none, none)).empty
    assert inherit(linked(none, NEWER), {}, set(), 2020) == {name: name for name in NEWER["glac_id"]}
    assert list(linked(none, none).table) == list(linked(OLDER, NEWER).table)


def test_two_of_the_same_outline_are_linked_both_and_the_id_goes_to_the_first_by_name() -> None:
    twice = pd.concat([OLDER.iloc[[0]], OLDER.iloc[[0]].assign(glac_id="again")], ignore_index=True)
    links = linked(OLDER.iloc[[0]], twice)
    assert links.table["newer_area_fraction"].tolist() == [1.0, 1.0]
    assert changes(links)["kind"].tolist() == ["split"]
    assert inherit(links, {"same": "x"}, {"x"}, 2020) == {"same": "same", "again": "x"}


def test_outlines_beyond_180_degrees_meet_those_that_begin_again_at_minus_180() -> None:
    ours = gpd.GeoDataFrame({"glac_id": ["a"]}, geometry=[box(179.99, 60, 180.02, 60.01)], crs=4326)
    shapes = [box(179.98, 60, 180, 60.01), box(-180, 60, -179.97, 60.01)]
    theirs = gpd.GeoDataFrame({"glac_id": ["east", "west"]}, geometry=shapes, crs=4326)
    for links in (linked(ours, theirs), linked(theirs, ours)):
        shares = links.table.filter(like="fraction")
        assert sorted(shares.to_numpy().ravel()) == pytest.approx([1 / 3, 1 / 2, 2 / 3, 2 / 3], rel=1e-6)


def test_rings_that_cross_are_mended_what_has_no_area_is_left_out_and_any_crs_will_do() -> None:
    bow = Polygon([(10.0, 46.0), (10.02, 46.01), (10.02, 46.0), (10.0, 46.01)])
    odd = gpd.GeoDataFrame(
        {"glac_id": ["bow", "none", "empty"]}, geometry=[bow, None, Polygon()], crs="EPSG:4326"
    )
    whole = gpd.GeoDataFrame({"glac_id": ["all"]}, geometry=[box(10, 46, 10.02, 46.01)], crs="EPSG:4326")
    links = linked(odd, whole.to_crs(32632))
    assert links.first_km2.index.tolist() == ["bow"]
    assert links.table["older_area_fraction"].tolist() == pytest.approx([1.0], abs=1e-3)
    assert links.table["newer_area_fraction"].tolist() == pytest.approx([0.5], abs=1e-3)


def test_outlines_that_cannot_be_linked_are_refused_in_a_line() -> None:
    with pytest.raises(InputError, match="'older' without a CRS; expected .*; set it"):
        linked(OLDER.set_crs(None, allow_override=True), NEWER)
    with pytest.raises(InputError, match="'newer' with the columns id, geometry; expected a column glac_id"):
        linked(OLDER, NEWER.rename(columns={"glac_id": "id"}))
    with pytest.raises(InputError, match="two of them with same; expected one outline an id"):
        linked(pd.concat([OLDER, OLDER.iloc[[0]]]), NEWER)


corner = st.integers(0, 11).map(lambda step: step * 50.0)
edge = st.integers(1, 6).map(lambda step: step * 50.0)


@st.composite
def inventories(draw: st.DrawFn, prefix: str) -> gpd.GeoDataFrame:
    """A few boxes with a grid's corners, taken from each other so that they do not overlap, some in parts."""
    left: list[Polygon] = []
    for west, south, width, height in draw(st.lists(st.tuples(corner, corner, edge, edge), max_size=7)):
        shape = box(west, NORTH_M + south, west + width, NORTH_M + south + height)
        for other in left:
            shape = shape.difference(other)
        if shape.area > 0:
            left.append(shape)
    names = [f"{prefix}{index}" for index in range(len(left))]
    return gpd.GeoDataFrame({"glac_id": names}, geometry=left, crs="EPSG:6933").to_crs("EPSG:4326")


def clusters(table: pd.DataFrame, first: str, second: str) -> set[frozenset[str]]:
    return {frozenset([*group[first], *group[second]]) for _, group in table.groupby("cluster_id")}


@given(inventories("a"), inventories("b"))
def test_links_agree_with_an_overlay_and_a_graph_whatever_the_order(
    older: gpd.GeoDataFrame, newer: gpd.GeoDataFrame
) -> None:
    links = linked(older, newer)
    table = links.table
    plain = gpd.overlay(
        older.to_crs(6933).rename(columns={"glac_id": "a"}),
        newer.to_crs(6933).rename(columns={"glac_id": "b"}),
        keep_geom_type=True,
    )
    expected = {(a, b): area for a, b, area in zip(plain["a"], plain["b"], plain.area / 1e6, strict=True)}
    expected = {pair: area for pair, area in expected.items() if area > 200e-6}
    found = dict(
        zip(zip(table["older_id"], table["newer_id"], strict=True), table["overlap_area_km2"], strict=True)
    )
    assert found == pytest.approx(expected, rel=1e-4)
    graph = nx.Graph(list(found))
    assert clusters(table, "older_id", "newer_id") == {frozenset(c) for c in nx.connected_components(graph)}
    counts = table.groupby("cluster_id")[["older_id", "newer_id"]].nunique().reindex(table["cluster_id"])
    assert counts.to_numpy().tolist() == table[["n_older", "n_newer"]].to_numpy().tolist()

    for side, areas in (("older", links.first_km2), ("newer", links.second_km2)):
        assert table[f"{side}_area_fraction"].between(0, 1).all()
        total = table.groupby(f"{side}_id")["overlap_area_km2"].sum()
        assert (total <= areas.reindex(total.index) * (1 + 1e-4)).all()
    swapped = link(Inventoried("older", [newer]), Inventoried("newer", [older])).table
    other = dict(
        zip(
            zip(swapped["newer_id"], swapped["older_id"], strict=True),
            swapped["overlap_area_km2"],
            strict=True,
        )
    )
    assert other == pytest.approx(found, abs=2e-9)
    assert clusters(swapped, "older_id", "newer_id") == clusters(table, "older_id", "newer_id")


@given(inventories("a"), inventories("b"))
def test_every_outline_is_in_one_event_and_every_id_has_one_heir(
    older: gpd.GeoDataFrame, newer: gpd.GeoDataFrame
) -> None:
    links = linked(older, newer)
    found = changes(links)
    for side, frame in (("older", older), ("newer", newer)):
        ids = [name for names in found[f"{side}_ids"] for name in names.split()]
        assert sorted(ids) == sorted(frame["glac_id"])
        assert [len(names.split()) for names in found[f"{side}_ids"]] == found[f"n_{side}"].tolist()
    linked_ids = {*links.table["older_id"], *links.table["newer_id"]}
    alone = found[found["kind"].isin(["birth", "vanished"])]
    assert {*alone["older_ids"], *alone["newer_ids"]} - {""} == {
        *older["glac_id"],
        *newer["glac_id"],
    } - linked_ids
    simple = links.table[(links.table["n_older"] == 1) | (links.table["n_newer"] == 1)]
    for cluster, group in simple.groupby("cluster_id"):
        (kind,) = found.loc[found["cluster_id"] == cluster, "kind"]
        assert (
            kind
            == {(1, 1): "same", (1, 2): "split", (2, 1): "merge"}[
                min(group["n_older"].iloc[0], 2), min(group["n_newer"].iloc[0], 2)
            ]
        )
    ids = {name: f"id-{name}" for name in older["glac_id"]}
    given_ids = inherit(links, ids, set(ids.values()), 2020)
    assert list(given_ids) == newer["glac_id"].tolist()
    assert len(set(given_ids.values())) == len(given_ids)
    pairs = set(zip(links.table["older_id"], links.table["newer_id"], strict=True))
    inherited = {(value[3:], name) for name, value in given_ids.items() if value.startswith("id-")}
    assert inherited <= pairs
    # an event that is no birth hands on at least one id
    assert len(inherited) >= len(found) - len(alone)


def write(folder: Path, years: Sequence[tuple[int, gpd.GeoDataFrame]]) -> None:
    for year, frame in years:
        frame.to_parquet(folder / f"{year}.parquet")


def test_a_folder_of_inventories_is_linked_from_year_to_year_and_to_the_rgi(tmp_path: Path) -> None:
    again = outlines(same=(20, 0, 100, 100), other=(1000, 0, 1100, 90), third=(4000, 0, 4100, 100))
    write(tmp_path, [(2016, OLDER), (2018, NEWER), (2020, again)])
    known = NEWER.rename(columns={"glac_id": "rgi_id"}).to_crs(3395)
    write_links(tmp_path, dict.fromkeys((2018, 2016, 2020), coverage()), known)
    made = {path.name for path in tmp_path.glob("*.csv")}
    assert made == {
        *(f"{year}-rgi_links.csv" for year in (2016, 2018, 2020)),
        *(f"{years}-{kind}.csv" for years in ("2016-2018", "2018-2020") for kind in ("links", "changes")),
        "glacier_ids.csv",
    }
    assert not list(tmp_path.glob(".*"))
    to_rgi = pd.read_csv(tmp_path / "2018-rgi_links.csv")
    assert list(to_rgi)[:5] == [
        "glac_id",
        "rgi_id",
        "overlap_area_km2",
        "glac_area_fraction",
        "rgi_area_fraction",
    ]
    assert (to_rgi["glac_id"] == to_rgi["rgi_id"]).all()
    assert (to_rgi[["n_glac", "n_rgi"]] == 1).all(axis=None)
    between = pd.read_csv(tmp_path / "2016-2018-changes.csv", keep_default_na=False)
    expected = changes(linked(OLDER, NEWER))
    seen = ["older_seen_fraction", "newer_seen_fraction"]
    got = between[seen].replace("", np.nan).astype(float)
    pd.testing.assert_frame_equal(got, expected[seen], atol=0.1)  # of pixels
    pd.testing.assert_frame_equal(
        between.drop(columns=seen), expected.drop(columns=seen), check_dtype=False, rtol=1e-12
    )
    ids = pd.read_csv(tmp_path / "glacier_ids.csv").set_index(["year", "glac_id"])["glacier_id"]
    assert ids[2016].to_dict() == {name: name for name in OLDER["glac_id"]}
    assert (ids[2018, "Same"], ids[2018, "Split2"], ids[2018, "Split1"]) == ("same", "split", "Split1")
    # its own name, "other", is nobody's; that of 2018's part is handed on; what had vanished begins anew
    assert ids[2020].to_dict() == {"same": "same", "other": "Split1", "third": "third"}


def test_the_share_of_an_outline_that_was_seen_is_that_of_its_area(tmp_path: Path) -> None:
    glacier = outlines(one=(0, 0, 1000, 400)).geometry[0]
    assert coverage().share(glacier) == pytest.approx(1.0, abs=0.01)
    assert coverage((-10, -10, 250, 500)).share(glacier) == pytest.approx(0.75, abs=0.01)
    assert coverage((-10, -10, 1010, 500)).share(glacier) == 0.0
    far = outlines(one=(100_000, 0, 101_000, 400)).geometry[0]
    assert coverage().share(far) == 0.0  # beyond what was mapped
    opposite = affinity.translate(glacier, 180.0)
    assert coverage().share(opposite) == 0.0


def test_a_place_on_the_border_of_two_zones_is_counted_once() -> None:
    glacier = box(5.99, 45.0, 6.01, 45.01)
    labels = {}
    for epsg in (32631, 32632):
        to_zone = Transformer.from_crs(4326, epsg, always_xy=True)
        west, south, east, north = to_zone.transform_bounds(5.98, 44.99, 6.02, 45.02)
        x, y = np.arange(west, east, 10), np.arange(north, south, -10)
        seen = np.zeros((y.size, x.size), np.uint8)
        labels[epsg] = xr.DataArray(seen, dims=("y", "x"), coords={"y": y, "x": x})
    assert Coverage(labels).share(glacier) == pytest.approx(1.0, abs=0.01)
    labels[32632].values[:] = 255  # the eastern half was not seen, though the western zone reaches over it
    assert Coverage(labels).share(glacier) == pytest.approx(0.5, abs=0.01)


def test_a_glacier_under_cloud_has_not_vanished_and_keeps_its_id_until_it_is_seen_again(
    tmp_path: Path,
) -> None:
    first = outlines(stays=(0, 0, 100, 100), clouded=(1000, 0, 1100, 100), gone=(2000, 0, 2100, 100))
    second = outlines(Stays=(0, 0, 100, 90), fresh=(3000, 0, 3100, 100))
    third = outlines(STAYS=(0, 0, 100, 80), back=(1000, 0, 1100, 90), fresh=(3000, 0, 3100, 90))
    write(tmp_path, [(2018, first), (2020, second), (2021, third)])
    clouds = (900, -100, 1200, 200)
    maps = {2018: coverage((2900, -100, 3200, 200)), 2020: coverage(clouds), 2021: coverage()}
    write_links(tmp_path, maps, None)
    told = pd.read_csv(tmp_path / "2018-2020-changes.csv", keep_default_na=False).set_index("kind")
    assert told["older_ids"].to_dict() | told["newer_ids"].to_dict() == {
        "same": "Stays",
        "vanished": "",
        "not seen": "",
        "first seen": "fresh",
    }
    assert (told.loc["not seen", "older_ids"], told.loc["vanished", "older_ids"]) == ("clouded", "gone")
    assert float(told.loc["not seen", "older_seen_fraction"]) == 0.0
    assert float(told.loc["vanished", "older_seen_fraction"]) == pytest.approx(1.0, abs=0.1)
    ids = pd.read_csv(tmp_path / "glacier_ids.csv").set_index(["year", "glac_id"])["glacier_id"]
    assert ids[2021].to_dict() == {"STAYS": "stays", "back": "clouded", "fresh": "fresh"}


def test_a_glacier_under_cloud_whose_place_is_then_seen_without_it_ends(tmp_path: Path) -> None:
    glacier = outlines(one=(0, 0, 100, 100))
    other = outlines(other=(3000, 0, 3100, 100))
    write(tmp_path, [(2018, glacier), (2019, other), (2020, other), (2021, glacier)])
    hidden, clear = coverage((-100, -100, 200, 200)), coverage()
    write_links(tmp_path, {2018: clear, 2019: hidden, 2020: hidden, 2021: clear}, None)
    ids = pd.read_csv(tmp_path / "glacier_ids.csv").set_index(["year", "glac_id"])["glacier_id"]
    assert ids[2021, "one"] == "one"  # two years under cloud
    write_links(tmp_path, {2018: clear, 2019: hidden, 2020: clear, 2021: clear}, None)
    ids = pd.read_csv(tmp_path / "glacier_ids.csv").set_index(["year", "glac_id"])["glacier_id"]
    assert ids[2021, "one"] == "one-2021"  # it was gone in 2020


def test_a_place_that_cannot_be_written_is_told_and_nothing_half_written(tmp_path: Path) -> None:
    write(tmp_path, [(2018, NEWER)])
    (tmp_path / "glacier_ids.csv").mkdir()
    with pytest.raises(OutputError, match="a path that can be written"):
        write_links(tmp_path, {2018: coverage()}, None)
    assert not list(tmp_path.glob(".*"))


def test_the_glaciers_of_hintereis_are_themselves_and_each_other_s_when_the_map_is_shifted(
    shared_data: Path,
) -> None:
    rgi = gpd.read_file(shared_data / "hintereis" / "rgi7g_hef_complex.shp")
    inventory = Inventoried("rgi", [rgi], "rgi_id")
    links = link(inventory, Inventoried("own", [rgi], "rgi_id"))
    assert (links.table["rgi_id"] == links.table["own_id"]).all()
    assert links.table["overlap_area_km2"].to_numpy() == pytest.approx(links.first_km2[links.table["rgi_id"]])
    assert len(links.table) == links.table["cluster_id"].nunique() == 23
    # within what the RGI measured on projections of its own
    assert links.first_km2.to_numpy() == pytest.approx(rgi["area_km2"].to_numpy(), rel=2e-3)

    shifted = rgi.assign(
        glac_id=rgi["rgi_id"], geometry=[affinity.translate(g, 3e-4, 2e-4) for g in rgi.geometry]
    )
    moved = linked(rgi.assign(glac_id=rgi["rgi_id"]), shifted)
    assert moved.table["cluster_id"].nunique() < 23  # strips along divides tie neighbours together
    found = changes(moved)
    assert found["kind"].tolist() == ["same"] * 23
    assert (found["older_ids"] == found["newer_ids"]).all()
    ids = dict(zip(rgi["rgi_id"], rgi["rgi_id"], strict=True))
    assert inherit(moved, ids, set(ids), 2020) == ids
    (whole,) = gpd.read_file(shared_data / "hintereis" / "rgi7c_hef.shp").geometry
    one = gpd.GeoDataFrame({"glac_id": ["complex"]}, geometry=[whole], crs=rgi.crs)
    merged = linked(rgi.assign(glac_id=rgi["rgi_id"]), one)
    assert np.allclose(merged.table["older_area_fraction"], 1.0, atol=1e-3)
    assert merged.table["newer_area_fraction"].sum() == pytest.approx(1.0, abs=1e-3)
    assert changes(merged)["kind"].tolist() == ["merge"]
    largest = rgi.loc[rgi["area_km2"].idxmax(), "rgi_id"]
    assert inherit(merged, ids, set(ids), 2020) == {"complex": largest}
