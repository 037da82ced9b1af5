"""Outlines of made-up ice, held against geometry known in closed form, GDAL and pyproj."""

from __future__ import annotations

import gc
import json
import re
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rioxarray  # noqa: F401  # registers .rio
import shapely
import xarray as xr
from numpy.typing import NDArray
from pyproj import Geod
from rasterio.features import rasterize
from scipy import ndimage
from shapely.geometry import Polygon

from cryoscale.errors import OutputError, SourceError
from cryoscale.grid import ZONE_COLLAR_M, Window, transformer, turned, window_over_bounds
from cryoscale.write import inventory, outlines, zones
from cryoscale.write.bodies import bodies_of
from cryoscale.write.inventory import identifier
from cryoscale.write.zonal import affine_of
from tests.inventories import add

LON, LAT = 84.0, 28.0
M_PER_DEG = 111_320.0


def one_map(label: NDArray[np.uint8], window: Window, **others: NDArray[np.generic]) -> xr.Dataset:
    y, x = window.coordinates()
    arrays = {"label": label} | others
    return xr.Dataset(
        {name: (("y", "x"), values) for name, values in arrays.items()},
        coords={"y": y, "x": x},
        attrs={"crs": f"EPSG:{window.epsg}"},
    )


def small(label: list[list[int]] | NDArray[np.uint8], epsg: int = 32645) -> xr.Dataset:
    values = np.kron(np.asarray(label, np.uint8), np.ones((20, 20), np.uint8))
    return one_map(values, Window(epsg, -310_000, 45_000, *values.shape))


def ellipse_over_the_meridian(
    epsg: int, lat: float = LAT, lon0: float = LON, half_m: float = 6000.0
) -> xr.Dataset:
    """Ice of 5 x 3 km half-axes around (lon0, lat), a nunatak in it, debris in the south, with collar."""
    x0, y0 = transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon0, lat)
    window = window_over_bounds(epsg, (x0 - half_m, y0 - half_m, x0 + half_m, y0 + half_m))
    y, x = window.coordinates()
    lon, latitude = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x, y))
    metres_per_degree = M_PER_DEG * np.cos(np.deg2rad(lat))
    east, north = turned(lon - lon0, 0.0) * metres_per_degree, (latitude - lat) * M_PER_DEG
    label = np.zeros(east.shape, np.uint8)
    label[(east / 5000) ** 2 + (north / 3000) ** 2 < 1] = 1
    label[(label == 1) & (north < -1500)] = 2
    label[(east / 800) ** 2 + ((north - 500) / 500) ** 2 < 1] = 0
    beyond = east > ZONE_COLLAR_M if epsg % 100 in (44, 60) else east < -ZONE_COLLAR_M
    label[beyond] = 255
    confidence = np.where(label == 255, 255, np.where(north < 0, 100, 200)).astype(np.uint8)
    days = np.where(north > 0, 17_800, 17_790).astype(np.int32)
    return one_map(label, window, confidence=confidence, source_date=days)


def two_zones(lat: float = LAT) -> dict[int, xr.Dataset]:
    hundred = 32600 if lat >= 0 else 32700
    return {hundred + zone: ellipse_over_the_meridian(hundred + zone, lat) for zone in (44, 45)}


@pytest.mark.parametrize("lat", [28.0, -45.0, 70.0])
def test_a_glacier_over_a_zone_border_is_one_valid_polygon_of_the_right_area(lat: float) -> None:
    glaciers = outlines.polygonise(two_zones(lat))
    assert len(glaciers) == 1
    (polygon,) = glaciers.geometry
    assert polygon.is_valid
    assert polygon.geom_type == "Polygon"
    assert len(polygon.interiors) == 1
    # the ellipse was drawn in degrees scaled to metres: its area in those, on the ellipsoid
    angle = np.linspace(0, 2 * np.pi, 721)[:-1]
    per_degree = M_PER_DEG * np.cos(np.deg2rad(lat))

    def true_area(a: float, b: float, shift: float) -> float:
        ring = shapely.Polygon(
            np.column_stack(
                [
                    LON + a * np.cos(angle) / per_degree,
                    lat + (b * np.sin(angle) + shift) / M_PER_DEG,
                ]
            )
        )
        return abs(Geod(ellps="WGS84").geometry_area_perimeter(ring)[0]) / 1e6

    expected = true_area(5000, 3000, 0) - true_area(800, 500, 500)
    assert glaciers["area_km2"].iloc[0] == pytest.approx(expected, rel=1e-3)


