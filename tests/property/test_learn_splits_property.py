"""No ground on two sides of a split, shown pixel by pixel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from scipy.ndimage import maximum_filter

from cryoscale.errors import InputError
from cryoscale.learn.splits import (
    Ground,
    SplitRule,
    assign,
    blocked_split,
    keep_apart,
    leak_of,
    near,
    random_split,
    thin_out,
)

TOP, LEFT = -313_800, 20_400
"""A corner in zone 45, well inside it."""
HELD = ("validation", "test")


def ground_of(rows, cols, patch_px, epsg=32645):
    rows = np.asarray(rows, np.int64)
    return Ground(np.broadcast_to(epsg, rows.shape), rows, np.asarray(cols, np.int64), patch_px)


def lattice(patch_px, stride, extent=120):
    rows, cols = (a.ravel() for a in np.mgrid[TOP : TOP + extent : stride, LEFT : LEFT + extent : stride])
    return ground_of(rows, cols, patch_px)


def classes_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 50, (n, 5))


def painted(ground, chosen, size):
    """(y, x) mask of the pixels under the chosen patches, from the corner on."""
    mask = np.zeros((size, size), bool)
    for r, c in zip(ground.row[chosen] - TOP, ground.col[chosen] - LEFT, strict=True):
        mask[r : r + ground.patch_px, c : c + ground.patch_px] = True
    return mask


def assert_apart(ground, splits, gap_px, size=200):
    for one, other in (("train", HELD), ("validation", ("test",))):
        first, second = painted(ground, splits == one, size), painted(ground, np.isin(splits, other), size)
        # gap_px pixels lie between: grown by gap_px on every side, the one does not touch the other
        assert not (maximum_filter(first, 2 * gap_px + 1) & second).any()


@given(
    patch_px=st.integers(1, 24),
    stride=st.integers(3, 25),
    block_px=st.integers(8, 60),
    gap_px=st.integers(0, 20),
    fraction=st.floats(0.05, 0.5),
    test_fraction=st.sampled_from([0.0, 0.1, 0.3]),
    seed=st.integers(0, 99),
)
def test_a_blocked_split_has_no_pixel_of_training_within_the_gap_of_what_is_held_back(
    patch_px, stride, block_px, gap_px, fraction, test_fraction, seed
):
    ground = lattice(patch_px, stride)
    splits = blocked_split(
        ground,
        classes_of(len(ground)),
        block_px=block_px,
        gap_px=gap_px,
        fraction=fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    assert_apart(ground, splits, gap_px)
    assert set(splits) <= {"train", "validation", "unused", *(["test"] if test_fraction else [])}


@given(data=st.data())
def test_regions_years_and_composites_over_the_same_ground_stay_on_one_side(data):
    """Patches wherever they like, each from one of several runs: only their ground counts."""
    n = data.draw(st.integers(8, 40))
    draw = lambda high: np.array(data.draw(st.lists(st.integers(0, high), min_size=n, max_size=n)))  # noqa: E731
    ground = ground_of(TOP + draw(150), LEFT + draw(150), 16)
    made_from, held_out = np.stack([draw(2), draw(1), draw(1)], axis=1), draw(3) == 0
    rule = SplitRule("leave-one-out", 0.3, 0.0, 40, data.draw(st.integers(0, 12)), 1)
    if held_out.all():
        return
    try:
        splits = assign(rule, ground, class_pixels=classes_of(n), made_from=made_from, held_out=held_out)
    except InputError:
        return  # all in one block
    assert_apart(ground, splits, rule.gap_px)
    assert set(splits[held_out]) <= {"test", "unused"}
    assert "test" not in splits[~held_out]


def across_border(patch_px, n, seed, lat=28.3, meridian=84.0):
    """Patches of zones 44 and 45 at random within a kilometre or so of their common meridian."""
    rng = np.random.default_rng(seed)
    epsg = np.where(rng.random(n) < 0.5, 32644, 32645)
    rows, cols = np.empty(n, np.int64), np.empty(n, np.int64)
    for zone in (32644, 32645):
        here = epsg == zone
        to_zone = Transformer.from_crs(4326, zone, always_xy=True)
        x, y = to_zone.transform(meridian + rng.uniform(-0.01, 0.01, n), lat + rng.uniform(-0.01, 0.01, n))
        rows[here], cols[here] = (-y / 10).astype(int)[here], (x / 10).astype(int)[here]
    return Ground(epsg, rows, cols, patch_px)


@lru_cache
def transformer(source, target):
    return Transformer.from_crs(source, target, always_xy=True)


def pixels_in(ground, index, epsg):
    """World rows and columns in a zone's grid of all pixels of a patch, as fractions of a pixel."""
    p = ground.patch_px
    rows, cols = np.mgrid[
        ground.row[index] : ground.row[index] + p, ground.col[index] : ground.col[index] + p
    ]
    x, y = (cols.ravel() + 0.5) * 10.0, -(rows.ravel() + 0.5) * 10.0
    x, y = transformer(int(ground.epsg[index]), epsg).transform(x, y)
    return -np.asarray(y) / 10, np.asarray(x) / 10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gap_px", [0, 7])
