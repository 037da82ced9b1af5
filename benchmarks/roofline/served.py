"""CryoNet as a GPU serves it: cuDNN's convolutions, and kernels of our own between them, in bf16.

Each of them is a step here, at its products or at the bytes of the maps that it is given and makes, once
each; what a kernel reads a second time it has from a cache. Their sum is what this very sequence of steps
could come to, and what is missing from it is the convolutions' and the kernels' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.roofline.parts import Counter, Part, Speed, around, timed
from benchmarks.roofline.written import network
from cryoscale.bench.network import predictor_of
from cryoscale.models import gates
from cryoscale.models.fused import FusedCryoNet
from cryoscale.models.serving import BY_KERNELS, Network, arithmetic

KERNELS = ("mean", "rectify_", "attend", "join", "double", "rectified_pool", "softmax")
"""Steps of :mod:`gates`."""


def parts_of(net: FusedCryoNet) -> dict[str, nn.Module]:
    """The stem's convolution, the encoder's layers, the decoder's nodes and the head, by name."""
    nodes = {f"decoder.blocks.{name}": node for name, node in net.nodes.items()}
    layers = {f"encoder.layer{index + 1}": layer for index, layer in enumerate(net.layers)}
    return {"encoder.conv1": net.stem, **layers, **nodes, "segmentation_head": net.head}


def count(size: str, tile_px: int, speed: Speed, batch: int) -> dict[str, Part]:
    """The parts by name, in the order in which they run."""
    net = network(size, torch.float32)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):  # into the convolution before it, whose bytes stay the same
                setattr(module, name, nn.Identity())
    served = FusedCryoNet(net, torch.bfloat16)
    tile = torch.empty(1, served.filled, tile_px, tile_px, dtype=torch.bfloat16, device="meta")
    counter = Counter(speed, batch)
    with (
        torch.no_grad(),  # under inference_mode convolutions go by another name
        around(parts_of(served), counter.enter, counter.leave),
        _each_a_step(counter),
        counter,
    ):
        served.probabilities(served(tile.contiguous(memory_format=torch.channels_last)), 1.0)
    return dict(counter.parts)


def rate(parts: Mapping[str, Part]) -> float:
    """Tiles a second at the limits of all steps."""
    return 1e6 / sum(part.conv_us + part.pointwise_us for part in parts.values())


def measure(size: str, tile_px: int, batch: int, device: torch.device) -> tuple[dict[str, float], float]:
    """Milliseconds a tile of each part and of the whole on a GPU, call by call and not as a graph."""
    return measure_network(
        predictor_of(size, device=device.type, precision=BY_KERNELS).network, tile_px, batch
    )


def measure_network(served: Network, tile_px: int, batch: int) -> tuple[dict[str, float], float]:
    """The same of a network that is there."""
    assert isinstance(served.model, FusedCryoNet)
    tiles = torch.randn(batch, tile_px, tile_px, served.filled, device=served.device).to(served.dtype)
    with torch.inference_mode(), arithmetic(served.device, seek=True):
        parts = parts_of(served.model)
        return timed(lambda: served(tiles.permute(0, 3, 1, 2)), parts, served.device, batch)


@contextmanager
def _each_a_step(counter: Counter) -> Iterator[None]:
    """In the body the kernels are counted, not the steps of torch that stand for them without a GPU."""

    def counted(kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(kernel)
        def step(*args: Any, **kwargs: Any) -> Any:
            with counter.silent():
                out = kernel(*args, **kwargs)
            counter.pointwise(args, kwargs, out)
            return out

        return step

    with patch.multiple(gates, **{name: counted(getattr(gates, name)) for name in KERNELS}):
        yield
