"""The cluster that a region takes, worked out by hand, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely
from typer.testing import CliRunner

from benchmarks import block_rates
from benchmarks.block_rates import Read, rates
from cryoscale import cli_plan
from cryoscale.cli import app
from cryoscale.config import load_config
from cryoscale.errors import CryoscaleError
from cryoscale.features.channels import CHANNELS
from cryoscale.forecast import demand
from cryoscale.forecast.capacity import DRIVER_S, FINISH_S, BlockCost, Site, fleet_for
from cryoscale.forecast.clusters import Basis, ClusterPlan
from cryoscale.forecast.demand import cost_by_dates, gpu_rate, measured_profile
from cryoscale.forecast.rates import Prices, Profile, Reading, TileRate
from cryoscale.forecast.rgi import REGIONS, Blocks, of_outlines, rows_of
from tests.unit.test_config import KHUMBU

COST = BlockCost(
    read_s=6.0,
    features_s=1.0,
    write_s=1.0,
    wait_s=12.0,
    tiles=300.0,
    whole_tiles=300.0,
    sent_px=200e6 / 60,
    fetched_bytes=1e9,
    stored_bytes=2e7,
)
BY_HAND = Profile(
    format="cryoscale-profile/1",
    name="by hand",
    cpu_cores=4,
    read=Reading(s_per_fetch=0.01, s_per_mb=0.1, clock=3.0),
    features_s_per_mpx=0.5,
    write_s_per_mpx=0.25,
)


def told(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    if isinstance(result.exception, CryoscaleError):  # what main() writes, and its exit code
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_a_cluster_is_what_a_hand_calculation_makes_it() -> None:
    # 2,500 tiles/s: 0.12 s of a GPU. A worker's two tasks do a block each in 8 + 12 + 0.12 = 20.12 s, while
    # its two cores take 8 s. 10,000 blocks in 2 hours: 1,200 s of 7,200 on one GPU, and 357
    # rounds, thus 15 workers (14.006), which need 334; 3 on a node of 7 cores (and 8 GiB each), thus 5 nodes.
    site = Site(hours=2.0, node_cores=7, node_gib=64.0, prices=Prices(cpu_hour=0.1, gpu_hour=3.0, gb=0.01))
    found = fleet_for(10_000, COST, site)
    assert (found.gpus, found.workers, found.cpu_nodes, found.bound) == (1, 15, 5, "CPU workers")
    clock_h = 334 * 20.12 / 3600
    assert found.hours == pytest.approx(clock_h)
    assert found.busy["GPUs"] == pytest.approx(1200 / 3600 / clock_h)
    assert (found.gpu_hours, found.cpu_hours) == pytest.approx((clock_h, 15 * clock_h))
    assert (found.fetched_bytes, found.stored_bytes) == pytest.approx((1e13, 2e11))
    assert found.finish_hours == pytest.approx(10_000 * FINISH_S / 3600)
    assert found.money["total"] == pytest.approx(0.1 * 15 * clock_h + 3.0 * clock_h + 0.01 * 10_000)


def test_gpus_that_are_given_are_fed_until_they_are_the_slowest() -> None:
    found = fleet_for(10_000, COST, Site(gpus=2, node_gpus=2))
    assert (found.bound, found.gpu_nodes) == ("GPUs", 1)
    assert found.hours == pytest.approx(10_000 * 0.12 / 2 / 3600)
    assert found.workers == 173  # 29 rounds of 20.12 s in 600 s
    fewer = fleet_for(10_000, COST, Site(gpus=2, cpu_workers=84))
    assert (fewer.bound, fewer.workers) == ("CPU workers", 84)
    assert fewer.hours == pytest.approx(60 * 20.12 / 3600)  # 59 rounds of 168 blocks, and one of 88
    assert fewer.busy["GPUs"] == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    "asked", [{"gpus": 1}, {"gpus": 100}, {"hours": 0.001}, {"hours": 0.001, "cpu_workers": 500}]
)
@pytest.mark.parametrize("blocks", [1, 2, 43])
def test_no_cluster_is_quicker_than_a_block_or_has_workers_without_one(
    asked: dict[str, Any], blocks: int
) -> None:
    found = fleet_for(blocks, COST, Site(**asked))
    assert found.hours * 3600 == pytest.approx(20.12)
    assert (found.bound, found.busy["CPU workers"]) == ("CPU workers", 1.0)
    assert found.workers == asked.get("cpu_workers", (blocks + 1) // 2)
    assert found.gpus == asked.get("gpus", 1)


def test_workers_do_their_blocks_in_whole_rounds() -> None:
    assert fleet_for(43, COST, Site(gpus=1, cpu_workers=22)).hours * 3600 == pytest.approx(20.12)
    assert fleet_for(43, COST, Site(gpus=1, cpu_workers=21)).hours * 3600 == pytest.approx(2 * 20.12)
    within = fleet_for(43, COST, Site(hours=3.5 * 20.12 / 3600))
    assert within.workers == 8
    assert within.hours * 3600 == pytest.approx(3 * 20.12)
    # a core that two blocks share, 8 s each
    one_core = replace(COST, wait_s=1.0)
    assert fleet_for(4, one_core, Site(gpus=1, worker_cores=1)).hours * 3600 == pytest.approx(16.0)


@pytest.mark.parametrize(
    ("given", "side", "seconds"),
    [
        # 200 MB through half of 10 Gbit/s, as two GPUs share a node's link
        (
            {"gpus": 2, "node_gpus": 2, "node_gbit_s": 10.0, "derive_on": "workers"},
            "network",
            10_000 * 0.32 / 2,
        ),
        # and past a process that takes in 2.3 GB/s, while such a GPU predicts for 60 ms
        ({"gpus": 2, "tiles_s": 5000.0, "derive_on": "workers"}, "intake", 10_000 * 0.2 / 2.3 / 2),
        # unless it makes channels itself: 36 bytes of 60 are 52.2 ms, and 3.3 Mpixel 4 ms beside the network
        ({"gpus": 2, "tiles_s": 5000.0}, "GPUs", 10_000 * (0.06 + 0.004) / 2),
        ({"gpus": 2, "tiles_s": 9000.0}, "intake", 10_000 * 0.12 / 2.3 / 2),
        ({"gpus": 2, "derive_on": "device"}, "GPUs", 10_000 * (0.12 + 0.004) / 2),
        # a slow link alone does not make them: no trial knows of it
        ({"gpus": 1, "node_gbit_s": 10.0, "tiles_s": 2500.0}, "network", 10_000 * 0.16),
        ({"gpus": 4, "scenes_gbit_s": 10.0}, "scenes", 10_000 * 0.8),
        ({"gpus": 64}, "driver", 10_000 * DRIVER_S),
    ],
)
def test_the_slowest_side_sets_the_clock(given: dict[str, Any], side: str, seconds: float) -> None:
    found = fleet_for(10_000, COST, Site(**given))
    assert found.bound == side
    assert found.hours * 3600 == pytest.approx(seconds)
    assert found.busy[side] == 1.0
    assert max(found.busy.values()) == 1.0


def test_without_gpus_workers_predict_and_nothing_is_paid_for_a_gpu() -> None:
    on_cpus = replace(COST, network_s=16.0)
    site = Site(has_gpus=False, cpu_workers=2, node_gbit_s=0.1, prices=Prices(cpu_hour=0.1, gpu_hour=4.0))
    found = fleet_for(6, on_cpus, site)
    # two rounds of 6 + 1 + 16 + 1 s on a core each, and 12 s of waiting
    assert (found.gpus, found.gpu_nodes, found.gpu_hours) == (0, 0, 0.0)
    assert found.hours * 3600 == pytest.approx(2 * 36.0)
    assert found.money["total"] == pytest.approx(found.money["cpu"]) == pytest.approx(0.1 * 2 * 72 / 3600)
    assert set(found.busy) == {"CPU workers", "scenes", "driver"}
    plan = ClusterPlan.of([Blocks("here", None, 1.0, 6, 6)], 1, on_cpus, site, Basis("measured", None))
    assert "the network 16 for 300 tiles" in plan.text()
    assert "a GPU that" not in plan.text()
    assert plan.to_dict()["feed"] is None


@pytest.mark.parametrize(
    ("gpu_workers", "asked", "rated", "found"),
    [
        (0, {}, False, (False, None, 3)),
        (2, {}, False, (True, 2, 3)),
        (2, {"cpu_workers": 5}, False, (True, 2, 5)),
        # another cluster than the configuration's
        (0, {"hours": 1.0}, False, (False, None, None)),
        (0, {"gpus": 4}, False, (True, 4, None)),
        (0, {}, True, (True, None, None)),
        (2, {"hours": 1.0, "cpu_workers": 5}, True, (True, None, 5)),
    ],
)
def test_a_configuration_is_planned_with_its_own_workers_and_gpus(
    gpu_workers: int, asked: dict[str, Any], rated: bool, found: tuple[bool, int | None, int | None]
) -> None:
    cluster = {"kind": "local", "cpu_workers": 3, "gpu_workers": gpu_workers}
    site = cli_plan._own(load_config(KHUMBU | {"cluster": cluster}), Site(**asked), asks_gpus=rated)
    assert (site.has_gpus, site.gpus, site.cpu_workers) == found
    assert cli_plan._timed(site).hours == (
        1.0 if (gpu_workers, asked, rated) == (0, {}, True) else site.hours
    )


def test_who_makes_channels_depends_on_the_network_and_not_on_tiles_without_data() -> None:
    """As a run's trial decides it, by tiles of a whole block: 11.1 kpx each here, 0.29 ms of intake."""
    site = Site(tiles_s=3000.0)
    for tiles in (300.0, 100.0):
        assert not site.derives(replace(COST, tiles=tiles))
        assert replace(site, tiles_s=4000.0).derives(replace(COST, tiles=tiles))
    bands = tuple(CHANNELS[:12])  # 24 bytes a pixel, however they are sent
    narrow = replace(site, tiles_s=4000.0, channels=bands)
    assert not narrow.derives(COST)
    assert narrow.sent_bytes(COST) == COST.sent_px * 24


