"""An actor's block, from features in host memory to bytes in host memory, beside the loop of a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoscale.bench import ground
from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import Figure, Rival
from cryoscale.features.channels import CHANNELS
from cryoscale.features.packing import HALO_PX
from cryoscale.features.stack import pack_inputs
from cryoscale.grid import Window
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.blend import hann
from cryoscale.infer.tiles import read_window
from cryoscale.infer.wire import narrow
from cryoscale.models.predictor import Predictor
from cryoscale.models.serving import arithmetic


def measure(
    predictor: Predictor, network: Figure, size_px: int, tile_px: int, overlap: float = 0.5
) -> Figure:
    """Tiles a second, cutting, blending and encoding included; limit: the network alone, in this run."""
    window = ground.block_of(size_px).window
    outer = read_window(window, tile_px, overlap)
    shape = (len(CHANNELS), outer.height, outer.width)
    features = np.random.default_rng(5).standard_normal(shape, np.float32)
    actor = ModelActor({}, tile_px=tile_px, overlap=overlap, load=lambda **_: predictor)
    standard = asyncio.run(actor.wire())
    sent: Any = features if standard is None else narrow(features, standard)  # as a run's workers send it
    took = seconds(lambda: actor.predict(sent, outer.row, outer.col, window), turns=2)
    count = len(ground.origins(window, tile_px, overlap))
    batch = actor.describe()["batch"]
    rival_s = seconds(lambda: notebook(predictor, features, outer, window, tile_px, overlap, batch), turns=2)
    return Figure(
        network.workload.replace("network", "actor"),
        count / took,
        "tiles/s",
        network.rate,
        "the network alone, in this run",
        Rival(
            "a notebook's loop",
            count / rival_s,
            "eager, tiles cut by slices, Hann sums in numpy, the same weights, device and precision",
        ),
        {
            "block_px": size_px,
            "tile_px": tile_px,
            "overlap": overlap,
            "tiles": count,
            "batch": batch,
            "bytes_a_pixel": sent.dtype.itemsize * len(CHANNELS),
        },
    )


def measure_numbers(predictor: Predictor, by_channels: Figure, network: Figure) -> Figure:
    """Tiles a second where the actor is sent what channels are made of; limit: the network alone, likewise.

    Args:
        predictor: the model.
        by_channels: what :func:`measure` found, of which the sizes are taken.
        network: the network alone, in this run.
    """
    sizes = by_channels.more
    window = ground.block_of(sizes["block_px"]).window
    outer = read_window(window, sizes["tile_px"], sizes["overlap"])
    around = outer.pad(HALO_PX)
    bands = ground.bands(outer.height, halo_px=HALO_PX)
    packed = pack_inputs(bands, predictor.channels, pca=ground.PCA)
    actor = ModelActor({}, tile_px=sizes["tile_px"], overlap=sizes["overlap"], load=lambda **_: predictor)
    took = seconds(lambda: actor.predict(packed, around.row, around.col, window), turns=2)
    return Figure(
        network.workload.replace("network", "actor of numbers"),
        sizes["tiles"] / took,
        "tiles/s",
        network.rate,
        "the network alone, in this run",
        Rival("the actor sent channels", by_channels.rate, "in this run, 30 channels made before"),
        {**sizes, "batch": actor.describe()["batch"], "bytes_a_pixel": 2 * packed.recipe.planes},
    )


def notebook(
    predictor: Predictor,
    features: NDArray[np.float32],
    outer: Window,
    window: Window,
    tile_px: int,
    overlap: float,
    batch: int,
) -> NDArray[np.uint8]:
    """Labels (y, x) as a good notebook would make them from features (c, h, w): tiles, sums, argmax."""
    corners = [(row - outer.row, col - outer.col) for row, col in ground.origins(window, tile_px, overlap)]
    mean = blended(lambda cut: _eager(predictor, cut), features, corners, tile_px, batch)
    rows, cols = window.slices_in(outer)
    return np.asarray(mean[:, rows, cols].argmax(axis=0), np.uint8)


def blended(
    forward: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    features: NDArray[np.float32],
    corners: Sequence[tuple[int, int]],
    tile_px: int,
    batch: int,
) -> NDArray[np.float32]:
    """Probabilities (k, h, w) of features (c, h, w): tiles at ``corners`` (y, x), Hann-weighted sums.

    ``forward`` takes tiles (n, c, tile_px, tile_px) to probabilities; pixels without a tile become NaN.
    """
    weight = np.outer(hann(tile_px), hann(tile_px))
    total = np.zeros(features.shape[1:], np.float32)
    sums: NDArray[np.float32] | None = None
    for start in range(0, len(corners), batch):
        chosen = corners[start : start + batch]
        cut = np.stack([features[:, y : y + tile_px, x : x + tile_px] for y, x in chosen])
        for (y, x), answer in zip(chosen, forward(cut), strict=True):
            if sums is None:
                sums = np.zeros((len(answer), *total.shape), np.float32)
            sums[:, y : y + tile_px, x : x + tile_px] += answer * weight
            total[y : y + tile_px, x : x + tile_px] += weight
    if sums is None:
        raise ValueError("no tiles")
    with np.errstate(invalid="ignore"):
        sums /= total
    return sums


def _eager(predictor: Predictor, cut: NDArray[np.float32]) -> Any:
    device, on = predictor.device, predictor.precision.startswith("bf16")
    mean, std = predictor.standard
    with torch.inference_mode(), arithmetic(device), torch.autocast(device.type, torch.bfloat16, enabled=on):
        x = torch.nan_to_num((torch.from_numpy(cut).to(device) - mean) / std)
        return torch.softmax(predictor.model(x).float(), 1).cpu().numpy()
