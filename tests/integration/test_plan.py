"""A plan held against what the run then does, and what it says where it cannot know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
from shapely.geometry import shape

from cryoscale import trial
from cryoscale.bench.ranges import serve
from cryoscale.bench.scenes import SPECTRAL, items_at, write_scenes
from cryoscale.candidates import candidate_blocks
from cryoscale.config import load_config
from cryoscale.errors import ConfigError, InputError, SourceError
from cryoscale.features.stack import HALO_PX
from cryoscale.forecast import measure
from cryoscale.forecast.blockmap import write_geojson
from cryoscale.forecast.expense import Load, cog_note, disk_of
from cryoscale.forecast.plan import Asked, Plan, make_plan
from cryoscale.forecast.rates import Profile, load_profile
from cryoscale.grid import Block, Window
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.tiles import read_window
from cryoscale.ledger import Ledger
from cryoscale.models.loading import load_predictor
from cryoscale.pipeline import run
from cryoscale.plan import find_items, zone_regions
from cryoscale.read.band import asset_spec, read_asset
from cryoscale.read.inputs import ReadReport, read_inputs
from cryoscale.read.metered import NOTHING
from cryoscale.read.raster import FileSource
from cryoscale.results import Run
from cryoscale.settings import Settings
from cryoscale.task import run_context
from cryoscale.write.cog import write_cogs
from tests.integration.conftest import TinyRange


@pytest.fixture(scope="module")
def finished(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that the plan is held against."""
    out = str(tmp_path_factory.mktemp("planned") / "run")
    run(tiny_range.settings(), out)
    return Run(out)


@pytest.fixture(scope="module")
def planned(tiny_range: TinyRange) -> Plan:
    return make_plan(tiny_range.settings())


def reports_of(made: Run, settings: Settings) -> list[ReadReport]:
    """What each block of the run reads, read once more."""
    context = run_context(made.out, made.manifest["identity_sha256"])
    return [
        read_inputs(
            context.items_of(year),
            read_window(block, context.tile_px, context.overlap).pad(HALO_PX),
            velocity_href=context.velocity_href,
            year=year,
            max_cloud_pct=context.max_cloud_pct,
        )[1]
        for year, block in made_blocks(made)
    ]


def made_blocks(made: Run) -> list[Any]:
    from cryoscale.ledger import Ledger

    return sorted(Ledger(made.out).done())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_run_does_what_was_planned(planned: Plan, finished: Run, tiny_range: TinyRange) -> None:
    status = finished.status()
    assert planned.blocks == status.done == status.total
    reports = reports_of(finished, tiny_range.settings())
    assert sum(zone.scenes_read for zone in planned.zones) == sum(len(r.scenes_read) for r in reports)
    assert planned.fetches == pytest.approx(sum(r.fetches for r in reports), rel=0.3)
    assert planned.fetched_bytes == pytest.approx(sum(r.fetched_bytes for r in reports), rel=0.3)
    assert planned.read_bytes == pytest.approx(sum(r.bytes_read for r in reports), rel=0.3)
    mapped_px = status.area_km2 * 1e4
    assert sum(zone.pixels for zone in planned.zones) == pytest.approx(mapped_px, rel=0.1)
    assert planned.disk is not None
    stores = sum(size_of(Path(finished.out) / name) for name in ("mosaic.zarr", "quicklook.zarr", "ledger"))
    assert planned.disk.total == pytest.approx(stores, rel=0.3)


