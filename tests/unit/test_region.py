from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS, Transformer
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box, mapping
from shapely.geometry.base import BaseGeometry

from cryoscale.errors import RegionError, SourceError
from cryoscale.grid import ZONE_COLLAR_M, Window
from cryoscale.region import RegionSpec, ZoneRegion, grown_bbox, parse_region, read_region, zones_of

ACROSS = box(83.97, 28.28, 84.03, 28.32)


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ((87.05, 27.85, 86.70, 28.10), "exchange west and east"),
        ((86.70, 28.10, 87.05, 27.85), "exchange south and north"),
        ((86.70, 27.85, 86.70, 28.10), "give it an area"),
        ((180.0, -10.0, -180.0, 10.0), "give it an area"),
        ((86.70, 27.85, 87.05, 98.10), "latitudes in -90..90"),
        ((400.0, 27.85, 401.0, 28.10), "longitudes in -180..180"),
        ((float("nan"), 27.85, 401.0, 28.10), "give longitudes"),
    ],
)
def test_a_bbox_that_is_none_is_told_in_one_line(bbox: tuple[float, ...], words: str) -> None:
    with pytest.raises(RegionError, match=words) as caught:
        read_region(RegionSpec(bbox=bbox))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_bbox_over_the_antimeridian_becomes_two_parts() -> None:
    region = read_region(RegionSpec(bbox=(179.0, 65.0, -179.0, 66.0)))
    assert isinstance(region, MultiPolygon)
    assert zones_of(region) == [32601, 32660]
    west, _, east, _ = grown_bbox(region, 1000.0)
    assert west > 178.9 > 0 > -178.9 > east