def debris_of(maps: outlines.Maps, min_area_km2: float = 0.01) -> gpd.GeoDataFrame:
    with outlines.survey(maps, min_area_km2=min_area_km2) as found:
        (debris,) = found.debris()
    return debris


def debris_in_the_east(lon: float, west: int, east: int) -> dict[int, xr.Dataset]:
    maps = {epsg: ellipse_over_the_meridian(epsg, lon0=lon) for epsg in (west, east)}
    label = maps[west]["label"]
    maps[west]["label"] = label.where(label != 2, 1)
    return maps


def test_a_glacier_over_180_degrees_is_one_as_over_any_other_border() -> None:
    there, here = debris_in_the_east(180.0, 32660, 32601), debris_in_the_east(LON, 32644, 32645)
    glaciers, expected = outlines.polygonise(there), outlines.polygonise(here)
    assert len(glaciers) == 1
    # the same pixels in their zones' own grids
    away = np.array([180.0 - LON, 0.0])
    for found, other in ((glaciers, expected), (debris_of(there), debris_of(here))):
        moved = shapely.transform(other.geometry.to_numpy(), lambda xy: xy + away)
        assert shapely.equals_exact(found.geometry.to_numpy(), moved, 1e-9).all()
        np.testing.assert_allclose(found["area_km2"], other["area_km2"], rtol=1e-9)
    assert glaciers["debris_fraction"].tolist() == expected["debris_fraction"].tolist()
    assert glaciers["glac_id"].tolist() == [identifier(glaciers["cenlon"][0], glaciers["cenlat"][0])]


def test_ice_that_ends_at_180_degrees_stays_on_its_side() -> None:
    maps = debris_in_the_east(180.0, 32660, 32601)
    for epsg, side in ((32660, 1), (32601, -1)):  # it meets none of the ice on the other
        label, y = maps[epsg]["label"], maps[epsg]["y"]
        maps[epsg]["label"] = label.where(side * (y - y.mean()) > 300.0, 0)
    south, north = sorted(outlines.polygonise(maps).geometry, key=lambda one: one.bounds[1])
    assert (south.bounds[0], north.bounds[2]) == (-180.0, 180.0)
    assert south.bounds[2] < -179.9
    assert north.bounds[0] > 179.9


def test_the_two_sides_of_a_zone_border_leave_no_gap_and_no_overlap() -> None:
    maps = two_zones()
    where = zones.cuts(list(maps))
    sides = {}
    for epsg, data in maps.items():
        (polygon,) = outlines.polygonise(data).geometry
        sides[epsg] = zones.clip(np.array([polygon], object), where[epsg])
    west, east = (shapely.union_all(sides[epsg]) for epsg in (32644, 32645))
    assert west.bounds[2] == LON
    assert east.bounds[0] == LON
    assert shapely.intersection(west, east).area == 0
    joined = zones.join({epsg: side for epsg, side in sides.items()}, where)
    assert len(joined) == 1
    assert joined[0].area == pytest.approx(west.area + east.area, rel=1e-12)
    # along the meridian both sides agree to about a pixel: what only one of them has is short
    line = shapely.LineString([(LON, LAT - 1), (LON, LAT + 1)])
    one_sided = shapely.symmetric_difference(west.intersection(line), east.intersection(line))
    assert one_sided.length * M_PER_DEG < 4 * 20


