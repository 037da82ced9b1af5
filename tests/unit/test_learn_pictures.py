"""The pictures and tables of an evaluation: what they show is what was counted, also where nothing was."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from matplotlib import image

from cryoscale.grid import Window
from cryoscale.learn import charts, tables
from cryoscale.learn.boundary import BoundaryDistance
from cryoscale.learn.errormap import ADDED, BOTH, MISSED, MIXED, NEITHER, UNKNOWN, ErrorMap, code_of
from cryoscale.learn.evaluate import Evaluation
from cryoscale.learn.examine import examine
from cryoscale.learn.reliability import Reliability
from cryoscale.learn.scan import parts_of
from cryoscale.learn.scores import CLASS_NAMES, Scores
from tests.reference.test_learn_evaluate import INNER, random_map, write_raster, write_run


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examined")
    label, probability, truth = random_map(INNER)
    truth[20:200, 30:300], label[24:200, 30:290] = 1, 1
    write_run(folder / "run", INNER, label, probability)
    write_raster(folder / "t.tif", truth, INNER)
    slope = np.linspace(0, 60, INNER.width, dtype=np.float32)

    def layers(year, window):
        start = window.col - INNER.col
        return {"slope_deg": np.broadcast_to(slope[start : start + window.width], window.shape)}

    return folder, examine(folder / "run", folder / "t.tif", layers=layers), truth, label


def pixels(png):
    return image.imread(io.BytesIO(png), format="png")


def has_colour(png, colour, least=20):
    wanted = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return (np.abs(pixels(png)[..., :3] - wanted).max(axis=2) < 0.02).sum() > least


def test_an_examination_holds_what_an_evaluation_holds_and_more(examined):
    from cryoscale.learn.evaluate import evaluate

    folder, found, *_ = examined
    plain = evaluate(folder / "run", folder / "t.tif")
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {key: written[key] for key in plain.to_dict()} == json.loads(json.dumps(plain.to_dict()))
    assert written["boundary"]["glacier"]["both"]["edges"] > 0
    assert written["area"]["2018"]["glaciers"][0]["true_km2"] > 1
    assert set(written["strata"]) == {"slope_deg"}
    assert written["probabilities"]["brier"] > 0


def test_the_tables_have_the_papers_form_and_the_papers_order(examined):
    _, found, *_ = examined
    again = Evaluation(found.scores, found.reliability, {})
    text = tables.markdown("A map", found, {"thermal": again, "calibration": again}, ["A note."])
    assert "| clean ice | debris covered ice | water | vegetation | background | mean | accuracy |" in text
    scores = found.scores
    cell = " / ".join(
        f"{100 * float(share[1]):.2f}" for share in (scores.iou, scores.recall, scores.precision)
    )
    assert cell in text
    for words in ("without thermal", "temperature 1, predicted again", "A note.", "By slope, degree"):
        assert words in text
    assert "without calibration" not in text  # it is no modality
    assert f"{scores.confusion[1, 2]:,}" in text
    assert "nan" not in text


def test_every_picture_is_one_and_shows_its_series(examined):
    _, found, *_ = examined
    again = {"as mapped": found.scores, "all-but-optical": found.scores}
    curves = tables.reliabilities(found, {})
    drawn = {
        charts.BLUE: charts.confusion(found.scores, "made up"),
        charts.BROWN: charts.areas(found.areas[2018].rows()),
    }
    assert all(pixels(png).std() > 0.02 for png in drawn.values())
    assert has_colour(drawn[charts.BROWN], charts.BROWN)
    for png in (charts.reliability(curves), charts.strata(found.strata.scores()), charts.without(again)):
        assert has_colour(png, charts.BLUE)
        assert has_colour(png, charts.BROWN)
    assert has_colour(charts.boundary(found.boundaries), charts.RED)


def test_pictures_of_nothing_are_drawn_and_say_nothing():
    none = Scores.from_confusion(np.zeros((5, 5), np.int64))
    charts.confusion(none)
    charts.reliability({"none": Reliability.none()})
    charts.boundary({"glacier": BoundaryDistance("glacier")})
    charts.without({"as mapped": none})
    missed = {"id": "a", "true_km2": 1.0, "mapped_km2": 0.0, "bias_pct": -100.0}
    charts.areas([missed])


def test_the_error_picture_has_a_code_for_each_way_to_be_right_or_wrong():
    truth = np.array([0, 1, 2, 1, 2, 1, 3, 255, 1], np.uint8)[np.newaxis]
    label = np.array([0, 1, 2, 2, 1, 4, 1, 1, 255], np.uint8)[np.newaxis]
    expected = [NEITHER, BOTH, BOTH, MIXED, MIXED, MISSED, ADDED, UNKNOWN, UNKNOWN]
    np.testing.assert_array_equal(code_of(truth, label)[0], expected)


@pytest.mark.parametrize("longest_px", [10_000, 300, 111])
def test_an_error_map_is_every_nth_pixel_of_the_whole(examined, monkeypatch, longest_px):
    folder, _, truth, label = examined
    monkeypatch.setattr("cryoscale.learn.scan.PART_PX", 130)
    whole = Window(INNER.epsg, INNER.row, INNER.col, INNER.height, INNER.width)
    found = ErrorMap(whole, longest_px)
    for part in parts_of(folder / "run", 2018, 32645, folder / "t.tif"):
        found.add(part)
    assert max(found.codes.shape) <= longest_px
    np.testing.assert_array_equal(found.codes, code_of(truth, label)[:: found.step, :: found.step])
    relief = np.full(found.codes.shape, 0.5, np.float32)
    assert pixels(charts.errors(found, relief, "t")).std() > 0.05
    assert ErrorMap(whole).known() is None
    assert len(CLASS_NAMES) == 5
