"""The networks of the published comparison: U-Net, DeepLabV3+ and SegFormer, from a library.

They are those of segmentation-models-pytorch (https://smp.readthedocs.io, extra ``baselines``), with its
names and shapes of tensors, without pre-trained weights. Encoders are the library's own and, as
``tu-<name>``, those of timm; small ones for machines without a GPU are ``tu-resnet10t``,
``tu-mobilenetv3_small_050``, ``tu-test_resnet`` and ``mit_b0``. Names that would fetch something from
the net (``hf-hub:...``) are refused, since a card may come from anyone.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cryoscale.errors import ExtraError, InputError

LIBRARY = "segmentation_models_pytorch"

_DECLARED: list[torch.library.Library] = []  # schemas live as long as the object that declared them


def _declare_missing_operators() -> None:
    """Make torchvision importable where its binary part does not fit torch.

    timm imports torchvision, which describes its operators ``nms`` and ``qnms`` at import and fails where its
    binary part cannot be loaded, as that of a CUDA build beside a CPU build of torch (seen with torchvision
    0.28 and torch 2.13). Their schemas are all that it needs then, and no network here calls them.
    Where the binary part loads it brings them itself, and declaring them would make that fail: so it is
    tried first, in the way that torchvision tries it.
    """
    package = importlib.util.find_spec("torchvision")
    folders = package.submodule_search_locations if package else None
    binary = PathFinder.find_spec("_C", folders) if folders else None
    if binary is not None and binary.origin is not None:
        with suppress(OSError):
            torch.ops.load_library(binary.origin)
            return
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _DECLARED.append(library)


@cache
def library() -> Any:
    """The module segmentation_models_pytorch.

    Raises:
        ExtraError: if it is not installed.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        given = "an installation without segmentation-models-pytorch"
        raise ExtraError(given, "the extra baselines", "pip install 'cryoscale[baselines]'")
    _declare_missing_operators()
    try:
        return importlib.import_module(LIBRARY)
    except (
        ImportError,
        RuntimeError,
    ) as error:  # a part that it needs is absent, or is not one for this torch
        reason = " ".join(str(error).split())
        given = f"a segmentation-models-pytorch that cannot be imported ({reason})"
        raise ExtraError(given, "the extra baselines", "pip install 'cryoscale[baselines]'") from None


class _ScalesOnCpu(TorchFunctionMode):
    """The library reads the numbers of a ``linspace`` while it builds, which the meta device has not."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        more = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **more})


class _Baseline(nn.Module):
    """Standardised features (n, c, h, w) to class logits (n, k, h, w), by a network of the library."""

    tile_multiple = 32
    needs_halo = True
    needs_location = False

    def __init__(self, kind: str, in_channels: int, classes: int, encoder: str, **decoder: Any) -> None:
        super().__init__()
        smp = library()
        _refuse_encoder(encoder)
        device = torch.get_default_device()
        try:
            # Its first convolution is made on the CPU whatever the device; shapes alone must draw nothing.
            with _ScalesOnCpu(), torch.random.fork_rng(devices=[], enabled=device.type == "meta"):
                made = getattr(smp, kind)(
                    encoder, encoder_weights=None, in_channels=in_channels, classes=classes, **decoder
                )
        except (KeyError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200]
            given = f"{kind} with encoder {encoder!r} and {decoder} ({reason})"
            raise InputError(given, "arguments that make a network", "choose others") from None
        made = made.to(device)
        self.encoder, self.decoder, self.segmentation_head = (
            made.encoder,
            made.decoder,
            made.segmentation_head,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, k, h, w)."""
        height, width = x.shape[-2:]
        if height % self.tile_multiple or width % self.tile_multiple:
            given, expected = f"tiles of {height} x {width} pixels", f"multiples of {self.tile_multiple}"
            raise InputError(given, expected, "choose another tile size")
        y: Tensor = self.segmentation_head(self.decoder(self.encoder(x)))
        return y


class Unet(_Baseline):
    """U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) on an encoder.

    Args:
        in_channels: number of channels c.
        classes: number of classes k.
        encoder: a name that the library knows.
        decoder_channels: widths of its five decoder stages, coarsest first.

    Raises:
        ExtraError: if the library is not installed.
        InputError: for arguments that make no network.
    """

    def __init__(
        self,
        in_channels: int = 30,
        classes: int = 5,
        encoder: str = "resnet101",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__("Unet", in_channels, classes, encoder, decoder_channels=tuple(decoder_channels))


class DeepLabV3Plus(_Baseline):
    """DeepLabV3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611) on an encoder that halves four times.

    Args:
        in_channels: number of channels c.
        classes: number of classes k.
        encoder: a name that the library knows.
        decoder_channels: width of the pyramid pooling and of the decoder.
        atrous_rates: dilations of the pyramid, in pixels of the coarsest map.

    Raises:
        ExtraError: if the library is not installed.
        InputError: for arguments that make no network.
    """

    tile_multiple = 16

    def __init__(
        self,
        in_channels: int = 30,
        classes: int = 5,
        encoder: str = "resnet101",
        decoder_channels: int = 256,
        atrous_rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__(
            "DeepLabV3Plus",
            in_channels,
            classes,
            encoder,
            decoder_channels=decoder_channels,
            decoder_atrous_rates=tuple(atrous_rates),
        )


class SegFormer(_Baseline):
    """SegFormer (Xie et al. 2021, https://arxiv.org/abs/2105.15203) on a Mix Transformer.

    Args:
        in_channels: number of channels c.
        classes: number of classes k.
        encoder: mit_b0 (the smallest) to mit_b5, or another that the library knows.
        decoder_channels: width of the decoder.

    Raises:
        ExtraError: if the library is not installed.
        InputError: for arguments that make no network.
    """

    def __init__(
        self,
        in_channels: int = 30,
        classes: int = 5,
        encoder: str = "mit_b2",
        decoder_channels: int = 256,
    ) -> None:
        super().__init__(
            "Segformer", in_channels, classes, encoder, decoder_segmentation_channels=decoder_channels
        )


def _refuse_encoder(name: Any) -> None:
    """Raise unless it is an encoder of the library, or of timm by a plain name."""
    known = library().encoders.get_encoder_names()
    if name in known:
        return
    timm = importlib.import_module("timm")
    if isinstance(name, str) and name.startswith("tu-") and timm.is_model(name.removeprefix("tu-")):
        return
    expected = "resnet18, resnet101, mit_b0, mit_b2, tu-resnet10t or another of the library's"
    raise InputError(f"encoder {name!r}", expected, "name one of these")
