"""CryoNet: U-Net++ on a ResNet encoder with scSE attention; the whole network on this page.

The network of Barzegar, Bolch, Kuehtreiber and Ullo (2026), https://arxiv.org/abs/2605.21527, from
its parts: residual encoder (He et al. 2016, https://arxiv.org/abs/1512.03385), nested skip pathways
(Zhou et al. 2020, https://arxiv.org/abs/1912.05074) and concurrent spatial and channel squeeze and
excitation (Roy et al. 2019, https://arxiv.org/abs/1808.08127). Names and shapes of the tensors are those
of ``UnetPlusPlus(encoder, decoder_attention_type="scse")`` of segmentation-models-pytorch 0.6, so
that checkpoints pass both ways; that library is the oracle of the tests, not a dependency. On tiles
of up to 320 px answers are the same; on larger ones its gates look at the whole tile, and ours do not
(:class:`ScSE`).

Shapes in comments are those of ResNet-101 on a 256-pixel tile; h is 256, and h/2 means 128 x 128.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cryoscale.errors import InputError

TILE_MULTIPLE = 32
"""Height and width must be multiples of this: the encoder halves five times."""

SQUEEZE = 16
"""Reduction of the channel gates, and with it the fewest channels that a decoder block can have."""

SQUEEZE_PX = 256
"""The study's tiles, and so over how much ground its channel gates look."""


@dataclass(frozen=True)
class EncoderSpec:
    """A ResNet: kind of block, number of blocks in each of the four layers, width of the first."""

    bottleneck: bool
    layers: tuple[int, int, int, int]
    width: int = 64


ENCODERS: dict[str, EncoderSpec] = {
    "resnet18": EncoderSpec(False, (2, 2, 2, 2)),
    "resnet34": EncoderSpec(False, (3, 4, 6, 3)),
    "resnet50": EncoderSpec(True, (3, 4, 6, 3)),
    "resnet101": EncoderSpec(True, (3, 4, 23, 3)),
    # Light ones for machines without a GPU: the same code at a quarter to a half of the width.
    "resnet10w16": EncoderSpec(False, (1, 1, 1, 1), 16),
    "resnet10w24": EncoderSpec(False, (1, 1, 1, 1), 24),
    "resnet10w32": EncoderSpec(False, (1, 1, 1, 1), 32),
    "resnet18w16": EncoderSpec(False, (2, 2, 2, 2), 16),
    "resnet18w24": EncoderSpec(False, (2, 2, 2, 2), 24),
    "resnet18w32": EncoderSpec(False, (2, 2, 2, 2), 32),
}
"""Encoders by name: those of He et al. (2016), and light ones, ``w`` and their first width."""


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps h and w (up to its stride), without bias: batch norm follows."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


# --- encoder ------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """ReLU(x + f(x)), f of two 3x3 convolutions (basic) or of 1x1, 3x3, 1x1 (bottleneck)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            # The stride sits on the 3x3 (ResNet "v1.5"), as in torchvision.
            self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, outputs, 3), nn.BatchNorm2d(outputs)
        self.bottleneck = bottleneck
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        else:
            self.downsample = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h/stride, w/stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + self.downsample(x))


