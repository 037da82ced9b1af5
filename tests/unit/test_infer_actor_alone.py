"""The model's actor as a plain object: memory, accounts, and what it says of itself."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoscale.errors import ConfigError, OperatorError, WeightsError
from cryoscale.grid import Block, Window
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.encode import encode
from cryoscale.infer.gate import PLACES
from cryoscale.infer.handover import Handed
from cryoscale.infer.predict import Tiling, predict_window
from cryoscale.models.bandratio import OPTICAL_CHANNELS
from cryoscale.models.weights import read_card
from tests.integration.conftest import save_random_network

BLOCK = Window(32645, -64, 64, 64, 64)
EXTENT = BLOCK.pad(16)


def features(channels: int = 14) -> np.ndarray:
    """Noise (channel, y, x) in [0, 1] on EXTENT."""
    return np.random.default_rng(1).random((channels, *EXTENT.shape), dtype=np.float32)


class SmallDevice:
    """A model on a device that holds only so many tiles."""

    def __init__(self, holds: int, error: type[Exception] = torch.cuda.OutOfMemoryError) -> None:
        self.holds, self.error, self.batches = holds, error, list[int]()

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.batches.append(len(tiles))
        if len(tiles) > self.holds:
            raise self.error("out of memory")
        ice = tiles[:, 0] * np.linspace(0, 1, tiles.shape[-1], dtype=np.float32)
        return np.stack([ice, 1 - ice], axis=1)


def actor_of(model: object, **options: object) -> ModelActor:
    """An actor of tiles of 32 pixels that holds ``model``."""
    return ModelActor({}, 32, 0.5, load=lambda: model, **options)


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError])
def test_a_device_that_runs_out_of_memory_gets_half_the_batch_for_good(error: type[Exception]) -> None:
    model = SmallDevice(holds=3, error=error)
    actor = actor_of(model, batch=16)
    bands = actor.predict(features(), EXTENT.row, EXTENT.col, BLOCK)
    assert model.batches[:3] == [16, 8, 4]
    assert set(model.batches[3:]) == {2}
    assert (actor.stats()["memory_retries"], actor.describe()["batch"]) == (3, 2)
    expected = actor_of(SmallDevice(holds=1)).predict(features(), EXTENT.row, EXTENT.col, BLOCK)
    for name, band in expected.items():
        np.testing.assert_array_equal(bands[name], band)
    model.batches.clear()
    actor.predict(features(), EXTENT.row, EXTENT.col, BLOCK)
    assert set(model.batches) == {2}


def test_a_device_too_small_for_one_tile_is_an_error_for_the_operator() -> None:
    actor = actor_of(SmallDevice(holds=0), batch=2)
    with pytest.raises(OperatorError, match="no memory on the device for one tile of 32 px"):
        actor.predict(features(), EXTENT.row, EXTENT.col, BLOCK)
    assert actor.stats()["blocks"] == 0
    assert actor.stats()["busy_s"] > 0


def test_other_errors_of_the_model_are_not_taken_for_want_of_memory() -> None:
    model = SmallDevice(holds=0, error=RuntimeError)
    with pytest.raises(RuntimeError, match="out of memory"):
        actor_of(model, batch=4).predict(features(), EXTENT.row, EXTENT.col, BLOCK)
    assert model.batches == [4]


def test_the_actor_counts_its_work() -> None:
    actor = actor_of(SmallDevice(holds=99))
    assert actor.stats()["blocks"] == 0
    part = features()
    part[0, :, 48:] = np.nan  # the right half of the block
    for block in (BLOCK, Block(32645, -1, 1, 64)):
        actor.predict(part, EXTENT.row, EXTENT.col, block)
    stats = actor.stats()
    assert (stats["blocks"], stats["pixels"]) == (2, 2 * 64 * 64)
    assert (stats["tiles"], stats["tiles_skipped"]) == (2 * 15, 2 * 10)
    assert stats["busy_s"] > 0
    assert stats["idle_s"] >= 0
    assert stats["load_s"] >= 0


def test_a_block_whose_memory_is_gone_gives_its_place_back_at_once() -> None:
    """As when its sender is killed between being admitted and served."""
    gone = Handed(os.getpid(), 99999, bytes(16), (2, *EXTENT.shape), "<f4")

    async def next_is_admitted() -> bool:
        actor = actor_of(SmallDevice(holds=99))
        for _ in range(PLACES):
            place = (EXTENT.row, EXTENT.col, BLOCK, None, await actor.admit(), None)
            with pytest.raises(OSError, match="No such file"):
                actor.serve(gone, *place)
        await asyncio.wait_for(actor.admit(), 10)
        return True

    assert asyncio.run(next_is_admitted())


def test_bytes_are_those_of_the_window_predicted_directly() -> None:
    model = SmallDevice(holds=99)
    bands = actor_of(model, batch=5).predict(features(), EXTENT.row, EXTENT.col, BLOCK)
    direct = predict_window(
        features(), (EXTENT.row, EXTENT.col), BLOCK, predict=model, tiling=Tiling(32, 0.5, 1)
    )
    for name, band in encode(direct.probability, direct.disagreement).items():
        np.testing.assert_array_equal(bands[name], band)


def test_channels_are_matched_to_the_model_by_name() -> None:
    model = SmallDevice(holds=99)
    model.channels = ("slope", "B02")
    actor, stack = actor_of(model), features(3)
    stack[1] = np.nan
    names = ("B02", "LST", "slope")
    bands = actor.predict(stack, EXTENT.row, EXTENT.col, BLOCK, names)
    swapped = actor.predict(stack[[2, 0]], EXTENT.row, EXTENT.col, BLOCK)
    for name, band in bands.items():
        np.testing.assert_array_equal(swapped[name], band)
    with pytest.raises(WeightsError, match="without slope"):
        actor.predict(stack, EXTENT.row, EXTENT.col, BLOCK, ("B02", "LST", "aspect"))
    with pytest.raises(WeightsError, match="3 channels without names"):
        actor.predict(stack, EXTENT.row, EXTENT.col, BLOCK)


def test_a_tile_that_the_network_cannot_take_is_refused_at_the_start() -> None:
    model = SmallDevice(holds=1)
    model.tile_multiple = 64
    with pytest.raises(ConfigError, match="tile_px 32; expected a multiple of 64"):
        actor_of(model)


def test_band_ratio_runs_on_an_actor_and_describes_itself() -> None:
    actor = ModelActor({"name": "band-ratio"}, tile_px=32, threads=1)
    names = ("slope", *OPTICAL_CHANNELS, "LST")
    bands = actor.predict(features(14), EXTENT.row, EXTENT.col, BLOCK, names)
    assert bands["probability"].shape == (5, 64, 64)
    assert (bands["disagreement"] == 0).all()
    told = actor.describe()
    assert (told["name"], told["sha256"], told["tile_px"], told["threads"]) == ("band-ratio", None, 32, 1)
    assert told["device_name"].startswith("cpu")
    assert told["torch"] == torch.__version__


def test_threads_are_fixed_in_the_thread_that_predicts() -> None:
    from concurrent.futures import ThreadPoolExecutor

    seen: list[int] = []
    model = SmallDevice(holds=1)
    before = torch.get_num_threads()

    def watching(tiles: np.ndarray) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return model(tiles)

    try:
        actor = actor_of(watching, threads=1)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(torch.set_num_threads, 2).result()
            pool.submit(actor.predict, features(), EXTENT.row, EXTENT.col, BLOCK).result()
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_the_tiling_does_not_import_torch() -> None:
    import subprocess

    code = "import sys, cryoscale.infer.predict, cryoscale.infer.actor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_that_were_replaced_while_a_run_is_under_way_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "random.safetensors"
    save_random_network(weights)
    begun = read_card(weights).sha256
    ModelActor({"weights": str(weights)}, tile_px=64, sha256=begun)
    with pytest.raises(WeightsError, match="with which the run was begun"):
        ModelActor({"weights": str(weights)}, tile_px=64, sha256="0" * 64)
