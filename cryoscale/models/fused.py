"""CryoNet for serving on a GPU: the same numbers, its maps read and written as rarely as can be.

Bound by memory as it stands (``python -m benchmarks.roofline``): joining and gating move more bytes than the
convolutions. Here the convolutions are cuDNN's and cuBLAS's, and what lies between them is in :mod:`gates`.
The means that a gate wants are had where a map is written, once for all nodes that join it; what has few
channels is filled up to multiples of eight, below which tensor cores do not work.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cryoscale.errors import InputError
from cryoscale.models import gates
from cryoscale.models.cryonet import CryoNet, Node, ResidualBlock, ScSE, squeeze_cells

log = logging.getLogger("cryoscale")

Gauged = tuple[Tensor, Tensor]
"""A map (n, c, h, w) with what gates want to know of it, its means as :func:`gates.mean` has them."""

MULTIPLE = 8
"""Of channels, for tensor cores: https://docs.nvidia.com/deeplearning/performance/dl-performance-convolutional"""


def can_serve(network: nn.Module, device: torch.device) -> bool:
    """Whether ``network`` is one of those, and kernels can be built for ``device`` on this machine."""
    return isinstance(network, CryoNet) and _can_build(device)


@lru_cache(maxsize=8)
def _can_build(device: torch.device) -> bool:
    """By building the smallest one: Triton wants a C compiler and Python's headers, which images may lack."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        tiny = torch.zeros(1, MULTIPLE, 1, 1, device=device)
        gates.double(tiny.contiguous(memory_format=torch.channels_last))
    except Exception as error:  # whatever a compiler, a loader or a driver may say
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("no kernels of our own can be built here, so that bf16 runs as torch has it: %s", reason)
        return False
    return True


class FusedCryoNet(nn.Module):
    """Standardised features (n, ``filled``, h, w), channels last, to logits (n, k filled up, h, w).

    The logits lack their bias, which :meth:`probabilities` adds on the way.

    Args:
        network: CryoNet in evaluation mode, its batch norms folded.
        dtype: of weights and maps; biases and gates stay float32.

    Attributes:
        filled: channels that it takes: those of the network, and zeros up to a multiple of eight.
        classes: how many of the answer's channels are classes.

    Raises:
        InputError: another network, or one whose norms could not be folded.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        if not isinstance(network, CryoNet):
            given = f"precision bf16-fused for a {type(network).__name__}"
            raise InputError(given, "a CryoNet", "use bf16-compiled, bf16 or auto")
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            given = "precision bf16-fused for a network whose batch norms cannot be folded"
            raise InputError(given, "norms that follow their convolutions", "use bf16 or auto")
        encoder, head = network.encoder, cast("nn.Conv2d", network.segmentation_head[0])
        self.classes = head.out_channels
        self.stem = _Conv(encoder.conv1, dtype, inputs=_up(encoder.conv1.in_channels))
        self.filled = self.stem.weight.shape[1]
        layers = (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)
        self.layers = nn.ModuleList(
            nn.Sequential(*(_Residual(cast("ResidualBlock", block), dtype) for block in layer))
            for layer in layers
        )
        self.last, self.squeeze_px = network.decoder.last, network.squeeze_px
        self.nodes = nn.ModuleDict(
            {name: _Node(cast("Node", node), dtype) for name, node in network.decoder.blocks.items()}
        )
        self.head = _Conv(head, dtype, outputs=_up(head.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, k, h, w) without their bias, k filled up to a multiple of eight."""
        cells = squeeze_cells(x.shape[-2:], self.squeeze_px)
        stem, x = gates.rectified_pool(self.stem(x), self.stem.bias)
        maps = [stem]
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        maps.reverse()
        row: list[Gauged] = []  # the grid of :class:`Decoder`
        features = [(level, gates.mean(level, cells=cells)) for level in maps]
        for j, feature in enumerate(features[1:]):
            row.append(features[j])
            skips = [feature]
            for i in range(j, -1, -1):
                row[i] = self.nodes[f"x_{i}_{j}"](row[i], skips, cells)
                skips.insert(0, row[i])
        y, _ = self.nodes[f"x_0_{self.last}"](row[0], (), cells)
        logits: Tensor = self.head(y)
        return logits

    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """Of what :meth:`forward` gives: (n, h, w, k) float32."""
        return gates.softmax(logits, self.head.bias, self.classes, temperature)


class _Conv(nn.Module):
    """A convolution whose bias is left to the step after it."""

    weight: Tensor
    bias: Tensor
    short_bias: Tensor

    def __init__(
        self, conv: nn.Conv2d, dtype: torch.dtype, *, inputs: int | None = None, outputs: int | None = None
    ) -> None:
        super().__init__()
        more = (
            (inputs or conv.in_channels) - conv.in_channels,
            (outputs or conv.out_channels) - conv.out_channels,
        )
        weight = F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, more[0], 0, more[1]))
        self.register_buffer("weight", weight.to(dtype, memory_format=torch.channels_last, copy=True))
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
        self.register_buffer("bias", F.pad(bias.to(weight.device), (0, more[1])))
        self.register_buffer("short_bias", self.bias.to(dtype))
        self.stride, self.padding = (
            cast("tuple[int, int]", conv.stride),
            cast("tuple[int, int]", conv.padding),
        )
        self.plain = conv.kernel_size == (1, 1) and self.stride == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Without the bias."""
        return F.conv2d(x, self.weight, None, self.stride, self.padding)

    def rectified(self, x: Tensor) -> Tensor:
        """``relu(conv(x) + bias)``; of 1 x 1 by the product's own epilogue."""
        if not self.plain:
            return gates.rectify_(self(x), self.bias)
        n, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, c)
        made = torch._addmm_activation(self.short_bias, pixels, self.weight.flatten(1).t())
        return made.view(n, h, w, -1).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """:class:`ResidualBlock`."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        convs = [block.conv1, block.conv2, *([block.conv3] if block.bottleneck else [])]
        self.first = nn.ModuleList(_Conv(conv, dtype) for conv in convs[:-1])
        self.second = _Conv(convs[-1], dtype)
        beside = [_Conv(cast("nn.Conv2d", conv), dtype) for conv in list(block.downsample)[:1]]
        self.beside = beside[0] if beside else None
        if self.beside is not None:  # both are added in one step
            self.second.bias += self.beside.bias

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h/stride, w/stride)."""
        y = x
        for conv in self.first:
            y = cast("_Conv", conv).rectified(y)
        beside = x if self.beside is None else self.beside(x)
        return gates.rectify_(self.second(y), self.second.bias, beside)