class Encoder(nn.Module):
    """A ResNet without its classifier; ``channels`` are those of its five outputs, finest first."""

    def __init__(self, in_channels: int, spec: EncoderSpec) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, spec.width, 7, 2), nn.BatchNorm2d(spec.width)
        widths = [spec.width * 2**index for index in range(4)]
        outputs = [width * 4 if spec.bottleneck else width for width in widths]
        self.channels = [spec.width, *outputs]

        def layer(index: int) -> nn.Sequential:
            first = ResidualBlock(self.channels[index], widths[index], 2 if index else 1, spec.bottleneck)
            same = range(spec.layers[index] - 1)
            others = (ResidualBlock(outputs[index], widths[index], 1, spec.bottleneck) for _ in same)
            return nn.Sequential(first, *others)

        self.layer1, self.layer2, self.layer3, self.layer4 = (layer(index) for index in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(n, c, h, w) to five maps, finest first."""
        stem = F.relu(self.bn1(self.conv1(x)))  # (n, 64, h/2, w/2)
        x = F.max_pool2d(stem, kernel_size=3, stride=2, padding=1)  # (n, 64, h/4, w/4)
        layer1 = self.layer1(x)  # (n, 256, h/4, w/4)
        layer2 = self.layer2(layer1)  # (n, 512, h/8, w/8)
        layer3 = self.layer3(layer2)  # (n, 1024, h/16, w/16)
        return [stem, layer1, layer2, layer3, self.layer4(layer3)]  # (n, 2048, h/32, w/32)


# --- decoder ------------------------------------------------------------------------------------


def squeeze_cells(size: Sequence[int], squeeze_px: int) -> tuple[int, int] | None:
    """Into how many cells a map (h, w) is parted for its gates, two to a neighbourhood; None: it is one."""
    down, across = (max(2, round(2 * int(length) / squeeze_px)) for length in size)
    return None if down == across == 2 else (down, across)


def squeeze(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """Means of (n, c, h, w) over neighbourhoods of two by two ``cells``, each half on the next."""
    return F.avg_pool2d(F.adaptive_avg_pool2d(x, cells), 2, 1)


def spread(gate: Tensor, size: Sequence[int]) -> Tensor:
    """Gates of neighbourhoods to (n, c, h, w): linear between their middles, and held out to the rim."""
    held = F.pad(gate, (1, 1, 1, 1), mode="replicate")
    return F.interpolate(held, size=[int(n) for n in size], mode="bilinear", align_corners=True)


class ScSE(nn.Module):
    """x * (channel gate) + x * (pixel gate): what to look at, plus where to look.

    A channel's gate hangs on its mean over the tile, so that on a tile of twice the edge the same weights
    meet means that they never learnt, and lakes go missing. Hence what is larger than ``squeeze_px``
    has a gate for each neighbourhood of about that edge, and between them what lies between. What is no more
    than a quarter larger has one gate, as the study's tiles have.

    Args:
        channels: c.
        squeeze_px: edge of the neighbourhoods, in pixels of the map.
    """

    def __init__(self, channels: int, squeeze_px: int = SQUEEZE_PX) -> None:
        super().__init__()
        self.squeeze_px = squeeze_px
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // SQUEEZE, 1),
            nn.ReLU(),
            nn.Conv2d(channels // SQUEEZE, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled():
            # oneDNN's bf16 backward of a 1x1 convolution as wide as the deepest gate (3072 channels) was
            # seen to write out of bounds in torch 2.13.0; the gates are cheap, so they train in fp32.
            with torch.autocast("cpu", enabled=False):
                wide = x.float()
                return self.attend(wide).to(x.dtype)
        return self.attend(x)

    def attend(self, x: Tensor) -> Tensor:
        """The same in the precision of ``x``; the gates are (n, c, 1 or h, 1 or w) and (n, 1, h, w)."""
        cells = squeeze_cells(x.shape[-2:], self.squeeze_px)
        channel = self.cSE(x) if cells is None else spread(self.cSE[1:](squeeze(x, cells)), x.shape[-2:])
        y: Tensor = x * channel + x * self.sSE(x)
        return y


def conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())


def attention(channels: int, squeeze_px: int) -> nn.Sequential:
    """scSE under the name that it has in a checkpoint."""
    return nn.Sequential(OrderedDict(attention=ScSE(channels, squeeze_px)))


class Node(nn.Module):
    """A node of the nested decoder: double the size, join the skips, attend, convolve twice."""

    def __init__(self, inputs: int, skips: int, outputs: int, squeeze_px: int) -> None:
        super().__init__()
        joined = inputs + skips
        self.conv1, self.attention1 = conv_norm_relu(joined, outputs), attention(joined, squeeze_px)
        self.conv2, self.attention2 = conv_norm_relu(outputs, outputs), attention(outputs, squeeze_px)

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """x (n, inputs, h, w) and skips (n, *, 2h, 2w) to (n, outputs, 2h, 2w)."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if skips:  # the last node has none; its attention1 is in checkpoints all the same
            x = self.attention1(torch.cat([x, *skips], dim=1))
        y: Tensor = self.attention2(self.conv2(self.conv1(x)))
        return y


class Decoder(nn.Module):
    """The nested grid: node (i, j) has the size of feature j+1, coarsest first, for i = j, ..., 0.

    Node (i, j) doubles node (i, j-1), or feature j where i = j, and joins to it the nodes
    (i+1, j), ..., (j, j) and feature j+1. Row 0 is the way to the output, with ``widths``; the
    others are the nested skips, each as wide as the feature of its size.
    """

    def __init__(self, features: Sequence[int], widths: Sequence[int], squeeze_px: int) -> None:
        super().__init__()
        self.last = len(features) - 1
        self.blocks = nn.ModuleDict()
        for j, (coarse, fine) in enumerate(pairwise(features)):
            for i in range(j + 1):
                inputs = widths[j - 1] if i == 0 and j > 0 else coarse
                outputs = widths[j] if i == 0 else fine
                seen = squeeze_px >> (self.last - j)  # the same ground on a map of h/16, h/8, h/4, h/2
                self.blocks[f"x_{i}_{j}"] = Node(inputs, (j - i + 1) * fine, outputs, seen)
        self.blocks[f"x_0_{self.last}"] = Node(widths[-2], 0, widths[-1], squeeze_px)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Five features, coarsest first, to (n, widths[-1], h, w)."""
        row: list[Tensor] = []  # row[i] is node (i, j-1); features[j] stands at its end, i = j
        for j, feature in enumerate(features[1:]):  # h/16 (1024), h/8 (512), h/4 (256), h/2 (64)
            row.append(features[j])
            skips = [feature]
            for i in range(j, -1, -1):
                row[i] = self.blocks[f"x_{i}_{j}"](row[i], skips)
                skips.insert(0, row[i])
        y: Tensor = self.blocks[f"x_0_{self.last}"](row[0], ())  # (n, 16, h, w)
        return y


# --- the network --------------------------------------------------------------------------------


class CryoNet(nn.Module):
    """Standardised features (n, c, h, w) to class logits (n, k, h, w); h, w multiples of 32.

    Args:
        in_channels: number of channels c.
        classes: number of classes k.
        encoder: a name in ``ENCODERS``; resnet101 is the paper's, 70.20 M parameters with the defaults.
        decoder_channels: widths of the five decoder stages, coarsest first, each 16 or more.
        squeeze_px: over how much ground a channel's gate looks, in pixels of the tile: of those that it
            learns from, a multiple of 32 (:class:`ScSE`).

    Raises:
        InputError: for an encoder, widths or a neighbourhood that do not exist.
    """

    tile_multiple = TILE_MULTIPLE

    def __init__(
        self,
        in_channels: int = 30,
        classes: int = 5,
        encoder: str = "resnet101",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        squeeze_px: int = SQUEEZE_PX,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise InputError(f"encoder {encoder!r}", f"one of {', '.join(ENCODERS)}", "name one of these")
        if len(decoder_channels) != 5 or min(decoder_channels) < SQUEEZE:
            given, expected = f"decoder widths {list(decoder_channels)}", f"five of {SQUEEZE} or more"
            raise InputError(given, expected, "give one width for each of the five stages")
        if squeeze_px < TILE_MULTIPLE or squeeze_px % TILE_MULTIPLE:
            given, expected = f"squeeze_px {squeeze_px}", f"a multiple of {TILE_MULTIPLE}"
            raise InputError(given, expected, "give the edge of the tiles that it learns from")
        self.squeeze_px = squeeze_px
        self.encoder = Encoder(in_channels, ENCODERS[encoder])
        self.decoder = Decoder(self.encoder.channels[::-1], decoder_channels, squeeze_px)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels[-1], classes, 3, padding=1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights for training from scratch: He et al. 2015, https://arxiv.org/abs/1502.01852."""
        if self.segmentation_head[0].weight.is_meta:
            return  # nothing to draw, and drawing it has torch import its compiler: a second of a processor
        for name, module in self.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            if name.startswith("encoder"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif name.startswith("decoder"):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k, h, w)."""
        height, width = x.shape[-2:]
        if height % TILE_MULTIPLE or width % TILE_MULTIPLE:
            given, expected = f"tiles of {height} x {width} pixels", f"multiples of {TILE_MULTIPLE}"
            raise InputError(given, expected, "choose another tile size")
        features = self.encoder(x)  # 64 at h/2, 256 at h/4, 512 at h/8, 1024 at h/16, 2048 at h/32
        logits: Tensor = self.segmentation_head(self.decoder(features[::-1]))
        return logits
