from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryoscale.config import load_config, read_config
from cryoscale.document import read_document
from cryoscale.errors import ConfigError, RegionError
from cryoscale.settings import Season

KHUMBU: dict[str, Any] = {
    "name": "khumbu-2018",
    "region": {"bbox": [86.70, 27.85, 87.05, 28.10]},
    "years": [2018],
    "season": {"start": "10-01", "end": "10-31"},
    "catalogs": [
        {"url": "https://planetarycomputer.microsoft.com/api/stac/v1", "sign": "planetary-computer"},
        {"url": "https://earth-search.aws.element84.com/v1"},
    ],
    "sources": {
        "optical": {"collection": "sentinel-2-l2a", "max_cloud_pct": 60, "composite": "least_snow"},
        "terrain": {"collection": "cop-dem-glo-30"},
        "thermal": {"collection": "landsat-c2-l2"},
        "velocity": {"href": "s3://bucket/ITS_LIVE_velocity_120m.zarr"},
        "insar": {"collection": "my-coherence"},
    },
    "model": {"weights": "cryonet.safetensors", "overlap": 0.5, "precision": "auto"},
    "tiling": {"tile_px": 256, "block_px": 2048},
    "outlines": {"min_area_km2": 0.01},
    "cluster": {"kind": "local", "cpu_workers": 2, "gpu_workers": 0},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(KHUMBU)
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    return document


def test_the_documented_configuration_is_understood(tmp_path: Path) -> None:
    (tmp_path / "cryonet.safetensors").touch()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(KHUMBU))
    settings = load_config(tmp_path / "run.yaml")
    assert settings.region.bounds == (86.70, 27.85, 87.05, 28.10)
    assert settings.season.interval(2018) == "2018-10-01T00:00:00Z/2018-10-31T23:59:59Z"
    assert settings.catalogs[0].sign == "planetary-computer"
    assert settings.sources["optical"].composite == "least_snow"
    assert settings.sources["velocity"].href == "s3://bucket/ITS_LIVE_velocity_120m.zarr"
    assert settings.model.weights == str(tmp_path / "cryonet.safetensors")
    assert (settings.tile_px, settings.block_px) == (256, 2048)
    assert settings.files == ("product", "pmtiles", "kmz", "cog")


