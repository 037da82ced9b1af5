"""What holds for every tile size, overlap and window."""

from __future__ import annotations

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoscale.grid import Window
from cryoscale.infer.blend import Blender
from cryoscale.infer.predict import predict_block
from cryoscale.infer.tiles import read_window, stride_px, tile_origins

EPSG = 32745
tile_sizes = st.integers(1, 33)
overlaps = st.floats(0.0, 0.9)
starts = st.integers(-300, 300)
lengths = st.integers(1, 40)


@given(tile_px=st.integers(1, 40), overlap=overlaps, start=starts, length=lengths)
def test_origins_are_all_multiples_of_the_stride_whose_tile_touches(
    tile_px: int, overlap: float, start: int, length: int
) -> None:
    stride = stride_px(tile_px, overlap)
    touching = [
        origin
        for origin in range(-1000, 1000)
        if origin % stride == 0 and set(range(origin, origin + tile_px)) & set(range(start, start + length))
    ]
    assert list(tile_origins(start, start + length, tile_px, stride)) == touching


@given(tile_px=tile_sizes, overlap=overlaps, start=starts, length=st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_the_weights_of_the_tiles_on_a_pixel_sum_to_one_and_are_hann(
    tile_px: int, overlap: float, start: int, length: int
) -> None:
    # One class a tile, 1 on its own tile and 0 on others: what comes out are the weights themselves.
    stride = stride_px(tile_px, overlap)
    origins = tile_origins(start, start + length, tile_px, stride)
    blender = Blender(Window(EPSG, 0, start, 1, length), len(origins), tile_px)
    for index, origin in enumerate(origins):
        tile = np.zeros((len(origins), tile_px, tile_px), np.float32)
        tile[index] = 1.0
        blender.add(tile, -(tile_px // 2), origin)
    weights, _ = blender.result()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-6)
    offset = np.arange(start, start + length) - np.array(origins)[:, None]
    window = np.where((offset >= 0) & (offset < tile_px), np.sin(np.pi * (offset + 0.5) / tile_px) ** 2, 0.0)
    np.testing.assert_allclose(weights[:, 0], window / window.sum(axis=0), atol=1e-6)


@given(
    tile_px=tile_sizes,
    overlap=overlaps,
    corner=st.tuples(starts, starts),
    size=st.tuples(lengths, lengths),
    cut=st.tuples(*[st.floats(0, 1)] * 4),
    batches=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    holes=st.floats(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_a_part_of_the_map_is_the_map_of_the_part(
    tile_px: int,
    overlap: float,
    corner: tuple[int, int],
    size: tuple[int, int],
    cut: tuple[float, float, float, float],
    batches: tuple[int, int],
    holes: float,
) -> None:
    whole = Window(EPSG, *corner, *size)
    top, left = int(cut[0] * (size[0] - 1)), int(cut[1] * (size[1] - 1))
    height, width = 1 + int(cut[2] * (size[0] - 1 - top)), 1 + int(cut[3] * (size[1] - 1 - left))
    part = Window(EPSG, whole.row + top, whole.col + left, height, width)

    extent = read_window(whole, tile_px, overlap)
    rng = np.random.default_rng(tile_px)
    values = rng.random((2, *extent.shape), dtype=np.float32)
    values[:, rng.random(extent.shape) < holes**3] = np.nan
    y, x = extent.coordinates()
    stack = xr.DataArray(values, dims=("channel", "y", "x"), coords={"y": y, "x": x})

    def model(tiles: np.ndarray) -> np.ndarray:
        ramp = np.arange(tiles.shape[-1], dtype=np.float32)
        share = np.cos(np.nan_to_num(tiles[:, 0]) * ramp + np.nan_to_num(tiles[:, 1]) * ramp[:, None]) ** 2
        return np.stack([share, 1 - share], axis=1)

    options = {"predict": model, "tile_px": tile_px, "overlap": overlap}
    one = predict_block(stack, whole, batch=batches[0], **options)
    needed = stack[:, *read_window(part, tile_px, overlap).slices_in(extent)]
    other = predict_block(needed, part, batch=batches[1], **options)
    cut_out = part.slices_in(whole)
    for name in ("probability", "disagreement"):
        classes = one[name].values.shape[0] if one[name].ndim == 3 else None
        if classes is not None and other[name].shape[0] != classes:
            continue  # no valid pixel: the number of classes is not known
        np.testing.assert_array_equal(one[name].values[..., *cut_out], other[name].values, err_msg=name)
    np.testing.assert_array_equal(
        np.isnan(one["disagreement"]), np.isnan(values[:, *whole.slices_in(extent)]).any(0)
    )
