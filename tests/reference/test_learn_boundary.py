"""Boundary distances against brute force, scipy's distance transform, and shapes of which they are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from cryoscale.grid import Window
from cryoscale.learn import scan
from cryoscale.learn.boundary import BoundaryDistance, Distances, edges_of
from cryoscale.learn.scan import Part, parts_of
from tests.reference.test_learn_evaluate import INNER, write_raster, write_run

REACH = 20


def part_of(truth, label, reach=REACH):
    """A map and its truth as one part, with a rim where nothing is known."""
    window = Window(32645, -310_000, 48_000, *truth.shape)
    rim = reach + 1
    outer = [np.pad(labels, rim, constant_values=255) for labels in (truth, label)]
    own = (truth != 255) & (label != 255)
    return Part(2018, window, window.pad(rim), outer[0], outer[1], own, None)


def measured(truth, label, kind="glacier", reach=REACH):
    found = BoundaryDistance(kind, reach)
    found.add(part_of(truth, label, reach))
    return found


def edges_by_hand(labels, other, inside):
    """Midpoints of the sides between a pixel of ``inside`` and one beside it that is not, in pixels."""
    found = []
    height, width = labels.shape
    for r in range(height):
        for c in range(width):
            for dr, dc in ((0, 1), (1, 0)):
                if r + dr >= height or c + dc >= width:
                    continue
                four = (labels[r, c], labels[r + dr, c + dc], other[r, c], other[r + dr, c + dc])
                if 255 in four:
                    continue
                a, b = inside(four[0]), inside(four[1])
                if a is not None and b is not None and a != b:
                    found.append((r + dr / 2, c + dc / 2))
    return np.array(found).reshape(-1, 2)


def is_ice(label):
    return label in (1, 2)


def is_debris(label):
    return {1: False, 2: True}.get(int(label))


def shape(seed, size=(34, 41)):
    """Smooth patches of the five classes with holes in the data."""
    rng = np.random.default_rng(seed)
    field = rng.random((size[0] // 5 + 2, size[1] // 5 + 2)).repeat(5, 0).repeat(5, 1)[: size[0], : size[1]]
    labels = np.digitize(field, [0.4, 0.6, 0.8, 0.9]).astype(np.uint8)
    labels[rng.random(size) < 0.03] = 255
    return labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "inside"), [("glacier", is_ice), ("debris", is_debris)])
def test_distances_are_those_of_brute_force(seed, kind, inside):
    truth = shape(seed)
    label = np.roll(shape(seed), (2, -1), (0, 1))
    found = measured(truth, label, kind)
    true, mapped = edges_by_hand(truth, label, inside), edges_by_hand(label, truth, inside)
    between = 10 * np.hypot(*(mapped[:, np.newaxis] - true[np.newaxis]).transpose(2, 0, 1))
    for one, metres in ((found.mapped_to_true, between.min(1)), (found.true_to_mapped, between.min(0))):
        near = metres[metres <= 10 * REACH]
        assert one.edges == len(metres)
        assert one.beyond == len(metres) - len(near)
        assert one.mean_m == pytest.approx(near.mean())
        for share in (0.25, 0.5, 0.95):
            expected = np.quantile(metres, share, method="inverted_cdf")
            assert one.quantile_m(share) == pytest.approx(expected if expected <= 200 else np.inf)
        for pixels in (1, 2):
            assert one.within(pixels) == pytest.approx((metres <= 10 * pixels + 1e-9).mean())
        bins = np.array([0, 5.0, 10, 50, 200])
        assert one.histogram(bins).sum() == pytest.approx(len(near) / len(metres))
        assert one.histogram(bins)[0] == pytest.approx((metres <= 5 + 1e-9).mean())


def test_distances_are_those_of_scipys_distance_transform():
    truth, label = shape(11, (80, 90)), shape(12, (80, 90))
    truth[truth == 255], label[label == 255] = 0, 0
    lattice = np.ones((160, 180), bool)
    lattice[tuple(edges_of(np.isin(truth, (1, 2)).astype(np.uint8)).T)] = False
    transform = distance_transform_edt(lattice) * 5
    expected = transform[tuple(edges_of(np.isin(label, (1, 2)).astype(np.uint8)).T)]
    found = measured(truth, label, reach=60).mapped_to_true
    assert found.beyond == 0
    assert found.mean_m == pytest.approx(expected.mean())
    assert found.quantile_m(0.95) == pytest.approx(np.quantile(expected, 0.95, method="inverted_cdf"))


def square(row, col, size=20, canvas=60):
    labels = np.zeros((canvas, canvas), np.uint8)
    labels[row : row + size, col : col + size] = 1
    return labels


def test_a_square_on_its_place_is_0_m_off_and_one_that_grew_by_a_pixel_10_m():
    same = measured(square(10, 10), square(10, 10))
    assert same.both.quantile_m(1.0) == 0
    assert same.both.within(1) == 1
    assert same.both.edges == 2 * 80
    grown = measured(square(10, 10), square(9, 9, 22))
    assert grown.true_to_mapped.quantile_m(1.0) == 10
    assert grown.mapped_to_true.quantile_m(0.5) == 10
    # the eight edges at the corners of the larger square look past the corner of the smaller one
    assert grown.mapped_to_true.quantile_m(1.0) == pytest.approx(10 * np.hypot(1, 1))
    assert grown.mapped_to_true.within(1) == pytest.approx(80 / 88)


def test_a_square_moved_by_three_pixels_is_30_m_off_on_two_sides_and_0_on_the_others():
    found = measured(square(20, 20), square(20, 23)).mapped_to_true
    metres = 5 * np.sqrt(np.flatnonzero(found.squared))
    assert metres.max() == pytest.approx(30, abs=0.1)
    assert found.quantile_m(0.4) == 0


def test_debris_taken_for_clean_ice_moves_no_outline_but_loses_the_line_between():
    truth = square(10, 10)
    truth[20:30, 10:30] = 2
    label = square(10, 10)
    assert measured(truth, label).both.quantile_m(1.0) == 0
    between = measured(truth, label, "debris")
    assert between.mapped_to_true.edges == 0
    assert (between.true_to_mapped.edges, between.true_to_mapped.beyond) == (20, 20)
    assert between.to_dict()["true_to_mapped"]["median_m"] is None
    assert np.isnan(Distances().mean_m)
    assert Distances().to_dict()["p95_m"] is None


def test_the_rim_of_the_data_is_no_boundary():
    truth, label = square(10, 10), square(10, 10)
    label[:, 25:] = 255  # no map there, in the middle of the ice
    found = measured(truth, label)
    assert found.both.quantile_m(1.0) == 0
    assert found.mapped_to_true.edges == found.true_to_mapped.edges == 2 * 15 + 20
    truth[:12] = 255  # nor truth there
    assert measured(truth, label).both.edges == 2 * (15 + 18)


@given(st.integers(0, 2**32 - 1))
def test_the_two_ways_change_places_when_map_and_truth_do(seed):
    rng = np.random.default_rng(seed)
    truth, label = rng.integers(0, 5, (2, 12, 9)).astype(np.uint8)
    one, other = measured(truth, label), measured(label, truth)
    np.testing.assert_array_equal(one.mapped_to_true.squared, other.true_to_mapped.squared)
    assert one.true_to_mapped.beyond == other.mapped_to_true.beyond


def test_parts_give_what_the_whole_gives(tmp_path, monkeypatch):
    # patches of 40 pixels, so that what is nearest often lies in another part
    height, width = INNER.shape
    truth = shape(4, (height // 8, width // 8)).repeat(8, axis=0).repeat(8, axis=1)
    label = np.roll(truth, (13, -11), (0, 1))
    probability = np.full((5, *INNER.shape), 50, np.uint8)
    write_run(tmp_path / "run", INNER, label, probability)
    write_raster(tmp_path / "t.tif", truth, INNER)
    expected = measured(truth, label)
    for part_px in (100, 1024):
        monkeypatch.setattr(scan, "PART_PX", part_px)
        found = BoundaryDistance("glacier", REACH)
        for part in parts_of(tmp_path / "run", 2018, 32645, tmp_path / "t.tif", found.rim_px):
            found.add(part)
        for way in ("mapped_to_true", "true_to_mapped"):
            one, whole = getattr(found, way), getattr(expected, way)
            np.testing.assert_array_equal(one.squared, whole.squared)
            assert one.beyond == whole.beyond
