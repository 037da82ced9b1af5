"""Benchmarks that run and say what they measured; how long anything takes is not asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import (
    RESULTS,
    ledger,
    orchestration,
    overlap,
    planning,
    reading,
    readme,
    retreat,
    uncertainty,
    wire,
)
from cryoscale.bench import record
from cryoscale.bench.scenes import SPECTRAL
from cryoscale.features.channels import CHANNELS
from cryoscale.grid import Window


@pytest.mark.benchmarks
def test_the_comparison_of_readers_runs_and_keeps_a_whole_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results" / "reading.jsonl"
    reading.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["cpu"]
    assert document["versions"]["rasterio"]
    assert document["sizes"]["block_px"] == 256
    assert document["method"]
    results = document["results"]["ways"]
    assert results[reading.BASE]["seconds_ratio"]["max"] == 1.0
    printed = capsys.readouterr().out
    for name, row in results.items():
        assert name in printed
        assert row["requests"] > row["header_requests"] > 0
        assert row["bytes_over_region"] > 0.5
        assert row["cpu_seconds"]["min"] > 0
        assert row["equal_at_10_m"], name
        if "cryoscale" in name or "our resampling" in name:
            assert row["equal_at_20_m"], name
            assert row["part_equals_whole"], name
    assert results[reading.BASE]["header_requests"] == len(SPECTRAL)
    run = document["results"]["run"]
    assert run["blocks"] == 4
    assert run["equal_at_10_m"]
    assert run["ways"][reading.RUN]["bytes"] < run["ways"][reading.BASE]["bytes"]
    assert run["ways"][reading.RUN]["header_requests"] == len(SPECTRAL)
    reckoned = run["whole_tiles_over_window"]
    assert set(reckoned) == {"256", "512", "1024"}
    assert reckoned["1024"]["512"]["mean"] < reckoned["256"]["512"]["mean"] < reckoned["256"]["1024"]["mean"]


def test_the_whole_tiles_under_a_window_are_those_that_it_meets_somewhere() -> None:
    rng = np.random.default_rng(3)
    edge, tile = 2310, 512
    met = []
    for top, left in rng.integers(0, 2 * tile, (20_000, 2)).tolist():
        fine, coarse = (
            np.prod([(at + size - 1) // tile - at // tile + 1 for at in (row, col)]) * tile**2 / size**2
            for row, col, size in ((top, left, edge), (top // 2, left // 2, edge // 2))
        )
        met.append((4 * fine + coarse / 4) / 4.25)
    found = reading.whole_tiles(edge, tile)
    assert found["mean"] == pytest.approx(np.mean(met), rel=0.01)
    assert found["min"] == pytest.approx(min(met), abs=1e-3)
    assert found["max"] == pytest.approx(max(met), abs=1e-3)


def test_the_benchmark_of_planning_runs_and_keeps_a_whole_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "planning.jsonl"
    planning.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    results = document["results"]
    assert results["blocks"] > 100
    assert results["fetches"] > results["blocks"]
    assert results["ratio"] > 0
    assert f"{results['blocks']:,} blocks" in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny_grounds(tmp_path_factory: pytest.TempPathFactory) -> list[overlap.Ground]:
    """Simulated once for the benchmarks that map the same range."""
    return list(overlap.grounds(overlap.SCALES["tiny"], tmp_path_factory.mktemp("grounds")))


@pytest.mark.benchmarks
def test_the_price_of_overlap_is_told_tiling_by_tiling(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_grounds: list[overlap.Ground],
) -> None:
    monkeypatch.setattr(overlap, "grounds", lambda scale, folder, **more: iter(tiny_grounds))
    kept, drawn = tmp_path / "overlap.jsonl", tmp_path / "overlap.png"
    asked = ["--tiling", "256:0.125"]
    overlap.main(["--scale", "tiny", "--out", str(kept), "--chart", str(drawn), *asked])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    study, cheaper = document["results"]["rows"]
    assert (study["tile_px"], study["overlap"], study["passes_inside"]) == (256, 0.5, 4.0)
    assert (cheaper["overlap"], cheaper["passes_inside"]) == (0.125, pytest.approx((8 / 7) ** 2, abs=1e-3))
    for row in (study, cheaper):
        assert 50 < row["mean_iou"] <= 100
        assert row["passes"] >= row["passes_inside"]
        assert 0.5 < row["seam_probability"] < 2
    assert "recommended" in capsys.readouterr().out
    assert drawn.read_bytes().startswith(b"\x89PNG")

    overlap.main(["--scale", "tiny", "--out", str(kept), "--tiling", "256:0.5", "--squeeze-px", "64"])
    other = json.loads(kept.read_text("utf-8").splitlines()[-1])
    assert (document["sizes"]["squeeze_px"], other["sizes"]["squeeze_px"]) == (256, 64)
    assert other["results"]["rows"][0]["iou"] != study["iou"], "gates that look elsewhere answer otherwise"
    with pytest.raises(SystemExit) as ended:
        overlap.main(["--scale", "tiny", "--out", str(kept), "--squeeze-px", "100"])
    assert ended.value.code == 2
    assert "squeeze_px 100; expected a multiple of 32" in capsys.readouterr().err


def test_the_recommended_tiling_is_the_cheapest_that_loses_nothing_that_matters() -> None:
    def row(tile_px: int, overlap_: float, passes: float, mean: float, debris: float) -> dict[str, object]:
        iou = {"debris_covered_ice": debris}
        return {
            "tile_px": tile_px,
            "overlap": overlap_,
            "passes_inside": passes,
            "cpu_s": passes,
            "mean_iou": mean,
            "accuracy": 90.0,
            "iou": iou,
        }

    rows = [
        row(256, 0.5, 4, 80.0, 70.0),
        row(256, 0.25, 1.8, 79.9, 69.9),
        row(256, 0.125, 1.3, 79.9, 69.0),  # loses debris
        row(512, 0.0, 1.0, 79.7, 70.5),  # loses in the mean
    ]
    assert overlap.recommended(rows) is rows[1]
    assert overlap.recommended(rows[:1]) is rows[0]


def test_tilings_measured_one_after_the_other_make_one_table_unless_the_weights_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = (RESULTS / "overlap.jsonl").read_text("utf-8").splitlines()
    whole = next(
        line for line in map(json.loads, committed) if line["sizes"]["weights"] == "demo.safetensors"
    )
    base, *others = whole["results"]["rows"]
    kept, drawn = tmp_path / "kept.jsonl", tmp_path / "drawn.png"
    for rows in ([base, *others[:4]], [base, *others[4:]]):
        record.append(kept, {**whole, "results": {"rows": rows}})
    arguments = ["--kept", "--out", str(kept), "--chart", str(drawn)]
    # those are of the time when gates looked at whole tiles, which is the same up to the study's
    overlap.main([*arguments, "--squeeze-px", str(overlap.WHOLE_PX)])
    assert capsys.readouterr().out == overlap.table([base, *others]) + "\n"
    assert drawn.stat().st_size > 10_000
    overlap.main(arguments)
    small = [base, *(row for row in others if row["tile_px"] == 256)]
    assert 1 < len(small) < len(others)
    assert capsys.readouterr().out == overlap.table(small) + "\n"
    large = {**others[-1], "mean_iou": 90.0}
    rows = {"rows": [base, large]}
    record.append(kept, {**whole, "results": rows, "sizes": {**whole["sizes"], "squeeze_px": 256}})
    overlap.main(arguments)
    assert capsys.readouterr().out == overlap.table([*small, large]) + "\n"

    other = {**base, "mean_iou": base["mean_iou"] - 0.001}
    record.append(kept, {**whole, "results": {"rows": [other]}})
    foreign = ["--weights", "x.safetensors"]
    for more, words in (
        ([], "several demo.safetensors"),
        (foreign, "x.safetensors (nothing there)"),
        ([*foreign, "--squeeze-px", "256"], "nothing of x"),
    ):
        with pytest.raises(SystemExit) as ended:
            overlap.main([*arguments, *more])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def test_orchestration_is_measured_by_the_block_and_beside_plain_dask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "orchestration.jsonl"
    orchestration.main(["--scale", "tiny", "--out", str(kept)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    ways, long_run = results["parts"]["ways"], results["long"]["scheduler in the driver"]
    assert set(ways) == {"returns", "asks", "marks", "whole", "client.map"}
    assert all(row["cpu_all_ms"]["min"] >= row["cpu_driver_ms"]["min"] > 0 for row in ways.values())
    assert results["parts"]["whole_over_client_map"]["median"] > 0
    assert long_run["in_task_marker_ms"] > 0
    assert long_run["in_task_actor_ms"] > 0
    assert set(long_run["mib"]) == {"5%", "25%", "50%", "75%", "100%"}
    assert "MiB more a 100,000 blocks" in capsys.readouterr().out


def test_looking_through_what_is_done_is_measured_on_disk_and_on_s3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoscale.ledger.ROLL_AT", 10)
    kept = tmp_path / "ledger.jsonl"
    ledger.main(["--scale", "tiny", "--out", str(kept)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    assert results["disk"]["markers"] == 200
    assert results["disk"]["wall_s"]["sound"] > 0
    assert results["s3"]["rolled"] == results["s3"]["markers"] == 60
    assert results["verify"]["blocks"] == 2
    assert results["verify"]["seconds_per_1000_blocks"] > 0
    assert "over reading the files" in capsys.readouterr().out


def test_what_travels_to_an_actor_is_reckoned_by_form_and_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "wire.jsonl"
    wire.main(["--scale", "tiny", "--out", str(kept)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    whole, short, numbers = (results["forms"][form] for form in wire.FORMS)
    # a block of 2048 has 17 x 17 tiles at 50 % overlap, over 2304 x 2304 pixels
    assert whole["gb_s"] == pytest.approx(2500 * 2304**2 / 17**2 * 120 / 1e9, abs=1e-3)
    assert (
        whole["bytes_a_pixel"]
        == 2 * short["bytes_a_pixel"]
        > short["bytes_a_pixel"]
        > numbers["bytes_a_pixel"]
    )
    slow = [form["tiles_s_by_link"]["25 Gbit/s between machines"] for form in (whole, short)]
    assert slow[0] < 2500 < slow[1]
    assert numbers["bytes_a_pixel"] == 36
    assert min(results["measured"].values()) > 0
    told = capsys.readouterr().out
    assert "60 bytes a pixel" in told
    assert "cpu makes channels of " in told


def test_steps_on_memory_are_counted_and_looks_at_it_are_not() -> None:
    x = torch.ones(10, 10)
    with wire.Steps() as counted:
        y = x[2:4].view(20) + 1.0
        y.mul_(2.0)
    # 20 numbers are read and written, twice
    assert (counted.steps, counted.bytes) == (2, 4 * 80)


def test_a_record_says_which_packages_are_absent_and_lines_are_added(tmp_path: Path) -> None:
    assert record.versions(["numpy", "no-such-package"])["no-such-package"] is None
    kept = tmp_path / "kept.jsonl"
    for number in range(2):
        made = record.line("x", method="m", sizes={"n": number}, results={}, packages=["numpy"])
        record.append(kept, made)
    assert [json.loads(line)["sizes"]["n"] for line in kept.read_text("utf-8").splitlines()] == [0, 1]


def test_every_committed_line_names_machine_versions_sizes_and_method() -> None:
    kept = sorted(RESULTS.glob("*.jsonl"))
    assert "reading.jsonl" in [path.name for path in kept]
    for path in kept:
        for line in path.read_text("utf-8").splitlines():
            document = json.loads(line)
            assert all(document[key] for key in ("machine", "versions", "sizes", "method", "results")), path


def test_the_readmes_table_of_speed_is_made_from_the_records() -> None:
    assert readme.main(["--check"]) == 0, "run python -m benchmarks.readme"


def snow_is_ice(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (n, k, y, x) of features (n, c, y, x): what is bright in the right bands is clean ice."""
    ndsi = np.nan_to_num(tiles[:, CHANNELS.index("NDSI")])
    ice = 1 / (1 + np.exp(-8 * (ndsi - 0.4)))
    return np.stack([1 - ice, ice, 0 * ice, 0 * ice, 0 * ice], axis=1).astype(np.float32)


