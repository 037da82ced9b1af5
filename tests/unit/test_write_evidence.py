from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
import zarr
from shapely.geometry import Polygon, box

from cryoscale.grid import Block, Window, transformer
from cryoscale.write import evidence, quicklook
from cryoscale.write.evidence import LAYERS, Evidence

YEAR, EPSG, SIZE = 2018, 32645, 256
NOTHING: dict[str, np.ndarray] = {}
"""Planes of a block of which only the map is known."""
FIRST_DAY = 17532  # 2018-01-01, in days from 1970-01-01
BLOCK = Block(EPSG, -1200, 81, SIZE)


def in_degrees(shape: Polygon, epsg: int = EPSG) -> Polygon:
    """A shape of a zone (m) in degrees."""
    to_degrees = transformer(f"EPSG:{epsg}", "EPSG:4326")
    return shapely.transform(shape, lambda xy: np.column_stack(to_degrees.transform(*xy.T)))


def pixels(window: Window, rows: slice, cols: slice) -> Polygon:
    """The rectangle (m) around pixels of a window."""
    west, _, _, north = window.bounds_m
    return box(west + 10 * cols.start, north - 10 * rows.stop, west + 10 * cols.stop, north - 10 * rows.start)


def written(out: Path, planes: dict[str, np.ndarray], label: np.ndarray, day: int = FIRST_DAY) -> Evidence:
    """The evidence of a run of one block."""
    quicklook.create(str(out), year=YEAR, window=BLOCK.window, block_px=SIZE)
    dates = np.where(label == 255, 0, day).astype(np.int32)
    layers = evidence.layers_of(planes.get, label, dates, YEAR)
    evidence.write_block(str(out), YEAR, BLOCK, layers)
    if "elevation" in planes:
        quicklook.write_block(str(out), YEAR, BLOCK, {"elevation": planes["elevation"]})
    seen = evidence.open_evidence(str(out), YEAR, EPSG)
    assert seen is not None
    return Evidence({EPSG: seen})


def test_layers_are_the_means_of_sixteen_pixels_and_the_index_is_that_of_the_mean_bands() -> None:
    rng = np.random.default_rng(0)
    planes = {
        name: rng.random((16, 12)).astype(np.float32)
        for name in ("B03", "B08", "B11", "persistence", "velocity", "coherence")
    }
    planes["velocity"][3, 3] = np.nan
    planes["velocity"][8, 8] = 1e6  # an error of the mosaic: float16 ends at 65504
    label = rng.integers(0, 4, (16, 12)).astype(np.uint8)
    label[:4, :4] = 255
    dates = np.full((16, 12), FIRST_DAY + 290, np.int32)
    dates[0, 5] = 0
    found = dict(zip(LAYERS, evidence.layers_of(planes.get, label, dates, YEAR), strict=True))

    def mean(values: np.ndarray, row: int, col: int) -> float:
        return float(np.nanmean(values[4 * row : 4 * row + 4, 4 * col : 4 * col + 4]))

    for row, col in np.ndindex(4, 3):
        for name, source in {"nir": "B08", "persistence": "persistence", "coherence": "coherence"}.items():
            assert found[name][row, col] == pytest.approx(mean(planes[source], row, col), rel=1e-3)
        green, swir = mean(planes["B03"], row, col), mean(planes["B11"], row, col)
        assert found["ndsi"][row, col] == pytest.approx((green - swir) / (green + swir), abs=1e-3)
        assert found["day"][row, col] == 290
        if (row, col) == (0, 0):
            assert np.isnan(found["ice"][0, 0])
            assert np.isnan(found["debris"][0, 0])
            continue
        ice, debris = (label == 1) | (label == 2), label == 2
        assert found["ice"][row, col] == pytest.approx(mean(ice.astype(float), row, col))
        assert found["debris"][row, col] == pytest.approx(mean(debris.astype(float), row, col))
    assert found["velocity"][0, 0] == pytest.approx(mean(planes["velocity"], 0, 0), rel=1e-3)
    assert np.isfinite(found["velocity"]).all()
    assert np.isnan(found["dates"]).all()  # nobody counted them


def test_cells_under_an_outline_weigh_what_it_covers_of_them(tmp_path: Path) -> None:
    speed = np.zeros((SIZE, SIZE), np.float32)
    speed[:, 102:] = 8.0
    label = np.ones((SIZE, SIZE), np.uint8)
    label[:, 110:] = 2
    seen = written(tmp_path, {"velocity": speed}, label)
    # columns 98 to 117: one cell half covered, of mixed speeds on; rows 40 to 51: three whole ones
    cells = seen.under(in_degrees(pixels(BLOCK.window, slice(40, 52), slice(98, 118))))
    assert cells.weight.sum() * 16 == pytest.approx(12 * 20, abs=2)
    assert cells.mean("debris") == pytest.approx(8 / 20, abs=0.02)
    # 98, 99 stand in a cell of still ice, 100 to 103 in one of half the speed
    assert cells.mean("velocity") == pytest.approx((2 * 0 + 4 * 4 + 14 * 8) / 20, abs=0.1)
    assert cells.median("velocity") == 8.0
    assert cells.seen_fraction == pytest.approx(1.0, abs=0.01)
    assert np.isnan(cells.mean("coherence"))
    assert np.isnan(cells.median("coherence"))


