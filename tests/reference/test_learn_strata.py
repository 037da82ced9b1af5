"""Scores by stratum against scikit-learn on the same pixels, and truths that are none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from sklearn import metrics

from cryoscale.errors import SourceError
from cryoscale.grid import Window
from cryoscale.learn import scan
from cryoscale.learn.evaluate import evaluate
from cryoscale.learn.scan import parts_of
from cryoscale.learn.strata import STRATA, StrataScores, ice_recall, open_strata
from tests.reference.test_learn_evaluate import INNER, random_map, write_raster, write_run


def write_values(path, values, window, nodata=None):
    west, _, _, north = window.bounds_m
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[-2],
        width=values.shape[-1],
        count=len(values) if values.ndim == 3 else 1,
        dtype=values.dtype,
        crs=f"EPSG:{window.epsg}",
        transform=rasterio.Affine(10, 0, west, 0, -10, north),
        nodata=nodata,
    ) as target:
        target.write(values.reshape(target.count, *values.shape[-2:]))


@pytest.fixture
def run(tmp_path):
    label, probability, truth = random_map(INNER)
    write_run(tmp_path / "run", INNER, label, probability)
    write_raster(tmp_path / "t.tif", truth, INNER)
    return tmp_path, label, truth


def test_each_stratum_scores_as_scikit_learn_says_of_its_pixels(run, monkeypatch):
    monkeypatch.setattr(scan, "PART_PX", 200)
    folder, label, truth = run
    rng = np.random.default_rng(4)
    thickness = rng.gamma(1.0, 0.4, INNER.shape).astype(np.float32)
    thickness[:, :50] = np.nan
    slope = rng.uniform(0, 90, INNER.shape).astype(np.float32)
    slope[:7] = -9999
    shadow = (rng.random(INNER.shape) < 0.3).astype(np.uint8)
    (folder / "strata").mkdir()
    write_values(folder / "strata" / "32645_debris_thickness_m.tif", thickness, INNER, nodata=np.nan)
    write_values(folder / "strata" / "slope_deg.tif", slope, INNER, nodata=-9999)
    # a raster of a part, without a no-data value: what lies around it is not known
    part = Window(32645, INNER.row + 100, INNER.col + 60, 300, 500)
    write_values(folder / "strata" / "shadow.tif", shadow[100:400, 60:560], part)
    layers = open_strata(folder / "strata", [(2018, 32645)])
    found = StrataScores()
    for each in parts_of(folder / "run", 2018, 32645, folder / "t.tif"):
        found.add(each, layers(2018, each.window))
    scores = found.scores()
    covered = np.zeros(INNER.shape, bool)
    covered[100:400, 60:560] = True
    known = (truth != 255) & (label != 255)
    for stratum, values, where in (
        (STRATA[0], thickness, known & np.isfinite(thickness) & (truth == 2)),
        (STRATA[1], slope, known & (slope >= 0)),
        (STRATA[2], shadow, known & covered),
    ):
        assert list(scores[stratum.name]) == list(stratum.labels)
        for name, low, high in zip(stratum.labels, stratum.edges[:-1], stratum.edges[1:], strict=True):
            here = where & (values >= low) & (values < high)
            expected = metrics.confusion_matrix(truth[here], label[here], labels=range(5))
            np.testing.assert_array_equal(scores[stratum.name][name].confusion, expected)
            ice = here & np.isin(truth, (1, 2))
            found_as_ice = metrics.recall_score(np.ones(ice.sum()), np.isin(label[ice], (1, 2)))
            assert ice_recall(scores[stratum.name][name]) == pytest.approx(found_as_ice)
    thin = found.to_dict()["debris_thickness_m"]["below 0.05"]
    here = known & (truth == 2) & (thickness < 0.05)
    assert thin["per_class"]["debris_covered_ice"]["recall"] == pytest.approx((label[here] == 2).mean())


def test_a_folder_without_strata_and_a_stratum_that_is_no_raster_are_told(tmp_path):
    with pytest.raises(SourceError, match="without a raster"):
        open_strata(tmp_path, [(2018, 32645)])
    (tmp_path / "shadow.tif").write_bytes(b"dark")
    with pytest.raises(SourceError, match=r"shadow\.tif"):
        open_strata(tmp_path, [(2018, 32645)])(2018, INNER)


def test_a_stratum_of_the_year_and_of_the_zone_goes_first(tmp_path):
    (tmp_path / "2019").mkdir()
    for value, name in enumerate(("shadow.tif", "32645_shadow.tif", "2019/shadow.tif")):
        write_values(tmp_path / name, np.full(INNER.shape, value, np.uint8), INNER, nodata=255)
    layers = open_strata(tmp_path, [(2018, 32645), (2019, 32645)])
    assert layers(2018, INNER)["shadow"].max() == 1
    assert layers(2019, INNER)["shadow"].min() == 2


def test_a_raster_of_several_bands_is_known_where_it_lies_whatever_its_second_band_holds(tmp_path):
    values = np.zeros((2, 40, 30), np.float32)
    values[0] = 25.0
    part = Window(32645, INNER.row, INNER.col, 40, 30)
    write_values(tmp_path / "slope_deg.tif", values, part)
    found = open_strata(tmp_path, [(2018, 32645)])(2018, part.pad(5))["slope_deg"]
    assert (found[5:-5, 5:-5] == 25).all()
    assert np.isfinite(found).sum() == 40 * 30


def test_a_raster_whose_last_band_is_its_mask_is_known_where_that_says_so(tmp_path):
    values = np.full((2, 20, 20), 255, np.uint8)
    values[1, :5] = 0
    part = Window(32645, INNER.row, INNER.col, 20, 20)
    write_values(tmp_path / "shadow.tif", values, part)
    with rasterio.open(tmp_path / "shadow.tif", "r+") as target:
        target.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
    found = open_strata(tmp_path, [(2018, 32645)])(2018, part)["shadow"]
    np.testing.assert_array_equal(np.isfinite(found), values[1] > 0)


def test_a_mask_of_0_and_255_is_shade_as_well_and_values_of_no_class_are_told(tmp_path):
    shadow = np.repeat(np.uint8([[0, 255]]), 20, axis=0)
    part = Window(32645, INNER.row, INNER.col, *shadow.shape)
    write_values(tmp_path / "shadow.tif", shadow, part)
    layers = open_strata(tmp_path, [(2018, 32645)])(2018, part)
    truth = np.ones(part.shape, np.uint8)
    found = StrataScores()
    found.add(SimpleNamespace(truth=truth, label=truth, inner=lambda plane: plane), layers)
    assert {name: int(each.confusion.sum()) for name, each in found.scores()["shadow"].items()} == {
        "sunlit": 20,
        "in shadow": 20,
    }
    write_values(tmp_path / "slope_deg.tif", np.float32([[-9999, 10]]), part)
    with pytest.raises(SourceError, match=r"slope_deg\.tif with a value of -9999.*-a_nodata -9999"):
        open_strata(tmp_path, [(2018, 32645)])(2018, part)


@pytest.mark.parametrize(
    ("values", "nodata", "words"),
    [
        (np.uint8([[0, 5]]), 255, "5"),
        (np.float32([[0, 1.5]]), None, r"1\.5"),
        (np.int16([[0, -1]]), None, "-1"),
        (np.int32([[0, 260]]), None, "260"),
    ],
)
def test_a_truth_with_values_that_are_no_labels_is_refused_by_the_value(run, values, nodata, words):
    folder, *_ = run
    write_values(folder / "odd.tif", np.tile(values, (40, 30)), INNER, nodata)
    with pytest.raises(SourceError, match=words) as caught:
        evaluate(folder / "run", folder / "odd.tif")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nodata", [np.nan, -1])
def test_a_truth_in_floats_is_read_like_one_in_bytes(run, nodata):
    folder, _, truth = run
    values = np.where(truth == 255, np.float32(nodata), truth.astype(np.float32))
    write_values(folder / "f.tif", values, INNER, nodata)
    assert (
        evaluate(folder / "run", folder / "f.tif").scores == evaluate(folder / "run", folder / "t.tif").scores
    )


def test_a_truth_that_lies_elsewhere_is_refused(run):
    folder, _, truth = run
    far = Window(32645, INNER.row + 40_000, INNER.col, INNER.height, INNER.width)
    write_raster(folder / "far.tif", truth, far)
    with pytest.raises(SourceError, match="without a known pixel"):
        evaluate(folder / "run", folder / "far.tif")
    other = Window(32612, INNER.row, INNER.col, INNER.height, INNER.width)
    write_raster(folder / "zone.tif", truth, other)
    with pytest.raises(SourceError, match="without a known pixel"):
        evaluate(folder / "run", folder / "zone.tif")
