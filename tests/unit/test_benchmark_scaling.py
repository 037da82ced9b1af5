"""Runs on more GPUs than there are, replayed: what is told of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.scaling.__main__ import SCALES
from benchmarks.scaling.__main__ import main as scaling_main
from benchmarks.scaling.forecast import (
    RELIEFS,
    Case,
    by_workers,
    enough_workers,
    most_held_by,
    stop_of,
)
from benchmarks.scaling.inputs import rest_cpu_s
from benchmarks.scaling.jobs import FORMS, SPEEDS, in_production
from benchmarks.scaling.simulator import Job
from cryoscale.features.stack import HALO_PX
from cryoscale.forecast.rates import cores
from cryoscale.ledger import Marker


@pytest.mark.benchmarks
def test_scaling_is_told_by_gpus_with_what_holds_it_and_beside_a_measured_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, drawn = tmp_path / "scaling.jsonl", tmp_path / "scaling.png"
    scaling_main(["--scale", "tiny", "--out", str(kept), "--chart", str(drawn)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    (row,) = results["validation"]
    assert row["measured_s"] > 0
    # no simulated run is quicker than the processor seconds of its blocks on all cores
    assert row["forecast_s"] >= row["cpu_s"] / cores() - 0.01
    assert len(results["cases"]) == len(SPEEDS) * len(FORMS)
    for case in results["cases"]:
        one, more = case["by_gpus"]
        assert one["efficiency"] == 1.0
        assert one["blocks_s"] < more["blocks_s"] <= more["gpus"] / case["job"]["predict_s"] * 1.01
        assert more["busy"]["actors"] <= 1
        assert case["one_gpu_held_by"] in [*RELIEFS, "GPUs"]
        assert (case["most_held_by"] is None) == (max(row["busy"] for row in case["by_workers"]) >= 0.9)
    assert "assumed, not measured" in capsys.readouterr().out
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("intake_mb_s", "holds"), [(1000, "intake of the actors"), (5000, None)])
def test_what_keeps_a_gpu_from_its_work_is_what_holds_it_with_workers_enough(
    intake_mb_s: float, holds: str | None
) -> None:
    measured: Any = SimpleNamespace(
        intake_bytes_s=intake_mb_s * 1e6, driver_s=0.001, runs=[SimpleNamespace(start_s=1.0)]
    )
    # 100 ms of a GPU whose process takes in a block in 200 ms, or in 40
    case = Case(1000, FORMS[0], (Job(read_cpu_s=1.0, predict_s=0.1, sent_bytes=2e8),), measured)
    scale = replace(SCALES["tiny"], workers=(4, 64), steady_blocks=200)
    rows = by_workers(case, scale)
    assert most_held_by(case, scale, rows) == holds


def test_scaling_stops_at_the_first_number_of_gpus_that_is_not_worth_it() -> None:
    def row(gpus: int, efficiency: float) -> dict[str, Any]:
        return {"gpus": gpus, "efficiency": efficiency, "gain_where_doubled": {"store": 1.9, "GPUs": 1.0}}

    assert stop_of([row(1, 1.0), row(2, 0.8), row(4, 0.79), row(8, 0.4)]) == {
        "gpus": 4,
        "by": "store",
    }
    assert stop_of([row(1, 1.0), row(2, 0.8)]) is None


def test_a_gpu_has_enough_workers_where_it_is_as_busy_as_wanted_or_as_it_can_be() -> None:
    rows = [{"workers": 4, "busy": 0.3}, {"workers": 8, "busy": 0.55}, {"workers": 16, "busy": 0.6}]
    assert enough_workers(rows) == 8  # 0.9 of 0.6
    assert enough_workers([*rows, {"workers": 32, "busy": 1.0}]) == 32


def test_what_no_stage_counts_is_what_the_processes_used_beyond_them() -> None:
    def marker(began: float) -> Marker:
        return Marker(
            year=2018,
            epsg=32645,
            row=0,
            col=int(began),
            size_px=256,
            checksum="",
            written_bytes=1,
            pixels=1,
            valid_pixels=1,
            starts={"read": began, "write": began + 4},
            seconds={"read": 4.0, "write": 2.0},
            cpu_seconds={"read": 3.0, "write": 1.0},
        )

    markers = [marker(0.0), marker(3.0), marker(10.0)]
    # from 6 on: nothing of the first, a quarter of reading and all of writing of the second, all of the third
    stages_s = 0.0 + (0.75 + 1.0) + 4.0
    rest_s = rest_cpu_s(markers, (6.0, 100.0), (17.0, 100.0 + stages_s + 2.3))
    assert rest_s == pytest.approx(2.3 / (3 * stages_s / 12.0))


def test_a_block_of_the_size_of_production_is_replayed_as_it_was() -> None:
    cpu = {"read": 8.0, "features": 1.0, "predict": 99.0, "write": 0.5}
    marker = Marker(
        year=2018,
        epsg=32645,
        row=0,
        col=0,
        size_px=2048,
        checksum="",
        written_bytes=1,
        pixels=2048**2,
        valid_pixels=2048**2,
        cpu_seconds=cpu,
        fetches=800,
        fetched_bytes=500,
    )
    job = in_production(marker, FORMS[0], 1000, 0.0)
    assert (job.read_cpu_s, job.features_cpu_s, job.write_cpu_s, job.fetched_bytes) == (8.0, 1.0, 0.5, 500)
    # 128 px from tile to tile, the first begins 128 px before the block
    assert job.predict_s == 17**2 / 1000
    assert job.sent_bytes == (2048 + 256) ** 2 * 60
    assert job.wait_s == 800 * 0.05 / 8
    quarter = marker.model_copy(update={"size_px": 1024})
    more = in_production(quarter, FORMS[1], 1000, 0.0)
    assert more.write_cpu_s == 2.0
    assert more.read_cpu_s == pytest.approx(8.0 * ((2304 + 2 * HALO_PX) / (1280 + 2 * HALO_PX)) ** 2)
    assert more.features_cpu_s == 0.0
