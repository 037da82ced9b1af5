"""The command line as its users meet it: exit codes, one-line errors, JSON for programs."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import yaml

from benchmarks import outlining
from cryoscale.api import run
from cryoscale.cli import main
from cryoscale.cluster import run_label
from cryoscale.demo import demo_weights
from cryoscale.features.stack import CHANNELS
from tests.integration.conftest import TinyRange, save_random_network
from tests.integration.faults import few_blocks
from tests.kube_api import FakeApi, served


class Told:
    """What a command answered."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoscale.roster.CONNECT_TIMEOUT_S", 20.0)


@pytest.fixture
def cryoscale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process."""

    def call(*arguments: str | Path) -> Told:
        monkeypatch.setattr(sys, "argv", ["cryoscale", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        seen = capsys.readouterr()
        return Told(code, seen.out, seen.err)

    return call


def write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def refused(told: Told, words: str) -> None:
    """Exit code 2 and one line on stderr that holds ``words``; no traceback."""
    assert told.code == 2, told.err
    lines = [line for line in told.err.splitlines() if line.strip()]
    assert len(lines) == 1, told.err
    assert words in lines[0], lines[0]
    assert "Traceback" not in told.err


BAD: list[tuple[dict[str, Any], str]] = [
    ({"wheather": "fine"}, "unknown key 'wheather'"),
    ({"region": {"bbox": [84.05, 28.29, 83.95, 28.31]}}, "exchange west and east"),
    ({"region": {"bbox": [83.99, 28.29, 83.99, 28.31]}}, "give it an area"),
    ({"region": {"file": "nowhere.geojson"}}, "nowhere.geojson"),
    ({"region": {"bbox": [10.0, 46.0, 10.1, 46.1]}}, "no item of sentinel-2-l2a"),
    ({"years": [1999]}, "no item of sentinel-2-l2a"),
    (
        {"sources": {"optical": {"collection": "sentinel-2-l2a", "dates": ["2018-10-16"]}}},
        "no item of 2018-10-16, but of 2018-10-05, 2018-10-15, 2018-10-25); expected",
    ),
    ({"catalogs": [{"url": "no/such/folder"}]}, "no/such/folder"),
    ({"model": {"weights": "nothing.safetensors"}}, "nothing.safetensors"),
    ({"model": {"name": "magic"}}, "band-ratio"),
    ({"loader": "rioxarray"}, "'odc-stac' or 'stackstac'"),
    ({"outlines": {"files": ["kmz", "dxf"]}}, "cog, shapefile, which dxf is not"),
    ({"outlines": {"o1region": 21}}, "01 to 20"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any, change: dict[str, Any], words: str
) -> None:
    config = write(tmp_path / "run.yaml", tiny_range.config() | change)
    refused(cryoscale("run", config, "--out", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_used_are_refused_before_anything_is_written(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    truncated = tmp_path / "truncated.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(tiny_range.weights.with_suffix(suffix), truncated.with_suffix(suffix))
    truncated.write_bytes(truncated.read_bytes()[:-100])
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(b"PK\x03\x04 as torch.save writes it")
    foreign = tmp_path / "foreign.safetensors"
    save_random_network(foreign, (*CHANNELS[:-1], "backscatter"))
    for path in (truncated, pickled, foreign):
        config = write(tmp_path / "run.yaml", tiny_range.config(model={"weights": str(path)}))
        told = cryoscale("run", config, "--out", tmp_path / "out")
        refused(told, "" if path is foreign else path.name)
        assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.docx").write_text("years of work")
    config = write(tmp_path / "run.yaml", tiny_range.config())
    refused(cryoscale("run", config, "--out", out), "thesis.docx")
    assert [p.name for p in out.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("options", [(), ("--new-run",)], ids=["run", "run --new-run"])
def test_a_run_json_of_another_program_is_refused_and_all_beside_it_left_alone(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    (out / "inventory").mkdir(parents=True)
    (out / "inventory" / "glaciers.csv").write_text("years of work")
    (out / "run.json").write_text('{"name": "ours", "cmd": "sleep"}')
    config = write(tmp_path / "run.yaml", tiny_range.config(model={"name": "band-ratio"}))
    refused(cryoscale("run", config, "--out", out, *options), "run.json")
    refused(cryoscale("status", out), "run.json (format")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["inventory/glaciers.csv", "run.json"]


UNKNOWN: list[tuple[str, ...]] = [
    ("status", "URL"),
    ("verify", "URL"),
    ("outline", "URL"),
    ("view", "URL"),
    ("archive", "list", "--archive", "URL"),
    ("archive", "verify", "--archive", "URL"),
    ("samples", "URL", "--truth", "truth", "--out", "URL.zarr"),
    ("importance", str(demo_weights()), "--patches", "URL"),
    ("calibrate", str(demo_weights()), "--patches", "URL"),
]


@pytest.mark.parametrize("command", UNKNOWN, ids=" ".join)
def test_a_store_of_an_unknown_kind_is_told_in_one_line(command: tuple[str, ...], cryoscale: Any) -> None:
    arguments = [one.replace("URL", "foo://bucket/run") for one in command]
    refused(cryoscale(*arguments), "expected a path, or a URL such as s3://bucket/path")


def test_a_plan_for_a_store_of_an_unknown_kind_is_told_before_all_the_work(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    config = write(tmp_path / "run.yaml", tiny_range.config(catalogs=[{"url": "http://127.0.0.1:9"}]))
    refused(
        cryoscale("plan", config, "--out", "foo://x"), "expected a path, or a URL such as s3://bucket/path"
    )


@pytest.fixture(scope="module")
def finished(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the band ratio, its configuration ``run.yaml`` beside it."""
    folder = tmp_path_factory.mktemp("finished")
    config = write(folder / "run.yaml", tiny_range.config(model={"name": "band-ratio"}))
    assert run(config, str(folder / "out")).status().done > 0
    return folder / "out"


