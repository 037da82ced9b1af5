"""Three real places (Sentinel-2, Sentinel-1, Copernicus DEM; all else missing), mapped as any region is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from cryoscale.api import run
from cryoscale.demo import demo_weights
from cryoscale.results import Run

PLACES = ("433D_629L_3_1", "609U_541L_3_0", "38D_378R_2_3")
MODELS: dict[str, dict[str, Any]] = {
    "band-ratio": {"name": "band-ratio"},
    "demo weights": {"weights": str(demo_weights())},
}


def config_of(chips: Path, place: str, model: dict[str, Any]) -> dict[str, Any]:
    """A configuration for the middle of a chip, in the month of its scene."""
    item = json.loads((chips / "sentinel-2-l2a" / place / f"S2L2A_{place}.json").read_text())
    west, south, east, north = item["bbox"]
    margin_x, margin_y = 0.1 * (east - west), 0.1 * (north - south)
    year, month = item["properties"]["datetime"][:4], item["properties"]["datetime"][5:7]
    return {
        "name": place,
        "region": {"bbox": [west + margin_x, south + margin_y, east - margin_x, north - margin_y]},
        "years": [int(year)],
        "season": {"start": f"{month}-01", "end": f"{month}-28"},
        "catalogs": [{"url": str(chips)}],
        "sources": {
            "optical": {"collection": "sentinel-2-l2a", "max_cloud_pct": 100},
            "terrain": {"collection": "cop-dem-glo-30"},
            "radar": {"collection": "sentinel-1-rtc"},
        },
        "model": model,
        "tiling": {"tile_px": 256, "block_px": 256},
        "outlines": {"files": []},
        "cluster": {"kind": "local", "cpu_workers": 1, "gpu_workers": 0},
    }


@pytest.fixture(scope="module")
def chips(shared_data: Path) -> Path:
    return shared_data / "chips"


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_real_place_is_mapped(chips: Path, tmp_path: Path, place: str, model: str) -> None:
    made = run(config_of(chips, place, MODELS[model]), tmp_path / "run")
    state = made.status()
    assert state.done == state.total
    assert not state.set_aside
    year = made.years[0]
    (epsg,) = made.zones(year)
    found = made.mosaic(year, epsg).load()
    valid = found["label"].values != 255
    assert valid.sum() > 20_000  # 80 % of 224 x 224 pixels, and no hole in it
    assert set(np.unique(found["modalities"].values[valid])) == {1 | 4}, "optical and terrain alone"
    assert (tmp_path / "run" / "map.png").stat().st_size > 10_000
    report = (tmp_path / "run" / "report.html").read_text()
    assert "velocity" in report
    if model == "band-ratio":
        assert_agrees_with_raw_numbers(chips, place, made, year, epsg)


def assert_agrees_with_raw_numbers(chips: Path, place: str, made: Run, year: int, epsg: int) -> None:
    """The share of snow and ice, against the same rule on the digital numbers of the chip itself."""
    band = {}
    for name in ("B02", "B04", "B08", "B11"):
        with rasterio.open(chips / "sentinel-2-l2a" / place / f"{name}.tif") as source:
            array = source.read(1, out_shape=(224, 224))
            band[name] = array * 1e-4 - 0.1
    inner = np.s_[23:-23, 23:-23]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(band["B11"] > 0, band["B04"] / band["B11"], np.inf)
    ice = (ratio > 2.8) & (band["B02"] > 0.07) & (band["B08"] > 0.07)
    label = made.mosaic(year, epsg)["label"].values
    share = (label[label != 255] == 1).mean()
    assert share == pytest.approx(ice[inner].mean(), abs=0.03)


def test_the_snow_of_a_winter_bog_is_found_and_a_dry_plain_has_none(chips: Path, tmp_path: Path) -> None:
    shares = {}
    for place in PLACES[1:]:
        made = run(config_of(chips, place, MODELS["band-ratio"]), tmp_path / place)
        label = made.mosaic(made.years[0], made.zones(made.years[0])[0])["label"].values
        shares[place] = (label[label != 255] == 1).mean()
    assert shares["609U_541L_3_0"] > 0.5
    assert shares["38D_378R_2_3"] == 0.0