def test_what_neighbours_share_is_counted_once(
    finished: Run, tiny_range: TinyRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the chunks that reading really cuts through, over two zones."""
    found: dict[tuple[str, int, int], int] = {}
    cut = FileSource.cut

    def noted(self: FileSource, rows: slice, columns: slice) -> Any:
        down, across = self.dataset.block_shapes[0]
        for row in range(rows.start // down, (rows.stop - 1) // down + 1):
            for column in range(columns.start // across, (columns.stop - 1) // across + 1):
                found[self.href, row, column] = self.stored_bytes(row, column)
        return cut(self, rows, columns)

    monkeypatch.setattr(FileSource, "cut", noted)
    context = run_context(finished.out, finished.manifest["identity_sha256"])
    for year, block in made_blocks(finished):
        window = read_window(block, context.tile_px, context.overlap).pad(HALO_PX)
        read_inputs(context.items_of(year), window, year=year, max_cloud_pct=context.max_cloud_pct)
    document = tiny_range.config()
    del document["sources"]["velocity"]
    planned = make_plan(load_config(document), asked=Asked(measured=False))
    assert planned.distinct_bytes == pytest.approx(sum(found.values()), rel=0.05)
    assert planned.distinct_bytes < 0.5 * planned.fetched_bytes


def test_the_cogs_of_a_finished_map_take_the_disk_that_is_planned_for_them(
    planned: Plan, finished: Run, tiny_range: TinyRange, tmp_path: Path
) -> None:
    settings = replace(tiny_range.settings(), files=("product", "cog"))
    for zone in planned.zones:
        write_cogs(finished.out, settings.years[0], zone.epsg, tmp_path)
    pixels = sum(zone.pixels for zone in planned.zones)
    load = Load(planned.blocks, len(planned.zones), 0.0, 0.0, 0.0, pixels, planned.tiles, "m")
    need = disk_of(settings, load, planned.profile, None)
    without = disk_of(replace(settings, files=("product",)), load, planned.profile, None)
    assert need is not None
    assert without is not None
    assert need.cogs == pytest.approx(size_of(tmp_path), rel=0.4)
    assert need.total - without.total == pytest.approx(need.cogs)


def test_cogs_that_take_hours_are_told_with_the_setting_that_leaves_them_out(tiny_range: TinyRange) -> None:
    settings = replace(tiny_range.settings(), files=("product", "kmz", "cog"))
    few, many = (Load(n, 1, 0.0, 0.0, 0.0, n * 2048**2, n, "m") for n in (1000, 100_000))
    assert cog_note(settings, few) is None
    assert cog_note(replace(settings, files=("product",)), many) is None
    assert "17 h more: outlines.files: [product, kmz]" in (cog_note(settings, many) or "")


def test_the_tiles_that_the_model_sees_are_those_that_were_planned(
    planned: Plan, tiny_range: TinyRange, tmp_path: Path
) -> None:
    from cryoscale.preparation import prepare
    from cryoscale.task import process_block

    settings = tiny_range.settings()
    identity, work = prepare(settings, str(tmp_path / "run"))
    actor = ModelActor(settings.model.keywords, tile_px=settings.tile_px, overlap=0.5, threads=1)
    for year, block in work:
        process_block(
            str(tmp_path / "run"),
            identity,
            year,
            block,
            lambda array, window, wanted: actor.predict(array, window.row, window.col, wanted),
        )
    seen = actor.stats()
    assert planned.tiles == seen["tiles"] + seen["tiles_skipped"]
    assert planned.tiles_with_data == pytest.approx(seen["tiles"], rel=0.1)


def test_seconds_are_measured_and_may_be_taken_along(
    planned: Plan, finished: Run, tiny_range: TinyRange, tmp_path: Path
) -> None:
    work = planned.work
    assert work is not None
    assert all((work.read_s, work.features_s, work.predict_s, work.write_s, work.cpu_s))
    assert work.gpu_s is None
    assert work.wall_s is not None
    assert work.wall_s >= (work.cpu_s or 0) / 2 / planned.profile.cpu_cores
    (tmp_path / "profile.json").write_text(planned.profile.to_json())
    prices = {"cpu_hour": 2.0, "gb": 0.5}
    again = make_plan(
        tiny_range.settings(), asked=Asked(load_profile(str(tmp_path / "profile.json")), prices=prices)
    )
    assert again.work == work
    assert again.money["cpu"] == pytest.approx(2.0 * work.wall_s / 3600)
    assert again.money["bytes"] == pytest.approx(0.5 * planned.fetched_bytes / 1e9)
    assert again.money_shared["bytes"] == pytest.approx(0.5 * planned.distinct_bytes / 1e9)
    assert again.money_shared["total"] == pytest.approx(sum(again.money_shared.values()) / 2)
    assert again.money_shared["total"] < again.money["total"]
    of_run = make_plan(tiny_range.settings(), asked=Asked(load_profile(finished.out)))
    took = [marker.cpu_seconds for marker in Ledger(finished.out).markers()]
    assert of_run.work is not None
    assert of_run.work.features_s == pytest.approx(sum(cpu["features"] for cpu in took), rel=0.05)
    assert of_run.work.read_s == pytest.approx(sum(cpu["read"] for cpu in took), rel=0.05)
    assert of_run.tiles_with_data < 0.9 * of_run.tiles  # the others are not predicted, and took nothing
    assert of_run.work.predict_s == pytest.approx(sum(cpu["predict"] for cpu in took), rel=0.05)
    assert of_run.money == {}


def test_a_run_that_will_try_precisions_is_planned_with_the_quickest_of_them(
    planned: Plan, tiny_range: TinyRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_range.settings()
    assert not any("the network was measured on" in note for note in planned.notes)  # too short to try any
    monkeypatch.setattr(trial, "WORTH", 0.0)
    monkeypatch.setattr(trial, "WORTH_TILES", 0)
    monkeypatch.setattr("cryoscale.models.predictor.quicker_on_cpus", lambda: ["bf16", "of another age"])
    seconds = {"fp32": 2.0, "bf16": 1.0}

    def turn(actor: ModelActor, *of: Any) -> measure._Turn:
        real = as_it_is(actor, *of)
        return replace(real, seconds=seconds[actor.describe()["precision"]] * real.tiles)

    as_it_is = measure._turn
    monkeypatch.setattr(measure, "_turn", turn)
    for quicker in ("bf16", "fp32"):
        seconds[quicker] = 0.125
        quick = make_plan(settings)
        (rate,) = quick.profile.tiles.values()
        assert (rate.tiles_per_s, rate.device_name.endswith(quicker)) == (8.0, True)
        assert [f"{quicker}; the run tries bf16, of another age" in n for n in quick.notes].count(True) == 1
        seconds[quicker] = 3.0


@pytest.mark.parametrize(
    ("overlap", "device", "measured"), [(0.75, "cpu", 0.5), (0.25, "cpu", 0.25), (0.75, "cuda", 0.75)]
)
def test_a_cpu_is_measured_on_few_tiles_whatever_the_overlap(
    overlap: float, device: str, measured: float, tiny_range: TinyRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.models.predictor.choose_device", lambda _: torch.device(device))
    seen = []

    def actors(settings: Settings, precisions: Any) -> Any:
        seen.append(settings.model.overlap)
        raise RuntimeError("no more is needed")

    monkeypatch.setattr(measure, "_actors", actors)
    settings = tiny_range.settings(model={"name": "band-ratio", "overlap": overlap})
    with pytest.raises(RuntimeError, match="no more"):
        measure.measure(settings, {}, [], load_predictor(name="band-ratio"))
    assert seen == [measured]


def test_ways_are_held_against_each_other_where_there_is_data() -> None:
    block = Block(32645, -1000, 150, 256)
    outer = block.window.pad(40)
    features = np.full((3, outer.height, outer.width), np.nan, np.float32)
    names = ("B03", "B11", "NDSI")
    assert measure._seen(features, outer, block, names) is None
    features[:2, 40 + 10, 40 + 20] = features[:2, 40 + 128, 40 + 250] = 0.1  # NDSI is missing, and may be
    features[:2, 40 + 128, 40 + 256 + 5] = features[0, 40 + 128, 40 + 128] = 0.1  # beyond the block; one band
    assert measure._seen(features, outer, block, names) == Window(
        32645, block.window.row + 128, block.window.col + 250, 1, 1
    )
    features[:2, 40 + 130, 40 + 20] = 0.1
    assert measure._seen(features, outer, block, names) == Window(
        32645, block.window.row + 130, block.window.col + 20, 1, 1
    )


def test_what_is_counted_as_fetched_is_what_a_host_sends(tmp_path: Path) -> None:
    whole, names = write_scenes(tmp_path, 2048, 1)
    window = whole.pad(-600)
    with serve(tmp_path, 0.0) as host:
        (item,) = items_at(f"{host.url}/0", names, SPECTRAL, window)
        cost = NOTHING
        for band in SPECTRAL:
            spec = asset_spec(item, band)
            assert spec is not None
            cost += read_asset(spec, window.geobox)[1]
        seen = host.take()
    # pixels 600 to 1,448 and the kernels' reach touch 2 x 2 tiles of 512 at 10 m, and as many at 20 m
    assert cost.fetches == 5 * 4
    of_tiles = sum(request.sent_bytes for request in seen if request.start)
    assert cost.fetched_bytes == pytest.approx(of_tiles, rel=0.05)


# --- candidates -----------------------------------------------------------------------------------------


def ice_of(tiny_range: TinyRange, block: Any) -> int:
    """Pixels of true ice, clean or under debris."""
    with rasterio.open(tiny_range.folder / "truth" / f"{block.epsg}.tif") as truth:
        cut = rasterio.windows.from_bounds(*block.window.bounds_m, truth.transform)
        labels = truth.read(1, window=cut, boundless=True, fill_value=255)
    return int(np.isin(labels, (1, 2)).sum())


def selections_of(tiny_range: TinyRange, **limits: float) -> list[Any]:
    settings = tiny_range.settings(candidates=limits, tiling={"tile_px": 64, "block_px": 256})
    items = find_items(settings)
    return [candidate_blocks(settings, items, zone) for zone in zone_regions(settings)]


def test_no_pixel_of_true_ice_is_lost_to_the_mask_and_blocks_without_any_are(tiny_range: TinyRange) -> None:
    found = selections_of(tiny_range, min_elevation_m=3000, max_slope_deg=60, min_ndsi=0.2)
    assert all(ice_of(tiny_range, block) == 0 for one in found for block in one.dropped)
    every = sum(len(one.blocks) + len(one.dropped) for one in found)
    assert sum(len(one.blocks) for one in found) <= every


def test_blocks_below_every_glacier_are_dropped_and_said_why(tiny_range: TinyRange) -> None:
    kept = selections_of(tiny_range, min_elevation_m=-100)
    assert all(not one.dropped for one in kept)
    none = selections_of(tiny_range, min_elevation_m=8900)
    assert {reason for one in none for reason in one.dropped.values()} == {"elevation"}
    # where the range ends within a block, elevation is not known there, and it stays
    assert all(one.in_doubt == len(one.blocks) for one in none)


def test_conditions_are_to_be_met_in_one_place(tiny_range: TinyRange) -> None:
    west, south, east, north = tiny_range.bbox
    middle = {"bbox": [west + 0.004, south + 0.004, east - 0.004, north - 0.004]}
    flat = tiny_range.settings(candidates={"max_slope_deg": 0.01}, region=middle)
    with pytest.raises(InputError, match=r"leave no block .*everywhere steeper than 0\.01"):
        make_plan(flat, asked=Asked(measured=False))
    high = tiny_range.settings(candidates={"max_slope_deg": 60, "min_elevation_m": 8900}, region=middle)
    with pytest.raises(InputError, match=r"leave no block .*as high as 8900"):
        make_plan(high, asked=Asked(measured=False))


def test_a_block_whose_elevation_cannot_be_read_stays_and_is_named(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    settings = tiny_range.settings(candidates={"min_elevation_m": 8900})
    items = find_items(settings)
    broken = [item.clone() for item in items["all/terrain"]]
    for item in broken:
        item.assets["data"].href = str(tmp_path / "gone.tif")
    for zone in zone_regions(settings):
        found = candidate_blocks(settings, {**items, "all/terrain": broken}, zone)
        assert not found.dropped
        assert found.in_doubt == len(found.blocks)
        assert any("gone.tif" in note for note in found.notes)


def test_snow_counts_for_blocks_within_reach_of_it(tiny_range: TinyRange) -> None:
    settings = tiny_range.settings(candidates={"min_ndsi": 1.0, "ndsi_reach_m": 0})
    items = find_items(settings)
    far = [candidate_blocks(settings, items, zone) for zone in zone_regions(settings)]
    dropped = {block for one in far for block, reason in one.dropped.items() if reason == "ndsi"}
    near = selections_of(tiny_range, min_ndsi=0.2, ndsi_reach_m=2000)
    assert {block for one in near for block in one.dropped} <= dropped
    assert not {block for one in near for block in one.dropped if ice_of(tiny_range, block)}


def test_what_looking_for_candidates_fetches_is_counted_beside_the_blocks(
    tiny_range: TinyRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    cut = FileSource.cut

    def noted(self: FileSource, rows: slice, columns: slice) -> Any:
        values = cut(self, rows, columns)
        taken.append(self.cost)
        return values

    monkeypatch.setattr(FileSource, "cut", noted)
    settings = tiny_range.settings(candidates={"min_elevation_m": -100, "min_ndsi": 0.2})
    plan = make_plan(settings, asked=Asked(measured=False, prices={"gb": 1.0}))
    looks = sum(taken, NOTHING)  # nothing else reads pixels of a file where nothing is measured
    assert plan.looked_at == looks
    assert min(looks.fetches, looks.fetched_bytes) > 0
    assert plan.money["bytes"] == pytest.approx((plan.fetched_bytes + looks.fetched_bytes) / 1e9)
    assert plan.money_shared["bytes"] == pytest.approx((plan.distinct_bytes + looks.fetched_bytes) / 1e9)
    assert any(f"takes {looks.fetches} chunks of" in note for note in plan.notes)


def test_the_run_can_ask_for_the_same_blocks_again(tiny_range: TinyRange) -> None:
    limits = {"min_elevation_m": 3000, "min_ndsi": 0.2}
    assert selections_of(tiny_range, **limits) == selections_of(tiny_range, **limits)


# --- on a map, and what is refused --------------------------------------------------------------------------


def test_blocks_are_written_as_geojson_with_what_they_take(
    planned: Plan, tiny_range: TinyRange, tmp_path: Path
) -> None:
    assert write_geojson(planned, tmp_path / "blocks.geojson") == planned.blocks
    document = json.loads((tmp_path / "blocks.geojson").read_text())
    features = document["features"]
    assert sum(f["properties"]["fetches"] for f in features) == pytest.approx(
        planned.fetches, abs=len(features)
    )
    assert sum(f["properties"]["tiles"] for f in features) == planned.tiles_with_data
    together = shapely.union_all([shape(f["geometry"]) for f in features])
    west, south, east, north = tiny_range.bbox
    assert together.buffer(1e-4).contains(shapely.box(west, south, east, north))
    assert not list(tmp_path.glob("*.part"))


def test_a_plan_without_a_readable_scene_says_so_in_one_line(tiny_range: TinyRange, tmp_path: Path) -> None:
    settings = tiny_range.settings()
    items = find_items(settings)
    gone = [item.clone() for item in items["2018/optical"]]
    for item in gone:
        for asset in item.assets.values():
            asset.href = str(tmp_path / "gone.tif")
    with pytest.raises(SourceError, match=r"no header can be read .*gone\.tif"):
        make_plan(settings, {**items, "2018/optical": gone})


def test_a_plan_that_measures_nothing_says_so_and_costs_only_bytes(tiny_range: TinyRange) -> None:
    plan = make_plan(tiny_range.settings(), asked=Asked(measured=False, prices={"cpu_hour": 1.0, "gb": 1.0}))
    assert plan.work is None
    assert plan.disk is None
    assert set(plan.money) == {"bytes", "total"}
    assert any("nothing was measured" in note for note in plan.notes)


def test_a_price_below_zero_is_refused(tiny_range: TinyRange) -> None:
    with pytest.raises(ConfigError, match="price -1 for gb"):
        make_plan(tiny_range.settings(), asked=Asked(measured=False, prices={"gb": -1.0}))


def test_a_profile_of_another_model_leaves_predicting_open(planned: Plan, tiny_range: TinyRange) -> None:
    other: Profile = planned.profile.model_copy(update={"tiles": {}})
    plan = make_plan(tiny_range.settings(), asked=Asked(other))
    assert plan.work is not None
    assert plan.work.predict_s is None
    assert plan.work.wall_s is None
    assert any("knows no speed of cryonet" in note for note in plan.notes)