def test_pixels_beyond_the_meridian_are_counted_once() -> None:
    glaciers = outlines.polygonise(two_zones())
    row = glaciers.iloc[0]
    debris = debris_of(two_zones())
    assert row["debris_area_km2"] == pytest.approx(debris["area_km2"].sum(), rel=1e-3)
    assert row["clean_area_km2"] + row["debris_area_km2"] == pytest.approx(row["area_km2"])
    assert set(debris["glac_id"]) == {row["glac_id"]}
    assert shapely.area(shapely.difference(debris.union_all(), glaciers.union_all())) < 1e-12


@pytest.mark.parametrize("most_corners", [10**6, 2000])
def test_clean_and_debris_covered_parts_share_their_boundary_also_where_zones_meet(most_corners: int) -> None:
    maps = {}
    for epsg in (32644, 32645):  # in each other patches, which do not fit at the meridian
        data = ellipse_over_the_meridian(epsg, half_m=2500)
        noise = np.random.default_rng(epsg).normal(size=(2, *data["label"].shape))
        ice, debris = ndimage.gaussian_filter(noise, (0, 4, 4)) > 0
        label = np.where(data["label"] == 255, 255, np.where(ice, np.where(debris, 2, 1), 0)).astype(np.uint8)
        maps[epsg] = data.assign(label=(("y", "x"), label)).assign_attrs({"cryoscale:block_px": 200})
    with outlines.survey(maps, most_corners=most_corners) as found:
        (glaciers,), (debris,) = found.glaciers(), found.debris()
    assert glaciers["is_part"].any() == (most_corners == 2000)
    assert zones.crosses_cut(glaciers.geometry.to_numpy(), zones.cuts(list(maps))[32644]).any()
    patches = dict(list(debris.groupby("glac_id").geometry))
    assert len(patches) > 10
    for name, outline in zip(glaciers["glac_id"], glaciers.geometry, strict=True):
        if name in patches:
            covered = patches[name].to_numpy()
            clean = shapely.difference(outline, shapely.union_all(covered))
            assert shapely.coverage_is_valid(np.array([clean, *covered], object))
            assert clean.area + shapely.area(covered).sum() == pytest.approx(outline.area, rel=1e-9)


def test_dates_and_confidence_are_those_under_the_outline() -> None:
    row = outlines.polygonise(two_zones(), year=2018, model="m", run_id="r").iloc[0]
    # the nunatak lies in the north, so that the south has most of the ice
    assert row["src_date"].date() == date.fromordinal(date(1970, 1, 1).toordinal() + 17_790)
    assert row["src_date_first"] < row["src_date_last"]
    assert 100 / 250 < row["confidence"] < 200 / 250
    assert (row["year"], row["model"], row["run_id"]) == (2018, "m", "r")


def test_dates_that_xarray_has_decoded_count_like_days() -> None:
    maps = two_zones()
    decoded = {}
    for epsg, data in maps.items():
        dates = data["source_date"].values.astype("datetime64[D]").astype("datetime64[ns]")
        decoded[epsg] = data.assign(source_date=(("y", "x"), dates))
    columns = ["src_date", "src_date_first", "src_date_last"]
    assert outlines.polygonise(decoded)[columns].equals(outlines.polygonise(maps)[columns])


def test_an_outline_holds_exactly_the_ice_pixels_of_its_map() -> None:
    random = np.random.default_rng(5)
    data = small(random.choice([0, 1, 2, 3, 255], (12, 15), p=[0.3, 0.3, 0.2, 0.1, 0.1]))
    glaciers = outlines.polygonise(data, min_area_km2=0.0)
    back = rasterize(
        glaciers.geometry.to_crs(32645), out_shape=data["label"].shape, transform=affine_of(data)
    )
    np.testing.assert_array_equal(back == 1, np.isin(data["label"], (1, 2)))


