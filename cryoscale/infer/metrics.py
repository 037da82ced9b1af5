"""What this process's actor has done, as metrics for Prometheus.

Every Dask worker shows the default registry of the library ``prometheus_client`` at ``/metrics`` of the HTTP
server that it has anyhow (``distributed.http.worker.prometheus``), where that library is installed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Counts(Protocol):
    """An actor that says what it has done."""

    def stats(self) -> Mapping[str, float]:
        """Its counts by name."""


COUNTERS = {
    "blocks": ("cryoscale_actor_blocks", "Blocks predicted."),
    "tiles": ("cryoscale_actor_tiles", "Tiles that the model saw."),
    "tiles_skipped": ("cryoscale_actor_tiles_skipped", "Tiles without a pixel to predict."),
    "pixels": ("cryoscale_actor_pixels", "Pixels predicted."),
    "memory_retries": ("cryoscale_actor_memory_retries", "Batches halved since memory ran out."),
    "busy_s": ("cryoscale_actor_busy_seconds", "Seconds in which a block was being predicted."),
    "idle_s": ("cryoscale_actor_idle_seconds", "Seconds in which none was, the model being loaded."),
}


class _Shown:
    """A collector for whichever actor is the latest of its process; an actor that is gone is let go."""

    def __init__(self) -> None:
        self.actor: Any = lambda: None

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        actor = self.actor()
        if actor is None:
            return
        stats = actor.stats()
        for name, (metric, told) in COUNTERS.items():
            yield CounterMetricFamily(metric, told, value=stats[name])
        yield GaugeMetricFamily(
            "cryoscale_actor_load_seconds", "Seconds that loading the model took.", value=stats["load_s"]
        )


_shown: _Shown | None = None


def show_metrics(actor: Counts) -> None:
    """Show what ``actor`` does in this process's default registry, where there is the library."""
    global _shown
    if _shown is None:
        try:
            import prometheus_client
        except ImportError:
            return
        _shown = _Shown()
        prometheus_client.REGISTRY.register(_shown)
    _shown.actor = weakref.ref(actor)
