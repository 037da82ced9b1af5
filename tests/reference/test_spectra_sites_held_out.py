"""Real spectra (RaineyAbe/glacier-snow-cover-mapping, MIT): the classical learner on sites it never saw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from sklearn.model_selection import LeaveOneGroupOut

from benchmarks.accuracy_spectra import (
    KINDS,
    SNOW_OR_ICE,
    SPECTRAL,
    WATER,
    Pixels,
    band_ratio,
    by_site,
    forest_held_out,
    network_labels,
    read_pixels,
    score,
)
from cryoscale.models.bandratio import BandRatio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pixels(shared_data: Path) -> Pixels:
    path = shared_data / "spectra" / "s2_l2a_labelled_pixels.csv"
    if not path.is_file():
        pytest.skip(f"no labelled pixels: {path} is absent")
    return read_pixels(path)


@pytest.fixture(scope="module")
def icy(pixels: Pixels) -> np.ndarray:
    return forest_held_out(pixels, trees=40)


def test_snow_and_ice_are_told_from_rock_on_every_site_that_was_held_out(
    pixels: Pixels, icy: np.ndarray
) -> None:
    scores = by_site(pixels, icy)
    assert set(scores) == {"Gulkana", "SouthCascade", "Sperry", "Wolverine", "all"}
    for site, row in scores.items():
        assert row["accuracy"] >= 0.95, (site, row)
        assert row["balanced"] >= 0.95, (site, row)
    assert scores["all"]["accuracy"] >= 0.97


def test_the_answers_are_those_of_scikit_learn_s_own_leave_one_site_out(
    pixels: Pixels, icy: np.ndarray
) -> None:
    keep = pixels.kind != WATER
    x, y, site = pixels.spectral()[keep], np.isin(pixels.kind, SNOW_OR_ICE)[keep], pixels.site[keep]
    expected = np.empty(len(y), bool)
    for learnt, held in LeaveOneGroupOut().split(x, y, site):
        model = RandomForestClassifier(
            40, max_leaf_nodes=256, max_depth=20, min_samples_leaf=2, random_state=0
        )
        filled = np.where(np.isnan(x), np.nanmean(x[learnt], axis=0), x)
        expected[held] = model.fit(filled[learnt], y[learnt]).predict(filled[held])
    assert (icy[keep] == expected).mean() > 0.9999  # a tie of 20 trees against 20 may fall either way


def test_scores_are_those_of_scikit_learn(pixels: Pixels) -> None:
    icy, keep = band_ratio(pixels), pixels.kind != WATER
    truth, found = np.isin(pixels.kind, SNOW_OR_ICE)[keep], icy[keep]
    row = score(pixels.kind, icy)
    assert row["pixels"] == keep.sum() == 11_580
    assert row["accuracy"] == pytest.approx(accuracy_score(truth, found))
    assert row["balanced"] == pytest.approx(balanced_accuracy_score(truth, found))
    assert row["rock"] == pytest.approx(recall_score(truth, found, pos_label=False))
    assert row["ice"] == pytest.approx(found[pixels.kind[keep] == 3].mean())
    assert row["water taken for ice"] == 0


def test_channels_of_a_pixel_are_those_of_the_table(pixels: Pixels) -> None:
    made = dict(zip(SPECTRAL, pixels.spectral().T.astype(float), strict=True))
    b = {name: made[name] for name in ("B03", "B11")}
    clipped = {name: np.maximum(values, 0) for name, values in b.items()}
    ndsi = (clipped["B03"] - clipped["B11"]) / (clipped["B03"] + clipped["B11"])
    np.testing.assert_allclose(made["NDSI"], ndsi, atol=1e-6)
    assert {SPECTRAL[i] for i in (0, 11, 12, 18)} == {"B01", "B12", "NDVI", "TC_wetness"}
    assert (~np.isfinite(pixels.spectral())).any(axis=1).sum() == 5
    assert (pixels.lonlat_deg[:, 1] > 47).all()
    assert (pixels.lonlat_deg[:, 0] < -113).all()


class Counting:
    """A model on the channels of a stack: answers by B02, and looks at what it is shown."""

    channels = ("elevation", "B02", "PCA1", "GLCM_dissimilarity", "coherence")
    classes = ("background", "clean_ice")
    needs_location = True

    def __init__(self, basis: bool) -> None:
        self.pca = {"mean": [0.5] * 12, "components": np.eye(3, 12).tolist()} if basis else None
        self.shown: list[np.ndarray] = []

    def __call__(self, tile: np.ndarray, place: np.ndarray) -> np.ndarray:
        assert tile.shape == (1, 5, 32, 32)
        assert (np.isnan(tile) | (tile == tile[:, :, :1, :1])).all()
        self.shown.append(np.concatenate([tile[0, :, 0, 0], place[0]]))
        ice = (tile[:, 1] > 0.4).astype(np.float32)
        return np.stack([1 - ice, ice], axis=1)


@pytest.mark.parametrize("basis", [True, False])
def test_a_network_is_shown_the_spectrum_its_basis_no_texture_and_nothing_else(
    pixels: Pixels, basis: bool
) -> None:
    few = slice(None, None, 1500)
    part = Pixels(pixels.site[few], pixels.kind[few], pixels.lonlat_deg[few], pixels.bands[:, few])
    model = Counting(basis)
    labels = network_labels(model, part)
    np.testing.assert_array_equal(labels, part.bands[1] > 0.4)
    shown = np.array(model.shown)
    assert np.isnan(shown[:, [0, 4]]).all()
    np.testing.assert_array_equal(shown[:, 1], part.bands[1])
    np.testing.assert_allclose(shown[:, 2], part.bands[0] - 0.5 if basis else np.nan, atol=1e-6)
    assert (shown[:, 3] == 0).all()
    lat = np.degrees(np.arctan2(shown[:, 5], shown[:, 6]))
    np.testing.assert_allclose(lat, part.lonlat_deg[:, 1], atol=1e-4)


def test_a_model_of_single_pixels_answers_on_tiles_as_it_does_on_pixels(pixels: Pixels) -> None:
    few = np.arange(0, len(pixels.kind), 400)
    part = Pixels(pixels.site[few], pixels.kind[few], pixels.lonlat_deg[few], pixels.bands[:, few])
    np.testing.assert_array_equal(network_labels(BandRatio(), part) == 1, band_ratio(pixels)[few])


def test_the_table_is_one_command(pixels: Pixels, shared_data: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.accuracy_spectra", shared_data / "spectra"]
    command[-1] = command[-1] / "s2_l2a_labelled_pixels.csv"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("random forest, site held out", "Wolverine", *list(KINDS.values())[:4]):
        assert word in done.stdout
