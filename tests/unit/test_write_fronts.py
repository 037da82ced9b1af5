"""Fronts: shores of an outline, vertex by vertex, and how far they move; oracles are counts of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiLineString

from cryoscale.crew import Each
from cryoscale.grid import ZONE_COLLAR_M, Window, transformer, window_over_bounds
from cryoscale.write import outlines
from cryoscale.write.axes import axis_of
from cryoscale.write.displacement import UNCERTAINTY_M, displacement, write_displacements
from cryoscale.write.fronts import Finder, Front, Fronts, Terminus, find_fronts, term_type
from cryoscale.write.glaciers import Divider, divide_inventory
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Description, Inventory
from cryoscale.write.succession import write_links
from cryoscale.write.waters import Kind, Water, Waters
from tests.crews import crew_of

EPSG = 32645
ROWS, COLS = np.mgrid[:240, :120]
TONGUE = (COLS >= 45) & (COLS < 75) & (ROWS >= 20)
"""Ice 300 m wide that flows down the map, as far as it goes."""
LAKE_M = 500.0

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Year:
    """What a year's map becomes."""

    glaciers: gpd.GeoDataFrame
    fronts: gpd.GeoDataFrame

    @property
    def term_types(self) -> list[int]:
        return [int(code) for code in self.glaciers["term_type"]]


def labels(ice: Mask, water: Mask) -> NDArray[np.uint8]:
    return np.where(ice, 1, np.where(water, 3, 0)).astype(np.uint8)


def map_of(label: NDArray[np.uint8], day: str = "2018-10-03") -> xr.Dataset:
    window = Window(EPSG, -310_000, 50_000, *label.shape)
    y, x = window.coordinates()
    date = np.full(label.shape, np.datetime64(day), "datetime64[ns]")
    layers = {"label": (("y", "x"), label), "source_date": (("y", "x"), date)}
    return xr.Dataset(layers, coords={"y": y, "x": x}, attrs={"crs": f"EPSG:{EPSG}"})


def relief(label: NDArray[np.uint8], level_m: float = LAKE_M) -> NDArray[np.float64]:
    """A tongue in a trough, highest in the middle of its head; water is level."""
    z = level_m + 2.0 * np.maximum(205 - ROWS, 0) - 0.5 * np.abs(COLS - 59.5) + 50.0 * (label == 0)
    return np.where(label == 3, level_m, z)


def ground_of(data: xr.Dataset, z: NDArray[np.float64]) -> Ground:
    """Elevation at 40 m."""
    y, x = (data[axis].values.reshape(-1, 4).mean(axis=1) for axis in ("y", "x"))
    coarse = z.reshape(y.size, 4, x.size, 4).mean(axis=(1, 3)).astype(np.float32)
    return Ground({EPSG: xr.DataArray(coarse, dims=("y", "x"), coords={"y": y, "x": x})}, "SIMULATED")


def inventory(
    maps: Mapping[int, xr.Dataset],
    ground: Ground | None,
    *,
    divided: bool = False,
    step_px: int = 64,
    year: int = 2018,
    folder: Path | None = None,
    each: Each = map,
) -> Year:
    """Glaciers and fronts by the way that a run takes, waters and fronts by several processes or by one."""
    with (
        outlines.survey(maps, year=year) as complexes,
        Inventory({"year": year}) as glaciers,
        Waters(maps, {} if ground is None else ground.elevations, step_px, each) as waters,
        Fronts(year) as fronts,
    ):
        divide_inventory(complexes, glaciers, Divider(ground if divided else None, None), maps, step_px)
        glaciers.describe(lambda outline, _: Description({}) if ground is None else ground.under(outline))
        find_fronts(glaciers, Finder(maps, waters), ground, fronts, each)
        if folder is not None:
            glaciers.write(folder / f"{year}.parquet", folder / f"{year}.gpkg", {"fronts": fronts.frames()})
            fronts.write(folder / f"{year}-fronts.parquet")
        return Year(pd.concat(list(glaciers.glaciers())), pd.concat(list(fronts.frames())))


def mapped(ice: Mask, water: Mask, level_m: float = LAKE_M, **options: Any) -> Year:
    label = labels(ice, water)
    data = map_of(label)
    return inventory({EPSG: data}, ground_of(data, relief(label, level_m)), **options)


