"""Properties of the simulator's parts that hold for any input."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label as pieces

from cryoscale.simulate import glaciers, landscape, noise

heights = hnp.arrays(
    np.float32,
    st.tuples(st.integers(4, 16), st.integers(4, 16)),
    elements=st.floats(0, 1000, width=32, allow_subnormal=False),
)


@settings(deadline=None, max_examples=60)
@given(heights)
def test_every_cell_drains_to_the_rim_through_cells_that_come_before_it(z: np.ndarray) -> None:
    sea = np.zeros(z.shape, bool)
    sea[0, :] = sea[-1, :] = sea[:, 0] = sea[:, -1] = True
    _, receiver, order = landscape.flood_order(z, sea)
    assert sorted(order.tolist()) == list(range(z.size))
    rank = np.empty(z.size, int)
    rank[order] = np.arange(z.size)
    inland = np.flatnonzero(~sea.ravel())
    assert (rank[receiver[inland]] < rank[inland]).all()
    area = landscape.drained_area(receiver, order, 1.0)
    assert area[sea.ravel()].sum() == z.size


@settings(deadline=None, max_examples=60)
@given(heights, st.sampled_from([2, 4]))
def test_refining_never_overshoots_and_coarsening_keeps_the_mean(z: np.ndarray, factor: int) -> None:
    fine = noise.refine(z, factor)
    assert fine.shape == (z.shape[0] * factor, z.shape[1] * factor)
    assert fine.min() >= z.min() - 1e-3
    assert fine.max() <= z.max() + 1e-3
    np.testing.assert_allclose(
        noise.coarsen(fine, factor).mean(), fine.mean(dtype=float), rtol=1e-4, atol=1e-3
    )


@settings(deadline=None, max_examples=60)
@given(heights, st.floats(0.0, 500.0))
def test_a_division_numbers_all_the_ice_and_every_glacier_is_one_piece(z: np.ndarray, depth_m: float) -> None:
    ice = z > 200.0
    divided = glaciers.divide(z, ice, depth_m=depth_m)
    np.testing.assert_array_equal(divided > 0, ice)
    for number in np.unique(divided[ice]):
        assert pieces(divided == number, connectivity=2).max() == 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 20), st.floats(4.0, 60.0), st.booleans())
def test_noise_is_bounded_and_repeats(seed: int, cell_px: float, ridged: bool) -> None:
    first = noise.fractal((24, 30), cell_px, 3, seed, ridged=ridged)
    np.testing.assert_array_equal(first, noise.fractal((24, 30), cell_px, 3, seed, ridged=ridged))
    assert np.abs(first).max() <= 1.75
