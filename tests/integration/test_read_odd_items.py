"""Catalogues that answer, but oddly: paging without an end, items without a place, boxes with heights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from pystac import Item
from rasterio.transform import from_origin

from cryoscale.errors import CatalogUnavailableError
from cryoscale.grid import transformer, window_over_bounds
from cryoscale.plan import of_unknown_baseline, unmasked
from cryoscale.read import catalog, http
from cryoscale.read.band import footprint_deg
from cryoscale.read.catalog import CatalogAnswer, freeze, search, thaw
from cryoscale.read.cube import Loader, open_cube
from cryoscale.read.raster import UnreadableError, open_raster
from cryoscale.read.session import touches
from tests.integration.misbehave import misbehaving

BBOX = (83.9, 27.9, 84.2, 28.2)
RING = [[84.0, 28.0], [84.1, 28.0], [84.1, 28.1], [84.0, 28.1], [84.0, 28.0]]

Page = tuple[list[Any], dict[str, Any] | None]


def scene(name: str = "a", **changes: Any) -> dict[str, Any]:
    """An item as an API lists it; ``changes`` replace members, None of ``bbox`` takes it away."""
    document: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [RING]},
        "bbox": [84.0, 28.0, 84.1, 28.1],
        "properties": {"datetime": "2018-10-05T04:00:00Z"},
        "links": [],
        "assets": {"B02": {"href": "scenes/B02.tif"}},
    } | changes
    return {name: value for name, value in document.items() if name != "bbox" or value is not None}


@contextlib.contextmanager
def api(page: Callable[[str, int], Page]) -> Iterator[tuple[str, list[str]]]:
    """A STAC API whose n-th page, counted from 1, is ``page(url, n)``; its url, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            host = f"http://{self.headers['Host']}"
            document: dict[str, Any] = {
                "type": "Catalog",
                "id": "odd",
                "stac_version": "1.0.0",
                "description": "odd",
                "conformsTo": [
                    "https://api.stacspec.org/v1.0.0/core",
                    "https://api.stacspec.org/v1.0.0/item-search",
                ],
                "links": [
                    {"rel": "root", "href": host},
                    {"rel": "search", "href": f"{host}/search", "type": "application/geo+json"},
                ],
            }
            if urlsplit(self.path).path == "/search":
                asked.append(self.path)
                features, step = page(host, len(asked))
                document = {
                    "type": "FeatureCollection",
                    "features": features,
                    "links": [step] if step else [],
                }
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def found(page: Callable[[str, int], Page], **more: Any) -> list[str]:
    """Ids that a search of such an API gives."""
    with api(page) as (url, _):
        items = search([{"url": url}], collection="sentinel-2-l2a", bbox=BBOX, datetime="2018-10", **more)
    return [item.id for item in items]


def onward(url: str, token: object) -> dict[str, Any]:
    return {"rel": "next", "href": f"{url}/search?token={token}"}


@pytest.mark.parametrize("turn", [1, 2, 10_000], ids=["the same link", "two links", "ever new links"])
def test_pages_that_lead_back_for_ever_fail_the_catalogue_and_the_next_stands_in(turn: int) -> None:
    def back(url: str, number: int) -> Page:
        assert number < 50, "endless"
        return [scene()], onward(url, number % turn)

    told: list[CatalogAnswer] = []
    with api(back) as (url, asked), api(lambda url, number: ([scene("b")], None)) as (other, _):
        items = search(
            [{"url": url}, {"url": other}], collection="sentinel-2-l2a", bbox=BBOX, on_answer=told.append
        )
    assert [item.id for item in items] == ["b"]
    assert [answer.outcome for answer in told] == ["failed", "taken"]
    assert "its pages do not end" in told[0].reason
    assert len(asked) <= 12


def test_items_behind_an_empty_page_are_found() -> None:
    def gap(url: str, number: int) -> Page:
        return ([] if number in (1, 3) else [scene(str(number))]), onward(url, number) if number < 4 else None

    assert found(gap) == ["2", "4"]


def test_numbered_pages_that_go_on_behind_the_last_item_come_to_an_end() -> None:
    assert found(lambda url, number: ([scene()] if number == 1 else [], onward(url, number))) == ["a"]


def test_pages_that_repeat_what_was_there_before_do_not_end_a_search() -> None:
    def shifted(url: str, number: int) -> Page:
        return [scene("a"), scene("b" if number < 4 else "c")], onward(url, number) if number < 4 else None

    assert found(shifted) == ["a", "b", "c"]


def test_a_next_page_may_be_named_relative_to_the_last() -> None:
    def near(url: str, number: int) -> Page:
        return [scene(str(number))], {"rel": "next", "href": "/search?token=2"} if number == 1 else None

    assert found(near) == ["1", "2"]


