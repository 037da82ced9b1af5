"""Benchmarks of memory run at their smallest and say what was held, where and when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import memory, pod_memory, run_memory, streaming


@pytest.mark.benchmarks
def test_the_memory_of_a_region_and_of_one_four_times_larger_is_told_step_by_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "memory.jsonl"
    memory.main(["--scale", "tiny", "--ground", "glaciers", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    (pair,) = document["results"]["pairs"]
    assert (pair["small"]["blocks"], pair["large"]["blocks"]) == (1, 4)
    printed = capsys.readouterr().out
    for side in (pair["small"], pair["large"]):
        assert side["peak_mib"] == side["peaks_mib"][side["peak_step"]] == max(side["peaks_mib"].values())
        assert any("outlines" in step for step in side["peaks_mib"])
        assert all(step in printed and peak > 10 for step, peak in side["peaks_mib"].items())
    assert pair["ratio"] == pytest.approx(pair["large"]["peak_mib"] / pair["small"]["peak_mib"], abs=1e-3)
    more = [pair[side]["inventory_bytes"]["2018.parquet"] for side in ("small", "large")]
    assert more[0] < more[1]


@pytest.mark.benchmarks
def test_streamed_outlines_are_those_of_the_ground_laid_out_and_the_peaks_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "streaming.jsonl"
    streaming.main(["--scale", "tiny", "--ground", "glaciers", "--out", str(kept)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    piece = np.tile(np.asarray(memory.ground("glaciers", 128)["label"]), (2, 3))[:256, :320]
    pixels = np.bincount(ndimage.label(np.isin(piece, (1, 2)))[0].ravel())[1:]
    found = results["glaciers"]["large"]
    assert (
        (pixels > 101).sum() <= found["outlines"] <= (pixels > 99).sum()
    )  # 0.01 km2, give or take UTM's scale
    assert found["blocks"] == 20
    assert "times that of 4 blocks" in capsys.readouterr().out


@pytest.mark.benchmarks
def test_the_peaks_of_a_run_are_told_for_a_region_and_for_a_larger_one(tmp_path: Path) -> None:
    kept = tmp_path / "run_memory.jsonl"
    run_memory.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    told = document["results"]
    assert 0 < told["quarter"]["blocks"] < told["whole"]["blocks"]
    assert set(told["ratios"]) == {"driver_mib", "worker_mib"}
    assert told["whole"]["worker_mib"] > 100


@pytest.mark.benchmarks
def test_the_peaks_of_pods_are_told_process_by_process(tmp_path: Path) -> None:
    kept = tmp_path / "pod_memory.jsonl"
    pod_memory.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    told = document["results"]
    assert set(told) == {"blocks", "scheduler", *pod_memory.PODS, "driver"}
    assert told["blocks"] > 4
    # the library alone is more; peaks are not ordered among processes on a map as small as this
    assert min(told[name] for name in ("cpu worker", "actor", "driver")) > 100
