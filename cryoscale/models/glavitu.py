"""GlaViTU: a transformer that sees the whole tile, then a residual U-Net; the whole network on this page.

The network of Maslov, Persello, Schellenberger and Stein (2025), https://doi.org/10.1038/s41467-024-54956-x.
Each modality is taken to ``width`` features and gated, and the modalities are summed; a vision transformer
with a convolutional decoder (SETR, Zheng et al. 2021, https://arxiv.org/abs/2012.15840) adds what lies far
away, and a residual U-Net adds the detail. Where this page is silent in the paper, we chose: convolutions
before a batch norm carry no bias (it would change nothing), the U-Net doubles its maps with transposed
convolutions, leaky ReLUs have slope 0.2, and the location code's MLP has no batch norm, so that it also
trains on a batch of one place.

Shapes in comments are those of the published size on a 384-pixel tile; h is 384.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cryoscale.errors import InputError

PATCH = 16
"""Edge of a token in pixels; height and width of a tile are multiples of it."""

SLOPE = 0.2
"""Of the leaky ReLUs on their negative side."""

LOCATION = 4
"""Length of a location code: sine and cosine of latitude and of longitude."""

MODALITIES: tuple[tuple[int, ...], ...] = (
    (*range(16), 20, *range(24, 30)),  # optical: bands, indices, texture, PCA, tasselled cap
    (16,),  # thermal
    (17, 18, 19),  # terrain
    (21,),  # velocity
    (22, 23),  # radar interferometry
)
"""Channels of each modality in the stack of 30, counted from 0."""


class TwoConvs(nn.Module):
    """Twice 3x3 convolution, batch norm, leaky ReLU; then whole maps dropped out."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h, w)."""
        x = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE)
        y: Tensor = self.dropout(F.leaky_relu(self.bn2(self.conv2(x)), SLOPE))
        return y


# --- fusion -------------------------------------------------------------------------------------


class Branch(nn.Module):
    """One modality to features, times a gate a feature that is drawn from their means over the tile."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.convs = TwoConvs(inputs, width, dropout)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, width, h, w)."""
        x = self.convs(x)
        y: Tensor = x * self.gate(x)
        return y