@pytest.mark.parametrize(
    "geometry",
    [None, {"type": "Polygon", "coordinates": [RING[:2]]}, {"type": "Blob", "coordinates": []}, {}],
    ids=["none", "two corners", "unknown", "empty"],
)
def test_an_item_without_a_usable_outline_lies_where_its_bbox_says(geometry: Any) -> None:
    far = scene("far", geometry=geometry, bbox=[10.0, 10.0, 11.0, 11.0])
    near = scene("near", geometry=geometry)
    assert found(lambda url, number: ([far, near], None)) == ["near"]


@pytest.mark.parametrize(
    ("bbox", "kept"),
    [
        ([84.0, 28.0, 84.1, 28.1], [84.0, 28.0, 84.1, 28.1]),
        ([84.01, 28.01, 84.09, 28.09], [84.01, 28.01, 84.09, 28.09]),  # rounded inwards, as many are
        ([-276.0, 28.0, -275.9, 28.1], [-276.0, 28.0, -275.9, 28.1]),  # another turn of the globe
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 84.1, 28.1]),
        ([84.0, 28.0, 0.0, 84.05, 28.1, 8000.0], [84.0, 28.0, 0.0, 84.05, 28.1, 8000.0]),
        (["84.0", "28.0", "84.1", "28.1"], [84.0, 28.0, 84.1, 28.1]),
        ([None] * 4, [84.0, 28.0, 84.1, 28.1]),
        ([84.0, 28.0], [84.0, 28.0, 84.1, 28.1]),
    ],
)
def test_a_bbox_that_does_not_hold_the_outline_is_widened_so_that_what_is_found_is_read(
    bbox: list[Any], kept: list[float]
) -> None:
    with api(lambda url, number: ([scene(bbox=bbox)], None)) as (url, _):
        (item,) = search([{"url": url}], collection="sentinel-2-l2a", bbox=BBOX)
    assert item.bbox == pytest.approx(kept)
    assert touches(footprint_deg(item), (84.02, 28.02, 84.03, 28.03))


def test_a_bbox_over_the_antimeridian_is_not_widened_by_an_outline_that_runs_the_wrong_way() -> None:
    wrong = {"type": "Polygon", "coordinates": [[[-179, 28], [179, 28], [179, 29], [-179, 29], [-179, 28]]]}
    with api(lambda url, number: ([scene(bbox=[179, 28, 181, 29], geometry=wrong)], None)) as (url, _):
        (item,) = search([{"url": url}], collection="sentinel-2-l2a", bbox=BBOX)
    assert item.bbox == [179, 28, 181, 29]


def test_an_item_that_is_not_stac_is_named() -> None:
    broken = scene("broken-one", properties={"datetime": None})
    with pytest.raises(CatalogUnavailableError, match="item broken-one: "):
        found(lambda url, number: ([scene(), broken], None))


def test_a_cloud_cover_that_is_no_number_counts_as_not_given() -> None:
    vague = scene("vague", properties={"datetime": "2018-10-05T04:00:00Z", "eo:cloud_cover": "n/a"})
    assert found(lambda url, number: ([vague], None), max_cloud_pct=20.0) == ["vague"]


def test_a_run_can_keep_items_without_a_box_with_a_box_of_heights_and_with_odd_clouds(tmp_path: Path) -> None:
    odd = {
        "no box": scene("a", bbox=None),
        "heights": scene("b", bbox=[84.0, 28.0, 0.0, 84.1, 28.1, 8000.0]),
        "flat": scene("c", properties={"datetime": "2018-10-05T04:00:00Z", "eo:cloud_cover": 3}),
        "vague": scene("d", properties={"datetime": "2018-10-05T04:00:00Z", "eo:cloud_cover": "n/a"}),
    }
    items = [Item.from_dict(document) for document in odd.values()]
    freeze({"2018/optical": items}, tmp_path / "items.parquet")
    kept = thaw(tmp_path / "items.parquet")["2018/optical"]
    before, after = (
        [item.to_dict(include_self_link=False, transform_hrefs=False) for item in some]
        for some in (items, kept)
    )
    assert after == before
    import geopandas

    bounds = geopandas.read_parquet(tmp_path / "items.parquet").total_bounds
    assert bounds == pytest.approx([84.0, 28.0, 84.1, 28.1])


def test_relative_addresses_in_a_stac_geoparquet_of_others_lie_beside_it(tmp_path: Path) -> None:
    import rustac

    async def write() -> None:
        await rustac.write(str(tmp_path / "theirs.parquet"), [scene()])

    asyncio.run(write())
    items = search([{"url": str(tmp_path / "theirs.parquet")}], collection="sentinel-2-l2a", bbox=BBOX)
    assert [item.assets["B02"].href for item in items] == [str(tmp_path / "scenes" / "B02.tif")]


