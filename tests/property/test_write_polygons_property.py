"""Polygons from streamed masks equal those of scipy's components, built pixel by pixel."""

from __future__ import annotations

import numpy as np
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.write.bodies import bodies_of
from cryoscale.write.polygons import without_straight_vertices

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


def streamed(label: NDArray[np.uint8], step_px: int) -> tuple[list[str], list[str]]:
    """Bodies and debris, each debris in its body, and each body's pixels counted."""
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    ice: list[str] = []
    debris: list[str] = []
    for found in bodies_of(dataset, step_px=step_px, least_px=0, keeps=lambda _: False):
        assert shapely.is_valid(found.polygons).all()
        assert found.tally.ice_px.tolist() == shapely.area(found.polygons).tolist()
        assert shapely.covers(found.polygons[found.owner], found.debris).all()
        under = np.bincount(found.owner, shapely.area(found.debris), found.polygons.size)
        assert found.tally.debris_px.tolist() == under.tolist()
        ice += [polygon.wkt for polygon in found.polygons]
        debris += [polygon.wkt for polygon in found.debris]
    return sorted(ice), sorted(debris)


@given(label=labels, step_px=st.integers(1, 30))
def test_streamed_polygons_equal_those_of_the_whole_array_vertex_by_vertex(
    label: NDArray[np.uint8], step_px: int
) -> None:
    expected = by_component(np.isin(label, (1, 2))), by_component(label == 2)
    assert streamed(label, step_px) == expected
    assert streamed(label, 10_000) == expected


@given(label=labels, step_px=st.integers(1, 30), least_px=st.integers(0, 9))
def test_bodies_too_small_are_left_out_and_the_others_are_as_without_the_sieve(
    label: NDArray[np.uint8], step_px: int, least_px: int
) -> None:
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    found = bodies_of(dataset, step_px=step_px, least_px=least_px, keeps=lambda _: False)
    areas = [area for bodies in found for area in shapely.area(bodies.polygons).tolist()]
    components, count = ndimage.label(np.isin(label, (1, 2)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    assert sorted(areas) == sorted(sizes[sizes > least_px].tolist())
