"""What a run does, as metrics for Prometheus, served by its driver over HTTP.

Names and units follow https://prometheus.io/docs/practices/naming/. The numbers are those of one session:
Prometheus knows counters that begin anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cryoscale.errors import ExtraError, InputError

SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
"""Bounds of the histogram of a block's seconds: those of a GPU and those of a laptop."""


class RunMetrics:
    """Metrics that follow the events of a run, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

        self.registry = own = CollectorRegistry()
        self.run = Info("cryoscale_run", "The run and the session that drives it.", registry=own)
        self.planned = Gauge("cryoscale_blocks_planned", "Blocks of the run, all years.", registry=own)
        self.blocks = Counter(
            "cryoscale_blocks",
            "Blocks done in this session, skipped since done in an earlier one, and set aside in any.",
            ["state"],
            registry=own,
        )
        self.failed = Counter(
            "cryoscale_attempts_failed", "Attempts at blocks that failed.", ["error"], registry=own
        )
        self.pixels = Counter("cryoscale_pixels", "Pixels of the region in blocks done.", registry=own)
        self.stages = Counter(
            "cryoscale_stage_seconds", "Seconds of blocks done, by stage.", ["stage"], registry=own
        )
        self.seconds = Histogram(
            "cryoscale_block_seconds", "Seconds that a block took.", buckets=SECONDS, registry=own
        )
        self.in_flight = Gauge("cryoscale_in_flight", "Blocks handed to workers.", registry=own)
        self.actors = Gauge("cryoscale_actors", "Actors by state.", ["state"], registry=own)
        self.busy = Gauge(
            "cryoscale_actor_busy_ratio",
            "Share of the last minute in which an actor predicted.",
            ["actor"],
            registry=own,
        )
        self.lost = Counter("cryoscale_actors_lost", "Actors that went away with their worker.", registry=own)
        self.scenes = Counter("cryoscale_scenes_failed", "Scenes that could not be read.", registry=own)
        self.beats = Counter("cryoscale_lease_beats", "Beats of the driver's lease.", registry=own)
        for state in ("done", "skipped", "set_aside"):
            self.blocks.labels(state)
        self._scenes_failed: set[tuple[str, ...]] = set()

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Count what happened."""
        if name == "session_began":
            told = {key: str(facts[key]) for key in ("session", "host", "pid")}
            version = facts["versions"].get("cryoscale", "")
            self.run.info({**told, "run": facts["options"]["name"], "version": version})
        elif name == "planned":
            self.planned.set(facts["total"])
            for state in ("skipped", "set_aside"):
                self.blocks.labels(state).inc(facts[state])
        elif name == "block":
            self._block(facts)
        elif name in ("failed", "lost", "set_aside"):
            self.failed.labels(facts["error"]).inc()
            if name == "set_aside":
                self.blocks.labels(name).inc()
        elif name == "actor_lost":
            self.lost.inc()
        elif name == "beat":
            self._beat(facts)

    def _block(self, facts: Mapping[str, Any]) -> None:
        self.blocks.labels("done").inc()
        self.pixels.inc(facts["pixels"])
        for stage, seconds in facts["seconds"].items():
            self.stages.labels(stage).inc(seconds)
        self.seconds.observe(sum(facts["seconds"].values()))
        for scene in facts["scenes_failed"]:
            if tuple(scene) not in self._scenes_failed:
                self._scenes_failed.add(tuple(scene))
                self.scenes.inc()

    def _beat(self, facts: Mapping[str, Any]) -> None:
        self.beats.inc()
        self.in_flight.set(facts.get("in_flight", 0))
        for state, count in facts.get("actors_by_state", {}).items():
            self.actors.labels(state).set(count)
        self.busy.clear()  # an actor that is gone is busy no more
        for actor, told in facts.get("actors", {}).items():
            if "busy_share" in told:
                self.busy.labels(actor).set(told["busy_share"])


@contextmanager
def served(host: str, port: int) -> Iterator[tuple[RunMetrics, str]]:
    """Serve metrics of a run over HTTP in the body; also gives their address.

    Args:
        host: the interface to listen on.
        port: its port, 0 for any that is free.

    Raises:
        ExtraError: the library is not installed.
        InputError: nothing can listen there.
    """
    try:
        from prometheus_client import start_http_server
    except ImportError as error:
        raise ExtraError("--metrics-port", "the extra metrics", "pip install 'cryoscale[metrics]'") from error
    metrics = RunMetrics()
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--metrics-host {host} --metrics-port {port} ({error})",
            "an interface of this machine and a free port",
            "give another, or port 0 for any that is free",
        ) from error
    shown = f"[{host}]" if ":" in host else host
    try:
        yield metrics, f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5.0)
