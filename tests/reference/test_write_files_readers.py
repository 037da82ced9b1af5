"""The files of a year, each read by a program that others wrote: OGGM, GDAL, rio-cogeo, pmtiles."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

import geopandas as gpd
import jsonschema
import mapbox_vector_tile
import matplotlib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from pmtiles.reader import MmapSource, all_tiles
from rio_cogeo import cog_validate

from cryoscale.grid import Block, Window
from cryoscale.write import files, levels, mosaic
from cryoscale.write.cog import write_cogs
from cryoscale.write.inventory import Inventory
from cryoscale.write.kmz import write_kmz
from cryoscale.write.objects import Objects
from cryoscale.write.product import About
from cryoscale.write.rgi7 import GLACIER_COLUMNS
from cryoscale.write.vector_tiles import write_tiles
from tests.inventories import ATTRIBUTES, YEAR, add, write_inventory

ABOUT = About("Ötztal, by hand", YEAR, "by hand", "0123456789abcdef", "0.1.0", "2026-01-01T00:00:00")
CUT = "RGI2000-v7.0-G-11-03116"
"""Hintereisferner."""
KINDS = ("product", "shapefile", "pmtiles", "kmz")


@pytest.fixture(scope="module")
def made(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a map, with an inventory and the files that come of it."""
    out = tmp_path_factory.mktemp("run")
    rgi = gpd.read_file(shared_data / "hintereis" / "rgi7g_hef_complex.shp")
    beside = shapely.box(10.60, 46.70, 10.605, 46.704)
    write_inventory(out / "inventory", rgi, cut=CUT, beside=beside)
    files.write_files(KINDS, str(out), out, ABOUT)
    return out


def table(made: Path) -> pd.DataFrame:
    return gpd.read_parquet(made / "inventory" / f"{YEAR}.parquet")


def product(made: Path, kind: str, end: str) -> Path:
    (found,) = (made / "inventory" / f"{YEAR}-rgi").glob(f"*-{kind}-*/*-{kind}-*{end}")
    return found


def widths(dbf: Path) -> list[tuple[str, str, int, int]]:
    """Name, type, length and decimals of each column, by the bytes of the header."""
    content = dbf.read_bytes()
    fields = range(32, int.from_bytes(content[8:10], "little") - 1, 32)
    parts = [content[at : at + 32] for at in fields]
    return [(p[:11].split(b"\0")[0].decode(), chr(p[11]), p[16], p[17]) for p in parts]


@pytest.mark.parametrize(
    ("kind", "real"), [("G", "rgi7g_hef_complex"), ("C", "rgi7c_hef"), ("I", "rgi7g_hef_intersects")]
)
def test_a_product_has_the_columns_of_the_rgi_7_to_the_byte(
    made: Path, shared_data: Path, kind: str, real: str
) -> None:
    ours = product(made, kind, ".shp")
    assert widths(ours.with_suffix(".dbf")) == widths(shared_data / "hintereis" / f"{real}.dbf")
    assert ours.with_suffix(".prj").read_text() == (shared_data / "hintereis" / f"{real}.prj").read_text()
    assert set(json.loads(product(made, kind, "-attributes_metadata.json").read_text())) == {
        name for name, *_ in widths(ours.with_suffix(".dbf"))
    }
    beside = pd.read_csv(product(made, kind, "-attributes.csv"), dtype={"o1region": str})
    shapes = gpd.read_file(ours)
    assert beside.columns.tolist() == shapes.columns[:-1].tolist()
    assert beside["rgi_id"].tolist() == shapes["rgi_id"].tolist()
    assert shapes["rgi_id"].is_unique
    assert shapes.crs == "EPSG:4326"


def test_glaciers_keep_the_rgi_s_identifier_and_no_other_is_like_it(made: Path) -> None:
    glaciers, inventory = gpd.read_file(product(made, "G", ".shp")), table(made)
    assert len(glaciers) == len(inventory) == 25
    assert glaciers.geometry.geom_equals(inventory.geometry.reset_index(drop=True)).all()
    own = glaciers["rgi_id"].str.startswith("CRY2018-v1.0-G-11-")
    # the smaller half of Hintereisferner, and the glacier that the RGI does not have
    assert own.sum() == 2
    assert set(glaciers["rgi_id"].str.len()) == {23}
    (larger,) = np.flatnonzero(glaciers["rgi_id"] == CUT)
    of_it = (inventory["rgi_id"] == CUT).fillna(False).to_numpy(bool)
    halves = inventory[of_it]
    assert halves.index.tolist() == [larger, *np.flatnonzero(own & of_it)]
    assert halves["area_km2"].is_monotonic_decreasing
    assert glaciers.loc[larger, "glac_name"] == "Hintereisferner"
    assert (glaciers["o1region"] == "11").all()
    assert not glaciers[["term_type", "surge_type", "primeclass", "anlys_id"]].isna().any(axis=None)
    assert (glaciers["src_date"] == "2018-08-27T00:00:00").all()


