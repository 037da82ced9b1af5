"""The days that a source may be taken from: what is understood, what is refused, and where it is told."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pystac import Item
from shapely.geometry import box, mapping

from cryoscale.config import load_config
from cryoscale.drawings import _when
from cryoscale.errors import ConfigError, InputError, NoScenesError
from cryoscale.manifest import compose, require_modalities
from cryoscale.plan import find_items, without_scene
from cryoscale.settings import Settings

DAYS = ["2018-10-10", "2018-10-15"]

MODEL: dict[str, Any] = {
    "name": "band-ratio",
    "identity": {"name": "band-ratio"},
    "channels": [],
    "needs_halo": False,
    "pca": None,
}


def document(**dates: Any) -> dict[str, Any]:
    """A configuration with ``dates`` of its sources."""
    found: dict[str, Any] = {
        "name": "poiqu",
        "region": {"bbox": [86.70, 27.85, 87.05, 28.10]},
        "years": [2018],
        "season": {"start": "10-01", "end": "10-31"},
        "catalogs": [{"url": "https://example.org"}],
        "sources": {
            "optical": {"collection": "s2"},
            "terrain": {"collection": "dem"},
            "thermal": {"collection": "landsat"},
            "velocity": {"collection": "its-live"},
            "insar": {"collection": "pairs"},
            "radar": {"collection": "rtc"},
        },
        "model": {"name": "band-ratio"},
    }
    for modality, days in dates.items():
        found["sources"][modality]["dates"] = days
    return found


def named(settings: Settings) -> dict[str, list[str]]:
    return {name: [str(day) for day in spec.dates] for name, spec in settings.sources.items() if spec.dates}


@pytest.mark.parametrize("modality", ["optical", "thermal", "insar", "radar"])
def test_days_of_the_season_are_taken_in_their_order(modality: str) -> None:
    assert named(load_config(document(**{modality: DAYS[::-1]}))) == {modality: DAYS}
    assert named(load_config(document())) == {}


def test_a_day_may_be_written_without_quotes_and_stands_in_the_record_as_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(optical="DAYS")).replace("DAYS", "[2018-10-15, '2018-10-10']"))
    settings = load_config(path)
    assert named(settings) == {"optical": DAYS}
    assert json.loads(json.dumps(settings.document))["sources"]["optical"]["dates"] == DAYS[::-1]
    assert load_config(settings.document).sources == settings.sources
    # as other readers of YAML give it
    assert named(load_config(document(optical=[date(2018, 10, 15)]))) == {"optical": ["2018-10-15"]}


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (["soon"], "sources.optical.dates.0: 'soon'.*expected a day such as '2018-10-15'; correct it"),
        (["10-15"], "a day such as"),
        (["2018-10"], "a day such as"),
        ([20181015], "a day such as"),
        (["2018-10-15T04:39:34Z"], "a day such as"),
        ([datetime(2018, 10, 15, tzinfo=UTC)], "a day such as"),
        (["2018-10-15", "2018-10-32"], "sources.optical.dates.1.*a day that the calendar has"),
        ("2018-10-15", "sources.optical.dates: '2018-10-15'.*list"),
        ([], "sources.optical.dates.*at least 1"),
        (None, "sources.optical.dates.*no day; list some, or leave dates out for all of the season"),
        (["2018-10-15", "2018-10-16", "2018-10-15"], "optical.dates with 2018-10-15 more than once"),
        (["2018-10-15", date(2018, 10, 15)], "optical.dates with 2018-10-15 more than once"),
        (
            ["2018-11-01", "2018-10-15", "2018-09-30"],
            "optical.dates with 2018-09-30, 2018-11-01, outside season 10-01 to 10-31 of 2018; "
            "expected days of 2018-10-01 to 2018-10-31; correct the date, or widen season or years",
        ),
        (["2019-10-15"], "optical.dates with 2019-10-15, outside season"),
    ],
)
def test_what_is_no_day_of_the_run_is_refused_in_one_line(days: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(document(optical=days))
    assert "\n" not in str(caught.value)


def test_a_day_that_the_calendar_lacks_is_refused_as_one_that_yaml_would_read_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(optical="DAYS")).replace("DAYS", "[2018-10-32]"))
    with pytest.raises(ConfigError, match=r"dates\.0: '2018-10-32'.*calendar"):
        load_config(path)


@pytest.mark.parametrize(("modality", "known"), [("terrain", "collection"), ("velocity", "collection, href")])
def test_what_has_no_season_takes_no_dates(modality: str, known: str) -> None:
    words = f"unknown key 'sources.{modality}.dates' in .*; expected one of {known}; remove it"
    with pytest.raises(ConfigError, match=words):
        load_config(document(**{modality: DAYS}))


def test_each_year_needs_a_day_and_a_season_over_the_new_year_belongs_to_that_in_which_it_ends() -> None:
    season = {"season": {"start": "12-01", "end": "02-28"}}
    days = ["2017-12-24", "2018-02-01", "2018-12-24"]
    settings = load_config(document(optical=days) | season | {"years": [2018, 2019]})
    of_year = {year: [str(day) for day in settings.dates_of("optical", year)] for year in settings.years}
    assert of_year == {2018: days[:2], 2019: days[2:]}
    assert settings.dates_of("thermal", 2018) == ()
    with pytest.raises(ConfigError, match="with 2018-12-24, outside season 12-01 to 02-28 of 2018"):
        load_config(document(optical=days) | season)
    words = "without a day of 2019, whose season is 2018-12-01 to 2019-02-28; expected a day of each"
    with pytest.raises(ConfigError, match=words):
        load_config(document(optical=days[:2]) | season | {"years": [2018, 2019]})


def test_the_season_that_is_taken_where_none_is_given_holds_for_the_days_too() -> None:
    found = document(optical=["2018-10-22"])
    del found["season"]
    with pytest.raises(ConfigError, match="2018-10-22, outside season 07-15 to 10-15 of 2018"):
        load_config(found)


def identity_of(**dates: Any) -> dict[str, Any]:
    found: dict[str, Any] = compose(load_config(document(**dates)), MODEL, "digest", [])["identity"]
    return found


def test_days_make_another_run_and_their_absence_leaves_a_run_what_it_was() -> None:
    plain = identity_of()
    assert set(plain) == {
        *("region", "years", "catalogue", "model", "season", "sources", "candidates"),
        *("overlap", "precision", "tile_px", "block_px", "on_missing"),
    }
    assert plain["sources"]["optical"] == ["s2", None, "least_snow", 60.0]
    assert identity_of(optical=DAYS, insar=DAYS[1:]) == {
        **plain,
        "dates": {"optical": DAYS, "insar": DAYS[1:]},
    }
    assert identity_of(optical=DAYS[::-1]) == identity_of(optical=DAYS)


def test_the_imagery_of_a_run_spans_the_season_unless_every_source_of_it_is_narrower() -> None:
    def days(**dates: Any) -> list[str]:
        return [str(day) for day in load_config(document(**dates)).imagery_days(2018)]

    season, study = ["2018-10-01", "2018-10-31"], ["2018-10-10", "2018-10-15"]
    assert days() == days(optical=DAYS) == season
    assert days(optical=DAYS[1:], thermal=DAYS, insar=DAYS[1:], radar=DAYS[1:]) == study


def test_below_a_map_stand_the_days_of_its_year_or_how_many() -> None:
    assert _when(load_config(document(thermal=DAYS)), 2018) == "season 10-01 to 10-31"
    few = load_config(document(optical=[*DAYS, "2019-10-15"]) | {"years": [2018, 2019]})
    assert _when(few, 2018) == "season 10-01 to 10-31, optical of 2018-10-10, 2018-10-15"
    assert _when(few, 2019) == "season 10-01 to 10-31, optical of 2019-10-15"
    many = [f"2018-10-{day:02d}" for day in range(1, 6)]
    assert _when(load_config(document(optical=many)), 2018) == "season 10-01 to 10-31, optical of 5 dates"


@pytest.fixture
def catalogue(tmp_path: Path) -> dict[str, Any]:
    """Optical scenes of two days, a DEM, and Landsat of one day."""
    bounds = (86.7, 27.8, 87.1, 28.2)
    scenes = [("s2", 5), ("s2", 15), ("dem", 1), ("landsat", 10)]
    for collection, day in scenes:
        moment = datetime(2018, 10, day, 4, 39, tzinfo=UTC)
        made = Item(
            f"{collection}-{day}", mapping(box(*bounds)), list(bounds), moment, {}, collection=collection
        )
        (tmp_path / f"{made.id}.json").write_text(json.dumps(made.to_dict(include_self_link=False)))
    found = document()
    found["sources"] = {name: found["sources"][name] for name in ("optical", "terrain", "thermal")}
    return found | {"catalogs": [{"url": str(tmp_path)}]}


def dated(found: dict[str, Any], **dates: Any) -> Settings:
    for modality, days in dates.items():
        found["sources"][modality]["dates"] = days
    return load_config(found)


def test_a_search_finds_the_scenes_of_these_days_alone(catalogue: dict[str, Any]) -> None:
    items = find_items(dated(catalogue, optical=["2018-10-15"]))
    assert {key: [item.id for item in some] for key, some in items.items()} == {
        "2018/optical": ["s2-15"],
        "all/terrain": ["dem-1"],
        "2018/thermal": ["landsat-10"],
    }


def test_a_year_without_an_optical_scene_of_its_days_is_told_with_those_that_there_are(
    catalogue: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    words = (
        r"no item of s2 .* for 2018-10-16 within .* but of 2018-10-05, 2018-10-15\).*correct sources.optical"
    )
    with pytest.raises(NoScenesError, match=words) as caught:
        find_items(dated(catalogue, optical=["2018-10-16"]))
    assert "\n" not in str(caught.value)
    assert "2018-10-16" not in caplog.text  # the line that ends it says it once


def test_a_day_without_a_scene_is_told_and_an_error_where_nothing_may_be_missing(
    catalogue: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = dated(catalogue, optical=["2018-10-15", "2018-10-20"], thermal=["2018-10-11"])
    items = find_items(settings)
    lines = [
        "no optical scene under 95 % cloud of 2018-10-20, which sources.optical.dates names",
        "no thermal scene of 2018-10-11, which sources.thermal.dates names",
    ]
    assert without_scene(settings, items) == lines
    assert [record.getMessage() for record in caplog.records if "dates" in record.getMessage()] == lines
    every = document(optical=["2018-10-15"], thermal=["2018-10-11"]) | {"on_missing": "fail"}
    with pytest.raises(
        InputError, match="2018/thermal of 2018-10-11 under on_missing: fail.*correct its dates"
    ):
        require_modalities(load_config(every), items)
