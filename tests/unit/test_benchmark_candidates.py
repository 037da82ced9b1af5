"""What candidate masks save and lose, told mask by mask."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    candidates,
)


@pytest.mark.benchmarks
def test_the_candidates_saving_and_loss_are_told_mask_by_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "candidates.jsonl"
    candidates.main(["--scale", "tiny", "--out", str(kept)])
    results = json.loads(kept.read_text("utf-8"))["results"]
    rows = {(row["mask"], row["margin_m"]): row for row in results["all"]}
    assert len(rows) == 4 * len(candidates.BUFFERS_M) + len(candidates.REACHES_M)
    for (kind, margin_m), row in rows.items():
        assert 0 < row["computed_px"] <= row["region_px"]
        assert row["computed_px"] < row["region_px"] or row["lost_ice_px"] == 0
        assert row["lost_ice_px"] == 0 or not row["default"], (kind, margin_m)
    assert rows["truth", 0]["lost_ice_px"] == 0
    assert sum(row["default"] for row in rows.values()) == 5
    assert "<- default" in capsys.readouterr().out


def test_a_degraded_inventory_lies_off_and_misses_small_bodies() -> None:
    clean = np.zeros((60, 60), bool)
    clean[10:20, 10:20] = True  # 100 px, 0.01 km2: the least that is kept
    clean[40:49, 30:41] = True  # 99 px
    found = candidates.degraded(clean)
    assert np.argwhere(found).min(axis=0).tolist() == [12, 12]
    assert np.argwhere(found).max(axis=0).tolist() == [21, 21]
    far_m = 10 * max(min(math.dist(a, b) for b in np.argwhere(found)) for a in np.argwhere(clean))
    assert candidates.beyond_m(clean, found) == pytest.approx(far_m)
    assert candidates.beyond_m(clean, np.zeros_like(clean)) == math.inf