def moved(tmp_path: Path, older: tuple[Mask, Mask], newer: tuple[Mask, Mask]) -> pd.DataFrame:
    """The table of two years of ice and water."""
    for year, (ice, water) in ((2018, older), (2019, newer)):
        label = labels(ice, water)
        data = map_of(label, f"{year}-10-03")
        inventory({EPSG: data}, ground_of(data, relief(label)), year=year, folder=tmp_path)
    write_links(tmp_path, {2018: None, 2019: None}, None)
    write_displacements(tmp_path, [2018, 2019])
    return pd.read_csv(tmp_path / "2018-2019-fronts.csv")


def until(row: int) -> Mask:
    return np.asarray(TONGUE & (row > ROWS), bool)


LAKE = TONGUE & (ROWS > 150)
NOTHING = np.zeros(ROWS.shape, bool)


def test_a_front_is_the_outline_itself_where_it_meets_the_lake() -> None:
    found = mapped(until(200), LAKE)
    (front,) = found.fronts.itertuples()
    outline = found.glaciers.geometry.iloc[0]
    vertices = {tuple(xy) for xy in shapely.get_coordinates(outline).tolist()}
    line = shapely.get_coordinates(front.geometry).tolist()
    assert {tuple(xy) for xy in line[1:-1]} <= vertices
    ends = shapely.points([line[0], line[-1]])
    assert shapely.distance(outline.exterior, ends).max() < 1e-12
    x, y = transformer("EPSG:4326", f"EPSG:{EPSG}").transform(*np.array(line).T)
    assert np.abs(y - map_of(labels(NOTHING, NOTHING))["y"].values[199] + 5.0).max() < 5.0
    assert np.ptp(x) == pytest.approx(300.0, abs=10.0)
    assert front.length_m == pytest.approx(300.0, abs=10.0)
    assert (front.kind, front.at_terminus, front.date) == ("lake", True, pd.Timestamp("2018-10-03"))
    assert front.water_area_km2 == pytest.approx(40 * 30 * 1e-4)
    assert found.term_types == [2]


@pytest.mark.parametrize(
    ("older", "newer", "true_m", "within_m"),
    [
        (until(200), until(193), -70.0, 0.1),
        (until(200), until(203), 30.0, 0.1),
        (until(200), until(200), 0.0, 1e-6),
        # at a slant the way along depends on the axis, which is the mapped centre line here
        (TONGUE & (ROWS + 0.4 * COLS < 224), TONGUE & (ROWS + 0.4 * COLS < 217), -70.0, 1.5),
    ],
)
def test_a_front_moves_by_the_pixels_that_it_moved(
    tmp_path: Path, older: Mask, newer: Mask, true_m: float, within_m: float
) -> None:
    (row,) = moved(tmp_path, (older, LAKE), (newer, LAKE)).itertuples()
    assert (row.status, row.kind, row.at_terminus) == ("moved", "lake", True)
    assert row.displacement_m == pytest.approx(true_m, abs=within_m)
    assert row.rate_m_yr == pytest.approx(row.displacement_m * 365.25 / 365, abs=0.01)
    assert row.uncertainty_m == pytest.approx(UNCERTAINTY_M, abs=1e-3)
    assert row.width_m == pytest.approx(300.0, abs=20.0)


def test_the_shore_of_a_round_lake_moves_by_the_area_that_the_ice_lost(tmp_path: Path) -> None:
    lakes = [np.hypot(ROWS - row, COLS - 59.5) < 12.3 for row in (200, 195)]
    ice = [until(200) & ~lake for lake in lakes]
    lost_m2 = 100.0 * (ice[0] & ~ice[1]).sum()
    (row,) = moved(tmp_path, *zip(ice, lakes, strict=True)).itertuples()
    assert row.displacement_m == pytest.approx(-lost_m2 / row.width_m, abs=0.5)


def front(*lines: NDArray[np.float64]) -> MultiLineString:
    return MultiLineString([line.tolist() for line in lines])


def test_the_box_measures_along_its_axis_to_the_last_digit() -> None:
    east = np.linspace(0.0, 400.0, 9)
    axis = LineString([(200.0, 1000.0), (200.0, 0.0)])
    for shape in (
        np.zeros(9),
        0.4 * east,
        60.0 * np.sin(east / 50.0),
        np.sqrt(200.0**2 - (east - 200.0) ** 2),
    ):
        line = np.column_stack([east, shape])
        found = displacement(front(line), front(line[::-1] + np.array([0.0, 70.0])), axis)
        assert found is not None
        assert (found.displacement_m, found.width_m) == pytest.approx((-70.0, 400.0))
        # what only one year knows is left out
        part = displacement(front(line), front(line[:3], line[5:]), axis)
        assert part is not None
        assert (part.displacement_m, part.width_m) == pytest.approx((0.0, 250.0))