class Fusion(nn.Module):
    """Each modality's channels through a branch of its own; the sum of the branches."""

    def __init__(self, modalities: Sequence[Sequence[int]], width: int, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(len(channels), width, dropout) for channels in modalities)
        self.runs = [_runs(channels) for channels in modalities]

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, width, h, w)."""
        parts = [branch(_taken(x, runs)) for branch, runs in zip(self.branches, self.runs, strict=True)]
        return torch.stack(parts).sum(0)


def _runs(channels: Sequence[int]) -> list[tuple[int, int]]:
    """First and end of what lies side by side, in the order of ``channels``.

    A list of channels would be sent to a GPU at every call, during which no graph can be captured.
    """
    found: list[tuple[int, int]] = []
    for channel in channels:
        if found and found[-1][1] == channel:
            found[-1] = found[-1][0], channel + 1
        else:
            found.append((channel, channel + 1))
    return found


def _taken(x: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """Some channels of (n, c, h, w), where they lie if they are one run."""
    cut = [x[:, first:end] for first, end in runs]
    return cut[0] if len(cut) == 1 else torch.cat(cut, dim=1)


# --- transformer --------------------------------------------------------------------------------


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, t, width) to the same."""
        n, count, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, t, width / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(attended.transpose(1, 2).reshape(n, count, width))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class SETR(nn.Module):
    """Tokens of 16 x 16 pixels through ``blocks`` of attention, and back to pixels in four doublings.

    Places are learnt on a grid of ``grid`` x ``grid`` tokens; for tiles of another size the grid is
    interpolated, as is usual since Dosovitskiy et al. (2021), https://arxiv.org/abs/2010.11929.
    """

    def __init__(self, width: int, blocks: int, heads: int, mlp: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Conv2d(width, width, PATCH, PATCH)
        self.places = nn.Parameter(torch.empty(1, width, grid, grid))
        self.blocks = nn.Sequential(*(Block(width, heads, mlp, dropout) for _ in range(blocks)))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same."""
        x = self.embed(x)  # (n, 64, h/16, w/16)
        n, width, rows, cols = x.shape
        x = (x + self.places_for(rows, cols)).flatten(2).transpose(1, 2)  # (n, 576, 64)
        x = self.blocks(x).transpose(1, 2).reshape(n, width, rows, cols)
        for stage in self.stages:  # h/16, h/8, h/4, h/2
            x = F.interpolate(stage(x), scale_factor=2.0, mode="bilinear")
        return x

    def places_for(self, rows: int, cols: int) -> Tensor:
        """The learnt places (1, width, rows, cols)."""
        if self.places.shape[2:] == (rows, cols):
            return self.places
        # In float32 also under autocast: bicubic weights in bf16 would shift every token of a tile.
        return F.interpolate(self.places.float(), size=(rows, cols), mode="bicubic", align_corners=False)


# --- residual U-Net -----------------------------------------------------------------------------


class Residual(nn.Module):
    """Two convolutions, plus a projection of the input to as many features."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.convs = TwoConvs(inputs, outputs, dropout)
        self.projection = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h, w)."""
        y: Tensor = self.projection(x) + self.convs(x)
        return y


class ResUNet(nn.Module):
    """``steps`` halvings, each with twice the features, and back over the skips to ``width`` features."""

    def __init__(self, width: int, steps: int, dropout: float) -> None:
        super().__init__()
        widths = [width * 2**step for step in range(steps + 1)]
        inputs = [width, *widths[:-1]]
        self.down = nn.ModuleList(Residual(a, b, dropout) for a, b in zip(inputs, widths, strict=True))
        back = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.rise = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarse, fine, 2, 2, bias=False), nn.BatchNorm2d(fine))
            for coarse, fine in back
        )
        self.up = nn.ModuleList(Residual(2 * fine, fine, dropout) for _, fine in back)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):  # 64 at h, 128 at h/2, 256 at h/4, 512 at h/8
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for rise, block, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([rise(x), skip], dim=1))
        y: Tensor = self.out(x)
        return y


# --- the network --------------------------------------------------------------------------------


class GlaViTU(nn.Module):
    """Standardised features (n, c, h, w) to class logits (n, k, h, w); h, w multiples of 16.

    While training, and with ``deep_supervision``, it answers with a pair: the logits, and those of a
    second head before the U-Net, whose loss counts ``auxiliary_weight``.

    Args:
        in_channels: number of channels c.
        classes: number of classes k.
        width: features of the fusion, the tokens and the first level of the U-Net.
        blocks: attention blocks; with ``heads`` each, and hidden layers of ``mlp``.
        heads: of the attention; must divide ``width``.
        mlp: hidden width of the blocks' MLP.
        steps: halvings in the U-Net, 1 to 4.
        tile_px: edge of the tiles that it is trained on: sets the grid of learnt places.
        dropout: in [0, 1).
        deep_supervision: whether to have the second head.
        location: whether ``forward`` takes a location code (n, 4) too.
        modalities: channels (counted from 0) of each modality; every channel in exactly one. By default
            those of the stack of 30 channels, and for another number all channels as one.

    Raises:
        InputError: for arguments that make no network.
    """

    tile_multiple = PATCH
    needs_halo = True
    auxiliary_weight = 0.5

    def __init__(
        self,
        in_channels: int = 30,
        classes: int = 5,
        width: int = 64,
        blocks: int = 12,
        heads: int = 4,
        mlp: int = 256,
        steps: int = 3,
        tile_px: int = 384,
        dropout: float = 0.1,
        deep_supervision: bool = True,
        location: bool = False,
        modalities: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if modalities is None:
            modalities = MODALITIES if in_channels == 30 else [range(in_channels)]
        _refuse_modalities(modalities, in_channels)
        if width < 1 or heads < 1 or width % heads:
            given = f"a width of {width} and {heads} heads"
            raise InputError(given, "heads that divide the width", "change one of them")
        if tile_px < PATCH or tile_px % PATCH:
            raise InputError(f"tile_px {tile_px}", f"a multiple of {PATCH}", "choose another tile_px")
        if not 1 <= steps <= 4:
            raise InputError(f"{steps} steps", "1 to 4 halvings", "choose another number of steps")
        if not 0 <= dropout < 1 or blocks < 1 or mlp < 1:
            given = f"dropout {dropout}, {blocks} blocks, mlp {mlp}"
            raise InputError(given, "a dropout in [0, 1), and 1 or more of the others", "correct them")
        self.needs_location = location
        self.fusion = Fusion(modalities, width, dropout)
        if location:
            self.place = nn.Sequential(
                nn.Linear(LOCATION, width),
                nn.LeakyReLU(SLOPE),
                nn.Linear(width, width),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(dropout),
            )
        self.encoder = SETR(width, blocks, heads, mlp, tile_px // PATCH, dropout)
        self.decoder = ResUNet(width, steps, dropout)
        self.segmentation_head = nn.Conv2d(width, classes, 1)
        self.auxiliary_head = nn.Conv2d(width, classes, 1) if deep_supervision else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights for training from scratch."""
        nn.init.trunc_normal_(self.encoder.places, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, location: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """(n, c, h, w), and location codes (n, 4) where wanted, to (n, k, h, w); to a pair in training."""
        height, width = x.shape[-2:]
        if height % PATCH or width % PATCH:
            given, expected = f"tiles of {height} x {width} pixels", f"multiples of {PATCH}"
            raise InputError(given, expected, "choose another tile size")
        if (location is not None) != self.needs_location:
            given = "no location" if location is None else "a location for a network without location code"
            expected = f"locations (n, {LOCATION})" if self.needs_location else "features alone"
            raise InputError(given, expected, "give what the network was made for")
        fused = self.fusion(x)  # (n, 64, h, w)
        if location is not None:
            fused = fused + self.place(location)[:, :, None, None]
        seen = fused + self.encoder(fused)
        logits = cast(Tensor, self.segmentation_head(seen + self.decoder(seen)))
        if self.training and self.auxiliary_head is not None:
            return logits, self.auxiliary_head(seen)
        return logits


def _refuse_modalities(modalities: Sequence[Sequence[int]], in_channels: int) -> None:
    named = sorted(channel for channels in modalities for channel in channels)
    if named != list(range(in_channels)) or not all(len(channels) for channels in modalities):
        given = f"modalities {[list(channels) for channels in modalities]}"
        expected = f"each of the channels 0 to {in_channels - 1} in exactly one"
        raise InputError(given, expected, "correct the modalities")
