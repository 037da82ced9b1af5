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