def test_a_region_file_is_read_in_degrees_and_grown_by_metres(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "basin.gpkg"
    geopandas.GeoDataFrame(geometry=[box(84.0, 28.0, 84.1, 28.1)], crs=4326).to_crs(32645).to_file(path)
    plain = read_region(RegionSpec(file=str(path)))
    np.testing.assert_allclose(plain.bounds, (84.0, 28.0, 84.1, 28.1), atol=1e-5)
    grown = read_region(RegionSpec(rgi=str(path), buffer_m=2000.0))
    np.testing.assert_allclose(grown.bounds[3] - plain.bounds[3], 2000 / 110_900, rtol=0.02)


@pytest.mark.parametrize("content", [None, "no geometry", '{"type": "FeatureCollection", "features": []}'])
def test_a_region_file_that_is_none_is_told_in_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "basin.geojson"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RegionError) as caught:
        read_region(RegionSpec(file=str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")  # each would be a second line on stderr
@pytest.mark.parametrize("odd", ["NaN", "Infinity"])
def test_a_region_file_with_a_vertex_that_is_no_place_is_told_in_one_line(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "basin.geojson"
    ring = f"[[84.0, 28.0], [84.1, {odd}], [84.1, 28.1], [84.0, 28.0]]"
    shape = f'{{"type": "Polygon", "coordinates": [{ring}]}}'
    feature = f'{{"type": "Feature", "properties": {{}}, "geometry": {shape}}}'
    path.write_text(f'{{"type": "FeatureCollection", "features": [{feature}]}}')
    with pytest.raises(RegionError, match="not finite") as caught:
        parse_region(str(path))
    assert "\n" not in str(caught.value)


def test_the_zones_of_a_region_over_the_boundary_are_both() -> None:
    assert zones_of(ACROSS) == [32644, 32645]
    assert zones_of(box(84.0, 28.0, 85.0, 29.0)) == [32645]
    assert zones_of(box(83.0, -1.0, 83.5, 1.0)) == [32644, 32744]


@pytest.mark.parametrize("epsg", [32644, 32645])
def test_pixels_belong_by_their_centre_whatever_the_window(epsg: int) -> None:
    zone = ZoneRegion(epsg, ACROSS)
    whole = zone.window().pad(40)
    mask = zone.pixels(whole)
    y, x = whole.coordinates()
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    collar = ZONE_COLLAR_M / (111_320.0 * np.cos(np.radians(lat)))
    strip = lon < 84.0 + collar if epsg == 32644 else lon >= 84.0 - collar
    west, south, east, north = ACROSS.bounds
    np.testing.assert_array_equal(mask, strip & (lon > west) & (lon < east) & (lat > south) & (lat < north))
    for row in range(0, whole.height, 128):
        part = Window(epsg, whole.row + row, whole.col + 3, min(128, whole.height - row), whole.width - 9)
        np.testing.assert_array_equal(zone.pixels(part), mask[part.slices_in(whole)])


def test_every_place_of_the_region_belongs_to_a_pixel_of_some_zone() -> None:
    rng = np.random.default_rng(3)
    lon = rng.uniform(83.9995, 84.0005, 400)
    lat = rng.uniform(28.281, 28.319, 400)
    covered = np.zeros(400, bool)
    for epsg in zones_of(ACROSS):
        zone = ZoneRegion(epsg, ACROSS)
        window = zone.window().pad(5)
        mask = zone.pixels(window)
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        col, row = (
            np.floor(np.array(x) / 10).astype(int) - window.col,
            np.floor(-np.array(y) / 10).astype(int) - window.row,
        )
        inside = (row >= 0) & (row < window.height) & (col >= 0) & (col < window.width)
        covered |= inside & mask[np.clip(row, 0, window.height - 1), np.clip(col, 0, window.width - 1)]
    assert covered.all()


def test_a_block_wholly_inside_and_one_outside_are_told_apart_from_those_at_the_edge() -> None:
    zone = ZoneRegion(32645, box(84.1, 28.0, 84.4, 28.3))
    shape = zone.projected()
    blocks = zone.blocks(512)
    assert blocks
    for block in blocks:
        mask = zone.pixels(block.window)
        outline = box(*block.window.bounds_m)
        assert mask.any() or not shape.buffer(-10).intersects(outline)
        if mask.all():
            assert shape.buffer(10).contains(outline)


def test_an_l_shaped_region_leaves_out_the_blocks_of_its_notch() -> None:
    notch = box(84.2, 28.1, 84.4, 28.3)
    region = Polygon(mapping(box(84.1, 28.0, 84.4, 28.3))["coordinates"][0]).difference(notch)
    whole = ZoneRegion(32645, box(84.1, 28.0, 84.4, 28.3)).blocks(256)
    assert 0 < len(ZoneRegion(32645, region).blocks(256)) < len(whole)


def test_a_bbox_that_begins_at_the_antimeridian_has_one_part() -> None:
    assert read_region(RegionSpec(bbox=(180.0, 65.0, -179.0, 66.0))).bounds == (-180.0, 65.0, -179.0, 66.0)
    assert read_region(RegionSpec(bbox=(179.0, 65.0, -180.0, 66.0))).bounds == (179.0, 65.0, 180.0, 66.0)


@pytest.mark.parametrize(("epsg", "unit_m"), [(32645, 1.0), (2277, 0.3048006096)])
def test_long_edges_of_a_projection_are_followed(tmp_path: Path, epsg: int, unit_m: float) -> None:
    """A rectangle in a projection's metres, or feet, is one there, whatever its edges are in degrees."""
    crs = CRS.from_epsg(epsg)
    assert crs.axis_info[0].unit_conversion_factor == pytest.approx(unit_m)
    area = crs.area_of_use
    assert area is not None
    there = Transformer.from_crs(4326, crs, always_xy=True)
    east, north = there.transform((area.west + area.east) / 2, 30.0)
    wide, high = 150e3 / unit_m, 100e3 / unit_m
    drawn = box(east - wide, north - high, east + wide, north + high)
    geopandas.GeoDataFrame(geometry=[drawn], crs=crs).to_file(tmp_path / "box.gpkg")
    region = read_region(RegionSpec(file=str(tmp_path / "box.gpkg")))

    def in_degrees(shape: BaseGeometry) -> BaseGeometry:
        back = Transformer.from_crs(crs, 4326, always_xy=True).transform
        return shapely.transform(shape, lambda xy: np.column_stack(back(*xy.T)))

    def off_m(boundary: BaseGeometry) -> float:
        places = in_degrees(shapely.segmentize(drawn.exterior, 7_777.0 / unit_m))
        points = shapely.points(shapely.get_coordinates(places))
        return float(shapely.distance(boundary, points).max() * 111_320.0)

    assert off_m(region.boundary) < 0.2
    assert off_m(in_degrees(drawn).boundary) > 500, "or this would tell nothing"


@pytest.mark.parametrize(
    "manner", ["beyond 180", "wrong way round", "by way of both", "in a projection", "in parts"]
)
def test_a_file_over_the_antimeridian_is_cut_there_however_it_is_written(tmp_path: Path, manner: str) -> None:
    import geopandas

    whole, crs = box(179.9, 65.0, 180.2, 65.1), 4326
    path = tmp_path / ("basin.gpkg" if manner == "in a projection" else "basin.geojson")
    if manner == "wrong way round":
        whole = Polygon([(179.9, 65.0), (-179.8, 65.0), (-179.8, 65.1), (179.9, 65.1)])
    elif manner == "by way of both":  # one of its edges stops at 180 and goes on at -180
        whole = Polygon([(179.9, 65), (180, 65), (-180, 65), (-179.8, 65), (-179.8, 65.1), (179.9, 65.1)])
    elif manner == "in a projection":
        to_zone = Transformer.from_crs(4326, 32601, always_xy=True)
        whole, crs = Polygon([to_zone.transform(*xy) for xy in whole.exterior.coords]), 32601
    elif manner == "in parts":
        whole = MultiPolygon([box(179.9, 65.0, 180.0, 65.1), box(-180.0, 65.0, -179.8, 65.1)])
    geopandas.GeoDataFrame(geometry=[whole], crs=crs).to_file(path)
    region = read_region(RegionSpec(file=str(path)))
    west, east = sorted(region.geoms, key=lambda part: -part.bounds[0])  # type: ignore[union-attr]
    np.testing.assert_allclose(west.bounds, (179.9, 65.0, 180.0, 65.1), atol=1e-3)
    np.testing.assert_allclose(east.bounds, (-180.0, 65.0, -179.8, 65.1), atol=1e-3)
    assert zones_of(region) == [32601, 32660]
    left, _, right, _ = grown_bbox(region, 0.0)
    np.testing.assert_allclose((left, right), (179.9, -179.8), atol=1e-6)


def test_a_band_around_the_globe_stays_one(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "band.geojson"
    geopandas.GeoDataFrame(geometry=[box(-180.0, 82.0, 180.0, 83.0)], crs=4326).to_file(path)
    assert read_region(RegionSpec(file=str(path))).bounds == (-180.0, 82.0, 180.0, 83.0)
    assert len(zones_of(read_region(RegionSpec(file=str(path))))) == 60


@pytest.mark.parametrize("latitudes", [(88.0, 89.5), (-90.0, -88.0)])
def test_a_region_that_comes_too_near_a_pole_is_told_in_one_line(latitudes: tuple[float, float]) -> None:
    with pytest.raises(RegionError, match="within 89 degrees") as caught:
        read_region(RegionSpec(bbox=(10.0, latitudes[0], 20.0, latitudes[1])))
    assert "\n" not in str(caught.value)


def test_beyond_the_last_scene_there_are_still_blocks() -> None:
    region = read_region(RegionSpec(bbox=(23.0, 86.0, 25.0, 86.1)))
    assert zones_of(region) == [32634, 32635]
    assert all(ZoneRegion(epsg, region).blocks(512) for epsg in zones_of(region))


def test_polygons_within_collections_are_of_the_region(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "basin.geojson"
    border = LineString([(12.0, 46.0), (12.0, 48.0)])
    collected = GeometryCollection([box(11.0, 46.0, 12.0, 47.0), border])
    nested = GeometryCollection([GeometryCollection([MultiPolygon([box(12.0, 46.0, 13.0, 47.0)])])])
    geopandas.GeoDataFrame(geometry=[box(10.0, 46.0, 11.0, 47.0), collected, nested], crs=4326).to_file(path)
    region = read_region(RegionSpec(file=str(path)))
    assert region.equals(box(10.0, 46.0, 13.0, 47.0))


@pytest.mark.parametrize("other", [Point(11.0, 46.0), GeometryCollection([Point(11.0, 46.0)])])
def test_a_feature_that_is_no_area_is_told_and_not_left_out(tmp_path: Path, other: object) -> None:
    import geopandas

    path = tmp_path / "basin.geojson"
    shapes = [box(10.0, 46.0, 11.0, 47.0), None, other]
    geopandas.GeoDataFrame(geometry=shapes, crs=4326).to_file(path)
    with pytest.raises(RegionError, match=r"in which feature 3 is a \w+; expected polygons; ") as caught:
        read_region(RegionSpec(file=str(path)))
    assert "\n" not in str(caught.value)
    geopandas.GeoDataFrame(geometry=shapes[:2], crs=4326).to_file(path)
    assert read_region(RegionSpec(file=str(path))).equals(shapes[0])


def test_a_file_of_features_without_geometry_is_told_in_one_line(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "basin.geojson"
    geopandas.GeoDataFrame(geometry=[None, None], crs=4326).to_file(path)
    with pytest.raises(RegionError, match="none has a geometry; expected polygons; ") as caught:
        read_region(RegionSpec(file=str(path)))
    assert "\n" not in str(caught.value)


def layered(path: Path, **layers: object) -> str:
    """A GeoPackage of layers, each of one shape."""
    import geopandas

    for name, drawn in layers.items():
        geopandas.GeoDataFrame(geometry=[drawn], crs=4326).to_file(path, layer=name)
    return str(path)


def test_a_file_of_several_layers_of_polygons_is_refused_with_their_names(tmp_path: Path) -> None:
    path = layered(tmp_path / "two.gpkg", a=box(10.0, 45.0, 11.0, 46.0), region=box(86.0, 27.0, 87.0, 28.0))
    with pytest.raises(SourceError, match=r"layers a \(Polygon\), region \(Polygon\); .*file of its own"):
        read_region(RegionSpec(file=path))


@pytest.mark.parametrize("beside", [{"roads": Point(0.0, 0.0)}, {"debris": box(0.0, 0.0, 1.0, 1.0)}])
def test_the_one_layer_of_polygons_is_read_wherever_it_stands(
    tmp_path: Path, beside: dict[str, object]
) -> None:
    glaciers = box(86.0, 27.0, 87.0, 28.0)
    path = layered(tmp_path / "many.gpkg", **beside, glaciers=glaciers)
    assert read_region(RegionSpec(rgi=path)).equals(glaciers)


def test_a_geoparquet_is_one_by_either_name(tmp_path: Path) -> None:
    import geopandas

    basin = box(86.0, 27.0, 87.0, 28.0)
    for name in ("basin.parquet", "basin.geoparquet"):
        geopandas.GeoDataFrame(geometry=[basin], crs=4326).to_parquet(tmp_path / name)
        assert read_region(RegionSpec(file=str(tmp_path / name))).equals(basin)


@pytest.mark.parametrize(("west", "there"), [(286.0, -74.0), (359.5, -0.5), (-360.5, -0.5)])
def test_longitudes_may_be_counted_to_360_and_beyond(tmp_path: Path, west: float, there: float) -> None:
    path = layered(tmp_path / "basin.gpkg", basin=box(west, 50.0, west + 1.0, 50.5))
    assert read_region(RegionSpec(file=path)).equals(box(there, 50.0, there + 1.0, 50.5))


CAP = Point(0.0, 0.0).buffer(1_000_000.0)
"""Metres around a pole, down to 81 degrees."""


@pytest.mark.parametrize(
    ("epsg", "shape"),
    [
        (3413, box(-1e6, -1e6, 1e6, 1e6)),  # in degrees all its corners are of one latitude
        (3031, box(-1e6, -1.2e6, 1.1e6, 1e6)),
        (3413, CAP.difference(Point(0.0, 0.0).buffer(500_000.0))),
    ],
)
def test_a_ring_around_a_pole_is_told_in_one_line(tmp_path: Path, epsg: int, shape: Polygon) -> None:
    import geopandas

    path = tmp_path / "cap.gpkg"
    geopandas.GeoDataFrame(geometry=[shape], crs=epsg).to_file(path)
    with pytest.raises(RegionError, match="goes round a pole; .* within 89 degrees") as caught:
        read_region(RegionSpec(file=str(path)))
    assert "\n" not in str(caught.value)


def test_a_ring_around_a_pole_may_be_given_in_halves(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "band.gpkg"
    band = CAP.difference(Point(0.0, 0.0).buffer(500_000.0))
    halves = [band.intersection(box(-2e6, side - 2e6, 2e6, side)) for side in (0.0, 2e6)]
    geopandas.GeoDataFrame(geometry=halves, crs=3413).to_file(path)
    _, south, _, north = read_region(RegionSpec(file=str(path))).bounds
    assert 80.0 < south < 81.0
    assert 85.0 < north < 86.0


def test_metres_that_are_called_degrees_are_told(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "basin.gpkg"
    basin = Polygon([(500_000, 5e6), (500_300, 5e6), (502_000, 5e6), (501_000, 5_001_000)])
    geopandas.GeoDataFrame(geometry=[basin], crs=4326).to_file(path)
    with pytest.raises(RegionError, match="given .* with coordinates .*; correct its CRS"):
        read_region(RegionSpec(file=str(path)))
