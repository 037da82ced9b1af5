"""What this machine can do at most: bytes copied and numbers multiplied a second, measured now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import rounded

_COPY_BYTES = 2**28
_EDGE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Limits:
    """Of one machine with so many threads.

    Attributes:
        device: "cpu" or "cuda".
        threads: CPU threads that multiply.
        copy_gb_s: bytes read and written a second by one thread that copies 256 MiB, 1e9.
        matmul_tflops: floating point operations a second of a large square product, 1e12, by precision: the
            quicker of two libraries, as torch's own for matrices is slow on processors of other makers.
    """

    device: str
    threads: int
    copy_gb_s: float
    matmul_tflops: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "device": self.device,
            "threads": self.threads,
            "copy_gb_s": rounded(self.copy_gb_s),
            "matmul_tflops": {name: rounded(value) for name, value in self.matmul_tflops.items()},
        }


def measure_limits(device: str) -> Limits:
    """Copying in host memory by one thread; products on ``device`` ("cpu" or "cuda") by all of them."""
    import torch

    source = np.ones(_COPY_BYTES // 8)
    target = np.empty_like(source)
    copied = seconds(lambda: np.copyto(target, source))
    products = {
        "fp32": _matmul_tflops(device, torch.float32),
        "bf16": _matmul_tflops(device, torch.bfloat16),
    }
    return Limits(device, torch.get_num_threads(), 2 * _COPY_BYTES / copied / 1e9, products)


def _matmul_tflops(device: str, dtype: Any) -> float:
    import torch
    from torch.nn.functional import conv2d

    from cryoscale.models.serving import arithmetic

    edge = _EDGE[device]
    left, right = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    out = torch.empty(edge, edge, device=device, dtype=dtype)
    # the same product as a convolution of 1 x 1, by the library that does convolutions
    pixels = left.reshape(1, edge, edge, 1).permute(0, 2, 1, 3)
    weights = right.reshape(edge, edge, 1, 1)

    def as_matrices() -> None:
        torch.mm(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    def as_convolution() -> None:
        conv2d(pixels, weights)
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode(), arithmetic(torch.device(device)):
        best = min(seconds(as_matrices), seconds(as_convolution))
    return 2 * edge**3 / best / 1e12
