"""Polygons from streamed masks equal those of scipy's components, built pixel by pixel."""

from __future__ import annotations

import numpy as np
import shapely
import xarray as xr
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.write.bodies import bodies_of

labels = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
    elements=st.sampled_from([0, 1, 1, 2, 255]),
)

much_ice = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=6, max_side=20),
    elements=st.sampled_from([1, 1, 1, 2, 0]),
    fill=st.nothing(),  # or most of it would be one value
)


def by_component(mask: NDArray[np.bool_]) -> list[str]:
    """The oracle: unit squares of each 4-connected component, united."""
    components, count = ndimage.label(mask)
    found = []
    for number in range(1, count + 1):
        rows, cols = np.nonzero(components == number)
        united = shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))
        found.append(shapely.normalize(shapely.simplify(united, 0.0)).wkt)
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


@given(label=much_ice, step_px=st.integers(1, 12), most=st.integers(0, 40))
def test_a_severed_body_loses_no_pixel_and_its_parts_do_not_overlap(
    label: NDArray[np.uint8], step_px: int, most: int
) -> None:
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    seen, covered = np.zeros(label.shape, int), np.zeros(label.shape, int)
    y, x = np.indices(label.shape)
    pixels = shapely.points(x + 0.5, y + 0.5)
    parts = 0
    for found in bodies_of(dataset, step_px=step_px, least_px=0, keeps=lambda _: False, most_corners=most):
        assert shapely.is_valid(found.polygons).all()
        assert shapely.is_valid(found.debris).all()
        assert found.tally.ice_px.tolist() == shapely.area(found.polygons).tolist()
        under = np.bincount(found.owner, shapely.area(found.debris), found.polygons.size)
        assert found.tally.debris_px.tolist() == under.tolist()
        for index, polygon in enumerate(found.polygons):
            seen += shapely.contains(polygon, pixels)
            for patch in found.debris[found.owner == index]:
                assert polygon.covers(patch)
                covered += shapely.contains(patch, pixels)
        parts += int(found.part.sum())
    np.testing.assert_array_equal(seen, np.isin(label, (1, 2)))
    np.testing.assert_array_equal(covered, label == 2)
    event("severed" if parts else "whole")


@given(label=labels, step_px=st.integers(1, 12))
def test_bodies_of_few_corners_are_never_severed(label: NDArray[np.uint8], step_px: int) -> None:
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    whole = bodies_of(dataset, step_px=step_px, least_px=0, keeps=lambda _: False, most_corners=10**6)
    assert not any(found.part.any() for found in whole)
