from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from shapely.geometry import Polygon, box

from cryoscale.grid import Window, transformer
from cryoscale.write import outlines
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Description
from cryoscale.write.topography import Hypsometry

LON, LAT = 84.0, 28.0  # where zone 44 ends and zone 45 begins
M_PER_DEG = 111_320.0
COLLAR_M = 100.0


def facing(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """A plane in degrees that falls to the north-east by one in five both ways."""
    east = (lon - LON) * M_PER_DEG * np.cos(np.deg2rad(LAT))
    return 4000.0 - 0.2 * east - 0.2 * (lat - LAT) * M_PER_DEG


def elevation(epsg: int, *, collar_m: float = COLLAR_M) -> xr.DataArray:
    """Of one zone at 40 m around 84 E, 28 N; NaN from a collar beyond the meridian on."""
    x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(LON, LAT)
    x, y = x // 40 * 40 + np.arange(-150, 150) * 40 + 20, y // 40 * 40 - np.arange(-150, 150) * 40 - 20
    lon, lat = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x, y))
    beyond_m = (lon - LON) * M_PER_DEG * np.cos(np.deg2rad(LAT)) * (1 if epsg % 100 == 44 else -1)
    z = np.where(beyond_m > collar_m, np.nan, facing(lon, lat)).astype(np.float32)
    return xr.DataArray(z, dims=("y", "x"), coords={"y": y, "x": x})


def glacier(east_m: float, half_m: float = 900.0) -> Polygon:
    lon = LON + east_m / M_PER_DEG / np.cos(np.deg2rad(LAT))
    wide, high = half_m / M_PER_DEG / np.cos(np.deg2rad(LAT)), half_m / M_PER_DEG
    return box(lon - wide, LAT - high, lon + wide, LAT + high)


@pytest.mark.parametrize("east_m", [-2500.0, -200.0, 0.0, 300.0, 2500.0])
def test_a_glacier_over_the_meridian_has_the_ground_of_both_zones(east_m: float) -> None:
    ground = Ground({epsg: elevation(epsg) for epsg in (32644, 32645)}, "SIMULATED")
    told = ground.under(glacier(east_m)).values
    assert told["dem_void_fraction"] < 0.01
    assert told["zmean_m"] == pytest.approx(4000.0 - 0.2 * east_m, abs=1.0)
    assert told["slope_deg"] == pytest.approx(np.degrees(np.arctan(0.2 * np.sqrt(2))), abs=0.1)
    # true north, not that of the grids, which turn by 1.4 degrees either way here
    assert told["aspect_deg"] == pytest.approx(45.0, abs=0.2)  # degrees are no sphere's
    assert told["aspect_sec"] == 2
    _, _, east, north = glacier(east_m).bounds
    assert told["termlon"] == pytest.approx(east, abs=1e-6)
    assert told["termlat"] == pytest.approx(north, abs=1e-6)
    assert told["lmax_m"] == pytest.approx(1800 * np.sqrt(2), rel=0.05)
    assert told["dem_source"] == "SIMULATED"


def test_longitudes_that_go_on_beyond_180_stay_those_of_the_outline() -> None:
    # the last zone's map, which reaches over the antimeridian into the first
    x, y = transformer("EPSG:4326", "EPSG:32760").transform(179.999, -17.0)
    x, y = x // 40 * 40 + np.arange(100) * 40 - 1980, y // 40 * 40 - np.arange(100) * 40 + 1980
    z = xr.DataArray(
        np.add.outer(0.2 * (y - y[-1]), 0.0 * x), dims=("y", "x"), coords={"y": y, "x": x}
    ).astype(np.float32)
    for epsg_of_centre, west in ((32760, 179.99), (32701, 179.995)):
        outline = box(west, -17.005, west + 0.012, -16.995)
        told = Ground({32760: z}, "").under(outline).values
        assert told["dem_void_fraction"] < 0.01, epsg_of_centre
        assert outline.exterior.distance(shapely.Point(told["termlon"], told["termlat"])) < 1e-8
        line = Ground({32760: z}, "").line(outline)
        assert line is not None
        assert outline.buffer(1e-8).contains(line.line)
        assert told["aspect_deg"] == pytest.approx(180.0, abs=1.5)


def test_what_no_zone_has_is_told_as_void() -> None:
    ground = Ground({32644: elevation(32644)}, "")
    assert ground.under(glacier(1000.0)).values["dem_void_fraction"] == pytest.approx(1.0, abs=0.02)
    assert ground.under(glacier(0.0)).values["dem_void_fraction"] == pytest.approx(4 / 9, abs=0.03)
    assert ground.under(glacier(90_000.0)) == Description({"dem_void_fraction": 1.0})


@pytest.mark.parametrize(("own", "other"), [(32737, 32753), (32753, 32737)])
def test_zones_on_the_other_side_of_the_globe_change_nothing(own: int, other: int) -> None:
    """As Mount Kenya and Papua are, both in RGI region 16: no projection goes from one to the other."""
    x, y = 400_000.0 + np.arange(100) * 40.0, 9_900_000.0 - np.arange(100) * 40.0
    z = xr.DataArray(
        np.add.outer(0.2 * (y - y[-1]), 0.0 * x), dims=("y", "x"), coords={"y": y, "x": x}
    ).astype(np.float32)
    shape = box(401_000.0, 9_897_000.0, 403_000.0, 9_899_000.0)
    to_degrees = transformer(f"EPSG:{own}", "EPSG:4326")
    outline = shapely.transform(shape, lambda xy: np.column_stack(to_degrees.transform(*xy.T)))
    alone, beside = Ground({own: z}, ""), Ground({own: z, other: z}, "")
    assert beside.under(outline) == alone.under(outline)
    assert beside.line(outline) == alone.line(outline)
    near, same = (ground.around(shape, own, 200.0) for ground in (beside, alone))
    assert near is not None
    assert same is not None
    xr.testing.assert_identical(near, same)