def test_what_lies_beside_the_shapefiles_speaks_of_the_same_glaciers(made: Path) -> None:
    ids = gpd.read_file(product(made, "G", ".shp"))["rgi_id"].tolist()
    hypsometry = pd.read_csv(product(made, "G", "-hypsometry.csv"))
    assert hypsometry["rgi_id"].tolist() == ids
    assert (hypsometry.iloc[:, 2:].sum(axis=1) == 1000).all()
    links = pd.read_csv(product(made, "G", "-rgi7_links.csv"))
    assert links.columns[:3].tolist() == ["cry_id", "rgi7_id", "overlap_area_km2"]
    assert set(links["cry_id"]) == set(ids) - {"CRY2018-v1.0-G-11-00002"}  # the RGI does not have it
    assert (links["rgi7_id"] == CUT).sum() >= 2
    members = json.loads(product(made, "C", "-CtoG_links.json").read_text())
    assert sorted(name for group in members.values() for name in group) == sorted(ids)
    assert list(members) == gpd.read_file(product(made, "C", ".shp"))["rgi_id"].tolist()
    borders = gpd.read_file(product(made, "I", ".shp"))
    assert set(borders["rgi_g_id_1"]) | set(borders["rgi_g_id_2"]) <= set(ids)
    assert (borders.geom_type == "LineString").all()
    info = pd.read_csv(product(made, "G", "-submission_info.csv"))
    assert info.loc[0, ["subm_id", "n_outlines"]].tolist() == [0, 25]


GEOPARQUET = {
    "type": "object",
    "required": ["version", "primary_column", "columns"],
    "properties": {"version": {"const": "1.1.0"}, "primary_column": {"const": "geometry"}},
}
COLUMN = {
    "type": "object",
    "required": ["encoding", "geometry_types", "crs", "bbox", "covering"],
    "properties": {
        "encoding": {"const": "WKB"},
        "geometry_types": {"items": {"pattern": "^(Multi)?(LineString|Polygon)$"}, "uniqueItems": True},
        "crs": {"properties": {"id": {"const": {"authority": "EPSG", "code": 4326}}}, "required": ["id"]},
        "bbox": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "covering": {"const": {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}},
    },
}
"""What GeoParquet 1.1 wants, https://geoparquet.org/releases/v1.1.0/."""


