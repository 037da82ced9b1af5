"""The parts of a network, what each does for a tile, and how long it takes at a device's limits or on it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BETWEEN = "between"
"""What is in no part: the stem's ReLU and pooling, and the softmax."""

_PRODUCTS = ("convolution", "addmm")
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


class Counter(TorchDispatchMode):
    """Adds every step of a network on the meta device, one tile, to the part in which it happens.

    Args:
        speed: of the device that it is counted for.
        batch: tiles that share the weights' bytes.
    """

    def __init__(self, speed: Speed, batch: int) -> None:
        super().__init__()
        self.speed, self.batch = speed, batch
        self.parts: dict[str, Part] = defaultdict(Part)
        self.now = BETWEEN
        self._silent = False

    @contextmanager
    def silent(self) -> Iterator[None]:
        """In the body nothing is counted."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def enter(self, name: str) -> None:
        """What follows is that part's."""
        self.now = name

    def leave(self, _name: str) -> None:
        """What follows is no part's."""
        self.now = BETWEEN

    def pointwise(self, *values: object) -> None:
        """A step that reads and writes these tensors, each once."""
        part, moved = self.parts[self.now], sum(map(bytes_of, tensors_in(values)))
        part.pointwise_bytes += moved
        part.pointwise_us += self.speed.us(0.0, moved)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if self._silent or func.is_view or "batch_norm" in name or "detach" in name:
            return out
        if any(product in name for product in _PRODUCTS):
            self._product(func, args, kwargs or {}, out)
        else:
            self.pointwise(args, out)
        return out

    def _product(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        if "addmm" in func._schema.name:  # of pixels' channels, its bias first
            pixels, weights = args[1], args[2]
            flop = 2.0 * pixels.shape[0] * pixels.shape[1] * weights.shape[1]
        else:
            pixels, weights = args[0], args[1]
            flop = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        moved = bytes_of(pixels) + bytes_of(out) + bytes_of(weights) / self.batch
        took, part = self.speed.us(flop, moved), self.parts[self.now]
        part.flop += flop
        part.conv_bytes += moved
        part.conv_us += took
        part.compute_us += took if took > self.speed.us(0.0, moved) else 0.0


def bytes_of(tensor: Tensor) -> float:
    """Of its numbers."""
    return float(tensor.numel() * tensor.element_size())


def tensors_in(values: object) -> list[Tensor]:
    """Those in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@contextmanager
def around(
    parts: Mapping[str, nn.Module], before: Callable[[str], None], after: Callable[[str], None]
) -> Iterator[None]:
    """In the body each of the modules tells when it begins and ends."""
    handles = []
    for name, module in parts.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: before(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: after(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def timed(
    run: Callable[[], object], parts: Mapping[str, nn.Module], device: torch.device, batch: int
) -> tuple[dict[str, float], float]:
    """Milliseconds a tile of each part of what ``run`` does, and of the whole, the fastest of three.

    A part's end is awaited before the next one begins, which the whole is not made to do.
    """
    begun: dict[str, float] = {}
    took: dict[str, list[float]] = defaultdict(list)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def enter(name: str) -> None:
        begun[name] = now()

    def leave(name: str) -> None:
        took[name].append(now() - begun[name])

    def once() -> float:
        start = now()
        run()
        return now() - start

    once()
    whole = min(once() for _ in range(_TURNS))
    with around(parts, enter, leave):
        for _ in range(_TURNS):
            once()
    ms = 1e3 / batch
    return {name: ms * min(times) for name, times in took.items()}, ms * whole