def test_the_cluster_of_a_driver_that_was_killed_after_its_last_block_is_taken_down(
    finished: Path, tmp_path: Path, cryoscale: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    document = yaml.safe_load(finished.with_name("run.yaml").read_text())
    config = write(tmp_path / "run.yaml", document | {"cluster": {"kind": "kubernetes"}})
    metadata = {"name": "cryoscale", "labels": {"cryoscale.dev/run": run_label(str(finished))}}
    with served(FakeApi(), tmp_path / "kubeconfig") as api:
        api.put("daskclusters", {"metadata": metadata})
        assert cryoscale("run", config, "--out", finished).code == 0
    assert api.names("daskclusters") == []


def test_another_run_is_not_mixed_into_a_finished_one(
    tiny_range: TinyRange, finished: Path, tmp_path: Path, cryoscale: Any
) -> None:
    config = finished.with_name("run.yaml")
    status = json.loads(cryoscale("status", finished, "--json").out)
    again = json.loads(cryoscale("run", config, "--out", finished, "--json").out)
    assert (again["computed"], again["skipped"]) == (0, status["done"])

    other = tiny_range.config(model={"name": "band-ratio"}, tiling={"tile_px": 64, "block_px": 512})
    refused(cryoscale("run", write(tmp_path / "run.yaml", other), "--out", finished), "block_px")

    assert status["complete"]
    assert status["area_km2"] > 1
    assert cryoscale("verify", finished).code == 0

    truth = tiny_range.folder / "truth"
    scored = json.loads(cryoscale("evaluate", finished, "--truth", truth, "--json").out)
    assert 0.3 < scored["scores"]["accuracy"] <= 1

    for other in (
        {"season": {"start": "10-01", "end": "10-20"}},
        {"region": {"bbox": [84.0, 28.295, 84.01, 28.3]}},
    ):
        changed = write(tmp_path / "run.yaml", tiny_range.config(model={"name": "band-ratio"}) | other)
        refused(cryoscale("run", changed, "--out", finished), next(iter(other)))

    shard = max((finished / "mosaic.zarr").rglob("c/*/*/*"), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    told = cryoscale("verify", finished, "--json")
    assert told.code == 1
    assert len(json.loads(told.out)["damaged"]) == 1
    mended = json.loads(cryoscale("run", config, "--out", finished, "--json").out)
    assert (mended["computed"], mended["skipped"]) == (1, status["done"] - 1)
    assert cryoscale("verify", finished).code == 0


def test_outline_draws_a_finished_run_again_and_writes_the_files_that_are_asked_for(
    finished: Path, tmp_path: Path, cryoscale: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = (out / "inventory" / "2018.parquet").read_bytes()
    for path in (out / "inventory").iterdir():
        path.unlink()
    told = cryoscale("outline", out, "--files", "kmz,shapefile,cog", "--year", "2018", "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["files"] == {"2018": ["cog", "kmz", "shapefile"]}
    assert (out / "inventory" / "2018.parquet").read_bytes() == before
    assert not (out / "inventory" / "2018.pmtiles").exists()
    # what is there is made anew with what is asked for, and without what was asked for when there was an RGI
    stale = out / "inventory" / "2018-rgi_links.csv"
    stale.write_text("glac_id,rgi_id,overlap_area_km2\nanother glacier,RGI2000-v7.0-G-15-00001,1.0\n")
    told = cryoscale("outline", out, "--files", "product,pmtiles", "--json")
    assert json.loads(told.out)["files"] == {"2018": ["cog", "kmz", "pmtiles", "product", "shapefile"]}
    assert not stale.exists()
    monkeypatch.setattr("cryoscale.sealing._HELD_BYTES", 1000)  # larger files are digested from a stream
    assert cryoscale("verify", out).code == 0
    item = json.loads(next((out / "stac").glob("tiny-2018-*.json")).read_text())
    media = {key: asset["type"] for key, asset in item["assets"].items()}
    assert media["label-cog"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert media["pmtiles"] == "application/vnd.pmtiles"
    assert media["kmz"] == "application/vnd.google-earth.kmz"
    assert {"rgi-g", "rgi-c", "rgi-i", "shapefile-glaciers", "hypsometry"} <= set(media)
    for asset in item["assets"].values():
        assert (out / "stac" / asset["href"]).exists(), asset
    # a file that was touched since is told
    (next((out / "cog").glob("2018/*-label.tif"))).write_bytes(b"II")
    assert "label.tif" in cryoscale("verify", out, "--json").out


def test_outlines_follow_what_people_corrected_until_it_is_taken_back(
    finished: Path, tmp_path: Path, cryoscale: Any
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = (out / "inventory" / "2018.parquet").read_bytes()
    largest, other = geopandas.read_parquet(finished / "inventory" / "2018.parquet").geometry[:2]
    by_hand = geopandas.GeoDataFrame(
        {"class": ["background", "debris_covered_ice"], "year": [None, 2018]},
        geometry=[largest.buffer(0.0002), other],
        crs=4326,
    )
    by_hand.to_crs(32645).to_file(tmp_path / "edits.gpkg")
    told = cryoscale("outline", out, "--corrections", tmp_path / "edits.gpkg", "--json")
    assert (told.code, json.loads(told.out)["corrections"]) == (0, 2), told.err
    drawn = geopandas.read_parquet(out / "inventory" / "2018.parquet")
    assert not drawn.intersects(largest.buffer(-0.0002)).any()
    (changed,) = drawn[drawn.contains(other.representative_point())].itertuples()
    assert changed.debris_fraction > 0.99
    assert changed.corrected_fraction == pytest.approx(1.0, abs=0.02)
    assert math.isnan(changed.confidence)
    assert cryoscale("verify", out).code == 0
    assert "2018: 2 polygons of" in (out / "report.html").read_text()
    item = json.loads(next((out / "stac").glob("tiny-2018-*.json")).read_text())
    assert (out / "stac" / item["assets"]["corrections"]["href"]).exists()
    told = cryoscale("outline", out, "--corrections", "none", "--json")
    assert (told.code, json.loads(told.out)["corrections"]) == (0, 0), told.err
    assert (out / "inventory" / "2018.parquet").read_bytes() == before
    assert cryoscale("verify", out).code == 0


def test_a_runs_inventory_by_several_processes_is_timed_beside_that_by_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "inventory" / "2018.parquet").read_bytes()
    outlining.main([str(finished), "--copies", "2", "--processes", "2", "--out", str(tmp_path / "o.jsonl")])
    (line,) = [json.loads(text) for text in (tmp_path / "o.jsonl").read_text().splitlines()]
    found = line["results"]
    assert found["glaciers"] == line["sizes"]["glaciers"] > 0
    assert found["times"] == pytest.approx(found["one_s"] / found["several_s"], rel=1e-3)
    assert f"{found['glaciers']} glaciers, 2 times: " in capsys.readouterr().out
    assert (finished / "inventory" / "2018.parquet").read_bytes() == before


def test_outline_refuses_what_it_cannot_do_and_changes_nothing(
    finished: Path, tmp_path: Path, cryoscale: Any
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    refused(cryoscale("outline", out, "--files", "kmz,dxf"), "with dxf; expected some of product")
    refused(cryoscale("outline", out, "--files", ","), "nothing in it")
    refused(cryoscale("outline", out, "--year", "1999"), "year 1999 of a run of 2018")
    refused(cryoscale("outline", tmp_path / "nowhere"), "holds no run")
    refused(cryoscale("outline", out, "--rgi", tmp_path / "gone.gpkg"), "gone.gpkg, which are not there")
    outlines = geopandas.read_parquet(out / "inventory" / "2018.parquet")
    outlines.to_file(tmp_path / "outlines.gpkg")
    refused(
        cryoscale("outline", out, "--corrections", tmp_path / "outlines.gpkg"), "without a column 'class'"
    )
    refused(cryoscale("outline", out, "--corrections", tmp_path / "gone.gpkg"), "gone.gpkg (absent)")
    (out / "ledger" / "finished.json").unlink()
    refused(cryoscale("outline", out), "is not finished")
    assert not (out / "inventory" / "corrections.parquet").exists()
    assert not (out / "cog").exists()


@pytest.mark.parametrize("command", ["run", "plan", "features"])
def test_a_loader_that_is_not_installed_is_refused_in_one_line(
    tiny_range: TinyRange, cryoscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "stackstac", None)
    config = write(tmp_path / "config.yaml", tiny_range.config(loader="stackstac"))
    out = [] if command == "plan" else ["--out", tmp_path / "out.zarr"]
    refused(cryoscale(command, config, *out), "pip install 'cryoscale[stackstac]'")
    assert not (tmp_path / "out.zarr").exists()


def test_what_can_be_known_before_the_first_block_is_told_before_it(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    sources = tiny_range.config()["sources"]
    without_radar = {name: value for name, value in sources.items() if name != "insar"}
    no_zarr = sources | {"velocity": {"href": str(tiny_range.folder / "catalog.json")}}
    for change, words in (
        ({"sources": without_radar, "on_missing": "fail"}, "insar"),
        ({"sources": no_zarr}, "catalog.json"),
        ({"cluster": {"kind": "kubernetes"}}, "kubernetes"),
        ({"cluster": {"kind": "tcp://127.0.0.1:9"}}, "does not answer"),
    ):
        config = write(tmp_path / "run.yaml", tiny_range.config() | change)
        refused(cryoscale("run", config, "--out", tmp_path / "out"), words)
        assert not (tmp_path / "out").exists()


def test_a_cluster_on_kubernetes_that_does_not_come_up_is_told_before_anything_is_written(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    cluster = {"kind": "kubernetes", "image": "there/cpu:1", "claim": "shared", "wait_s": 0.001}
    config = write(tmp_path / "run.yaml", few_blocks(tiny_range, cluster=cluster))
    with served(FakeApi(), tmp_path / "kubeconfig") as api:
        refused(cryoscale("run", config, "--out", tmp_path / "out"), "operator has made nothing")
    assert not (tmp_path / "out").exists()
    assert api.names("daskclusters") + api.names("daskworkergroups") == []
    assert ("create", "daskworkergroups", "cryoscale-gpu") in api.asked


def test_the_demo_can_be_run_again_and_goes_on_where_it_stopped(tmp_path: Path, cryoscale: Any) -> None:
    out = tmp_path / "demo"
    first = json.loads(cryoscale("demo", "--size", "tiny", "--out", out, "--json").out)
    assert first["simulated"]
    marker = next((out / "ledger" / "done").rglob("*.json"))
    marker.unlink()
    again = json.loads(cryoscale("demo", "--size", "tiny", "--out", out, "--json").out)
    assert (again["computed"], again["skipped"]) == (1, first["computed"] - 1)
    assert again["scores"] == first["scores"]
    refused(cryoscale("demo", "--size", "tiny", "--seed", "8", "--out", out), "another demo")


def test_a_plan_counts_speaks_json_and_may_be_measured_once(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    config, profile, blocks = (tmp_path / name for name in ("run.yaml", "profile.json", "blocks.geojson"))
    write(config, tiny_range.config())
    given = ("--save-profile", profile, "--geojson", blocks, "--price-gb", "1", "--json")
    plan = json.loads(cryoscale("plan", config, *given).out)
    assert plan["work"]["cpu_s"] > 0
    assert plan["money"]["total"] > plan["money_shared"]["total"] > 0
    assert len(json.loads(blocks.read_text())["features"]) == plan["blocks"]
    assert plan["blocks"] == sum(zone["blocks"] for zone in plan["zones"])
    assert {zone["epsg"] for zone in plan["zones"]} == {32644, 32645}
    assert plan["scenes"]["2018/optical"] > 0
    assert plan["missing"] == []
    told = cryoscale("plan", config, "--profile", profile, "--out", tmp_path / "out").out
    for words in ("32645", "processor time", "free", "money", "where neighbours share chunks"):
        assert words in told
    assert not (tmp_path / "out").exists()
    given = ("--profile", profile, "--cluster", "--gpus", "2", "--json")
    row = json.loads(cryoscale("plan", config, *given).out)["cluster"]["rows"][0]
    assert row["at_least"] == row["at_most"]  # its blocks are counted
    assert (row["at_least"]["blocks"], row["at_least"]["gpus"]) == (plan["blocks"], 2)
    assert "GPU rate not measured" in cryoscale("plan", config, *given[:-1]).out
    own = ("--profile", profile, "--cluster", "--price-gpu-hour", "4", "--price-cpu-hour", "1", "--json")
    found = json.loads(cryoscale("plan", config, *own).out)["cluster"]["rows"][0]["at_least"]
    assert (found["gpus"], found["workers"]) == (0, tiny_range.config()["cluster"]["cpu_workers"])
    assert found["money"]["gpu"] == 0 < found["money"]["cpu"]
    refused(cryoscale("plan", config, "--no-measure", "--cluster"), "--cluster without rates")
    refused(cryoscale("plan", config, "--profile", config), "profile")
    refused(cryoscale("plan", config, "--no-measure", "--price-gb", "-1"), "price -1 for gb")


def test_status_and_verify_of_a_folder_without_a_run_are_told_in_one_line(
    tmp_path: Path, cryoscale: Any
) -> None:
    for command in ("status", "verify"):
        refused(cryoscale(command, tmp_path), "holds no run")


def test_a_corrupt_scene_is_named_and_a_corrupt_only_source_sets_the_block_aside(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    folder = tmp_path / "simulated"
    shutil.copytree(tiny_range.folder, folder)
    damaged = sorted(p for p in folder.rglob("*B11*.tif"))[0]
    damaged.write_bytes(damaged.read_bytes()[:300])
    document = tiny_range.config(catalogs=[{"url": str(folder)}], model={"name": "band-ratio"})
    config = write(tmp_path / "run.yaml", document)
    told = cryoscale("run", config, "--out", tmp_path / "one", "--json")
    assert told.code == 0, told.err
    assert len(json.loads(told.out)["scenes_failed"]) == 1

    for path in folder.rglob("*B11*.tif"):
        path.write_bytes(b"not a picture")
    told = cryoscale("run", config, "--out", tmp_path / "all", "--json")
    assert told.code == 1
    aside = json.loads(told.out)["set_aside"]
    assert aside
    assert "Traceback" not in told.err
    assert "set aside" in cryoscale("status", tmp_path / "all").out

    for path in tiny_range.folder.rglob("*B11*.tif"):
        shutil.copy(path, folder / path.relative_to(tiny_range.folder))
    told = cryoscale("run", config, "--out", tmp_path / "all", "--json", "--retry-set-aside")
    assert told.code == 0, told.err
    assert json.loads(told.out)["set_aside"] == []


def test_features_writes_the_stack_with_names_units_and_basis(
    tiny_range: TinyRange, tmp_path: Path, cryoscale: Any
) -> None:
    import xarray as xr

    config = write(tmp_path / "run.yaml", tiny_range.config(model={"name": "band-ratio"}))
    told = cryoscale("features", config, "--out", tmp_path / "x.zarr")
    assert told.code == 0, told.err
    stack = xr.open_zarr(tmp_path / "x.zarr", group="2018/32645").load()
    assert tuple(stack["channel"].values) == CHANNELS
    assert stack["features"].attrs["units"]["LST"] == "K"
    assert np.isfinite(stack["features"].sel(channel="B04")).any()
    assert np.asarray(stack.attrs["pca"]["components"]).shape == (3, 12)
    bands = stack["features"].sel(channel=list(CHANNELS[:12])).values.reshape(12, -1)
    clear = np.isfinite(bands).all(axis=0)
    basis = stack.attrs["pca"]
    expected = (bands.T[clear] - basis["mean"]) @ np.asarray(basis["components"]).T
    found = stack["features"].sel(channel=["PCA1", "PCA2", "PCA3"]).values.reshape(3, -1).T[clear]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    refused(cryoscale("features", config, "--out", tmp_path / "x.zarr"), "which exists")


@pytest.mark.parametrize(
    "command", ["demo", "plan", "run", "status", "verify", "features", "models", "train", "evaluate"]
)
def test_every_command_has_help(command: str, cryoscale: Any) -> None:
    told = cryoscale(command, "--help")
    assert told.code == 0
    assert "Usage" in told.out


def test_a_truth_that_is_not_there_is_told(tiny_range: TinyRange, tmp_path: Path, cryoscale: Any) -> None:
    refused(cryoscale("evaluate", tmp_path, "--truth", tmp_path), str(tmp_path))


def test_the_published_range_opens_as_each_sensor_delivers_it(tiny_range: TinyRange) -> None:
    for name, dtype in (("B02", "uint16"), ("SCL", "uint8")):
        path = next(tiny_range.folder.rglob(f"*{name}*.tif"))
        with rasterio.open(path) as source:
            assert source.dtypes[0] == dtype