def test_ground_that_two_zones_have_is_not_on_two_sides_either(seed, gap_px):
    ground = across_border(12, 70, seed)
    draw = random_split(len(ground), fraction=0.3, test_fraction=0.2, seed=seed)
    splits = keep_apart(ground, draw, gap_px=gap_px)
    train, held = np.flatnonzero(splits == "train"), np.flatnonzero(np.isin(splits, HELD))
    assert len(train) > 2
    assert len(held) > 2
    shared_before = 0
    for a in np.flatnonzero(draw == "train"):
        for b in np.flatnonzero(np.isin(draw, HELD)):
            rows, cols = pixels_in(ground, a, int(ground.epsg[b]))
            top, left, p = ground.row[b] - gap_px, ground.col[b] - gap_px, ground.patch_px + 2 * gap_px
            shares = ((rows > top) & (rows < top + p) & (cols > left) & (cols < left + p)).any()
            shared_before += shares and ground.epsg[a] != ground.epsg[b]
            assert not (shares and splits[a] == "train" and splits[b] in HELD)
    assert shared_before > 5, "the drawn patches do meet across the border"


def test_neighbours_over_the_antimeridian_are_seen():
    lat = -17.0
    places = []
    for epsg, lon in ((32701, -179.9995), (32760, 179.9995)):
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        places.append(ground_of([round(-y / 10) - 8], [round(x / 10) - 8], 16, epsg))
    assert near(*places, gap_px=0).all()
    assert not near(places[0], ground_of(places[1].row + 60, places[1].col, 16, 32760), gap_px=20).any()


@given(
    row=st.integers(-40, 40), col=st.integers(-40, 40), gap_px=st.integers(0, 20), patch_px=st.integers(1, 20)
)
def test_near_counts_pixels_between_two_squares(row, col, gap_px, patch_px):
    one, other = (
        ground_of([TOP + 60], [LEFT + 60], patch_px),
        ground_of([TOP + 60 + row], [LEFT + 60 + col], patch_px),
    )
    every = np.array([True])
    grown = maximum_filter(painted(one, every, 200), 2 * gap_px + 1)
    assert near(one, other, gap_px=gap_px)[0] == (grown & painted(other, every, 200)).any()


@given(st.integers(3, 20), st.integers(2, 20), st.integers(0, 20))
def test_validation_and_test_patches_of_one_source_do_not_overlap_and_training_ones_are_left(
    stride, patch_px, seed
):
    ground = lattice(patch_px, stride, 80)
    splits = random_split(len(ground), fraction=0.4, test_fraction=0.2, seed=seed)
    source = np.random.default_rng(seed).integers(0, 2, len(ground))
    thin = thin_out(ground, source, splits)
    for which in (0, 1):
        times = np.zeros((140, 140), int)
        for i in np.flatnonzero(np.isin(thin, HELD) & (source == which)):
            r, c = ground.row[i] - TOP, ground.col[i] - LEFT
            times[r : r + patch_px, c : c + patch_px] += 1
        assert times.max() <= 1
    np.testing.assert_array_equal(thin[splits == "train"], splits[splits == "train"])
    for split in HELD:
        assert (thin == split).sum() > 0 or (splits == split).sum() == 0


def test_a_random_split_leaks_and_says_so_and_a_blocked_one_does_not():
    ground = lattice(16, 8)
    random = random_split(len(ground), fraction=0.2, seed=0)
    held, train = random == "validation", painted(ground, random == "train", 200)
    meets = [
        train[r : r + 16, c : c + 16].any()
        for r, c in zip(ground.row[held] - TOP, ground.col[held] - LEFT, strict=True)
    ]
    assert leak_of(ground, random) == np.mean(meets) > 0.9
    blocked = blocked_split(ground, classes_of(len(ground)), block_px=40, gap_px=0, fraction=0.2, seed=0)
    assert leak_of(ground, blocked) == 0


def test_a_random_split_holds_back_the_fractions_asked_for():
    split = random_split(50, fraction=0.2, test_fraction=0.1, seed=3)
    assert [(split == name).sum() for name in ("train", "validation", "test")] == [35, 10, 5]
    assert (split == random_split(50, fraction=0.2, test_fraction=0.1, seed=3)).all()
    assert (split != random_split(50, fraction=0.2, test_fraction=0.1, seed=4)).any()


def test_blocks_as_wide_as_the_lattice_use_every_patch_and_hold_back_their_share():
    rows, cols = (a.ravel() for a in np.mgrid[-313_856:-313_600:32, 20_480:20_736:32])
    ground = ground_of(rows, cols, 32)
    splits = blocked_split(ground, classes_of(64), block_px=64, gap_px=0, fraction=0.25, seed=0)
    assert (splits == "validation").sum() == 16
    assert (splits == "train").sum() == 48


def test_the_draw_keeps_a_class_that_only_few_blocks_have_in_training():
    ground = lattice(8, 8, 96)
    for seed in range(20):
        pixels = classes_of(len(ground), seed)
        pixels[:, 3] = 0
        pixels[(ground.row < TOP + 16) & (ground.col < LEFT + 48), 3] = 9
        splits = blocked_split(ground, pixels, block_px=16, gap_px=2, fraction=0.3, seed=seed)
        assert pixels[splits == "train", 3].any()
        assert pixels[splits == "validation", 3].any()


def test_fewer_blocks_than_splits_are_told_in_one_line():
    ground = lattice(8, 8, 16)
    with pytest.raises(InputError, match="--block-px"):
        blocked_split(ground, classes_of(len(ground)), block_px=10_000, gap_px=0, fraction=0.2, seed=0)