def test_the_coverage_of_intervals_is_told_rule_by_rule(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_grounds: list[overlap.Ground],
) -> None:
    assert uncertainty.SCALES["tiny"].fit == overlap.SCALES["tiny"].ranges
    # what the weights map is of no matter here, and costs more than all the rest
    monkeypatch.setattr(uncertainty, "load_predictor", lambda **options: snow_is_ice)
    monkeypatch.setattr(overlap, "grounds", lambda scale, folder, **more: iter(tiny_grounds))
    kept = tmp_path / "uncertainty.jsonl"
    uncertainty.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert min(document["sizes"]["glaciers"]) > 0
    rules = document["results"]["rules"]
    printed = capsys.readouterr().out
    for name, row in rules.items():
        assert name in printed
        assert sum(count for _, count in row["by_size"].values()) == document["sizes"]["glaciers"][1]
    assert rules["independent pixels"]["median_width"] < rules["the package's"]["median_width"]
    for region in document["results"]["regions"]:
        low, high, inside = region["interval"]
        assert low <= region["area"] <= high
        assert inside == (low <= region["truth"] <= high)


def test_factors_leave_out_five_per_cent_of_the_truths_on_either_side() -> None:
    rng = np.random.default_rng(11)
    count = 4000
    area = rng.uniform(0.1, 10.0, count)
    errors = rng.uniform(0.0, 0.1, (2, count)) * area
    truth = area + rng.standard_normal(count) * np.where(rng.random(count) < 0.5, *errors)
    glaciers = uncertainty.Glaciers(
        np.full(count, "himalaya 1/32645"), np.arange(count), area, truth, *errors
    )
    low, high = uncertainty.fitted(glaciers, lambda g: (g.false, g.missed))
    told = uncertainty.judged(glaciers, low * glaciers.false, high * glaciers.missed)
    assert told["coverage"] == pytest.approx(90.0, abs=0.2)
    assert low == pytest.approx(float(np.quantile((area - truth) / errors[0], 0.95)), rel=0.02)