@pytest.mark.parametrize("what", ["", "-complexes", "-intersects"])
def test_geoparquet_says_of_itself_what_lies_in_it_and_is_cut_out_by_its_boxes(made: Path, what: str) -> None:
    path = made / "inventory" / f"{YEAR}{what}.parquet"
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = geo["columns"]["geometry"]
    jsonschema.validate(geo, GEOPARQUET)
    jsonschema.validate(column, COLUMN)
    rows = pq.read_table(path)
    shapes = shapely.from_wkb(rows["geometry"].to_numpy())
    assert column["geometry_types"] == ([] if what == "-intersects" else ["Polygon"])  # empty: not known
    assert {shape.geom_type for shape in shapes} <= {"Polygon", "LineString", "MultiLineString"}
    boxes = pd.DataFrame(rows["bbox"].to_pylist())[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    assert np.array_equal(boxes, shapely.bounds(shapes))
    assert column["bbox"][0] <= boxes[:, 0].min()
    assert column["bbox"][3] >= boxes[:, 3].max()
    around = (10.70, 46.78, 10.78, 46.84)
    expected = shapely.intersects(shapely.box(*around), shapely.box(*boxes.T))
    assert len(gpd.read_parquet(path, bbox=around)) == expected.sum()


OGGM = """
import json, socket, sys, urllib.request, zipfile
import pandas as pd, geopandas as gpd

def refuse(*arguments):
    raise OSError("no network")

socket.socket.connect = refuse
# salem fetches borders of the world for its maps when it is imported, which nobody looks at here
urllib.request.urlretrieve = lambda url, file: zipfile.ZipFile(file, "w").close()
from oggm import cfg, workflow
from oggm.utils import GlacierDirectory, _funcs

# what OGGM downloads once: the names of the RGI's regions
_funcs._RGI_METADATA["7"] = pd.Series({11: "Central Europe"}), pd.Series({"11-01": "Alps"})
cfg.initialize_minimal(logging_level="CRITICAL")
cfg.PATHS["working_dir"] = sys.argv[3]
cfg.PARAMS["use_multiprocessing"] = False
cfg.set_intersects_db(sys.argv[2])
glaciers = gpd.read_file(sys.argv[1])
# a few: OGGM takes a third of a second for each, to project its borders line by line
some = glaciers[glaciers.rgi_id.str.startswith("CRY") | (glaciers.glac_name == "Hintereisferner")]
made = workflow.init_glacier_directories(some)
again = [GlacierDirectory(one.rgi_id) for one in made]
told = [
    [g.rgi_id, g.name, g.cenlon, g.cenlat, g.rgi_area_km2, g.terminus_type, g.rgi_date, g.rgi_region_name,
     sorted(g.intersects_ids) if g.has_file("intersects") else []]
    for g in again
]
print(json.dumps(told))
"""


def test_oggm_makes_its_glacier_directories_of_the_product_and_reads_them_back(
    made: Path, tmp_path: Path
) -> None:
    paths = [product(made, "G", ".shp"), product(made, "I", ".shp"), tmp_path / "work"]
    (tmp_path / "work").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", OGGM, *map(str, paths)],
        # a home of its own, in which OGGM and salem put what they keep; matplotlib's fonts are known already
        env={**os.environ, "HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_configdir()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    read = pd.DataFrame(
        json.loads(told.stdout.strip().splitlines()[-1]),
        columns=["rgi_id", "name", "cenlon", "cenlat", "area_km2", "terminus", "year", "region", "beside"],
    )
    glaciers, borders = gpd.read_file(paths[0]), gpd.read_file(paths[1])
    glaciers = glaciers[glaciers["rgi_id"].isin(read["rgi_id"])]
    assert len(read) == 3
    for name in ("rgi_id", "cenlon", "cenlat", "area_km2"):
        assert read[name].tolist() == glaciers[name].tolist()
    assert (read["terminus"] == "Not assigned").all()
    assert (read["year"] == YEAR).all()
    assert (read["region"] == "11: Central Europe").all()
    assert read.set_index("rgi_id").loc[CUT, "name"] == "Hintereisferner"
    for name, beside in zip(read["rgi_id"], read["beside"], strict=True):
        touching = borders[(borders["rgi_g_id_1"] == name) | (borders["rgi_g_id_2"] == name)]
        assert set(beside) == (set(touching["rgi_g_id_1"]) | set(touching["rgi_g_id_2"])) - {name}


def test_the_shapefile_has_every_column_under_a_name_of_ten_characters(made: Path) -> None:
    folder = made / "inventory" / f"{YEAR}-shapefile"
    glaciers, inventory = gpd.read_file(folder / "glaciers.shp"), table(made)
    told = json.loads((folder / "columns.json").read_text())["glaciers"]
    assert [told[name]["name"] for name in glaciers.columns[:-1]] == inventory.columns[:-1].tolist()
    for name, kind, length, decimals in widths(folder / "glaciers.dbf"):
        assert len(name) <= 10
        assert (kind, length, decimals) in {("C", 80, 0), ("N", 18, 0), ("N", 24, 15)}
    short = {entry["name"]: name for name, entry in told.items()}
    assert glaciers[short["debris_fraction"]].to_numpy() == pytest.approx(inventory["debris_fraction"])
    assert [*GLACIER_COLUMNS] == [name for name in glaciers.columns if name in GLACIER_COLUMNS]
    assert pyogrio.read_info(folder / "debris.shp")["features"] == 25
    assert pyogrio.read_info(folder / "divides.shp")["geometry_type"] == "LineString"


def test_ogrinfo_opens_every_file_of_outlines(made: Path) -> None:
    if shutil.which("ogrinfo") is None:
        pytest.skip("no ogrinfo (Debian: gdal-bin)")
    inventory = made / "inventory"
    count = len(table(made))
    expected = {
        product(made, "G", ".shp"): {product(made, "G", ".shp").stem: count},
        product(made, "C", ".shp"): {},
        product(made, "I", ".shp"): {},
        inventory / f"{YEAR}-shapefile" / "glaciers.shp": {"glaciers": count},
        inventory / f"{YEAR}.gpkg": {"glaciers": count},
        inventory / f"{YEAR}.kmz": {"glaciers": count},
    }
    for path, layers in expected.items():
        command = ["ogrinfo", "-ro", "-so", "-al", str(path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = dict(re.findall(r"^Layer name: (.*)\n(?:.*\n)*?Feature Count: (\d+)", told, re.MULTILINE))
        assert found, path
        assert {name: int(found[name]) for name in layers} == layers, path


def test_the_tiles_hold_every_glacier_at_the_closest_zoom_where_it_lies(made: Path) -> None:
    inventory = table(made).set_index("glac_id")
    found: dict[str, float] = dict.fromkeys(inventory.index, 0.0)
    layers: set[str] = set()
    with (made / "inventory" / f"{YEAR}.pmtiles").open("rb") as file:
        tiles = [(zxy, gzip.decompress(content)) for zxy, content in all_tiles(MmapSource(file))]
    assert {zoom for (zoom, _, _), _ in tiles} == set(range(13))
    for _, content in [(zxy, content) for zxy, content in tiles if zxy[0] == 12]:
        for name, layer in mapbox_vector_tile.decode(content).items():
            layers.add(name)
            box = shapely.box(0, 0, layer["extent"], layer["extent"])
            for feature in layer["features"] if name == "glaciers" else ():
                shape = shapely.make_valid(shapely.geometry.shape(feature["geometry"]))
                found[feature["properties"]["glac_id"]] += shape.intersection(box).area
    assert layers == {"glaciers", "debris", "divides"}
    # of a tile's square on Mercator's map
    metres = 2 * np.pi * 6_378_137 / 2**12 / 4096 * np.cos(np.deg2rad(inventory["cenlat"].to_numpy()))
    area_km2 = np.array(list(found.values())) * metres**2 / 1e6
    assert area_km2 == pytest.approx(inventory["area_km2"].to_numpy(), rel=0.02)


def test_the_kmz_is_read_back_by_gdal_with_all_that_its_balloons_say(made: Path) -> None:
    path = made / "inventory" / f"{YEAR}.kmz"
    (entry,) = zipfile.ZipFile(path).infolist()
    assert entry.filename == "doc.kml"
    assert entry.extract_version == 20  # libkml refuses what is marked as larger than 4 GB
    inside = f"/vsizip/{path}/doc.kml"
    assert [str(name) for name, _ in pyogrio.list_layers(inside)] == ["glaciers", "debris", "divides"]
    read, inventory = pyogrio.read_dataframe(inside, layer="glaciers"), table(made)
    assert read["Name"].tolist()[0] == "Gepatsch Ferner"
    assert read["area"].str.split(" ").str[0].astype(float).to_numpy() == pytest.approx(
        inventory["area_km2"].to_numpy(), abs=6e-4
    )
    assert (read["date"] == "2018-08-27").all()
    assert (read["debris"] == "25 %").all()
    moved = shapely.hausdorff_distance(read.geometry.to_numpy(), inventory.geometry.to_numpy())
    assert moved.max() < 1e-6


def test_cogs_have_the_pixels_of_the_map_and_its_levels_for_overviews(tmp_path: Path) -> None:
    window = Window(32632, -5_180 * 256, 240 * 256, 4 * 256, 5 * 256)
    store = f"{tmp_path}/mosaic.zarr"
    classes = ["background", "clean_ice", "debris_covered_ice", "water", "vegetation"]
    mosaic.create(
        store, year=YEAR, window=window, block_px=256, classes=classes, attrs={"cryoscale:confidence": "x"}
    )
    random = np.random.default_rng(1)
    for row, col in ((0, 0), (0, 1), (2, 4)):
        probability = random.integers(0, 51, (5, 256, 256), np.uint8)
        label = probability.argmax(axis=0).astype(np.uint8)
        hidden = random.random((256, 256)) < 0.1
        probability[:, hidden], label[hidden] = 255, 255
        confidence = np.where(hidden, 255, probability.max(axis=0)).astype(np.uint8)
        block = Block(32632, -5_180 + row, 240 + col, 256)
        arrays = {"probability": probability, "label": label, "confidence": confidence}
        mosaic.write_block(store, YEAR, block, arrays)
    levels.build_levels(store, YEAR, 32632)
    for path in write_cogs(str(tmp_path), YEAR, 32632, tmp_path / "cog"):
        assert cog_validate(path, strict=True) == (True, [], [])
        name = path.stem.removeprefix("32632-")
        with rasterio.open(path) as file:
            assert (file.nodata, file.crs.to_epsg(), file.transform.c) == (255, 32632, 240 * 2560.0)
            assert file.overviews(1) == [2, 4, 8]
            assert file.scales[0] == (1.0 if name == "label" else 0.004)
            if name == "label":
                assert file.colormap(1)[2] == (150, 95, 45, 255)
                assert file.colormap(1)[255][3] == 0
            elif name == "probability":
                assert file.descriptions == tuple(classes)
        for factor, option in ((1, {}), (2, {"overview_level": 0}), (8, {"overview_level": 2})):
            expected = mosaic.open_mosaic(tmp_path, YEAR, 32632, factor=factor)[name].to_numpy()
            with rasterio.open(path, **option) as file:
                read = file.read()
            assert np.array_equal(read if expected.ndim == 3 else read[0], expected)


def test_ice_over_the_antimeridian_lies_on_both_sides_and_near_the_pole_is_no_tile(tmp_path: Path) -> None:
    across, polar = tmp_path / "across.gpkg", tmp_path / "polar.gpkg"
    for path, outline in (
        (across, shapely.box(179.9, 70.0, 180.2, 70.1)),
        (polar, shapely.box(10.0, 86.0, 10.5, 86.1)),
    ):
        with Inventory(ATTRIBUTES) as one:
            add(one, np.array([outline], object), np.array([shapely.buffer(outline.centroid, 0.01)], object))
            one.write(path.with_suffix(".parquet"), path)
        write_kmz(path, path.with_suffix(".kmz"), title="one")
    assert write_tiles(across, tmp_path / "across.pmtiles", title="one")
    with (tmp_path / "across.pmtiles").open("rb") as file:
        columns = {x for (zoom, x, _), _ in all_tiles(MmapSource(file)) if zoom == 12}
    assert {0, 4095} <= columns
    assert columns <= {*range(0, 4), *range(4094, 4096)}
    assert not write_tiles(polar, tmp_path / "polar.pmtiles", title="one")
    assert not (tmp_path / "polar.pmtiles").exists()
    (both,) = pyogrio.read_dataframe(f"/vsizip/{tmp_path}/across.kmz/doc.kml", layer="glaciers").geometry
    assert (both.bounds[0], both.bounds[2]) == (-180.0, 180.0)
    assert both.area == pytest.approx(0.03)


def test_a_year_without_ice_has_files_that_can_be_read_and_no_tiles(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    with Inventory(ATTRIBUTES) as nothing:
        nothing.write(folder / f"{YEAR}.parquet", folder / f"{YEAR}.gpkg")
        nothing.write_outlines(folder / f"{YEAR}-complexes.parquet")
        nothing.write_divides(folder / f"{YEAR}-intersects.parquet")
        nothing.write_hypsometry(folder / f"{YEAR}-hypsometry.csv")
    files.write_files(KINDS, str(tmp_path), tmp_path, ABOUT)
    assert len(gpd.read_file(product(tmp_path, "G", ".shp"))) == 0
    assert len(gpd.read_file(folder / f"{YEAR}-shapefile" / "glaciers.shp")) == 0
    divides = pyogrio.read_info(folder / f"{YEAR}-shapefile" / "divides.shp")
    assert divides["features"] == 0
    assert divides["dtypes"].tolist() == ["object", "object", "float64"]
    assert files.kinds_of(str(tmp_path), YEAR) == {"product", "shapefile", "kmz"}


def test_what_was_made_before_and_not_now_is_no_file_of_a_run_in_a_store(tmp_path: Path) -> None:
    out = f"memory://{uuid.uuid4().hex}"
    kept = [f"inventory/{YEAR}-rgi/CRY{YEAR}-v1.0-G-11_run/now.shp", f"inventory/{YEAR}-rgi_links.csv"]
    stale = [f"inventory/{YEAR}-rgi/CRY{YEAR}-v1.0-G-00_run/before.shp", f"inventory/{YEAR}.pmtiles"]
    for key in (*kept, *stale):
        Objects(out).put(key, b"")
    (tmp_path / kept[0]).parent.mkdir(parents=True)
    (tmp_path / kept[0]).touch()
    files.remove_stale(out, tmp_path, YEAR)
    assert sorted(entry.key for entry in Objects(out).list("")) == sorted(kept)
    files.remove_stale(str(tmp_path), tmp_path, YEAR)
    assert (tmp_path / kept[0]).exists()


def test_the_tables_beside_an_inventory_are_among_its_files(tmp_path: Path) -> None:
    hrefs = [f"inventory/{YEAR}-{name}.parquet" for name in ("complexes", "fronts", "intersects")]
    for href in hrefs:
        Objects(str(tmp_path)).put(href, b"")
    assert sorted(one.href for one in files.found_of(str(tmp_path), YEAR, 32632)) == hrefs