def test_overhangs_count_by_their_area() -> None:
    axis = LineString([(50.0, 500.0), (50.0, 0.0)])
    straight = np.array([(0.0, 100.0), (100.0, 100.0)])
    # a notch of 40 x 20 m behind a neck of 20 m
    notched = np.array(
        [
            *[(0, 100), (40, 100), (40, 110), (30, 110), (30, 130)],
            *[(70, 130), (70, 110), (60, 110), (60, 100), (100, 100)],
        ],
        float,
    )
    found = displacement(front(straight), front(notched), axis)
    assert found is not None
    assert found.displacement_m == pytest.approx(-(20 * 10 + 40 * 20) / 100.0)


def test_where_a_front_lies_twice_across_its_axis_it_is_not_compared() -> None:
    axis = LineString([(0.0, 0.0), (5000.0, 0.0)])
    flank = np.array([(3000.0, 140.0), (3400.0, 170.0)])
    years = {
        led_m: np.array([(4000.0 - led_m, -150.0), (4000.0 - led_m, 150.0)]) for led_m in (0.0, 70.0, 700.0)
    }
    for led_m, line in years.items():
        for before, after, width_m in (
            ([], [flank], 290.0),
            ([flank], [], 290.0),
            ([flank], [flank], 290.0 + 20.0),
        ):
            found = displacement(front(years[0.0], *before), front(line, *after), axis)
            assert found is not None
            moved_m = -led_m * 290.0 / width_m  # the flank stays where it is
            assert (found.displacement_m, found.width_m) == pytest.approx((moved_m, width_m))
    # the terminus has no lake any more
    found = displacement(front(years[0.0], flank), front(flank), axis)
    assert found is not None
    assert (found.displacement_m, found.width_m) == pytest.approx((0.0, 20.0))
    assert displacement(front(years[0.0], years[70.0]), front(years[0.0]), axis) is None


def test_a_lake_that_grows_along_a_flank_does_not_move_the_front(tmp_path: Path) -> None:
    slant = np.clip((ROWS - 150) / 7, 0, 5)
    ice = until(200) & (45 + slant <= COLS)
    ice |= (ROWS >= 188) & (ROWS < 200) & (COLS >= 42) & (COLS < 78)  # wider at its end
    beside = (ROWS >= 150) & (ROWS < 238) & (COLS >= 5) & (COLS < 30)
    lake = beside | ((ROWS >= 200) & (ROWS < 238) & (COLS >= 5) & (COLS < 115))
    along = (ROWS >= 150) & (ROWS < 182) & (COLS >= 5) & (COLS < 50)
    (row,) = moved(tmp_path, (ice, lake & ~ice), (ice, (lake | along) & ~ice)).itertuples()
    assert (row.status, row.at_terminus) == ("moved", True)
    assert row.displacement_m == pytest.approx(0.0, abs=0.01)
    assert 250.0 < row.width_m < 350.0


def test_the_box_goes_round_the_bend_of_its_axis() -> None:
    axis = LineString([(0.0, 0.0), (1000.0, 0.0), (1000.0, 1000.0)])
    before = front(np.array([(900.0, 400.0), (1100.0, 400.0)]))
    after = front(np.array([(700.0, 100.0), (700.0, -100.0)]))
    found = displacement(before, after, axis)
    assert found is not None
    assert (found.displacement_m, found.width_m) == pytest.approx((-700.0, 200.0))


def _stray(row: int, col: int) -> Mask:
    water = NOTHING.copy()
    water[row, col] = True
    return water


@pytest.mark.parametrize(
    ("ice", "water"),
    [
        pytest.param(until(200), (abs(ROWS - 150) < 8) & (abs(COLS - 60) < 8), id="a pond inside the ice"),
        pytest.param(until(200), (ROWS >= 200) & (abs(COLS - 60) < 2), id="a river"),
        pytest.param(until(200), _stray(200, 60), id="a single pixel"),
        pytest.param(until(200), (abs(ROWS - 204) < 5) & (abs(COLS - 60) < 5), id="less than 0.01 km2"),
        pytest.param(until(200), (ROWS > 205) & (abs(COLS - 60) < 12), id="a lake that does not touch it"),
    ],
)
def test_small_water_is_no_front(ice: Mask, water: Mask) -> None:
    found = mapped(ice & ~water, water & ~(ice & (ROWS >= 200)))
    assert found.fronts.empty
    assert found.term_types == [0]


