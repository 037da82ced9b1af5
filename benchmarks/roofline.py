"""Where the network's time goes, layer by layer, and what a device of given speed could do at best.

Each convolution takes as long as the slower of its multiplications at the device's peak and of its bytes at
the speed of its memory: input, output and weights once each, the weights shared by a batch. The sum is the
roofline with everything pointwise fused into the convolutions. That cannot be had: an scSE gate wants the
mean of a whole map before it scales it, so that the map is written, read for the gates, read and written once
more, which is what a compiler can come to at best. Beside it stands what the pointwise steps cost where each
reads and writes on its own (nearest doubling, concatenation, ReLU, gates, pooling), batch norms counted as
folded away. Where a device is at hand the time of each part is measured beside. The model is that of Williams
et al. 2009, https://doi.org/10.1145/1498765.1498785.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import RESULTS
from cryoscale.bench import record
from cryoscale.bench.network import SIZES, predictor_of
from cryoscale.features.channels import CHANNELS
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.models.cryonet import CryoNet, ScSE
from cryoscale.models.serving import arithmetic

BYTES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GATE_PASSES = {"attention1": 5, "attention2": 3}
"""Times that a map is read or written for a gate: read for its gates, read and written by the product; and
for the first its parts are read and written side by side."""

BETWEEN = "between"
"""What is in no part: the stem's ReLU and pooling, and the softmax."""

_PARTS = ("encoder.conv1", "encoder.layer", "decoder.blocks.", "segmentation_head")
_TURNS = 3


@dataclass(frozen=True)
class Speed:
    """What a device does at most: 1e12 operations and 1e9 bytes a second."""

    tflops: float
    gb_s: float

    def us(self, flop: float, moved: float) -> float:
        """Microseconds of a step, at the slower of the two."""
        return max(flop / self.tflops / 1e6, moved / self.gb_s / 1e3)


@dataclass
class Part:
    """What a part of the network does for one tile.

    Attributes:
        flop: of its convolutions, two for each multiplication.
        conv_bytes: what they read and write.
        conv_us: they, step by step at the slower of both limits.
        compute_us: of which at the limit of multiplications.
        gate_us: the passes over maps that no fusion saves before and in the scSE gates.
        pointwise_bytes: read and written by all other steps, each for itself.
        pointwise_us: they, at the speed of memory.
        measured_ms: how long the part takes on the device at hand.
    """

    flop: float = 0.0
    conv_bytes: float = 0.0
    conv_us: float = 0.0
    compute_us: float = 0.0
    gate_us: float = 0.0
    pointwise_bytes: float = 0.0
    pointwise_us: float = 0.0
    measured_ms: float | None = field(default=None)


def parts_of(net: nn.Module) -> dict[str, nn.Module]:
    """The stem's convolution, the encoder's layers, the decoder's nodes and the head, by name."""
    found = {
        name: module
        for name, module in net.named_modules()
        if name.startswith(_PARTS) and name.count(".") <= (2 if name.startswith("decoder") else 1)
    }
    return {name: module for name, module in found.items() if name != "segmentation_head.0"}


