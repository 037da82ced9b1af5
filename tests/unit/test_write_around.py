from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import GeometryCollection, LineString, Point, box

from cryoscale.errors import SourceError
from cryoscale.learn import glaciers
from cryoscale.learn.outlines import read_outlines
from cryoscale.region import RegionSpec, read_region
from cryoscale.write.around import box_around
from cryoscale.write.carried import read_glaciers

REGION = box(6.5, 45.5, 13.5, 47.5)


def rim(west: float, south: float, east: float, north: float) -> gpd.GeoDataFrame:
    """Small glaciers along the southern and northern rim of a box, within it."""
    places = [(x, y) for x in np.linspace(west + 0.1, east - 0.1, 9) for y in (south + 0.01, north - 0.01)]
    ids = [f"RGI2000-v7.0-G-11-{number:05d}" for number in range(len(places))]
    return gpd.GeoDataFrame({"rgi_id": ids}, geometry=[Point(*xy).buffer(0.005) for xy in places], crs=4326)


@pytest.mark.parametrize("epsg", [4326, 32632, 3035])
def test_of_a_file_in_any_projection_the_whole_rim_of_a_region_is_read(tmp_path: Path, epsg: int) -> None:
    known = rim(*REGION.bounds)
    path = tmp_path / "rgi.gpkg"
    known.to_crs(epsg).to_file(path)
    assert len(read_glaciers(str(path), REGION)) == len(known)
    assert len(read_outlines([path], "glacier outlines", [REGION]).frame) == len(known)


def test_an_outline_that_a_repair_has_made_a_collection_of_is_its_area(tmp_path: Path) -> None:
    """Left out, its ice would be learnt, and judged, as background."""
    repaired = GeometryCollection([box(7.0, 46.0, 7.1, 46.1), LineString([(7.1, 46.1), (7.2, 46.2)])])
    outlines = gpd.GeoDataFrame(geometry=[repaired, box(8.0, 46.0, 8.1, 46.1)], crs=4326)
    outlines.to_file(tmp_path / "repaired.gpkg")
    learnt = read_outlines([tmp_path / "repaired.gpkg"], "glacier outlines", [REGION]).frame.geometry
    judged = glaciers.read_outlines(tmp_path / "repaired.gpkg").polygons
    for found in (learnt.to_numpy(), judged):
        assert shapely.area(found) == pytest.approx([0.01, 0.01])
        assert (shapely.length(found) < 0.41).all()


def test_of_several_layers_that_is_read_which_is_meant(tmp_path: Path) -> None:
    """The inventory of a run has its debris beside its glaciers, whose layer is the first."""
    path = tmp_path / "inventory.gpkg"
    for count, layer in ((3, "glaciers"), (2, "debris"), (1, "divides")):
        rim(*REGION.bounds)[:count].to_file(path, layer=layer)
    for count, layer in ((3, "glaciers"), (2, "debris")):
        assert len(read_outlines([path], layer, [REGION], layer=layer).frame) == count
    assert len(glaciers.read_outlines(path).ids) == 3
    with pytest.raises(SourceError, match=r"given corrections .*divides \(Polygon\); expected one layer"):
        read_outlines([path], "corrections", [REGION], layer="corrections")


@pytest.mark.parametrize(
    ("bbox", "crs"),
    [
        ((-50.0, 69.0, -40.0, 72.0), "EPSG:3413"),
        ((-180.0, 75.0, 180.0, 89.0), "EPSG:3413"),
        ((10.0, 76.5, 30.0, 80.5), "EPSG:3575"),
        ((-24.0, 63.3, -14.0, 66.5), "EPSG:3057"),
        ((170.0, -45.0, 180.0, -43.0), "EPSG:2193"),
        ((-40.0, 60.0, -20.0, 70.0), "EPSG:3832"),  # which begins again within it
    ],
)
def test_the_box_holds_what_lies_along_the_sides(bbox: tuple[float, float, float, float], crs: str) -> None:
    found = box_around([box(*bbox)], crs)
    assert found is not None
    assert rim(*bbox).to_crs(crs).geometry.within(box(*found)).all()


def test_where_no_box_can_be_told_there_is_none() -> None:
    assert box_around([box(-10.0, -89.0, 10.0, 89.0)], "EPSG:32632") is not None
    assert box_around([box(100.0, 88.0, 110.0, 89.0)], "+proj=gnom +lat_0=-90 +type=crs") is None
    another_meridian = "+proj=longlat +pm=10 +datum=WGS84 +type=crs"
    assert box_around([box(-180.0, 60.0, -165.0, 62.0)], another_meridian) is None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("urn:ogc:def:crs:EPSG::999999", False),
        ("urn:ogc:def:crs:EPSG::4326", True),
        ("urn:ogc:def:crs:OGC:1.3:CRS84", True),
        (None, True),
    ],
)
def test_a_geojson_in_a_crs_that_nobody_knows_is_not_taken_for_one_in_degrees(
    tmp_path: Path, name: str | None, known: bool
) -> None:
    path = tmp_path / "rgi.geojson"
    document = json.loads(rim(*REGION.bounds).to_json(to_wgs84=True))
    document |= {"crs": {"type": "name", "properties": {"name": name}}} if name else {}
    path.write_text(json.dumps(document))
    if known:
        assert len(read_glaciers(str(path), REGION))
        assert not read_region(RegionSpec(file=str(path))).is_empty
        return
    with pytest.raises(SourceError, match="999999"):
        read_glaciers(str(path), REGION)
    with pytest.raises(SourceError, match="999999"):
        read_region(RegionSpec(file=str(path)))