def test_a_block_costs_what_its_pixels_and_dates_cost() -> None:
    cost = cost_by_dates(BY_HAND, dates=2, overlap=0.5)
    # 17 x 17 tiles at every 128 px touch a block, over 2304 px; the features' kernels reach 3 px further
    assert cost.tiles == 289
    assert cost.sent_px == 2304**2
    as_channels, as_numbers = (Site(derive_on=on).sent_bytes(cost) for on in ("workers", "device"))
    assert (as_channels, as_numbers) == (2304**2 * 30 * 2, 2304**2 * 18 * 2)
    assert cost.features_s == pytest.approx(0.5 * 2310**2 / 1e6)
    assert cost.write_s == pytest.approx(0.25 * 2048**2 / 1e6)
    assert cost.read_s == pytest.approx(2 * (290 * 0.01 + 87 * 0.1))
    assert cost.wait_s == pytest.approx(2 * cost.read_s)
    assert cost.stored_bytes is None
    # eight chunks at a time
    late = cost_by_dates(BY_HAND, dates=2, overlap=0.5, latency_ms=40.0)
    assert late.wait_s == pytest.approx(2 * 290 * 0.04 / 8)


def test_the_speed_of_a_gpu_is_measured_given_or_said_to_be_assumed() -> None:
    assert gpu_rate(BY_HAND, 800.0) == (800.0, "800 tiles/s of a GPU, as given")
    rate, said = gpu_rate(BY_HAND, None)
    assert rate == 2500.0
    assert "GPU rate not measured" in said
    assert "assumed" in said
    larger = gpu_rate(BY_HAND, None, tile_px=512)
    assert larger == (625.0, f"{said}: 625 of 512 px, by pixels")
    assert gpu_rate(BY_HAND, 800.0, tile_px=512)[0] == 800.0
    on_cpu = TileRate(tiles_per_s=18.0, device="cpu")
    assert gpu_rate(BY_HAND.model_copy(update={"tiles": {"net": on_cpu}}), None)[0] == 2500.0
    on_gpu = TileRate(tiles_per_s=900.0, device="gpu", device_name="H100")
    of_512_px = on_gpu.model_copy(update={"tile_px": 512})
    assert gpu_rate(BY_HAND.model_copy(update={"tiles": {"net": of_512_px}}), None)[0] == 3600.0
    measured = BY_HAND.model_copy(update={"tiles": {"net-x8": on_gpu, "other": on_cpu}})
    assert gpu_rate(measured, None, passes=8) == (7200.0, "7,200 tiles/s of a GPU, measured on H100")