def test_ice_that_touches_at_a_corner_stays_apart_and_holes_stay_holes() -> None:
    glaciers = outlines.polygonise(small([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 2, 0], [0, 0, 0, 1]]))
    assert len(glaciers) == 2
    assert glaciers["area_km2"].is_monotonic_decreasing
    assert [len(polygon.interiors) for polygon in glaciers.geometry] == [1, 0]
    assert glaciers["debris_fraction"].iloc[0] == pytest.approx(1 / 8)


def test_ice_below_the_least_area_is_left_out_also_when_a_zone_border_divides_it() -> None:
    label = np.zeros((60, 60), np.uint8)
    label[5:13, 5:13] = 1  # 0.0064 km2
    label[30:41, 30:41] = 1  # 0.0121 km2
    data = one_map(label, Window(32645, -310_000, 45_000, 60, 60))
    assert len(outlines.polygonise(data, min_area_km2=0.01)) == 1
    assert len(outlines.polygonise(data, min_area_km2=0.001)) == 2
    assert len(outlines.polygonise(two_zones(), min_area_km2=40.0)) == 1  # each half is smaller


def test_the_block_of_a_store_does_not_change_an_outline() -> None:
    maps = two_zones()
    whole = outlines.polygonise(maps)
    for block_px in (64, 333):
        cut = {e: data.assign_attrs({"cryoscale:block_px": block_px}) for e, data in maps.items()}
        parts = outlines.polygonise(cut)
        assert parts.geometry.to_wkt().tolist() == whole.geometry.to_wkt().tolist()
        assert parts.drop(columns="geometry").equals(whole.drop(columns="geometry"))


def test_the_block_of_a_store_does_not_change_the_order_of_debris() -> None:
    random = np.random.default_rng(4)
    ice, debris = (ndimage.gaussian_filter(random.standard_normal((150, 150)), 1.5) > 0 for _ in range(2))
    data = one_map(np.where(ice, 1 + debris, 0).astype(np.uint8), Window(32645, -310_000, 45_000, 150, 150))
    whole, parts = (debris_of(data.assign_attrs({"cryoscale:block_px": px})) for px in (150, 32))
    assert len(whole) > 100
    assert parts.equals(whole)


def test_identifiers_are_unique_and_written_like_those_of_glims() -> None:
    random = np.random.default_rng(0)
    glaciers = outlines.polygonise(small(random.choice([0, 1], (20, 20), p=[0.7, 0.3])))
    assert glaciers["glac_id"].is_unique
    assert all(re.fullmatch(r"G\d{6}E\d{5}[NS](-\d+)?", name) for name in glaciers["glac_id"])
    points = gpd.points_from_xy(glaciers["cenlon"], glaciers["cenlat"])
    assert all(shapely.contains(glaciers.geometry.to_numpy(), points))
    assert [identifier(*at) for at in ((-70.1234, -33.0), (-0.0001, 1))] == [
        "G289877E33000S",
        "G000000E01000N",
    ]


def test_of_outlines_at_one_place_the_larger_has_the_plain_name() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[4, 4:6] = label[5, 6] = label[3, 3] = 1  # 20 m apart, where names are 100 m apart
    glaciers = outlines.polygonise(one_map(label, Window(32645, -310_004, 45_004, 9, 9)), min_area_km2=0.0)
    (plain,) = {name.partition("-")[0] for name in glaciers["glac_id"]}
    assert glaciers["glac_id"].tolist() == [plain, f"{plain}-2", f"{plain}-3"]
    assert glaciers["area_km2"].iloc[0] > 1.9 * glaciers["area_km2"].iloc[1]


