"""Tiles, blending and prediction of blocks, against plain loops and against themselves."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray

from cryoscale.errors import OperatorError, WeightsError
from cryoscale.grid import Block, Window, blocks_over
from cryoscale.infer.blend import Blender, hann
from cryoscale.infer.predict import DEFAULT_CLASSES, optical_channels, predict_block, valid_pixels
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.models.bandratio import OPTICAL_CHANNELS, BandRatio

EPSG = 32645
Array = NDArray[np.float32]
Model = Callable[[Array], Array]


def stack_on(window: Window, channels: int = 3, seed: int = 0) -> xr.DataArray:
    """Uniform noise (channel, y, x) in [0, 1] on ``window``."""
    y, x = window.coordinates()
    values = np.random.default_rng(seed).random((channels, *window.shape), dtype=np.float32)
    return xr.DataArray(values, dims=("channel", "y", "x"), coords={"y": y, "x": x})


def ramp(tiles: Array) -> Array:
    """Two classes; nonlinear in the features and different in every corner of the tile."""
    across = np.linspace(0.1, 1.0, tiles.shape[-1], dtype=np.float32)
    features = np.nan_to_num(tiles)
    share = np.float32(1) / (1 + np.exp(-(features[:, 0] * across + features[:, 1] ** 2 * across[:, None])))
    return np.stack([share, 1 - share], axis=1)


class Recorder:
    """A model that remembers the shapes it was called with."""

    def __init__(self, model: Model = ramp) -> None:
        self.model, self.shapes = model, list[tuple[int, ...]]()

    def __call__(self, tiles: Array) -> Array:
        self.shapes.append(tiles.shape)
        return self.model(tiles)


class ConvNet:
    """A small real network on torch: two 3x3 convolutions and a softmax."""

    def __init__(self, channels: int = 3) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 4, 3, padding=1, stride=2),
            torch.nn.Upsample(scale_factor=2),
            torch.nn.Softmax(dim=1),
        ).eval()

    def __call__(self, tiles: Array) -> Array:
        with torch.inference_mode():
            return self.net(torch.from_numpy(np.nan_to_num(tiles))).numpy()


def by_pixel(
    stack: xr.DataArray, window: Window, model: Model, tile_px: int, overlap: float
) -> tuple[Array, Array]:
    """Mean and disagreement of ``window``, one pixel and one tile at a time, in float64."""
    stride = max(1, round(tile_px * (1 - overlap)))
    west, north = round(float(stack.x[0]) / 10 - 0.5), round(-float(stack.y[0]) / 10 - 0.5)
    height, width = stack.shape[1:]
    answers: dict[tuple[int, int], Array] = {}

    def answer(row: int, col: int) -> Array:
        if (row, col) not in answers:
            tile = np.full((1, stack.shape[0], tile_px, tile_px), np.nan, np.float32)
            for y, x in itertools.product(range(tile_px), repeat=2):
                if 0 <= row + y - north < height and 0 <= col + x - west < width:
                    tile[0, :, y, x] = stack.values[:, row + y - north, col + x - west]
            answers[row, col] = model(tile)[0]
        return answers[row, col]

    means, spreads = [], []
    for row in range(window.row, window.row + window.height):
        for col in range(window.col, window.col + window.width):
            weights, values = [], []
            for top in range(row - tile_px + 1, row + 1):
                for left in range(col - tile_px + 1, col + 1):
                    if top % stride == 0 and left % stride == 0:
                        weight = math.sin(math.pi * (row - top + 0.5) / tile_px) ** 2
                        weight *= math.sin(math.pi * (col - left + 0.5) / tile_px) ** 2
                        weights.append(weight)
                        values.append(answer(top, left)[:, row - top, col - left].astype(float))
            share = np.array(weights)[:, None] / sum(weights)
            mean = (share * values).sum(axis=0)
            means.append(mean)
            spreads.append(math.sqrt(max(0.0, (share * np.square(values)).sum() - np.square(mean).sum())))
    return np.array(means).T.reshape(-1, *window.shape), np.array(spreads).reshape(window.shape)


def assert_same(left: xr.Dataset, right: xr.Dataset) -> None:
    """Equal to the last bit, NaN included, on the pixels of ``right``."""
    part = left.sel(y=right.y, x=right.x)
    for name in ("probability", "disagreement"):
        np.testing.assert_array_equal(part[name].values, right[name].values, err_msg=name)


# --- lattice and window -------------------------------------------------------------------------


def test_the_hann_window_sums_to_one_at_half_overlap_and_is_never_zero() -> None:
    for tile_px in (2, 8, 64, 256):
        weights = hann(tile_px)
        np.testing.assert_allclose(weights[: tile_px // 2] + weights[tile_px // 2 :], 1.0, atol=1e-6)
        assert weights.min() > 0


def test_a_stride_and_its_tiles_are_refused_where_they_make_no_sense() -> None:
    assert (stride_px(256, 0.5), stride_px(256, 0.0), stride_px(256, 0.3), stride_px(4, 0.9)) == (
        128,
        256,
        179,
        1,
    )
    for tile_px, overlap in ((0, 0.5), (8, 1.0), (8, -0.1), (8, float("nan"))):
        with pytest.raises(ValueError, match=r"tile_px|overlap"):
            stride_px(tile_px, overlap)
    with pytest.raises(ValueError, match="no pixels"):
        tile_origins(5, 5, 8, 4)
    with pytest.raises(ValueError, match="gaps"):
        tile_origins(0, 5, 8, 9)


def test_the_window_to_read_is_the_hull_of_the_tiles_that_touch_the_block() -> None:
    assert read_window(Block(EPSG, -2, 1, 512), 256, 0.5) == Window(EPSG, -1152, 384, 768, 768)
    assert read_window(Window(EPSG, 0, 0, 512, 512), 256, 0.0) == Window(EPSG, 0, 0, 512, 512)
    assert read_window(Window(EPSG, 10, 20, 1, 1), 256, 0.0) == Window(EPSG, 0, 0, 256, 256)


def test_a_tile_beside_the_window_leaves_no_trace() -> None:
    window, tile = Window(EPSG, 10, 20, 6, 9), np.ones((2, 8, 8), np.float32)
    blender = Blender(window, 2, 8)
    for row, col in ((2, 20), (16, 20), (10, 12), (10, 29), (-900, 900), (900, -900)):
        blender.add(tile, row, col)
    assert all(np.isnan(band).all() for band in blender.result())
    blender = Blender(window, 2, 8)
    blender.add(tile, 3, 13)
    assert np.isfinite(blender.result()[1]).sum() == 1


# --- exactness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile_px", "overlap", "window"),
    [
        (8, 0.5, Window(EPSG, -20, 13, 17, 11)),
        (8, 0.0, Window(EPSG, -20, 13, 17, 11)),
        (7, 0.3, Window(EPSG, -9, -5, 16, 13)),
        (10, 0.9, Window(EPSG, 3, 3, 5, 4)),
        (24, 0.75, Window(EPSG, -2, 100, 3, 5)),
    ],
    ids=str,
)
def test_blending_equals_a_loop_over_pixels(tile_px: int, overlap: float, window: Window) -> None:
    stack = stack_on(read_window(window, tile_px, overlap))
    found = predict_block(stack, window, predict=ramp, tile_px=tile_px, overlap=overlap, batch=3)
    mean, disagreement = by_pixel(stack, window, ramp, tile_px, overlap)
    np.testing.assert_allclose(found["probability"], mean, atol=1e-6)
    np.testing.assert_allclose(found["disagreement"], disagreement, atol=2e-6)
    assert found["probability"].dtype == found["disagreement"].dtype == np.float32


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_a_constant_model_gives_a_constant_map_and_no_disagreement(overlap: float) -> None:
    window = Window(EPSG, -100, 37, 61, 43)
    shares = np.array([0.7, 0.2, 0.1], np.float32)

    def constant(tiles: Array) -> Array:
        return np.broadcast_to(shares[:, None, None], (len(tiles), 3, *tiles.shape[2:]))

    found = predict_block(stack_on(window), window, predict=constant, tile_px=16, overlap=overlap)
    np.testing.assert_array_equal(
        found["probability"].values, np.broadcast_to(shares[:, None, None], (3, 61, 43))
    )
    np.testing.assert_array_equal(found["disagreement"].values, 0.0)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
def test_blocks_of_512_equal_blocks_of_1024_and_a_cut_region_in_any_order(overlap: float) -> None:
    whole = Window(EPSG, -1024, 1024, 1024, 1024)
    stack = stack_on(read_window(whole, 256, overlap))
    stack[:, 400:470, 500:900] = np.nan
    options = {"predict": ramp, "tile_px": 256, "overlap": overlap}
    one = predict_block(stack, Block(EPSG, -1, 1, 1024), **options)
    blocks = list(blocks_over(whole, 512))
    assert len(blocks) == 4
    for block in reversed(blocks):
        needed = read_window(block, 256, overlap)
        rows, cols = needed.slices_in(read_window(whole, 256, overlap))
        assert_same(one, predict_block(stack[:, rows, cols], block, batch=3, **options))
    assert_same(one, predict_block(stack, Window(EPSG, -801, 1217, 333, 401), batch=2, **options))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_real_network_gives_the_same_pixels_for_every_block_size(batch: int) -> None:
    whole = Window(EPSG, -256, 256, 256, 256)
    stack = stack_on(read_window(whole, 64, 0.5))
    options = {"predict": ConvNet(), "tile_px": 64, "overlap": 0.5, "batch": batch}
    one = predict_block(stack, whole, **options)
    for block in blocks_over(whole, 128):
        assert_same(one, predict_block(stack, block, **options))
    assert_same(one, predict_block(stack, Window(EPSG, -200, 301, 77, 95), **options))
    assert float(one["disagreement"].max()) > 1e-3


@pytest.mark.parametrize("batch", [2, 3, 7, 40])
def test_the_size_of_a_batch_does_not_show(batch: int) -> None:
    window = Window(EPSG, -50, 70, 40, 44)
    stack, model = stack_on(window.pad(16)), Recorder()
    one = predict_block(stack, window, predict=ramp, tile_px=16)
    assert_same(one, predict_block(stack, window, predict=model, tile_px=16, batch=batch))
    assert set(model.shapes) == {(batch, 3, 16, 16)}
    tiles = len(tile_origins(-50, -10, 16, 8)) * len(tile_origins(70, 114, 16, 8))
    assert len(model.shapes) == math.ceil(tiles / batch)


def test_a_tile_far_larger_than_the_block_gives_the_pixels_of_a_large_block() -> None:
    large = Window(EPSG, -128, 0, 128, 128)
    stack = stack_on(read_window(large, 96, 0.5))
    one = predict_block(stack, large, predict=ramp, tile_px=96)
    assert_same(one, predict_block(stack, Window(EPSG, -70, 33, 3, 5), predict=ramp, tile_px=96))


def test_blocks_that_straddle_the_origin_of_the_zone_are_like_any_other() -> None:
    whole = Window(EPSG, -32, -32, 64, 64)
    stack = stack_on(read_window(whole, 16, 0.3))
    one = predict_block(stack, whole, predict=ramp, tile_px=16, overlap=0.3)
    assert_same(one, predict_block(stack, Window(EPSG, -5, -3, 11, 8), predict=ramp, tile_px=16, overlap=0.3))


def test_a_model_without_context_gives_the_same_bits_from_tiles_that_do_not_overlap() -> None:
    def pixelwise(tiles: Array) -> Array:
        return np.stack([np.exp(-tiles[:, 0]), 1 - np.exp(-tiles[:, 0])], axis=1)

    quick = Recorder(pixelwise)
    quick.needs_halo = False
    window = Window(EPSG, -203, 55, 150, 131)
    stack = stack_on(read_window(window, 32, 0.5))
    slow = Recorder(pixelwise)
    assert_same(
        predict_block(stack, window, predict=slow, tile_px=32),
        predict_block(stack, window, predict=quick, tile_px=32),
    )
    assert len(quick.shapes) * 3 < len(slow.shapes)


def test_the_band_ratio_gives_the_same_pixels_for_every_block_size() -> None:
    whole = Window(EPSG, -256, 512, 256, 256)
    stack = stack_on(whole, channels=12).assign_coords(channel=list(OPTICAL_CHANNELS))
    one = predict_block(stack, whole, predict=BandRatio(), tile_px=64)
    for part in (Window(EPSG, -201, 533, 77, 95), Window(EPSG, -3, 767, 1, 1)):
        assert_same(one, predict_block(stack, part, predict=BandRatio(), tile_px=64))
    blended = predict_block(stack, whole, predict=Recorder(BandRatio()), tile_px=48, overlap=0.3)
    np.testing.assert_array_equal(one["probability"], blended["probability"])


def test_answers_that_are_not_contiguous_or_of_another_precision_are_taken() -> None:
    window = Window(EPSG, 0, 0, 24, 24)
    stack = stack_on(window)
    one = predict_block(stack, window, predict=ramp, tile_px=16)

    def turned(tiles: Array) -> Array:
        return ramp(tiles).transpose(0, 3, 2, 1).copy().transpose(0, 3, 2, 1).astype(np.float64)

    assert_same(one, predict_block(stack, window, predict=turned, tile_px=16))


# --- no data ------------------------------------------------------------------------------------


def test_pixels_without_an_optical_band_are_no_data_and_a_missing_modality_is_not() -> None:
    window = Window(EPSG, -64, 64, 64, 64)
    stack = stack_on(window, channels=14)
    stack = stack.assign_coords(channel=["B01", *(f"B{i:02d}" for i in range(2, 13)), "NDVI", "slope"])
    stack[0, 5, 6] = np.nan
    stack[11, 40:50] = np.nan
    stack[12:, 20] = np.nan
    found = predict_block(stack, window, predict=ramp, tile_px=32)
    missing = np.zeros(window.shape, bool)
    missing[5, 6] = missing[40:50] = True
    np.testing.assert_array_equal(np.isnan(found["disagreement"]), missing)
    np.testing.assert_array_equal(np.isnan(found["probability"]), np.broadcast_to(missing, (2, 64, 64)))


def test_optical_channels_are_found_by_name_and_else_are_the_first_twelve() -> None:
    assert optical_channels(["slope", "B8A", "NDVI", "B02"], 4) == [1, 3]
    assert optical_channels(None, 30) == list(range(12))
    assert optical_channels(["a", "b"], 2) == [0, 1]


def test_a_channel_that_is_missing_empties_no_map_of_a_model_without_bands() -> None:
    names = ["LST", "NDSI", "TC_wetness", "elevation"]
    assert optical_channels(names, 4) == [1, 2]
    stack = np.ones((4, 2, 2), np.float32)
    stack[0] = np.nan
    assert valid_pixels(stack, optical_channels(names, 4)).all()


def test_where_features_end_tiles_see_no_data() -> None:
    window = Window(EPSG, -64, 64, 64, 64)
    given = stack_on(Window(EPSG, -50, 70, 40, 33))
    full = stack_on(read_window(window, 32, 0.5)) * np.nan
    full.loc[{"y": given.y, "x": given.x}] = given
    one = predict_block(full, window, predict=ramp, tile_px=32)
    assert_same(one, predict_block(given, window, predict=ramp, tile_px=32))
    assert np.isfinite(one["disagreement"]).sum() == 40 * 33


def test_tiles_without_a_valid_pixel_of_the_block_are_not_predicted() -> None:
    window = Window(EPSG, 0, 0, 64, 64)
    stack = stack_on(read_window(window, 16, 0.0))
    stack[0] = np.nan
    stack[0, 20, 40] = 0.5
    model = Recorder()
    found = predict_block(stack, window, predict=model, tile_px=16, overlap=0.0)
    assert model.shapes == [(1, 3, 16, 16)]
    assert np.isfinite(found["disagreement"].values).sum() == 1


def test_a_block_without_data_is_a_map_without_data_and_no_work() -> None:
    window = Window(EPSG, 0, 0, 32, 32)
    model = Recorder()
    found = predict_block(stack_on(window) * np.nan, window, predict=model, tile_px=16)
    assert model.shapes == []
    assert found["probability"].shape == (DEFAULT_CLASSES, 32, 32)
    assert np.isnan(found["probability"]).all()
    assert np.isnan(found["disagreement"]).all()
    model.classes = ("ice", "no ice")
    assert predict_block(stack_on(window) * np.nan, window, predict=model)["probability"].shape[0] == 2


# --- memory and laziness ------------------------------------------------------------------------


def test_memory_is_a_batch_and_the_blocks_own_pixels() -> None:
    window = Window(EPSG, 0, 0, 1024, 1024)
    stack = stack_on(window)
    predict_block(stack, Window(EPSG, 0, 0, 8, 8), predict=ramp)  # compiles
    tracemalloc.start()
    predict_block(stack, window, predict=ramp, tile_px=64, overlap=0.75, batch=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own_pixels = (2 + 1 + 1 + 2) * window.height * window.width * 4  # classes, weight, spread, temporaries
    all_answers = 67**2 * 2 * 64 * 64 * 4
    assert peak < own_pixels + 8e6 < all_answers / 4


def test_only_what_the_tiles_need_of_lazy_features_is_computed() -> None:
    import dask.array as da

    window, computed = Window(EPSG, 0, 0, 256, 256), list[object]()

    def count(values: Array, block_info: dict[int, dict[str, object]]) -> Array:
        computed.append(block_info[0]["chunk-location"])
        return values

    stack = stack_on(window)
    lazy = da.from_array(stack.values, chunks=(3, 64, 64)).map_blocks(
        count, meta=np.empty((0, 0, 0), np.float32)
    )
    lazy_stack = stack.copy(data=lazy)
    block = Window(EPSG, 0, 0, 32, 32)
    found = predict_block(lazy_stack, block, predict=ramp, tile_px=32)
    assert_same(found, predict_block(stack, block, predict=ramp, tile_px=32))
    assert computed == [(0, 0, 0)]


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda tiles: tiles[:, :, ::2],
        lambda tiles: tiles[:-1],
        lambda tiles: tiles[0],
        lambda tiles: tiles.mean(axis=1),
    ],
)
def test_answers_of_the_wrong_shape_are_refused_with_both_shapes(answer: Model) -> None:
    window = Window(EPSG, 0, 0, 32, 32)
    with pytest.raises(
        OperatorError, match=r"tiles of shape \(2, 3, 16, 16\) into .*expected \(2, classes, 16, 16\)"
    ):
        predict_block(stack_on(window), window, predict=answer, tile_px=16, batch=2)


def test_a_model_that_changes_its_mind_about_the_classes_is_refused() -> None:
    window = Window(EPSG, 0, 0, 32, 32)
    counts = itertools.count(2)
    with pytest.raises(OperatorError, match="3 classes after 2"):
        predict_block(
            stack_on(window), window, predict=lambda t: np.repeat(t[:, :1], next(counts), axis=1), tile_px=16
        )


def test_probabilities_that_are_not_finite_on_valid_pixels_are_refused() -> None:
    window = Window(EPSG, 0, 0, 32, 32)
    with pytest.raises(OperatorError, match="not finite"):
        predict_block(stack_on(window), window, predict=lambda tiles: tiles * np.nan, tile_px=16)


def test_features_that_cannot_be_what_is_meant_are_refused() -> None:
    window = Window(EPSG, 0, 0, 32, 32)
    stack = stack_on(window)
    with pytest.raises(ValueError, match="dims"):
        predict_block(stack.transpose("y", "x", "channel"), window, predict=ramp)
    with pytest.raises(ValueError, match="do not touch"):
        predict_block(stack, Window(EPSG, 5000, 0, 32, 32), predict=ramp)
    with pytest.raises(ValueError, match="lattice"):
        predict_block(stack.assign_coords(x=stack.x + 3.0), window, predict=ramp)
    with pytest.raises(ValueError, match="batch"):
        predict_block(stack, window, predict=ramp, batch=0)


def test_channels_are_matched_to_the_model_by_name() -> None:
    window = Window(EPSG, 0, 0, 32, 32)
    stack = stack_on(window).assign_coords(channel=["B02", "B03", "slope"])
    model = Recorder(lambda tiles: tiles[:, :2] * 1)
    model.channels = ("B03", "B02")
    found = predict_block(stack, window, predict=model, tile_px=16)
    np.testing.assert_allclose(found["probability"], stack.values[[1, 0]], atol=1e-6)
    assert model.shapes[0] == (1, 2, 16, 16)
    model.channels = ("B03", "aspect", "LST")
    with pytest.raises(WeightsError, match="without aspect, LST"):
        predict_block(stack, window, predict=model, tile_px=16)
    model.channels = ("B02", "B03", "slope", "aspect")
    with pytest.raises(WeightsError, match="3 channels without names"):
        predict_block(stack.drop_vars("channel"), window, predict=model, tile_px=16)
