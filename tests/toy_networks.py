"""Small networks whose batch norms do something and whose answers are unsure, as trained ones' are."""

from __future__ import annotations

from typing import Any

import torch

from cryoscale.models.cryonet import CryoNet
from cryoscale.models.glavitu import GlaViTU
from cryoscale.models.predictor import Predictor
from cryoscale.models.weights import Card

CHANNELS = ("B02", "B04", "slope")
CURVE = {"count": (9, 9, 9), "confidence": (0.1, 0.4, 0.8), "accuracy": (0.3, 0.6, 0.95)}


def stirred(net: torch.nn.Module) -> torch.nn.Module:
    """``net`` with drawn statistics in its batch norms, in evaluation mode."""
    torch.manual_seed(2)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0.0, 0.1)
    return net.eval()


class Convs(torch.nn.Module):
    """Three convolutions with norms: sees 3 pixels around, and takes no time."""

    tile_multiple = 8

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for inputs in (3, 8):
            layers += [torch.nn.Conv2d(inputs, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
        self.body = torch.nn.Sequential(*layers)
        self.segmentation_head = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.segmentation_head(self.body(x))
        return logits


def toy(kind: str = "convs", *, calibrated: bool = False, **keywords: Any) -> Predictor:
    """A predictor of three channels and four classes on the CPU unless told otherwise."""
    torch.manual_seed(1)
    arguments: dict[str, Any] = {"in_channels": 3, "classes": 4}
    if kind == "convs":
        net: torch.nn.Module = Convs()
    elif kind == "cryonet":
        arguments |= {"encoder": "resnet10w16", "decoder_channels": (16,) * 5}
        net = CryoNet(**arguments)
    else:
        more = {"width": 8, "blocks": 1, "heads": 2, "mlp": 8, "steps": 2, "tile_px": 64}
        arguments |= {"location": True, **more}
        net = GlaViTU(**arguments)
    head = net.segmentation_head
    (head if kind == "glavitu" else head[0]).weight.data.mul_(2.0 if kind == "convs" else 0.1)
    card = Card(
        architecture="glavitu" if kind == "glavitu" else "cryonet",
        arguments=arguments,
        channels=CHANNELS,
        mean=(0.3, 0.2, 20.0),
        std=(0.2, 0.1, 15.0),
        classes=tuple("abcd"),
        temperature=1.5,
        calibration=CURVE if calibrated else None,
    )
    return Predictor(stirred(net), card, **{"device": "cpu", "precision": "fp32", **keywords})
