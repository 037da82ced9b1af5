"""The run as STAC, read back by pystac and by a plain JSON reader."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import fsspec
import pystac
import pytest
import shapely
import xarray as xr

from cryoscale.grid import Window
from cryoscale.write.stac import ModelRecord, RunRecord, utc, write_catalog

CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")


def empty_map(epsg: int) -> xr.Dataset:
    y, x = Window(epsg, -310_000, 40_000, 512, 1024).coordinates()
    return xr.Dataset(coords={"y": y, "x": x})


MAPS = {(2018, 32644): empty_map(32644), (2018, 32645): empty_map(32645), (2019, 32645): empty_map(32645)}


def run(href: str | None = "https://example.org/cryonet.safetensors") -> RunRecord:
    return RunRecord(
        name="khumbu",
        description="Glacier classes of a made-up range",
        season={year: (utc(year, 10, 1), utc(year, 10, 31)) for year in (2018, 2019)},
        scenes={2018: [("S2A_1", "https://example.org/S2A_1.json"), ("S2A_2", None)]},
        model=ModelRecord("cryonet", "U-Net++", ("B02", "B03"), CLASSES, 256, href, "CC-BY-4.0", "ab" * 32),
        attributes={"cryoscale:simulated": True},
    )


def test_pystac_finds_an_item_a_year_and_zone_and_the_model(tmp_path: Path) -> None:
    catalog = pystac.Catalog.from_file(write_catalog(tmp_path, MAPS, run()))
    assert sorted(item.id for item in catalog.get_items()) == [
        "khumbu-2018-32644",
        "khumbu-2018-32645",
        "khumbu-2019-32645",
        "khumbu-model",
    ]
    item = catalog.get_item("khumbu-2018-32645")
    assert item is not None
    window = Window(32645, -310_000, 40_000, 512, 1024)
    assert item.properties["proj:code"] == "EPSG:32645"
    assert item.properties["proj:bbox"] == list(window.bounds_m)
    assert item.properties["proj:shape"] == [512, 1024]
    assert item.properties["mlm:name"] == "cryonet"
    assert item.properties["cryoscale:simulated"] is True
    assert shapely.geometry.shape(item.geometry).is_valid
    assert item.geometry["type"] == "Polygon"
    assert item.bbox == pytest.approx(list(shapely.geometry.shape(item.geometry).bounds))


def test_the_core_of_every_document_is_valid_stac(tmp_path: Path) -> None:
    catalog = pystac.Catalog.from_file(write_catalog(tmp_path, MAPS, run()))
    for one in (catalog, *catalog.get_items()):
        plain = one.to_dict()
        plain.pop("stac_extensions", None)  # their schemas lie on the network, the core's in pystac
        pystac.validation.validate_dict(plain)


def test_the_model_carries_what_the_mlm_extension_requires(tmp_path: Path) -> None:
    model = pystac.Catalog.from_file(write_catalog(tmp_path, MAPS, run())).get_item("khumbu-model")
    assert model is not None
    assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(model.properties)
    assert any("/mlm/" in uri for uri in model.stac_extensions)
    assert [asset.roles for asset in model.assets.values()] == [["mlm:model"]]
    (given,), (taken,) = model.properties["mlm:input"], model.properties["mlm:output"]
    assert given["input"]["shape"] == [-1, 2, 256, 256]
    assert [band["name"] for band in model.properties["bands"]] == given["bands"]
    assert [one["name"] for one in taken["result"] and taken["classification:classes"]] == list(CLASSES)


def test_maps_are_derived_from_their_scenes_and_the_model(tmp_path: Path) -> None:
    write_catalog(tmp_path, MAPS, run())
    item = json.loads((tmp_path / "stac" / "khumbu-2018-32644.json").read_text())
    derived = {link["title"]: link["href"] for link in item["links"] if link["rel"] == "derived_from"}
    assert derived == {
        "S2A_1": "https://example.org/S2A_1.json",
        "S2A_2": "../items.parquet",
        "khumbu-model": "./khumbu-model.json",
    }


def test_each_year_has_its_own_picture_and_the_latest_the_run_s(tmp_path: Path) -> None:
    catalog = pystac.Catalog.from_file(write_catalog(tmp_path, MAPS, run()))
    pictures = {item.id: item.assets["map"].href for item in catalog.get_items() if "map" in item.assets}
    assert pictures == {
        "khumbu-2018-32644": "../map-2018.png",
        "khumbu-2018-32645": "../map-2018.png",
        "khumbu-2019-32645": "../map.png",
    }


def test_scenes_that_are_not_named_one_by_one_are_counted(tmp_path: Path) -> None:
    write_catalog(tmp_path, MAPS, replace(run(), further={2018: 49_000}))
    item = json.loads((tmp_path / "stac" / "khumbu-2018-32644.json").read_text())
    derived = {link["title"]: link["href"] for link in item["links"] if link["rel"] == "derived_from"}
    assert derived["49000 further scenes"] == "../items.parquet"
    assert "S2A_1" in derived


@pytest.mark.parametrize("href", [None, "https://example.org/w.safetensors"])
def test_the_folder_can_be_moved_since_nothing_in_it_names_its_place(
    tmp_path: Path, href: str | None
) -> None:
    write_catalog(tmp_path / "here", MAPS, run(href))
    for path in (tmp_path / "here").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
    shutil.move(tmp_path / "here", tmp_path / "there")
    catalog = pystac.Catalog.from_file(tmp_path / "there" / "catalog.json")
    for item in catalog.get_items():
        for asset in item.get_assets().values():
            assert asset.href.startswith(("../", "https://"))
            if asset.href.startswith(".."):
                place = str(asset.get_absolute_href())
                assert place.startswith(str(tmp_path / "there"))
                assert "/stac/" not in place


@pytest.mark.parametrize("name", ["khumbu#2", "khumbu?2", "50 %", "a:b"])
def test_a_folder_may_be_called_what_would_be_no_url(tmp_path: Path, name: str) -> None:
    write_catalog(tmp_path / name, MAPS, run())
    write_catalog(tmp_path / "plain", MAPS, run())
    found = {
        path.relative_to(tmp_path / name): path.read_text() for path in (tmp_path / name).rglob("*.json")
    }
    plain = tmp_path / "plain"
    assert found == {path.relative_to(plain): path.read_text() for path in plain.rglob("*.json")}


def test_a_remote_run_gets_the_same_documents(tmp_path: Path) -> None:
    write_catalog(tmp_path, MAPS, run())
    root = f"memory://{uuid.uuid4().hex}"
    assert write_catalog(root, MAPS, run()) == f"{root}/catalog.json"
    filesystem = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*.json"):
        remote = filesystem.cat_file(f"{root}/{path.relative_to(tmp_path)}")
        assert json.loads(remote) == json.loads(path.read_text())
    filesystem.rm(root, recursive=True)