def a_map() -> xr.Dataset:
    label = np.zeros((300, 300), np.uint8)
    label[20:120, 30:130] = 1
    label[200:240, 200:260] = 2
    label[280:283, 280:285] = 1  # 0.0015 km2
    window = Window(32645, -310_000, 45_000, 300, 300)
    y, x = window.coordinates()
    return xr.Dataset(
        {"label": (("y", "x"), label)}, coords={"y": y, "x": x}, attrs={"proj:code": "EPSG:32645"}
    )


def sloping(data: xr.Dataset) -> Ground:
    """Ground that falls to the south by one in ten from 3,000 m."""
    cut = data.isel(y=slice(None, None, 4), x=slice(None, None, 4))
    z = 3000.0 + 0.1 * (cut["y"] - data["y"].values.max()) + 0.0 * cut["x"]
    return Ground({32645: z.transpose("y", "x")}, "MADE")


def test_an_inventory_holds_what_was_told_of_each_outline(tmp_path: Path) -> None:
    data = a_map()
    with outlines.survey(data, year=2018, model="m", run_id="r") as found:
        found.describe(lambda outline, _: sloping(data).under(outline))
        found.write(tmp_path / "a.parquet", tmp_path / "a.gpkg")
        found.write_hypsometry(tmp_path / "a.csv")
    for path in ("a.parquet", "a.gpkg"):
        read = (
            gpd.read_parquet(tmp_path / path)
            if path == "a.parquet"
            else gpd.read_file(tmp_path / path, layer="glaciers")
        )
        assert read["zmed_m"].tolist() == pytest.approx([2930.0, 2780.0], abs=3.0)
        assert read["aspect_sec"].tolist() == [5, 5]
        assert read["dem_source"].tolist() == ["MADE", "MADE"]
        assert read["rgi_id"].isna().all()
        assert read["lmax_m"].iloc[0] > 900
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table.columns[:2]) == ["glac_id", "area_km2"]
    assert [int(name) for name in table.columns[2:]] == list(range(2775, 3000, 50))
    assert (table.iloc[:, 2:].sum(axis=1) == 1000).all()
    assert table["glac_id"].tolist() == read["glac_id"].tolist()
    # 2,880 to 2,980 m, evenly: 20, 50 and 30 of 100
    np.testing.assert_allclose(table.iloc[0, 2:].astype(float), [0, 0, 200, 500, 300], atol=25)


def test_termini_and_representative_points_lie_on_their_own_outline() -> None:
    data = a_map()
    with outlines.survey(data) as found:
        found.describe(lambda outline, _: sloping(data).under(outline))
        (table,) = found.glaciers()
    ends = shapely.points(table["termlon"], table["termlat"])
    assert (shapely.distance(table.geometry.exterior.to_numpy(), ends) < 1e-8).all()
    points = shapely.points(table["cenlon"], table["cenlat"])
    assert shapely.contains(table.geometry.to_numpy(), points).all()


def test_what_was_told_before_is_forgotten_and_more_than_a_handful_are_asked() -> None:
    label = np.zeros((60, 600), np.uint8)
    label[10:30, 2::6] = 1
    window = Window(32645, -310_000, 45_000, 60, 600)
    y, x = window.coordinates()
    data = xr.Dataset(
        {"label": (("y", "x"), label)}, coords={"y": y, "x": x}, attrs={"proj:code": "EPSG:32645"}
    )
    asked: list[Polygon] = []

    def count(outline: Polygon, _: object) -> Description:
        asked.append(outline)
        return Description({"zmax_m": len(asked)})

    with outlines.survey(data, min_area_km2=0.0) as found:
        found.describe(lambda *_: Description({"zmin_m": 1.0, "rgi_id": "a"}, Hypsometry(0, (1000,))))
        found.describe(count)
        (table,) = found.glaciers()
    assert len(asked) == len(table) == 100
    assert table["zmin_m"].isna().all()
    assert table["rgi_id"].isna().all()
    assert sorted(table["zmax_m"]) == list(range(1, 101))


def test_without_a_description_the_told_columns_are_empty_and_the_hypsometry_has_no_rows(
    tmp_path: Path,
) -> None:
    with outlines.survey(a_map()) as found:
        (table,) = found.glaciers()
        found.write_hypsometry(tmp_path / "a.csv")
    assert table[["zmed_m", "lmax_m", "aspect_sec", "glims_id", "dem_source"]].isna().all(axis=None)
    assert (tmp_path / "a.csv").read_text() == "glac_id,area_km2\n"


def test_a_column_that_is_none_cannot_be_told() -> None:
    with outlines.survey(a_map()) as found, pytest.raises(ValueError, match="no column to be told: area_km2"):
        found.describe(lambda *_: Description({"area_km2": 1.0}))
