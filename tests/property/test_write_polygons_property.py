"""Polygons from streamed masks: scipy's components, with every pixel on its side, fitting each other."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from shapely import MultiPolygon, Polygon

from cryoscale.write.bodies import Bodies, bodies_of
from cryoscale.write.zonal import Tally

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


EIGHT = np.ones((3, 3), bool)


def parts_and_holes(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pixels of each 4-connected component and how many holes, joined over corners, are in it, by scipy."""
    components, count = ndimage.label(mask)
    found = []
    for number in range(1, count + 1):
        own = components == number
        around = ndimage.label(np.pad(~own, 1, constant_values=True), EIGHT)[1]
        found.append((int(own.sum()), around - 1))
    return sorted(found)


def staircases(mask: NDArray[np.bool_]) -> MultiPolygon | Polygon:
    """The squares of all pixels, united by shapely."""
    rows, cols = np.nonzero(mask)
    return shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))


def streamed(label: NDArray[np.uint8], step_px: int, **others: int) -> Bodies:
    """All bodies of a map that is read in parts."""
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    none = np.empty(0, object)
    polygons, debris, owner, tallies, part = [none], [none], [np.empty(0, np.int64)], [Tally(0)], [none]
    for found in bodies_of(dataset, step_px=step_px, least_px=0, keeps=lambda _: False, **others):
        owner.append(found.owner + sum(map(len, polygons)))
        polygons.append(found.polygons)
        debris.append(found.debris)
        tallies.append(found.tally)
        part.append(found.part)
    joined = map(np.concatenate, (polygons, debris, owner))
    return Bodies(*joined, Tally.joined(tallies), np.concatenate(part).astype(bool))


def check_pixels(label: NDArray[np.uint8], found: Bodies) -> None:
    """Every pixel centre on its side, areas those of the pixels, and lines within half a pixel of edges."""
    y, x = np.indices(label.shape) + 0.5
    for polygons, mask in ((found.polygons, np.isin(label, (1, 2))), (found.debris, label == 2)):
        assert shapely.is_valid(polygons).all()
        seen = np.zeros(label.shape, int)
        for polygon in polygons:
            own = shapely.contains_xy(polygon, x, y)
            seen += own
            edges = sum(np.count_nonzero(np.diff(np.pad(own, 1).astype(int), axis=axis)) for axis in (0, 1))
            assert abs(polygon.area - own.sum()) <= edges / 1024
        np.testing.assert_array_equal(seen, mask)
        if polygons.size:
            line = shapely.boundary(shapely.union_all(polygons))  # without the cuts of what is severed
            points = shapely.points(shapely.get_coordinates(shapely.segmentize(line, 0.2)))
            assert shapely.distance(shapely.boundary(staircases(mask)), points).max() < 0.5
    assert shapely.covers(found.polygons[found.owner], found.debris).all()
    under = np.bincount(found.owner, shapely.area(found.debris), found.polygons.size)
    np.testing.assert_allclose(under, found.tally.debris_px, atol=label.size / 256)


def check_coverage(label: NDArray[np.uint8], found: Bodies) -> None:
    """Debris, clean ice and all else fit together vertex by vertex, and nothing is left over."""
    clean = [
        shapely.difference(polygon, shapely.union_all(found.debris[found.owner == index]))
        for index, polygon in enumerate(found.polygons)
    ]
    height, width = label.shape
    frame = shapely.box(-1, -1, width + 1, height + 1)
    others = shapely.difference(frame, shapely.union_all(found.polygons))
    cover = np.array([others, *clean, *found.debris], object)
    cover = cover[~shapely.is_empty(cover)]
    assert shapely.coverage_is_valid(cover)
    assert shapely.area(cover).sum() == pytest.approx(frame.area, rel=1e-12)


@given(label=labels, step_px=st.integers(1, 30))
def test_streamed_polygons_equal_those_of_the_whole_array_vertex_by_vertex(
    label: NDArray[np.uint8], step_px: int
) -> None:
    whole, parts = streamed(label, 10_000), streamed(label, step_px)
    for one, other in ((whole.polygons, parts.polygons), (whole.debris, parts.debris)):
        assert sorted(polygon.wkt for polygon in one) == sorted(polygon.wkt for polygon in other)
    pixels = whole.tally.ice_px.tolist()
    holes = [len(polygon.interiors) for polygon in whole.polygons]
    assert sorted(zip(pixels, holes, strict=True)) == parts_and_holes(np.isin(label, (1, 2)))
    assert len(whole.debris) == ndimage.label(label == 2)[1]


@given(label=st.one_of(labels, much_ice))
def test_lines_keep_every_pixel_on_its_side_and_cover_the_map_without_gap_or_overlap(
    label: NDArray[np.uint8],
) -> None:
    found = streamed(label, 10_000)
    check_pixels(label, found)
    check_coverage(label, found)


@given(label=labels, step_px=st.integers(1, 30), least_px=st.integers(0, 9))
def test_bodies_too_small_are_left_out_and_the_others_are_as_without_the_sieve(
    label: NDArray[np.uint8], step_px: int, least_px: int
) -> None:
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    found = bodies_of(dataset, step_px=step_px, least_px=least_px, keeps=lambda _: False)
    areas = [px for bodies in found for px in bodies.tally.ice_px.tolist()]
    components, count = ndimage.label(np.isin(label, (1, 2)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    assert sorted(areas) == sorted(sizes[sizes > least_px].tolist())


@given(label=much_ice, step_px=st.integers(1, 12), most=st.integers(0, 40))
def test_a_severed_body_loses_no_pixel_and_its_parts_do_not_overlap(
    label: NDArray[np.uint8], step_px: int, most: int
) -> None:
    found = streamed(label, step_px, most_corners=most)
    check_pixels(label, found)
    check_coverage(label, found)
    parts = int(found.part.sum())
    event("severed" if parts else "whole")


@given(label=labels, step_px=st.integers(1, 12))
def test_bodies_of_few_corners_are_never_severed(label: NDArray[np.uint8], step_px: int) -> None:
    dataset = xr.Dataset({"label": (("y", "x"), label)})
    whole = bodies_of(dataset, step_px=step_px, least_px=0, keeps=lambda _: False, most_corners=10**6)
    assert not any(found.part.any() for found in whole)
