"""Polygons from streamed masks equal those of scipy's components, built pixel by pixel."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.write.polygons import polygons_of, without_straight_vertices

labels = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
    elements=st.sampled_from([0, 1, 1, 2, 255]),
)


def by_component(mask: NDArray[np.bool_]) -> list[str]:
    """The oracle: unit squares of each 4-connected component, united."""
    components, count = ndimage.label(mask)
    found = []
    for number in range(1, count + 1):
        rows, cols = np.nonzero(components == number)
        united = shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))
        found.append(shapely.normalize(without_straight_vertices(united)).wkt)
    return sorted(found)


def streamed(label: NDArray[np.uint8], step_px: int) -> list[str]:
    found = polygons_of(lambda y, x: label[y, x], label.shape, (1, 2), step_px)
    assert shapely.is_valid(found).all()
    return sorted(polygon.wkt for polygon in found)


@given(label=labels, step_px=st.integers(1, 30))
def test_streamed_polygons_equal_those_of_the_whole_array_vertex_by_vertex(
    label: NDArray[np.uint8], step_px: int
) -> None:
    expected = by_component(np.isin(label, (1, 2)))
    assert streamed(label, step_px) == expected
    assert streamed(label, 10_000) == expected


@given(label=labels)
def test_the_areas_add_up_to_the_pixels(label: NDArray[np.uint8]) -> None:
    found = polygons_of(lambda y, x: label[y, x], label.shape, (1, 2), 7)
    assert shapely.area(found).sum() == np.isin(label, (1, 2)).sum()
