"""Which scene a block shows, on files: the ranking that is explained is the one that is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from pystac import Item

from cryoscale.grid import Window
from cryoscale.read.assets import S2_BANDS
from cryoscale.read.inputs import read_inputs
from tests.integration.test_read_inputs import EPSG, cells, optical, write

GROUND = Window(EPSG, -310_080, 48_000, 720, 720)
"""6 km of ground: a glacier in the west, rock in the east."""


def day(text: str) -> int:
    return int(np.datetime64(text).astype(int))


def scene(
    folder: Path, name: str, when: str, ice: NDArray[np.float64], cloud: float, hidden: slice = slice(0)
) -> Item:
    """A scene of the ground with the ice as bright as ``ice`` (60 m cells); ``hidden`` columns (20 m)."""
    size = cells(GROUND, 60)
    scl = np.full(cells(GROUND, 20), 4, np.uint8)
    scl[:, hidden] = 9
    made = optical(folder, name, when, 0.2, scl, window=GROUND, cloud=cloud)
    spectrum = {"B11": 0.1, "B12": 0.08}
    for number, band in enumerate(S2_BANDS):
        values = np.full(size, 0.2 + 0.01 * number)
        values[:, : size[1] // 2] = ice * spectrum.get(band, 1.0)
        made.add_asset(
            band, write(folder / name / f"{band}.tif", np.round(values * 1e4).astype(np.uint16), 60, GROUND)
        )
    return made


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    folder = tmp_path_factory.mktemp("season")
    rng = np.random.default_rng(4)
    shape = (cells(GROUND, 60)[0], cells(GROUND, 60)[1] // 2)
    bare, snowed = rng.uniform(0.3, 0.4, shape), rng.uniform(0.7, 0.8, shape)
    return [
        scene(folder, "cloud_on_ice", "2018-09-01", bare, 1.0, slice(0, 150)),
        scene(folder, "snow_on_ice", "2018-09-10", snowed, 2.0),
        scene(folder, "cloud_on_rock", "2018-09-20", bare, 40.0, slice(230, 360)),
        scene(folder, "patchy", "2018-09-25", bare, 30.0, slice(120, 160)),
    ]


@pytest.mark.parametrize("method", ["best_scene", "least_snow"])
def test_the_glacier_shows_the_scene_that_is_best_over_the_ice_though_its_cloud_cover_is_the_highest(
    season: list[Item], method: str
) -> None:
    window = Window(EPSG, GROUND.row + 200, GROUND.col + 30, 256, 100)
    data, report = read_inputs({"optical": season}, window, composite=method)
    assert report.choice is not None
    shares = report.choice.shares(window)
    assert shares[0].scene == "cloud_on_rock"
    assert (shares[0].cloud_share, shares[0].snow_share) == (0.0, 0.0)
    by_name = {share.scene: share for share in shares}
    assert by_name["snow_on_ice"].snow_share > 0.9
    assert by_name["cloud_on_ice"].cloud_share > 0.9
    if method == "best_scene":
        assert (data["source_date"] == day("2018-09-20")).all()
        plain, none = read_inputs({"optical": season}, window, composite=method, rank_locally=False)
        assert none.choice is None
        assert not (plain["source_date"] == day("2018-09-20")).any()
    else:
        assert not (data["source_date"] == day("2018-09-10")).any()  # fresh snow on ice is never taken


@pytest.mark.parametrize("method", ["best_scene", "least_snow", "median"])
def test_no_cut_of_the_ground_into_blocks_changes_a_pixel(season: list[Item], method: str) -> None:
    whole_window = Window(EPSG, GROUND.row + 30, GROUND.col + 60, 400, 520)
    whole, _ = read_inputs({"optical": season}, whole_window, composite=method)
    if method == "best_scene":
        assert len(np.unique(whole["source_date"])) >= 2
    for row, col, height, width in (
        (0, 0, 400, 260),
        (0, 260, 400, 260),
        (133, 77, 97, 333),
        (399, 519, 1, 1),
    ):
        part = Window(EPSG, whole_window.row + row, whole_window.col + col, height, width)
        got, _ = read_inputs({"optical": season[::-1]}, part, composite=method)
        rows, columns = part.slices_in(whole_window)
        xr.testing.assert_identical(got, whole.isel(y=rows, x=columns))


def test_equal_scenes_are_taken_by_date_and_a_median_prefers_none(tmp_path: Path) -> None:
    later = optical(tmp_path, "a", "2018-10-20", cloud=1.0)
    sooner = optical(tmp_path, "b", "2018-10-10", cloud=9.0)
    window = Window(EPSG, -309_990, 48_010, 50, 50)
    data, report = read_inputs({"optical": [later, sooner]}, window, composite="best_scene")
    assert (data["source_date"] == day("2018-10-10")).all()
    assert report.choice is not None
    assert [share.scene for share in report.choice.shares(window)] == ["b", "a"]
    _, report = read_inputs({"optical": [later, sooner]}, window, composite="median")
    assert report.choice is None


# --- the limit of cloud ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloudy_season(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """An ordinary scene with snow on the ice, and two of 80 % cloud: one clear over the ice, one hopeless."""
    folder = tmp_path_factory.mktemp("cloudy")
    rng = np.random.default_rng(8)
    shape = (cells(GROUND, 60)[0], cells(GROUND, 60)[1] // 2)
    bare, snowed = rng.uniform(0.3, 0.4, shape), rng.uniform(0.7, 0.8, shape)
    made = [
        scene(folder, "snowed", "2018-09-01", snowed, 20.0, slice(340, 360)),
        scene(folder, "clear_on_ice", "2018-09-10", bare, 80.0, slice(190, 340)),
        scene(folder, "hopeless", "2018-09-20", bare, 80.0, slice(0, 360)),
    ]
    for band in S2_BANDS[:4]:
        (folder / "hopeless" / f"{band}.tif").unlink()  # it is not to be read
    return made


def test_a_scene_of_80_per_cent_cloud_that_is_clear_over_the_ice_is_used_there_and_nowhere_else(
    cloudy_season: list[Item],
) -> None:
    window = Window(EPSG, GROUND.row + 130, GROUND.col + 30, 300, 690)
    data, report = read_inputs({"optical": cloudy_season}, window, max_cloud_pct=60)
    used = (data["source_date"] == day("2018-09-10")).values
    ice = slice(0, 250)
    assert used[:, ice].all()
    assert not used[:, 400:].any()
    assert (data["source_date"].values[:, 400:640] == day("2018-09-01")).all()
    gap = slice(655, 690)  # a hole in the clouds, which the limit does not trust
    assert (data["source_date"].values[:, gap] == 0).all()
    free, _ = read_inputs({"optical": cloudy_season[:2]}, window)
    assert (free["source_date"].values[:, gap] == day("2018-09-10")).all()
    assert report.scenes_failed == ()
    assert report.scenes_read == ("snowed", "clear_on_ice")
    assert report.choice is not None
    limit = report.choice.cloud("clear_on_ice", window) <= 0.6
    assert not (used & ~limit).any()
    strict, _ = read_inputs({"optical": cloudy_season[:1]}, window, max_cloud_pct=60)
    assert (strict["source_date"].values[:, :640] == day("2018-09-01")).all()


def test_scenes_under_the_limit_are_used_as_if_there_were_none(season: list[Item]) -> None:
    window = Window(EPSG, GROUND.row + 200, GROUND.col + 30, 256, 300)
    free, _ = read_inputs({"optical": season}, window)
    limited, _ = read_inputs({"optical": season}, window, max_cloud_pct=60)
    xr.testing.assert_identical(free, limited)


@pytest.mark.parametrize("method", ["best_scene", "least_snow", "median"])
def test_the_limit_moves_no_pixel_with_the_cut_into_blocks(cloudy_season: list[Item], method: str) -> None:
    window = Window(EPSG, GROUND.row + 100, GROUND.col + 60, 300, 560)
    whole, _ = read_inputs({"optical": cloudy_season}, window, composite=method, max_cloud_pct=60)
    assert (whole["source_date"] != 0).all()
    for row, col, height, width in ((0, 0, 300, 300), (0, 300, 300, 260), (133, 177, 97, 133)):
        part = Window(EPSG, window.row + row, window.col + col, height, width)
        got, _ = read_inputs({"optical": cloudy_season[::-1]}, part, composite=method, max_cloud_pct=60)
        rows, columns = part.slices_in(window)
        xr.testing.assert_identical(got, whole.isel(y=rows, x=columns))


def test_without_a_local_ranking_the_limit_is_that_of_the_whole_scene(cloudy_season: list[Item]) -> None:
    window = Window(EPSG, GROUND.row + 200, GROUND.col + 60, 64, 64)
    data, report = read_inputs(
        {"optical": cloudy_season}, window, rank_locally=False, max_cloud_pct=60, composite="best_scene"
    )
    assert report.scenes_read == ("snowed",)
    assert (data["source_date"] == day("2018-09-01")).all()


def test_a_search_brings_scenes_over_the_limit_but_no_hopeless_ones(tmp_path: Path) -> None:
    import json

    from cryoscale.config import load_config
    from cryoscale.plan import find_items

    (tmp_path / "catalog").mkdir()
    for name, cloud in (("clear", 10.0), ("cloudy", 80.0), ("hopeless", 97.0)):
        made = optical(tmp_path / name, name, "2018-10-10", cloud=cloud)
        made.properties["eo:cloud_cover"] = cloud
        (tmp_path / "catalog" / f"{name}.json").write_text(json.dumps(made.to_dict(include_self_link=False)))
    west, south, east, north = optical(tmp_path / "x", "x", "2018-10-10").bbox or ()
    settings = load_config(
        {
            "name": "limits",
            "region": {"bbox": [west, south, east, north]},
            "years": [2018],
            "catalogs": [{"url": str(tmp_path / "catalog")}],
            "sources": {"optical": {"collection": made.collection_id, "max_cloud_pct": 60}},
            "model": {"name": "band-ratio"},
        }
    )
    assert [item.id for item in find_items(settings)["2018/optical"]] == ["clear", "cloudy"]
