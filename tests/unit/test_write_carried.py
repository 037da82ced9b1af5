from __future__ import annotations

import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon, box

from cryoscale.errors import SourceError
from cryoscale.write.carried import KnownGlaciers, read_glaciers
from cryoscale.write.columns import table
from cryoscale.write.links import Inventoried, link

M = 1 / 111_320  # degrees of latitude


def known(**more: object) -> gpd.GeoDataFrame:
    """A wide glacier in the west, a narrow one in the east, side by side at 10 E, 46 N."""
    columns = {
        "rgi_id": ["RGI2000-v7.0-G-11-00001", "RGI2000-v7.0-G-11-00002"],
        "glac_name": ["West", None],
        "surge_type": [0.0, np.nan],
        "anlys_id": [755_531, 755_532],
        "zmed_m": [3000.0, 3100.0],
    } | more
    shapes = [box(10.0, 46.0, 10.03, 46.01), box(10.03, 46.0, 10.04, 46.01)]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326")


def test_the_glacier_that_an_outline_overlaps_most_gives_what_no_map_can_know() -> None:
    found = KnownGlaciers(known()).over(box(10.005, 46.002, 10.037, 46.008))
    assert found == {
        "rgi_id": "RGI2000-v7.0-G-11-00001",
        "glac_name": "West",
        "surge_type": 0,
        "anlys_id": 755_531,
    }
    assert [type(found[name]) for name in ("surge_type", "anlys_id")] == [int, int]


def test_heights_at_the_corners_of_an_outline_do_not_come_into_the_divides() -> None:
    high = known()
    high.geometry = shapely.force_3d(high.geometry.to_numpy(), 3000.0)
    near = KnownGlaciers(high).near(box(10.005, 46.002, 10.037, 46.008))
    assert near.size == 2
    assert not shapely.has_z(near).any()


def test_what_the_glacier_has_not_stays_empty() -> None:
    found = KnownGlaciers(known()).over(box(10.028, 46.002, 10.037, 46.008))
    assert found == {"rgi_id": "RGI2000-v7.0-G-11-00002", "anlys_id": 755_532}


def test_an_overlap_below_200_m2_is_none_and_beside_all_there_is_nothing() -> None:
    glaciers = KnownGlaciers(known())
    for north_m, expected in ((9.0, False), (11.0, True)):  # of 20 m
        touching = box(10.01, 46.0 - 500 * M, 10.01 + 20 * M / np.cos(np.deg2rad(46)), 46.0 + north_m * M)
        assert bool(glaciers.over(touching)) is expected
    assert glaciers.over(box(11.0, 46.0, 11.1, 46.1)) == {}
    assert KnownGlaciers(known().iloc[:0]).over(box(10.0, 46.0, 10.1, 46.1)) == {}


def test_outlines_that_go_on_beyond_180_degrees_find_theirs() -> None:
    west = known()
    west.geometry = [box(-179.99, 60.0, -179.95, 60.01), box(179.9, 60.0, 180.0, 60.01)]
    assert KnownGlaciers(west).over(box(180.012, 60.002, 180.04, 60.008))["glac_name"] == "West"
    assert KnownGlaciers(west).over(box(-180.08, 60.002, -180.05, 60.008))["anlys_id"] == 755_532


def test_an_outline_on_both_sides_of_180_degrees_meets_the_glaciers_of_both() -> None:
    both = known()
    both.geometry = [box(-180.0, 60.0, -179.95, 60.01), box(179.9, 60.0, 180.0, 60.01)]
    outline = box(179.93, 60.0, 180.02, 60.01)
    assert KnownGlaciers(both).over(outline)["anlys_id"] == 755_532
    assert sorted(shape.bounds[0] for shape in KnownGlaciers(both).near(outline)) == [179.9, 180.0]


def test_another_crs_and_a_ring_that_crosses_itself_are_taken() -> None:
    bow = Polygon([(10.0, 46.0), (10.03, 46.01), (10.03, 46.0), (10.0, 46.01)])
    crossed = known().set_geometry([bow, known().geometry.iloc[1]])
    found = KnownGlaciers(crossed.to_crs(32632)).over(box(10.022, 46.002, 10.029, 46.008))
    assert found["glac_name"] == "West"


def test_bad_glaciers_are_refused_in_a_line() -> None:
    with pytest.raises(SourceError, match="without a CRS; expected .*; set it"):
        KnownGlaciers(known().set_crs(None, allow_override=True))
    with pytest.raises(SourceError, match="with rgi_id; give another file"):
        KnownGlaciers(known().drop(columns="rgi_id"))


