"""A run's scores against scikit-learn, on mosaics written by the writer that runs use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from sklearn import metrics

from cryoscale.errors import SourceError
from cryoscale.grid import Block, Window, transformer
from cryoscale.learn.evaluate import PROBABILITY_SCALE, Reliability, evaluate, score_patches
from cryoscale.learn.patches import PatchWriter, Place
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.learn.truth import in_zone, open_truth
from cryoscale.write import mosaic

EDGE = 256
INNER = Window(32645, -12 * EDGE, 190 * EDGE, 2 * EDGE, 3 * EDGE)


def write_raster(path, labels, window, *, step=1, nodata=255, crs=None, transform=None):
    west, _, _, north = window.bounds_m
    profile = {
        "driver": "GTiff",
        "height": labels.shape[0],
        "width": labels.shape[1],
        "count": 1,
        "dtype": "uint8",
        "crs": crs or f"EPSG:{window.epsg}",
        "transform": transform or Affine(10.0 * step, 0, west, 0, -10.0 * step, north),
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(labels, 1)


def write_run(out, window, label, probability, year=2018):
    """A mosaic as a run leaves it, block by block."""
    store = out / "mosaic.zarr"
    mosaic.create(store, year=year, window=window, block_px=EDGE, classes=CLASS_NAMES, attrs={})
    for row in range(window.row // EDGE, (window.row + window.height) // EDGE):
        for col in range(window.col // EDGE, (window.col + window.width) // EDGE):
            block = Block(window.epsg, row, col, EDGE)
            here = block.window.slices_in(window)
            layers = {
                "label": label[here],
                "probability": probability[:, *here],
                "confidence": np.zeros((EDGE, EDGE), np.uint8),
                "disagreement": np.zeros((EDGE, EDGE), np.uint8),
                "source_date": np.zeros((EDGE, EDGE), np.int32),
                "n_clear": np.zeros((EDGE, EDGE), np.uint16),
                "modalities": np.zeros((EDGE, EDGE), np.uint8),
            }
            mosaic.write_block(store, year, block, layers)


def random_map(window, seed=0):
    """Probabilities (k,y,x) u1, their labels, and truth drawn from them; each with no-data pixels."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(5, 0.4), window.shape).transpose(2, 0, 1)
    probability = np.round(p * 250).astype(np.uint8)
    label = probability.argmax(axis=0).astype(np.uint8)
    truth = (rng.random(window.shape) > np.cumsum(p, axis=0)).sum(axis=0).clip(0, 4).astype(np.uint8)
    gone = rng.random(window.shape) < 0.1
    label[gone], probability[:, gone] = 255, 255
    truth[rng.random(window.shape) < 0.2] = 255
    return label, probability, truth


@pytest.fixture
def run(tmp_path):
    label, probability, truth = random_map(INNER)
    write_run(tmp_path / "run", INNER, label, probability)
    write_raster(tmp_path / "32645.tif", truth, INNER)
    return tmp_path, label, probability, truth


def test_a_run_scores_as_scikit_learn_says_wherever_truth_is_given(run):
    folder, label, probability, truth = run
    result = evaluate(folder / "run", folder)
    valid = (label != 255) & (truth != 255)
    t, p = truth[valid], label[valid]
    np.testing.assert_array_equal(result.scores.confusion, metrics.confusion_matrix(t, p, labels=range(5)))
    np.testing.assert_allclose(result.scores.iou, metrics.jaccard_score(t, p, labels=range(5), average=None))
    assert result.parts.keys() == {"2018/32645"}
    for given in (folder / "32645.tif", {32645: folder / "32645.tif"}):
        assert evaluate(folder / "run", given, years=[2018]).scores == result.scores
    winning = probability.max(axis=0)[valid] / PROBABILITY_SCALE
    gap = 0.0
    for low in np.arange(10):
        inside = (winning > low / 10 + 1e-9) & (winning <= (low + 1) / 10 + 1e-9)
        gap += abs(winning[inside].sum() - (t == p)[inside].sum())
    assert result.reliability.ece == pytest.approx(gap / valid.sum(), abs=1e-9)
    assert result.reliability.ece < 0.01, "truth was drawn from these very probabilities"
    result.save(folder / "scores.json")
    written = json.loads((folder / "scores.json").read_text())
    assert written["scores"]["mean"]["iou"] == result.scores.mean_iou
    assert "calibration error" in str(result)
    assert "debris_covered_ice" in str(result)


def test_truth_may_cover_a_part_and_lie_on_a_coarser_grid(run):
    folder, label, _, truth = run
    coarse = truth[:EDGE:2, :EDGE:2]
    write_raster(folder / "coarse.tif", coarse, INNER, step=2)
    fine = np.full(INNER.shape, 255, np.uint8)
    fine[:EDGE, :EDGE] = coarse.repeat(2, axis=0).repeat(2, axis=1)
    valid = (label != 255) & (fine != 255)
    expected = metrics.confusion_matrix(fine[valid], label[valid], labels=range(5))
    np.testing.assert_array_equal(evaluate(folder / "run", folder / "coarse.tif").scores.confusion, expected)


def test_ground_around_a_raster_without_no_data_value_is_unknown_and_not_background(run):
    folder, label, _, truth = run
    known = np.where(truth == 255, 1, truth)[:100, :120]
    write_raster(folder / "bare.tif", known, INNER, nodata=None)
    result = evaluate(folder / "run", folder / "bare.tif")
    assert result.scores.pixels == (label[:100, :120] != 255).sum()


