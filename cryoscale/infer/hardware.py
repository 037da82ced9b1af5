"""What an actor asks of torch, which it may well not have loaded."""

from __future__ import annotations

import logging
import platform
import sys
from typing import Any

log = logging.getLogger("cryoscale")


def is_out_of_memory(error: BaseException | None) -> bool:
    """True for an allocation that failed on the device or the host, or what was raised on its account.

    A graph that runs out of memory while it is captured ends in an error of its own.
    """
    torch = sys.modules.get("torch")
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error is not None


def let_go_of_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            # before torch 2.13 a capture that failed leaves its books open, and it refuses from then on:
            # https://github.com/pytorch/pytorch/pull/180395
            log.warning("a GPU's memory stays with torch: %s", " ".join(str(error).split())[:200])


def device_name(device: Any) -> str:
    """The name of a torch device as people know it: the GPU's product name, or the CPU's architecture."""
    if str(device).startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"cpu ({platform.processor() or platform.machine()})"