def test_a_glacier_on_the_equator_is_cut_between_the_hemispheres() -> None:
    north, south = Window(32617, -40, 81_000, 50, 60), Window(32717, -1_000_010, 81_000, 50, 60)
    label = np.zeros((50, 60), np.uint8)
    label[10:45, 10:40] = 1
    upper = one_map(label, north)  # rows -40 to 10 about the equator
    label = np.zeros((50, 60), np.uint8)
    label[0:30, 10:40] = 1
    lower = one_map(label, south)
    glaciers = outlines.polygonise({32617: upper, 32717: lower})
    assert len(glaciers) == 1
    # 30 rows above the equator and 20 below it
    assert glaciers["area_km2"].iloc[0] == pytest.approx(30 * 50 * 1e-4, rel=2e-3)


def test_no_ice_gives_an_empty_table_with_all_columns_and_it_can_be_written(tmp_path: Path) -> None:
    data = small([[0, 3], [255, 4]])
    empty = outlines.polygonise(data)
    assert len(empty) == 0
    assert list(empty.columns) == list(outlines.polygonise(small([[1]])).columns)
    with outlines.survey(data) as found:
        found.write(tmp_path / "a.parquet", tmp_path / "a.gpkg")
    layers = gpd.list_layers(tmp_path / "a.gpkg").set_index("name")["geometry_type"].to_dict()
    assert layers == {"glaciers": "Polygon", "debris": "Polygon", "divides": "MultiLineString"}
    assert pyogrio.read_info(tmp_path / "a.gpkg", layer="debris")["dtypes"].tolist() == ["object", "float64"]
    assert len(gpd.read_parquet(tmp_path / "a.parquet")) == 0


def test_a_single_label_array_serves_when_it_knows_its_crs() -> None:
    label = small([[0, 1], [0, 0]])["label"]
    with pytest.raises(SourceError, match="CRS"):
        outlines.polygonise(label)
    by_attribute = outlines.polygonise(label.assign_attrs(crs="EPSG:32645"))
    by_grid_mapping = outlines.polygonise(label.rio.write_crs(32645))
    assert by_attribute.geometry.to_wkt().equals(by_grid_mapping.geometry.to_wkt())
    assert by_attribute["src_date"].isna().all()
    assert by_attribute["confidence"].isna().all()


def test_both_files_give_back_what_was_written(tmp_path: Path) -> None:
    maps = two_zones()
    glaciers = outlines.polygonise(maps, year=2018, model="m", run_id="r")
    debris = debris_of(maps)
    parquet, geopackage = tmp_path / "new" / "2018.parquet", tmp_path / "new" / "2018.gpkg"
    for _ in range(2):
        with outlines.survey(maps, year=2018, model="m", run_id="r") as found:
            found.write(parquet, geopackage)
    assert gpd.read_parquet(parquet).equals(glaciers)
    read = gpd.read_file(geopackage, layer="glaciers")
    assert read.crs == glaciers.crs
    assert read.geometry.geom_equals_exact(glaciers.geometry, 1e-12).all()
    assert read["src_date"].dt.date.equals(glaciers["src_date"].dt.date)
    assert len(gpd.read_file(geopackage, layer="debris")) == len(debris)
    assert sorted(path.name for path in parquet.parent.iterdir()) == ["2018.gpkg", "2018.parquet"]


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with outlines.survey(small([[1]])) as found, pytest.raises(OutputError, match="can be written"):
        found.write(tmp_path / "file" / "a.parquet", tmp_path / "a.gpkg")


def test_long_edges_follow_the_projection_and_not_a_straight_line_in_degrees() -> None:
    label = np.ones((40, 4000), np.uint8)  # 40 km from west to east, 400 m high
    window = Window(32633, -780_000, 30_000, 40, 4000)
    (polygon,) = outlines.polygonise(one_map(label, window)).geometry
    back = gpd.GeoSeries([polygon], crs=4326).to_crs(32633).iloc[0]
    rectangle = shapely.box(*window.bounds_m)
    assert shapely.hausdorff_distance(back, rectangle, densify=0.001) < 10 * np.sqrt(0.5)  # its corners, cut
    west, south, east, north = window.bounds_m
    middle = shapely.box(west + 100, south - 1, east - 100, north + 1)
    assert shapely.hausdorff_distance(*shapely.intersection([back, rectangle], middle), densify=0.001) < 0.7


