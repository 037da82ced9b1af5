"""The benchmark of fronts: a lake that is led into its ice, here of a tongue whose front lies at a slant."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import fronts


def slanting_front(seed: int, size: str) -> SimpleNamespace:
    """Of a range what the benchmark reads: classes and elevation of a tongue that ends in a lake."""
    rows, cols = np.mgrid[:200, :120]
    tongue, above = (abs(cols - 60) < 15) & (rows >= 20), rows + 0.3 * cols < 150
    truth = np.where(tongue & above, 2, np.where(tongue, 3, 0)).astype(np.uint8)
    z = 4000.0 + 2.0 * np.maximum(150 - rows, 0) - 0.5 * abs(cols - 60) + 50.0 * ~tongue
    return SimpleNamespace(truth=truth, elevation_m=z.astype(np.float32))


def test_a_lake_that_is_led_into_its_ice_is_measured_to_less_than_half_a_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "make_range", slanting_front)
    monkeypatch.setattr(fronts, "LED_M", (7.3,))
    fronts.main(["--seeds", "7", "--out", str(tmp_path / "line.jsonl")])
    (line,) = map(json.loads, (tmp_path / "line.jsonl").read_text("utf-8").splitlines())
    found = line["results"]
    assert (found["fronts"], found["measurements"]) == (1, 1)
    assert 0.0 < found["largest_error_m"] < 5.0
    assert found["share_within_stated"] == 1.0


def test_the_smallest_range_that_has_a_front_is_measured(tmp_path: Path) -> None:
    kept = tmp_path / "line.jsonl"
    fronts.main(["--size", "tiny", "--seeds", "5", "--out", str(kept)])
    found = json.loads(kept.read_text("utf-8"))["results"]
    assert (found["fronts"], found["measurements"]) == (1, len(fronts.LED_M))
    assert found["largest_error_m"] < 5.0
