"""Inputs as numbers of 16 bits: what they stand for, and what is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoscale.features import packing, stack
from cryoscale.features.packing import CELLS, Packed, bytes_a_pixel, inputs_for, pack
from cryoscale.features.stack import BANDS, CHANNELS, PcaBasis, build_stack, pack_inputs, with_radar
from tests.unit.test_features_stack import inputs

BASIS = PcaBasis(np.full(12, 0.3), np.linalg.qr(np.random.default_rng(1).normal(size=(12, 3)))[0].T)


def unpacked(packed: Packed) -> dict[str, np.ndarray]:
    """Inputs (y, x) of numbers by the definition, one pixel after the other."""

    def by_cells(number: int, a_unit: int, first: int) -> float:
        if number == 0:
            return math.nan
        cell = number - 1 + first
        return 0.0 if cell == 0 else (cell + 0.5) / a_unit

    found, at = {}, 0
    for name in packed.recipe.inputs:
        plane = packed.numbers[at]
        if name == "elevation":
            bits = plane.astype(np.uint32) * 65536 + packed.numbers[at + 1]
            found[name] = bits.view(np.float32)
        elif name == "velocity":
            found[name] = plane.view(np.float16).astype(np.float32)
        else:
            cells = CELLS[name]
            values = [by_cells(int(n), cells.a_unit, cells.first) for n in plane.ravel()]
            found[name] = np.array(values, np.float32).reshape(plane.shape)
        at += 2 if name == "elevation" else 1
    assert at == len(packed.numbers)
    return found


def alone(name: str, values: list[float]) -> np.ndarray:
    """What one input's values stand for after they were packed."""
    plane = np.array([values], np.float32)
    return unpacked(pack({name: plane}, plane.shape, (name,), None))[name][0]


@given(st.sampled_from(sorted(CELLS)), st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_a_number_stands_for_what_is_half_a_cell_away_at_most(name: str, values: list[float]) -> None:
    cells, found = CELLS[name], alone(name, values)
    lowest, highest = cells.first / cells.a_unit, (cells.first + 2**16 - 1) / cells.a_unit
    for value, stood in zip(values, found, strict=True):
        if not math.isfinite(value):
            assert math.isnan(stood)
            continue
        near = min(max(value, lowest), highest)
        # the cell that begins at 0 stands for 0, a whole cell from its end
        assert abs(stood - near) <= (1.0 if 0 <= value < 1 / cells.a_unit else 0.5) / cells.a_unit
        assert (stood < 0) == (value < 0) or lowest == 0


@given(st.lists(st.floats(-0.5, 5.0, width=32), min_size=1, max_size=30))
def test_grey_levels_and_clipping_are_those_of_the_reflectance_itself(values: list[float]) -> None:
    edges = [k / 32 + d for k in (0, 1, 7, 31, 32) for d in (0.0, -(2.0**-30), 2.0**-20, -(2.0**-9))]
    values = values + edges
    for value, stood in zip(np.array(values, np.float32), alone("B08", values), strict=True):
        assert min(max(math.floor(float(value) * 32), 0), 31) == min(max(math.floor(stood * 32), 0), 31)
        assert (stood <= 0) == (value < 2.0**-14)


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_elevations_keep_every_bit(values: list[float]) -> None:
    np.testing.assert_array_equal(alone("elevation", values), np.array(values, np.float32))


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_velocities_are_rounded_as_numpy_rounds_them(values: list[float]) -> None:
    given_, found = np.array(values, np.float32), alone("velocity", values)
    with np.errstate(over="ignore"):
        wanted = given_.astype(np.float16).astype(np.float32)
    finite, large = np.isfinite(given_), np.abs(given_) > 65504
    assert np.isnan(found[~finite]).all()
    assert (np.abs(found[finite & large]) == 65504).all()
    exact = finite & ~large & (np.abs(given_) >= 2.0**-14)
    np.testing.assert_array_equal(found[exact], wanted[exact])
    tiny = finite & (np.abs(given_) < 2.0**-14)
    assert (np.abs(found[tiny] - wanted[tiny]) <= 2.0**-24).all()


def test_only_what_is_wanted_and_there_is_sent() -> None:
    assert inputs_for(CHANNELS) == (*BANDS, "LST", "coherence", "phase", "velocity", "elevation")
    assert bytes_a_pixel() == 36
    assert inputs_for(("aspect", "NDSI")) == ("B03", "B11", "elevation")
    assert inputs_for(("GLCM_dissimilarity",)) == ("B08",)
    assert inputs_for(("TC_wetness",)) == inputs_for(("PCA2",)) == BANDS
    dataset = inputs().drop_vars(["slc1", "slc2", "velocity"])
    packed = pack_inputs(dataset, ("velocity", "NDSI", "slope"), pca=None)
    assert packed.recipe.inputs == ("B03", "B11", "elevation")
    assert packed.numbers.shape == (4, 60, 70)
    nothing = pack_inputs(dataset, ("velocity",), pca=None)
    assert nothing.numbers.shape == (0, 60, 70)


def test_a_radar_pair_is_turned_into_what_the_stack_makes_of_it() -> None:
    dataset = inputs()
    found = with_radar(dataset)
    whole = build_stack(dataset, pca=BASIS)
    for name in ("coherence", "phase"):
        np.testing.assert_array_equal(found[name], whole.sel(channel=name))
    np.testing.assert_array_equal(build_stack(found, pca=BASIS), whole)
    np.testing.assert_array_equal(stack.modalities(found), stack.modalities(dataset))
    assert with_radar(found) is found
    assert "coherence" not in dataset
    delivered = dataset.assign(phase=dataset["LST"] * 0)
    np.testing.assert_array_equal(with_radar(delivered)["phase"], delivered["phase"])
    np.testing.assert_array_equal(with_radar(delivered)["coherence"], found["coherence"])


def test_what_is_missing_is_an_error_where_it_shall_be_one() -> None:
    with pytest.raises(stack.InputError, match="velocity"):
        pack_inputs(inputs().drop_vars("velocity"), CHANNELS, pca=BASIS, on_missing="fail")


def test_numbers_reach_no_further_than_a_run_reads() -> None:
    assert packing.HALO_PX <= stack.HALO_PX