def test_files_are_chosen_by_name_and_a_region_may_be_written_as_a_number() -> None:
    settings = load_config(changed("outlines", {"files": ["shapefile", "kmz", "kmz"], "o1region": 7}))
    assert (settings.files, settings.o1region) == (("kmz", "shapefile"), "07")
    assert load_config(changed("outlines", {"files": []})).files == ()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("wheather", 1, r"unknown key 'wheather'.*one of.*years"),
        ("sources.optical.max_cloud", 1, r"unknown key 'sources.optical.max_cloud'.*max_cloud_pct"),
        ("years", [], "years"),
        ("years", ["soon"], "years.0"),
        ("season", {"start": "13-01", "end": "10-31"}, "no month-day"),
        ("sources.optical.composite", "prettiest", "least_snow"),
        ("model", {"overlap": 0.5}, "exactly one of weights and name"),
        ("model", {"name": "band-ratio", "overlap": 1.0}, "less than 1"),
        ("tiling.tile_px", 250, "multiple of 16"),
        ("cluster.kind", "slurm", "none of local"),
        ("cluster.namespace", "ice", "namespace only with kind: kubernetes"),
        ("cluster.image", "there/cpu:1", "image only with kind: kubernetes"),
        ("cluster.name", "Big_Ice", "pattern"),
        ("catalogs", [], "catalogs"),
        ("sources", {"terrain": {"collection": "x"}}, "sources.optical"),
        ("catalogs", [{"url": ""}], "catalogs.0.url: '' in .*not empty"),
        ("sources.optical.collection", " ", "sources.optical.collection: ' ' in .*not empty"),
        ("sources.terrain", {"collection": ""}, "sources.terrain.collection: '' in .*not empty"),
        ("sources.velocity", {"href": ""}, "sources.velocity.href: '' in .*not empty"),
        ("name", "..", "more than dots and spaces"),
        ("name", " . ", "more than dots and spaces"),
        ("region.buffer_m", float("inf"), "region.buffer_m: inf.*finite"),
        ("region.buffer_m", 1e308, "less than or equal to 100000"),
        ("region.buffer_m", 30_000_000, "less than or equal to 100000"),
        ("region.bbox", [True, 27.85, 87.05, 28.10], "region.bbox: .*neither true nor false"),
        ("region.buffer_m", True, "region.buffer_m: True .*neither true nor false"),
        ("cluster.cpu_workers", True, "cluster.cpu_workers: True .*neither true nor false"),
        ("outlines.o1region", True, "outlines.o1region: True "),
        ("region.bbox", [86.70, float("nan"), 87.05, 28.10], "region.bbox.1: nan.*finite"),
        ("candidates", {"rgi": "x.gpkg", "buffer_m": float("inf")}, "candidates.buffer_m.*finite"),
        ("candidates", {"rgi": "x.gpkg", "buffer_m": 1e6}, "less than or equal to 100000"),
        ("outlines.min_area_km2", float("inf"), "outlines.min_area_km2: inf.*finite"),
    ],
)
def test_a_key_or_value_that_does_not_fit_is_told_in_one_line(path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(changed(path, value))
    assert "\n" not in str(caught.value)


def test_a_key_that_is_misspelt_is_told_before_the_one_that_is_missing_for_it() -> None:
    document = changed("sources.optical", {"colection": "sentinel-2-l2a"})
    with pytest.raises(ConfigError, match=r"unknown key 'sources.optical.colection'.*one of.* collection"):
        load_config(document)
    document = {"year" if key == "years" else key: value for key, value in KHUMBU.items()}
    with pytest.raises(ConfigError, match=r"unknown key 'year' .*and 1 more.*one of.* years"):
        load_config(document)


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "", "\x00"])
def test_a_file_that_is_no_configuration_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int abc",
        "a: !!float abc",
        "a: !!bool maybe",
        "a: !!timestamp 2018-13-45",
        f"a: {'9' * 5000}",
        f"a: {'[' * 3000}",
        'a: "\\ud800"',
    ],
    ids=lambda text: text[:20],
)
def test_a_value_that_is_not_what_its_tag_says_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="correct the file") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["~nobody-here/a.geojson", "a\0b", "a" * 5000], ids=["home", "nul", "long"])
def test_what_no_file_is_called_is_told_in_one_line(file: str) -> None:
    with pytest.raises((ConfigError, RegionError), match="correct it|check the path") as caught:
        load_config(changed("region", {"file": file}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("twice", "words"),
    [
        ("years: [2018]\nseason: {}\nyears: [2019]\n", "line 3: the key 'years' again, which line 1 has"),
        ("region:\n  file: a.gpkg\n  file: b.gpkg\n", "line 3: the key 'file' again, which line 2 has"),
        ("catalogs:\n- {url: a, url: b}\n", "line 2: the key 'url' again, which line 2 has"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_by_its_lines(tmp_path: Path, twice: str, words: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(twice)
    with pytest.raises(ConfigError, match=f"{words}; expected .*; correct the file") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_a_mapping_may_change_what_it_takes_over_from_another(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = "base: &base {a: 1, b: 2}\nfirst: {x: &more {<<: *base, b: 3}}\nsecond: {<<: *more, a: 4}\n"
    path.write_text(text)
    assert read_document(path, "a document") == yaml.safe_load(text)


def test_a_reversed_region_is_refused_before_anything_is_read() -> None:
    with pytest.raises(RegionError, match="exchange"):
        load_config(changed("region.bbox", [87.05, 27.85, 86.70, 28.10]))


def test_a_season_over_the_new_year_belongs_to_the_year_in_which_it_ends() -> None:
    assert Season("12-01", "02-28").interval(2019) == "2018-12-01T00:00:00Z/2019-02-28T23:59:59Z"
    assert Season("02-01", "02-29").interval(2019).endswith("2019-02-28T23:59:59Z")
    with pytest.raises(ConfigError, match="04-31"):
        Season("04-01", "04-31").interval(2019)


def test_without_a_season_each_hemisphere_has_its_own_end_of_summer() -> None:
    document = copy.deepcopy(KHUMBU)
    del document["season"]
    assert load_config(document).season == Season("07-15", "10-15")
    document["region"] = {"bbox": [-72.6, -38.9, -72.4, -38.8]}
    assert load_config(document).season == Season("01-15", "04-15")


def test_a_limit_of_uncertainty_reaches_the_thermal_source_and_must_be_one() -> None:
    assert load_config(KHUMBU).sources["thermal"].max_uncertainty_k is None
    settings = load_config(changed("sources.thermal.max_uncertainty_k", 5))
    assert settings.sources["thermal"].max_uncertainty_k == 5.0
    with pytest.raises(ConfigError, match="max_uncertainty_k"):
        load_config(changed("sources.thermal.max_uncertainty_k", 0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "at least one of rgi"),
        ({"buffer_m": 100}, "at least one of rgi"),
        ({"min_ndsi": 0.2, "buffer_m": 100}, "buffer_m means nothing without rgi"),
        ({"min_elevation_m": 3000, "ndsi_reach_m": 100}, "ndsi_reach_m means nothing without min_ndsi"),
        ({"min_ndsi": 2}, "min_ndsi"),
        ({"max_slope_deg": 0}, "max_slope_deg"),
    ],
)
def test_candidates_that_mean_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(KHUMBU | {"candidates": given})


def test_candidates_by_slope_need_an_elevation_model() -> None:
    sources = {name: source for name, source in KHUMBU["sources"].items() if name != "terrain"}
    with pytest.raises(ConfigError, match="elevation model"):
        load_config(KHUMBU | {"sources": sources, "candidates": {"max_slope_deg": 50}})


def test_each_limit_of_the_candidates_may_stand_alone() -> None:
    settings = load_config(KHUMBU | {"candidates": {"min_ndsi": 0.2}})
    assert settings.candidates is None
    assert settings.coarse is not None
    assert (settings.coarse.min_ndsi, settings.coarse.ndsi_reach_m) == (0.2, 5000.0)
    assert not settings.coarse.looks_at_terrain