def test_the_regions_add_up_to_what_is_published_for_all_of_them() -> None:
    assert sum(region.area_km2 for region in REGIONS.values()) == 706_744
    assert sum(region.glaciers for region in REGIONS.values()) == 274_531


def test_the_regions_are_those_of_the_inventory(shared_data: Path) -> None:
    path = shared_data / "rgi7" / "RGI2000-v7.0-G-o1region-summary.csv"
    with path.open(encoding="utf-8") as file:
        rows = {int(row["o1region"]): row for row in csv.DictReader(file) if row["o1region"].isdecimal()}
    for number, region in REGIONS.items():
        assert (region.glaciers, region.area_km2) == (
            int(rows[number]["count"]),
            float(rows[number]["area_km2"]),
        )


def test_blocks_of_a_region_lie_between_what_the_shares_of_ice_say() -> None:
    alps, *asia, together, everywhere = rows_of(("11", "13-15", "all"), 2048)
    # 2,124 km2 over 12 and over 2 % of 419.43 km2
    assert (alps.fewest, alps.most) == (43, 254)
    assert [row.label for row in asia] == ["13 Central Asia", "14 South Asia West", "15 South Asia East"]
    assert together.fewest == sum(row.fewest for row in asia)
    assert together.area_km2 == 99_468
    assert everywhere.label == "all 19"
    assert everywhere.fewest > 706_744 / 419.43  # not even all ice could lie in fewer
    assert rows_of(("11",), 1024)[0].most == 1013
    given = rows_of(("11",), 2048, (4.0, 8.0))[0]
    assert (given.fewest, given.most) == (64, 127)


