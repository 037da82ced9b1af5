"""The benchmark of flags for seasonal snow: it runs, and counts as a hand would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import snow


def test_flags_are_scored_by_what_outlines_are_in_truth() -> None:
    truth = [snow.kind_of(ice) for ice in (0.0, 0.05, 0.09, 0.1, 0.3, 0.5, 1.0, 1.0)]
    assert truth == ["snow"] * 3 + ["mixed"] * 2 + ["ice"] * 3
    words = ["likely", "likely", None, "likely", "no", "likely", "no", "doubtful"]
    scores = snow.score(truth, words, "likely")
    assert scores["counts"]["snow"] == {"None": 1, "doubtful": 0, "likely": 2, "no": 0}
    assert (scores["precision"], scores["recall"]) == (0.5, pytest.approx(2 / 3, abs=1e-3))
    assert (scores["no_glacier_among_flagged"], scores["glaciers_flagged"]) == (
        0.75,
        pytest.approx(1 / 3, abs=1e-3),
    )
    assert snow.score(["ice"], ["no"], "likely")["precision"] is None


def test_the_threshold_of_otsu_lies_between_two_classes_of_cells() -> None:
    nir = np.r_[np.linspace(0.2, 0.3, 80), np.linspace(0.7, 0.9, 20)]
    assert 0.3 <= snow.otsu(nir, np.ones(100)) <= 0.7
    np.testing.assert_array_equal(
        snow.by_otsu(np.r_[nir, np.nan], np.ones(101)), [0] * 80 + [1] * 20 + [np.nan]
    )


@pytest.mark.benchmarks
def test_the_benchmark_of_snow_runs_and_keeps_a_whole_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "snow.jsonl"
    snow.main(["--scale", "tiny", "--out", str(kept)])
    (document,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert set(document["results"]) == {"himalaya 701", "all"}
    told = document["results"]["himalaya 701"]
    printed = capsys.readouterr().out
    for name, scores in told["verdicts"].items():
        assert f"himalaya 701, {name}" in printed
        assert sum(sum(words.values()) for words in scores["counts"].values()) == told["outlines"]
    # the range has snow that the band ratio takes for ice, and evidence by which some of it is known
    found = told["verdicts"]["all evidence"]
    assert sum(found["counts"]["snow"].values()) > 0
    assert found["recall"] > told["verdicts"]["persistence alone"]["recall"] == 0.0
    assert 0.5 < told["snow_fraction"]["cells_right"]["normalised"] <= 1.0
