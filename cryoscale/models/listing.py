"""What models there are: names, what each is, its arguments and how large it is."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, dataclass
from typing import Any

from cryoscale.errors import ExtraError
from cryoscale.models.loading import NAMES
from cryoscale.models.weights import ARCHITECTURES, architecture

DESCRIPTIONS: dict[str, str] = {
    "cryonet": "U-Net++ on ResNet-101 with scSE attention (Barzegar et al. 2026)",
    "unet": "U-Net on ResNet-101",
    "deeplabv3plus": "DeepLabV3+ on ResNet-101",
    "segformer": "SegFormer on Mix Transformer B2",
    "glavitu": "SETR and residual U-Net (Maslov et al. 2025)",
    "random-forest": "the classical learner, pixel by pixel",
    "band-ratio": "the classical method: thresholds, no weights",
}


@dataclass(frozen=True)
class ModelInfo:
    """A model as it is by default; ``parameters`` is None where ``needs`` names what is not installed."""

    name: str
    description: str
    arguments: dict[str, Any]
    parameters: int | None
    tile_multiple: int
    trained: bool
    needs: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.needs:
            size = f"needs {self.needs}"
        elif not self.parameters:
            size = "no parameters"
        else:
            size = f"{self.parameters / 1e6:.2f} M {'parameters' if self.trained else 'table entries'}"
        arguments = ", ".join(f"{name}: {json.dumps(value)}" for name, value in self.arguments.items())
        return f"{self.name:<15}{size:<22}{self.description}" + (
            f"\n{'':<15}{arguments}" if arguments else ""
        )


def list_models() -> list[ModelInfo]:
    """Every model that there is, with its default arguments; built without memory for its tensors."""
    by_name = [ModelInfo(name, DESCRIPTIONS[name], {}, 0, 1, False) for name in NAMES]
    return [*map(_describe, ARCHITECTURES), *by_name]


def _describe(name: str) -> ModelInfo:
    import torch

    from cryoscale.models.predictor import TILE_MULTIPLE, count_parameters

    network = architecture(name)
    arguments = {
        key: list(value.default) if isinstance(value.default, tuple) else value.default
        for key, value in inspect.signature(network).parameters.items()
    }
    needs, parameters, trained = None, None, True
    try:
        with torch.device("meta"):
            model = network()
        parameters, trained = count_parameters(model), any(True for _ in model.parameters())
    except ExtraError as error:
        needs = error.expected
    multiple = int(getattr(network, "tile_multiple", TILE_MULTIPLE))
    return ModelInfo(name, DESCRIPTIONS[name], arguments, parameters, multiple, trained, needs)