def test_a_river_does_not_make_the_lake_below_it_a_front() -> None:
    river = (ROWS >= 200) & (ROWS < 215) & (abs(COLS - 60) < 2)
    assert mapped(until(200), river | (TONGUE & (ROWS >= 215))).fronts.empty


def test_a_lake_at_the_flank_is_a_front_and_no_terminus() -> None:
    found = mapped(until(200), (ROWS > 60) & (ROWS <= 90) & (COLS >= 75) & (COLS < 100))
    (shore,) = found.fronts.itertuples()
    assert shore.length_m == pytest.approx(300.0, abs=10.0)
    assert not shore.at_terminus
    assert found.term_types == [0]
    way = shapely.get_coordinates(shapely.from_wkt(shore.axis))
    assert way[-1, 0] - way[0, 0] > 10 * abs(way[-1, 1] - way[0, 1])  # from the ice to the lake, eastwards


@pytest.mark.parametrize(
    ("level_m", "until_row", "kind", "code"),
    [(0.0, 240, "sea", 1), (0.0, 230, "lake", 2), (4.0, 240, "lake", 2)],
)
def test_the_sea_is_level_with_zero_and_goes_on_beyond_the_map(
    level_m: float, until_row: int, kind: str, code: int
) -> None:
    found = mapped(until(200), (ROWS >= 200) & (until_row > ROWS) & (COLS > 5) & (COLS < 115), level_m)
    assert found.fronts["kind"].tolist() == [kind]
    assert found.term_types == [code]


def test_without_elevation_nobody_says_lake_or_sea_or_where_a_glacier_ends() -> None:
    found = inventory({EPSG: map_of(labels(until(200), LAKE))}, None)
    assert found.fronts["kind"].tolist() == [""]
    assert found.term_types == [9]


def test_a_glacier_has_a_front_with_every_lake() -> None:
    found = mapped(until(200), (ROWS >= 200) & TONGUE & ((COLS < 58) | (COLS > 63)))
    assert found.fronts["length_m"].tolist() == pytest.approx([130.0, 110.0], abs=10.0)
    assert found.fronts["water_id"].nunique() == 2
    assert found.term_types == [2]


def test_a_stray_pixel_on_the_shore_does_not_break_a_front() -> None:
    whole = mapped(until(200), LAKE).fronts["length_m"].iloc[0]
    lake = LAKE & ~_stray(200, 60)
    (broken,) = mapped(until(200), lake).fronts.geometry
    assert len(broken.geoms) == 1
    assert mapped(until(200), lake).fronts["length_m"].iloc[0] == pytest.approx(whole, abs=10.0)


def test_two_glaciers_on_one_lake_have_fronts_that_meet_where_their_divide_does() -> None:
    wide = (COLS >= 20) & (COLS < 100) & (ROWS >= 20)
    ice, lake = wide & (ROWS < 200), wide & (ROWS >= 200)
    data = map_of(labels(ice, lake))
    ridge = 500.0 + 2.0 * np.maximum(205 - ROWS, 0) - 4.0 * np.abs(COLS - 59.5) * (ROWS < 200)
    ground = ground_of(data, np.where(lake, 500.0, ridge))
    found = inventory({EPSG: data}, ground, divided=True)
    whole = inventory({EPSG: data}, ground)
    assert len(found.glaciers) == len(found.fronts) == 2
    assert found.fronts["water_id"].nunique() == 1
    first, second = found.fronts.geometry
    shared = set(map(tuple, shapely.get_coordinates(first))) & set(
        map(tuple, shapely.get_coordinates(second))
    )
    assert len(shared) == 1
    corners = [set(map(tuple, shapely.get_coordinates(outline))) for outline in found.glaciers.geometry]
    assert shared <= corners[0] & corners[1]
    assert found.fronts["length_m"].sum() == pytest.approx(whole.fronts["length_m"].iloc[0], rel=1e-9)


