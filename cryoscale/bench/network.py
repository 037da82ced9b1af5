"""The network alone, beside the same network as torch runs it unprepared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.bench.limits import Limits
from cryoscale.features.channels import CHANNELS
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.predictor import BY_OPENVINO, Predictor, count_parameters, quicker_on_cpus
from cryoscale.models.serving import ARITHMETIC, arithmetic
from cryoscale.models.weights import Card

SIZES = {
    "tiny": {"encoder": "resnet10w16", "decoder_channels": (32, 16, 16, 16, 16)},
    "small": {"encoder": "resnet18w16", "decoder_channels": (128, 64, 32, 16, 16)},
    "cryonet": {"encoder": "resnet101", "decoder_channels": (256, 128, 64, 32, 16)},
}
"""Networks by name; ``cryonet`` is the paper's."""

_IN_A_ROW = 10


def predictor_of(size: str, *, device: str = "auto", precision: str = "auto") -> Predictor:
    """A predictor with drawn weights: speed does not depend on what they are."""
    torch.manual_seed(1)
    arguments = SIZES[size]
    network = CryoNet(len(CHANNELS), len(CLASS_NAMES), **arguments)  # type: ignore[arg-type]
    card = Card(
        architecture="cryonet",
        arguments={
            "in_channels": len(CHANNELS),
            "classes": len(CLASS_NAMES),
            **{key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()},
        },
        channels=CHANNELS,
        mean=(0.0,) * len(CHANNELS),
        std=(1.0,) * len(CHANNELS),
        classes=CLASS_NAMES,
    )
    return Predictor(network, card, device=device, precision=precision)


def gflop_a_tile(size: str, tile_px: int) -> float:
    """Floating point operations of a tile, 1e9: two for each multiplication, as the device's limit counts."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter, torch.inference_mode():  # shapes alone
        network = CryoNet(len(CHANNELS), len(CLASS_NAMES), **SIZES[size])  # type: ignore[arg-type]
        network.eval()(torch.zeros(1, len(CHANNELS), tile_px, tile_px))
    return float(counter.get_total_flops()) / 1e9


def measure(
    size: str, predictor: Predictor, tile_px: int, batch: int, limits: Limits, *, named: str = ""
) -> Figure:
    """Tiles a second; limit: its products at the speed of one large one.

    On a CPU from host memory to host memory; on a GPU as it is served, tiles and answers on the device. So
    are the tiles and the answers of the other.
    """
    features = _drawn(batch, tile_px)
    gflop, device = gflop_a_tile(size, tile_px), predictor.device
    precise = predictor.precision
    product = BY_OPENVINO.get(precise, ARITHMETIC.get(precise, precise))
    plain = CryoNet(len(CHANNELS), len(CLASS_NAMES), **SIZES[size])  # type: ignore[arg-type]
    plain = plain.to(device).eval()
    tiles = torch.from_numpy(features).to(device)  # on a CPU the same memory

    def eager() -> object:
        with torch.inference_mode(), arithmetic(device):
            return torch.softmax(plain(tiles), 1)

    on_gpu = device.type == "cuda"
    took = _served_s(predictor, tiles) if on_gpu else seconds(lambda: predictor(features))
    return Figure(
        named or f"network {size}",
        batch / took,
        "tiles/s",
        limits.matmul_tflops[product] * 1e3 / gflop,
        f"its {rounded(gflop)} GFLOP a tile at the speed of a large {product} product, though "
        "3 x 3 convolutions by Winograd's way take fewer",
        Rival("torch, eager, fp32", batch / _in_a_row_s(eager, device)),
        {
            "tile_px": tile_px,
            "batch": batch,
            "precision": precise,
            "device": predictor.device.type,
            "parameters": count_parameters(predictor.model),
        },
    )


def measure_quickest(size: str, tile_px: int, limits: Limits) -> Figure | None:
    """As :func:`measure` on a CPU, in the quickest of the ways that a run's trial has to choose from there.

    Whether it may be taken, the weights decide: those drawn here say nothing of that. None where fp32 by
    torch is the only way.
    """
    features = _drawn(1, tile_px)
    took = {}
    for precision in quicker_on_cpus():
        predictor = predictor_of(size, device="cpu", precision=precision)
        took[precision] = seconds(lambda predictor=predictor: predictor(features), turns=2)  # type: ignore[misc]
    if not took:
        return None
    best = predictor_of(size, device="cpu", precision=min(took, key=lambda name: took[name]))
    return measure(size, best, tile_px, 1, limits, named=f"network {size}, by trial")


def _drawn(batch: int, tile_px: int) -> NDArray[np.float32]:
    shape = (batch, len(CHANNELS), tile_px, tile_px)
    return np.random.default_rng(4).standard_normal(shape, np.float32)


def _served_s(predictor: Predictor, tiles: torch.Tensor) -> float:
    """Seconds of a batch of the network alone, its tiles (n, c, h, w) where it finds them."""
    served = predictor.serve(len(tiles), tiles.shape[-1])
    served.tiles[..., : tiles.shape[1]] = tiles.permute(0, 2, 3, 1)  # of zeros a GPU makes more products
    return _in_a_row_s(served.run, predictor.device)


def _in_a_row_s(batch: Callable[[], object], device: torch.device) -> float:
    """Seconds of a batch; on a GPU of several that follow one another without a wait."""
    on_gpu = device.type == "cuda"
    count = _IN_A_ROW if on_gpu else 1

    def run() -> None:
        for _ in range(count):
            batch()
        if on_gpu:
            torch.cuda.synchronize(device)

    return seconds(run) / count
