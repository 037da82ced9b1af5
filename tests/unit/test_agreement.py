"""What of a block its outlines are held against."""

from __future__ import annotations

import numpy as np
import pytest

from cryoscale.agreement import _own
from cryoscale.grid import Block, transformer, turned
from cryoscale.write.zones import cuts


@pytest.mark.parametrize(("west", "east", "lon"), [(32644, 32645, 84.0), (32660, 32601, 180.0)])
def test_pixels_on_the_far_side_of_a_meridian_are_those_of_the_next_zone(
    west: int, east: int, lon: float
) -> None:
    for epsg, side in ((west, -1), (east, 1)):
        x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon, 71.2)
        block = Block(epsg, int(-y // 10 // 64), int(x // 10 // 64), 64)
        y_m, x_m = block.window.coordinates()
        lons, _ = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(x_m, y_m))
        beyond = side * (turned(lons, lon) - lon) > 0
        assert 0 < beyond.sum() < beyond.size
        assert (_own(block, cuts([west, east])[epsg]) == beyond).mean() > 0.999
