"""The header of a remote file: asked for once a process, kept within bounds, and never of another file."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from pystac import Asset, Item

from cryoscale.errors import AssetReadError
from cryoscale.grid import Window
from cryoscale.read import headers, http, remote, signing
from cryoscale.read.headers import Header, Headers, Version
from cryoscale.read.inputs import read_inputs
from tests.integration.misbehave import Server, misbehaving
from tests.integration.test_read_inputs import EPSG, WIDER, WINDOW, cells, item, optical

HEADER = 2048
"""Bytes, so that the pixels of small files are beyond it."""


@pytest.fixture(autouse=True)
def small_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASSETS", http.Patience(3, 0.02, 0.1, 20.0, 2.0, 5.0))
    monkeypatch.setattr(remote, "HEADER_BYTES", HEADER)
    monkeypatch.setattr(remote, "GAP_BYTES", 512)
    monkeypatch.setattr(headers, "KEPT", Headers())


def header_requests(host: Server) -> Counter[str]:
    """Requests of each file that begin with its first byte."""
    return Counter(one.path for one in host.asked if one.span.startswith("bytes=0-"))


# --- once a process -------------------------------------------------------------------------------------


def make_scenes(made: Path, seed: int) -> Path:
    """Three scenes of thirteen files whose noise does not compress."""
    rng = np.random.default_rng(seed)
    for day in (3, 8, 13):
        optical(made, f"s{day}", f"2018-10-{day:02d}", rng.uniform(0.02, 0.7, cells(WIDER, 60)))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), 5)


def scenes(folder: Path, url: str) -> list[Item]:
    made = []
    for day in (3, 8, 13):
        scene = item(f"s{day}", f"2018-10-{day:02d}", WIDER, "sentinel-2-l2a", **{"eo:cloud_cover": 10.0})
        for path in (folder / f"s{day}").glob("*.tif"):
            where = f"{url}/files/0/s{day}/{path.name}" if url else str(path)
            scene.add_asset(path.stem, Asset(where))
        made.append(scene)
    return made


BLOCKS = [Window(EPSG, WINDOW.row + row, WINDOW.col + col, 60, 65) for row in (0, 60) for col in (0, 65)]


@pytest.mark.parametrize("loader", ["direct", "odc-stac", "stackstac"])
def test_blocks_and_bands_of_one_worker_ask_for_the_header_of_each_file_once(
    folder: Path, loader: Any
) -> None:
    with misbehaving(folder) as host:
        items = {"optical": scenes(folder, host.url)}
        one_by_one = [read_inputs(items, block, loader=loader)[0] for block in BLOCKS]
    asked = header_requests(host)
    assert len(asked) == 3 * 13
    assert set(asked.values()) == {1}
    pixels = Counter(one.path for one in host.asked if not one.span.startswith("bytes=0-"))
    fine = [path for path in asked if path[-7:-4] in ("B02", "B03", "B04", "B08")]
    assert min(pixels[path] for path in fine) >= len(BLOCKS)
    for block, found in zip(BLOCKS, one_by_one, strict=True):
        xr.testing.assert_identical(found, read_inputs({"optical": scenes(folder, "")}, block)[0])


def test_blocks_that_are_read_at_the_same_time_share_headers_too(folder: Path) -> None:
    with misbehaving(folder) as host:
        items = {"optical": scenes(folder, host.url)}
        with ThreadPoolExecutor(len(BLOCKS)) as pool:
            list(pool.map(lambda block: read_inputs(items, block), BLOCKS))
    assert set(header_requests(host).values()) == {1}


def test_a_new_signature_costs_no_new_header(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter(range(10_000))
    monkeypatch.setitem(signing.SIGNERS, "each time", lambda href, fresh: f"{href}?sig={next(given)}")
    with misbehaving(folder) as host:
        items = {"optical": scenes(folder, host.url)}
        for block in BLOCKS:
            read_inputs(items, block, sign="each time")
    assert len({one.query for one in host.asked}) > len(host.asked) // 4
    assert set(header_requests(host).values()) == {1}


def test_directories_far_behind_the_header_are_asked_for_once_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    window = WIDER.pad(200)
    tile = item("tile", "2018-10-01", window, "dem")
    values = rng.integers(1, 9000, window.shape).astype(np.float32)
    # not cloud-optimised: its 1,700 tiles come in two tables at the end of the file
    west, _, _, north = window.bounds_m
    profile = {"driver": "GTiff", "height": window.height, "width": window.width, "count": 1}
    tiling = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    with rasterio.open(
        tmp_path / "dem.tif",
        "w",
        **profile,
        **tiling,
        dtype="float32",
        crs=f"EPSG:{EPSG}",
        transform=Affine(10, 0, west, 0, -10, north),
    ) as file:
        for row in range(0, window.height, 16):  # row by row, so that the tables are written last
            file.write(
                values[row : row + 16], 1, window=((row, min(row + 16, window.height)), (0, window.width))
            )
    with misbehaving(tmp_path) as host:
        tile.add_asset("data", Asset(f"{host.url}/files/0/dem.tif"))
        asked = []
        for _ in range(2):
            before = len(host.asked)
            data, _ = read_inputs({"terrain": [tile]}, BLOCKS[0])
            asked.append([one.span for one in host.asked[before:]])
    rows, columns = BLOCKS[0].slices_in(window)
    np.testing.assert_array_equal(data["elevation"].values, values[rows, columns])
    directories = set(asked[0]) - set(asked[1])
    assert len(directories) >= 2
    assert set(asked[1]) < set(asked[0])
    assert len(asked[1]) == len(set(asked[1]))


# --- the store of headers -------------------------------------------------------------------------------


def header(size: int, tag: str = "") -> Any:
    return Header(bytes(size), Version(size, (tag, "")))


def test_headers_are_kept_up_to_a_number_of_bytes_and_the_longest_unused_go_first() -> None:
    kept, read = Headers(most_bytes=300), []

    def get(name: str) -> None:
        def fetch() -> Any:
            read.append(name)
            return header(100)

        assert len(kept.get(name, fetch).data) == 100

    for name in "abcabcada":
        get(name)
    assert read == ["a", "b", "c", "d"]
    get("b")
    assert read == ["a", "b", "c", "d", "b"]
    kept.drop("a")
    get("a")
    assert read[-1] == "a"


def test_threads_that_want_one_header_wait_for_one_request_and_share_its_failure() -> None:
    kept, calls, asked = Headers(), [], threading.Barrier(4)
    release = threading.Event()

    def fetch() -> Any:
        calls.append(1)
        assert release.wait(20)
        raise http.HttpError("HTTP 503; given up", 503)

    def get(_: int) -> str:
        asked.wait(20)
        with pytest.raises(http.HttpError) as caught:
            kept.get("one", fetch)
        return f"{caught.value} {caught.value.status}"

    with ThreadPoolExecutor(4) as pool:
        told = [pool.submit(get, number) for number in range(4)]
        # all four are past the barrier; those that did not begin the request have joined it by now, or
        # begin one of their own below, which the count tells
        threading.Timer(0.3, release.set).start()
        assert {one.result(30) for one in told} == {"HTTP 503; given up 503"}
    assert len(calls) == 1
    assert kept.get("one", lambda: header(10)).data == bytes(10)


# --- files that change at the provider ------------------------------------------------------------------


def raw_tile(path: Path, seed: int) -> np.ndarray:
    """An uncompressed elevation tile: always as many bytes."""
    window = WIDER.pad(40)
    west, _, _, north = window.bounds_m
    values = np.random.default_rng(seed).random(window.shape, np.float32)
    transform = Affine(10, 0, west, 0, -10, north)
    profile = {"driver": "GTiff", "height": window.height, "width": window.width, "count": 1}
    with rasterio.open(
        path, "w", **profile, dtype="float32", crs=f"EPSG:{EPSG}", transform=transform, tiled=True
    ) as file:
        file.write(values, 1)
    return values


def elevation(url: str) -> np.ndarray:
    tile = item("tile", "2018-10-01", WIDER.pad(40), "dem")
    tile.add_asset("data", Asset(f"{url}/files/0/dem.tif"))
    data, _ = read_inputs({"terrain": [tile]}, WINDOW)
    return np.asarray(data["elevation"].values)


def etag(data: bytes, number: int) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}


def modified(data: bytes, number: int) -> dict[str, str]:
    return {"Last-Modified": f"Mon, 01 Oct 2018 10:00:{hashlib.sha256(data).digest()[0] % 60:02d} GMT"}


@pytest.mark.parametrize("marks", [etag, modified])
def test_a_file_replaced_by_one_of_the_same_size_is_noticed_and_read_anew(tmp_path: Path, marks: Any) -> None:
    rows, columns = WINDOW.slices_in(WIDER.pad(40))
    before = raw_tile(tmp_path / "dem.tif", 1)
    size = (tmp_path / "dem.tif").stat().st_size
    with misbehaving(tmp_path, marks=marks) as host:
        np.testing.assert_array_equal(elevation(host.url), before[rows, columns])
        after = raw_tile(tmp_path / "dem.tif", 2)
        assert (tmp_path / "dem.tif").stat().st_size == size
        with pytest.raises(AssetReadError, match="replaced while it was read"):
            elevation(host.url)
        np.testing.assert_array_equal(elevation(host.url), after[rows, columns])
    assert set(header_requests(host).values()) == {2}


def test_hosts_behind_one_name_that_disagree_on_etags_are_no_replacement(tmp_path: Path) -> None:
    rows, columns = WINDOW.slices_in(WIDER.pad(40))
    values = raw_tile(tmp_path / "dem.tif", 1)

    def marks(data: bytes, number: int) -> dict[str, str]:
        return {"ETag": f'"{number % 3}"', **modified(data, 0)}

    with misbehaving(tmp_path, marks=marks) as host:
        for _ in range(3):
            np.testing.assert_array_equal(elevation(host.url), values[rows, columns])
    assert set(header_requests(host).values()) == {1}
