"""A run whose sources are taken from single days: what it reads, what it says, and what goes on with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest

from cryoscale.console import Console
from cryoscale.errors import OutputError
from cryoscale.finish import finish
from cryoscale.forecast.plan import Asked, make_plan
from cryoscale.ledger import Ledger
from cryoscale.preparation import look_again, prepare
from cryoscale.redraw import settings_of
from cryoscale.results import Run
from cryoscale.settings import Settings
from tests.integration.conftest import TinyRange, map_here

DATES = {"optical": ["2018-10-15"], "thermal": ["2018-10-18"], "insar": ["2018-10-15"]}


def settings(tiny_range: TinyRange, **dates: Any) -> Settings:
    """Of a part of the range, with ``dates`` of its sources."""
    west, south, east, north = tiny_range.bbox
    document = tiny_range.config(
        region={"bbox": [west, south, west + 0.4 * (east - west), south + 0.4 * (north - south)]},
        model={"name": "band-ratio"},
    )
    for modality, days in dates.items():
        document["sources"][modality]["dates"] = days
    return tiny_range.settings(**document)


def test_a_run_of_single_days_reads_their_scenes_alone_and_says_so(
    tiny_range: TinyRange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, dated = str(tmp_path / "run"), settings(tiny_range, **DATES)
    markers = map_here(dated, out)
    assert markers
    for marker in markers:
        scenes = {name for name in marker.scenes_read if not name.startswith("Copernicus")}
        # the pair's name ends with the zone, the others' with what was made when
        days = {name.split("_")[{"S2A": 2, "LC0": 3, "S1A": 5}[name[:3]]][:8] for name in scenes}
        assert days == {"20181015", "20181018"}, scenes
    for epsg in Run(out).zones(2018):
        taken = np.unique(Run(out).mosaic(2018, epsg)["source_date"].values)
        assert [str(day)[:10] for day in taken if not np.isnat(day)] == ["2018-10-15"]

    manifest = Ledger(out).manifest() or {}
    assert manifest["identity"]["dates"] == DATES
    finish(dated, out, lambda _: None)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "optical 2018-10-15; thermal 2018-10-18; insar 2018-10-15" in report
    assert span_of(out) == {("2018-10-15T00:00:00Z", "2018-10-18T23:59:59Z")}

    # what draws its end again knows the days from the record alone
    restored = settings_of(Run(out))
    assert {name: spec.dates for name, spec in restored.sources.items()} == {
        name: spec.dates for name, spec in dated.sources.items()
    }
    assert not look_again(dated, out)
    planned = make_plan(dated, asked=Asked(measured=False))
    assert planned.to_dict()["dates"] == DATES
    assert {key: planned.scenes[f"2018/{key}"] for key in DATES} == {"optical": 2, "thermal": 2, "insar": 2}
    capsys.readouterr()
    Console().plan(planned)
    assert "thermal: scenes of 2018-10-18 alone" in capsys.readouterr().out


def span_of(out: str) -> set[tuple[str, str]]:
    """Start and end of what the run's STAC items say of it."""
    found = [json.loads(path.read_text())["properties"] for path in Path(out, "stac").glob("*.json")]
    return {(one["start_datetime"], one["end_datetime"]) for one in found}


def test_a_run_is_not_gone_on_with_under_other_days(tiny_range: TinyRange, tmp_path: Path) -> None:
    whole, dated = str(tmp_path / "whole"), str(tmp_path / "dated")
    prepare(settings(tiny_range), whole)
    prepare(settings(tiny_range, **DATES), dated)
    assert "dates" not in (Ledger(whole).manifest() or {})["identity"]
    with pytest.raises(OutputError, match=r'dates \(none there, .*"optical": \["2018-10-15"\]'):
        prepare(settings(tiny_range, **DATES), whole)
    with pytest.raises(OutputError, match=r"dates\.thermal .*2018-10-18.* there, .*2018-10-02.* now"):
        prepare(settings(tiny_range, **{**DATES, "thermal": ["2018-10-02"]}), dated)
    assert prepare(settings(tiny_range, **DATES), dated)[1]
    # whose scenes are others, and by no provider's doing
    with pytest.raises(OutputError, match=r"dates\.thermal .*2018-10-18.* there, .*2018-10-02.* now"):
        look_again(settings(tiny_range, **{**DATES, "thermal": ["2018-10-02"]}), dated)
    assert not look_again(settings(tiny_range, **DATES), dated)


def test_a_look_at_the_providers_needs_no_weights(tiny_range: TinyRange, tmp_path: Path) -> None:
    """Whoever keeps an archive asks what is new where no model lies."""
    for path in tiny_range.weights.parent.glob(f"{tiny_range.weights.stem}.*"):
        copy(path, tmp_path / path.name)
    weights, out = tmp_path / tiny_range.weights.name, str(tmp_path / "run")
    asked = settings(tiny_range, **DATES)
    asked = replace(asked, model=replace(asked.model, name=None, weights=str(weights)))
    prepare(asked, out)
    weights.unlink()
    assert not look_again(asked, out)