@pytest.mark.parametrize("loader", ["odc-stac", "stackstac"])
@pytest.mark.parametrize("bbox", [None, [-180.0, -0.01, 180.0, 0.01]], ids=["none", "round the globe"])
def test_an_item_that_does_not_say_where_it_lies_is_read_where_its_file_lies(
    tmp_path: Path, bbox: list[float] | None, loader: Loader
) -> None:
    x, y = (round(v, -1) for v in transformer("EPSG:4326", "EPSG:32637").transform(37.0, 0.0))
    values = np.random.default_rng(1).integers(1, 9000, (64, 64)).astype(np.uint16)
    path = tmp_path / "B02.tif"
    profile = {"width": 64, "height": 64, "count": 1, "dtype": "uint16", "crs": "EPSG:32637", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", transform=from_origin(x, y, 10, 10), **profile) as file:
        file.write(values, 1)
    item = Item.from_dict(scene(geometry=None, bbox=bbox, assets={"B02": {"href": str(path)}}))
    window = window_over_bounds(32637, (x, y - 640, x + 640, y))
    cube = open_cube([item], geobox=window.geobox, bands=["B02"], loader=loader)
    np.testing.assert_allclose(cube.B02.values[0], values * 1e-4, rtol=1e-6)


@pytest.mark.parametrize("asked", ["\u00b2", "-5", "soon", ""])
def test_a_retry_after_that_is_no_time_is_passed_over(asked: str) -> None:
    assert http._retry_after_s(asked) is None


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "RETRIES", 0)


@pytest.mark.parametrize("content", [b"not a tif", None], ids=["at the header", "at the pixels"])
def test_what_is_wrong_with_a_file_keeps_its_kind_on_the_way_to_the_scheduler(
    tmp_path: Path, content: bytes | None
) -> None:
    from distributed.core import error_message
    from distributed.protocol.pickle import loads

    path = tmp_path / "B03.tif"
    profile = {"width": 512, "height": 512, "count": 1, "dtype": "uint16", "crs": "EPSG:32637", "tiled": True}
    with rasterio.open(path, "w", driver="GTiff", transform=from_origin(0, 0, 10, 10), **profile) as file:
        file.write(np.ones((512, 512), np.uint16), 1)
    path.write_bytes(content or path.read_bytes()[:5000])
    with pytest.raises(UnreadableError) as caught, open_raster(str(path)) as source:
        source.cut(slice(0, 512), slice(0, 512))
    arrived = loads(error_message(caught.value)["exception"].data)
    assert isinstance(arrived, UnreadableError)
    assert str(arrived) == str(caught.value)


def test_scenes_without_a_mask_are_told_before_a_run_takes_their_clouds_for_ground() -> None:
    masked = Item.from_dict(scene("masked", assets={"SCL": {"href": "SCL.tif"}}))
    bare = [Item.from_dict(scene(f"bare{number}")) for number in range(4)]
    lines = unmasked({"2018/optical": [masked, *bare], "2018/thermal": bare[:1], "all/terrain": bare})
    assert lines == [
        "4 of 5 optical scenes have no SCL, "
        "so that their clouds are not masked: bare0, bare1, bare2 and 1 more",
        "1 of 1 thermal scenes have no QA_PIXEL, so that their clouds are not masked: bare0",
    ]


def test_a_processing_baseline_that_is_not_understood_is_told_before_a_run() -> None:
    odd = {"datetime": "2018-10-05T04:00:00Z", "s2:processing_baseline": "four"}
    items = [Item.from_dict(scene("odd", properties=odd)), Item.from_dict(scene("plain"))]
    assert of_unknown_baseline({"2018/optical": items, "2018/thermal": items}) == [
        "1 of 2 optical scenes give a processing baseline that is not understood (four), "
        "so that their dates decide whether their numbers are raised: odd"
    ]


def test_the_key_in_a_catalogue_s_address_is_never_told() -> None:
    told: list[CatalogAnswer] = []
    with pytest.raises(CatalogUnavailableError) as caught:
        search(
            [{"url": "http://127.0.0.1:9/stac?key=secret"}],
            collection="sentinel-2-l2a",
            bbox=BBOX,
            on_answer=told.append,
        )
    assert "secret" not in f"{caught.value} {told}"
    assert told[0].url == "http://127.0.0.1:9/stac"


def test_one_broken_file_has_one_cause_in_all_blocks_and_its_log_in_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "B02.tif").write_text("<html>please log in</html>")
    with misbehaving(tmp_path) as host:
        href = f"{host.url}/files/x/s/B02.tif".replace("://", "://user:secret@")
        told = set()
        for _ in range(2):
            with pytest.raises(UnreadableError) as caught, open_raster(href):
                pass
            told.add(str(caught.value))
    assert len(told) == 1
    assert "secret" not in told.pop()