class _Gate(nn.Module):
    """The small networks of :class:`ScSE`."""

    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, scse: ScSE, dtype: torch.dtype) -> None:
        super().__init__()
        squeeze, excite = cast("nn.Conv2d", scse.cSE[1]), cast("nn.Conv2d", scse.cSE[3])
        pixel = cast("nn.Conv2d", scse.sSE[0])
        for name, conv in (("squeeze", squeeze), ("excite", excite)):
            assert conv.bias is not None  # scSE's convolutions have one
            self.register_buffer(name, conv.weight.detach().flatten(1).to(dtype).t().contiguous())
            self.register_buffer(f"{name}_bias", conv.bias.detach().to(dtype))
        assert pixel.bias is not None
        self.register_buffer("weight", pixel.weight.detach().flatten().float())
        self.register_buffer("offset", pixel.bias.detach().float())

    @property
    def pixel(self) -> gates.PixelGate:
        """What gates pixels."""
        return gates.PixelGate(self.weight, self.offset)

    def channel(self, means: Tensor) -> Tensor:
        """What the channels' sigmoid takes, of their means (..., c)."""
        hidden = torch._addmm_activation(self.squeeze_bias, means.flatten(0, -2), self.squeeze)
        return torch.addmm(self.excite_bias, hidden, self.excite).view_as(means)


class _Node(nn.Module):
    """:class:`Node`, of maps with their means."""

    def __init__(self, node: Node, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            _Conv(cast("nn.Conv2d", part[0]), dtype) for part in (node.conv1, node.conv2)
        )
        self.gate1, self.gate2 = (
            _Gate(cast("ScSE", part.attention), dtype) for part in (node.attention1, node.attention2)
        )

    def forward(self, low: Gauged, skips: Sequence[Gauged], cells: tuple[int, int] | None) -> Gauged:
        """(n, inputs, h, w) and skips (n, *, 2h, 2w) to (n, outputs, 2h, 2w)."""
        if skips:
            channel = self.gate1.channel(
                torch.cat([_doubled(low, cells), *(means for _, means in skips)], dim=-1)
            )
            x = gates.join(low[0], [skip for skip, _ in skips], self.gate1.pixel, channel)
        else:
            x = gates.double(low[0])
        y = self.conv2(self.conv1.rectified(x))
        channel = self.gate2.channel(gates.mean(y, self.conv2.bias, cells))
        return gates.attend(y, self.conv2.bias, self.gate2.pixel, channel, cells)


def _doubled(low: Gauged, cells: tuple[int, int] | None) -> Tensor:
    """Means of a map at twice its size: those of the map, unless cells part its pixels."""
    x, means = low
    parted = cells is not None and any(
        length % count for length, count in zip(x.shape[-2:], cells, strict=True)
    )
    return gates.mean(x, cells=cells, doubled=True) if parted else means


def _up(channels: int) -> int:
    """The multiple of eight that is not below."""
    return -(-channels // MULTIPLE) * MULTIPLE