@pytest.mark.parametrize("code", [1.5, "calving", "1.5", 1e12])
def test_a_code_that_is_no_whole_number_is_told_before_anything_is_mapped(code: object) -> None:
    with pytest.raises(
        SourceError, match=f"with the term_type {re.escape(str(code))}; expected a whole number"
    ):
        KnownGlaciers(known(term_type=[0, code]))


def test_codes_that_a_file_has_as_text_or_with_an_empty_one_are_taken() -> None:
    for codes in (["1", "2"], [1.0, None], [0, 9]):
        values = KnownGlaciers(known(term_type=codes)).over(box(10.001, 46.001, 10.009, 46.009))
        assert table({"term_type": [values["term_type"]]}, 1)["term_type"].tolist() == [int(codes[0])]  # type: ignore[call-overload]


REGION = box(9.99, 45.99, 10.02, 46.02)


@pytest.mark.parametrize("epsg", [4326, 32632])
def test_a_file_in_any_crs_is_read_around_the_region(tmp_path: Path, epsg: int) -> None:
    known().to_crs(epsg).to_file(tmp_path / "rgi.gpkg")
    glaciers = KnownGlaciers(read_glaciers(str(tmp_path / "rgi.gpkg"), REGION))
    assert glaciers.over(box(10.001, 46.001, 10.01, 46.009))["glac_name"] == "West"
    assert glaciers.over(box(10.035, 46.001, 10.039, 46.009)) == {}  # it was not read


def test_a_file_that_does_not_serve_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rgi.shp"
    with pytest.raises(SourceError, match="which are not there; .*; correct outlines.rgi"):
        read_glaciers(str(path), REGION)
    path.write_bytes(b"no shapefile")
    with pytest.raises(SourceError, match="cannot be read .*; give another file"):
        read_glaciers(str(path), REGION)
    known().to_file(path)
    with pytest.raises(SourceError, match="none lies in the region; .*; give that region's file"):
        read_glaciers(str(path), box(80.0, 28.0, 81.0, 29.0))
    path.with_suffix(".prj").unlink()
    with pytest.raises(SourceError, match="without a CRS"):
        read_glaciers(str(path), REGION)


@pytest.mark.parametrize(
    ("ids", "fault"),
    [
        (["RGI2000-v7.0-G-11-00001"] * 2, "two of them with the rgi_id RGI2000-v7.0-G-11-00001"),
        (
            ["RGI2000-v7.0-G-11-00001", None],
            r"one without rgi_id, with a corner at 10\.0[34]00 and 46\.0[01]00 degrees",
        ),
        (
            ["", "RGI2000-v7.0-G-11-00002"],
            r"one without rgi_id, with a corner at 10\.0[03]00 and 46\.0[01]00 degrees",
        ),
    ],
)
@pytest.mark.parametrize("epsg", [4326, 32632])
def test_glaciers_that_no_link_could_tell_apart_are_refused_in_a_line(
    tmp_path: Path, ids: list[str | None], fault: str, epsg: int
) -> None:
    path = tmp_path / "rgi.gpkg"
    known(rgi_id=ids).to_crs(epsg).to_file(path)
    with pytest.raises(SourceError, match=f"{fault}; expected an rgi_id of its own for each") as caught:
        read_glaciers(str(path), REGION.buffer(0.02))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_identifiers_are_asked_of_what_is_read_and_linked_alone(tmp_path: Path) -> None:
    name = "RGI2000-v7.0-G-11-00001"
    far, flat = box(11.0, 46.0, 11.03, 46.01), Polygon([(10.0, 46.0), (10.01, 46.0), (10.02, 46.0)])
    shapes = [known().geometry.iloc[0], far, far, flat]
    outlines = gpd.GeoDataFrame({"rgi_id": [name, name, None, None]}, geometry=shapes, crs="EPSG:4326")
    outlines.to_file(tmp_path / "rgi.gpkg")
    read = read_glaciers(str(tmp_path / "rgi.gpkg"), REGION)
    assert len(read) == 2
    inventory = outlines.iloc[:1].rename(columns={"rgi_id": "glac_id"})
    linked = link(Inventoried("glac", [inventory]), Inventoried("rgi", [read], "rgi_id"))
    assert linked.table["rgi_id"].tolist() == [name]


def test_hintereisferner_is_found_by_its_outline(shared_data) -> None:  # type: ignore[no-untyped-def]
    rgi = gpd.read_file(shared_data / "hintereis" / "rgi7g_hef_complex.shp")
    glaciers = KnownGlaciers(rgi)
    shifted = shapely.affinity.translate(rgi.set_index("glac_name").geometry["Hintereisferner"], 2e-4, 1e-4)
    found = glaciers.over(shifted)
    assert found["glac_name"] == "Hintereisferner"
    assert found["glims_id"] == "G010752E46802N"
    assert (found["o2region"], found["subm_id"], found["term_type"]) == ("11-01", 731, 9)
