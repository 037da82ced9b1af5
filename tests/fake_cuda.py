"""What CUDA offers beside tensors, on a CPU: streams that keep order, events, graphs, page-locked memory.

It shows that calls are made, with the right arguments and in an order that is sound, and nothing of how CUDA
answers: tests/unit/test_device_cuda.py is for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class FakeCuda:
    """Stands in for parts of ``torch.cuda``; ``log`` has the calls, ``at_end`` what a capture raises."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, Any]] = []
        self.at_end: list[BaseException] = []
        fake, empty = self, torch.empty

        class Stream:
            def __init__(self, device: Any = None, priority: int = 0) -> None:
                self.priority = priority
                fake.log.append(("stream", self))

            def wait_stream(self, other: Any) -> None:
                fake.log.append(("wait", other))

        class Event:
            def record(self, stream: Any) -> None:
                fake.log.append(("record", self))

            def synchronize(self) -> None:
                fake.log.append(("synchronize", self))

        class CUDAGraph:
            def replay(self) -> None:
                fake.log.append(("replay", self))

        @contextmanager
        def during(*given: Any, **options: Any) -> Iterator[None]:
            yield

        @contextmanager
        def capturing(graph: Any, **options: Any) -> Iterator[None]:
            try:
                yield
            finally:
                if fake.at_end:
                    raise fake.at_end[0]

        current = Stream()
        self.log.clear()
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        patch.setattr(torch.cuda, "stream", during)
        patch.setattr(torch.cuda, "graph", capturing)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: current)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: fake.log.append(("settle", None)))
        patch.setattr(torch, "empty", lambda *shape, pin_memory=False, **more: empty(*shape, **more))

    def count(self, what: str) -> int:
        return sum(name == what for name, _ in self.log)