def test_truth_in_another_projection_is_read_at_the_nearest_pixel(tmp_path):
    window = Window(32645, -310000, 48000, 60, 50)
    west, south, east, north = transformer("EPSG:32645", "EPSG:4326").transform_bounds(*window.bounds_m)
    size = 400
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, (size, size)).astype(np.uint8)
    step_x, step_y = (east - west) / size, (north - south) / size
    transform = Affine(step_x, 0, west, 0, -step_y, north)
    write_raster(tmp_path / "d.tif", labels, window, crs="EPSG:4326", transform=transform)
    with open_truth(tmp_path / "d.tif", window) as read:
        found = read(window)
    y, x = window.coordinates()
    lon, lat = transformer("EPSG:32645", "EPSG:4326").transform(*np.meshgrid(x, y))
    expected = labels[((north - lat) / step_y).astype(int), ((lon - west) / step_x).astype(int)]
    # GDAL's warper approximates the projection within an eighth of a source pixel.
    assert (found == expected).mean() > 0.9
    assert (found != 255).all()


@pytest.mark.parametrize("epsg", [32644, 32645, 32745])
def test_a_pixel_counts_in_the_zone_that_its_centre_lies_in(epsg):
    central = -81 + 6 * (epsg % 100 - 17) + 0.0
    west_deg = central - 3
    lat = 28.3 if epsg < 32700 else -28.3
    for meridian in (west_deg, west_deg + 6):
        x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(meridian, lat)
        window = Window(epsg, round(-y / 10) - 300, round(x / 10) - 40, 600, 80)
        ys, xs = window.coordinates()
        lon, _ = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(xs, ys))
        expected = (lon >= west_deg) & (lon < west_deg + 6)
        assert 0 < expected.mean() < 1
        assert (in_zone(window) != expected).sum() <= 1, "an edge through a centre may fall either way"


def test_two_zones_that_overlap_count_their_common_ground_once(tmp_path):
    x44, y = transformer("EPSG:4326", "EPSG:32644").transform(84.0, 28.3)
    x45, _ = transformer("EPSG:4326", "EPSG:32645").transform(84.0, 28.3)
    pixels = 0
    for epsg, x in ((32644, x44), (32645, x45)):
        col, row = round(x / 10) // EDGE * EDGE, round(-y / 10) // EDGE * EDGE
        window = Window(epsg, row, col - EDGE, EDGE, 3 * EDGE)
        label, probability, truth = random_map(window, seed=epsg)
        write_run(tmp_path / "run", window, label, probability)
        write_raster(tmp_path / f"{epsg}.tif", truth, window)
        ys, xs = window.coordinates()
        lon, _ = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*np.meshgrid(xs, ys))
        inside = lon < 84 if epsg == 32644 else lon >= 84
        pixels += (inside & (label != 255) & (truth != 255)).sum()
    result = evaluate(tmp_path / "run", tmp_path)
    assert result.scores.pixels == pytest.approx(pixels, abs=2)
    assert sum(result.parts.values(), start=type(result.scores)(np.zeros((5, 5), np.int64))) == result.scores


def test_a_year_is_held_against_its_own_truth_where_there_is_one(run):
    folder, label, probability, _ = run
    write_run(folder / "run", INNER, label, probability, year=2019)
    (folder / "2019").mkdir()
    write_raster(folder / "2019" / "32645.tif", label, INNER)
    parts = evaluate(folder / "run", folder).parts
    assert parts["2018/32645"].accuracy < 1
    assert parts["2019/32645"].accuracy == 1


def test_what_is_not_there_is_said_in_one_line(run):
    folder, *_ = run
    with pytest.raises(SourceError, match="2020"):
        evaluate(folder / "run", folder, years=[2020])
    with pytest.raises(SourceError, match="finished run"):
        evaluate(folder / "nothing", folder)
    with pytest.raises(SourceError, match="EPSG:32645"):
        evaluate(folder / "run", {32644: folder / "32645.tif"})
    (folder / "broken.tif").write_bytes(b"no raster")
    with pytest.raises(SourceError, match="check the file"):
        evaluate(folder / "run", folder / "broken.tif")


def test_reliability_of_parts_adds_up_and_a_sure_right_map_has_no_error():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 1000).astype(np.uint8)
    winner = rng.integers(0, 3, 1000).astype(np.uint8)
    p = rng.random(1000)
    whole = Reliability.of(truth, winner, p, 10)
    parts = Reliability.of(truth[:300], winner[:300], p[:300], 10) + Reliability.of(
        truth[300:], winner[300:], p[300:], 10
    )
    np.testing.assert_array_equal(whole.count, parts.count)
    np.testing.assert_allclose(whole.probability_sum, parts.probability_sum)
    assert whole.ece == pytest.approx(parts.ece)
    assert Reliability.of(truth, truth, np.ones(1000), 10).ece == 0
    assert Reliability.of(truth, truth, np.full(1000, 0.6), 10).ece == pytest.approx(0.4)
    assert np.isnan(Reliability.none().ece)
    assert Reliability.none().to_dict() == {"ece": None, "bins": []}


def test_patches_are_scored_with_modalities_taken_away(tmp_path):
    """A model that answers 1 where it sees temperature and 0 where it does not."""
    writer = PatchWriter(tmp_path / "p.zarr", channels=("B02", "LST"), patch_px=32)
    writer.add(
        np.ones((2, 32, 32), np.float32), np.ones((32, 32), np.uint8), Place(32645, 0, 0, 1, "median", "test")
    )
    patches = writer.finish()

    def predict(x):
        sees = np.isfinite(x[:, 1])
        return np.stack([~sees, sees], axis=1).astype(np.float32)

    assert score_patches(predict, patches, [0]).accuracy == 1
    assert score_patches(predict, patches, [0], absent=["thermal"]).accuracy == 0
