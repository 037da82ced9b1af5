"""The page on a finished run: tiles are the map's pixels, outlines the inventory's, nobody else is asked."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import mapbox_vector_tile
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer

from cryoscale import cli_view
from cryoscale.cli_view import shown_of
from cryoscale.errors import ExtraError, InputError, SourceError
from cryoscale.grid import Window, blocks_over
from cryoscale.view import app as served_app
from cryoscale.view.outlines import Outlines
from cryoscale.view.serving import served
from cryoscale.view.shown import Shown
from cryoscale.write import quicklook
from cryoscale.write.map import CLASS_STYLE
from cryoscale.write.vector_tiles import write_tiles
from tests.browser import NAMES, browser, find
from tests.made_runs import BLOCK_PX, EPSG, Tongue, Year, make_run

# what the server ignores for its whole process, each test forgets
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TONGUES = (Tongue(800, 500, 1300, 400, debris_m=500), Tongue(1900, 700, 700, 300))
SHORTER = (Tongue(800, 500, 1000, 400, debris_m=500), Tongue(1900, 700, 700, 300))
WINDOW = Window(EPSG, -310_016, 49_920, BLOCK_PX, BLOCK_PX)
DARK, BRIGHT = 0.05, 0.8
"""Reflectances of the western and the eastern half."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    years = {2016: Year(TONGUES, date(2016, 10, 1)), 2020: Year(SHORTER, date(2020, 10, 1))}
    out = make_run(tmp_path_factory.mktemp("view") / "run", years, size_px=BLOCK_PX)
    for year in years:
        write_tiles(out / f"inventory/{year}.gpkg", out / f"inventory/{year}.pmtiles", title="made")
        seen = np.full((BLOCK_PX, BLOCK_PX), DARK, np.float32)
        seen[:, BLOCK_PX // 2 :] = BRIGHT
        (block,) = blocks_over(WINDOW, BLOCK_PX)
        quicklook.write_block(str(out), year, block, dict.fromkeys(("B04", "B03", "B02"), seen))
    return out


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with served(shown_of(str(run))) as (url, _):
        yield url


def ask(url: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return (
                answer.status,
                answer.read(),
                {name.lower(): value for name, value in answer.headers.items()},
            )
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {}


def tile_of(east_m: float, south_m: float, zoom: int) -> tuple[int, int, int, int]:
    """Column and row of the tile, and of the pixel in it, of a place by its metres from the map's north-west.

    By the formula of https://wiki.openstreetmap.org/wiki/Slippy_map_tilenames, not by the library's.
    """
    west, _, _, north = WINDOW.bounds_m
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(west + east_m, north - south_m)
    x = (lon + 180) / 360 * 2**zoom
    y = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**zoom
    return int(x), int(y), int(x % 1 * 512), int(y % 1 * 512)


def picture(address: str, layer: str, year: int, zoom: int, column: int, row: int) -> NDArray[np.uint8]:
    status, content, _ = ask(f"{address}tiles/{layer}/{year}/{zoom}/{column}/{row}")
    assert status == 200
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def colour(address: str, layer: str, year: int, east_m: float, south_m: float, zoom: int = 14) -> list[int]:
    column, row, x, y = tile_of(east_m, south_m, zoom)
    return [int(value) for value in picture(address, layer, year, zoom, column, row)[y, x]]


def test_a_class_tile_has_the_colours_of_the_map_where_the_formula_has_ice_debris_and_neither(
    address: str,
) -> None:
    expected = {0: [0, 0, 0, 0]}
    for value in (1, 2):
        _, name, opacity = CLASS_STYLE[value]
        expected[value] = [*(round(255 * part) for part in to_rgb(name)), round(255 * opacity)]
    tiles: dict[tuple[int, int], NDArray[np.uint8]] = {}
    told = []
    for east in range(60, 2500, 95):
        for south in range(60, 2500, 95):
            inside = max(
                float(one.inside_m(np.array(float(east)), np.array(float(south)))) for one in TONGUES
            )
            if abs(inside) < 15:
                continue  # a pixel and a half from the edge either way
            debris = abs(east - 800) < 400 and south > 500 + 1300 - 500
            if inside > 0 and abs(south - 1300) < 15:
                continue
            column, row, x, y = tile_of(east, south, 14)
            if (column, row) not in tiles:
                tiles[column, row] = picture(address, "classes", 2016, 14, column, row)
            value = 0 if inside < 0 else 2 if debris else 1
            assert tiles[column, row][y, x].tolist() == expected[value], (east, south)
            told.append(value)
    assert {0, 1, 2} == set(told)


def test_a_tile_from_afar_shows_the_same_ice_from_a_coarser_level(address: str) -> None:
    assert colour(address, "classes", 2016, 800, 1000, zoom=11)[3] > 0
    assert colour(address, "classes", 2016, 1400, 1000, zoom=11)[3] == 0


def test_the_years_differ_where_the_tongue_has_withdrawn(address: str) -> None:
    assert colour(address, "classes", 2016, 800, 1900)[3] > 0
    assert colour(address, "classes", 2020, 800, 1900)[3] == 0


def test_confidence_has_the_colour_of_its_value_on_the_scale_that_the_page_shows(address: str) -> None:
    _, content, _ = ask(f"{address}api/shown")
    ends = json.loads(content)["confidence"]["colours"]
    red, green, blue, opacity = colour(address, "confidence", 2016, 1200, 1200)
    # 200 of 250 is the fourth fifth of the scale, between its seventh and eighth of nine steps
    for value, (low, high) in zip((red, green, blue), zip(ends[6], ends[7], strict=True), strict=True):
        assert min(low, high) - 3 <= value <= max(low, high) + 3
    assert opacity == 255


def test_true_colour_is_dark_where_the_ground_is_dark_and_bright_where_it_is_bright(address: str) -> None:
    dark, bright = (colour(address, "colour", 2016, east, 1200, zoom=13) for east in (500, 2000))
    assert dark[3] == bright[3] == 255
    assert max(dark[:3]) < 80
    assert min(bright[:3]) > 200


def test_where_there_is_no_imagery_the_relief_stands_in(run: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(run, tmp_path / "bare")
    for band in ("B04", "B03", "B02"):
        shutil.rmtree(bare / f"quicklook.zarr/2016/{EPSG}/{band}/c")
    (bare / "inventory/2016.pmtiles").unlink()
    with served(shown_of(str(bare))) as (address, _):
        grey = colour(address, "colour", 2016, 1000, 1000, zoom=13)
        assert grey == colour(address, "relief", 2016, 1000, 1000, zoom=13)
        assert max(grey[:3]) - min(grey[:3]) <= 2
        assert ask(f"{address}outlines/2016/0/0/0")[0] == 404  # its run wrote no vector tiles


@pytest.mark.parametrize(
    "path",
    [
        "tiles/classes/2016/14/0/0",
        "tiles/classes/2016/3/99/0",
        "tiles/classes/2017/10/757/428",
        "tiles/colour/2016/2/2/1",
        "tiles/roads/2016/10/757/428",
        "outlines/2016/14/0/0",
        "outlines/2016/3/99/0",
        "outlines/2016/40/1/1",
        "outlines/2017/0/0/0",
        "api/glaciers/G000000E00000N",
        "library/shiny.js",
        "page/../app.py",
        "page/%2e%2e/app.py",
    ],
)
def test_what_is_not_there_is_not_found(address: str, path: str) -> None:
    assert ask(f"{address}{path}")[0] == 404


def test_a_program_may_ask_whether_something_is_there_without_its_content(address: str) -> None:
    column, row, *_ = tile_of(800, 1000, 12)
    for path in (
        "",
        "api/shown",
        f"tiles/classes/2016/12/{column}/{row}",
        f"outlines/2016/12/{column}/{row}",
    ):
        request = urllib.request.Request(f"{address}{path}", method="HEAD")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert (answer.status, answer.read()) == (200, b"")


def test_no_tile_is_kept_for_the_run_that_is_shown_next(address: str) -> None:
    column, row, *_ = tile_of(800, 1000, 12)
    for path in (f"tiles/classes/2016/12/{column}/{row}", f"outlines/2016/12/{column}/{row}", "api/shown"):
        status, _, headers = ask(f"{address}{path}")
        assert (status, headers["cache-control"]) == (200, "no-cache")


def test_the_outlines_lie_where_the_ice_is_and_carry_their_areas(address: str, run: Path) -> None:
    column, row, *_ = tile_of(800, 1000, 12)
    status, content, headers = ask(f"{address}outlines/2016/12/{column}/{row}")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    layers = mapbox_vector_tile.decode(gzip.decompress(content))
    found = {one["properties"]["area_km2"] for one in layers["glaciers"]["features"]}
    assert any(area == pytest.approx(TONGUES[0].area_km2, rel=0.03) for area in found)


def test_areas_of_a_glacier_over_the_years_are_those_of_the_formula(address: str) -> None:
    _, content, _ = ask(f"{address}api/areas/2020?since=2016")
    table = json.loads(content)
    assert len(table["id"]) == len(SHORTER)
    index = int(np.argmax(table["area_km2"]))
    before, after = TONGUES[0].area_km2, SHORTER[0].area_km2
    assert table["change"][index] == pytest.approx(after / before - 1, abs=0.01)
    _, content, _ = ask(f"{address}api/glaciers/{table['glac_id'][index]}?year=2020")
    glacier = json.loads(content)
    assert glacier == json.loads(ask(f"{address}api/glaciers/{table['id'][index]}")[1])
    areas = {one["year"]: one["area_km2"] for one in glacier["years"]}
    assert areas == {2016: pytest.approx(before, rel=0.03), 2020: pytest.approx(after, rel=0.03)}
    assert glacier["years"][0]["attributes"]["src_date"] == "2016-10-01"
    assert all(one["area_low_km2"] < one["area_km2"] < one["area_high_km2"] for one in glacier["years"])


def test_a_glacier_that_split_or_merged_in_between_has_no_change_and_one_that_stayed_has(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "inventory"
    folder.mkdir()
    mapped = {2016: {"A": 4.0, "B": 2.0}, 2018: {"A": 3.0, "B2": 1.9, "C": 0.5}, 2020: {"A": 2.9, "B3": 1.8}}
    for year, areas in mapped.items():
        table = pd.DataFrame({"glac_id": list(areas), "area_km2": list(areas.values())})
        table.to_parquet(folder / f"{year}.parquet")
    ids = "2016,A,A\n2016,B,B\n2018,A,A\n2018,B2,B\n2018,C,C\n2020,A,A\n2020,B3,B\n"
    (folder / "glacier_ids.csv").write_text("year,glac_id,glacier_id\n" + ids)
    header = "cluster_id,kind,older_ids,newer_ids\n"
    (folder / "2016-2018-changes.csv").write_text(header + "1,split,A,A C\n2,same,B,B2\n")
    (folder / "2018-2020-changes.csv").write_text(header + "1,same,A,A\n2,same,B2,B3\n3,vanished,C,\n")
    outlines = Outlines(Shown("made", dict.fromkeys(mapped, str(tmp_path)), ""))
    assert outlines.areas(2020, 2016) == {
        "glac_id": ["A", "B3"],
        "id": ["A", "B"],
        "area_km2": [2.9, 1.8],
        "change": [None, -0.1],
    }
    assert outlines.areas(2020, 2018)["change"] == [pytest.approx(-0.0333), pytest.approx(-0.0526)]
    assert outlines.areas(2016, 2020)["change"] == [None, pytest.approx(0.1111)]
    found = outlines.glacier("B2", 2018)
    assert found is not None
    assert [(one["year"], one["kind"]) for one in found["years"]] == [
        (2016, None),
        (2018, "same"),
        (2020, "same"),
    ]


def test_outlines_of_a_run_on_an_object_store_are_those_of_the_same_run_on_disk(run: Path) -> None:
    remote = fsspec.filesystem("memory")
    for name in ("2016.parquet", "2020.parquet", "2016.pmtiles", "glacier_ids.csv", "2016-2020-changes.csv"):
        remote.pipe_file(f"/view-run/inventory/{name}", (run / "inventory" / name).read_bytes())
    here, there = (
        Outlines(Shown("made", dict.fromkeys((2016, 2020), out), ""))
        for out in (str(run), "memory://view-run")
    )
    place = tile_of(800, 1000, 12)[:2]
    assert there.tile(2016, (12, *place)) == here.tile(2016, (12, *place))
    assert not there.has_tiles(2020)
    assert there.areas(2020, 2016) == here.areas(2020, 2016)


def test_a_change_since_the_same_year_is_none_and_since_no_year_unknown(address: str) -> None:
    assert json.loads(ask(f"{address}api/areas/2020?since=2020")[1])["change"] == [0.0, 0.0]
    assert json.loads(ask(f"{address}api/areas/2020?since=1999")[1])["change"] == [None, None]


def test_the_page_and_what_it_loads_come_from_here_alone(address: str) -> None:
    _, page, headers = ask(address)
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    found = re.findall(r'(?:href|src)="([^"]+)"', page.decode())
    assert len(found) >= 5
    for name in found:
        assert "//" not in name
        assert name.startswith("data:") or ask(f"{address}{name}")[0] == 200, name
    for path in served_app.PAGE.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"'`]+", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_another_site_cannot_reach_it_through_a_name_of_its_own(address: str) -> None:
    request = urllib.request.Request(f"{address}api/shown", headers={"Host": "evil.example.org"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=30)


def test_it_listens_on_loopback_only(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


def view(*arguments: Any) -> None:
    cli_view.view(*arguments)


def test_no_run_an_unfinished_one_a_port_in_use_and_no_library_are_one_line_each(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match="holds no run"):
        view(str(tmp_path), 0, False)
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "ledger/finished.json").unlink()
    with pytest.raises(SourceError, match="not finished"):
        view(str(unfinished), 0, False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}, which is in use"):
            view(str(run), port, False)
    monkeypatch.setattr(cli_view, "_LIBRARIES", ("fastapi", "a_library_that_is_not_there"))
    with pytest.raises(ExtraError, match=r"a_library_that_is_not_there.*pip install 'cryoscale\[view\]'"):
        view(str(run), 0, False)


def test_a_run_that_is_drawn_again_or_goes_while_it_is_shown_is_told_and_no_mixture_of_both(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(run, tmp_path / "out")
    column, row, *_ = tile_of(800, 1000, 12)
    paths = "api/areas/2016", f"tiles/classes/2016/12/{column}/{row}", f"outlines/2016/12/{column}/{row}"
    monkeypatch.setattr(served_app.Tiles, "warm", lambda _: None)
    monkeypatch.setattr(served_app, "_LOOK_EVERY_S", 3600.0)
    with served(shown_of(str(out))) as (url, _):
        shutil.rmtree(out)  # what is asked next fails
        status, content, _ = ask(f"{url}api/areas/2016")
        assert (status, "start it again" in json.loads(content)["detail"]) == (410, True)
        assert ask(url)[0] == 200
    monkeypatch.setattr(served_app, "_LOOK_EVERY_S", 0.0)
    shutil.copytree(run, out)
    with served(shown_of(str(out))) as (url, _):
        assert [ask(f"{url}{path}")[0] for path in paths] == [200, 200, 200]
        seal = out / "ledger/finished.json"
        seal.write_text(seal.read_text() + " ")
        assert [ask(f"{url}{path}")[0] for path in paths] == [410, 410, 410]
    assert "Traceback" not in capfd.readouterr().err


def test_a_finished_run_without_a_map_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(run, tmp_path / "out")
    shutil.rmtree(out / "mosaic.zarr/2020")
    with pytest.raises(SourceError, match="without its map of 2020"):
        shown_of(str(out))


def test_maps_on_both_sides_of_180_degrees_are_one_place() -> None:
    class Both(Shown):
        zones = {2016: (32660, 32601)}  # noqa: RUF012

    from cryoscale.view import shown

    boxes = iter([(178.5, 66.0, 179.9, 66.5), (-180.0, 66.0, -178.9, 66.5)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "_mapped_deg", lambda *_: next(boxes))
        west, _, east, _ = Both("made", {2016: "nowhere"}, "").bounds_deg
    assert (west, east) == pytest.approx((178.5, 181.1))


def test_in_a_browser_a_click_on_ice_tells_its_areas_and_the_address_leads_back(
    address: str, tmp_path: Path
) -> None:
    program = find()
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    with browser(program, tmp_path / "profile") as page:
        page.open(f"{address}#show=2016.classes&lines=glaciers")
        page.wait("document.documentElement?.dataset.drawn")
        before = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        x, y = page.run(f"(() => {{ const p = map.project({_lonlat(1900, 1000)}); return [p.x, p.y] }})()")
        red, green, blue = before.getpixel((round(x), round(y)))
        assert blue > green > red  # clean ice over imagery, and no other class

        page.click(x, y)
        told = page.wait(
            "!document.getElementById('glacier').hidden && document.getElementById('glacier').innerText"
        )
        area_km2 = float(re.search(r"([\d.]+) km²", told)[1])
        assert area_km2 == pytest.approx(TONGUES[1].area_km2, rel=0.03)
        assert page.run("document.querySelectorAll('#glacier svg circle').length") == 2
        hashed = page.run("location.hash")
        assert "glacier=" in hashed

        page.open(f"{address}{hashed.replace('2016.classes', '2020.relief')}&with=2016.colour&min=0.5")
        again = page.wait(
            "!document.getElementById('glacier').hidden && document.getElementById('glacier').innerText"
        )
        assert "in 2020" in again
        assert (
            page.wait("/\\d+ of \\d+ glaciers/.exec(document.getElementById('count').innerText)?.[0]")
            == "1 of 2 glaciers"
        )
        press = "new KeyboardEvent('keydown', {key: 'ArrowRight'})"
        page.run(f"document.getElementById('divider').dispatchEvent({press})")
        assert "at=0.520" in page.run("location.hash")
        asked = {url for url in page.requested() if not url.startswith(("blob:", "data:", "about:"))}
        assert all(url.startswith(address) for url in asked), asked
        assert not page.troubles()


def _lonlat(east_m: float, south_m: float) -> list[float]:
    west, _, _, north = WINDOW.bounds_m
    return list(Transformer.from_crs(EPSG, 4326, always_xy=True).transform(west + east_m, north - south_m))