def rows_of_blobs(tiles: int) -> xr.Dataset:
    """In each tile two bodies, one of them with debris and one reaching up into the tile before."""
    tile = np.zeros((20, 20), np.uint8)
    tile[2:9, 2:9] = tile[4:14, 12:18] = 1
    tile[5, 5], tile[6:9, 14:16] = 0, 2
    tile[16:, 8:10] = tile[:2, 8:10] = 1
    label = np.tile(tile, (tiles, 2))
    data = one_map(label, Window(32645, -310_000, 45_000, *label.shape))
    return data.assign_attrs({"cryoscale:block_px": 20})


def test_bodies_are_let_go_once_they_are_complete_however_many_rows_a_map_has() -> None:
    def most_at_once(tiles: int) -> tuple[int, int]:
        held, given = 0, 0
        for found in bodies_of(rows_of_blobs(tiles), step_px=20, least_px=0, keeps=lambda _: False):
            held = max(held, sum(type(thing).__name__ in ("_Body", "_Debris") for thing in gc.get_objects()))
            given = max(given, found.polygons.size)
        return held, given

    gc.freeze()  # what is there already is not looked through
    held, given = most_at_once(5)
    assert (
        0 < held < 16
    )  # of two blocks a row those over the upper border and those over the lower, and debris
    assert most_at_once(12) == (held, given)
    gc.unfreeze()


def test_a_body_too_large_to_be_held_is_severed_and_no_area_of_it_lost(tmp_path: Path) -> None:
    maps = {e: data.assign_attrs({"cryoscale:block_px": 100}) for e, data in two_zones().items()}
    (whole,) = outlines.polygonise(maps).itertuples()
    with outlines.survey(maps, most_corners=300) as found:
        (parts,), (debris,) = found.glaciers(), found.debris()
        found.write(tmp_path / "a.parquet", tmp_path / "a.gpkg")
    assert len(parts) > 4
    assert parts["is_part"].all()
    assert parts["area_km2"].sum() == pytest.approx(whole.area_km2, rel=1e-5)
    assert parts["debris_area_km2"].sum() == pytest.approx(whole.debris_area_km2, rel=1e-3)
    assert debris["area_km2"].sum() == pytest.approx(whole.debris_area_km2, rel=1e-3)
    assert set(debris["glac_id"]) <= set(parts["glac_id"])
    assert parts.geometry.is_valid.all()
    united = parts.geometry.union_all()
    assert united.geom_type == "Polygon"
    assert len(united.interiors) == len(whole.geometry.interiors)  # no gap,
    line = shapely.boundary(united)  # which ends of cuts draw to the corners of pixels
    assert shapely.hausdorff_distance(line, shapely.boundary(whole.geometry)) * M_PER_DEG < 10
    areas = shapely.area(parts.geometry.to_numpy())
    assert shapely.area(united) == pytest.approx(areas.sum(), rel=1e-9)  # no overlap,
    for _, of_zone in parts.groupby("utm_zone"):  # and within a zone edges fit vertex by vertex
        assert len(of_zone) > 2
        assert shapely.coverage_is_valid(of_zone.geometry.to_numpy())
    assert gpd.read_file(tmp_path / "a.gpkg", layer="glaciers")["is_part"].all()
    assert not outlines.polygonise(maps)["is_part"].any()


