"""Lines drawn through the pixels of shapes whose length and area are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely import Polygon

from cryoscale.write.bodies import Bodies, bodies_of


def drawn(label: NDArray[np.generic]) -> Bodies:
    dataset = xr.Dataset({"label": (("y", "x"), label.astype(np.uint8))})
    (found,) = (
        part
        for part in bodies_of(dataset, step_px=10_000, least_px=0, keeps=lambda _: False)
        if part.polygons.size
    )
    return found


def outline(mask: NDArray[np.bool_]) -> Polygon:
    (polygon,) = drawn(mask).polygons
    return polygon


def disc(radius: float, centre: tuple[float, float]) -> NDArray[np.bool_]:
    y, x = np.indices((2 * int(radius) + 8,) * 2) + 0.5
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2)


def length_of_staircase(mask: NDArray[np.bool_]) -> int:
    padded = np.pad(mask, 1)
    return sum(int(np.count_nonzero(padded != np.roll(padded, 1, axis))) for axis in (0, 1))


@pytest.mark.parametrize("radius", [5.65, 20.0, 60.0])  # the first has the 100 pixels of 0.01 km2
def test_a_circle_is_round_and_has_its_length_and_the_area_of_its_pixels(radius: float) -> None:
    random = np.random.default_rng(3)
    lengths = []
    for _ in range(5):
        centre = int(radius) + 3 + random.uniform(0, 1, 2)
        mask = disc(radius, tuple(centre))
        polygon = outline(mask)
        assert polygon.area == pytest.approx(mask.sum(), rel=1e-3)
        assert length_of_staircase(mask) > 1.2 * 2 * np.pi * radius
        lengths.append(polygon.length)
        along = shapely.get_coordinates(shapely.segmentize(polygon.exterior, 0.25)) - centre
        off = np.hypot(*along.T) - radius
        assert np.abs(off).mean() < 0.15
        assert np.abs(off).max() < 0.6
    assert np.mean(lengths) == pytest.approx(2 * np.pi * radius, rel=0.01)


@pytest.mark.parametrize("degrees", [0.0, 3.0, 11.0, 22.5, 30.0, 44.0, 45.0])
def test_a_straight_border_of_any_direction_comes_out_straight(degrees: float) -> None:
    size = 160
    y, x = np.indices((size, size)) + 0.5
    across = np.array([-np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    mask = (x - size / 2) * across[0] + (y - size / 2) * across[1] > 0.3
    inner = shapely.box(20, 20, size - 20, size - 20)
    line = shapely.intersection(outline(mask).exterior, inner)
    true = shapely.intersection(
        shapely.LineString(
            np.array([size / 2, size / 2]) + 0.3 * across + np.outer([-size, size], [across[1], -across[0]])
        ),
        inner,
    )
    assert line.length == pytest.approx(true.length, rel=0.012)
    points = shapely.points(shapely.get_coordinates(shapely.segmentize(line, 0.2)))
    # along the rows nothing tells where between two of them it lies
    assert shapely.distance(true, points).mean() < (0.31 if degrees < 10 else 0.19)


def test_a_large_smooth_body_has_fewer_vertices_than_its_staircase_has_turns() -> None:
    mask = disc(60.0, (64.3, 63.8))
    turns = sum(
        np.count_nonzero(np.pad(mask, 1)[y : y + 2, x : x + 2].sum() % 2)
        for y in range(mask.shape[0] + 1)
        for x in range(mask.shape[1] + 1)
    )
    assert shapely.get_num_coordinates(outline(mask)) < 0.6 * turns


def test_where_debris_meets_the_rim_both_lines_have_the_pixel_corner() -> None:
    label = np.zeros((14, 16), int)
    label[2:12, 3:13] = 1
    label[6:12, 3:13] = 2
    found = drawn(label)
    (body,), (debris,) = found.polygons, found.debris
    shared = {tuple(point) for point in shapely.get_coordinates(body).tolist()}
    shared &= {tuple(point) for point in shapely.get_coordinates(debris).tolist()}
    assert {(3.0, 6.0), (13.0, 6.0)} < shared  # and all along the common rim
    assert debris.area == pytest.approx(60, abs=0.05)
    assert shapely.difference(body, debris).area == pytest.approx(40, abs=0.05)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 7), (3, 3)])
def test_the_smallest_holes_and_bodies_keep_their_area(width: int, height: int) -> None:
    mask = np.zeros((height + 6, width + 6), bool)
    mask[3:-3, 3:-3] = True
    assert outline(mask).area == pytest.approx(width * height, abs=0.02)
    (hole,) = outline(~mask).interiors
    assert Polygon(hole).area == pytest.approx(width * height, abs=0.02)
