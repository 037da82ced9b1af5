"""Pictures of what lies behind a map, looked at where the answer is known; and the chart of elevations."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from cryoscale.features.stack import MODALITIES
from cryoscale.grid import Window
from cryoscale.write import charts
from cryoscale.write import plates as plates_module
from cryoscale.write.outlines import polygonise
from cryoscale.write.plates import _ABSENT_COLOURS, draw_plates
from cryoscale.write.sheet import Plate
from cryoscale.write.warp import frame_of

EVERY = sum(MODALITIES.values())
SHAPE = (200, 400)


def halves(left: float, right: float, dtype: str) -> NDArray[np.generic]:
    """A layer whose western half is one value and whose eastern half another."""
    layer = np.full(SHAPE, left, dtype)
    layer[:, 200:] = right
    return layer


@pytest.fixture(scope="module")
def plates() -> dict[str, Plate]:
    """Of a map without ice: west sure, on the 1st, with all; east doubtful, ten days later, without LST."""
    window = Window(32645, -310_000, 49_800, *SHAPE)
    y, x = window.coordinates()
    without_thermal = EVERY & ~MODALITIES["thermal"]
    layers = {
        "label": halves(0, 0, "uint8"),
        "confidence": halves(250, 25, "uint8"),
        "disagreement": halves(0, 100, "uint8"),
        "source_date": np.datetime64("2018-10-01", "ns")
        + halves(0, 10, "int64").astype("timedelta64[D]").astype("timedelta64[ns]"),
        "modalities": halves(EVERY, without_thermal, "uint8"),
    }
    dataset = xr.Dataset(
        {name: (("y", "x"), layer) for name, layer in layers.items()},
        {"y": y, "x": x},
        {"crs": "EPSG:32645"},
    )
    drawn = draw_plates({32645: dataset}, {}, [polygonise({32645: dataset})], MODALITIES)
    return {plate.title: plate for plate in drawn}


def patch(plate: Plate, row: float, col: float) -> NDArray[np.float64]:
    """Mean colour (0-1) of a small patch at a share of the picture's height and width."""
    picture = np.asarray(Image.open(io.BytesIO(plate.webp)).convert("RGB"), float) / 255
    y, x = int(row * picture.shape[0]), int(col * picture.shape[1])
    return np.asarray(picture[y - 3 : y + 4, x - 3 : x + 4].mean(axis=(0, 1)))


WEST, EAST = (0.36, 0.31), (0.36, 0.66)


def test_confidence_is_bright_and_doubt_is_dark(plates: dict[str, Plate]) -> None:
    scale: Callable[[float], tuple[float, ...]] = colormaps["viridis"]
    assert patch(plates["Confidence"], *WEST) == pytest.approx(scale(1.0)[:3], abs=0.05)
    assert patch(plates["Confidence"], *EAST) == pytest.approx(scale(0.1)[:3], abs=0.05)


def test_tiles_that_disagree_are_bright(plates: dict[str, Plate]) -> None:
    scale: Callable[[float], tuple[float, ...]] = colormaps["magma"]
    assert patch(plates["Disagreement"], *WEST) == pytest.approx(scale(0.0)[:3], abs=0.05)
    assert patch(plates["Disagreement"], *EAST) == pytest.approx(scale(1.0)[:3], abs=0.05)


def test_a_disagreement_beyond_the_end_of_its_scale_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[bool] = []
    monkeypatch.setattr(plates_module, "_bar", lambda *_, goes_on=False: bars.append(goes_on))
    y, x = Window(32645, -310_000, 49_800, *SHAPE).coordinates()
    stored = np.full(SHAPE, 10, np.uint8)
    captions = []
    for value in (10, 45):
        stored[0, 0] = value
        data = xr.Dataset(
            {"label": (("y", "x"), stored), "disagreement": (("y", "x"), stored)}, {"y": y, "x": x}
        )
        frame = frame_of({32645: data}, longest_px=1050)
        captions.append(plates_module._disagreement({32645: data}, frame, []).caption)
    assert bars == [False, True]
    assert captions[0].endswith("The largest shown is 0.04.")
    assert captions[1].endswith("The largest shown is 0.18.")


def test_each_day_has_its_colour_and_days_are_counted(plates: dict[str, Plate]) -> None:
    plate = plates["Date of the image"]
    scale: Callable[[float], tuple[float, ...]] = colormaps["cividis"]
    assert patch(plate, *WEST) == pytest.approx(scale(0.0)[:3], abs=0.05)
    assert patch(plate, *EAST) == pytest.approx(scale(1.0)[:3], abs=0.05)
    assert "2 days" in plate.caption


def test_what_a_model_did_without_has_a_colour_of_its_own(plates: dict[str, Plate]) -> None:
    plate = plates["What was missing"]
    assert patch(plate, *WEST) == pytest.approx(to_rgb(_ABSENT_COLOURS[0]), abs=0.05)
    assert patch(plate, *EAST) == pytest.approx(to_rgb(_ABSENT_COLOURS[1]), abs=0.05)


def test_area_by_elevation_adds_up_every_glacier(tmp_path: Path) -> None:
    path = tmp_path / "2018-hypsometry.csv"
    path.write_text("glac_id,area_km2,4025,4075,4125\na,2.0,500,500,0\nb,0.5,0,200,800\n")
    assert charts.area_of_bands(str(path)) == pytest.approx({4025: 1.0, 4075: 1.1, 4125: 0.4})
    plate = charts.area_by_elevation({2018: str(path), 2020: str(path)})
    assert plate is not None
    assert Image.open(io.BytesIO(plate.webp)).format == "WEBP"


def test_without_elevation_there_is_no_chart(tmp_path: Path) -> None:
    path = tmp_path / "2018-hypsometry.csv"
    path.write_text("glac_id,area_km2\n")
    assert charts.area_by_elevation({2018: str(path)}) is None
