"""Outlines by place, held against shapely's own intersection."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from cryoscale.write.nearby import Nearby


def test_what_lies_over_a_box_is_what_shapely_finds_there() -> None:
    rng = np.random.default_rng(4)
    centres = shapely.points(rng.uniform(84, 86, 300), rng.uniform(27, 28, 300))
    outlines = shapely.buffer(centres, rng.uniform(0.001, 0.2, 300))
    with Nearby() as nearby:
        nearby.add(outlines[:100])
        nearby.add(outlines[100:])
        for _ in range(20):
            west, south = rng.uniform(84, 86), rng.uniform(27, 28)
            box = (west, south, west + rng.uniform(0, 0.3), south + rng.uniform(0, 0.3))
            expected = shapely.intersection(outlines, shapely.box(*box))
            expected = expected[shapely.area(expected) > 0]
            found = nearby.over(box)
            found = found[shapely.area(found) > 0]
            assert len(found) == len(expected)
            assert shapely.area(found).tolist() == pytest.approx(shapely.area(expected).tolist())


@pytest.mark.parametrize("lon", [179.99, -180.01])
def test_an_outline_over_the_antimeridian_is_found_from_either_side(lon: float) -> None:
    outline = shapely.box(lon, 70.0, lon + 0.02, 70.01)
    with Nearby() as nearby:
        nearby.add(np.array([outline], object))
        for box in ((179.9, 69.9, -179.9, 70.1), (179.9, 69.9, 180.0, 70.1), (-180.0, 69.9, -179.9, 70.1)):
            assert len(nearby.over(box)) == 1
        assert len(nearby.over((10.0, 69.9, 11.0, 70.1))) == 0


def test_no_outlines_are_no_outlines_over_any_box() -> None:
    with Nearby() as nearby:
        nearby.add(np.empty(0, object))
        assert len(nearby.over((0.0, 0.0, 1.0, 1.0))) == 0
