"""The seam score: blind to noise, awake to a planted seam."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import Window
from cryoscale.write import seams
from cryoscale.write.seams import seam_score, seam_score_of_maps


def smooth(seed: int, size: int = 512) -> NDArray[np.uint8]:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), 4)
    return np.clip(125 + 40 * field / field.std(), 0, 250).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_seamless_noise_scores_one_within_three_standard_errors(seed: int) -> None:
    found = seam_score(smooth(seed), 64)
    assert found.lines == 14
    assert abs(found.score - 1) < max(3 * found.standard_error, 0.03)
    assert found.standard_error < 0.05


def test_a_planted_seam_is_found_at_its_borders_and_at_no_other() -> None:
    values = smooth(0).astype(np.int32)
    checks = np.indices(values.shape).sum(axis=0) * 0
    checks += ((np.arange(512)[:, None] // 64 + np.arange(512)[None, :] // 64) % 2) * 10
    planted = np.clip(values + checks, 0, 250).astype(np.uint8)
    at = seam_score(planted, 64)
    assert at.score - 1 > 5 * at.standard_error
    assert at.score > 1.3
    beside = seam_score(planted, 64, offset_px=(30, 30))
    assert abs(beside.score - 1) < 0.05


def test_the_score_is_the_ratio_of_mean_jumps_by_hand() -> None:
    values = np.zeros((24, 48), np.uint8)
    values[:, 24:] = 40
    values[:, 20:24] = 30  # a jump of 30 four pixels before the border, of 10 across it
    found = seam_score(values, 24)
    assert found.lines == 1
    assert found.score == pytest.approx(10 / (30 / 8))


def test_pixels_without_data_are_left_out_and_nothing_gives_nan() -> None:
    values = smooth(1)
    holed = values.copy()
    holed[:, 100:300] = 255
    assert seam_score(holed, 64).score == pytest.approx(seam_score(values, 64).score, abs=0.2)
    assert np.isnan(seam_score(np.full((256, 256), 255, np.uint8), 64).score)
    assert seam_score(np.full((256, 256), 7, np.uint8), 64).score == 1.0


def test_labels_count_changes_and_not_amounts() -> None:
    labels = (smooth(2) // 50).astype(np.uint8)
    swapped = np.array([4, 0, 3, 1, 2, 5], np.uint8)[labels]
    assert seam_score(labels, 64, categorical=True) == seam_score(swapped, 64, categorical=True)


def test_borders_of_maps_lie_at_multiples_in_the_world() -> None:
    window = Window(32645, -1000, 500, 400, 380)
    y, x = window.coordinates()
    world_y = (np.arange(400) - 1000)[:, None]
    world_x = (np.arange(380) + 500)[None, :]
    seams = ((world_y // 64 + world_x // 64) % 2) * 20
    noise = smooth(3)[:400, :380].astype(int)
    probability = np.clip(noise + seams, 0, 250).astype(np.uint8)
    data = xr.Dataset({"probability": (("class", "y", "x"), probability[None])}, coords={"y": y, "x": x})
    assert seam_score_of_maps({32645: data}, 64).score > 1.5
    assert seam_score_of_maps({32645: data}, 48).score < seam_score_of_maps({32645: data}, 64).score


def test_of_a_map_too_large_to_hold_parts_tell_the_same_and_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window = Window(32645, -1000, 500, 512, 512)
    y, x = window.coordinates()
    rows, cols = (np.arange(512) - 1000)[:, None] // 64, (np.arange(512) + 500)[None, :] // 64
    planted = np.clip(smooth(4) + (rows + cols) % 2 * 12, 0, 250).astype(np.uint8)
    for values in (smooth(4), planted):
        data = xr.Dataset({"probability": (("class", "y", "x"), values[None])}, coords={"y": y, "x": x})
        whole = seam_score_of_maps({32645: data}, 64)
        with monkeypatch.context() as smaller:
            smaller.setattr(seams, "_HELD_PX", 128 * 128)
            found = seam_score_of_maps({32645: data}, 64)
            assert found == seam_score_of_maps({32645: data}, 64)
        assert found.telling
        assert found.score == pytest.approx(whole.score, abs=0.1)


def test_a_period_without_an_interior_is_refused() -> None:
    with pytest.raises(ValueError, match="no interior"):
        seam_score(smooth(0), 8)
