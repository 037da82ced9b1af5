"""Areas by glacier against brute force, and bodies of true ice against scipy's labels."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
from scipy import ndimage

from cryoscale.errors import InputError, SourceError
from cryoscale.grid import Window, transformer
from cryoscale.learn import scan
from cryoscale.learn.glaciers import GlacierAreas, Glaciers, bodies_of_truth, nearest, read_outlines
from cryoscale.learn.outlines import read_outlines as read_many
from cryoscale.learn.scan import parts_of
from tests.reference.test_learn_evaluate import INNER, write_raster, write_run


def blobs(seed, size=INNER.shape, share=0.8):
    """Smooth bodies of ice, partly under debris, in rock; 255 here and there."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random(size), 12)
    labels = np.where(field > np.quantile(field, share), 1, 0).astype(np.uint8)
    labels[(labels == 1) & (np.arange(size[0])[:, np.newaxis] % 64 > 40)] = 2
    labels[rng.random(size) < 0.02] = 255
    return labels


def by_hand(number, truth, label, reach_px):
    """True, kept, added and loose pixels, one pixel after the other."""
    count = number.max() + 1
    true, kept, added, loose = np.zeros(count, int), np.zeros(count, int), np.zeros(count, int), 0
    sites = np.argwhere(number >= 0)
    owners = number[number >= 0]
    for r, c in np.argwhere((truth != 255) & (label != 255)):
        mapped = label[r, c] in (1, 2)
        if number[r, c] >= 0:
            true[number[r, c]] += 1
            kept[number[r, c]] += mapped
        elif mapped and truth[r, c] not in (1, 2):
            squared = ((sites - [r, c]) ** 2).sum(axis=1)
            if squared.min() <= reach_px**2:
                added[owners[squared == squared.min()].min()] += 1
            else:
                loose += 1
    return true, kept, added, loose


@pytest.fixture
def run(tmp_path):
    truth, label = blobs(3), np.roll(blobs(3), (4, 7), (0, 1))
    label[ndimage.gaussian_filter(np.random.default_rng(9).random(INNER.shape), 6) > 0.53] = 1
    write_run(tmp_path / "run", INNER, label, np.full((5, *INNER.shape), 50, np.uint8))
    write_raster(tmp_path / "t.tif", truth, INNER)
    return tmp_path, truth, label


def areas_of(folder, glaciers, reach_px):
    areas = GlacierAreas(glaciers, reach_px)
    for part in parts_of(folder / "run", 2018, 32645, folder / "t.tif", areas.rim_px):
        areas.add(part)
    return areas


@pytest.mark.parametrize("part_px", [150, 1024])
def test_areas_are_those_of_brute_force(run, monkeypatch, part_px):
    folder, truth, label = run
    monkeypatch.setattr(scan, "PART_PX", part_px)
    glaciers = bodies_of_truth(folder / "run", 2018, {32645: folder / "t.tif"}, 0.05)
    number = glaciers.numbers(INNER)
    true, kept, added, loose = by_hand(number, truth, label, 12)
    areas = areas_of(folder, glaciers, 12)
    assert added.sum() > 100
    assert loose > 100
    np.testing.assert_array_equal(areas.true_px, true)
    np.testing.assert_array_equal(areas.kept_px, kept)
    np.testing.assert_array_equal(areas.added_px, added)
    assert areas.loose_px == loose
    largest = areas.rows()[0]
    n = int(true.argmax())
    assert largest["true_km2"] == pytest.approx(true[n] / 1e4)
    assert largest["mapped_km2"] == pytest.approx((kept[n] + added[n]) / 1e4)
    assert largest["missed_km2"] == pytest.approx((true[n] - kept[n]) / 1e4)
    assert largest["bias_pct"] == pytest.approx(100 * (kept[n] + added[n] - true[n]) / true[n])
    total = areas.summary()
    assert total["bias_pct"] == pytest.approx(100 * ((kept + added).sum() / true.sum() - 1), abs=1e-3)
    bias = [row["bias_pct"] for row in areas.rows()]
    assert total["median_bias_pct"] == pytest.approx(np.median(bias))


def test_bodies_of_true_ice_are_scipys_four_connected_ones(run):
    folder, truth, _ = run
    glaciers = bodies_of_truth(folder / "run", 2018, {32645: folder / "t.tif"}, 0.0)
    number = glaciers.numbers(INNER)
    bodies, count = ndimage.label(np.isin(truth, (1, 2)))
    assert len(glaciers.ids) == count == len(set(glaciers.ids))
    np.testing.assert_array_equal(number >= 0, bodies > 0)
    pairs = {(a, b) for a, b in zip(number.ravel(), bodies.ravel(), strict=True) if b}
    assert len(pairs) == count


