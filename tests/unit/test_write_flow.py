"""Drainage on an elevation model: filled by the book, and each cell to one outlet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.morphology import reconstruction

from cryoscale.write.flow import Flow, drain

SHAPE = (9, 11)
EIGHT = np.ones((3, 3), bool)
elevations = hnp.arrays(
    np.float32,
    SHAPE,
    # few distinct numbers make flats and depressions; the sea lies at and below 0
    elements=st.sampled_from([-3.5, -0.0, 0.0, 1e-6, 0.25, 7.0, 8848.86]) | st.floats(-430, 8849, width=32),
)
cells = hnp.arrays(bool, SHAPE)


def border(shape: tuple[int, int]) -> np.ndarray:
    edge = np.ones(shape, bool)
    edge[1:-1, 1:-1] = False
    return edge


def reached(domain: np.ndarray, outlets: np.ndarray) -> np.ndarray:
    """Cells of either kind in one piece with an outlet, along cells of the domain."""
    return ndimage.binary_propagation(outlets, EIGHT, mask=domain | outlets)


def walk(flow: Flow, cell: int) -> list[int]:
    """The cells on the way down, the outlet last."""
    path = [cell]
    while (below := int(flow.receiver.flat[path[-1]])) != path[-1]:
        path.append(below)
        assert len(path) <= flow.receiver.size, "the path closes"
    return path


@given(elevations)
def test_depressions_are_filled_as_scikit_image_does_by_reconstruction(elevation: np.ndarray) -> None:
    edge = border(SHAPE)
    flow = drain(elevation, np.ones(SHAPE, bool), edge)
    seed = np.where(edge, elevation, elevation.max())
    expected = reconstruction(seed, elevation, method="erosion", footprint=EIGHT)
    np.testing.assert_array_equal(flow.filled, expected.astype(np.float32))


@given(elevations, cells, cells)
@settings(max_examples=60)
def test_each_cell_drains_to_exactly_one_outlet_and_never_upwards(
    elevation: np.ndarray, domain: np.ndarray, outlets: np.ndarray
) -> None:
    flow = drain(elevation, domain, outlets)
    outlet, seen = flow.outlet(), reached(domain, outlets)
    np.testing.assert_array_equal(flow.receiver >= 0, seen)
    np.testing.assert_array_equal(outlet >= 0, seen)
    through = np.zeros(elevation.size, int)
    for cell in np.flatnonzero(seen).tolist():
        path = walk(flow, cell)
        assert path[-1] == outlet.flat[cell]
        assert outlets.flat[path[-1]]
        assert not outlets.ravel()[path[:-1]].any()
        assert (np.diff(flow.filled.ravel()[path]) <= 0).all()
        y, x = np.divmod(path, SHAPE[1])
        assert max(np.abs(np.diff(y)).max(initial=0), np.abs(np.diff(x)).max(initial=0)) <= 1
        through[path] += 1
    np.testing.assert_array_equal(flow.accumulation.ravel(), through)
    assert flow.accumulation[outlets].sum() == seen.sum()


@given(elevations)
def test_the_filled_surface_turns_with_the_model(elevation: np.ndarray) -> None:
    here = drain(elevation, np.ones(SHAPE, bool), border(SHAPE)).filled
    turned = drain(elevation[::-1].T, np.ones(SHAPE[::-1], bool), border(SHAPE[::-1])).filled
    np.testing.assert_array_equal(turned, here[::-1].T)


@pytest.mark.parametrize("azimuth_deg", [7, 22, 63, 100, 152, 201, 249, 338])
def test_on_a_plane_the_path_keeps_to_the_line_of_steepest_descent(azimuth_deg: int) -> None:
    # the steepest of eight neighbours alone would stray by tens of cells here
    size, start = 141, 70
    east, north = np.sin(np.radians(azimuth_deg)), np.cos(np.radians(azimuth_deg))
    y, x = np.indices((size, size)) - start
    plane = (4000.0 - 3.0 * (x * east - y * north)).astype(np.float32)
    flow = drain(plane, np.ones(plane.shape, bool), border((size, size)))
    path = walk(flow, start * size + start)
    row, column = np.divmod(path, size) - np.array([[start], [start]])
    assert len(path) > 60
    assert np.abs(column * north + row * east).max() < 1.25


def test_a_flat_drains_by_the_shortest_way() -> None:
    flat = np.full((7, 9), 100.0, np.float32)
    outlets = np.zeros(flat.shape, bool)
    outlets[3, 8] = True
    flow = drain(flat, np.ones(flat.shape, bool), outlets)
    assert len(walk(flow, 3 * 9)) - 1 == 8


def test_what_is_given_is_left_as_it_was() -> None:
    elevation = np.array([[1.0, 1.0, 1.0], [1.0, -5.0, 1.0], [1.0, 1.0, 1.0]], np.float32)
    before = elevation.copy()
    flow = drain(elevation, np.ones((3, 3), bool), border((3, 3)))
    np.testing.assert_array_equal(elevation, before)
    assert flow.filled[1, 1] == 1.0
