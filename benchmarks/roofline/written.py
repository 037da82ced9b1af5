"""CryoNet as it is written down: every convolution, every gate, every pointwise step a step of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.roofline.parts import Counter, Part, Speed, around, bytes_of, timed
from cryoscale.bench.network import SIZES, predictor_of
from cryoscale.features.channels import CHANNELS
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.models.cryonet import CryoNet, ScSE
from cryoscale.models.serving import arithmetic

BYTES = {"fp32": torch.float32, "bf16": torch.bfloat16}

GATE_PASSES = {"attention1": 5, "attention2": 3}
"""Times that a map is read or written for a gate: read for its gates, read and written by the product; and
for the first its parts are read and written side by side."""

_PARTS = ("encoder.conv1", "encoder.layer", "decoder.blocks.", "segmentation_head")


def network(size: str, dtype: torch.dtype) -> CryoNet:
    """Of that size, in evaluation mode, on the meta device: shapes alone, no memory."""
    with torch.device("meta"):
        net = CryoNet(len(CHANNELS), len(CLASS_NAMES), **SIZES[size])  # type: ignore[arg-type]
    return net.eval().to(dtype)


def parts_of(net: nn.Module) -> dict[str, nn.Module]:
    """The stem's convolution, the encoder's layers, the decoder's nodes and the head, by name."""
    found = {
        name: module
        for name, module in net.named_modules()
        if name.startswith(_PARTS) and name.count(".") <= (2 if name.startswith("decoder") else 1)
    }
    return {name: module for name, module in found.items() if name != "segmentation_head.0"}


def count(size: str, tile_px: int, precision: str, speed: Speed, batch: int) -> dict[str, Part]:
    """The parts of a network by name, in the order in which they run."""
    net = network(size, BYTES[precision])
    tile = torch.empty(1, len(CHANNELS), tile_px, tile_px, dtype=BYTES[precision], device="meta")
    counter = Counter(speed, batch)

    def gate(passes: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counter.parts[counter.now].gate_us += speed.us(0.0, passes * bytes_of(inputs[0]))

    for name, module in net.named_modules():
        if isinstance(module, ScSE):
            module.register_forward_pre_hook(partial(gate, GATE_PASSES[name.split(".")[-2]]))
    with torch.no_grad(), around(parts_of(net), counter.enter, counter.leave), counter:
        torch.softmax(net(tile).float(), dim=1)
    return dict(counter.parts)


def rates(parts: Mapping[str, Part]) -> dict[str, float]:
    """Tiles a second with all that is pointwise fused, with all but the gates, and with nothing."""
    fused_us = sum(part.conv_us for part in parts.values())
    compiled_us = fused_us + sum(part.gate_us for part in parts.values())
    apart_us = fused_us + sum(part.pointwise_us for part in parts.values())
    return {"fused": 1e6 / fused_us, "compiled": 1e6 / compiled_us, "unfused": 1e6 / apart_us}


def measure(
    size: str, tile_px: int, precision: str, batch: int, device: torch.device
) -> tuple[dict[str, float], float]:
    """Milliseconds a tile of each part and of the whole on the device, folded and channels last, by torch."""
    served = predictor_of(size, device=device.type, precision=precision).network
    tiles = torch.randn(batch, tile_px, tile_px, len(CHANNELS), device=device).to(served.dtype)
    with torch.inference_mode(), arithmetic(device):
        return timed(lambda: served(tiles.permute(0, 3, 1, 2)), parts_of(served.model), device, batch)
