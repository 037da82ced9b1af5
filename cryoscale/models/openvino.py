"""A network run by OpenVINO: on a CPU the quickest way through convolutions, with weights in bf16 if wanted.

The network is traced once a shape and compiled for it, with as many threads as torch has at that moment and
in one stream, so that a tile's answer is the same to the last bit at every call in every process of a
machine. Between machines it is not: kernels are chosen by what the processor can do.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch

from cryoscale.errors import ExtraError

if TYPE_CHECKING:
    from torch import Tensor

TYPES = {"fp32": "f32", "bf16": "bf16"}
"""Precisions by OpenVINO's names for them."""


def is_installed() -> bool:
    """Whether the library is there."""
    from importlib.util import find_spec

    try:
        return find_spec("openvino") is not None
    except ValueError:  # found before and taken away
        return False


def require() -> None:
    """Go on only where the library is there.

    Raises:
        ExtraError: it is not.
    """
    if not is_installed():
        raise ExtraError("precision openvino", "OpenVINO", "pip install 'cryoscale[cpu]'")


def _library() -> Any:
    """OpenVINO, which here tells nobody that it is used.

    At its import and with every network it reports that to a host of its maker's, from a process that it
    forks off this one with all its threads (openvino 2026.4, ``openvino_telemetry``). A run's traffic is the
    user's to choose; and such a fork can stand still for ever, seen where scipy's Fourier transforms had
    threads, which it has to end before, while it holds the interpreter. Without the module that reports,
    OpenVINO goes on without.
    """
    if "openvino" not in sys.modules:  # whoever imported it before has chosen
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class OpenVinoNetwork:
    """The network ``model`` as a callable of the same tensors, on the CPU.

    Args:
        model: in evaluation mode, with float32 weights on the CPU.
        precision: "fp32" or "bf16", of the arithmetic; tensors in and out are float32.

    Raises:
        ExtraError: OpenVINO is not installed.
    """

    def __init__(self, model: torch.nn.Module, precision: str) -> None:
        require()
        self._model, self._type = model, TYPES[precision]
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the network makes of its inputs; the first call of a shape compiles."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes not in self._requests:
            self._requests[shapes] = self._compile(inputs)
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        answer = self._requests[shapes].infer(arrays, share_inputs=True)[0]
        return torch.from_numpy(answer.copy())

    def _compile(self, inputs: tuple[Tensor, ...]) -> Any:
        openvino = _library()
        # tensors of their own: those of inference mode cannot be traced
        examples = tuple(torch.zeros(tensor.shape) for tensor in inputs)
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            # what a network asks of its input's shape is a constant of the trace, as it should be
            warnings.simplefilter("ignore")
            graph = openvino.convert_model(
                self._model, example_input=examples, input=[tuple(tensor.shape) for tensor in inputs]
            )
        compiled = openvino.Core().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self._type,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        return compiled.create_infer_request()
