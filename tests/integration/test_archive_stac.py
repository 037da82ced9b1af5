"""An archive as STAC: read by pystac, served by a plain web server, searched through a STAC API."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pystac
import pytest
from pystac.validation import validate_dict
from pystac_client import Client

from cryoscale.archive.adding import add, withdraw
from cryoscale.archive.described import FILE, MLM, PROJECTION, RASTER, TABLE, VERSION
from cryoscale.archive.index import Archive
from cryoscale.archive.source import item_address
from cryoscale.simulate.server import serve
from tests.made_runs import API, Tongue, Year, make_run
from tests.stac_rules import validator

pytestmark = pytest.mark.filterwarnings("ignore:The item .* is deprecated")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of 2018, a withdrawn 2019 and 2024."""
    home = tmp_path_factory.mktemp("stac")
    for name, year, length_m in (("a", 2018, 900), ("b", 2018, 880), ("c", 2019, 850), ("d", 2024, 800)):
        told = Year((Tongue(1200, 600, length_m, 400),), date(year, 10, 4))
        run = make_run(home / name, {year: told}, size_px=256)
        add(str(home / "archive"), str(run), region="made", new_version=True)
    withdraw(str(home / "archive"), "made", 2019)
    return home / "archive"


def documents(archive: Path) -> list[pystac.STACObject]:
    catalog = pystac.Catalog.from_file(archive / "catalog.json")
    return [catalog, *catalog.get_children(), *catalog.get_items(recursive=True)]


def test_every_document_is_valid_with_its_extensions(archive: Path) -> None:
    rules, used = validator(), set()
    found = documents(archive)
    assert len(found) == 1 + 1 + 4 * 3
    for one in found:
        plain = json.loads(Path(str(one.get_self_href())).read_text("utf-8"))
        validate_dict(plain, validator=rules)
        used |= set(plain.get("stac_extensions", []))
    assert used == {PROJECTION, RASTER, TABLE, FILE, VERSION, MLM}


def test_the_rules_find_what_is_wrong(archive: Path) -> None:
    path = max(archive.glob("stac/*/made/made-2024-v1-32645.json"))
    plain = json.loads(path.read_text("utf-8"))
    plain["assets"]["mosaic"]["raster:bands"][0]["data_type"] = "byte"
    with pytest.raises(pystac.STACValidationError, match="raster"):
        validate_dict(plain, validator=validator())


def test_links_and_assets_lead_to_what_they_say(archive: Path) -> None:
    for one in documents(archive):
        for link in one.links:
            if (link.rel == "derived_from" or link.is_hierarchical()) and API not in str(link.href):
                assert Path(str(link.get_absolute_href())).exists(), link
        for asset in one.assets.values() if isinstance(one, pystac.Item) else ():
            path = Path(str(asset.get_absolute_href()))
            assert path.exists(), asset
            if path.is_file() and "file:checksum" in asset.extra_fields:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert asset.extra_fields["file:checksum"] == f"1220{digest}"
                assert asset.extra_fields.get("file:size", path.stat().st_size) == path.stat().st_size
        assert str(archive) not in Path(str(one.get_self_href())).read_text("utf-8")


def test_maps_and_tables_are_derived_from_their_scenes_and_the_model(archive: Path) -> None:
    items = {item.id: item for item in documents(archive) if isinstance(item, pystac.Item)}
    for name in ("made-2024-v1", "made-2024-v1-32645"):
        derived = {link.title: str(link.get_href()) for link in items[name].get_links("derived_from")}
        scene = next(title for title in derived if str(title).startswith("scene-"))
        assert derived[scene] == f"{API}/collections/optical/items/{scene}"
        assert derived["Model"].endswith("made-2024-v1-model.json")


@pytest.mark.parametrize(
    "catalogue",
    ["http://127.0.0.1:8080", "http://localhost/stac", "/data/stac", "https://example.org/items.parquet"],
)
def test_a_scene_of_no_public_api_stands_in_the_frozen_catalogue(catalogue: str) -> None:
    assert item_address(catalogue, "optical", "S2A") is None


def test_versions_know_each_other(archive: Path) -> None:
    items = {item.id: item for item in documents(archive) if isinstance(item, pystac.Item)}
    old, new, gone = items["made-2018-v1"], items["made-2018-v2"], items["made-2019-v1"]
    assert [one.properties["deprecated"] for one in (old, new, gone)] == [True, False, True]
    assert gone.properties["cryoscale:state"] == "withdrawn"
    (link,) = old.get_links("successor-version")
    assert str(link.get_absolute_href()) == new.get_self_href()
    (link,) = new.get_links("predecessor-version")
    assert str(link.get_absolute_href()) == old.get_self_href()
    assert not gone.get_links("successor-version")


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_any_web_server_serves_it(archive: Path) -> None:
    with web_server(archive) as url:
        catalog = pystac.Catalog.from_file(f"{url}/catalog.json")
        items = {item.id: item for item in catalog.get_items(recursive=True)}
        asset = items["made-2024-v1"].assets["glaciers"]
        with urlopen(str(asset.get_absolute_href())) as answer:
            content = answer.read()
        assert asset.extra_fields["file:checksum"] == f"1220{hashlib.sha256(content).hexdigest()}"
        assert len(Archive(url).read().entries) == 4  # an archive is read over HTTP too


def test_pystac_client_finds_a_year_through_the_embedded_api(archive: Path) -> None:
    with serve(archive) as url:
        client = Client.open(url)
        asked = client.search(
            collections=["made"], datetime="2024-01-01/2024-12-31", query={"deprecated": {"eq": False}}
        )
        assert {item.id for item in asked.items()} == {
            "made-2024-v1",
            "made-2024-v1-32645",
            "made-2024-v1-model",
        }
        (item,) = client.search(ids=["made-2018-v2"]).items()
        assert item.assets["glaciers"].href.endswith("glaciers.parquet")