def test_slopes_are_those_of_the_elevation_also_along_the_rim_of_a_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_STRIP_ROWS", 7)
    y, x = BLOCK.window.coordinates()
    z = (0.25 * (x[None, :] - x[0]) - 0.5 * (y[:, None] - y[0])).astype(np.float32)
    seen = written(tmp_path, {"elevation": z}, np.ones((SIZE, SIZE), np.uint8))
    cells = seen.under(in_degrees(pixels(BLOCK.window, slice(0, SIZE), slice(0, SIZE))))
    inner = np.isfinite(cells.rise_east) & np.isfinite(cells.rise_north)
    assert inner.sum() == 62 * 62  # beyond the map nothing is known
    np.testing.assert_allclose(cells.rise_east[inner], 0.25, atol=1e-3)
    np.testing.assert_allclose(cells.rise_north[inner], -0.5, atol=1e-3)


def test_what_was_not_mapped_under_an_outline_is_no_cell_and_is_not_seen(tmp_path: Path) -> None:
    label = np.ones((SIZE, SIZE), np.uint8)
    label[:, :80] = 255
    seen = written(tmp_path, {"coherence": np.full((SIZE, SIZE), 0.5, np.float32)}, label)
    cells = seen.under(in_degrees(pixels(BLOCK.window, slice(40, 80), slice(40, 120))))
    assert cells.seen_fraction == pytest.approx(0.5, abs=0.01)
    assert cells.weight.size == pytest.approx(10 * 10, abs=12)
    beside = seen.under(in_degrees(pixels(BLOCK.window, slice(0, 40), slice(4000, 4040))))
    far = seen.under(Polygon([(-70.0, -30.0), (-69.9, -30.0), (-69.9, -29.9)]))
    assert (beside.weight.size, beside.seen_fraction) == (far.weight.size, far.seen_fraction) == (0, 0.0)


def test_of_a_large_outline_cells_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = np.repeat(np.linspace(0, 40, SIZE, dtype=np.float32)[:, None], SIZE, axis=1)
    seen = written(tmp_path, {"velocity": speed}, np.ones((SIZE, SIZE), np.uint8))
    outline = in_degrees(pixels(BLOCK.window, slice(0, SIZE), slice(0, SIZE)))
    whole = seen.under(outline)
    monkeypatch.setattr(evidence, "_MOST_CELLS", 300)
    thinned = seen.under(outline)
    assert thinned.weight.size <= 300 < whole.weight.size
    assert thinned.median("velocity") == pytest.approx(whole.median("velocity"), abs=1.0)
    assert thinned.seen_fraction == pytest.approx(whole.seen_fraction)


def test_an_outline_across_two_zones_has_the_cells_of_both(tmp_path: Path) -> None:
    lon, lat = 84.0, 28.0
    parts = {}
    for epsg, speed in ((32644, 2.0), (32645, 6.0)):
        x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon, lat)
        block = Block(epsg, int(-y // 10 // SIZE), int(x // 10 // SIZE), SIZE)
        quicklook.create(str(tmp_path), year=YEAR, window=block.window, block_px=SIZE)
        rows, cols = np.meshgrid(*block.window.coordinates(), indexing="ij")
        east, _ = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(cols, rows)
        label = np.where((east > lon) == (epsg == 32645), 1, 255).astype(np.uint8)
        plane = {"velocity": np.full(label.shape, speed, np.float32)}
        dates = np.full(label.shape, FIRST_DAY, np.int32)
        evidence.write_block(str(tmp_path), YEAR, block, evidence.layers_of(plane.get, label, dates, YEAR))
        parts[epsg] = evidence.open_evidence(str(tmp_path), YEAR, epsg)
    outline = box(lon - 0.001, lat - 0.001, lon + 0.002, lat + 0.001)
    cells = Evidence({epsg: part for epsg, part in parts.items() if part is not None}).under(outline)
    assert cells.mean("velocity") == pytest.approx((1 * 2 + 2 * 6) / 3, abs=0.35)
    assert cells.seen_fraction == pytest.approx(1.0, abs=0.01)


def test_a_run_that_was_begun_without_evidence_goes_on_without(tmp_path: Path) -> None:
    out = str(tmp_path)
    quicklook.create(out, year=YEAR, window=BLOCK.window, block_px=SIZE)
    group = zarr.open_group(f"{tmp_path}/quicklook.zarr", path=f"{YEAR}/{EPSG}", mode="r+")
    del group["evidence"]
    label = np.ones((SIZE, SIZE), np.uint8)
    layers = evidence.layers_of(NOTHING.get, label, np.zeros(label.shape, np.int32), YEAR)
    evidence.write_block(out, YEAR, BLOCK, layers)
    assert evidence.open_evidence(out, YEAR, EPSG) is None
    assert evidence.open_evidence(out, YEAR + 1, EPSG) is None
    assert evidence.open_evidence(str(tmp_path / "none"), YEAR, EPSG) is None