@pytest.mark.parametrize("step_px", [37, 200, 512])
def test_fronts_do_not_depend_on_the_size_of_the_blocks(step_px: int) -> None:
    lake = LAKE | ((ROWS > 60) & (ROWS <= 90) & (COLS >= 75) & (COLS < 100))
    expected, found = (mapped(until(200), lake, step_px=step).fronts for step in (64, step_px))
    columns = ["length_m", "kind", "at_terminus", "water_area_km2", "water_zmean_m", "axis", "date"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    assert shapely.equals_exact(found.geometry.to_numpy(), expected.geometry.to_numpy()).all()


def test_several_processes_find_the_waters_and_fronts_that_one_finds() -> None:
    """Ten tongues with a lake at either end, over as many rows of blocks; one lake is shared by three."""
    rows, cols = np.mgrid[:600, :480]
    ice = (rows % 60 < 30) & (cols >= 100) & (cols < 300)
    lakes = ((rows % 60 < 30) & ((cols >= 60) & (cols < 100) | (cols >= 300) & (cols < 340))) | (
        (rows < 120) & (cols >= 300) & (cols < 340)
    )
    data = map_of(labels(ice, lakes))
    level = np.where(lakes, 500.0, 500.0 + 2.0 * (cols.max() - cols))
    alone = inventory({EPSG: data}, ground_of(data, level))
    with crew_of(2, "cryoscale.write.fronts") as crew:
        shared = inventory({EPSG: data}, ground_of(data, level), each=crew.each)
    assert len(alone.glaciers) == 10
    assert len(alone.fronts) == 20
    assert alone.fronts["water_id"].nunique() == 18
    pd.testing.assert_frame_equal(alone.fronts, shared.fronts)
    assert alone.term_types == shared.term_types


LAT = 28.0


def beside_the_border(border_lon: float, epsg: int, side: int) -> xr.Dataset:
    """A glacier over the border of two zones that ends in a lake over it; by the zone west (1), east (-1)."""
    to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
    x, y = to_zone.transform(border_lon, LAT)
    window = window_over_bounds(epsg, (x - 1200, y - 1600, x + 1200, y + 1600))
    y_m, x_m = window.coordinates()
    lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x_m, y_m))
    east = ((lon - border_lon + 180.0) % 360.0 - 180.0) * 111_320.0 * np.cos(np.deg2rad(LAT))
    north = (lat - LAT) * 110_800.0
    inside = np.abs(east) < 400
    label = np.where(
        inside & (north > 0) & (north < 1400), 1, np.where(inside & (north <= 0) & (north > -600), 3, 0)
    )
    label[east * side > ZONE_COLLAR_M] = 255
    return xr.Dataset(
        {"label": (("y", "x"), label.astype(np.uint8))}, {"y": y_m, "x": x_m}, {"crs": f"EPSG:{epsg}"}
    )


def test_a_glacier_over_the_border_of_two_zones_has_one_front_with_one_lake() -> None:
    found = inventory(
        {32644: beside_the_border(84.0, 32644, 1), 32645: beside_the_border(84.0, 32645, -1)}, None
    )
    (shore,) = found.fronts.itertuples()
    assert len(shore.geometry.geoms) == 1
    assert shore.length_m == pytest.approx(800.0, abs=15.0)
    assert shore.water_area_km2 == pytest.approx(0.8 * 0.6, rel=0.02)
    assert np.abs(shapely.get_coordinates(shore.geometry)[:, 1] - LAT).max() * 110_800.0 < 10.0


def test_the_axis_of_a_front_beyond_180_degrees_crosses_it() -> None:
    shore, ice = MultiLineString([[(180.0, 70.0), (180.03, 70.0)]]), shapely.box(179.99, 70.0, 180.04, 70.02)
    assert shapely.intersects(shapely.from_wkt(axis_of(shore, False, ice, None)), shore)


def test_a_glacier_over_180_degrees_has_one_front_with_one_lake() -> None:
    found = inventory(
        {32601: beside_the_border(180.0, 32601, -1), 32660: beside_the_border(180.0, 32660, 1)}, None
    )
    (shore,) = found.fronts.itertuples()
    assert len(shore.geometry.geoms) == 1
    assert shore.length_m == pytest.approx(800.0, abs=15.0)
    assert shore.water_area_km2 == pytest.approx(0.8 * 0.6, rel=0.02)


