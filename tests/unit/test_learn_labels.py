"""The label rules on outlines and indices small enough to reason through."""

from __future__ import annotations

import warnings

import geopandas as gpd
import numpy as np
import pytest
from matplotlib.image import imsave
from matplotlib.path import Path
from shapely.geometry import Polygon, box

from cryoscale import cli
from cryoscale.errors import InputError
from cryoscale.grid import Window
from cryoscale.learn.labels import CLEAN_ICE, DEBRIS, VEGETATION, WATER, LabelRules, label_window
from cryoscale.learn.outlines import read_outlines
from cryoscale.learn.truth import open_truth

WINDOW = Window(32645, -310000, 48000, 40, 60)
WEST, SOUTH, EAST, NORTH = WINDOW.bounds_m


def frame(*shapes, crs=32645, **columns):
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


def index(value):
    return np.full(WINDOW.shape, value, np.float32)


def label(**changes):
    given = {
        "glaciers": frame(box(WEST, SOUTH, WEST + 300, NORTH)),  # columns 0..29
        "debris": frame(box(WEST + 200, SOUTH, WEST + 300, NORTH)),  # columns 20..29
        "ndwi": index(-0.2),
        "ndvi": index(0.1),
    }
    return label_window(WINDOW, **{**given, **changes})[0]


def test_clean_ice_is_glacier_minus_debris_and_the_rest_is_background():
    row = label()[7]
    assert (row[:20] == CLEAN_ICE).all()
    assert (row[20:30] == DEBRIS).all()
    assert (row[30:] == 0).all()


def test_water_and_vegetation_go_by_index_outside_ice_and_water_wins_over_vegetation():
    ndwi, ndvi = index(-0.2), index(0.1)
    ndwi[:, 40:50] = 0.171
    ndvi[:, 45:60] = 0.31
    row = label(ndwi=ndwi, ndvi=ndvi)[0]
    assert (row[30:40] == 0).all()
    assert (row[40:50] == WATER).all()
    assert (row[50:] == VEGETATION).all()


def test_thresholds_are_strict():
    row = label(ndwi=index(np.float32(0.17)), ndvi=index(np.float32(0.3)), rules=LabelRules(0.18, 0.31))[0]
    assert (row[30:] == 0).all()


def test_wet_bare_ice_stays_ice_but_a_pond_on_debris_is_water_unless_told_otherwise():
    wet = index(0.4)
    assert (label(ndwi=wet)[0, :20] == CLEAN_ICE).all()
    assert (label(ndwi=wet)[0, 20:30] == WATER).all()
    assert (label(ndwi=wet, rules=LabelRules(ponds_on_debris=False))[0, 20:30] == DEBRIS).all()


def test_steep_ground_holds_no_water_where_the_rules_say_so_and_is_left_to_the_other_rules():
    wet, green, slope = index(0.4), index(0.1), index(0.0)
    green[5:] = 0.5
    slope[:, 40:] = 15.1
    slope[:, 50:] = np.nan
    row, lower = label(ndwi=wet, ndvi=green, slope_deg=slope, rules=LabelRules(max_water_slope_deg=15.0))[
        [0, 5]
    ]
    assert (row[30:40] == WATER).all()
    assert (row[40:50] == 0).all()
    assert (lower[40:50] == VEGETATION).all()
    assert (row[50:] == WATER).all(), "a slope that is not known says nothing"
    assert (label(ndwi=wet, slope_deg=slope)[0, 30:] == WATER).all(), "the published rule has no slope"


def test_plants_on_debris_do_not_make_it_vegetation():
    assert (label(ndvi=index(0.6))[0, 20:30] == DEBRIS).all()


def test_pixels_without_optics_have_no_label_even_inside_outlines():
    ndwi, ndvi = index(-0.2), index(0.1)
    ndwi[3, 5], ndvi[4, 25] = np.nan, np.nan
    labels = label(ndwi=ndwi, ndvi=ndvi)
    assert labels[3, 5] == 255
    assert labels[4, 25] == 255
    assert (labels == 255).sum() == 2


def test_a_pixel_belongs_to_a_polygon_when_its_centre_does_and_holes_stay_open():
    triangle = Polygon([(WEST + 7, SOUTH + 11), (WEST + 555, SOUTH + 77), (WEST + 133, NORTH - 13)])
    labels = label(glaciers=frame(triangle), debris=frame())
    y, x = WINDOW.coordinates()
    centres = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    inside = Path(np.array(triangle.exterior.coords)).contains_points(centres).reshape(WINDOW.shape)
    np.testing.assert_array_equal(labels == CLEAN_ICE, inside)
    ring = box(WEST, SOUTH, EAST, NORTH).difference(box(WEST + 100, SOUTH + 100, WEST + 200, SOUTH + 200))
    assert (label(glaciers=frame(ring), debris=frame())[20:30, 10:20] == 0).all()


