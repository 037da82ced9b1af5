from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoscale.grid import Block
from cryoscale.write import quicklook


def by_hand(layer: np.ndarray) -> np.ndarray:
    """Means of the finite pixels of each 4 x 4, one cell at a time."""
    out = np.full((layer.shape[0] // 4, layer.shape[1] // 4), np.nan)
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            cell = layer[4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
            if np.isfinite(cell).any():
                out[row, col] = np.nanmean(cell)
    return out


def test_thinning_takes_the_mean_of_what_is_valid() -> None:
    layer = np.random.default_rng(0).random((32, 48)).astype(np.float32)
    layer[:4, :4] = np.nan
    layer[5, 9] = np.nan
    np.testing.assert_allclose(quicklook.thinned(layer), by_hand(layer), rtol=1e-6)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_blocks_lie_where_they_belong_and_what_was_not_written_is_nan(tmp_path: Path, where: str) -> None:
    out = str(tmp_path) if where == "disk" else f"memory://{tmp_path.name}"
    block = Block(32645, -1200, 81, 256)
    window = block.window.pad(256)
    quicklook.create(out, year=2018, window=window, block_px=256)
    quicklook.create(out, year=2018, window=window, block_px=256)
    layer = np.random.default_rng(1).random((256, 256)).astype(np.float32)
    quicklook.write_block(out, 2018, block, {"B04": layer})
    seen = quicklook.open_quicklook(out, 2018, 32645).load()
    y, x = block.window.coordinates()
    part = seen["B04"].sel(y=slice(y[0], y[-1]), x=slice(x[0], x[-1]))
    np.testing.assert_array_equal(part.values, quicklook.thinned(layer))
    assert np.isfinite(seen["B04"]).sum() == 64 * 64
    assert not np.isfinite(seen["elevation"]).any()
    np.testing.assert_allclose(part["y"], y.reshape(-1, 4).mean(axis=1))


def test_elevation_is_cut_without_a_graph_and_is_not_there_where_there_is_no_quicklook(
    tmp_path: Path,
) -> None:
    block = Block(32645, -1200, 81, 256)
    quicklook.create(str(tmp_path), year=2018, window=block.window, block_px=256)
    layer = np.random.default_rng(2).random((256, 256)).astype(np.float32)
    quicklook.write_block(str(tmp_path), 2018, block, {"elevation": layer})
    elevation = quicklook.open_elevation(str(tmp_path), 2018, 32645)
    assert elevation.chunks is None
    np.testing.assert_array_equal(elevation[5:9, 7:20].values, quicklook.thinned(layer)[5:9, 7:20])
    for out, year in ((str(tmp_path / "none"), 2018), (str(tmp_path), 2019)):
        with pytest.raises(FileNotFoundError):
            quicklook.open_elevation(out, year, 32645)
