"""A network as the callable that the tiling knows: physical features in, class probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from cryoscale.errors import InputError
from cryoscale.models import fused, openvino
from cryoscale.models.openvino import OpenVinoNetwork
from cryoscale.models.serving import (
    ARITHMETIC,
    BY_KERNELS,
    LOCATION,
    Network,
    Served,
    ServedTiles,
    arithmetic,
    standardised,
)
from cryoscale.models.weights import Card, serving_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE_MULTIPLE = 32
"""What a network's tiles must be a multiple of, unless it says otherwise: encoders halve five times."""

PRECISIONS = ("auto", "fp32", "bf16", "bf16-fused", "bf16-compiled", "openvino", "openvino-bf16")
"""How a network may be run: by torch in either precision; on a GPU with what lies between its convolutions
fused too, by our own kernels (CryoNet) or by torch's compiler; on a CPU by OpenVINO in float32 or bf16."""

BY_OPENVINO = {"openvino": "fp32", "openvino-bf16": "bf16"}
"""Those that are OpenVINO's, with the precision of their arithmetic."""


def choose_device(device: str) -> torch.device:
    """``auto`` (the GPU if there is one), or a device by torch's name for it.

    Raises:
        InputError: if the name is unknown or this machine has no such device.
    """
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r}", "auto, cpu, cuda or cuda:N", "name one of these") from None
    count = torch.cuda.device_count() if has_cuda else 0
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and (chosen.index or 0) >= count):
        given = f"device {device!r} on a machine with {count} usable GPUs"
        raise InputError(given, "a device that is there", "use auto or cpu")
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """One of ``PRECISIONS``; ``auto`` is bf16 on a GPU that has it, and fp32 elsewhere.

    Raises:
        InputError: if the name is unknown, or names what the device cannot do.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}", f"one of {', '.join(PRECISIONS)}", "name one of these")
    if precision in BY_OPENVINO and device.type != "cpu":
        given = f"precision {precision} on {device.type}"
        raise InputError(given, "a CPU for OpenVINO", "use bf16, fp32 or auto on a GPU")
    if precision in ARITHMETIC and device.type != "cuda":
        raise InputError(f"precision {precision} on {device.type}", "a GPU", "use auto, bf16 or fp32")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return precision


def quicker_on_cpus() -> list[str]:
    """Precisions that may be quicker than fp32 on the CPUs of this machine; whether they fit, weights decide.

    Those in bf16 only where the processor multiplies in it: emulated they are slower than fp32.
    """
    short = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    by_openvino = ["openvino-bf16", "openvino"] if openvino.is_installed() else []
    return [name for name in [*by_openvino, "bf16"] if short or not name.endswith("bf16")]


def count_parameters(model: torch.nn.Module) -> int:
    """Numbers that were learnt: the parameters, or, of a model without any, all its buffers."""
    return sum(p.numel() for p in model.parameters()) or sum(b.numel() for b in model.buffers())


class Predictor:
    """Features (n, c, h, w) float32 to class probabilities (n, k, h, w) float32.

    Features are in physical units with NaN for what is missing; the card's statistics standardise them,
    and what is missing becomes the training mean. On CPU an image's answer is bit-equal whatever
    else is in the batch, since images go through the network one by one (a larger batch gains nothing).
    It does depend on the number of threads, by some 1e-5: oneDNN and torch choose kernels by it. So all
    predictors of a run should have equally many; one each on as many cores is also the fastest.

    Args:
        model: a network that takes (n, c, h, w) to logits (n, k, h, w); it is put on the device and in
            evaluation mode. It may tell by attributes what it needs: ``tile_multiple`` (32 unless it says
            otherwise), ``needs_halo`` (False if it treats every pixel for itself), ``needs_location``,
            ``squeeze_px`` (of larger tiles its gates look at neighbourhoods of that edge).
        card: its card.
        device: auto, cpu, cuda or cuda:N.
        precision: one of ``PRECISIONS``; ``auto`` is ``bf16-fused`` for a CryoNet on a GPU that has bf16.
            What fuses does so where the network is served (:meth:`serve`); called, it runs as torch in bf16.
        threads: CPU threads that torch may use, for the whole process; None leaves them alone.

    Raises:
        ExtraError: for a precision whose library is not installed.
        InputError: for a device, precision or number of threads that cannot be had; when called, for
            another number of channels, a size that is not a multiple of ``tile_multiple``, or location codes
            that are absent where the network needs them, or given where it does not.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        card: Card,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        # OpenVINO means the CPU, also on a machine where auto would find a GPU
        self.device = choose_device("cpu" if device == "auto" and precision in BY_OPENVINO else device)
        self.precision = choose_precision(precision, self.device)
        if precision == "auto" and self.precision == "bf16" and fused.can_serve(model, self.device):
            self.precision = BY_KERNELS  # four times as quick where it is served
        if threads is not None:
            if threads < 1:
                raise InputError(f"{threads} threads", "1 or more", "give another number of threads")
            torch.set_num_threads(threads)
        self.card = card
        self.channels, self.classes = card.channels, card.classes
        self.pca: dict[str, Any] | None = card.pca.model_dump() if card.pca else None
        self.calibration = card.curve()
        self.tile_multiple = int(getattr(model, "tile_multiple", TILE_MULTIPLE))
        self.needs_halo = bool(getattr(model, "needs_halo", True))
        self.needs_location = bool(getattr(model, "needs_location", False))
        self.squeeze_px: int | None = getattr(model, "squeeze_px", None)
        # Measured on 2 cores: a sixth to a third faster than channels first.
        self.model = convert_conv2d_weight_memory_format(model.to(self.device).eval(), torch.channels_last)
        self._network: Callable[..., torch.Tensor] = self.model
        if self.precision in BY_OPENVINO:
            self._network = OpenVinoNetwork(self.model, BY_OPENVINO[self.precision])
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=self.device)[:, None, None]
        self._std = torch.tensor(card.std, dtype=torch.float32, device=self.device)[:, None, None]

    @property
    def on_device(self) -> bool:
        """Whether blocks are best cut, predicted, blended and encoded by the device, see :meth:`serve`."""
        return self.device.type == "cuda" and self.needs_halo

    @property
    def standard(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (c, 1, 1) of the channels, on the device."""
        return self._mean, self._std

    @cached_property
    def network(self) -> Network:
        """The network made ready for serving: a copy, in the same arithmetic but for its batch norms.

        Raises:
            InputError: OpenVINO runs it, by arrays alone.
        """
        if self.precision in BY_OPENVINO:
            given = f"precision {self.precision} for tensors on a device"
            raise InputError(given, "fp32 or bf16", "choose another precision")
        return Network.of(
            self.model, len(self.channels), self.card.temperature, self.precision, self.needs_location
        )

    def serve(self, batch: int, tile_px: int) -> Served:
        """The network for ``batch`` tiles of ``tile_px`` at a time, tensors in and out.

        Raises:
            InputError: as :attr:`network`.
            torch.OutOfMemoryError: the device has no room for so many.
        """
        return Served(self.network, batch, tile_px)

    def served_tiles(self, batch: int) -> ServedTiles:
        """The same as :meth:`serve`, of arrays of physical features; for the gate, and for measuring.

        Raises:
            InputError: as :attr:`network`.
        """
        return ServedTiles(self.network, self.card.mean, self.card.std, batch)

    def __call__(
        self, features: NDArray[np.float32], location: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """Probabilities (n, k, h, w) of features (n, c, h, w); they sum to 1 over k.

        ``location`` (n, 4) holds the tiles' :func:`cryoscale.grid.location_code`, where ``needs_location``.
        """
        self._refuse_misfit(features.shape, None if location is None else location.shape)
        # Arrays that came over a wire are often read-only, which torch does not know: W copies those.
        batch = [
            torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
            for array in (features, location)
            if array is not None
        ]
        # One by one on CPU: oneDNN picks its kernels and its split of the work by the whole batch's shape.
        size = 1 if self.device.type == "cpu" else len(features)
        with torch.inference_mode(), arithmetic(self.device):
            parts = zip(*(torch.split(array.to(self.device), size) for array in batch), strict=True)
            answers = [self._forward(*part) for part in parts]
        probabilities: NDArray[np.float32] = torch.cat(answers).cpu().numpy()
        return probabilities

    def _forward(self, features: torch.Tensor, *location: torch.Tensor) -> torch.Tensor:
        x = standardised(features, self._mean, self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.startswith("bf16")):
            logits = self._network(x, *location)
        return torch.softmax(logits.float() / self.card.temperature, dim=1).contiguous()

    def _refuse_misfit(self, shape: tuple[int, ...], location: tuple[int, ...] | None) -> None:
        if len(shape) != 4 or shape[0] < 1 or shape[1] != len(self.channels):
            expected = f"(n, {len(self.channels)}, h, w), the channels of the weights"
            raise InputError(f"features of shape {shape}", expected, "stack the channels that the card names")
        if min(shape[2:]) < 1 or shape[2] % self.tile_multiple or shape[3] % self.tile_multiple:
            given, expected = f"tiles of {shape[2]} x {shape[3]} pixels", f"multiples of {self.tile_multiple}"
            raise InputError(given, expected, "choose another tile size")
        wanted = (shape[0], LOCATION) if self.needs_location else None
        if location != wanted:
            given = "no location codes" if location is None else f"location codes of shape {location}"
            expected = f"codes of shape {wanted}, one a tile" if wanted else "features alone"
            raise InputError(given, expected, "give what the network was trained with")

    def describe(self) -> dict[str, Any]:
        """What a run's manifest records of the model."""
        return {
            "name": self.card.architecture,
            "sha256": self.card.sha256,
            "parameters": count_parameters(self.model),
            "precision": self.precision,
            "device": self.device.type,
            "channels": list(self.channels),
            "classes": list(self.classes),
            "temperature": self.card.temperature,
            "card": serving_digest(self.card),
            **({} if self.squeeze_px is None else {"squeeze_px": self.squeeze_px}),
        }
