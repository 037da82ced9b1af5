from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cryoscale.read.phase import phase_of, phasor_of


def test_phase_averages_across_the_wrap_and_not_through_zero() -> None:
    phase = np.array([[3.1, -3.1], [3.0, -3.0]], np.float32)
    np.testing.assert_allclose(np.abs(phase_of(phasor_of(phase).mean(axis=1))), np.pi, atol=1e-6)


def test_no_data_stays_and_phasors_that_cancel_have_no_direction() -> None:
    phase = np.array([[np.nan, 1.0], [0.0, 2.0]], np.float32)
    np.testing.assert_allclose(phase_of(phasor_of(phase)), phase, atol=1e-6)
    assert np.isnan(phase_of(np.zeros((1, 1), np.complex64))).all()


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_phasor_on_the_cut_has_phase_pi_whatever_the_sign_of_its_zero(zero: float) -> None:
    (phase,) = phase_of(np.array([complex(-1.0, zero)], np.complex64))
    assert float(phase) == pytest.approx(np.pi, abs=3e-7)
    assert float(phase) <= np.pi


@given(npst.arrays(np.float32, 5, elements=st.floats(-3.125, 3.125, width=32)), st.floats(-3.14, 3.14))
def test_averaging_a_phase_commutes_with_shifting_it(phase: np.ndarray, shift: float) -> None:
    def mean(angle: np.ndarray) -> float:
        return float(phase_of(phasor_of(angle.astype(np.float32)).mean(keepdims=True))[0])

    if abs(np.exp(1j * phase.astype(float)).mean()) > 1e-2:
        assert abs(np.angle(np.exp(1j * (mean(phase + shift) - mean(phase) - shift)))) < 1e-3