def test_a_map_like_the_truth_has_no_bias(run):
    folder, truth, _ = run
    write_run(folder / "same" / "run", INNER, truth, np.full((5, *INNER.shape), 50, np.uint8))
    write_raster(folder / "same" / "t.tif", truth, INNER)
    areas = areas_of(folder / "same", bodies_of_truth(folder / "run", 2018, {32645: folder / "t.tif"}), 12)
    assert {row["bias_pct"] for row in areas.rows()} == {0.0}
    assert areas.summary()["added_km2"] == areas.summary()["loose_km2"] == 0


def test_of_two_glaciers_equally_near_the_first_takes_the_pixel():
    number = np.full((9, 9), -1, np.int32)
    number[4, 0], number[4, 8], number[0, 4] = 2, 1, 0
    points = np.array([[4, 4], [4, 3], [8, 8], [5, 4]])
    np.testing.assert_array_equal(nearest(number, points, 4), [0, 2, 1, -1])
    np.testing.assert_array_equal(nearest(number, points, 2), [-1, -1, -1, -1])
    np.testing.assert_array_equal(nearest(np.full((3, 3), -1, np.int32), points, 4), [-1] * 4)


def test_outlines_of_a_file_keep_their_ids_and_their_year(tmp_path):
    west, south, *_ = INNER.bounds_m
    boxes = [shapely.box(west + 500 * n, south + 400, west + 500 * n + 300, south + 900) for n in range(3)]
    frame = gpd.GeoDataFrame(
        {"rgi_id": ["A", "B", "C"], "year": [2018, 2018, 2019]}, geometry=boxes, crs="EPSG:32645"
    )
    frame.to_file(tmp_path / "rgi.gpkg")
    frame.to_crs(4326).to_parquet(tmp_path / "rgi.parquet")
    for name in ("rgi.gpkg", "rgi.parquet"):
        glaciers = read_outlines(tmp_path / name, 2018)
        assert glaciers.ids == ("A", "B")
        number = glaciers.numbers(INNER)
        assert [(number == n).sum() for n in (0, 1)] == [30 * 50, 30 * 50]
    assert len(read_outlines(tmp_path / "rgi.gpkg", 2030).ids) == 3
    frame.drop(columns=["rgi_id", "year"]).to_file(tmp_path / "bare.gpkg")
    assert read_outlines(tmp_path / "bare.gpkg").ids == ("1", "2", "3")


def test_a_spike_of_an_outline_makes_no_ice_of_a_line(tmp_path):
    clean = shapely.box(86.9, 27.9, 86.91, 27.91)
    spiked = shapely.Polygon(
        [(86.9, 27.9), (86.91, 27.9), (86.93, 27.9), (86.91, 27.9), (86.91, 27.91), (86.9, 27.91)]
    )
    nothing = shapely.Polygon([(86.5, 27.5), (86.75, 27.75), (86.625, 27.625)])
    frame = gpd.GeoDataFrame({"rgi_id": ["a", "b", "c"]}, geometry=[clean, spiked, nothing], crs=4326)
    frame.to_file(tmp_path / "o.gpkg")
    glaciers = read_outlines(tmp_path / "o.gpkg")
    one, other, none = glaciers.polygons
    assert one.equals(clean)
    assert other.equals(clean)
    assert none.is_empty
    x, y = transformer("EPSG:4326", "EPSG:32645").transform(86.905, 27.905)
    number = glaciers.numbers(Window(32645, int(-y // 10) - 100, int(x // 10) - 100, 400, 400))
    assert set(np.unique(number)) == {-1, 0}  # of outlines that overlap the first has the pixel


def test_a_glacier_on_the_other_side_of_the_globe_is_no_hindrance():
    far = shapely.box(-93.1, 28.0, -92.9, 28.1)
    glaciers = Glaciers(("far",), np.array([far], object), "here")
    assert (glaciers.numbers(INNER) == -1).all()


def test_outlines_that_cannot_be_used_are_told_in_one_line(tmp_path):
    (tmp_path / "broken.gpkg").write_bytes(b"no such thing")
    points = gpd.GeoDataFrame({"id": [1]}, geometry=[shapely.Point(84, 28)], crs="EPSG:4326")
    points.to_file(tmp_path / "points.gpkg")
    points.set_crs(None, allow_override=True).to_file(tmp_path / "nowhere.shp")
    unknown = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::999999"}}
    box = gpd.GeoDataFrame({"id": [1]}, geometry=[shapely.box(84, 28, 85, 29)], crs="EPSG:4326")
    (tmp_path / "unknown.geojson").write_text(json.dumps({**box.to_geo_dict(), "crs": unknown}))
    for name, words in (
        ("none.gpkg", "absent"),
        ("broken.gpkg", "broken.gpkg"),
        ("points.gpkg", "without a polygon"),
        ("nowhere.shp", "without a CRS"),
        ("unknown.geojson", "999999, which PROJ does not know"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            read_outlines(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="999999, which PROJ does not know"):
        read_many([tmp_path / "unknown.geojson"], "glaciers", [box.geometry[0]])
