"""Ranking scenes by what they show around a pixel, against counting by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from cryoscale.grid import Window
from cryoscale.read.choice import CELL_PX, SAMPLE_PX, Choice, choose, sample_codes

EPSG = 32645
SCENES = ("a", "b", "c")
WORLD_ROW, WORLD_COL = -310_016, 47_872  # a corner of cells: multiples of 128
MANY = CELL_PX // SAMPLE_PX
SIDE = 9 * MANY
HIDDEN, BARE, ICE, SNOW = range(4)


def world(seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """What three scenes show on 9 x 9 cells of the world, in patches; scene c lacks a corner."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in SCENES:
        codes = rng.choice([HIDDEN, BARE, ICE, SNOW], (SIDE // 8, SIDE // 8), p=[0.2, 0.3, 0.3, 0.2])
        made[name] = codes.repeat(8, 0).repeat(8, 1).astype(np.uint8)
    made["c"][: SIDE // 2, : SIDE // 3] = HIDDEN
    return made


def looker(shown: dict[str, NDArray[np.uint8]]) -> Any:
    """A ``look`` that cuts the world where the grid lies."""

    def look(scene: str, grid: GeoBox) -> NDArray[np.uint8]:
        row = round(-grid.affine.f / (10 * SAMPLE_PX)) - WORLD_ROW // SAMPLE_PX
        col = round(grid.affine.c / (10 * SAMPLE_PX)) - WORLD_COL // SAMPLE_PX
        assert row >= 0
        assert col >= 0
        return shown[scene][row : row + grid.shape[0], col : col + grid.shape[1]]

    return look


def by_hand(shown: dict[str, NDArray[np.uint8]], scene: str, row: int, col: int) -> float:
    """The score of one pixel from the definition, in plain loops over the four cells around it."""
    total = 0.0
    y, x = (row + 0.5) / CELL_PX - 0.5, (col + 0.5) / CELL_PX - 0.5
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
        for j in (int(np.floor(x)), int(np.floor(x)) + 1):
            top, left = i * MANY - WORLD_ROW // SAMPLE_PX, j * MANY - WORLD_COL // SAMPLE_PX
            weight = clear = snow = 0
            for r in range(top, top + MANY):
                for c in range(left, left + MANY):
                    looks = [int(shown[name][r, c]) for name in SCENES if shown[name][r, c] != HIDDEN]
                    frozen = sum(code in (ICE, SNOW) for code in looks)
                    w = 1024 if frozen and frozen / len(looks) >= 0.75 else 1
                    code = shown[scene][r, c]
                    weight += w
                    clear += w * (code != HIDDEN)
                    snow += w * (code == SNOW)
            score = 1 - clear / weight + (snow / clear if clear else 1.0)
            total += score * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def test_a_score_is_what_its_definition_says() -> None:
    shown = world()
    window = Window(EPSG, WORLD_ROW + 300, WORLD_COL + 200, 400, 500)
    choice = choose(SCENES, window, looker(shown))
    rng = np.random.default_rng(1)
    for scene in SCENES:
        score = choice.score(scene, window)
        for _ in range(2):
            i, j = int(rng.integers(window.height)), int(rng.integers(window.width))
            want = by_hand(shown, scene, window.row + i, window.col + j)
            assert score[i, j] == pytest.approx(want, abs=1e-6)


@settings(max_examples=15)
@given(st.integers(260, 600), st.integers(260, 600), st.integers(1, 300), st.integers(1, 300))
def test_a_score_does_not_depend_on_the_window_that_is_asked_for(
    row: int, col: int, height: int, width: int
) -> None:
    shown = world(2)
    whole_window = Window(EPSG, WORLD_ROW + 256, WORLD_COL + 256, 660, 660)
    part = Window(EPSG, WORLD_ROW + row, WORLD_COL + col, height, width)
    whole, small = (choose(SCENES, window, looker(shown)) for window in (whole_window, part))
    for scene in SCENES:
        rows, cols = part.slices_in(whole_window)
        assert np.array_equal(small.score(scene, part), whole.score(scene, whole_window)[rows, cols])


def test_a_score_changes_slowly_also_where_cells_meet() -> None:
    window = Window(EPSG, WORLD_ROW + 256, WORLD_COL + 256, 640, 640)
    choice = choose(SCENES, window, looker(world(3)))
    for scene in SCENES:
        score = choice.score(scene, window)
        assert max(np.abs(np.diff(score, axis=axis)).max() for axis in (0, 1)) <= 2.0 / CELL_PX


def season(glacier: dict[str, int], around: dict[str, int]) -> tuple[Choice, Window]:
    """Scenes of one code on a glacier (a tenth of the ground) and one around it."""
    shown = {}
    for name in glacier:
        codes = np.full((SIDE, SIDE), around[name], np.uint8)
        codes[::3, ::3] = glacier[name]
        shown[name] = codes
    window = Window(EPSG, WORLD_ROW + 384, WORLD_COL + 384, 256, 256)
    return choose(tuple(glacier), window, looker(shown)), window


def test_cloud_and_snow_over_the_ice_count_and_those_beside_it_do_not() -> None:
    glacier = {"cloud_on_it": HIDDEN, "snow_on_it": SNOW, "cloud_beside": ICE, "bare": ICE}
    around = {"cloud_on_it": BARE, "snow_on_it": BARE, "cloud_beside": HIDDEN, "bare": BARE}
    choice, window = season(glacier, around)
    shares = {share.scene: share for share in choice.shares(window)}
    assert [share.rank for share in choice.shares(window)] == [1, 2, 3, 4]
    assert shares["bare"].rank == 1
    assert shares["cloud_beside"].rank == 2
    assert shares["cloud_beside"].cloud_share < 0.02
    assert shares["cloud_on_it"].cloud_share > 0.98
    assert shares["snow_on_it"].snow_share > 0.98
    assert shares["bare"].cloud_share == shares["bare"].snow_share == 0.0


def test_ground_without_a_glacier_is_ranked_by_its_own_cloud_and_snow() -> None:
    codes = {"cloudy": HIDDEN, "snowed_in": SNOW, "bare": BARE, "bare_later": BARE, "bare_last": BARE}
    choice, window = season(codes, codes)
    order = [share.scene for share in choice.shares(window)]
    assert order[:3] == ["bare", "bare_later", "bare_last"]  # ties in the order of dates
    assert {share.scene: share.cloud_share for share in choice.shares(window)}["cloudy"] == 1.0


def test_a_scene_that_cannot_be_read_comes_last() -> None:
    window = Window(EPSG, WORLD_ROW + 384, WORLD_COL + 384, 256, 256)
    codes = np.full((SIDE, SIDE), ICE, np.uint8)

    def look(scene: str, grid: GeoBox) -> NDArray[np.uint8] | None:
        return None if scene == "a" else codes[: grid.shape[0], : grid.shape[1]]

    choice = choose(("a", "b"), window, look)
    assert (choice.score("a", window) == 2.0).all()
    assert (choice.score("b", window) == 0.0).all()
    assert [share.scene for share in choice.shares(window)] == ["b", "a"]


@pytest.mark.parametrize(
    ("surface", "b05", "b8a", "b11", "want"),
    [
        ("fresh snow", 0.92, 0.85, 0.08, SNOW),
        ("old snow", 0.65, 0.55, 0.05, SNOW),
        ("bare ice", 0.45, 0.35, 0.04, ICE),
        ("dirty ice", 0.25, 0.20, 0.06, ICE),
        ("debris", 0.18, 0.20, 0.22, BARE),
        ("meadow", 0.12, 0.40, 0.18, BARE),
        ("forest", 0.06, 0.25, 0.10, BARE),
        ("lake", 0.03, 0.02, 0.005, BARE),
        ("no data", np.nan, 0.3, 0.1, HIDDEN),
    ],
)
def test_a_sample_is_named_by_its_spectrum(
    surface: str, b05: float, b8a: float, b11: float, want: int
) -> None:
    planes = {
        n: np.full((1, 2), v, np.float32) for n, v in zip(("B05", "B8A", "B11"), (b05, b8a, b11), strict=True)
    }
    codes = sample_codes(planes, np.array([[True, False]]))
    assert codes.tolist() == [[want, HIDDEN]], surface
