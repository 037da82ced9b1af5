"""A network made ready for batches of one shape, tensors in and tensors out on its own device.

Batch norms are folded, weights lie in the precision of the arithmetic and channels last, and on a GPU the
whole network is captured once as a CUDA graph, which a call replays without any of torch's work on the host:
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. The same code runs on a CPU without the
graph. What lies between the convolutions may be fused first, by kernels of our own (CryoNet, :mod:`fused`) or
by torch's compiler (any network): ``python -m benchmarks.roofline`` tells what each could come to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from cryoscale.models.fold import fold_batch_norms
from cryoscale.models.fused import FusedCryoNet

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("cryoscale")

WARM_UP = 3
"""Calls before a graph is captured, in which libraries choose their kernels and take their memory."""

BY_COMPILER = "bf16-compiled"
"""The way to run a network whose pointwise steps torch's compiler fuses."""

BY_KERNELS = "bf16-fused"
"""The way to run a CryoNet with kernels of our own between its convolutions."""

ARITHMETIC = {BY_COMPILER: "bf16", BY_KERNELS: "bf16"}
"""Ways to run a network that only a GPU knows, with the precision of their arithmetic."""

TIMED = 5
"""Runs of a batch by which ways to run the network are told apart."""

LOCATION = 4
"""Length of a location code."""

_EXAMPLE_PX = 64


def arithmetic(device: torch.device, *, seek: bool = False) -> AbstractContextManager[None]:
    """fp32 means fp32 on a GPU too, where cuDNN's default for convolutions is the shorter TF32.

    With ``seek`` cuDNN tries its kernels on each new shape and keeps the quickest of those that give the same
    answer at every call. Two machines may then differ in the last bits.
    """
    if device.type != "cuda":
        return nullcontext()
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=seek, deterministic=True, allow_tf32=False
    )
    return context


def on(device: torch.device) -> AbstractContextManager[Any]:
    """In the body that GPU is the current one, on which torch captures and Triton's kernels run."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def standardised(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """A network's input (n, c, h, w) of features in physical units; what is missing becomes the mean, 0.

    In place after the first step: three copies of a batch cost a small network a twelfth of its time.
    """
    return (features - mean).div_(std).nan_to_num_(0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Network:
    """A network for serving: folded, channels last, its weights in the precision of its arithmetic.

    Attributes:
        model: standardised features (n, c, h, w), and location codes (n, 4) where it takes them, to logits.
        channels: how many features c it takes.
        temperature: what logits are divided by.
        precision: "fp32" or "bf16".
        location: whether it takes codes.
        device: where it lies.
        filled: channels of the tiles as they lie in memory; those beyond the features stay zero.
    """

    model: nn.Module
    channels: int
    temperature: float
    precision: str
    location: bool
    device: torch.device
    filled: int

    @classmethod
    def of(
        cls, model: nn.Module, channels: int, temperature: float, precision: str, location: bool
    ) -> Network:
        """A copy of ``model``, which is in evaluation mode on its device in float32, made ready.

        By the compiler it is compiled at the first call of each shape, which takes a minute or so.

        Raises:
            InputError: kernels of our own are asked for, and there are none for this network.
        """
        device = next(model.parameters()).device
        drawn = torch.Generator().manual_seed(0)
        shapes = [(1, channels, _EXAMPLE_PX, _EXAMPLE_PX), *([(1, LOCATION)] if location else [])]
        example = [torch.randn(shape, generator=drawn).to(device) for shape in shapes]
        with arithmetic(device):
            ready = fold_batch_norms(model, *example)
        shortened = ARITHMETIC.get(precision, precision)
        if precision == BY_KERNELS:
            fused = FusedCryoNet(ready, torch.bfloat16)
            return cls(fused, channels, temperature, shortened, location, device, fused.filled)
        if shortened == "bf16":
            # autocast would round the weights anew at every call; what it leaves in float32 stays so
            for module in ready.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                    module.to(torch.bfloat16)
        ready = convert_conv2d_weight_memory_format(ready, torch.channels_last)
        if precision == BY_COMPILER:
            # in one piece, since what falls apart would neither be fused nor captured
            ready.compile(fullgraph=True, dynamic=False)
        return cls(ready, channels, temperature, shortened, location, device, channels)

    @property
    def dtype(self) -> torch.dtype:
        """Of the features: bf16 arithmetic rounds them first thing, so they may as well travel so."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def __call__(self, features: Tensor, *location: Tensor) -> Tensor:
        """Probabilities (n, h, w, k) float32 of features (n, ``filled``, h, w)."""
        short = self.precision == "bf16"
        # without autocast's cache of shortened weights, which would have to outlive a graph; they are short
        with torch.autocast(self.device.type, torch.bfloat16, enabled=short, cache_enabled=False):
            logits = self.model(features, *location)
        if isinstance(self.model, FusedCryoNet):
            return self.model.probabilities(logits, self.temperature)
        last = logits.float().permute(0, 2, 3, 1) / self.temperature
        return torch.softmax(last, dim=-1).contiguous()