def test_many_outlines_are_written_in_parts_that_make_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = rows_of_blobs(20)
    whole, debris = outlines.polygonise(maps, min_area_km2=0.0), debris_of(maps, 0.0)
    assert (len(whole), len(debris)) == (20 * 4 + 2, 40)
    monkeypatch.setattr(inventory, "_PART_ROWS", 50)
    with outlines.survey(maps, min_area_km2=0.0) as found:
        assert [len(part) for part in found.glaciers()] == [50, 32]
        found.write(tmp_path / "a.parquet", tmp_path / "a.gpkg")
    assert gpd.read_parquet(tmp_path / "a.parquet").equals(whole)
    for layer, frame in (("glaciers", whole), ("debris", debris)):
        read = gpd.read_file(tmp_path / "a.gpkg", layer=layer)
        assert read["glac_id"].tolist() == frame["glac_id"].tolist()
        assert read.geometry.geom_equals_exact(frame.geometry, 1e-12).all()
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        assert file.num_row_groups == 2
        geo = json.loads(file.schema_arrow.metadata[b"geo"])["columns"]["geometry"]
    assert geo["bbox"] == whole.total_bounds.tolist()
    assert geo["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


def test_the_bounds_of_divides_are_theirs_and_none_where_there_are_none(tmp_path: Path) -> None:
    def bounds_of(name: str) -> object:
        told = json.loads(pq.read_schema(tmp_path / name).metadata[b"geo"])
        return told["columns"]["geometry"].get("bbox")

    boxes = np.array([shapely.box(west, 46.0, west + 0.1, 46.1) for west in (10.0, 10.1, 15.0)], object)
    with inventory.Inventory({}) as found:
        first = add(found, boxes, np.empty(0, object))
        found.write_divides(tmp_path / "none.parquet")
        line = np.array([shapely.LineString([(10.1, 46.0), (10.1, 46.1)])], object)
        found.note_divides(first, "whole", np.array(["dem"] * 3), np.array([[0, 1]]), line)
        found.write_divides(tmp_path / "one.parquet")
    assert bounds_of("none.parquet") is None
    assert bounds_of("one.parquet") == [10.1, 46.0, 10.1, 46.1]


def test_divides_of_one_piece_and_of_several_are_one_kind_of_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_PART_ROWS", 1)
    boxes = np.array([shapely.box(west, 46.0, west + 0.1, 46.1) for west in (10.0, 10.1, 10.2)], object)
    line = shapely.LineString([(10.1, 46.0), (10.1, 46.1)])
    two = shapely.MultiLineString([[(10.2, 46.0), (10.2, 46.03)], [(10.2, 46.06), (10.2, 46.1)]])
    with inventory.Inventory({}) as found:
        first = add(found, boxes, np.empty(0, object))
        pairs, lines = np.array([[0, 1], [1, 2]]), np.array([line, two], object)
        found.note_divides(first, "whole", np.array(["dem"] * 3), pairs, lines)
        found.write(tmp_path / "a.parquet", tmp_path / "a.gpkg")
    read = gpd.read_file(tmp_path / "a.gpkg", layer="divides")
    assert pyogrio.read_info(tmp_path / "a.gpkg", layer="divides")["geometry_type"] == "MultiLineString"
    assert read.geom_type.tolist() == ["MultiLineString", "MultiLineString"]
    assert read.geometry.geom_equals(gpd.GeoSeries([line, two], crs=read.crs)).all()


def test_holes_are_taken_off_an_area_whichever_way_their_rings_run() -> None:
    rim = [(10.0, 46.0), (10.1, 46.0), (10.1, 46.1), (10.0, 46.1)]
    hole = [(10.02, 46.02), (10.08, 46.02), (10.08, 46.08), (10.02, 46.08)]
    ways = [Polygon(a, [b]) for a in (rim, rim[::-1]) for b in (hole, hole[::-1])]
    whole, taken = zones.area_km2(np.array([Polygon(rim), Polygon(hole)], object))
    np.testing.assert_allclose(zones.area_km2(np.array(ways, object)), whole - taken)
    assert zones.area_km2(np.empty(0, object)).tolist() == []