def test_blocks_of_outlines_are_counted(tmp_path: Path) -> None:
    # two blocks of zone 32 side by side, and one further on
    edge = 20_480.0
    boxes = [(24.9, 250.2, 25.2, 250.4), (27.3, 251.5, 27.4, 251.6)]
    shapes = [shapely.box(*(side * edge for side in box)) for box in boxes]
    path = tmp_path / "ice.gpkg"
    geopandas.GeoDataFrame(geometry=shapes, crs=32632).to_file(path)
    found = of_outlines(str(path), 2048)
    assert (found.fewest, found.most) == (3, 3)
    assert found.area_km2 == pytest.approx((0.06 + 0.01) * edge**2 / 1e6, rel=2e-3)
    code, text = told("--cluster", "--outlines", path)
    assert code == 0
    assert "ice.gpkg" in text
    assert "ice covers" not in text


def test_a_real_complex_lies_in_as_many_blocks_as_the_assumption_rests_on(shared_data: Path) -> None:
    found = of_outlines(str(shared_data / "hintereis" / "rgi7c_hef.shp"), 2048)
    assert found.area_km2 == pytest.approx(77.67, rel=1e-3)
    # 1 to 4 blocks by where the lattice lies, 3.1 on average
    assert 1 <= found.fewest <= 4


def test_the_table_says_what_it_rests_on() -> None:
    code, text = told("--cluster", "--price-gpu-hour", 2.5)
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["region", "area"]
    assert lines[7].endswith("cost")
    assert max(map(len, lines[:14])) <= 110
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        "11 Central Europe",
        "13 Central Asia",
        "14 South Asia West",
        "15 South Asia East",
        "13-15 together",
        "all 19",
    ]
    assert "GPU rate not measured: the target of the design, 2,500 tiles/s on an H200, assumed" in text
    assert measured_profile().name in text
    assert text.count("assumed: ") == 2
    document = json.loads(told("--cluster", "--rgi", "11", "--years", 3, "--json")[1])
    row = document["rows"][0]
    assert row["at_most"]["blocks"] == 3 * 254
    assert row["at_most"]["money"] == {}