def test_outlines_in_degrees_give_the_labels_of_the_same_outlines_in_metres():
    # An edge through pixel centres could fall either way after reprojection, so it lies between them.
    shape = box(WEST + 103, SOUTH + 53, WEST + 403, NORTH - 97).segmentize(20)
    metres, none = frame(shape), frame()
    degrees = label(glaciers=metres.to_crs(4326), debris=none.to_crs(4326))
    np.testing.assert_array_equal(degrees, label(glaciers=metres, debris=none))


def test_corrections_win_over_the_rules_later_ones_over_earlier_ones():
    shapes = (box(WEST, NORTH - 100, WEST + 100, NORTH), box(WEST + 50, NORTH - 100, WEST + 100, NORTH))
    corrections = frame(*shapes, **{"class": ["vegetation", "water"]})
    row = label(corrections=corrections)[2]
    assert (row[:5] == VEGETATION).all()
    assert (row[5:10] == WATER).all()
    assert (row[10:20] == CLEAN_ICE).all()


@pytest.mark.parametrize("name", ["c.gpkg", "c.shp", "c.geojson"])
def test_corrections_are_read_in_the_order_of_their_file(tmp_path, name):
    """A GeoPackage gives the rows in a box in the order of its R-tree, where later ones no longer win."""
    corners = np.random.default_rng(0).random((200, 2)) / 10 + (10, 46)
    shapes = [box(x, y, x + 0.01, y + 0.01) for x, y in corners]
    numbers = np.random.default_rng(1).permutation(len(shapes))
    frame(*shapes, crs=4326, **{"class": 3, "number": numbers}).to_file(tmp_path / name)
    region = box(10.02, 46.02, 10.08, 46.08)  # what holds the whole layer is no box to GDAL
    found = read_outlines([tmp_path / name], "corrections", [region]).frame["number"]
    assert 50 < len(found) < len(numbers)
    np.testing.assert_array_equal(found, numbers[np.isin(numbers, found)])


def test_what_cannot_be_meant_is_refused_in_one_line():
    with pytest.raises(InputError, match="without a CRS"):
        label(glaciers=frame(box(0, 0, 1, 1), crs=None))
    with pytest.raises(InputError, match="shape"):
        label(ndwi=np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match="snow"):
        label(corrections=frame(box(WEST, SOUTH, EAST, NORTH), **{"class": ["snow"]}))


@pytest.mark.parametrize("rim_px", [1.0, 2.0, 3.5])
def test_a_rim_is_what_lies_within_its_width_of_the_other_side(rim_px):
    """Brute force over all pairs of pixels, with outlines that begin outside the window."""
    rules = LabelRules(rim_px=rim_px)
    ice = box(WEST - 500, SOUTH - 500, WEST + 300, NORTH - 100)
    debris = box(WEST + 150, SOUTH + 50, WEST + 220, NORTH - 200)
    found = label(glaciers=frame(ice), debris=frame(debris), rules=rules)
    plain = label(glaciers=frame(ice), debris=frame(debris))
    pad = 6
    y, x = WINDOW.pad(pad).coordinates()
    inside = {}
    for name, shape in (("ice", ice), ("debris", debris)):
        west, south, east, north = shape.bounds
        inside[name] = ((y[:, None] > south) & (y[:, None] < north)) & ((x > west) & (x < east))
    expected = plain.copy()
    reach = int(rim_px)
    for row in range(WINDOW.height):
        for col in range(WINDOW.width):
            for mask in inside.values():
                near = [
                    mask[row + pad + dy, col + pad + dx]
                    for dy in range(-reach, reach + 1)
                    for dx in range(-reach, reach + 1)
                    if dy * dy + dx * dx <= rim_px**2
                ]
                if any(near) != all(near):
                    expected[row, col] = 255
    np.testing.assert_array_equal(found, expected)


def test_labels_of_a_part_are_the_part_of_the_labels_rim_included():
    given = {
        "glaciers": frame(box(WEST + 33, SOUTH - 500, WEST + 307, NORTH - 97)),
        "debris": frame(box(WEST + 200, SOUTH, WEST + 300, NORTH)),
        "rules": LabelRules(rim_px=4),
    }
    whole = label(**given)
    part = Window(WINDOW.epsg, WINDOW.row + 7, WINDOW.col + 20, 9, 13)
    flat = np.full(part.shape, 0.1, np.float32)
    found, _ = label_window(part, ndwi=flat - 0.3, ndvi=flat, **given)
    np.testing.assert_array_equal(found, whole[part.slices_in(WINDOW)])


def test_a_raster_that_lies_nowhere_is_told_in_the_one_line_of_its_error(tmp_path, monkeypatch, capsys):
    imsave(tmp_path / "truth.png", np.zeros((4, 4)))

    def command():
        with open_truth(tmp_path / "truth.png", WINDOW):
            pass

    monkeypatch.setattr(cli, "app", command)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not said, "each would be a second line on stderr"


def test_burning_says_nothing_where_another_thread_has_taken_the_filter_that_rasterio_sets(monkeypatch):
    monkeypatch.setattr(cli, "app", label)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "simplefilter", lambda *_: None)
        cli.main()
    assert not said