class Served:
    """A network at one shape of batch: fill ``tiles`` (and ``codes``), ``run``, read the answer.

    Attributes:
        tiles: (n, h, w, ``network.filled``), standardised, 0 for what is missing; zeros to begin with.
        codes: location codes (n, 4), or None.
        captured: whether a call replays a graph.
    """

    def __init__(self, network: Network, batch: int, tile_px: int) -> None:
        self._network = network
        shape = (batch, tile_px, tile_px, network.filled)
        self.tiles = torch.zeros(shape, dtype=network.dtype, device=network.device)
        self.codes = torch.zeros((batch, LOCATION), device=network.device) if network.location else None
        self._answer: Tensor | None = None
        self._graph: Any = None
        if network.device.type == "cuda":
            self._capture()

    @property
    def batch(self) -> int:
        """Tiles a call."""
        return self.tiles.shape[0]

    @property
    def captured(self) -> bool:
        """Whether a call replays a graph."""
        return self._graph is not None

    def run(self) -> Tensor:
        """Probabilities (n, h, w, k) float32; of use until the next call, which may overwrite them."""
        if self._graph is None:
            return self._eager()
        self._graph.replay()
        assert self._answer is not None  # a graph has one
        return self._answer

    def _eager(self) -> Tensor:
        codes = () if self.codes is None else (self.codes,)
        seek = self._network.precision == "bf16"
        with torch.inference_mode(), arithmetic(self._network.device, seek=seek):
            # a view: channels last is how (n, h, w, c) lies in memory
            return self._network(self.tiles.permute(0, 3, 1, 2), *codes)

    def _capture(self) -> None:
        """Record one call as a graph; a network that cannot be recorded runs call by call.

        Raises:
            torch.OutOfMemoryError: as it is, or as the context of what capturing raises after it.
        """
        device = self._network.device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._eager()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads of a worker may call CUDA meanwhile; where the end of a capture fails, torch does
            # not leave the stream that it was on
            with (
                torch.cuda.stream(aside),
                torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"),
            ):
                self._answer = self._eager()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if _is_short(error):
                raise
            log.warning("the network cannot be captured as a graph and runs call by call: %s", error)
            self._answer = None
            return
        self._graph = graph


class ServedTiles:
    """What is served as a callable of arrays, for the gate and for measuring: (n, c, h, w) to (n, k, h, w).

    Args:
        network: made ready.
        mean: (c,) of the features, physical units.
        std: (c,) likewise.
        batch: tiles a call of the network, halved where a device's memory does not suffice; what is given
            is filled up to a multiple of it.
    """

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float], batch: int) -> None:
        self.network, self.batch = network, batch
        self._mean, self._std = (
            torch.tensor(of, dtype=torch.float32, device=network.device)[:, None, None] for of in (mean, std)
        )
        self._served: Served | None = None

    def __call__(
        self, features: NDArray[np.float32], location: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """Probabilities (n, k, h, w) float32 of features (n, c, h, w) and location codes (n, 4)."""
        with on(self.network.device):
            return self._answers(features, location)

    def _answers(
        self, features: NDArray[np.float32], location: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        size = features.shape[2]
        if self._served is None or self._served.tiles.shape[1] != size:
            self._served = None  # its memory first
            self._served = self._fitting(size)
        served, answers = self._served, []
        for start in range(0, len(features), self.batch):
            part = torch.from_numpy(np.ascontiguousarray(features[start : start + self.batch]))
            x = standardised(part.to(self._mean.device), self._mean, self._std)
            served.tiles[: len(part), ..., : self.network.channels] = x.permute(0, 2, 3, 1)
            if served.codes is not None and location is not None:
                codes = torch.from_numpy(location[start : start + self.batch])
                served.codes[: len(part)] = codes.to(served.codes.device)
            answers.append(served.run()[: len(part)].permute(0, 3, 1, 2).cpu().numpy())
        return np.ascontiguousarray(np.concatenate(answers))

    def _fitting(self, tile_px: int) -> Served:
        """The network at the largest shape of batch that the device's memory suffices for."""
        while True:
            try:
                return Served(self.network, self.batch, tile_px)
            except RuntimeError as error:
                if self.batch == 1 or not _is_short(error):
                    raise
            # outside the handler, whose traceback would keep the failed batch's memory alive
            self.batch //= 2
            torch.cuda.empty_cache()

    def seconds_a_tile(self) -> float:
        """How long the network alone takes for a tile of the batch that it saw last.

        From arrays to arrays most of the time goes into copying tiles from host memory and back (0.7 ms a
        tile beside 0.3 of the full CryoNet on an H200), which no block does: there every pixel crosses once.
        """
        served = self._served
        if served is None:
            raise RuntimeError("no batch has been seen yet")
        took = []
        for _ in range(TIMED):
            begun = time.perf_counter()
            with on(self.network.device):
                served.run()
            if self._mean.is_cuda:
                torch.cuda.synchronize(self._mean.device)
            took.append(time.perf_counter() - begun)
        return float(np.median(took)) / self.batch


def _is_short(error: RuntimeError) -> bool:
    """Whether memory did not suffice; where that ended a capture, which raises an error of its own, too."""
    return any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__context__))