def test_hours_that_no_cluster_keeps_are_said_not_to_be_kept() -> None:
    late = told("--cluster", "--rgi", 11, "--hours", 0.005)[1]
    assert "not done in 0.005 h, see slowest: 11 Central Europe; one block takes 43.8 s" in late
    assert "not done" not in told("--cluster", "--rgi", 11, "--hours", 0.05)[1]
    assert "not done" in told("--cluster", "--rgi", 11, "--hours", 0.05, "--cpu-workers", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ((), "plan without CONFIG"),
        (("--rgi", "11"), "plan without CONFIG"),
        (("--cluster", "--rgi", "21"), "RGI region '21'"),
        (("--cluster", "--rgi", "15-13"), "RGI region '15-13'"),
        (("--cluster", "--rgi", "Alps"), "RGI region 'Alps'"),
        (("--cluster", "--ice-pct", "0,5"), "share of ice '0,5'"),
        (("--cluster", "--gpu-tiles-per-s", "-3"), "-3 tiles a second of a GPU"),
        (("--cluster", "--hours", "0"), "0 hours"),
        (("--cluster", "--hours", "1e-310"), "1e-310 hours"),
        (("--cluster", "--gpu-tiles-per-s", "1e-320"), "9.99989e-321 tiles a second of a GPU"),
        (("--cluster", "--gpus", "1" + 400 * "0"), "1" + 400 * "0" + " GPUs"),
        (("--cluster", "--ice-pct", "1e-320,1"), "share of ice '1e-320,1'"),
        (("--cluster", "--dates", "1" + 300 * "0"), "1" + 300 * "0" + " dates"),
        (("--cluster", "--hours", "1", "--gpus", "2"), "2 GPUs and 1 hours"),
        (("--cluster", "--price-gb", "-1"), "price -1 for gb"),
        (("--cluster", "--node-gib", "4"), "CPU nodes of 16 cores and 4 GiB"),
        (("--cluster", "--worker-gib", "2"), "CPU workers of 2 GiB"),
        (("--cluster", "--dates", "0"), "0 dates"),
        (("--cluster", "--overlap", "1"), "overlap 1"),
        (("--cluster", "--latency-ms", "-1"), "latency -1 ms"),
        (("--cluster", "--outlines", "nowhere.gpkg"), "outlines nowhere.gpkg (absent)"),
        (("--cluster", "--profile", "nowhere.json"), "profile nowhere.json"),
        (("run.yaml", "--cluster", "--rgi", "11"), "CONFIG and regions beside it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[str, ...], given: str) -> None:
    code, text = told(*arguments)
    assert code == 2
    assert text.startswith(f"given {given}")
    assert "\n" not in text


def test_a_profile_without_rates_is_refused() -> None:
    with pytest.raises(CryoscaleError, match="knows no rate of reading"):
        cost_by_dates(BY_HAND.model_copy(update={"read": None}), dates=1, overlap=0.5)


def test_a_site_knows_how_many_workers_a_node_carries() -> None:
    assert Site(node_cores=32, node_gib=64.0).workers_a_node == 8
    assert replace(Site(), worker_cores=1, worker_gib=7.0).workers_a_node == 9


def test_rates_are_told_apart_by_a_window_of_hardly_any_pixels() -> None:
    few = Read(fetches=100, mb=0.0, cpu_s=0.5, clock_s=0.6, features_s=0.0)
    whole = Read(fetches=1000, mb=400.0, cpu_s=13.0, clock_s=26.0, features_s=2.0)
    found = rates(few, whole, 1994)  # whose kernels reach 3 px further on each side
    # 5 ms a chunk; of the 13 s chunks took 5, and 400 million bytes the other 8
    assert found["read"].s_per_fetch == pytest.approx(0.005)
    assert found["read"].s_per_mb == pytest.approx(0.02)
    assert found["read"].clock == pytest.approx(2.0)
    assert found["features_s_per_mpx"] == pytest.approx(0.5)


def test_rates_are_measured_at_the_smallest_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, home = tmp_path / "new" / "rates.json", tmp_path / "home"
    block_rates.main(["--scale", "tiny", "--out", str(kept), "--home", str(home)])
    found = Profile.model_validate_json(kept.read_text("utf-8"))
    assert found.read is not None
    assert min(found.read.s_per_fetch, found.features_s_per_mpx, found.write_s_per_mpx) > 0
    assert found.to_json() in capsys.readouterr().out
    assert [path.name for path in home.iterdir()] == ["tiny"], "a range of another scale is no other's"


@pytest.mark.parametrize("scale", block_rates.SCALES)
def test_the_rates_that_come_with_the_package_are_replaced_only_where_they_are_named(
    scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "measured.json"
    shipped.write_text("as it was", encoding="utf-8")
    monkeypatch.setattr(demand, "MEASURED", shipped)
    monkeypatch.setattr(block_rates, "profile_of", lambda home, scale: BY_HAND)
    block_rates.main(["--scale", scale])
    assert shipped.read_text("utf-8") == "as it was"
    assert capsys.readouterr().out == BY_HAND.to_json() + "\n"
    block_rates.main(["--scale", scale, "--out", str(shipped)])
    assert shipped.read_text("utf-8") == BY_HAND.to_json()


def test_the_table_that_is_shown_to_people_is_the_one_that_is_printed() -> None:
    shown = Path(__file__).parents[2] / "k8s" / "README.md"
    assert told("--cluster")[1].strip() in shown.read_text(encoding="utf-8")