def test_the_true_area_of_an_outline_is_counted_by_hand() -> None:
    label, truth = np.zeros((2, 40, 60), np.uint8)
    label[10:30, 5:25] = 1  # 400 px
    truth[12:34, 5:25] = 1  # two rows less, four more, missed
    truth[10:30, 40:50] = 2  # the map has nothing of it
    truth[:, 24] = 255  # not known: 20 px of the outline count nowhere
    probability = np.zeros((5, 40, 60), np.uint8)
    probability[1] = np.where(label == 1, 200, 0)
    window = Window(32632, -520_000, 45_000, 40, 60)
    seen = uncertainty.map_of(window, {"label": label, "probability": probability}, truth)
    plane = np.broadcast_to(np.linspace(3000, 2600, 40, dtype=np.float32)[:, None], (40, 60))
    number = uncertainty.numbers_of(seen, plane, window)
    np.testing.assert_array_equal(number >= 0, (label == 1) & (truth != 255))
    found = uncertainty.glaciers_of("alps 1/32632", seen, number, truth)
    assert found.area.tolist() == pytest.approx([380e-4])
    assert found.truth.tolist() == pytest.approx([22 * 19 * 1e-4])
    assert found.false.tolist() == pytest.approx([0.2 * 380e-4])


def year_of(label_rows: int, true_rows: int, other: bool = False) -> retreat.Year:
    """A tongue that runs south from row 10 to a mapped and to a true terminus, over falling ground."""
    label, truth = np.zeros((2, 120, 60), np.uint8)
    label[10:label_rows, 24:34] = 1
    truth[10:true_rows, 24:34] = 2
    if other:  # in truth both are one, but they are mapped as two
        label[label_rows + 2 : 90, 20:40] = truth[label_rows:90, 20:40] = 1
    probability = np.zeros((5, 120, 60), np.uint8)
    probability[1] = np.where(label == 1, 250, 0)
    plane = np.broadcast_to(np.linspace(3600, 2600, 120, dtype=np.float32)[:, None], (120, 60))
    return retreat.Year(Window(32632, -520_000, 45_000, 120, 60), label, probability, plane, truth)