class _Count(TorchDispatchMode):
    """Adds every step of a network on the meta device to the part in which it happens."""

    def __init__(self, speed: Speed, batch: int) -> None:
        super().__init__()
        self.speed, self.batch = speed, batch
        self.parts: dict[str, Part] = defaultdict(Part)
        self.now = BETWEEN

    def gate(self, passes: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add what a gate over ``inputs`` costs at least."""
        self.parts[self.now].gate_us += self.speed.us(0.0, passes * _bytes(inputs[0]))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if func.is_view or "batch_norm" in name or "detach" in name:
            return out
        part = self.parts[self.now]
        if "convolution" in name:
            pixels, weights = args[0], args[1]
            flop = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            moved = _bytes(pixels) + _bytes(out) + _bytes(weights) / self.batch
            took = self.speed.us(flop, moved)
            part.flop += flop
            part.conv_bytes += moved
            part.conv_us += took
            part.compute_us += took if took > self.speed.us(0.0, moved) else 0.0
            return out
        moved = sum(_bytes(tensor) for tensor in tree_leaves((args, out)) if isinstance(tensor, Tensor))
        part.pointwise_bytes += moved
        part.pointwise_us += self.speed.us(0.0, moved)
        return out


def _bytes(tensor: Tensor) -> float:
    return float(tensor.numel() * tensor.element_size())


@contextmanager
def _hooks(
    parts: Mapping[str, nn.Module], before: Callable[[str], None], after: Callable[[str], None]
) -> Any:
    handles = []
    for name, module in parts.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: before(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: after(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count(size: str, tile_px: int, precision: str, speed: Speed, batch: int) -> dict[str, Part]:
    """The parts of a network by name, in the order in which they run; shapes alone, no memory."""
    with torch.device("meta"):
        net = CryoNet(len(CHANNELS), len(CLASS_NAMES), **SIZES[size])  # type: ignore[arg-type]
        net = net.eval().to(BYTES[precision])
        tile = torch.empty(1, len(CHANNELS), tile_px, tile_px, dtype=BYTES[precision])
    counter = _Count(speed, batch)
    for name, module in net.named_modules():
        if isinstance(module, ScSE):
            module.register_forward_pre_hook(partial(counter.gate, GATE_PASSES[name.split(".")[-2]]))

    def enter(name: str) -> None:
        counter.now = name

    with torch.no_grad(), _hooks(parts_of(net), enter, lambda name: enter(BETWEEN)), counter:
        torch.softmax(net(tile).float(), dim=1)
    return dict(counter.parts)


def measure(
    size: str, tile_px: int, precision: str, batch: int, device: str
) -> tuple[dict[str, float], float]:
    """Milliseconds a tile of each part, and of the whole network, on the device at hand, call by call.

    Folded and channels last, by torch's own steps. What serves a CryoNet on a GPU is not timed here, neither
    its kernels nor its graph: ``python -m benchmarks.precisions`` times that, as a whole. A part's end is
    awaited before the next one begins, which the whole is not made to do.
    """
    network = predictor_of(size, device=device, precision=precision).network
    tiles = torch.randn(batch, tile_px, tile_px, len(CHANNELS), device=device).to(network.dtype)
    begun: dict[str, float] = {}
    took: dict[str, list[float]] = defaultdict(list)

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def enter(name: str) -> None:
        begun[name] = now()

    def leave(name: str) -> None:
        took[name].append(now() - begun[name])

    def once() -> float:
        start = now()
        network(tiles.permute(0, 3, 1, 2))
        return now() - start

    with torch.inference_mode(), arithmetic(torch.device(device)):
        once()
        whole = min(once() for _ in range(_TURNS))
        with _hooks(parts_of(network.model), enter, leave):
            for _ in range(_TURNS):
                once()
    return {name: 1e3 * min(times) / batch for name, times in took.items()}, 1e3 * whole / batch


def rates(parts: Mapping[str, Part]) -> dict[str, float]:
    """Tiles a second with all that is pointwise fused, with all but the gates, and with nothing."""
    fused_us = sum(part.conv_us for part in parts.values())
    compiled_us = fused_us + sum(part.gate_us for part in parts.values())
    apart_us = fused_us + sum(part.pointwise_us for part in parts.values())
    return {"fused": 1e6 / fused_us, "compiled": 1e6 / compiled_us, "unfused": 1e6 / apart_us}


def table(parts: Mapping[str, Part], whole_ms: float | None) -> Iterator[str]:
    """The parts in lines of text."""
    total = sum(part.conv_us for part in parts.values())
    yield (
        f"{'part':<24}{'GFLOP':>8}{'MB':>8}{'FLOP/B':>8}  {'bound by':<9}{'us':>7}{'share':>7}"
        f"{'gates us':>10}{'pointwise MB':>14}{'us':>7}{'measured ms':>13}{'share':>7}"
    )
    for name, part in parts.items():
        bound = "" if not part.conv_us else "products" if 2 * part.compute_us > part.conv_us else "memory"
        intensity = part.flop / part.conv_bytes if part.conv_bytes else 0.0
        line = (
            f"{name.removeprefix('decoder.blocks.'):<24}{part.flop / 1e9:>8.2f}{part.conv_bytes / 1e6:>8.1f}"
            f"{intensity:>8.0f}  {bound:<9}{part.conv_us:>7.1f}{part.conv_us / total:>7.1%}"
            f"{part.gate_us:>10.1f}{part.pointwise_bytes / 1e6:>14.1f}{part.pointwise_us:>7.1f}"
        )
        if part.measured_ms is not None and whole_ms:
            line += f"{part.measured_ms:>13.3g}{part.measured_ms / whole_ms:>7.1%}"
        yield line


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, measure where a device is at hand, print, and keep the result as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SIZES), default="cryonet", help="Which network.")
    parser.add_argument("--tflops", type=float, default=790.0, help="1e12 operations a second; an H200's.")
    parser.add_argument("--gb-s", type=float, default=4300.0, help="1e9 bytes a second; an H200's.")
    parser.add_argument("--precision", choices=list(BYTES), default="bf16")
    parser.add_argument(
        "--batch", type=int, help="Tiles that share the weights; 32, and measured on a CPU 1."
    )
    parser.add_argument("--no-measure", action="store_true", help="Count only.")
    parser.add_argument("--out", type=Path, default=RESULTS / "roofline.jsonl")
    given = parser.parse_args(arguments)
    tile_px = 64 if given.scale == "tiny" else 256
    speed, batch = Speed(given.tflops, given.gb_s), given.batch or 32
    parts = count(given.scale, tile_px, given.precision, speed, batch)
    device, whole_ms = "cuda" if torch.cuda.is_available() else "cpu", None
    if not given.no_measure:
        at_once = batch if device == "cuda" else given.batch or 1
        measured, whole_ms = measure(given.scale, tile_px, given.precision, at_once, device)
        for name, took in measured.items():
            parts[name].measured_ms = took
    found = rates(parts)
    print("\n".join(table(parts, whole_ms)))
    gflop = sum(part.flop for part in parts.values()) / 1e9
    moved = sum(part.conv_bytes for part in parts.values()) / 1e6
    print(
        f"{gflop:.1f} GFLOP and {moved:.0f} MB a tile; at {speed.tflops:g} TFLOP/s and {speed.gb_s:g} GB/s "
        f"at most {found['fused']:,.0f} tiles/s with everything pointwise fused, "
        f"{found['compiled']:,.0f} with all but the gates, {found['unfused']:,.0f} with nothing"
    )
    print(f"measured on {device}: {'not measured' if whole_ms is None else f'{1e3 / whole_ms:.3g} tiles/s'}")
    results = {
        "tflops": speed.tflops,
        "gb_s": speed.gb_s,
        "gflop": round(gflop, 3),
        "conv_mb": round(moved, 1),
        "tiles_a_second": {name: round(rate, 1) for name, rate in found.items()},
        "measured_on": None if whole_ms is None else device,
        "measured_tiles_a_second": None if whole_ms is None else float(f"{1e3 / whole_ms:.4g}"),
        "parts": {
            name: {key: None if value is None else float(f"{value:.4g}") for key, value in vars(part).items()}
            for name, part in parts.items()
        },
    }
    sizes = {"scale": given.scale, "tile_px": tile_px, "batch": batch, "precision": given.precision}
    method = (
        "convolutions counted on the meta device, each at the slower of its products and its bytes; "
        "pointwise steps at their bytes, batch norms folded; parts measured one by one, awaited, fastest of 3"
    )
    record.append(
        given.out, record.line("roofline", method=method, sizes=sizes, results=results, packages=("torch",))
    )


if __name__ == "__main__":
    main()
