"""Outlines that cannot be used, wherever ``cryoscale run`` takes some: told in one line, nothing written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import yaml
from shapely.geometry import Polygon, box

from cryoscale.cli import main
from cryoscale.region import RegionSpec, read_region
from cryoscale.write.rings import crossing

HERE = [10.0, 46.0, 10.1, 46.1]
PLACES = ("region.file", "region.rgi", "candidates.rgi", "outlines.rgi")
BOW_TIE = Polygon([(10.05, 46.02), (10.06, 46.03), (10.06, 46.02), (10.05, 46.03)])


def glaciers(*shapes: Polygon, region: str = "11") -> gpd.GeoDataFrame:
    ids = [f"RGI2000-v7.0-G-{region}-{number:05d}" for number in range(1, len(shapes) + 1)]
    return gpd.GeoDataFrame({"rgi_id": ids, "o1region": region}, geometry=list(shapes), crs="EPSG:4326")


Told = Callable[..., str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Asks the command, which has to refuse."""

    def call(place: str, outlines: Path, **more: Any) -> str:
        return refused(place, outlines, more, monkeypatch, capsys)

    return call


def refused(
    place: str,
    outlines: Path,
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What the command says of a configuration that names the outlines in one place, and leaves."""
    document: dict[str, Any] = {
        "name": "bad",
        "region": {"bbox": HERE},
        "years": [2018],
        "catalogs": [{"url": "catalogue"}],
        "sources": {"optical": {"collection": "sentinel-2-l2a"}},
        "model": {"name": "band-ratio"},
        **more,
    }
    folder = outlines.parent
    section, key = place.split(".")
    document[section] = {key: outlines.name}
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    before = sorted(folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["cryoscale", "run", f"{folder}/run.yaml", "--out", f"{folder}/out"])
    with pytest.raises(SystemExit) as stop:
        main()
    seen = capsys.readouterr()
    assert stop.value.code == 2, seen.err
    (line,) = seen.err.strip().splitlines()
    assert sorted(folder.iterdir()) == before
    assert all(word in line for word in ("given ", "; expected ", "; ", outlines.name)), line
    return line


@pytest.mark.parametrize("place", PLACES)
def test_outlines_without_a_crs_are_refused(tmp_path: Path, place: str, told: Told) -> None:
    path = tmp_path / "outlines.shp"
    glaciers(box(10.05, 46.02, 10.06, 46.03)).to_file(path)
    path.with_suffix(".prj").unlink()
    line = told(place, path)
    assert "without a CRS" in line
    assert "set it in the file" in line


@pytest.mark.parametrize("place", PLACES)
def test_a_ring_that_crosses_itself_is_refused_by_its_name_and_place(
    tmp_path: Path, place: str, told: Told
) -> None:
    path = tmp_path / "outlines.gpkg"
    glaciers(box(10.02, 46.02, 10.03, 46.03), BOW_TIE).to_file(path)
    line = told(place, path)
    assert "rings cross (RGI2000-v7.0-G-11-00002: Self-intersection[10.055 46.025])" in line


@pytest.mark.parametrize("place", ["candidates.rgi", "outlines.rgi"])
def test_the_rgi_of_another_region_is_refused(tmp_path: Path, place: str, told: Told) -> None:
    path = tmp_path / "RGI2000-v7.0-G-15.gpkg"
    glaciers(box(87.0, 28.0, 87.01, 28.01), region="15").to_file(path)
    line = told(place, path)
    assert "of the region" in line or "in the region" in line
    assert "give that region's file" in line
    if place == "outlines.rgi":
        assert "of the RGI's region 15" in line


def test_glaciers_in_the_box_around_a_region_but_not_within_it_are_of_another(
    tmp_path: Path, told: Told
) -> None:
    basin = Polygon([(10.0, 46.0), (10.1, 46.0), (10.0, 46.1)])
    gpd.GeoDataFrame(geometry=[basin], crs=4326).to_file(tmp_path / "basin.gpkg")
    path = tmp_path / "rgi.gpkg"
    glaciers(box(10.08, 46.08, 10.09, 46.09)).to_file(path)
    line = told("outlines.rgi", path, region={"file": "basin.gpkg"})
    assert "none lies in the region" in line


def test_a_ring_that_only_touches_itself_is_taken_with_its_whole_area(tmp_path: Path) -> None:
    touching = Polygon(
        [(10.0, 46.0), (10.02, 46.0), (10.02, 46.01), (10.01, 46.0), (10.0, 46.01)]  # its edge in the middle
    )
    assert not touching.is_valid
    glaciers(touching).to_file(tmp_path / "region.gpkg")
    found = read_region(RegionSpec(file=str(tmp_path / "region.gpkg")))
    assert found.area == pytest.approx(touching.area)
    assert found.is_valid


def test_parts_that_overlap_are_a_crossing_as_well_and_sound_ones_are_none() -> None:
    overlapping = shapely.MultiPolygon([box(0, 0, 2, 2), box(1, 1, 3, 3)])
    apart = shapely.MultiPolygon([box(0, 0, 1, 1), box(2, 2, 3, 3)])
    assert crossing(np.array([apart], object), ["sound"]) is None
    assert str(crossing(np.array([apart, overlapping], object), ["sound", "bad"])).startswith("bad: ")