def test_the_true_retreat_is_that_of_true_ice_on_the_same_line() -> None:
    (row,) = retreat.termini(year_of(80, 84), year_of(60, 55))
    assert row[0] - row[1] == pytest.approx(200, abs=10)
    assert row[6] - row[0] == pytest.approx(40, abs=10)  # true ice beyond the mapped terminus
    assert row[7] - row[1] == pytest.approx(-50, abs=10)  # none where it is mapped
    assert row[2:6].tolist() == [5.0] * 4  # a map that is sure of itself


def test_true_ice_that_is_mapped_as_another_glacier_is_no_part_of_a_terminus() -> None:
    rows = retreat.termini(year_of(60, 60, other=True), year_of(60, 60, other=True))
    assert len(rows) == 2
    upper = rows[np.argmin(np.abs(rows[:, 0] - 500))]
    assert upper[6] - upper[0] == pytest.approx(20, abs=10)


def test_the_benchmark_of_retreat_runs_and_keeps_a_whole_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_grounds: list[overlap.Ground],
) -> None:
    asked: list[tuple[int, float]] = []

    def grounds(scale: Any, folder: Path, *, year: int, ela_shift_m: float) -> Iterator[overlap.Ground]:
        asked.append((year, ela_shift_m))
        for ground in tiny_grounds:
            features = ground.features.copy()
            # the later year's snow is a little less bright, and its ice therefore smaller
            features[CHANNELS.index("NDSI")] -= 0.2 * (year > 2018)
            yield replace(ground, features=features)

    monkeypatch.setattr(retreat, "load_predictor", lambda **options: snow_is_ice)
    monkeypatch.setattr(overlap, "grounds", grounds)
    kept = tmp_path / "retreat.jsonl"
    retreat.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert sorted(asked) == [(2018, 0.0), (2024, retreat.RISE_M)]
    assert set(document["results"]) == {"himalaya", "all"}
    told = document["results"]["all"]
    assert told["termini"] > 0
    assert told["median_width_m"] > 0
    assert "covered_pct" in capsys.readouterr().out


def test_the_share_of_termini_inside_leaves_out_those_that_have_no_truth() -> None:
    rows = np.array(
        [[100, 50, 3, 4, 3, 4, 105, 51], [100, 50, 3, 4, 3, 4, 200, 50], [9, 9, 5, 5, 5, 5, np.nan, 9]]
    )
    told = retreat.judged(rows)
    assert (told["termini"], told["without_truth"], told["covered_pct"]) == (2, 1, 50.0)
    assert told["median_width_m"] == 10.0
    assert told["factor_for_level"] == 20.0
