"""The network alone, beside the same network as torch runs it unprepared."""

from __future__ import annotations

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
from cryoscale.models.serving import ARITHMETIC
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

    On a CPU from host memory to host memory; on a GPU as it is served, tiles and answers on the device.
    """
    features = _drawn(batch, tile_px)
    gflop, on_gpu = gflop_a_tile(size, tile_px), predictor.device.type == "cuda"
    precise = predictor.precision
    arithmetic = BY_OPENVINO.get(precise, ARITHMETIC.get(precise, precise))
    plain = CryoNet(len(CHANNELS), len(CLASS_NAMES), **SIZES[size])  # type: ignore[arg-type]
    plain = plain.to(predictor.device).eval()

    def eager() -> object:
        with torch.inference_mode():
            return torch.softmax(plain(torch.from_numpy(features).to(predictor.device)), 1).cpu().numpy()

    return Figure(
        named or f"network {size}",
        batch / (_served_s(predictor, batch, tile_px) if on_gpu else seconds(lambda: predictor(features))),
        "tiles/s",
        limits.matmul_tflops[arithmetic] * 1e3 / gflop,
        f"its {rounded(gflop)} GFLOP a tile at the speed of a large {arithmetic} product, though "
        "3 x 3 convolutions by Winograd's way take fewer",
        Rival("torch, eager, fp32", batch / seconds(eager)),
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


def _served_s(predictor: Predictor, batch: int, tile_px: int) -> float:
    """Seconds of a batch of the network alone, of several that follow one another without a wait."""
    served = predictor.serve(batch, tile_px)

    def run() -> None:
        for _ in range(_IN_A_ROW):
            served.run()
        torch.cuda.synchronize()

    return seconds(run) / _IN_A_ROW
