"""Rule 2 of the design, end to end: nothing about how a run is cut up shows in its pixels."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import fsspec
import geopandas
import numpy as np
import pytest
import xarray as xr
from geopandas.testing import assert_geodataframe_equal

from cryoscale.api import run
from cryoscale.crew import Crew
from cryoscale.finish import finish
from cryoscale.inventories import write_inventory
from cryoscale.ledger import Ledger
from cryoscale.results import Run
from cryoscale.sealing import seal
from cryoscale.settings import FILES
from cryoscale.write.carried import KnownGlaciers
from tests.crews import called
from tests.integration.conftest import TinyRange, map_here

LAYERS = ("probability", "label", "confidence", "disagreement", "modalities", "n_clear", "source_date")


@pytest.fixture(scope="module")
def whole(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("whole") / "run"
    map_here(tiny_range.settings(), out)
    return Run(str(out))


def assert_equal_where_both_map(one: Run, other: Run, *, other_is_part: bool = False) -> None:
    """Every layer of every zone, pixel for pixel; a part may leave pixels out but not change one."""
    compared = 0
    assert one.zones(2018) == other.zones(2018)
    for epsg in one.zones(2018):
        a, b = xr.align(one.mosaic(2018, epsg), other.mosaic(2018, epsg), join="inner")
        inside = b["label"].values != 255
        if not other_is_part:
            np.testing.assert_array_equal(inside, a["label"].values != 255)
        for name in LAYERS:
            left, right = a[name].values, b[name].values
            differs = (
                (left != right) & ~(np.isnat(left) & np.isnat(right))
                if name == "source_date"
                else left != right
            )
            assert not (differs & inside).any(), f"{name} of EPSG:{epsg}"
        compared += int(inside.sum())
    assert compared > 10_000


def test_both_zones_are_mapped_and_every_class_layer_is_consistent(whole: Run) -> None:
    assert whole.zones(2018) == [32644, 32645]
    for epsg in whole.zones(2018):
        found = whole.mosaic(2018, epsg).load()
        valid = found["label"].values != 255
        assert valid.any()
        probability = found["probability"].values
        np.testing.assert_array_equal((probability == 255).any(axis=0), ~valid)
        total = probability[:, valid].astype(int).sum(axis=0)
        assert np.abs(total - 250).max() <= 3  # five roundings of half a step
        best = probability[:, valid].max(axis=0)
        chosen = np.take_along_axis(probability[:, valid], found["label"].values[valid][None].astype(int), 0)[
            0
        ]
        assert (best - chosen.astype(int)).max() <= 1


def test_large_blocks_give_the_map_of_small_ones(tiny_range: TinyRange, whole: Run, tmp_path: Path) -> None:
    map_here(tiny_range.settings(tiling={"tile_px": 64, "block_px": 512}), tmp_path / "run")
    assert_equal_where_both_map(whole, Run(str(tmp_path / "run")))


def test_the_choice_of_scenes_depends_neither_on_block_size_nor_on_region(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    """``best_scene`` shows most: each pixel is of the one scene that was ranked first around it."""
    optical = {"optical": {"collection": "sentinel-2-l2a", "composite": "best_scene"}}
    plain: dict[str, Any] = {"sources": optical, "model": {"name": "band-ratio"}}
    west, south, east, north = tiny_range.bbox
    part = [west + 0.3 * (east - west), south, east, south + 0.6 * (north - south)]
    small = {"tiling": {"tile_px": 64, "block_px": 256}, "region": {"bbox": part}}
    large = {"tiling": {"tile_px": 64, "block_px": 512}}
    map_here(tiny_range.settings(**plain, **large), tmp_path / "large")
    map_here(tiny_range.settings(**plain, **small), tmp_path / "small")
    one, other = Run(str(tmp_path / "large")), Run(str(tmp_path / "small"))
    assert_equal_where_both_map(one, other, other_is_part=True)
    dates = [np.unique(one.mosaic(2018, epsg)["source_date"].values) for epsg in one.zones(2018)]
    assert max(len(found) for found in dates) > 2  # there was a choice


def test_the_order_of_blocks_does_not_matter(tiny_range: TinyRange, whole: Run, tmp_path: Path) -> None:
    map_here(tiny_range.settings(), tmp_path / "run", backwards=True)
    assert_equal_where_both_map(whole, Run(str(tmp_path / "run")))


def test_a_part_of_the_region_gives_that_part_of_the_map(
    tiny_range: TinyRange, whole: Run, tmp_path: Path
) -> None:
    west, south, east, north = tiny_range.bbox
    width, height = east - west, north - south
    part = [west + 0.3 * width, south + 0.25 * height, west + 0.8 * width, south + 0.75 * height]
    map_here(tiny_range.settings(region={"bbox": part}), tmp_path / "run")
    assert_equal_where_both_map(whole, Run(str(tmp_path / "run")), other_is_part=True)


@pytest.mark.parametrize("cpu_workers", [1, 3])
def test_workers_give_the_map_of_one_process(
    tiny_range: TinyRange, whole: Run, tmp_path: Path, cpu_workers: int
) -> None:
    cluster = {"kind": "local", "cpu_workers": cpu_workers, "gpu_workers": 0}
    made = run(tiny_range.config(cluster=cluster), tmp_path / "run")
    assert_equal_where_both_map(whole, made)
    assert made.status().done == made.status().total
    assert made.verify().sound


def test_a_finished_run_holds_what_the_design_promises(tiny_range: TinyRange, tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = run(tiny_range.config(model={"name": "band-ratio"}), out)
    tables = ("items.parquet", "inventory/2018.parquet", "inventory/2018.gpkg")
    for name in ("run.json", "map.png", "report.html", "catalog.json", *tables):
        assert (out / name).stat().st_size > 0, name
    glaciers = made.outlines(2018)
    assert len(glaciers) > 0
    assert glaciers.geometry.is_valid.all()
    assert (glaciers["area_km2"] >= 0.01).all()
    epsg = made.zones(2018)[0]
    plain = xr.open_zarr(out / "mosaic.zarr", group=f"2018/{epsg}")
    assert plain["label"].dims == ("y", "x")
    text = (out / "report.html").read_text()
    assert "imulated" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_a_run_is_taken_up_again_where_it_was_left(tiny_range: TinyRange, tmp_path: Path) -> None:
    settings = tiny_range.settings(model={"name": "band-ratio"})
    markers = map_here(settings, tmp_path / "run")
    lost = markers[0]
    path = tmp_path / "run" / "ledger" / "done" / "2018" / str(lost.epsg) / f"{lost.block.key}.json"
    os.unlink(path)
    from cryoscale.pipeline import run as run_pipeline

    outcome = run_pipeline(settings, str(tmp_path / "run"))
    assert (outcome.computed, outcome.skipped) == (1, len(markers) - 1)
    assert Ledger(str(tmp_path / "run")).done()[lost.key].checksum == lost.checksum


def test_a_notebook_sees_a_run_at_a_glance(whole: Run) -> None:
    html: Any = whole._repr_html_()
    assert "tiny" in html
    assert "32644" in html


def test_blocks_far_from_the_candidates_are_left_out_and_the_others_unchanged(
    tiny_range: TinyRange, whole: Run, tmp_path: Path
) -> None:
    import geopandas
    from shapely.geometry import box

    west, south, _, _ = tiny_range.bbox
    known = geopandas.GeoDataFrame(geometry=[box(west, south, west + 0.002, south + 0.002)], crs=4326)
    known.to_file(tmp_path / "rgi.gpkg")
    settings = tiny_range.settings(candidates={"rgi": str(tmp_path / "rgi.gpkg"), "buffer_m": 100})
    markers = map_here(settings, tmp_path / "run")
    assert 0 < len(markers) < whole.status().done
    assert {marker.epsg for marker in markers} == {32644}
    expected = {marker.block: marker.checksum for marker in markers}
    found = {key[1]: marker.checksum for key, marker in Ledger(whole.out).done().items()}
    assert expected.items() <= found.items()


def test_the_inventory_of_a_run_says_what_elevation_and_the_rgi_know(
    tiny_range: TinyRange, whole: Run, tmp_path: Path
) -> None:
    import pandas as pd
    from shapely.geometry import box

    names = {"rgi_id": ["RGI2000-v7.0-G-15-00001"], "glac_name": ["Everything"], "subm_id": [731]}
    known = geopandas.GeoDataFrame(names, geometry=[box(*tiny_range.bbox)], crs=4326)
    manifest = Ledger(whole.out).manifest()
    assert manifest is not None
    path = write_inventory(tiny_range.settings(), whole.out, tmp_path, 2018, manifest, KnownGlaciers(known))
    glaciers = geopandas.read_parquet(path)
    assert len(glaciers) > 0
    for name in ("rgi_id", "glac_name", "subm_id"):
        assert set(glaciers[name]) == set(names[name])
    assert set(glaciers["dem_source"]) == {"COPDEM30"}
    assert (glaciers["dem_void_fraction"] < 0.02).all()
    assert (glaciers["zmin_m"] <= glaciers["zmed_m"]).all()
    assert (glaciers["zmed_m"] <= glaciers["zmax_m"]).all()
    # no line is longer than the rim of its glacier, nor shorter than the width of a small one
    rims_m = glaciers.to_crs(32644).length
    assert (glaciers["lmax_m"] < rims_m).all()
    assert (glaciers["lmax_m"] > 50).all()
    bands = pd.read_csv(path.with_name("2018-hypsometry.csv"))
    assert bands["glac_id"].tolist() == glaciers["glac_id"].tolist()
    assert set(bands.iloc[:, 2:].sum(axis=1)) == {1000}
    described = json.loads(path.with_name("attributes_metadata.json").read_text())
    assert list(described) == [name for name in glaciers.columns if name != "geometry"]
    seen = [name for name, column in described.items() if column["source"] == "evidence"]
    assert glaciers[["snow_fraction", "velocity_m_yr", "coherence"]].notna().all(axis=None)
    assert glaciers["snow_fraction"].between(0, 1).all()
    assert set(glaciers["seasonal_snow"]) <= {"no", "doubtful", "likely"}

    kept = list(Path(whole.out, "quicklook.zarr").glob("*/*/evidence"))
    try:
        for array in kept:  # as a run of an older version is
            array.rename(array.with_name("evidence-away"))
        before = write_inventory(
            tiny_range.settings(), whole.out, tmp_path / "old", 2018, manifest, KnownGlaciers(known)
        )
    finally:
        for array in kept:
            array.with_name("evidence-away").rename(array)
    old = geopandas.read_parquet(before)
    assert old[seen].isna().all(axis=None)
    pd.testing.assert_frame_equal(old.drop(columns=seen), glaciers.drop(columns=seen))


def halves_of(tiny_range: TinyRange) -> geopandas.GeoDataFrame:
    """Two glaciers, which are the west and the east of the region."""
    from shapely.geometry import box

    west, south, east, north = tiny_range.bbox
    middle = (west + east) / 2
    halves = [box(west, south, middle, north), box(middle, south, east, north)]
    return geopandas.GeoDataFrame({"rgi_id": ["a", "b"]}, geometry=halves, crs=4326)


def test_glaciers_that_a_complex_is_divided_into_are_held_to_the_least_area(
    tiny_range: TinyRange, whole: Run, tmp_path: Path
) -> None:
    manifest = Ledger(whole.out).manifest()
    assert manifest is not None
    settings = replace(tiny_range.settings(), min_area_km2=3.5)
    known = KnownGlaciers(halves_of(tiny_range))
    path = write_inventory(settings, whole.out, tmp_path, 2018, manifest, known)
    (area_km2,) = geopandas.read_parquet(path)["area_km2"]
    assert area_km2 > 6.0  # of which either half has 3.0 to 3.4


def test_several_processes_make_the_end_that_one_makes(
    tiny_range: TinyRange, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves_of(tiny_range).to_file(tmp_path / "known.gpkg")
    settings = replace(tiny_range.settings(), known_glaciers=str(tmp_path / "known.gpkg"), files=FILES)
    crews = []

    def ready(processes: int, imports: str) -> Crew:
        crews.append(called(Crew(processes, imports)))
        return crews[0]

    for name, processes in (("alone", 1), ("crew", 2)):
        copytree(whole.out, tmp_path / name)
        monkeypatch.setattr("cryoscale.finish._processes", lambda spec, out, count=processes: count)
        if processes > 1:
            monkeypatch.setattr("cryoscale.finish.Crew", ready)
        finish(settings, str(tmp_path / name), lambda _: None)
    assert len(crews) == 1
    made, others = (
        {path.relative_to(tmp_path / by) for path in (tmp_path / by).rglob("*") if path.is_file()}
        for by in ("alone", "crew")
    )
    assert made == others
    assert len(made) > 40
    for path in sorted(made):
        one, other = (tmp_path / by / path for by in ("alone", "crew"))
        if path.suffix == ".gpkg":  # which knows when it was written
            for layer in ("glaciers", "debris", "divides", "fronts"):
                left, right = (geopandas.read_file(file, layer=layer) for file in (one, other))
                assert_geodataframe_equal(left, right)
        else:
            assert one.read_bytes() == other.read_bytes(), path
    glaciers = geopandas.read_parquet(tmp_path / "crew/inventory/2018.parquet")
    assert glaciers["complex_id"].nunique() > 1
    assert glaciers["complex_id"].duplicated().any()  # there was something to divide
    assert glaciers["zmed_m"].notna().all()


def test_a_run_may_lie_on_any_filesystem_that_fsspec_knows(tiny_range: TinyRange, whole: Run) -> None:
    settings = tiny_range.settings()
    out = "memory://exactness/run"
    map_here(settings, out)
    finish(settings, out, lambda _: None)
    seal(out)
    made = Run(out)
    assert_equal_where_both_map(whole, made)
    assert made.verify().sound
    assert made.outlines(2018).crs == 4326
    fs, root = fsspec.core.url_to_fs(out)
    for name in (
        "map.png",
        "report.html",
        "catalog.json",
        "inventory/2018.gpkg",
        "inventory/2018-hypsometry.csv",
        "inventory/2018-fronts.parquet",
        "inventory/2018-region.json",
    ):
        assert fs.size(f"{root}/{name}") > 0, name
