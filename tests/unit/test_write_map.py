"""The picture: read back as an image and looked at where the answer is known."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from cryoscale.grid import Window, transformer
from cryoscale.write import furniture, lettering, warp
from cryoscale.write import map as map_module
from cryoscale.write.furniture import _degrees, _nice_step
from cryoscale.write.map import draw_map, hillshade
from cryoscale.write.outlines import polygonise
from cryoscale.write.sheet import image


def half_and_half(epsg: int = 32645, left: int = 1, right: int = 2) -> xr.Dataset:
    window = Window(epsg, -310_000, 49_800, 200, 400)
    label = np.full((200, 400), left, np.uint8)
    label[:, 200:] = right
    y, x = window.coordinates()
    return xr.Dataset({"label": (("y", "x"), label)}, coords={"y": y, "x": x}, attrs={"crs": f"EPSG:{epsg}"})


def colours(picture: np.ndarray, row: float, col: float) -> np.ndarray:
    """Mean colour of a small patch at a share of the picture's height and width."""
    y, x = int(row * picture.shape[0]), int(col * picture.shape[1])
    return picture[y - 3 : y + 4, x - 3 : x + 4, :3].mean(axis=(0, 1))


def test_clean_ice_is_bluish_and_debris_is_brown(tmp_path: Path) -> None:
    maps = {32645: half_and_half()}
    draw_map(tmp_path / "map.png", maps, [polygonise(maps)], title="Two halves", caption="Simulated.")
    picture = imread(tmp_path / "map.png")
    assert 1900 < picture.shape[1] < 2300
    ice, debris = colours(picture, 0.45, 0.3), colours(picture, 0.45, 0.7)
    assert ice[2] > ice[0] + 0.1
    assert debris[0] > debris[2] + 0.2
    assert ice.mean() > debris.mean() + 0.2  # told apart by lightness alone
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_the_same_input_gives_the_same_picture(tmp_path: Path) -> None:
    maps = {32645: half_and_half()}
    for name in ("a.png", "b.png"):
        draw_map(tmp_path / name, maps, [polygonise(maps)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_true_colour_shows_through_where_there_is_no_class_and_relief_where_no_imagery(
    tmp_path: Path,
) -> None:
    data = half_and_half(left=0, right=0)
    shape = data["label"].shape
    red = np.full(shape, np.nan, np.float32)
    red[:, :200] = 0.4
    bands = {"B04": red, "B03": red * 0.1, "B02": red * 0.1}
    flat = np.zeros(shape, np.float32)
    background = data.drop_vars("label").assign({k: (("y", "x"), v) for k, v in bands.items()})
    background["elevation"] = (("y", "x"), flat)
    maps = {32645: data}
    draw_map(tmp_path / "map.png", maps, [polygonise(maps)], background={32645: background})
    picture = imread(tmp_path / "map.png")
    image, relief = colours(picture, 0.45, 0.3), colours(picture, 0.45, 0.7)
    assert image[0] > image[1] + 0.4
    assert np.ptp(relief) < 0.02


def test_two_zones_are_drawn_in_one_frame_and_a_map_without_data_does_not_fail(tmp_path: Path) -> None:
    maps = {}
    for epsg in (32644, 32645):
        x0, y0 = transformer("EPSG:4326", f"EPSG:{epsg}").transform(84.0, 28.0)
        window = Window(epsg, int(-y0 // 10) - 100, int(x0 // 10) - 100, 200, 200)
        y, x = window.coordinates()
        lon, _ = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x, y))
        beyond = lon > 84.001 if epsg == 32644 else lon < 83.999
        label = np.where(beyond, 255, 3).astype(np.uint8)
        maps[epsg] = xr.Dataset({"label": (("y", "x"), label)}, coords={"y": y, "x": x})
    nothing = gpd.GeoDataFrame({"area_km2": [], "debris_area_km2": []}, geometry=[], crs=4326)
    draw_map(tmp_path / "map.png", maps, [nothing])
    picture = imread(tmp_path / "map.png")
    for col in (0.25, 0.75):
        colour = colours(picture, 0.4, col)
        assert colour[2] > colour[0] + 0.2
    empty = {epsg: data.assign(label=data["label"] * 0 + 255) for epsg, data in maps.items()}
    draw_map(tmp_path / "empty.png", empty, [nothing])


@pytest.mark.parametrize(("rows", "cols"), [(12, 1500), (1500, 12), (1, 1), (300, 400)])
def test_the_frame_of_a_region_of_any_shape_fits_on_a_page_with_the_region_in_its_middle(
    rows: int, cols: int
) -> None:
    y, x = Window(32645, -310_000, 49_800, rows, cols).coordinates()
    label = xr.Dataset({"label": (("y", "x"), np.ones((rows, cols), np.uint8))}, coords={"y": y, "x": x})
    frame = warp.frame_of({32645: label})
    width, height = frame.east_m - frame.west_m, frame.north_m - frame.south_m
    assert width >= 499.0
    assert 0.249 <= height / width <= 1.401
    shown = warp.warp_bytes({32645: label}, "label", frame) == 1
    assert shown.sum() * frame.pixel_m**2 == pytest.approx(100.0 * rows * cols, rel=0.15, abs=100.0)
    middle = np.argwhere(shown).mean(axis=0)
    assert np.abs(middle - np.array(frame.shape) / 2).max() < 2.0


def test_north_is_up_and_meridians_go_on_where_a_map_lies_over_180_degrees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps = {}
    for epsg, middle in ((32660, 179.9), (32601, -179.9)):
        x0, y0 = transformer("EPSG:4326", f"EPSG:{epsg}").transform(middle, 66.5)
        y, x = Window(epsg, int(-y0 // 10) - 100, int(x0 // 10) - 100, 200, 200).coordinates()
        label = np.full((200, 200), 3, np.uint8)
        maps[epsg] = xr.Dataset({"label": (("y", "x"), label)}, coords={"y": y, "x": x})
    frame = warp.frame_of(maps)
    assert frame.east_m - frame.west_m < 12_000
    _, (south, north) = frame.project().transform([180.0, 180.0], [66.49, 66.51])
    assert north > south
    (west, east), _ = frame.project().transform([179.9, -179.9], [66.5, 66.5])
    assert east > west
    told: list[str] = []
    axes = Figure().add_subplot()
    monkeypatch.setattr(furniture, "_tick", lambda axes, at, by, text: told.append(text))
    furniture.draw_graticule(axes, frame)
    assert any(text.endswith("E") for text in told), told
    assert any(text.endswith("W") for text in told), told
    furniture.draw_zone_borders(axes, [32660, 32601], frame)
    assert [text.get_text() for text in axes.texts] == ["UTM 60N  |  1N"]
    furniture.draw_zone_borders(axes, [32618, 32719], frame)  # neighbours by number, on either hemisphere
    assert len(axes.texts) == 1


def test_a_page_drawn_once_is_that_which_matplotlib_draws_twice() -> None:
    figure = Figure(figsize=(3, 2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_aspect("equal")
    axes.plot([0, 3], [0, 1], label="a line")
    axes.legend(loc="upper left", bbox_to_anchor=(0.3, -0.1))
    axes.text(-0.2, 1.1, "words", transform=axes.transAxes)
    once = imread(io.BytesIO(image(figure, 0.15, format="png")))
    twice = io.BytesIO()
    figure.savefig(twice, format="png", dpi=100, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    np.testing.assert_array_equal(once, imread(io.BytesIO(twice.getvalue())))
    assert (once[[0, -1]] == 1).all(), "a margin"
    assert (once[15:-15] < 0.9).any(axis=(1, 2))[[0, -1]].all(), "words above, the legend below"


def test_a_slope_that_faces_north_west_is_brighter_than_one_that_faces_away() -> None:
    y, x = np.mgrid[0:50, 0:50].astype(np.float32) * 10
    falls_to_north_west, falls_to_south_east = (x + y) * 0.4, -(x + y) * 0.4
    flat = hillshade(np.zeros((5, 5), np.float32), 10.0)
    bright, dark = hillshade(falls_to_north_west, 10.0), hillshade(falls_to_south_east, 10.0)
    assert bright.mean() > flat.mean() > dark.mean()
    assert 0 <= dark.min() <= bright.max() <= 1
    assert flat == pytest.approx(np.sin(np.deg2rad(40)))


def test_graticules_have_a_few_round_lines() -> None:
    for span in (0.03, 0.4, 1.7, 12.0):
        assert 2 <= span / _nice_step(span) <= 6
    assert _degrees(84.25, 0.25, "EW") == "84°15\u2032E"
    assert _degrees(84.2525, 1 / 120, "EW") == "84°15\u203209\u2033E"
    assert _degrees(-3.0, 1.0, "NS") == "3°S"


def test_outlines_are_drawn_where_they_lie(tmp_path: Path) -> None:
    data = half_and_half(left=0, right=0)
    lon, lat = transformer("EPSG:32645", "EPSG:4326").transform(
        float(data["x"].mean()), float(data["y"].mean())
    )
    square = shapely.box(lon - 0.004, lat - 0.004, lon + 0.004, lat + 0.004)
    frame = gpd.GeoDataFrame({"area_km2": [1.0], "debris_area_km2": [0.0]}, geometry=[square], crs=4326)
    nothing = frame.iloc[:0]
    for name, one in (("with.png", frame), ("without.png", nothing)):
        draw_map(tmp_path / name, {32645: data}, [one])
    difference = np.abs(imread(tmp_path / "with.png") - imread(tmp_path / "without.png")).sum(axis=2)
    rows, cols = np.nonzero(difference[: int(0.85 * difference.shape[0])])
    height, width = difference.shape
    assert 0.3 * width < cols.min() < 0.45 * width
    assert 0.55 * width < cols.max() < 0.7 * width
    assert rows.min() > 0.1 * height


def test_relief_and_imagery_do_not_depend_on_the_strips_that_they_are_made_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = half_and_half(left=0, right=1)
    y, x = np.mgrid[0 : data.sizes["y"], 0 : data.sizes["x"]].astype(np.float32)
    height = (300 * np.sin(y / 9) * np.cos(x / 7)).astype(np.float32)
    relief = xr.Dataset({"elevation": (("y", "x"), height)}, coords=data.coords)
    bright = np.where(height > 200, np.nan, 0.3 + height / 1000).astype(np.float32)
    imagery = relief.assign({name: (("y", "x"), bright) for name in ("B04", "B03", "B02")})
    frame = warp.frame_of({32645: data})
    for ground in (relief, imagery):
        monkeypatch.setattr(warp, "_STRIP_PX", 256)
        whole = map_module.ground_picture({32645: ground}, frame)
        monkeypatch.setattr(warp, "_STRIP_PX", 7)
        assert np.array_equal(map_module.ground_picture({32645: ground}, frame), whole)
        assert np.ptp(whole[..., 0].astype(int)) > 100


def test_a_name_that_no_font_has_the_letters_of_gives_way_to_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(lettering, "fontManager", SimpleNamespace(ttflist=[]))
    lettering.families_for.cache_clear()
    for text, drawn in (
        ("Алай, 2018", "Алай, 2018"),
        ("阿尼玛卿, 2018", "here, 2018"),
        ("Anyê (阿尼 - 玛卿) range, 2018", "Anyê here range, 2018"),
    ):
        assert lettering.lettered(text, "here")[0] == drawn
    maps = {32645: half_and_half()}
    draw_map(tmp_path / "map.png", maps, [polygonise(maps)], title="阿尼玛卿, 2018")
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
    assert furniture.place_of(warp.frame_of(maps)) == "28°00\u2032N 87°00\u2032E"
    lettering.families_for.cache_clear()


def test_a_name_is_drawn_in_an_installed_font_that_has_its_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = [SimpleNamespace(name=name, fname=name) for name in ("Last Resort", "Latin", "Han")]
    letters = {"Last Resort": "阿卿", "Latin": "ab", "Han": "阿卿"}
    monkeypatch.setattr(lettering, "fontManager", SimpleNamespace(ttflist=fonts))
    monkeypatch.setattr(lettering, "_letters", lambda name: {ord(one) for one in letters.get(name, "ab")})
    lettering.families_for.cache_clear()
    text, font = lettering.lettered("ab 阿卿", "here")
    assert (text, font.get_family()) == ("ab 阿卿", ["DejaVu Sans", "Han"])
    lettering.families_for.cache_clear()
