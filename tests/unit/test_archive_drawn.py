"""The pictures of a change, where places are odd."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from cryoscale.archive.drawn import _frame
from cryoscale.write.polygons import explode
from cryoscale.write.zones import cut_at_antimeridian


@pytest.mark.parametrize("cut", [True, False])
def test_the_map_of_a_change_over_180_degrees_is_of_its_glaciers_with_north_up(cut: bool) -> None:
    across, west = shapely.box(179.9, 66.3, 180.1, 66.4), shapely.box(-179.7, 66.6, -179.6, 66.7)
    shapes = [cut_at_antimeridian(across) if cut else across, west]
    frame = _frame(explode(np.array(shapes, object)))
    x, y = frame.project().transform([179.9, -179.6, 180.0], [66.3, 66.7, 66.4])
    assert x[1] - x[0] == pytest.approx(0.5 * 111_320.0 * np.cos(np.deg2rad(66.5)), rel=0.02)
    assert y[0] < y[2] < y[1]
    assert frame.west_m < min(x)
    assert frame.east_m > max(x)
    assert max(frame.east_m - frame.west_m, frame.north_m - frame.south_m) < 60_000
