"""Where an archive looks for the pixels of an outline, where places are odd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import shapely

from cryoscale.archive.coverage import _pieces
from cryoscale.grid import transformer


@pytest.mark.parametrize("zones", [(32601, 32660), (32660,), (32601,)], ids=["both", "60", "1"])
@pytest.mark.parametrize("west", [179.99, -180.01], ids=["beyond 180", "before -180"])
def test_an_outline_over_180_degrees_is_looked_for_on_both_sides_once(
    zones: tuple[int, ...], west: float
) -> None:
    outline = shapely.box(west, 71.0, west + 0.03, 71.01)
    maps: Any = SimpleNamespace(entry=SimpleNamespace(zones=zones))
    found = list(_pieces(outline, maps))
    x, y = transformer("EPSG:4326", "EPSG:32660").transform([179.99, 180.02], [71.005, 71.005])
    height_m = transformer("EPSG:4326", "EPSG:32660").transform(180.0, 71.01)[1]
    height_m -= transformer("EPSG:4326", "EPSG:32660").transform(180.0, 71.0)[1]
    across_m = ((x[1] - x[0]) ** 2 + (y[1] - y[0]) ** 2) ** 0.5
    assert sum(shape.area for shape, _ in found) == pytest.approx(across_m * height_m, rel=0.005)
    assert {window.epsg for _, window in found} == set(zones)