@pytest.mark.parametrize(
    ("own", "other"), [(32645, 32644), (32645, 32632), (32601, 32660), (32660, 32601), (32701, 32760)]
)
def test_a_front_does_not_depend_on_the_other_zones_of_a_run(own: int, other: int) -> None:
    """Next door, far away, and over 180 degrees, where nothing of the glacier is."""

    def in_zone(epsg: int, label: NDArray[np.uint8]) -> xr.Dataset:
        data = map_of(label)
        if epsg > 32700:
            data = data.assign_coords(y=data["y"] + 3_200_000.0)
        return data.assign_attrs(crs=f"EPSG:{epsg}")

    ice = until(200)
    alone = inventory({own: in_zone(own, labels(ice, LAKE))}, None)
    plain = in_zone(other, labels(NOTHING, NOTHING))
    beside = inventory(dict(sorted({own: in_zone(own, labels(ice, LAKE)), other: plain}.items())), None)
    assert len(alone.fronts) == 1
    pd.testing.assert_frame_equal(alone.fronts, beside.fronts)


def test_a_front_begins_with_its_lake_and_ends_on_land(tmp_path: Path) -> None:
    first = (ROWS > 60) & (ROWS <= 90) & (COLS >= 75) & (COLS < 100)
    table = moved(tmp_path, (until(200), first), (until(200), LAKE & (ROWS >= 200)))
    assert sorted(table["status"]) == ["begun", "ended"]
    assert table["displacement_m"].isna().all()
    assert table["glacier_id"].nunique() == 1
    assert set(pyogrio.list_layers(tmp_path / "2018.gpkg")[:, 0]) == {
        "glaciers",
        "debris",
        "divides",
        "fronts",
    }
    stored = gpd.read_parquet(tmp_path / "2018-fronts.parquet")
    assert stored["length_m"].tolist() == pytest.approx([300.0], abs=10.0)


def _front(kind: Kind, at_terminus_m: float) -> Front:
    line = MultiLineString([[(0.0, 0.0), (0.0, 1.0)]])
    return Front(Water(1, kind, 1.0, 0.0), line, 500.0, None, at_terminus_m)


@pytest.mark.parametrize(
    ("fronts", "terminus", "known", "expected"),
    [
        ([], Terminus(1000.0, 0.0), None, 0),
        ([], Terminus(1000.0, 0.0), 2, 0),
        ([], Terminus(1000.0, 0.6), None, 9),
        ([], Terminus(1000.0, 0.6), 1, 1),
        ([], None, 1, 1),
        ([], None, None, 9),
        ([("lake", 99.0)], Terminus(1000.0, 0.0), None, 0),
        ([("lake", 100.0)], Terminus(1000.0, 0.6), None, 2),
        ([("lake", 60.0), ("sea", 90.0)], Terminus(1000.0, 0.0), None, 1),
        ([("sea", 500.0)], Terminus(1000.0, 0.0), 3, 3),
        ([("lake", 500.0)], Terminus(1000.0, 0.0), 3, 2),
        ([("", 500.0)], Terminus(1000.0, 0.0), None, 9),
        ([("", 500.0)], Terminus(1000.0, 0.0), 2, 2),
    ],
)
def test_the_map_goes_before_the_rgi_where_it_shows_how_a_glacier_ends(
    fronts: list[tuple[Kind, float]], terminus: Terminus | None, known: int | None, expected: int
) -> None:
    assert term_type([_front(*one) for one in fronts], terminus, known) == expected


@pytest.mark.parametrize("ice", [until(200), NOTHING], ids=["ice without water", "no ice"])
def test_years_without_fronts_have_a_table_without_rows(tmp_path: Path, ice: Mask) -> None:
    table = moved(tmp_path, (ice, NOTHING), (ice, NOTHING))
    assert table.empty
    assert "displacement_m" in table


def test_each_of_two_fronts_is_compared_with_itself(tmp_path: Path) -> None:
    lakes = TONGUE & (ROWS > 150) & ((COLS < 58) | (COLS > 63))
    back = np.where(COLS < 60, 195, 198)
    table = moved(
        tmp_path, (until(200), lakes & (ROWS >= 200)), (until(200) & (back > ROWS), lakes & (back <= ROWS))
    )
    assert table["status"].tolist() == ["moved", "moved"]
    # from the middle of the tongue the axes lead to the fronts at a slant
    assert sorted(table["displacement_m"]) == pytest.approx([-50.0, -20.0], rel=0.08)


def test_a_year_that_was_drawn_before_there_were_fronts_is_left_out(tmp_path: Path) -> None:
    moved(tmp_path, (until(60), ~until(60) & TONGUE), (until(67), ~until(67) & TONGUE))
    (tmp_path / "2018-2019-fronts.csv").unlink()
    (tmp_path / "2018-fronts.parquet").unlink()
    write_displacements(tmp_path, [2018, 2019])
    assert not (tmp_path / "2018-2019-fronts.csv").exists()
